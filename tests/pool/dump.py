"""Everything that a pool's names say, with roots and objects by their keys: equal before and after a recovery."""

from typing import Any

from pyroaring import BitMap64

from lamina.pool import Pool
from lamina.pool.figures.accounting import Accounting

_NAMES = {
    "dataset": "id, name, guid, creation, txg, head, follows, taken, origin",
    "snapshot": "id, dataset, name, guid, creation, txg, kind, root, taken, defer",
    "dataset_property": "dataset, name, value",
    "snapshot_property": "snapshot, name, value",
    "hold": "snapshot, tag, creation",
    "bookmark": "id, dataset, name, guid, creation, txg",
}


def dump(pool: Pool, *, history: bool = True) -> dict[str, Any]:
    """Rows by table."""
    query = pool._database.query
    keys: dict[int | None, str | None] = {number: key.hex() for number, key in query("SELECT id, key FROM object")}
    keys[None] = None
    found: dict[str, Any] = {
        table: sorted(query(f"SELECT {columns} FROM {table}"), key=repr) for table, columns in _NAMES.items()
    }
    found["dataset"] = [(*row[:5], keys[row[5]], *row[6:]) for row in found["dataset"]]
    found["snapshot"] = [(*row[:7], keys[row[7]], *row[8:]) for row in found["snapshot"]]
    named = {row[5] for row in found["dataset"]} | {row[7] for row in found["snapshot"]}
    found["tree"] = {
        keys[root]: (*rest, sorted(str(keys[number]) for number in BitMap64.deserialize(objects)))
        for root, *rest, objects in query(
            "SELECT root, inodes, files, directories, data_bytes, stored, decoded, objects FROM tree"
        )
        if keys[root] in named
    }
    found["meta"] = [pool._catalogue.meta(name) for name in ("guid", "comment", "formerly")]
    found["figures"] = Accounting(pool._catalogue).compute()
    if history:
        found["history"] = query("SELECT txg, user, host, command FROM history ORDER BY id")
    return found
