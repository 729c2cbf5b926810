"""What stops an import: a full disk, and limits; noticed as soon as it is certain, and exactly at its commit."""

import time

from pyroaring import BitMap64

from lamina.errors import NoSpace
from lamina.pool.catalogue import Catalogue
from lamina.pool.figures.accounting import Accounting
from lamina.pool.figures.limits import Ground, Limits, ground, read_limits, refusal
from lamina.pool.figures.sums import NOTHING, Sizes, Sum
from lamina.pool.names import parent_of

_EVERY = 0.5
"""Seconds between two looks at the sets: each takes some milliseconds."""


class _Bound:
    """The least that a dataset will use, or reference, once what is taken in is part of it."""

    def __init__(self, prop: str, name: str, limit: int, floor: int, base: BitMap64) -> None:
        """``floor``: bytes that surely stay counted; of what is reached, all that is not in ``base`` comes on top."""
        self.prop = prop
        self.name = name
        self.limit = limit
        self._floor = floor
        self._base = base
        self._more: Sum = NOTHING

    def exceeded(self, reached: BitMap64, sizes: Sizes) -> bool:
        """Whether the limit cannot hold any more."""
        self._more = sizes.sum(reached - self._base, self._more)
        return self._floor + self._more.stored > self.limit


class Intake:
    """Watches over one import into a dataset."""

    def __init__(self, catalogue: Catalogue, dataset: str, name: str, free: int, verb: str = "import") -> None:
        """``name``: the image's, and ``verb``, for messages; ``free``: bytes that the pool can take now."""
        self._catalogue = catalogue
        self._dataset = dataset
        self._what = f"cannot {verb} '{name}'"
        self._sizes = Sizes(catalogue.database)
        self._bounds: list[_Bound] = []
        self._kept = 0
        self._kept_for = ""
        self._next = 0.0
        limits = read_limits(catalogue)
        if limits:
            self._look(limits, free)

    def _look(self, limits: dict[int, Limits], free: int) -> None:
        before = ground(self._catalogue, free)
        chain = [self._dataset]
        while (above := parent_of(chain[-1])) is not None:
            chain.append(above)
        kept, self._kept_for = before.kept(but=chain)
        self._kept = kept[chain[-1]]
        accounting = Accounting(self._catalogue)
        own = self._catalogue.find_dataset(self._dataset)
        for name in chain:
            row = self._catalogue.find_dataset(name)
            limit = limits.get(row.id) if row is not None else None
            if row is None or limit is None:
                continue
            if limit.refquota and name == self._dataset:
                self._bounds.append(_Bound("refquota", name, limit.refquota, 0, BitMap64()))
            if limit.quota:
                counted, stored = accounting.lasting(row.id, own.id if own is not None else None)
                self._bounds.append(_Bound("quota", name, limit.quota, stored + kept[name], counted))

    def check(self, free: int, reached: BitMap64 | None) -> None:
        """Raise ``NoSpace`` if the import cannot succeed. To be called often.

        ``free``: bytes that the pool can take now; ``reached``: objects that are in the image for certain.
        """
        if not free:
            raise NoSpace(
                f"{self._what}: no space left but what is kept so that destroying can finish; "
                "destroy what is not needed, or move the pool to a larger disk"
            )
        if free < self._kept:
            raise NoSpace(
                f"{self._what}: what space is left is reserved, most of it for '{self._kept_for}'; "
                "lower a reservation, or destroy what is not needed"
            )
        if reached is None or not self._bounds or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        reached = reached.copy()  # others go on adding to it
        for bound in self._bounds:
            if bound.exceeded(reached, self._sizes):
                raise NoSpace(f"{self._what}: {refusal(bound.prop, bound.name, bound.limit)}")

    def check_commit(self, free: int) -> None:
        """The same inside the transaction that names the image, exactly."""
        if not read_limits(self._catalogue):
            return
        after: Ground = ground(self._catalogue, free, changed=True)
        found = after.exceeded(self._dataset)
        if found is not None:
            raise NoSpace(f"{self._what}: {found}")
