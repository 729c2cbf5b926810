"""The rows that a name record holds: those that a change touched, or all of them; and who made the change."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from lamina.pool.records import Author, make_record, packed_size

if TYPE_CHECKING:
    from lamina.pool.catalogue import Catalogue, Change, DatasetRow, SnapshotRow
    from lamina.store.writer import PutNames

COMMAND_LENGTH = 4096
"""Characters of a command that are kept."""
_LEAST_NAMES = 256 << 10
"""Bytes of name records after which a full one may be due, however few names there are."""
_HISTORY_KEPT = 1000
"""Commands of the history that a full record carries."""
_HISTORY_BYTES = 256 << 10
_BOOKMARK = ("id", "dataset", "name", "guid", "creation", "txg")
PROPERTIES = ("comment", "images")
"""Properties of the pool as a whole; each is a row of ``meta``."""


def current_author(command: str | None) -> Author:
    """This process's user and host, where it says what its command is. ``user`` as zpool prints it: ``0 (root)``."""
    if command is None:
        return Author()
    import pwd
    import socket

    uid = os.geteuid()
    try:
        user = f"{uid} ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        user = str(uid)
    return Author(user, socket.gethostname(), command[:COMMAND_LENGTH])


def put_change(catalogue: "Catalogue", put_names: "PutNames", change: "Change") -> None:
    """Write the history's line and the name record of a change, and a full record where one is due or asked for."""
    author = current_author(catalogue.command)
    if author.command:
        add_history(catalogue, change.time, change.txg, author)
    _put(catalogue, put_names, list(_changed(catalogue, change)), change.txg, author, full=False)
    since, full = (int(catalogue.meta(name) or 0) for name in ("names_since", "names_full"))
    if change.full or since > _LEAST_NAMES + 2 * full:
        _put(catalogue, put_names, list(everything(catalogue)), change.txg, author, full=True)


def add_history(catalogue: "Catalogue", when: int, txg: int, author: Author) -> None:
    """A line of history, inside a transaction."""
    catalogue.database.execute(
        "INSERT INTO history(time, txg, user, host, command) VALUES (?, ?, ?, ?, ?)",
        (when, txg, author.user, author.host, author.command),
    )


def _put(
    catalogue: "Catalogue",
    put_names: "PutNames",
    changes: list[dict[str, Any]],
    txg: int,
    author: Author,
    *,
    full: bool,
) -> None:
    parts = make_record(
        changes,
        pool=int(catalogue.meta("guid") or 0),
        txg=txg,
        after=catalogue.meta("record"),
        time=time.time_ns(),
        full=full,
        author=author,
    )
    rows = put_names(parts)
    catalogue.set_meta("record", blake3(parts[-1]).hexdigest())
    size = sum(map(len, parts))
    if full:
        catalogue.set_meta("names_from", rows[0])
        catalogue.set_meta("names_full", size)
        catalogue.set_meta("names_since", 0)
    else:
        catalogue.set_meta("names_since", int(catalogue.meta("names_since") or 0) + size)


def _changed(catalogue: "Catalogue", change: "Change") -> Iterator[dict[str, Any]]:
    """The whole rows that a change touched."""
    properties = catalogue.local_properties() if change.datasets else {}
    for number in sorted(change.datasets):
        yield _dataset(catalogue, catalogue.dataset_by_id(number), properties.get(number, {}))
    for number in sorted(change.snapshots):
        local = catalogue.database.query("SELECT name, value FROM snapshot_property WHERE snapshot = ?", (number,))
        holds = catalogue.database.query("SELECT tag, creation FROM hold WHERE snapshot = ?", (number,))
        yield _snapshot(catalogue, catalogue.snapshot_by_id(number), dict(local), dict(holds))
    for number in sorted(change.bookmarks):
        yield from _bookmarks(catalogue, "WHERE id = ?", (number,))
    if change.pool:
        yield {"pool": pool_row(catalogue)}
    for item in change.dropped:
        yield {"dropped": list(item)}


def everything(catalogue: "Catalogue") -> Iterator[dict[str, Any]]:
    """All rows, for a full record."""
    properties, of_snapshots = catalogue.local_properties(), catalogue.snapshot_properties()
    holds: dict[int, dict[str, int]] = {}
    for snapshot, tag, creation in catalogue.database.query("SELECT snapshot, tag, creation FROM hold"):
        holds.setdefault(snapshot, {})[tag] = creation
    for row in catalogue.datasets():
        yield _dataset(catalogue, row, properties.get(row.id, {}))
    for snap in catalogue.snapshots():
        yield _snapshot(catalogue, snap, of_snapshots.get(snap.id, {}), holds.get(snap.id, {}))
    yield from _bookmarks(catalogue)
    own = pool_row(catalogue)
    if own:
        yield {"pool": own}
    yield from _history(catalogue)


def pool_row(catalogue: "Catalogue") -> dict[str, Any]:
    """What is the pool's own: the properties that are set, and guids that it had before."""
    properties = {name: catalogue.meta(name) for name in PROPERTIES}
    local = {name: value for name, value in properties.items() if value is not None}
    formerly = former_guids(catalogue)
    return {**({"properties": local} if local else {}), **({"formerly": formerly} if formerly else {})}


def former_guids(catalogue: "Catalogue") -> list[int]:
    """Guids that the pool had before; packs and name records of that time carry them."""
    return [int(guid) for guid in json.loads(catalogue.meta("formerly") or "[]")]


def _history(catalogue: "Catalogue") -> Iterator[dict[str, Any]]:
    rows = catalogue.database.query(
        "SELECT time, txg, user, host, command FROM history ORDER BY id DESC LIMIT ?", (_HISTORY_KEPT,)
    )
    some: list[list[Any]] = []
    size = 0
    for row in rows:
        some.append(list(row))
        size += packed_size(row)
        if size > _HISTORY_BYTES:
            yield {"history": some}
            some, size = [], 0
    if some:
        yield {"history": some}


def _dataset(catalogue: "Catalogue", row: "DatasetRow", properties: dict[str, str]) -> dict[str, Any]:
    return {"dataset": {**asdict(row), "head": _key(catalogue, row.head), "properties": properties}}


def _snapshot(
    catalogue: "Catalogue", row: "SnapshotRow", properties: dict[str, str], holds: dict[str, int]
) -> dict[str, Any]:
    return {"snapshot": {**asdict(row), "root": _key(catalogue, row.root), "properties": properties, "holds": holds}}


def _bookmarks(catalogue: "Catalogue", where: str = "", parameters: tuple[int, ...] = ()) -> Iterator[dict[str, Any]]:
    for row in catalogue.database.query(f"SELECT {', '.join(_BOOKMARK)} FROM bookmark {where}", parameters):
        yield {"bookmark": dict(zip(_BOOKMARK, row, strict=True))}


def _key(catalogue: "Catalogue", root: int | None) -> str | None:
    if root is None:
        return None
    key: bytes = catalogue.database.query("SELECT key FROM object WHERE id = ?", (root,))[0][0]
    return key.hex()
