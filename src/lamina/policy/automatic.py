"""Automatic snapshots: those that are due are made, then retention thins out what was made so before.

What is due of many datasets is made in one transaction, so that it is of one moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lamina.errors import AlreadyExists, NoSpace, NotFound
from lamina.policy import pruning
from lamina.policy.periods import Zone
from lamina.policy.pruning import Plan
from lamina.policy.schedule import ahead, due, next_start, schedule_of
from lamina.pool.names import check_dataset_name, snapshot_name_error, split_snapshot
from lamina.pool.rules import parse_schedules

if TYPE_CHECKING:
    from lamina.pool import Pool

_TRIES = 5
"""How often to look anew when another process made or destroyed what this one was about to."""


@dataclass(frozen=True, slots=True)
class Automatic:
    """What a run did, or would do."""

    made: list[str] = field(default_factory=list)
    """Snapshots made, by full name."""
    unchanged: list[str] = field(default_factory=list)
    """Snapshots that were due, and left out because nothing had changed since the schedule's last one."""
    ahead: list[str] = field(default_factory=list)
    """Automatic snapshots of periods that are still to come: the clock was wrong when they were made, or is now."""
    refused: list[str] = field(default_factory=list)
    """Why snapshots that are due cannot be made, a line each."""
    scheduled: int = 0
    """Datasets that have a schedule."""
    next: int | None = None
    """When something is due again at the earliest, in seconds since 1970; None when nothing has a schedule."""
    pruned: Plan = field(default_factory=lambda: Plan([], {}, 0))
    """What retention decided; ``pruned.doomed`` is gone."""


def run(
    pool: "Pool",
    now: int,
    *,
    roots: Sequence[str] = (),
    zone: Zone | None = None,
    always: bool = False,
    prune: bool = True,
    dry_run: bool = False,
    figures: bool = False,
) -> Automatic:
    """Make the automatic snapshots that are due at and below ``roots`` (none: in the whole pool), then prune.

    ``now``: seconds since 1970. ``always``: also of datasets that have not changed since the schedule's last one.
    ``figures``: also compute what each pruned snapshot takes. Safe to call at any time and by several processes.
    Raises ``NotFound``, ``InvalidName``, ``NoSpace``, ``Busy``.
    """
    zone = zone or Zone()
    full: NoSpace | None = None
    try:
        made = _make(pool, now, roots, zone, always, dry_run)
    except NoSpace as error:
        # Pruning frees space: what cannot be made now can be the next time.
        full, made = error, Automatic()
    if prune:
        targets = pruning.property_targets(pool, roots, automatic=True)
        act = pruning.plan if dry_run else pruning.prune
        made = replace(made, pruned=act(pool, targets, now, zone, figures=figures))
    if full is not None:
        raise full
    return made


def _make(pool: "Pool", now: int, roots: Sequence[str], zone: Zone, always: bool, dry_run: bool) -> Automatic:
    tries = 0
    while True:
        tries += 1
        found = _find(pool, now, roots, zone, always)
        if dry_run or not found.made:
            return found
        try:
            pool.snapshot(found.made)
        except (AlreadyExists, NotFound):
            if tries == _TRIES:
                raise
        else:
            return found


def _find(pool: "Pool", now: int, roots: Sequence[str], zone: Zone, always: bool) -> Automatic:
    """What is due now."""
    for root in roots:
        check_dataset_name(root, "create snapshots of")
    entries = pool.list(roots, recursive=True, types=("filesystem",))
    schedules: dict[str, Sequence[str]] = {}
    for entry, values in zip(entries, pool.get_many(entries, ["autosnapshot"]), strict=True):
        if wanted := parse_schedules(str(values["autosnapshot"].value)):
            schedules[entry.name] = wanted
    if not schedules:
        return Automatic()
    names: dict[str, list[str]] = {dataset: [] for dataset in schedules}
    for entry in pool.list(roots, recursive=True, types=("snapshot",)):
        dataset, tag = split_snapshot(entry.name)
        if dataset in names and tag is not None:
            names[dataset].append(tag)
    starts = [next_start(schedule, now, zone) for some in schedules.values() for schedule in some]
    found = Automatic(scheduled=len(schedules), next=min(starts))
    for dataset, wanted in schedules.items():
        found.ahead.extend(f"{dataset}@{tag}" for tag in ahead(names[dataset], now, zone))
        for one in due(wanted, set(names[dataset]), now, zone):
            name = f"{dataset}@{one.name}"
            last = [tag for tag in names[dataset] if schedule_of(tag) == one.schedule][-1:]
            if not always and _unchanged(pool, dataset, last):
                found.unchanged.append(name)
            elif (reason := snapshot_name_error(name)) is not None:
                found.refused.append(f"cannot create snapshot '{name}': {reason}")
            else:
                found.made.append(name)
    return found


def _unchanged(pool: "Pool", dataset: str, last: Sequence[str]) -> bool:
    """Whether the dataset holds what its snapshot ``last`` holds; with none, whether it holds nothing."""
    head = pool.root(dataset)
    return head == pool.root(f"{dataset}@{last[0]}") if last else head is None
