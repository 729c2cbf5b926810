"""Quotas and reservations: what they take from others, what they leave, and what they refuse.

The rules are OpenZFS's (``dsl_dir_space_available``, ``dsl_dir_set_reservation_check`` in module/zfs/dsl_dir.c,
``dsl_dataset_space``, ``dsl_dataset_set_refquota_check`` in dsl_dataset.c; zfsprops(7)), its words too
(lib/libzfs/libzfs_dataset.c). Where OpenZFS adds up blocks, these are the exact sums of accounting.

``quota`` bounds ``used``, ``refquota`` bounds ``referenced``. ``reservation`` keeps space for a dataset and all below
it: what is not used yet counts as used above. ``refreservation`` keeps space for the head alone, beside what snapshots
hold: so a snapshot of it makes the dataset use more, at once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from lamina.errors import NoSpace, PropertyError
from lamina.pool.catalogue import Catalogue, DatasetRow
from lamina.pool.figures.accounting import Accounting, Figures
from lamina.pool.names import parent_of
from lamina.pool.units import format_size

LIMITS = ("quota", "refquota", "reservation", "refreservation")
"""Properties that are limits; 0 is none. They are not inherited."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one dataset in bytes, 0 for none."""

    quota: int = 0
    refquota: int = 0
    reservation: int = 0
    refreservation: int = 0


@dataclass(frozen=True, slots=True)
class Space:
    """What a dataset uses, reservations counted, and what it can still take.

    ``reserved``: of ``used``, what nothing is stored in yet. ``charge``: what it takes from the datasets above it
    without storing anything: that, and what is left of its own reservation. ``room``: what it and all below it can
    still take; ``available`` is the head's.
    """

    used: int
    usedbychildren: int
    usedbyrefreservation: int
    reserved: int
    charge: int
    room: int = 0
    available: int = 0


_NONE = Limits()


def read_limits(catalogue: Catalogue) -> dict[int, Limits]:
    """The limits that are set, by dataset."""
    found: dict[int, Limits] = {}
    for dataset, name, value in catalogue.database.query(
        f"SELECT dataset, name, value FROM dataset_property WHERE name IN {LIMITS} AND value <> '0'"
    ):
        found[dataset] = replace(found.get(dataset, _NONE), **{name: int(value)})
    return found


def spaces(
    rows: Sequence[DatasetRow], limits: Mapping[int, Limits], figures: Mapping[int, Figures], free: int
) -> dict[int, Space]:
    """The space of each dataset; ``rows``: all of them, parents before children; ``free``: bytes that the pool has."""
    by_name = {row.name: row.id for row in rows}
    charged = dict.fromkeys(by_name.values(), 0)
    found: dict[int, Space] = {}
    for row in reversed(rows):
        limit, figure = limits.get(row.id, _NONE), figures.get(row.id, Figures())
        refreserved = max(limit.refreservation - figure.alone, 0)
        reserved = refreserved + charged[row.id]
        used = figure.used + reserved
        charge = reserved + max(limit.reservation - used, 0)
        found[row.id] = Space(used, figure.usedbychildren + charged[row.id], refreserved, reserved, charge)
        above = parent_of(row.name)
        if above is not None:
            charged[by_name[above]] += charge
    for row in rows:
        limit, space = limits.get(row.id, _NONE), found[row.id]
        above = parent_of(row.name)
        if above is None:
            left = max(free - space.reserved, 0)
        else:
            left = found[by_name[above]].room + max(limit.reservation - space.used, 0)
        if limit.quota:
            left = min(left, max(limit.quota - space.used, 0))
        available = left + space.usedbyrefreservation
        if limit.refquota:
            available = min(available, max(limit.refquota - figures.get(row.id, Figures()).referenced, 0))
        found[row.id] = replace(space, room=left, available=available)
    return found


class Ground:
    """The spaces of all datasets at one moment, and what limits would refuse there."""

    def __init__(
        self, rows: Sequence[DatasetRow], limits: Mapping[int, Limits], figures: Mapping[int, Figures], free: int
    ) -> None:
        self._rows = rows
        self._by_name = {row.name: row.id for row in rows}
        self._limits = dict(limits)
        self._figures = figures
        self._free = free
        self.spaces = spaces(rows, limits, figures, free)

    def set(self, name: str, prop: str, value: int) -> None:
        """Set a limit on a dataset here. Raises ``PropertyError`` with OpenZFS's reason where it cannot be met."""
        number = self._by_name[name]
        limit, space = self._limits.get(number, _NONE), self.spaces[number]
        figure = self._figures.get(number, Figures())
        if prop == "quota":
            refused = 0 < value < max(limit.reservation, space.used)
        elif prop == "refquota":
            refused = 0 < value < max(limit.refreservation, figure.referenced)
        elif prop == "reservation":
            more = max(space.used, value) - max(space.used, limit.reservation)
            refused = more > 0 and (more > self._room_above(name) or 0 < limit.quota < value)
        else:
            more = max(figure.alone, value) - max(figure.alone, limit.refreservation)
            refused = more > 0 and (more > space.room or 0 < limit.refquota < value)
        if refused:
            few = "quota" in prop
            raise PropertyError(
                "size is less than current used or reserved space" if few else "size is greater than available space"
            )
        self._limits[number] = replace(limit, **{prop: value})
        self.spaces = spaces(self._rows, self._limits, self._figures, self._free)

    def _room_above(self, name: str) -> int:
        above = parent_of(name)
        if above is not None:
            return self.spaces[self._by_name[above]].room
        return max(self._free - self.spaces[self._by_name[name]].reserved, 0)

    def exceeded(self, name: str, before: "Ground | None" = None) -> str | None:
        """Which limit a dataset, or one above it, exceeds, and what to do; ``before``: only if it uses more than then.

        None: none is.
        """
        number = self._by_name[name]
        refquota = self._limits.get(number, _NONE).refquota
        referenced = self._referenced(number)
        if refquota and referenced > refquota and (before is None or referenced > before._referenced(number)):
            return refusal("refquota", name, refquota)
        above: str | None = name
        while above is not None:
            number = self._by_name[above]
            quota = self._limits.get(number, _NONE).quota
            used = self.spaces[number].used
            if quota and used > quota and (before is None or used > before._used(number)):
                return refusal("quota", above, quota)
            above = parent_of(above)
        # The last one is the pool's own.
        reserved = self.spaces[number].reserved
        if reserved > self._free and (before is None or reserved > before.spaces[number].reserved):
            return self._refuse_reserved(reserved)
        return None

    def _used(self, number: int) -> int:
        return self.spaces[number].used if number in self.spaces else 0

    def _referenced(self, number: int) -> int:
        return self._figures.get(number, Figures()).referenced

    def kept(self, but: Collection[str] = ()) -> tuple[dict[str, int], str]:
        """Bytes that reservations hold back within each dataset if these have none, and who has the most of them."""
        limits = {
            number: limit if row.name not in but else replace(limit, reservation=0, refreservation=0)
            for row in self._rows
            for number, limit in [(row.id, self._limits.get(row.id, _NONE))]
        }
        found = spaces(self._rows, limits, self._figures, self._free)
        own: dict[str, int] = {}
        for row in self._rows:
            space = found[row.id]
            rest = max(limits[row.id].reservation - space.used, 0)
            own[row.name] = rest + space.usedbyrefreservation
        most = max(own, key=lambda name: own[name])
        return {row.name: found[row.id].reserved for row in self._rows}, most

    def _refuse_reserved(self, reserved: int) -> str:
        _, most = self.kept()
        return (
            f"the pool has {format_size(self._free)} left and {format_size(reserved)} of reservations to keep, most of "
            f"them for '{most}'; lower a reservation, or destroy what is not needed"
        )


def refusal(prop: str, name: str, limit: int) -> str:
    """What is wrong when a limit is exceeded, and what to do."""
    return (
        f"the {prop} of '{name}' would be exceeded ({format_size(limit)}); "
        f"raise it with 'lamina set {prop}=SIZE {name}', or destroy what is not needed there"
    )


def ground(catalogue: Catalogue, free: int, *, changed: bool = False) -> Ground:
    """The ground as it is; ``changed``: as the rows are now, inside a transaction that has not ended."""
    accounting = Accounting(catalogue)
    figures = accounting.changed() if changed else accounting.datasets()
    return Ground(catalogue.datasets(), read_limits(catalogue), figures, free)


class Guard:
    """Refuses a change of names that makes a dataset exceed its limits more than before.

    Made before the change; where no limits are set it costs one query.
    """

    def __init__(self, catalogue: Catalogue, free: int) -> None:
        self._catalogue = catalogue
        self._free = free
        self._before = ground(catalogue, free) if read_limits(catalogue) else None

    def check(self, names: Collection[str], what: str) -> None:
        """Inside the change, once its rows are written. ``what`` begins the message: ``cannot rename 'tank/a'``.

        Raises ``NoSpace``.
        """
        if self._before is None and not read_limits(self._catalogue):
            return
        after = ground(self._catalogue, self._free, changed=True)
        for name in names:
            found = after.exceeded(name, self._before)
            if found is not None:
                raise NoSpace(f"{what}: {found}")


def check_set(catalogue: Catalogue, free: int, wanted: Sequence[tuple[str, Mapping[str, str]]], prefix: str) -> None:
    """Raise ``PropertyError`` unless all limits among these properties, by dataset, can be set one after the other.

    ``prefix`` goes before the reason, with the dataset's name in it.
    """
    asked = [(name, prop, int(value)) for name, some in wanted for prop, value in some.items() if prop in LIMITS]
    if not asked:
        return
    here = ground(catalogue, free)
    for name, prop, value in asked:
        try:
            here.set(name, prop, value)
        except PropertyError as error:
            raise PropertyError(prefix.format(name) + str(error)) from None


def check_new(catalogue: Catalogue, free: int, name: str) -> None:
    """Inside the change that makes a dataset, once its properties are set: whether its limits can be met.

    Raises ``NoSpace``, also where a limit above it is exceeded by what it begins with.
    """
    limits = read_limits(catalogue)
    if not limits:
        return
    own = limits.pop(catalogue.dataset(name).id, _NONE)
    here = Ground(catalogue.datasets(), limits, Accounting(catalogue).changed(), free)
    for prop in LIMITS:
        value: int = getattr(own, prop)
        try:
            here.set(name, prop, value)
        except PropertyError as error:
            raise NoSpace(f"cannot create '{name}': out of space: {prop}={format_size(value)}: {error}") from None
