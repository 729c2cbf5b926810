"""Objects that trees reach and the index does not have: each gets a row that holds its place until it is repaired.

Such a row has no bytes (``stored`` is 0) and is marked as damaged, so that it is named, never shared, and healed by
whoever stores the object. The trees' bitmaps, whose old row numbers mean nothing any more, are made anew.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.pool.collecting.freeing import all_objects, current_txg, read_reach
from lamina.store.database import DAMAGED, Database
from lamina.store.objects import ObjectStore
from lamina.store.record import Kind

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


def note_absent(pool: "Pool") -> int:
    """Give rows to all that trees reach and that has none, as far as their nodes can be read; how many."""
    database = pool.store.database
    if not _without_row(pool):
        return 0
    from lamina.pool.checking.walking import Walker
    from lamina.pool.scrubbing.scrub import mending_writer

    holder = _PlaceHolders(database)
    # Rows that are newer than a writer's lease are not taken for garbage while it lives.
    with mending_writer(pool):
        # A store of its own: what the pool's has learned of places, it may still know of rows that are gone.
        walker = Walker(ObjectStore(database, pool.store.backend), absent=holder.give)
        for root, key, stamp, objects in _trees_with(database, _without_row(pool)):
            try:
                walked = walker.walk(key)
            except DamagedData:
                continue
            # What lies below nodes that cannot be read is still only known by its number.
            reached = walked.objects if walked.whole else walked.objects | objects
            reached.run_optimize()
            _write_tree(pool, root, stamp, reached)
    return holder.given


def _without_row(pool: "Pool") -> BitMap64:
    """Row numbers in the bitmaps of trees with names, or pins, that no object has."""
    catalogue = pool._catalogue
    while True:
        reach = read_reach(catalogue)
        absent = reach.live - all_objects(catalogue.database)
        # What names reached a moment ago may have been destroyed, and deleted, since.
        if not absent or current_txg(catalogue) == reach.txg:
            return absent


def _trees_with(database: Database, absent: BitMap64) -> list[tuple[int, bytes, int, BitMap64]]:
    """(row of the root, its key, stamp, bitmap) of trees that reach any of these rows."""
    found = []
    for (root,) in database.query("SELECT root FROM tree"):
        for key, stamp, objects in database.query(
            "SELECT o.key, t.stamp, t.objects FROM tree t JOIN object o ON o.id = t.root WHERE t.root = ?", (root,)
        ):
            bitmap = BitMap64.deserialize(objects)
            if not bitmap.isdisjoint(absent):
                found.append((root, key, stamp, bitmap))
    return found


def _write_tree(pool: "Pool", root: int, stamp: int, reached: BitMap64) -> None:
    """Put what a tree reaches into its row, unless that was made anew meanwhile."""
    from lamina.pool.figures.sums import Sizes

    database = pool.store.database
    with database.transaction():
        stored, decoded = Sizes(database).sums(reached)
        changed = database.execute_many(
            "UPDATE tree SET objects = ?, stored = ?, decoded = ?, stamp = random() WHERE root = ? AND stamp = ?",
            [(reached.serialize(), stored, decoded, root, stamp)],
        )
        if changed:
            pool._catalogue.set_meta("generation", pool._catalogue.generation() + 1)


class _PlaceHolders:
    """Gives rows to missing objects."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.given = 0

    def give(self, missing: Mapping[bytes, int], kind: Kind) -> dict[bytes, int]:
        """Row numbers by key; ``missing`` says how many bytes of each are needed."""
        found: dict[bytes, int] = {}
        with self._database.transaction():
            pack = self._database.query("SELECT min(id) FROM pack")[0][0]
            for key, need in missing.items():
                rows = self._database.query("SELECT id FROM object WHERE key = ?", (key,))
                if rows:
                    found[key] = rows[0][0]
                    continue
                found[key] = self._database.execute(
                    "INSERT INTO object(key, pack, offset, stored, decoded, kind, codec, checksum, condemned) "
                    "VALUES (?, ?, 0, 0, ?, ?, 0, 0, ?)",
                    (key, pack, need, int(kind), DAMAGED),
                )
                self.given += 1
        return found
