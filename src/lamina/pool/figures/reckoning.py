"""Brings the sums of a pool up to date: what has changed is found by fingerprints, and summed by its difference."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from pyroaring import BitMap64

from lamina.pool.catalogue import DatasetRow
from lamina.pool.figures.ledger import Ledger, Reach, ReachSets, resized
from lamina.pool.figures.reach import Names, Overtaken, Sets
from lamina.pool.figures.sums import NOTHING, Sizes, Sum
from lamina.store.database import Database


class Reckoning:
    """Sums of one moment. Methods raise ``Overtaken`` where another process has changed what they are made of."""

    def __init__(self, database: Database, names: Names, ledger: Ledger) -> None:
        self.names = names
        self.ledger = ledger
        self._database = database
        self._sets = Sets(database, names)
        self._sizes = Sizes(database)
        self._masks: dict[int, BitMap64] = {}

    def tree(self, root: int | None) -> BitMap64:
        """All objects that a root reaches."""
        return self._sets.tree(root)

    def run(self) -> None:
        """Compute all sums that do not hold any more, but for ``unique``."""
        prints: dict[int, bytes] = {}
        logical: dict[int, int] = {}
        for row in reversed(self.names.datasets):
            children = self.names.children[row.id]
            own = self.names.own_print(row.id)
            prints[row.id] = self.names.whole_print(row.id, own, [prints[child] for child in children])
            logical[row.id] = self.names.logical(row.id) + sum(logical[child] for child in children)
            found = Reach(own, prints[row.id], logical[row.id])
            known = self.ledger.reach(row.id)
            if known == found:
                continue
            self.ledger.new.reaches[row.id] = found
            if known is None or known.whole != found.whole:
                self._sum_dataset(row, known is None or known.own != own)

    def measure_again(self) -> None:
        """Take note of objects whose sizes have changed: sums over sets that hold them are made anew."""
        self.ledger.new.resized = resized(self._database)
        changed = BitMap64([number for number, _ in self.ledger.new.resized])
        self.ledger.measure_again(changed, self._sizes)
        for root, objects in self._sets.trees(self.names.trees):
            if changed.intersect(objects):
                stored, decoded = self.ledger.new.trees[root] = self._sizes.sums(objects)
                self.names.trees[root] = replace(self.names.trees[root], stored=stored, decoded=decoded)

    def _sum_dataset(self, row: DatasetRow, changed: bool) -> None:
        """Sums of a dataset in which something changed; ``changed``: among its own roots."""
        below = BitMap64()
        for child in self.names.children[row.id]:
            below |= self.ledger.sets(child).all()
        below.run_optimize()
        if changed:
            own, once = self._sets.own(row.id)
        else:
            kept = self.ledger.sets(row.id)
            own, once = kept.own, kept.once
        self.ledger.new.sets[row.id] = ReachSets(own, once, below)
        head = self._sets.tree(row.head)
        base = self._sets.tree(self.names.origin(row))
        known = self.ledger.figures(row.id)
        for part, objects in (
            ("dataset", head - base if base else head),
            ("children", below - head),
            ("snapshots", own - head - below),
            ("head", (head & once) - base if row.follows is None else BitMap64()),
        ):
            if part == "dataset" and not base and row.head is not None:
                tree = self.names.tree(row.head)
                self._put(row.id, part, Sum(tree.stored, tree.decoded, head), known)
            else:
                self._put(row.id, part, self._sizes.sum(objects, known.get(part)), known)
        if changed:
            self._sum_roots(row, once - head if row.follows is not None else once)

    def _put(self, dataset: int, part: str, one: Sum, known: dict[str, Sum]) -> None:
        before = known.get(part, NOTHING)
        if one is not before and one != before:
            self.ledger.new.figures[dataset, part] = one

    def _sum_roots(self, row: DatasetRow, once: BitMap64) -> None:
        """What each root of a dataset has alone; ``once``: what one snapshot reaches, and nothing beside it."""
        roots = self.names.roots.get(row.id, {})
        known = self.ledger.shares(row.id)
        shares = self.ledger.new.shares
        alone = [root for root, count in roots.items() if count == 1 and root != row.head]
        for root, objects in self._sets.trees(alone):
            before = known.get((root, "used"), NOTHING)
            one = self._sizes.sum(objects & once, before)
            if one is not before and one != before:
                shares[row.id, root, "used"] = one
        for root, part in known:
            if root not in roots or (part == "used" and (roots[root] > 1 or root == row.head)):
                shares[row.id, root, part] = None

    # -- unique ---------------------------------------------------------------------------------------------------

    def unique_datasets(self, wanted: Iterable[int]) -> None:
        """What nothing outside a dataset and all below it reaches, of each."""
        for dataset in wanted:
            objects = self.ledger.sets(dataset).all()
            above = self.names.above[dataset]
            if above is not None:
                objects = objects & self._mask(above)
            known = self.ledger.figures(dataset).get("unique")
            self.ledger.new.figures[dataset, "unique"] = self._sizes.sum(objects, known)

    def unique_roots(self, dataset: int, wanted: Collection[int]) -> None:
        """What no other snapshot and no other dataset reaches, of each of these roots of a dataset."""
        held = self.names.held(dataset)
        if not held.keys() >= set(wanted):
            raise Overtaken
        known = self.ledger.shares(dataset)
        shares = self.ledger.new.shares
        alone = [root for root in wanted if held[root] == 1]
        shares.update({(dataset, root, "unique"): NOTHING for root in wanted})
        if alone:
            mask = self._mask(dataset) & self.ledger.sets(dataset).once
            for root, objects in self._sets.trees(alone):
                shares[dataset, root, "unique"] = self._sizes.sum(objects & mask, known.get((root, "unique")))

    def _mask(self, dataset: int) -> BitMap64:
        """Objects that nothing outside a dataset reaches, and of it only its own roots, or one of its children."""
        found = self._masks.get(dataset)
        if found is None:
            seen, again = self.ledger.sets(dataset).own, BitMap64()
            for child in self.names.children[dataset]:
                objects = self.ledger.sets(child).all()
                again |= seen & objects
                seen = seen | objects
            found = seen - again
            above = self.names.above[dataset]
            if above is not None:
                found &= self._mask(above)
            self._masks[dataset] = found
        return found

    # -- what would be left ---------------------------------------------------------------------------------------

    def reached(self) -> BitMap64:
        """Every object that a name reaches."""
        return self.ledger.sets(self.names.datasets[0].id).all()

    def lost(self, going: dict[int, list[int]], kept: dict[int, list[int]]) -> BitMap64:
        """What nothing reaches any more once roots are gone.

        ``going``: those by dataset. ``kept``: the roots that stay of each of these datasets.
        """
        lost = self._sets.union({root for some in going.values() for root in some})
        for roots in kept.values():
            if lost:
                lost -= self._sets.union(roots)
        for row in self.names.datasets:
            if lost and row.id not in kept:
                lost -= self.ledger.sets(row.id).own
        return lost
