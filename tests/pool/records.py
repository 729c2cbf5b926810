"""Names of a pool brought back from its packs alone: every record of names, the last of each row."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from lamina.pool import Pool
from lamina.store.codec import Coder
from lamina.store.record import Kind, scan_pack


@dataclass
class Names:
    """Rows by number."""

    datasets: dict[int, dict[str, Any]] = field(default_factory=dict)
    snapshots: dict[int, dict[str, Any]] = field(default_factory=dict)
    txg: int = 0


def records(pool: Pool) -> list[dict[str, Any]]:
    """Every record of names that holds, by ``txg``; packs are read and nothing else."""
    coder = Coder()
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for path in sorted((pool.path / "packs").iterdir()):
        data = path.read_bytes()
        for record in scan_pack(data, pool.guid) if data else ():
            if record.kind == Kind.NAMES:
                payload = data[record.offset : record.offset + record.stored]
                change = json.loads(coder.decode(record.codec, payload, record.decoded))
                found.setdefault(change["txg"], {})[record.key.hex()] = change
    chain: list[dict[str, Any]] = []
    for txg in range(max(found), 0, -1):
        # Of several of one number, the one that the next names is the one that happened.
        after = chain[-1]["after"] if chain else max(found[txg], key=lambda key: int(found[txg][key]["time"]))
        chain.append(found[txg][after])
    assert chain[-1]["after"] is None
    return chain[::-1]


def from_packs(pool: Pool, before: int | None = None) -> Names:
    """Names by the records; those from ``before`` on left out."""
    names = Names()
    for change in records(pool):
        if change["txg"] == before:
            break
        assert (change["v"], change["txg"]) == (1, names.txg + 1)
        names.txg = change["txg"]
        for item in change["changes"]:
            if "dataset" in item:
                names.datasets[item["dataset"]["id"]] = item["dataset"]
            elif "snapshot" in item:
                names.snapshots[item["snapshot"]["id"]] = item["snapshot"]
            else:
                kind, number = item["dropped"]
                del (names.datasets if kind == "dataset" else names.snapshots)[number]
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
            names.snapshots[row["id"]] = row | {"root": keys[row["root"]], "properties": properties}
    return names


def compare_with_catalogue(pool: Pool, crashed: bool = False) -> None:
    """Fail unless the packs tell what the catalogue says; after a crash they may know one change more."""
    kept = from_catalogue(pool)
    told = from_packs(pool, kept.txg + 1 if crashed else None)
    assert told.txg == kept.txg
    assert told.datasets == kept.datasets
    assert told.snapshots == kept.snapshots
