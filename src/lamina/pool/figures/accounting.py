"""What datasets and snapshots use: exact sums over the sets of distinct objects that they reach.

With H, S, C the sets of objects reached by a dataset's head, its snapshots and its children, and O those that its
origin reaches: ``usedbydataset`` is H-O, ``usedbychildren`` C-H, ``usedbysnapshots`` S-H-C, and ``used`` their sum.
``unique`` is what nothing outside reaches: what the pool would get back. A snapshot's ``used`` is what nothing else in
its dataset reaches.

Sets are Roaring bitmaps of row numbers, kept with each root. Figures are not computed when names change but when they
are next asked for: then the datasets whose roots have changed, and those above them, are summed anew, by the
difference to the sets they were before (``pool/figures/ledger.py``).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from pyroaring import BitMap64

from lamina.errors import Busy, DamagedData
from lamina.pool.catalogue import Catalogue
from lamina.pool.figures.ledger import PARTS, Changes, Ledger, kept_generation, resized
from lamina.pool.figures.reach import Overtaken, read_names
from lamina.pool.figures.reckoning import Reckoning
from lamina.pool.figures.sums import Sizes
from lamina.pool.names import split_snapshot

__all__ = ["Accounting", "Figures", "Sizes", "ratio"]

_T = TypeVar("_T")
_TRIES = 20
"""Times that others may change names while figures are computed."""
_FEW = 200
"""Up to so many entries are asked for one by one."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums of one dataset or snapshot, in bytes. ``decoded`` and ``refdecoded`` the same sets before compression.

    ``alone``: what only the head reaches, and neither a snapshot of it nor its origin.
    """

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
    alone: int = 0

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


class Accounting:
    """Figures of the datasets and snapshots of a pool. What one object computed it remembers."""

    def __init__(self, catalogue: Catalogue, *, keep: bool = True) -> None:
        """``keep``: what is computed is kept in the catalogue, if that can be."""
        self._catalogue = catalogue
        self._database = catalogue.database
        self._keep = keep
        self._known: Reckoning | None = None

    # -- asking ---------------------------------------------------------------------------------------------------

    def datasets(self, numbers: Collection[int] | None = None, *, unique: bool = False) -> dict[int, Figures]:
        """Figures by row of these datasets, or of all; of those that are there. ``unique`` costs more."""
        return self._now(lambda: self._datasets(numbers, unique))

    def snapshots(self, numbers: Collection[int] | None = None, *, unique: bool = False) -> dict[int, Figures]:
        """The same of snapshots."""
        return self._now(lambda: self._snapshots(numbers, unique))

    def figures(self) -> tuple[dict[int, Figures], dict[int, Figures]]:
        """(by dataset row, by snapshot row), all of them."""
        return self._now(lambda: (self._datasets(None, True), self._snapshots(None, True)))

    def refresh(self) -> None:
        """Compute and keep what has changed, so that whoever asks next finds it."""
        self._now(lambda: None)

    def compute(self) -> tuple[dict[int, Figures], dict[int, Figures]]:
        """All figures from the rows and bitmaps; nothing that was kept is used, and nothing is kept."""
        fresh = Accounting(self._catalogue, keep=False)

        def look() -> tuple[dict[int, Figures], dict[int, Figures]]:
            fresh._known = fresh._reckon(ignore=True)
            return fresh._datasets(None, True), fresh._snapshots(None, True)

        return fresh._at_one_moment(look)

    def changed(self) -> dict[int, Figures]:
        """Figures of all datasets as the rows are now, inside a transaction that has not ended: for limits."""
        fresh = Accounting(self._catalogue, keep=False)
        fresh._known = fresh._reckon()
        return fresh._datasets(None, False)

    def used(self, name: str) -> int:
        """``used`` of one dataset as the rows are now, inside a transaction that has not ended."""
        return self.changed()[self._catalogue.dataset(name).id].used

    def reached(self) -> BitMap64:
        """The rows of all objects that names reach."""
        return self._at_one_moment(lambda: self._reckon().reached())

    def lasting(self, dataset: int, into: int | None) -> tuple[BitMap64, int]:
        """What goes on being counted in a dataset when the head of ``into``, it or one below, becomes another tree.

        The objects that more reaching of which adds nothing, and the stored bytes that are ``used`` for certain.
        """
        return self._at_one_moment(lambda: self._lasting(dataset, into))

    def reclaim(self, doomed: Collection[str]) -> int:
        """Stored bytes that nothing reaches once the datasets and snapshots of these names are gone."""
        return self._at_one_moment(lambda: self._reclaim(doomed))

    # -- one moment -----------------------------------------------------------------------------------------------

    def _now(self, look: Callable[[], _T]) -> _T:
        def brought_up_to_date() -> _T:
            self._bring()
            return look()

        return self._at_one_moment(brought_up_to_date)

    def _at_one_moment(self, look: Callable[[], _T]) -> _T:
        """What ``look`` finds while nobody changes what names reach."""
        for _ in range(_TRIES):
            generation = self._catalogue.generation()
            try:
                found = look()
            except Overtaken:
                self._known = None
                continue
            if self._catalogue.generation() == generation:
                return found
        if self._catalogue.generation() == generation:
            raise DamagedData("the catalogue is damaged: a root has no totals; 'lamina pool check' says more")
        raise Busy("the names of the pool change faster than figures can be computed; try again")

    def _bring(self) -> None:
        """Have kept figures that hold, or computed ones."""
        generation = self._catalogue.generation()
        if resized(self._database):
            self._known = None
        elif kept_generation(self._database) == generation:
            if self._known is not None and self._known.names.generation != generation:
                self._known = None
            return
        if self._known is None or self._known.names.generation != generation:
            self._known = self._reckon()
            self._save(self._known)

    def _save(self, reckoning: Reckoning) -> None:
        if self._keep:
            reckoning.ledger.save()

    def _reckon(self, *, ignore: bool = False) -> Reckoning:
        repaired = bool(resized(self._database))
        names = read_names(self._catalogue)
        ledger = Ledger(self._database, names.generation, ignore=ignore)
        reckoning = Reckoning(self._database, names, ledger)
        if repaired:
            reckoning.measure_again()
        reckoning.run()
        return reckoning

    # -- putting figures together ---------------------------------------------------------------------------------

    def _datasets(self, numbers: Collection[int] | None, unique: bool) -> dict[int, Figures]:
        new, kept = self._sources()
        where, asked = _among("d.id", numbers)
        rows = self._database.query(
            "SELECT d.id, d.head, r.logical, t.stored, t.decoded, t.data_bytes, t.files FROM dataset d "
            f"LEFT JOIN reach r ON r.dataset = d.id LEFT JOIN tree t ON t.root = d.head {where}",
            asked,
        )
        sums: dict[tuple[int, str], tuple[int, int]] = {}
        if kept:
            where, asked = _among("dataset", numbers, "part <> 'unique' OR generation = ?")
            for dataset, part, stored, decoded in self._database.query(
                f"SELECT dataset, part, stored, decoded FROM figure {where}",
                (*asked, self._catalogue.generation()),
            ):
                sums[dataset, part] = (stored, decoded)
        for key, one in new.figures.items():
            sums.pop(key, None)
            if one is not None:
                sums[key] = (one.stored, one.decoded)
        wanted = [row[0] for row in rows if numbers is None or row[0] in numbers]
        missing = [number for number in wanted if unique and (number, "unique") not in sums]
        if missing:
            reckoning = self._reckoning()
            missing = [number for number in missing if number in reckoning.names.by_id]
            reckoning.unique_datasets(missing)
            for number in missing:
                only = reckoning.ledger.new.figures[number, "unique"]
                sums[number, "unique"] = (only.stored, 0) if only is not None else (0, 0)
            self._save(reckoning)
        trees = new.trees
        return {
            number: _figures_of_dataset(
                [sums.get((number, part), (0, 0)) for part in (*PARTS, "unique")],
                new.reaches[number].logical if number in new.reaches else logical or 0,
                trees.get(head, (stored or 0, decoded or 0)),
                (data_bytes or 0, files or 0),
            )
            for number, head, logical, stored, decoded, data_bytes, files in rows
            if numbers is None or number in numbers
        }

    def _snapshots(self, numbers: Collection[int] | None, unique: bool) -> dict[int, Figures]:
        new, kept = self._sources()
        where, asked = _among("s.id", numbers)
        rows = self._database.query(
            "SELECT s.id, s.dataset, s.root, s.taken, t.stored, t.decoded, t.data_bytes, t.files, u.stored, q.stored "
            "FROM snapshot s LEFT JOIN tree t ON t.root = s.root "
            "LEFT JOIN share u ON u.dataset = s.dataset AND u.root = s.root AND u.part = 'used' "
            "LEFT JOIN share q ON q.dataset = s.dataset AND q.root = s.root AND q.part = 'unique' "
            f"AND q.generation = ? {where}",
            (self._catalogue.generation(), *asked),
        )
        if numbers is not None:
            rows = [row for row in rows if row[0] in numbers]
        used = {(dataset, root): one for (dataset, root, part), one in new.shares.items() if part == "used"}
        alone = {
            (dataset, root): one.stored
            for (dataset, root, part), one in new.shares.items()
            if part == "unique" and one is not None
        }
        if unique:
            missing: dict[int, set[int]] = {}
            for row in rows:
                _, dataset, root, *_, only = row
                known = kept and only is not None and new.shares.get((dataset, root, "unique"), only) is not None
                if root is not None and not known and (dataset, root) not in alone:
                    missing.setdefault(dataset, set()).add(root)
            alone |= self._unique_roots(missing)
        found: dict[int, Figures] = {}
        for number, dataset, root, taken, stored, decoded, data_bytes, files, share, only in rows:
            if root is None:
                found[number] = Figures(logicalused=taken)
                continue
            if not kept:
                share, only = 0, 0
            if (dataset, root) in used:
                one = used[dataset, root]
                share = 0 if one is None else one.stored
            stored, decoded = new.trees.get(root, (stored, decoded))
            found[number] = Figures(
                used=share or 0,
                referenced=stored,
                unique=alone.get((dataset, root), only or 0),
                stored=stored,
                decoded=decoded,
                refdecoded=decoded,
                logicalused=taken,
                logicalreferenced=data_bytes,
                files=files,
            )
        return found

    def _unique_roots(self, missing: dict[int, set[int]]) -> dict[tuple[int, int], int]:
        found: dict[tuple[int, int], int] = {}
        if not missing:
            return found
        reckoning = self._reckoning()
        for dataset, roots in missing.items():
            if dataset not in reckoning.names.by_id:
                raise Overtaken
            reckoning.unique_roots(dataset, roots)
            for root in roots:
                one = reckoning.ledger.new.shares[dataset, root, "unique"]
                assert one is not None
                found[dataset, root] = one.stored
        self._save(reckoning)
        return found

    def _sources(self) -> tuple[Changes, bool]:
        """What was computed and is not kept, and whether what is kept may be used beside it."""
        return (
            (self._known.ledger.new, not self._known.ledger.ignores) if self._known is not None else (Changes(), True)
        )

    def _reckoning(self) -> Reckoning:
        if self._known is None:
            self._known = self._reckon()
        return self._known

    def _lasting(self, dataset: int, into: int | None) -> tuple[BitMap64, int]:
        reckoning = self._reckon()
        row = reckoning.names.by_id.get(dataset)
        if row is None:  # destroyed meanwhile
            return BitMap64(), 0
        counted = reckoning.ledger.sets(dataset).all()
        head = reckoning.names.by_id.get(into) if into is not None else None
        if head is not None and head.follows is None:
            counted = counted - (reckoning.tree(head.head) & reckoning.ledger.sets(head.id).once)
        base = reckoning.tree(reckoning.names.origin(row))
        return counted | base, Sizes(self._database).sums(counted - base)[0]

    def _reclaim(self, doomed: Collection[str]) -> int:
        reckoning = self._reckon()
        names = reckoning.names
        snapshots: dict[str, set[str]] = {}
        datasets: set[str] = set()
        for name in doomed:
            dataset, snapshot = split_snapshot(name)
            if snapshot is None:
                datasets.add(name)
            else:
                snapshots.setdefault(dataset, set()).add(snapshot)
        going: dict[int, list[int]] = {}
        kept: dict[int, list[int]] = {}
        for row in names.datasets:
            if row.name not in snapshots and row.name not in datasets:
                continue
            gone = snapshots.get(row.name, set())
            mine = self._database.query("SELECT id, name, root FROM snapshot WHERE dataset = ?", (row.id,))
            stay = {root for _, name, root in mine if name not in gone}
            go = {root for _, name, root in mine if name in gone}
            goes = row.name in datasets or row.follows in {number for number, name, _ in mine if name in gone}
            (go if goes else stay).add(row.head)
            going[row.id] = [root for root in go if root is not None]
            kept[row.id] = [root for root in stay if root is not None]
        return Sizes(self._database).sums(reckoning.lost(going, kept))[0]


def _figures_of_dataset(
    sums: list[tuple[int, int]], logical: int, tree: tuple[int, int], totals: tuple[int, int]
) -> Figures:
    dataset, children, snapshots, head, unique = sums
    used = dataset[0] + children[0] + snapshots[0]
    return Figures(
        used=used,
        referenced=tree[0],
        usedbydataset=dataset[0],
        usedbychildren=children[0],
        usedbysnapshots=snapshots[0],
        unique=unique[0],
        stored=used,
        decoded=dataset[1] + children[1] + snapshots[1],
        refdecoded=tree[1],
        logicalused=logical,
        logicalreferenced=totals[0],
        files=totals[1],
        alone=head[0],
    )


def _among(column: str, numbers: Collection[int] | None, condition: str = "") -> tuple[str, tuple[int, ...]]:
    """A WHERE clause with its parameters: of few numbers each, of many everything."""
    conditions = [f"({condition})"] if condition else []
    asked: tuple[int, ...] = ()
    if numbers is not None and len(numbers) <= _FEW:
        asked = tuple(numbers)
        conditions.insert(0, f"{column} IN ({','.join('?' * len(asked))})")
    return ("WHERE " + " AND ".join(conditions) if conditions else ""), asked
