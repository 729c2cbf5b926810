"""Streams as bytes, what pools hold to compare, and trees that change."""

import io
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

from pyroaring import BitMap64

from lamina.fs.node import EXTENT, inode_key, pack_inode, unpack_inode
from lamina.fs.types import ROOT_INO, Totals
from lamina.fs.view import StoredTree
from lamina.pool import Pool
from lamina.pool.checking.check import check_pool
from lamina.pool.figures.accounting import Accounting
from lamina.replication.destination import ReceiveOptions
from lamina.replication.planning import Plan, Request
from lamina.replication.receiving import ReceiveReport, receive_stream
from lamina.replication.sending import planned, write_stream
from lamina.replication.tokens import Token
from tests.fs.diff_model import DIR, REG, Model
from tests.fs.kit import Item, Objects
from tests.ingest.kit import Entry, of_tree
from tests.pool.records import compare_with_catalogue


def send(pool: Pool, what: str | Token, *, have: BitMap64 | None = None, **request: Any) -> bytes:
    """A stream; as long as its plan says that it is."""
    asked = what if isinstance(what, Token) else Request(what, **request)
    with planned(pool, asked, have) as plan:
        sink = io.BytesIO()
        report = write_stream(pool, plan, sink)
    data = sink.getvalue()
    assert len(data) == plan.size == report.bytes
    return data


def plan(pool: Pool, name: str, **request: Any) -> Plan:
    with planned(pool, Request(name, **request)) as found:
        return found


def receive(pool: Pool, data: bytes, name: str, **options: Any) -> ReceiveReport:
    return receive_stream(pool, io.BytesIO(data), name, ReceiveOptions(**options))


# -- what a pool holds ----------------------------------------------------------------------------------------------


def contents(pool: Pool, name: str) -> dict[bytes, Entry]:
    """Everything in a tree, by path."""
    if pool.root(name) is None:
        return {}
    tree = pool.tree(name)
    assert isinstance(tree, StoredTree)
    return of_tree(tree)


FIGURES = (
    *("used", "referenced", "logicalused", "logicalreferenced", "compressratio", "refcompressratio"),
    *("usedbysnapshots", "usedbydataset", "usedbychildren", "dedupratio", "reduction"),
)


def figures(pool: Pool, name: str) -> dict[str, Any]:
    """What does not depend on what else is in the pool."""
    return {prop: one.value for prop, one in pool.get(name, FIGURES).items()}


def same_datasets(mine: Pool, name: str, other: Pool, copy: str, *, properties: bool = False) -> None:
    """Fail unless all below two datasets is equal: snapshots with guids, kinds, times, contents, figures, clones."""
    for dataset in mine.list([name], recursive=True):
        there = copy + dataset.name[len(name) :]
        tags = [entry.name.partition("@")[2] for entry in mine.list([dataset.name], types=("snapshot",))]
        assert [one.name.partition("@")[2] for one in other.list([there], types=("snapshot",))] == tags
        for tag in tags:
            a, b = (
                pool._catalogue.find_snapshot(f"{one}@{tag}") for pool, one in ((mine, dataset.name), (other, there))
            )
            assert a is not None and b is not None
            assert (a.guid, a.creation, a.kind, a.taken) == (b.guid, b.creation, b.kind, b.taken), tag
            assert contents(mine, f"{dataset.name}@{tag}") == contents(other, f"{there}@{tag}")
            assert figures(mine, f"{dataset.name}@{tag}") == figures(other, f"{there}@{tag}"), tag
            if properties:
                assert user_properties(mine, a.id) == user_properties(other, b.id)
                assert holds(mine, a.id) == holds(other, b.id)
        if properties:
            assert local(mine, dataset.name) == local(other, there)
        assert contents(mine, dataset.name) == contents(other, there), dataset.name
        assert figures(mine, dataset.name) == figures(other, there), dataset.name
        origins = [pool.get(one, ["origin"])["origin"].value for pool, one in ((mine, dataset.name), (other, there))]
        # A clone above what it was made from is sent whole.
        if origins[0] is not None and str(origins[0]).startswith(name) and not is_above(mine, name):
            assert origins[1] == copy + str(origins[0])[len(name) :]


def is_above(pool: Pool, name: str) -> bool:
    """Whether a clone below ``name`` lies above what it was made from."""
    datasets = [one.name for one in pool.list([name], recursive=True)]
    return any(str(pool.get(one, ["origin"])["origin"].value).startswith(one + "/") for one in datasets)


def user_properties(pool: Pool, snapshot: int) -> dict[str, str]:
    rows = pool._database.query("SELECT name, value FROM snapshot_property WHERE snapshot = ?", (snapshot,))
    return dict(rows)


def holds(pool: Pool, snapshot: int) -> dict[str, int]:
    return dict(pool._database.query("SELECT tag, creation FROM hold WHERE snapshot = ?", (snapshot,)))


def local(pool: Pool, dataset: str) -> dict[str, str]:
    return pool._catalogue.local_properties().get(pool._catalogue.dataset(dataset).id, {})


def sound(pool: Pool) -> None:
    """Fail unless the pool is in order: rows, packs, trees, bitmaps, figures, records of names."""
    assert check_pool(pool, headers=True).problems == []
    compare_with_catalogue(pool)
    accounting = Accounting(pool._catalogue)
    kept, computed = accounting.figures(), accounting.compute()
    assert kept[0] == computed[0] and kept[1] == computed[1]
    for (key,) in pool._database.query("SELECT key FROM object"):
        pool.store.get(key, verify=True)


_PASSING = ("sqlite_sequence", "figure", "reach", "share")
"""Tables that say how high numbers went, and figures that are computed when asked for."""


def state(pool: Pool) -> dict[str, Any]:
    """All rows of a pool, and the sizes of its packs."""
    with closing(sqlite3.connect(f"file:{pool.path}/catalogue.db?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found: dict[str, Any] = {
            name: sorted(database.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
            for name in tables
            if name not in _PASSING
        }
    packs = pool.path / "packs"
    found["packs"] = {name: (packs / name).stat().st_size for name in sorted(os.listdir(packs))}
    found["leases"] = os.listdir(pool.path / "leases")
    return found


# -- trees that change ----------------------------------------------------------------------------------------------


class Sound(Model):
    """A model whose trees are file systems to the last count."""

    def items(self, objects: Objects) -> list[Item]:
        self.data_bytes = 0
        found: list[Item] = []
        for key, value in super().items(objects):
            ino, kind = int.from_bytes(key[:8], "big"), key[8]
            if kind == 0 and self.files[ino].type == DIR:
                below = sum(self.files[one].type == DIR for one in self.files[ino].names.values())
                value = pack_inode(replace(unpack_inode(ino, value), nlink=2 + below))
            elif kind == EXTENT:
                self.data_bytes += int.from_bytes(value[:4], "little")
            found.append((key, value))
        return found

    def totals(self) -> Totals:
        types = [file.type for file in self.files.values()]
        self.items(Objects())  # counts the bytes
        return Totals(len(types), types.count(REG), types.count(DIR), self.data_bytes, self.next)

    def copy(self) -> "Sound":
        other = Sound(self.links, self.rng.randrange(1 << 30))
        other.files = super().copy().files
        other.next, other.clock = self.next, self.clock
        return other

    def grow(self, directories: int, files: int) -> "Sound":
        """Make a tree of many leaves."""
        for number in range(directories):
            ino = self.make(DIR, ROOT_INO, b"d%04d" % number)
            for one in range(files):
                self.make(REG, ino, b"f%04d" % one)
        return self


assert inode_key(1) < inode_key(2)
