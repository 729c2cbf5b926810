"""Results of accounting that are kept in the catalogue, so that a change of names costs what it changes.

``reach``: what each dataset reaches, with fingerprints of the roots that it follows from. ``figure`` and ``share``:
sums of datasets, and of roots within datasets, with their sets. ``unique`` depends on everything else in the pool:
its sums are those of the generation they carry, all others those of the pool's meta value ``figures``.

What is computed is put into this object first; ``save`` keeps it, if it still holds. Whoever may not write has it all
the same.
"""

import contextlib
import os
from dataclasses import dataclass, field

from pyroaring import BitMap64

from lamina.errors import LaminaError
from lamina.pool.figures.reach import Overtaken, set_of
from lamina.pool.figures.sums import Sizes, Sum
from lamina.store.database import Database

PARTS = ("dataset", "children", "snapshots", "head")
"""Sums of a dataset: H-O, C-H, S-H-C, and of what only the head reaches, H-S-O."""

_ALL_PARTS = (*PARTS, "unique")


@dataclass(frozen=True, slots=True)
class Reach:
    """Fingerprints of what a dataset reaches, and of that with its origin and all below; logical bytes of all that."""

    own: bytes
    whole: bytes
    logical: int


@dataclass(frozen=True, slots=True)
class ReachSets:
    """Objects of a dataset's head and snapshots; those that exactly one of them reaches; those of all below it."""

    own: BitMap64
    once: BitMap64
    below: BitMap64

    def all(self) -> BitMap64:
        """Objects of a dataset and all below it."""
        return self.own | self.below if self.below else self.own


@dataclass(slots=True)
class Changes:
    """What was computed and is not kept yet.

    None is a sum to forget. ``trees``: sums of roots that were wrong; ``resized``: the objects, with their sizes, that
    made them wrong.
    """

    reaches: dict[int, Reach] = field(default_factory=dict)
    sets: dict[int, ReachSets] = field(default_factory=dict)
    figures: dict[tuple[int, str], Sum | None] = field(default_factory=dict)
    shares: dict[tuple[int, int, str], Sum | None] = field(default_factory=dict)
    trees: dict[int | None, tuple[int, int]] = field(default_factory=dict)
    resized: list[tuple[int, int]] = field(default_factory=list)


class Ledger:
    """Kept results of one generation, and what was computed since."""

    def __init__(self, database: Database, generation: int, *, ignore: bool = False) -> None:
        """``ignore``: begin with nothing, as if nothing was kept."""
        self._database = database
        self.ignores = ignore
        self.generation = generation
        self.base = kept_generation(database)
        self.new = Changes()
        self._reaches: dict[int, Reach] = {}
        if not ignore:
            self._reaches = {
                number: Reach(own, whole, logical)
                for number, own, whole, logical in database.query("SELECT dataset, own, whole, logical FROM reach")
            }

    # -- reading --------------------------------------------------------------------------------------------------

    def reach(self, dataset: int) -> Reach | None:
        """The fingerprints of a dataset."""
        return self.new.reaches.get(dataset) or self._reaches.get(dataset)

    def sets(self, dataset: int) -> ReachSets:
        """The sets of a dataset that has a ``reach``. Raises ``Overtaken`` where another process has changed them."""
        found = self.new.sets.get(dataset)
        if found is not None:
            return found
        known = self._reaches[dataset]
        rows = self._database.query(
            "SELECT objects, once, below FROM reach WHERE dataset = ? AND whole = ?", (dataset, known.whole)
        )
        if not rows:
            raise Overtaken
        return ReachSets(*(BitMap64() if blob is None else set_of(blob) for blob in rows[0]))

    def figures(self, dataset: int) -> dict[str, Sum]:
        """Known sums of a dataset, by part."""
        found: dict[str, Sum | None] = {}
        if not self.ignores:
            rows = self._database.query(
                "SELECT part, stored, decoded, objects FROM figure WHERE dataset = ?", (dataset,)
            )
            found = {part: _sum(*rest) for part, *rest in rows}
        found |= {part: self.new.figures[dataset, part] for part in _ALL_PARTS if (dataset, part) in self.new.figures}
        return {part: one for part, one in found.items() if one is not None}

    def shares(self, dataset: int) -> dict[tuple[int, str], Sum]:
        """Known sums of the roots of a dataset, by root and part."""
        if self.ignores:
            return {}
        rows = self._database.query(
            "SELECT root, part, stored, decoded, objects FROM share WHERE dataset = ?", (dataset,)
        )
        found: dict[tuple[int, str], Sum | None] = {(root, part): _sum(*rest) for root, part, *rest in rows}
        for root, part in found:
            found[root, part] = self.new.shares.get((dataset, root, part), found[root, part])
        return {key: one for key, one in found.items() if one is not None}

    def measure_again(self, changed: BitMap64, sizes: Sizes) -> None:
        """Make sums anew over sets that hold one of these objects, whose sizes have changed."""
        for (dataset,) in self._database.query("SELECT DISTINCT dataset FROM figure"):
            for part, one in self.figures(dataset).items():
                if one.objects is not None and one.objects.intersect(changed):
                    again = None if part == "unique" else Sum(*sizes.sums(one.objects), one.objects)
                    self.new.figures[dataset, part] = again
        for (dataset,) in self._database.query("SELECT DISTINCT dataset FROM share"):
            for (root, part), one in self.shares(dataset).items():
                if one.objects is not None and one.objects.intersect(changed):
                    again = None if part == "unique" else Sum(*sizes.sums(one.objects), one.objects)
                    self.new.shares[dataset, root, part] = again

    # -- keeping --------------------------------------------------------------------------------------------------

    def save(self) -> bool:
        """Keep what was computed, if it still holds. Whether it is kept now."""
        try:
            if self._database.writable:
                return self._save(self._database)
            if not os.access(self._database.path, os.W_OK):
                return False
            # A reader that might write keeps it for the next one, if nobody else is writing just now. It need not be
            # durable: what a crash takes is computed again.
            with contextlib.closing(Database(self._database.path, write=True, disk=self._database.disk)) as writing:
                writing.query("PRAGMA busy_timeout = 0")
                writing.query("PRAGMA synchronous = NORMAL")
                return self._save(writing)
        except LaminaError:
            return False  # a full disk must not make reading fail

    def _save(self, database: Database) -> bool:
        with database.transaction():
            rows = database.query("SELECT value FROM meta WHERE name = 'generation'")
            if (rows[0][0] if rows else 0) != self.generation or kept_generation(database) != self.base:
                return False
            gone = database.query("SELECT dataset FROM reach WHERE dataset NOT IN (SELECT id FROM dataset)")
            for table in ("reach", "figure", "share"):
                if self.ignores:
                    database.execute(f"DELETE FROM {table}")
                database.execute_many(f"DELETE FROM {table} WHERE dataset = ?", gone)
            self._save_changes(database)
            if self.base != self.generation:
                database.execute("INSERT OR REPLACE INTO meta(name, value) VALUES ('figures', ?)", (self.generation,))
        self.base = self.generation
        self._reaches.update(self.new.reaches)
        self.new = Changes()
        self.ignores = False
        return True

    def _save_changes(self, database: Database) -> None:
        new = self.new
        database.execute_many(
            "INSERT OR REPLACE INTO reach(dataset, own, whole, logical, objects, once, below) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (number, one.own, one.whole, one.logical, *map(_blob, _all(self.sets(number))))
                for number, one in new.reaches.items()
                if number in new.sets
            ),
        )
        database.execute_many(
            "UPDATE reach SET own = ?, whole = ?, logical = ? WHERE dataset = ?",
            [
                (one.own, one.whole, one.logical, number)
                for number, one in new.reaches.items()
                if number not in new.sets
            ],
        )
        database.execute_many(
            "DELETE FROM figure WHERE dataset = ? AND part = ?",
            [key for key, one in new.figures.items() if one is None],
        )
        database.execute_many(
            "INSERT OR REPLACE INTO figure(dataset, part, generation, stored, decoded, objects) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            ((*key, self.generation, *_row(one)) for key, one in new.figures.items() if one is not None),
        )
        database.execute_many(
            "DELETE FROM share WHERE dataset = ? AND root = ? AND part = ?",
            [key for key, one in new.shares.items() if one is None],
        )
        database.execute_many(
            "INSERT OR REPLACE INTO share(dataset, root, part, generation, stored, decoded, objects) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((*key, self.generation, *_row(one)) for key, one in new.shares.items() if one is not None),
        )
        database.execute_many(
            "UPDATE tree SET stored = ?, decoded = ? WHERE root = ?",
            [(stored, decoded, root) for root, (stored, decoded) in new.trees.items()],
        )
        database.execute_many("DELETE FROM resized WHERE object = ? AND stored = ?", new.resized)


def kept_generation(database: Database) -> int:
    """The generation that the kept results are of; -1 where there are none."""
    rows = database.query("SELECT value FROM meta WHERE name = 'figures' AND EXISTS (SELECT 1 FROM reach)")
    return int(rows[0][0]) if rows else -1


def resized(database: Database) -> list[tuple[int, int]]:
    """Objects whose stored sizes have changed since sums were made, with those sizes.

    A condemned or damaged object that is stored anew may be compressed in another way.
    """
    return database.query("SELECT object, stored FROM resized")


def _all(sets: ReachSets) -> tuple[BitMap64, BitMap64, BitMap64]:
    return sets.own, sets.once, sets.below


def _sum(stored: int, decoded: int, objects: bytes | None) -> Sum:
    return Sum(stored, decoded, None if objects is None else set_of(objects))


def _row(one: Sum) -> tuple[int, int, bytes | None]:
    return one.stored, one.decoded, _blob(one.objects)


def _blob(objects: BitMap64 | None) -> bytes | None:
    if not objects:
        return None
    objects.run_optimize()
    data: bytes = objects.serialize()
    return data
