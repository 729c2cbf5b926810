"""What a pool must be, found out by brute force: every row, every byte, every name, by means of its own.

It walks, reads, hashes and counts. The pool's own check is asked too, but not trusted.
"""

import json
import os
import shutil
import stat
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import xxhash
from blake3 import blake3
from pyroaring import BitMap64

from lamina.errors import LaminaError
from lamina.fs.view import StoredTree, TreeView
from lamina.pool import Pool
from lamina.pool.checking.check import check_pool as own_check
from lamina.pool.figures.accounting import Accounting
from lamina.store.codec import Coder
from lamina.store.record import PACK_HEADER, RECORD_HEADER, Kind, pack_header, pack_name, parse_record_header
from tests.pool.records import from_catalogue

NAMES = ("dataset", "snapshot", "dataset_property", "snapshot_property", "hold", "bookmark")


@dataclass(frozen=True, slots=True)
class _Row:
    id: int
    key: bytes
    pack: int
    offset: int
    stored: int
    decoded: int
    kind: int
    codec: int
    checksum: int
    condemned: int | None


def check_pool(pool: Pool) -> None:
    """Fail with what is wrong. Nobody else may have the pool open."""
    query = pool._database.query
    assert query("PRAGMA integrity_check") == [("ok",)]
    assert query("PRAGMA foreign_key_check") == []
    rows = {row[0]: _Row(*row) for row in query(
        "SELECT id, key, pack, offset, stored, decoded, kind, codec, checksum, condemned FROM object"
    )}  # fmt: skip
    _check_packs(pool, rows)
    _check_trees(pool, rows)
    _check_figures(pool)
    _check_names(pool)
    report = own_check(pool, headers=True)
    assert not report.problems, report.problems


def _check_packs(pool: Pool, rows: dict[int, _Row]) -> None:
    """Every object and every copy lies where its row says, as a record, and is what its key says."""
    query = pool._database.query
    sizes = {}
    taken: list[tuple[int, int, int]] = []
    coder = Coder()
    for number, size in query("SELECT id, size FROM pack"):
        path = pool.path / "packs" / pack_name(number)
        if size:
            data = path.read_bytes()
            assert len(data) >= size, f"{path.name} is shorter than its row says"
            assert data[: PACK_HEADER.size] == pack_header(pool.guid, number)
            sizes[number] = data[:size]
            taken.append((number, 0, PACK_HEADER.size))
    places = [(row, row.pack, row.offset) for row in rows.values()]
    places += [(rows[number], pack, offset) for number, pack, offset in query("SELECT object, pack, offset FROM copy")]
    for row, pack, offset in places:
        data = sizes[pack]
        payload = data[offset : offset + row.stored]
        assert len(payload) == row.stored, f"object {row.id} lies beyond the end of pack {pack}"
        assert xxhash.xxh3_64_intdigest(payload) == row.checksum % (1 << 64), f"object {row.id} is damaged"
        assert blake3(coder.decode(row.codec, payload, row.decoded)).digest() == row.key
        head = parse_record_header(data[offset - RECORD_HEADER : offset], offset - RECORD_HEADER)
        assert (head.kind, head.codec, head.stored, head.decoded) == (row.kind, row.codec, row.stored, row.decoded)
        assert (head.key, head.checksum) == (row.key, row.checksum % (1 << 64))
        taken.append((pack, offset - RECORD_HEADER, offset + row.stored))
    taken.sort()
    for (pack, _, end), (other, start, _) in pairwise(taken):
        assert pack != other or end <= start, f"two records lie over each other in pack {pack} at {start}"


def _check_names(pool: Pool) -> None:
    """The records of names that packs hold tell what the catalogue says."""
    kept = from_catalogue(pool)
    parts: dict[str, dict[str, Any]] = {}
    for (named,) in pool._database.query(f"SELECT key FROM object WHERE kind = {int(Kind.NAMES)}"):
        parts[named.hex()] = json.loads(pool.store.get(named))
    key: str | None = pool._catalogue.meta("record")
    chain = []
    while key is not None:
        chain.append(parts[key])
        if chain[-1]["full"] and chain[-1]["part"][0] == 0:
            break
        key = chain[-1]["after"]
    assert chain[0]["txg"] == kept.txg
    tables: dict[str, dict[int, dict[str, Any]]] = {"dataset": {}, "snapshot": {}, "bookmark": {}}
    for change in (change for part in reversed(chain) for change in part["changes"]):
        ((kind, row),) = change.items()
        if kind == "dropped":
            tables[row[0]].pop(row[1])
        elif kind in tables:
            tables[kind][row["id"]] = row
    assert tables == {"dataset": kept.datasets, "snapshot": kept.snapshots, "bookmark": kept.bookmarks}


def _check_trees(pool: Pool, rows: dict[int, _Row]) -> None:
    """Every root that has a name is whole, and its bitmap and sums are those of what it reaches."""
    query = pool._database.query
    by_key = {row.key: row for row in rows.values()}
    named = {root for (root,) in query("SELECT head FROM dataset UNION SELECT root FROM snapshot") if root is not None}
    for root, stored, decoded, objects in query("SELECT root, stored, decoded, objects FROM tree"):
        if root not in named:
            continue  # gc may be half-way through what it reaches
        named.discard(root)
        assert rows[root].kind == Kind.ROOT
        reached = {key: by_key[key] for key in StoredTree(rows[root].key, pool.store.get).objects()}
        assert BitMap64.deserialize(objects) == BitMap64([row.id for row in reached.values()])
        assert stored == sum(row.stored for row in reached.values())
        assert decoded == sum(row.decoded for row in reached.values())
        condemned = [row.id for row in reached.values() if row.condemned is not None]
        assert not condemned, f"condemned objects {condemned} are reached by a name"
    assert not named, f"roots {named} have no tree"


def _check_figures(pool: Pool) -> None:
    """Figures that rest on what was kept are those that would be computed from nothing."""
    assert Accounting(pool._catalogue).figures() == Accounting(pool._catalogue).compute()


def names_and_contents(pool: Pool) -> dict[str, Any]:
    """All that users see: rows of names, and what each tree holds, byte for byte, by the key of its root."""
    query = pool._database.query
    found: dict[str, Any] = {table: sorted(query(f"SELECT * FROM {table}")) for table in NAMES}
    found["txg"] = pool._catalogue.meta("txg")
    found["contents"] = {}
    names = [entry.name for entry in pool.list(types=("filesystem", "snapshot", "image"))]
    for name in names:
        found["contents"][name] = contents(pool.tree(name))
    return found


def summary(pool: Pool) -> dict[str, Any]:
    """What users see, without what is another each time: numbers of rows, guids, times."""
    found = names_and_contents(pool)["contents"]
    # An empty file system has the times of its dataset.
    contents = {name: tree if len(tree) > 1 else "empty" for name, tree in found.items()}
    properties = {
        entry.name: {name: value.value for name, value in pool.get(entry, ["compression", "user:x", "origin"]).items()}
        for entry in pool.list(types=("filesystem", "snapshot", "image"))
    }
    return {"contents": contents, "properties": properties}


def contents(tree: TreeView) -> dict[bytes, Any]:
    """Everything in a tree by path; data as its hash."""
    found: dict[bytes, Any] = {b"": tree.inode(1)}
    below = [(b"", 1)]
    while below:
        prefix, ino = below.pop()
        for entry in tree.readdir(ino):
            path, inode = prefix + b"/" + entry.name, tree.inode(entry.ino)
            more: Any = sorted(tree.xattrs(entry.ino).items())
            if stat.S_ISDIR(inode.mode):
                below.append((path, entry.ino))
            elif stat.S_ISLNK(inode.mode):
                more = tree.readlink(entry.ino)
            elif stat.S_ISREG(inode.mode):
                more = blake3(tree.read(entry.ino, 0, inode.size)).digest(), more
            found[path] = inode, more
    return found


def check_leases(pool: Pool) -> None:
    """Nobody holds anything."""
    assert pool._database.query("SELECT name FROM lease") == []
    assert pool._database.query("SELECT id FROM pack WHERE lease IS NOT NULL") == []
    assert os.listdir(pool.path / "leases") == []


def one_line(error: BaseException) -> None:
    """Fail unless it is an error that can be shown to people: of the one tree, one line, with words."""
    assert isinstance(error, LaminaError), repr(error)
    text = str(error)
    assert "\n" not in text and len(text) > 12, text
    for word in ("Traceback", "Error(", "Errno", "sqlite3", "None"):
        assert word not in text, text


def copy_of(source: Path, target: Path) -> None:
    """A pool's directory as it is, elsewhere."""
    shutil.copytree(source, target, symlinks=True)
