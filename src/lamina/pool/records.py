"""Name records: what a change of names leaves in a pack, so that packs alone bring every name back.

A record is JSON, cut into parts that are objects of kind NAMES:

    {"v": 2, "pool": guid, "txg": N, "part": [i, n], "after": KEY, "time": ns, "full": bool,
     "user": "...", "host": "...", "command": "...", "changes": [...]}

``after`` is the key of the part before, of this record or the last one: what no later part names, and is not the last,
did not happen (a crash between the pack's sync and the transaction; its ``txg`` is given again). A change holds whole
rows, roots as object keys:

    {"dataset": {...}}  {"snapshot": {...}}  {"bookmark": {...}}  {"dropped": ["dataset" | "snapshot" | "bookmark", id]}

A ``full`` record holds all rows and stands for everything before it, itself included: what is older may go. It is the
backup of the catalogue inside the pool, in two packs as all name records are. It also carries the end of the pool's
history, the newest first, as ``{"history": [[time, txg, user, host, command], ...]}``. What is the pool's own stands in
``{"pool": {"properties": {...}, "formerly": [guid, ...]}}``, whole as rows are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from lamina.errors import DamagedData, PropertyError

RECORD_VERSION = 2
PART_BYTES = 768 << 10
"""A part is cut at about this many bytes: an object is at most 1 MiB - 4 KiB."""
_MOST_BYTES = (1 << 20) - 4096


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes names, and with which words."""

    user: str = ""
    host: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class NameRecord:
    """One part of a record, read back; ``time`` in ns since 1970."""

    key: str
    pool: int
    txg: int
    part: int
    parts: int
    after: str | None
    time: int
    full: bool
    author: Author
    changes: list[dict[str, Any]] = field(default_factory=list)


def _packed(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def packed_size(value: object) -> int:
    """Bytes that a value takes in a record."""
    return len(_packed(value))


def make_record(
    changes: Sequence[dict[str, Any]], *, pool: int, txg: int, after: str | None, time: int, full: bool, author: Author
) -> list[bytes]:
    """The parts of a record, in order; the key of each is in the next. Raises ``PropertyError`` for a row too large."""
    groups: list[list[dict[str, Any]]] = [[]]
    size = 0
    for change in changes:
        length = len(_packed(change))
        if length > _MOST_BYTES - 16384:
            raise PropertyError("the properties of one dataset or snapshot take more than 1M; remove some first")
        if groups[-1] and size + length > PART_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(change)
        size += length + 1
    parts: list[bytes] = []
    for number, group in enumerate(groups):
        head = {
            "v": RECORD_VERSION,
            "pool": pool,
            "txg": txg,
            "part": [number, len(groups)],
            "after": after,
            "time": time,
            "full": full,
            "user": author.user,
            "host": author.host,
            "command": author.command[:4096],
        }
        parts.append(_packed({**head, "changes": group}))
        after = blake3(parts[-1]).hexdigest()
    return parts


def parse_record(data: bytes) -> NameRecord:
    """The part of a record in ``data``. Raises ``DamagedData`` where it is none of a version known here."""
    try:
        value = json.loads(data.decode("utf-8", "surrogatepass"))
        if value["v"] == 1:
            author, part, full, pool, time = Author(), [0, 1], False, 0, int(value["time"]) * 1_000_000_000
        elif value["v"] == RECORD_VERSION:
            author = Author(str(value["user"]), str(value["host"]), str(value["command"]))
            part, full, pool, time = value["part"], bool(value["full"]), int(value["pool"]), int(value["time"])
        else:
            raise DamagedData(f"a name record is of version {value['v']}, this lamina knows up to {RECORD_VERSION}")
        after = None if value["after"] is None else str(value["after"])
        changes = value["changes"]
        if not isinstance(changes, list) or not all(isinstance(change, dict) for change in changes):
            raise DamagedData("a name record is damaged")
        number, count = int(part[0]), int(part[1])
        key = blake3(data).hexdigest()
        return NameRecord(key, pool, int(value["txg"]), number, count, after, time, full, author, changes)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise DamagedData("a name record is damaged") from None
