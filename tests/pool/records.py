"""Names of a pool brought back from its packs alone: every record of names, the last of each row."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from lamina.pool import Pool
from lamina.store.codec import Coder
from lamina.store.record import Kind
from lamina.store.scan import PackScan


@dataclass
class Names:
    """Rows by number."""

    datasets: dict[int, dict[str, Any]] = field(default_factory=dict)
    snapshots: dict[int, dict[str, Any]] = field(default_factory=dict)
    bookmarks: dict[int, dict[str, Any]] = field(default_factory=dict)
    txg: int = 0


def records(pool: Pool, before: int | None = None) -> list[dict[str, Any]]:
    """Every part of a record of names that holds, in order; packs are read and nothing else.

    Those from the txg ``before`` on are left out.
    """
    coder = Coder()
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((pool.path / "packs").iterdir()):
        for item in PackScan(path).records():  # gc may have made holes in it
            record = item.record
            if record.kind == Kind.NAMES:
                part = json.loads(coder.decode(record.codec, item.payload, record.decoded))
                assert (part["v"], part["pool"]) == (2, pool.guid)
                if before is None or part["txg"] < before:
                    found[record.key.hex()] = part
    # Of several of one number, the last written is the one that happened.
    key: str | None = max(found, key=lambda one: (found[one]["txg"], found[one]["time"], found[one]["part"][0]))
    chain: list[dict[str, Any]] = []
    while key is not None:
        chain.append(found[key])
        if chain[-1]["full"] and chain[-1]["part"][0] == 0:
            break
        key = chain[-1]["after"]
    return chain[::-1]


def from_packs(pool: Pool, before: int | None = None) -> Names:
    """Names by the records; those from ``before`` on left out."""
    names = Names()
    chain = records(pool, before)
    tables = {"dataset": names.datasets, "snapshot": names.snapshots, "bookmark": names.bookmarks}
    for at, part in enumerate(chain):
        number, count = part["part"]
        assert number == 0 or chain[at - 1]["part"] == [number - 1, count]
        assert names.txg == 0 or part["txg"] == names.txg + (number == 0 and not part["full"])
        names.txg = part["txg"]
        for item in part["changes"]:
            ((kind, row),) = item.items()
            if kind == "dropped":
                del tables[row[0]][row[1]]
            elif kind != "history":
                tables[kind][row["id"]] = row
    return names


def from_catalogue(pool: Pool) -> Names:
    """The same from the catalogue's rows."""
    with closing(sqlite3.connect(f"file:{pool.path}/catalogue.db?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row

        def rows(sql: str) -> list[dict[str, Any]]:
            return [dict(row) for row in database.execute(sql)]

        keys = {row["id"]: row["key"].hex() for row in rows("SELECT id, key FROM object")} | {None: None}
        names = Names(txg=rows("SELECT value FROM meta WHERE name = 'txg'")[0]["value"])
        for row in rows("SELECT * FROM dataset"):
            local = rows(f"SELECT name, value FROM dataset_property WHERE dataset = {row['id']}")
            properties = {one["name"]: one["value"] for one in local}
            names.datasets[row["id"]] = row | {"head": keys[row["head"]], "properties": properties}
        for row in rows("SELECT * FROM snapshot"):
            local = rows(f"SELECT name, value FROM snapshot_property WHERE snapshot = {row['id']}")
            properties = {one["name"]: one["value"] for one in local}
            holds = {one["tag"]: one["creation"] for one in rows(f"SELECT * FROM hold WHERE snapshot = {row['id']}")}
            more = {"root": keys[row["root"]], "properties": properties, "holds": holds}
            names.snapshots[row["id"]] = row | more
        for row in rows("SELECT * FROM bookmark"):
            names.bookmarks[row["id"]] = row
    return names


def compare_with_catalogue(pool: Pool, crashed: bool = False) -> None:
    """Fail unless the packs tell what the catalogue says; after a crash they may know one change more."""
    kept = from_catalogue(pool)
    told = from_packs(pool, kept.txg + 1 if crashed else None)
    assert told.txg == kept.txg
    assert told.datasets == kept.datasets
    assert told.snapshots == kept.snapshots
    assert told.bookmarks == kept.bookmarks
