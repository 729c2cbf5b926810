"""Retention applied to a pool: which snapshots are asked about, what protects them, and the destroying.

A snapshot is never removed while it is held, mounted or the origin of a clone; one of kind ``image`` only when images
are asked for. What a rule keeps is decided for each dataset by itself, what goes is destroyed in one transaction.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from lamina.errors import Busy, NotFound
from lamina.policy.periods import Zone
from lamina.policy.retention import Decision, Reason, Snapshot, decide
from lamina.policy.schedule import automatic_name, newest_of_each, schedule_of
from lamina.pool.mounted import mounted
from lamina.pool.names import check_dataset_name, split_snapshot
from lamina.pool.rules import Retention, parse_retention, parse_schedules

if TYPE_CHECKING:
    from lamina.pool import Entry, Pool, PropertyValue

_TRIES = 5
"""How often to decide anew when what was to go is held, cloned, mounted or gone by the time it is destroyed."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which snapshots of a dataset the rules are about."""

    prefix: str = ""
    pattern: str = "*"
    """A glob over the part after the ``@``."""
    automatic: bool = False
    """Only automatic ones, by the form of their names."""

    def takes(self, name: str) -> bool:
        """Whether a snapshot of this name, the part after the ``@``, is meant."""
        return (
            name.startswith(self.prefix)
            and fnmatchcase(name, self.pattern)
            and not (self.automatic and schedule_of(name) is None)
        )


@dataclass(frozen=True, slots=True)
class Target:
    """A dataset and what to keep of it."""

    dataset: str
    rules: Retention
    selection: Selection
    schedules: tuple[str, ...] = ()
    """Schedules in force: the snapshots that say what they have done last stay."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a prune does, dataset by dataset, the newest snapshot first in each."""

    decisions: list[Decision]
    used: Mapping[str, int]
    """``used`` of each snapshot in bytes, where asked for."""
    reclaim: int
    """Bytes that nothing reaches once all that goes is gone, where asked for."""

    @property
    def doomed(self) -> list[str]:
        """Names of what goes."""
        return [one.snapshot.name for one in self.decisions if not one.keep]


def named_targets(
    pool: "Pool", datasets: Iterable[str], rules: Retention, selection: Selection, *, recursive: bool
) -> list[Target]:
    """The datasets named, ``recursive`` with all below them. Raises ``NotFound``, ``InvalidName``."""
    roots = list(datasets)
    for root in roots:
        check_dataset_name(root, "prune")
    entries = pool.list(roots, recursive=recursive, types=("filesystem",))
    return [Target(entry.name, rules, selection) for entry in entries]


def property_targets(
    pool: "Pool", roots: Iterable[str], *, pattern: str = "*", automatic: bool = False
) -> list[Target]:
    """The datasets at and below ``roots`` (none: of the whole pool) whose property ``retention`` has rules.

    ``automatic``: the rules are about automatic snapshots only, whatever their prefix says. Raises ``NotFound``,
    ``InvalidName``.
    """
    roots = list(roots)
    for root in roots:
        check_dataset_name(root, "prune")
    entries = pool.list(roots, recursive=True, types=("filesystem",))
    targets = []
    for entry, values in zip(entries, pool.get_many(entries, ["retention", "autosnapshot"]), strict=True):
        rules, prefix = parse_retention(str(values["retention"].value))
        if rules:
            schedules = tuple(parse_schedules(str(values["autosnapshot"].value)))
            targets.append(Target(entry.name, rules, Selection(prefix, pattern, automatic), schedules))
    return targets


def plan(
    pool: "Pool", targets: Sequence[Target], now: int, zone: Zone, *, images: bool = False, figures: bool = True
) -> Plan:
    """Decide what would go; nothing is changed. ``now``: seconds since 1970. ``images``: those too.

    ``figures``: also what each takes and what all would give back, which costs time; else both are left out.
    """
    return _settled(lambda: _plan(pool, targets, now, zone, images, figures))


def prune(
    pool: "Pool", targets: Sequence[Target], now: int, zone: Zone, *, images: bool = False, figures: bool = False
) -> Plan:
    """Decide, and destroy what no rule keeps: all of it or, when that fails, nothing. Returns what was decided.

    Raises ``Busy``, ``NotFound`` when others keep changing what is there.
    """

    def attempt() -> Plan:
        made = _plan(pool, targets, now, zone, images, figures)
        if made.doomed:
            pool.destroy_snapshots(made.doomed, measure=False)
        return made

    return _settled(attempt)


def _settled(attempt: Callable[[], Plan]) -> Plan:
    """The first attempt that others do not interfere with."""
    for _ in range(_TRIES - 1):
        try:
            return attempt()
        except (Busy, NotFound):
            continue
    return attempt()


def _plan(pool: "Pool", targets: Sequence[Target], now: int, zone: Zone, images: bool, figures: bool) -> Plan:
    entries: dict[str, list[Entry]] = {target.dataset: [] for target in targets}
    if targets:
        for entry in pool.list([pool.name], recursive=True, types=("snapshot",)):
            dataset, _ = split_snapshot(entry.name)
            if dataset in entries:
                entries[dataset].append(entry)
    chosen = {
        target.dataset: [one for one in entries[target.dataset] if target.selection.takes(_tag(one.name))]
        for target in targets
    }
    asked = [one for some in chosen.values() for one in some]
    names = ["creation", "createtxg", "used"] if figures else ["creation", "createtxg"]
    values = dict(zip((one.name for one in asked), pool.get_many(asked, names), strict=True)) if asked else {}
    shields = _shields(pool, asked)
    decisions: list[Decision] = []
    for target in targets:
        decisions += _decide(target, chosen[target.dataset], values, shields, now, zone, images)
    doomed = [one.snapshot.name for one in decisions if not one.keep]
    return Plan(
        decisions,
        {entry.name: _number(values, entry, "used") for entry in asked} if figures else {},
        pool.destroy_snapshots(doomed, dry_run=True).reclaim if figures and doomed else 0,
    )


def _decide(
    target: Target,
    entries: Sequence["Entry"],
    values: Mapping[str, Mapping[str, "PropertyValue"]],
    shields: Mapping[str, Sequence[str]],
    now: int,
    zone: Zone,
    images: bool,
) -> list[Decision]:
    asked: list[Entry] = []
    apart: list[Entry] = []
    for entry in entries:
        (apart if entry.kind == "image" and not images else asked).append(entry)
    done = _done(target, [entry.name for entry in asked if _number(values, entry, "creation") <= now], now, zone)
    snapshots = [_snapshot(entry, values, (*shields.get(entry.name, ()), *done.get(entry.name, ()))) for entry in asked]
    decisions = decide(snapshots, target.rules, now, zone)
    # An image that nobody asked about takes no part: it must not use up the place of a snapshot.
    reason = (Reason("protected", True, "an image"),)
    decisions += [Decision(_snapshot(entry, values, ()), True, reason) for entry in apart]
    return sorted(decisions, key=lambda one: one.snapshot.order, reverse=True)


def _snapshot(
    entry: "Entry", values: Mapping[str, Mapping[str, "PropertyValue"]], shields: tuple[str, ...]
) -> Snapshot:
    creation, createtxg = _number(values, entry, "creation"), _number(values, entry, "createtxg")
    return Snapshot(entry.name, creation, createtxg, entry.id, shields)


def _number(values: Mapping[str, Mapping[str, "PropertyValue"]], entry: "Entry", name: str) -> int:
    value = values[entry.name][name].value
    return value if isinstance(value, int) else 0


def _done(target: Target, names: Sequence[str], now: int, zone: Zone) -> dict[str, list[str]]:
    """Snapshots by which the schedules in force know what they have done: without them it would be done again.

    ``names`` are those of the past, in the order they were made.
    """
    newest = newest_of_each([_tag(name) for name in names], target.schedules)
    current = {automatic_name(schedule, now, zone) for schedule in target.schedules}
    done: dict[str, list[str]] = {}
    for name in names:
        if _tag(name) in newest or _tag(name) in current:
            done[name] = [f"autosnapshot={schedule_of(_tag(name))} goes by it"]
    return done


def _shields(pool: "Pool", entries: Sequence["Entry"]) -> dict[str, list[str]]:
    """Why snapshots are kept whatever the rules say, by name."""
    asked = {entry.name for entry in entries}
    found: dict[str, list[str]] = {}
    if not asked:
        return found
    for name, tags in _held(pool, asked).items():
        found.setdefault(name, []).append(f"held by {', '.join(tags)}")
    datasets = pool.list([pool.name], recursive=True, types=("filesystem",))
    for dataset, values in zip(datasets, pool.get_many(datasets, ["origin"]), strict=True):
        origin = values["origin"].value
        if isinstance(origin, str) and origin in asked:
            found.setdefault(origin, []).append(f"the origin of {dataset.name}")
    for name, directory in mounted(pool.name).items():
        if name in asked:
            found.setdefault(name, []).append(f"mounted on {directory}")
    return found


def _held(pool: "Pool", names: Collection[str]) -> dict[str, list[str]]:
    """Tags of holds by snapshot."""
    found: dict[str, list[str]] = {}
    for hold in pool.holds(list(names)):
        found.setdefault(hold.snapshot, []).append(hold.tag)
    return found


def _tag(name: str) -> str:
    """The part after the ``@``."""
    return name.partition("@")[2]
