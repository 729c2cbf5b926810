"""Random histories under quotas and reservations, beside a model of them made from OpenZFS's definitions.

The disk always has ``FREE`` bytes left. What limits refuse is done again without them: then it must exceed them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from lamina.errors import NoSpace, PropertyError
from lamina.pool import Pool
from tests.pool.machine import DATASETS, VALUES, Histories, some
from tests.pool.model import Model, Walk, figures

FREE = 2_000_000
LIMITS = ("quota", "refquota", "reservation", "refreservation")
NEAR = st.tuples(
    st.sampled_from(LIMITS),
    st.sampled_from(["zero", "used", "used", "referenced", "available", "left", "refreserved"]),
    st.sampled_from([-1, 0, 0, 1, 30_000, 120_000]),
)
"""A limit that is near what a dataset uses or has left: there it makes a difference."""

T = TypeVar("T")


@dataclass
class Room:
    """Of one dataset: ``real`` bytes stored, and everything that limits have a part in."""

    real: int
    referenced: int
    alone: int
    figures: dict[str, Any]
    used: int = 0
    children: int = 0
    refreserved: int = 0
    left: int = 0
    available: int = 0
    zero: int = 0


class Limits:
    """Rooms of all datasets, from the figures without limits, by the definitions in zfsprops(7)."""

    def __init__(self, model: Model, walk: Walk, found: dict[str, dict[str, Any]]) -> None:
        self.limits = {
            name: {prop: int(dataset.properties.get(prop, "0")) for prop in LIMITS}
            for name, dataset in model.datasets.items()
        }
        self.root = model.root
        self.datasets = {name: id(dataset) for name, dataset in model.datasets.items()}
        self.rooms = {
            name: Room(found[name]["used"], found[name]["referenced"], alone(model, walk, name), found[name])
            for name in self.datasets
        }
        self.compute()

    def compute(self) -> None:
        """Fill the rooms."""
        for name in sorted(self.rooms, key=len, reverse=True):
            own, room = self.limits[name], self.rooms[name]
            # What the children take beyond what is stored: the reservations that are not used yet.
            more = sum(
                max(self.rooms[one].used, self.limits[one]["reservation"]) - self.rooms[one].real
                for one in self.below(name)
            )
            room.refreserved = max(own["refreservation"] - room.alone, 0)
            room.children = room.figures["usedbychildren"] + more
            room.used = room.real + room.refreserved + more
        for name in sorted(self.rooms, key=len):
            own, room = self.limits[name], self.rooms[name]
            if name == self.root:
                left = FREE + room.real - room.used
            else:
                left = self.rooms[name.rpartition("/")[0]].left + max(own["reservation"] - room.used, 0)
            if own["quota"]:
                left = min(left, own["quota"] - room.used)
            room.left = max(left, 0)
            room.available = room.left + room.refreserved
            if own["refquota"]:
                room.available = min(room.available, max(own["refquota"] - room.referenced, 0))

    def below(self, name: str) -> list[str]:
        """Its children."""
        return [one for one in self.rooms if one.rpartition("/")[0] == name]

    def allows(self, name: str, prop: str, value: int) -> bool:
        """Whether a limit can be set (zfs_ioc_set_prop)."""
        own, room = self.limits[name], self.rooms[name]
        if prop == "quota":
            return value == 0 or value >= max(room.used, own["reservation"])
        if prop == "refquota":
            return value == 0 or value >= max(room.referenced, own["refreservation"])
        if prop == "reservation":
            above = self.rooms[name.rpartition("/")[0]].left if "/" in name else max(FREE + room.real - room.used, 0)
            more = max(room.used, value) - max(room.used, own["reservation"])
            return more <= 0 or (more <= above and not 0 < own["quota"] < value)
        more = max(room.alone, value) - max(room.alone, own["refreservation"])
        return more <= 0 or (more <= room.left and not 0 < own["refquota"] < value)

    def exceeded(self, before: "Limits | None" = None) -> list[str]:
        """Limits that do not hold; ``before``: and that the same dataset met, or exceeded less."""
        found = []
        known = {before.datasets[name]: room for name, room in before.rooms.items()} if before is not None else {}
        for name, room in self.rooms.items():
            old = known.get(self.datasets[name])
            for prop, size in (("quota", room.used), ("refquota", room.referenced)):
                was = 0 if old is None else old.used if prop == "quota" else old.referenced
                if 0 < self.limits[name][prop] < size and size > was:
                    found.append(f"{prop} of {name}")
        reserved = self.reserved()
        if reserved > FREE and (before is None or reserved > before.reserved()):
            found.append("reservations")
        return found

    def reserved(self) -> int:
        """What is kept for reservations in all."""
        top = self.rooms[self.root]
        return top.used - top.real


def alone(model: Model, walk: Walk, name: str) -> int:
    """Bytes that the head of a dataset reaches, and none of its snapshots, and not its origin."""
    dataset = model.datasets[name]
    if dataset.tree() is None:
        return 0
    keys = walk.objects(name)
    for one in dataset.snapshots:
        keys = keys - (walk.objects(f"{name}@{one.tag}") if one.tree is not None else frozenset())
    if dataset.origin is not None and dataset.origin.tree is not None:
        keys = keys - walk.objects(model.name_of(dataset.origin))
    return walk.stored(keys)


class _UnderLimits(Pool):
    """Does again without limits what they have refused."""

    machine: "LimitedHistories"

    def _free(self) -> int:
        return FREE

    def _again(self, do: Callable[[], T]) -> T:
        try:
            return self.machine.limited(do)
        except NoSpace as error:
            self.machine.lift(str(error), strict=False)
            return do()

    def import_image(self, *words: Any, **more: Any) -> Any:
        """See ``Pool``."""
        before = self.machine.traces()
        try:
            return self.machine.limited(lambda: super(_UnderLimits, self).import_image(*words, **more))
        except NoSpace as error:
            assert self.machine.traces() == before
            self.machine.lift(str(error), strict=True)
            return super().import_image(*words, **more)

    def snapshot(self, *words: Any, **more: Any) -> Any:
        """See ``Pool``."""
        return self._again(lambda: super(_UnderLimits, self).snapshot(*words, **more))

    def clone(self, *words: Any, **more: Any) -> Any:
        """See ``Pool``."""
        return self._again(lambda: super(_UnderLimits, self).clone(*words, **more))

    def promote(self, *words: Any, **more: Any) -> Any:
        """See ``Pool``."""
        return self._again(lambda: super(_UnderLimits, self).promote(*words, **more))

    def rollback(self, *words: Any, **more: Any) -> Any:
        """See ``Pool``."""
        return self._again(lambda: super(_UnderLimits, self).rollback(*words, **more))

    def rename(self, *words: Any, **more: Any) -> Any:
        """See ``Pool``."""
        return self._again(lambda: super(_UnderLimits, self).rename(*words, **more))


class LimitedHistories(Histories):
    """Histories in which datasets have limits."""

    def __init__(self) -> None:
        super().__init__()
        self.pool.__class__ = _UnderLimits
        self.pool.machine = self  # type: ignore[attr-defined]
        self.last: Limits | None = None
        """The rooms before the step."""
        self.held = False
        """Whether limits have let the step pass."""
        self.broken: dict[int, dict[str, int]] | None = None
        """The limits that have refused it, by the model's dataset; ``strict``: however much was used before."""
        self.strict = False

    def now(self) -> Limits:
        """The rooms as they should be."""
        walk = Walk(self.pool, self.known)
        return Limits(self.model, walk, figures(self.model, walk))

    def limited(self, do: Callable[[], T]) -> T:
        """Do what limits may refuse."""
        done = do()
        self.held = True
        return done

    def lift(self, message: str, *, strict: bool) -> None:
        """Take all limits away."""
        assert "quota of '" in message or "reserv" in message, message
        assert self.last is not None
        self.broken = {self.last.datasets[name]: limits for name, limits in self.last.limits.items()}
        self.strict = strict
        for name, dataset in self.model.datasets.items():
            for prop in LIMITS:
                if dataset.properties.get(prop, "0") != "0":
                    self.pool.set([name], {prop: "none"})
                    dataset.properties[prop] = "0"

    @rule(number=some, near=NEAR)
    def limit(self, number: int, near: tuple[str, str, int]) -> None:
        """Set a limit."""
        name = self.dataset(number)
        prop, value = self.near(name, near)
        self.set_limit(name, prop, value)

    @rule(number=some, near=NEAR, other=some, step=st.sampled_from(["take_in", "take_in", "snapshot", "move", "clone"]))
    def squeeze(self, number: int, near: tuple[str, str, int], other: int, step: str) -> None:
        """Set a limit, and do at once what it is about."""
        name = self.dataset(number)
        self.limit(number, near)
        self.last = self.now()
        if step == "take_in":
            self.take_in(other, name, str(other % 5))
        elif step == "snapshot":
            self.snapshot(number, str(other % 5), other % 2 == 0)
        elif step == "move":
            self.rename(other, f"{name}/m")
        elif self.snapshots():
            self.clone(other, f"{name}/n")

    def near(self, name: str, near: tuple[str, str, int]) -> tuple[str, int]:
        """(property, size)."""
        prop, what, more = near
        return prop, max(getattr(self.now().rooms[name], what) + more, 0)

    def set_limit(self, name: str, prop: str, value: int) -> None:
        """Set one, if that can be."""
        typed = str(value) if value else "none"
        allowed = self.now().allows(name, prop, value)
        few = "quota" in prop
        words = "size is less than current used or reserved space" if few else "size is greater than available space"
        try:
            self.pool.set([name], {prop: typed})
        except PropertyError as error:
            assert not allowed
            assert str(error) == f"cannot set property for '{name}': {words}"
        else:
            assert allowed
            self.model.datasets[name].properties[prop] = str(value)

    @rule(number=some, at=some)
    def set(self, number: int, at: int) -> None:
        """Set a property."""
        prop, value = VALUES[at % len(VALUES)]
        if prop in LIMITS:
            self.set_limit(self.dataset(number), prop, int(value))
        else:
            super().set(number, at)

    @rule(name=st.sampled_from(DATASETS), near=NEAR)
    def create_limited(self, name: str, near: tuple[str, str, int]) -> None:
        """Create a dataset with a limit."""
        if name in self.model.datasets:
            return
        above = name.rpartition("/")[0]
        while above not in self.model.datasets:
            above = above.rpartition("/")[0]
        prop, value = self.near(above, near)
        typed = str(value) if value else "none"
        allowed = "quota" in prop or value <= self.now().rooms[above].left
        try:
            self.pool.create_dataset(name, {prop: typed}, parents=True)
        except NoSpace as error:
            assert not allowed
            assert str(error).startswith(f"cannot create '{name}': out of space")
        else:
            assert allowed
            self.model.create(name, {prop: str(value)})

    def wanted(self) -> dict[str, dict[str, Any]]:
        """Every figure, with the part that limits have in it."""
        found = super().wanted()
        for name, room in Limits(self.model, Walk(self.pool, self.known), super().wanted()).rooms.items():
            found[name] |= {"used": room.used, "usedbychildren": room.children, "available": room.available}
            found[name]["usedbyrefreservation"] = room.refreserved
        return found

    @invariant()
    def limits(self) -> None:
        """Limits hold, or what they have refused does not hold them."""
        before, held, broken, self.held, self.broken = self.last, self.held, self.broken, None, None
        if held:
            assert not self.now().exceeded(before)
        if broken is not None:
            now = self.now()
            now.limits = {
                name: broken.get(id(dataset), dict.fromkeys(LIMITS, 0)) for name, dataset in self.model.datasets.items()
            }
            now.compute()
            assert now.exceeded(None if self.strict else before)
        self.last = self.now()
