"""What names no longer reach: which objects gc may free, and how much that is.

Live is what the trees reach that a name or a mount's pin refers to, and the name records from the last full one on.
Everything follows from the rows of ``tree``, whose bitmaps hold the row numbers of all objects that a root reaches.
"""

from dataclasses import dataclass

from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.pool.catalogue import Catalogue
from lamina.store.database import Database
from lamina.store.record import Kind

_TREES_AT_ONCE = 32
_BLOCK = 1 << 16
_ATTEMPTS = 3

_NAMES = "SELECT head FROM dataset WHERE head IS NOT NULL UNION SELECT root FROM snapshot WHERE root IS NOT NULL"
_NAMED = f"{_NAMES} UNION SELECT root FROM pin"


@dataclass(slots=True)
class Reach:
    """What names and pins reach at one moment, the one of ``txg``.

    ``named`` are the roots that they refer to, ``unnamed`` others that have a tree, ``left`` is what those reach and
    nothing named does.
    """

    txg: int
    named: set[int]
    live: BitMap64
    unnamed: list[int]
    left: BitMap64


def current_txg(catalogue: Catalogue) -> int:
    """Counts every change of names."""
    return int(catalogue.meta("txg") or 0)


def read_reach(catalogue: Catalogue) -> Reach:
    """What names reach now.

    The rows are those of one moment: after another process's change they are read anew. Where names change all the
    time it gives up on that: ``txg`` is then the moment of the first, so that ``catch_up`` adds what came since.
    """
    database = catalogue.database
    for attempt in range(_ATTEMPTS):
        txg = current_txg(catalogue)
        named = {root for (root,) in database.query(_NAMED)}
        roots = [root for (root,) in database.query("SELECT root FROM tree")]
        unnamed = [root for root in roots if root not in named]
        live = _union(database, [root for root in roots if root in named])
        live |= _partial(database)
        live.update(named)
        left = _union(database, unnamed)
        names_from = int(catalogue.meta("names_from") or 0)
        # The kind is part of the text: an index of these alone is used only then.
        names = database.query(f"SELECT id, id >= ? FROM object WHERE kind = {int(Kind.NAMES)}", (names_from,))
        live.update(number for number, kept in names if kept)
        left.update(number for number, kept in names if not kept)
        if current_txg(catalogue) == txg or attempt == _ATTEMPTS - 1:
            break
    return Reach(txg, named, live, unnamed, left - live)


def catch_up(catalogue: Catalogue, reach: Reach) -> None:
    """Inside a transaction: count as live what has got a name since, or was received; what lost its name stays live.

    A root that had a name all the time, or has it again, reaches the same rows as before: they were live, so nobody
    freed them.
    """
    txg = current_txg(catalogue)
    if txg != reach.txg:
        fresh = {root for (root,) in catalogue.database.query(_NAMED)} - reach.named
        reach.live |= _union(catalogue.database, sorted(fresh)) | _partial(catalogue.database) | BitMap64(fresh)
        reach.named |= fresh
        reach.txg = txg


def _partial(database: Database) -> BitMap64:
    """What receives have brought that were cut and are to go on (``receive -s``): no tree reaches it yet."""
    found = BitMap64()
    for (objects,) in database.query("SELECT objects FROM partial"):
        found |= _set(objects)
    return found


def _union(database: Database, roots: list[int]) -> BitMap64:
    """All objects that the trees of these roots reach."""
    found = BitMap64()
    for start in range(0, len(roots), _TREES_AT_ONCE):
        some = roots[start : start + _TREES_AT_ONCE]
        marks = ",".join("?" * len(some))
        for (objects,) in database.query(f"SELECT objects FROM tree WHERE root IN ({marks})", some):
            found |= _set(objects)
    return found


def _set(objects: bytes) -> BitMap64:
    try:
        return BitMap64.deserialize(objects)
    except ValueError:
        raise DamagedData(
            "the catalogue is damaged: what a tree reaches cannot be told, so nothing is freed; run "
            "'lamina pool check', then 'lamina pool recover'"
        ) from None


def name_records(catalogue: Catalogue) -> BitMap64:
    """The name records from the last full one on."""
    names_from = int(catalogue.meta("names_from") or 0)
    rows = catalogue.database.query("SELECT id FROM object WHERE kind = 4 AND id >= ?", (names_from,))
    return BitMap64(number for (number,) in rows)


def condemned(database: Database) -> BitMap64:
    """Objects that gc has marked and not deleted yet."""
    return BitMap64(number for (number,) in database.query("SELECT id FROM object WHERE condemned > 0"))


def all_objects(database: Database) -> BitMap64:
    """The row numbers of all objects. Taken pack by pack, from an index that holds nothing else."""
    found = BitMap64()
    for (pack,) in database.query("SELECT id FROM pack"):
        found.update(number for (number,) in database.query("SELECT id FROM object WHERE pack = ?", (pack,)))
    return found


def has_work(catalogue: Catalogue) -> bool:
    """Whether names have let go of something that is still there. Quick, and changes nothing."""
    database = catalogue.database
    if database.query("SELECT 1 FROM object WHERE condemned > 0 LIMIT 1"):
        return True
    if database.query(f"SELECT 1 FROM tree WHERE root NOT IN ({_NAMED}) LIMIT 1"):
        return True
    names_from = int(catalogue.meta("names_from") or 0)
    return bool(
        database.query("SELECT 1 FROM object WHERE kind = 4 AND id < ? AND condemned IS NULL LIMIT 1", (names_from,))
    )


def freeing(catalogue: Catalogue) -> int:
    """Stored bytes that nothing refers to any more and that gc has still to give back."""
    if not has_work(catalogue):
        return 0
    return stored_bytes(catalogue.database, read_reach(catalogue).left | condemned(catalogue.database))


def kept_by_mounts(catalogue: Catalogue) -> tuple[int, list[int]]:
    """Stored bytes that no name reaches and only mounts keep, and the processes that serve these mounts."""
    database = catalogue.database
    pinned = database.query(
        f"SELECT pin.root, lease.pid FROM pin JOIN lease ON lease.name = pin.lease WHERE pin.root NOT IN ({_NAMES})"
    )
    if not pinned:
        return 0, []
    named = [root for (root,) in database.query(_NAMES)]
    kept = _union(database, sorted({root for root, _ in pinned})) - _union(database, named)
    return stored_bytes(database, kept), sorted({pid for _, pid in pinned})


def stored_bytes(database: Database, objects: BitMap64) -> int:
    """Stored bytes of those of ``objects`` that are there, each once."""
    total = 0
    number = next(iter(objects), None)
    while number is not None:
        first = number >> 16 << 16
        rows = database.query("SELECT id, stored FROM object WHERE id >= ? AND id < ?", (first, first + _BLOCK))
        total += sum(stored for row, stored in rows if row in objects)
        number = next(objects.iter_equal_or_larger(first + _BLOCK), None)
    return total
