"""What names reach: the roots of each dataset, and the sets of objects behind them, at one moment."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import xxhash
from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.pool.catalogue import Catalogue, DatasetRow
from lamina.pool.names import parent_of
from lamina.store.database import Database

_BATCH = 256
"""Sets that are in memory at the same time."""


class Overtaken(Exception):
    """Another process changed rows between two queries: what was read is not of one moment."""


@dataclass(frozen=True, slots=True)
class TreeRow:
    """Totals of a root's tree; ``stamp`` tells the row from an earlier or later one of the same root."""

    stamp: int
    stored: int
    decoded: int
    data_bytes: int
    files: int


@dataclass(slots=True)
class Names:
    """The rows that say what is reached, parents before children.

    ``roots``: by dataset, the roots of its snapshots, each with how many have it; ``taken``: logical bytes that they
    took in. ``origins``: roots by snapshot, of those that are origins.
    """

    generation: int
    datasets: list[DatasetRow]
    roots: dict[int, dict[int, int]]
    taken: dict[int, int]
    trees: dict[int, TreeRow]
    origins: dict[int, int | None]
    children: dict[int, list[int]] = field(default_factory=dict)
    above: dict[int, int | None] = field(default_factory=dict)
    by_id: dict[int, DatasetRow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_name: dict[str, int] = {}
        for row in self.datasets:
            by_name[row.name] = row.id
            self.by_id[row.id] = row
            self.children[row.id] = []
            parent = parent_of(row.name)
            self.above[row.id] = None if parent is None else by_name[parent]
            if parent is not None:
                self.children[by_name[parent]].append(row.id)

    def tree(self, root: int) -> TreeRow:
        """The totals of a root that a name has. Raises ``Overtaken`` where it has none, or no longer."""
        found = self.trees.get(root)
        if found is None:
            raise Overtaken
        return found

    def origin(self, row: DatasetRow) -> int | None:
        """The root that a clone began with; None for what is no clone, or of nothing."""
        return self.origins.get(row.origin) if row.origin is not None else None

    def held(self, dataset: int) -> dict[int, int]:
        """The roots that a dataset reaches, each with how many hold it.

        A head that follows an image is another name of that image, and counts for nothing.
        """
        row = self.by_id[dataset]
        found = dict(self.roots.get(dataset, {}))
        if row.head is not None:
            found[row.head] = found.get(row.head, 0) + (row.follows is None)
        return found

    def own_print(self, dataset: int) -> bytes:
        """A fingerprint of what the head and the snapshots of a dataset reach; empty where they reach nothing."""
        row = self.by_id[dataset]
        held = self.held(dataset)
        if not held:
            return b""
        head = 0 if row.head is None else self.tree(row.head).stamp
        stamps = sorted((self.tree(root).stamp, min(count, 2)) for root, count in held.items())
        words = [head, row.follows is None, *(word for pair in stamps for word in pair)]
        return xxhash.xxh3_128_digest(struct.pack(f"<{len(words)}q", *words))

    def whole_print(self, dataset: int, own: bytes, below: Iterable[bytes]) -> bytes:
        """The same of a dataset, its origin, and all ``below`` it."""
        base = self.origin(self.by_id[dataset])
        stamp = b"" if base is None else self.tree(base).stamp.to_bytes(8, "little", signed=True)
        return xxhash.xxh3_128_digest(b"".join([own.ljust(16, b"\0"), stamp.rjust(9, b"\1"), *sorted(below)]))

    def logical(self, dataset: int) -> int:
        """Logical bytes that a dataset took in, without those below it."""
        row = self.by_id[dataset]
        taken = self.taken.get(dataset, 0)
        if row.follows is None and row.head is not None and row.head not in self.roots.get(dataset, {}):
            taken += row.taken
        return taken


def read_names(catalogue: Catalogue) -> Names:
    """The rows of one moment: those of another process's change in between are read anew."""
    while True:
        generation = catalogue.generation()
        names = _read_names(catalogue, generation)
        if names is not None and catalogue.generation() == generation:
            return names


def _read_names(catalogue: Catalogue, generation: int) -> Names | None:
    database = catalogue.database
    datasets = catalogue.datasets()
    roots: dict[int, dict[int, int]] = {}
    taken: dict[int, int] = {}
    for dataset, root, count, logical in database.query(
        "SELECT dataset, root, count(*), sum(taken) FROM snapshot GROUP BY dataset, root"
    ):
        taken[dataset] = taken.get(dataset, 0) + logical
        if root is not None:
            roots.setdefault(dataset, {})[root] = count
    trees = {
        root: TreeRow(*rest)
        for root, *rest in database.query("SELECT root, stamp, stored, decoded, data_bytes, files FROM tree")
    }
    origins = dict(
        database.query(
            "SELECT id, root FROM snapshot WHERE id IN (SELECT origin FROM dataset WHERE origin IS NOT NULL)"
        )
    )
    try:
        return Names(generation, datasets, roots, taken, trees, origins)
    except KeyError:  # a child without its parent: a rename came in between
        return None


def set_of(objects: bytes) -> BitMap64:
    """A set as it is kept. Raises ``DamagedData``."""
    try:
        return BitMap64.deserialize(objects)
    except ValueError:
        raise DamagedData(
            "the catalogue is damaged: what a tree reaches cannot be told; run 'lamina pool check', then "
            "'lamina pool recover'"
        ) from None


class Sets:
    """The sets of objects behind roots."""

    def __init__(self, database: Database, names: Names) -> None:
        self._database = database
        self._names = names

    def tree(self, root: int | None) -> BitMap64:
        """All objects that a root reaches. Raises ``Overtaken`` where it is gone."""
        if root is None:
            return BitMap64()
        return next(self.trees([root]))[1]

    def trees(self, roots: Iterable[int]) -> Iterator[tuple[int, BitMap64]]:
        """The same of many, one after the other."""
        wanted = list(roots)
        for at in range(0, len(wanted), _BATCH):
            some = wanted[at : at + _BATCH]
            marks = ",".join("?" * len(some))
            rows = self._database.query(f"SELECT root, stamp, objects FROM tree WHERE root IN ({marks})", some)
            if len(rows) != len(some):
                raise Overtaken
            for root, stamp, objects in rows:
                if stamp != self._names.tree(root).stamp:
                    raise Overtaken
                yield root, set_of(objects)

    def union(self, roots: Iterable[int]) -> BitMap64:
        """What any of the roots reaches."""
        whole = BitMap64()
        for _, objects in self.trees(roots):
            whole |= objects
        return whole

    def own(self, dataset: int) -> tuple[BitMap64, BitMap64]:
        """What a dataset's head and snapshots reach, and what exactly one of them does."""
        seen, again = BitMap64(), BitMap64()
        held = self._names.held(dataset)
        for root, objects in self.trees(held):
            again |= objects if held[root] > 1 else seen & objects
            seen |= objects
        seen.run_optimize()
        once = seen - again
        once.run_optimize()
        return seen, once
