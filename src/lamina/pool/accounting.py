"""What datasets and snapshots use: exact sums over the sets of distinct objects that they reach.

With H, S, C the sets of objects reached by a dataset's head, its snapshots and its children, and O those that its
origin reaches: ``usedbydataset`` is H-O, ``usedbychildren`` C-H, ``usedbysnapshots`` S-H-C, and ``used`` their sum.
``unique`` is what nothing outside reaches: what the pool would get back. A snapshot's ``used`` is what nothing else in
its dataset reaches.

Sets are Roaring bitmaps of row numbers, kept with each root; figures are computed for the whole pool at once and kept
until names change.
"""

import json
from array import array
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from pyroaring import BitMap64

from lamina.errors import LaminaError
from lamina.pool.catalogue import Catalogue, DatasetRow, SnapshotRow
from lamina.store.database import Database

_BLOCK = 1 << 16
_BLOCKS = 32


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums of one dataset or snapshot, in bytes. ``decoded`` and ``refdecoded`` the same sets before compression."""

    used: int = 0
    referenced: int = 0
    usedbydataset: int = 0
    usedbychildren: int = 0
    usedbysnapshots: int = 0
    unique: int = 0
    stored: int = 0
    decoded: int = 0
    refdecoded: int = 0
    logicalused: int = 0
    logicalreferenced: int = 0
    files: int = 0

    def compressratio(self) -> float:
        """Decoded over stored bytes: compression alone."""
        return ratio(self.decoded, self.stored)

    def refcompressratio(self) -> float:
        """The same of what is referenced."""
        return ratio(self.refdecoded, self.referenced)

    def dedupratio(self) -> float:
        """Logical over decoded bytes of the distinct objects: sharing alone."""
        return ratio(self.logicalused, self.decoded)

    def reduction(self) -> float:
        """Logical over stored bytes: what was saved, both together."""
        return ratio(self.logicalused, self.used)


def ratio(numerator: int, denominator: int) -> float:
    """A ratio, truncated to hundredths as OpenZFS does, never below 1."""
    return max(numerator * 100 // denominator, 100) / 100 if denominator else 1.0


class Sizes:
    """Stored and decoded sizes by object row."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._blocks: dict[int, tuple[array[int], array[int]]] = {}

    def sums(self, objects: BitMap64) -> tuple[int, int]:
        """(stored, decoded) bytes of a set of objects."""
        stored = decoded = 0
        block_number = -1
        stored_block: array[int] = array("I")
        decoded_block: array[int] = array("I")
        for number in objects:
            if number >> 16 != block_number:
                block_number = number >> 16
                stored_block, decoded_block = self._block(block_number)
            stored += stored_block[number & 0xFFFF]
            decoded += decoded_block[number & 0xFFFF]
        return stored, decoded

    def _block(self, number: int) -> "tuple[array[int], array[int]]":
        block = self._blocks.get(number)
        if block is None:
            if len(self._blocks) >= _BLOCKS:
                self._blocks.pop(next(iter(self._blocks)))
            block = self._blocks[number] = (array("I", bytes(4 * _BLOCK)), array("I", bytes(4 * _BLOCK)))
            for row, stored, decoded in self._database.query(
                "SELECT id, stored, decoded FROM object WHERE id >= ? AND id < ?", (number << 16, (number + 1) << 16)
            ):
                block[0][row & 0xFFFF] = stored
                block[1][row & 0xFFFF] = decoded
        return block


@dataclass(frozen=True, slots=True)
class _Tree:
    objects: BitMap64
    stored: int
    decoded: int
    data_bytes: int
    files: int


_EMPTY = _Tree(BitMap64(), 0, 0, 0, 0)


class Accounting:
    """Figures of all datasets and snapshots of a pool."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._database = catalogue.database
        self._computed_at = -1

    def figures(self) -> tuple[dict[int, Figures], dict[int, Figures]]:
        """(by dataset row, by snapshot row). Computed if names have changed since they were last kept."""
        kept = self._kept()
        if kept is not None:
            return kept
        figures = self.compute()
        if self._database.writable:
            self.keep(figures)
        return figures

    def refresh(self) -> None:
        """Compute and keep the figures now, so that whoever reads next, and may not write, finds them."""
        if self._kept() is None:
            self.keep(self.compute())

    def _kept(self) -> tuple[dict[int, Figures], dict[int, Figures]] | None:
        rows = self._database.query("SELECT kind, id, figures FROM figure")
        if not rows:
            return None
        found: dict[str, dict[int, Figures]] = {"dataset": {}, "snapshot": {}}
        for kind, number, text in rows:
            found[kind][number] = Figures(*json.loads(text))
        return found["dataset"], found["snapshot"]

    def keep(self, figures: tuple[dict[int, Figures], dict[int, Figures]]) -> None:
        """Keep computed figures if they still hold."""
        try:
            with self._database.transaction():
                if self._computed_at != self._catalogue.generation():
                    return
                self._database.execute_many(
                    "INSERT OR REPLACE INTO figure(kind, id, figures) VALUES (?, ?, ?)",
                    [
                        (kind, number, json.dumps(astuple(one)))
                        for kind, some in zip(("dataset", "snapshot"), figures, strict=True)
                        for number, one in some.items()
                    ],
                )
        except LaminaError:
            return  # a full disk must not make reading fail

    # -- computing ------------------------------------------------------------------------------------------------

    def compute(self) -> tuple[dict[int, Figures], dict[int, Figures]]:
        """All figures from the rows and bitmaps."""
        datasets, some, trees = self._read()
        snapshots: dict[int, list[SnapshotRow]] = {row.id: [] for row in datasets}
        for snapshot in some:
            snapshots[snapshot.dataset].append(snapshot)
        origins = {row.id: row for row in some}
        computation = _Computation(datasets, snapshots, trees, origins, Sizes(self._database))
        return computation.datasets(), computation.snapshots()

    def _read(self) -> tuple[list[DatasetRow], list[SnapshotRow], dict[int, _Tree]]:
        """Rows and trees of one generation: those of another process's change in between are read anew."""
        while True:
            self._computed_at = self._catalogue.generation()
            datasets, snapshots = self._catalogue.datasets(), self._catalogue.snapshots()
            roots = {row.root for row in snapshots} | {row.head for row in datasets}
            trees = self._trees(roots)
            if self._catalogue.generation() == self._computed_at:
                return datasets, snapshots, trees

    def used(self, name: str) -> int:
        """``used`` of one dataset, computed now: for quotas, inside a transaction."""
        datasets, _ = self.compute()
        return datasets[self._catalogue.dataset(name).id].used

    def reclaim(self, doomed: set[str]) -> int:
        """Stored bytes that nothing reaches once the datasets and snapshots of these names are gone."""
        datasets, snapshots, trees = self._read()
        names = {row.id: row.name for row in datasets}
        going: set[int] = set()
        staying: set[int] = set()
        gone: set[int] = set()
        for snapshot in snapshots:
            is_doomed = f"{names[snapshot.dataset]}@{snapshot.name}" in doomed
            if is_doomed:
                gone.add(snapshot.id)
            if snapshot.root is not None:
                (going if is_doomed else staying).add(snapshot.root)
        for row in datasets:
            if row.head is not None:
                (going if row.name in doomed or row.follows in gone else staying).add(row.head)
        lost = _union([trees[root].objects for root in going]) - _union([trees[root].objects for root in staying])
        return Sizes(self._database).sums(lost)[0]

    def _trees(self, roots: set[int | None]) -> dict[int, _Tree]:
        trees: dict[int, _Tree] = {}
        for root, objects, stored, decoded, data_bytes, files in self._database.query(
            "SELECT root, objects, stored, decoded, data_bytes, files FROM tree"
        ):
            if root in roots:
                trees[root] = _Tree(BitMap64.deserialize(objects), stored, decoded, data_bytes, files)
        return trees


class _Computation:
    def __init__(
        self,
        datasets: list[DatasetRow],
        snapshots: dict[int, list[SnapshotRow]],
        trees: dict[int, _Tree],
        snapshot_rows: dict[int, SnapshotRow],
        sizes: Sizes,
    ) -> None:
        self._rows = datasets
        self._snapshot_rows = snapshots
        self._trees = trees
        self._by_id = snapshot_rows
        self._sizes = sizes
        self._own = [self._union([row.head, *(s.root for s in snapshots[row.id])]) for row in datasets]

    def _tree(self, root: int | None) -> _Tree:
        return _EMPTY if root is None else self._trees[root]

    def _union(self, roots: Iterable[int | None]) -> BitMap64:
        return _union([self._trees[root].objects for root in {*roots} if root is not None])

    def datasets(self) -> dict[int, Figures]:
        """Figures of datasets; children come after their parents in the rows, in one run."""
        once = _once(self._own)
        logical: dict[int, int] = {}
        found: dict[int, Figures] = {}
        for at in range(len(self._rows) - 1, -1, -1):
            row = self._rows[at]
            end = at + 1
            while end < len(self._rows) and self._rows[end].name.startswith(row.name + "/"):
                end += 1
            own_logical = sum(s.taken for s in self._snapshot_rows[row.id])
            roots = {s.root for s in self._snapshot_rows[row.id]}
            if row.follows is None and row.head is not None and row.head not in roots:
                own_logical += row.taken
            depth = row.name.count("/") + 1
            children = [r.id for r in self._rows[at + 1 : end] if r.name.count("/") == depth]
            logical[row.id] = own_logical + sum(logical[child] for child in children)
            found[row.id] = self._dataset(at, end, once, logical[row.id])
        return found

    def _dataset(self, at: int, end: int, once: BitMap64, logical: int) -> Figures:
        row = self._rows[at]
        head_tree = self._tree(row.head)
        head = head_tree.objects
        below = _union(self._own[at + 1 : end])
        snapshots = self._union(s.root for s in self._snapshot_rows[row.id])
        origin = self._by_id.get(row.origin) if row.origin is not None else None
        base = self._tree(origin.root).objects if origin is not None else BitMap64()
        if base:
            dataset_stored, dataset_decoded = self._sizes.sums(head - base)
        else:
            dataset_stored, dataset_decoded = head_tree.stored, head_tree.decoded
        child_stored, child_decoded = self._sizes.sums(below - head)
        snap_stored, snap_decoded = self._sizes.sums(snapshots - head - below)
        used = dataset_stored + child_stored + snap_stored
        if end == at + 1:
            unique = self._own[at] & once
        else:
            unique = (self._own[at] | below) - _union(self._own[:at] + self._own[end:])
        return Figures(
            used=used,
            referenced=head_tree.stored,
            usedbydataset=dataset_stored,
            usedbychildren=child_stored,
            usedbysnapshots=snap_stored,
            unique=self._sizes.sums(unique)[0],
            stored=used,
            decoded=dataset_decoded + child_decoded + snap_decoded,
            refdecoded=head_tree.decoded,
            logicalused=logical,
            logicalreferenced=head_tree.data_bytes,
            files=head_tree.files,
        )

    def snapshots(self) -> dict[int, Figures]:
        """Figures of snapshots."""
        found: dict[int, Figures] = {}
        # A head that follows an image is another name of it, not a holder of its own.
        holders = [
            self._tree(root).objects
            for row in self._rows
            for root in ([] if row.follows is not None else [row.head]) + [s.root for s in self._snapshot_rows[row.id]]
        ]
        once = _once(holders)
        for row in self._rows:
            some = self._snapshot_rows[row.id]
            local = _once([self._tree(row.head).objects, *(self._tree(s.root).objects for s in some)])
            for snapshot in some:
                tree = self._tree(snapshot.root)
                found[snapshot.id] = Figures(
                    used=self._sizes.sums(tree.objects & local)[0],
                    referenced=tree.stored,
                    unique=self._sizes.sums(tree.objects & once)[0],
                    stored=tree.stored,
                    decoded=tree.decoded,
                    refdecoded=tree.decoded,
                    logicalused=snapshot.taken,
                    logicalreferenced=tree.data_bytes,
                    files=tree.files,
                )
        return found


def _union(some: list[BitMap64]) -> BitMap64:
    whole = BitMap64()
    for one in some:
        whole |= one
    return whole


def _once(some: list[BitMap64]) -> BitMap64:
    """What exactly one of the sets holds: one pass with "seen" and "seen again"."""
    seen, again = BitMap64(), BitMap64()
    for one in some:
        again |= seen & one
        seen |= one
    return seen - again
