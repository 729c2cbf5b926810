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


def from_packs(pool: Pool) -> Names:
    """Read all packs and nothing else."""
    coder = Coder()
    found: list[dict[str, Any]] = []
    for path in sorted((pool.path / "packs").iterdir()):
        data = path.read_bytes()
        for record in scan_pack(data, pool.guid):
            if record.kind == Kind.NAMES:
                payload = data[record.offset : record.offset + record.stored]
                found.append(json.loads(coder.decode(record.codec, payload, record.decoded)))
    names = Names()
    for change in sorted(found, key=lambda one: int(one["txg"])):
        assert change["v"] == 1
        assert change["txg"] == names.txg + 1, "a record is missing or stands twice"
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


def compare_with_catalogue(pool: Pool) -> None:
    """Fail unless the packs tell what the catalogue says."""
    told, kept = from_packs(pool), from_catalogue(pool)
    assert told.txg == kept.txg
    assert told.datasets == kept.datasets
    assert told.snapshots == kept.snapshots
