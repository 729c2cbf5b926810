"""When the next automatic snapshot is due, and its name. Nothing here knows a pool.

The name says which period the snapshot stands for, and is a function of it: ``auto-daily-2026-11-23``,
``auto-weekly-2026-11-23`` (the Monday), ``auto-monthly-2026-11-01``, ``auto-hourly-2026-11-23-1400``; an hour that
comes twice, when clocks are turned back, gets ``-2`` the second time. So a period is done when its name is there: a
timer may fire often, late, twice at once or after the clock was set back, and no period gets two snapshots.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lamina.policy.periods import Zone, first_day
from lamina.pool.rules import AUTOMATIC_PREFIX, SCHEDULES

_NAME = re.compile(
    rf"{AUTOMATIC_PREFIX}(?:(hourly)-[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}}00(?:-2)?"
    r"|(daily|weekly|monthly)-[0-9]{4}-[0-9]{2}-[0-9]{2})"
)


@dataclass(frozen=True, slots=True)
class Due:
    """An automatic snapshot that is to be made; ``name`` is the part after the ``@``."""

    schedule: str
    name: str


def automatic_name(schedule: str, now: int, zone: Zone) -> str:
    """Name of the automatic snapshot of the period that ``now`` lies in."""
    local = zone.local(now)
    day = first_day(schedule, local)
    name = f"{AUTOMATIC_PREFIX}{schedule}-{day.year:04d}-{day.month:02d}-{day.day:02d}"
    if schedule != "hourly":
        return name
    return f"{name}-{local.hour:02d}00{'-2' if local.fold else ''}"


def schedule_of(name: str) -> str | None:
    """The schedule that an automatic snapshot of this name was made for; None for a name of another form."""
    match = _NAME.fullmatch(name)
    return None if match is None else match[1] or match[2]


def due(schedules: Collection[str], names: Collection[str], now: int, zone: Zone) -> list[Due]:
    """What is to be made of a dataset that has snapshots called ``names``, the finest schedule first."""
    wanted = (Due(one, automatic_name(one, now, zone)) for one in SCHEDULES if one in schedules)
    return [one for one in wanted if one.name not in names]


def ahead(names: Collection[str], now: int, zone: Zone) -> list[str]:
    """Automatic snapshots among ``names`` of periods that are still to come: the clock was wrong, or is."""
    current = {one: automatic_name(one, now, zone) for one in SCHEDULES}
    # Within a schedule, names sort as their periods do.
    return sorted(name for name in names if (one := schedule_of(name)) is not None and name > current[one])


def next_start(schedule: str, now: int, zone: Zone) -> int:
    """When the period after the current one begins, in seconds since 1970."""
    local = zone.local(now)
    if schedule == "hourly":
        return now - local.minute * 60 - local.second + 3600
    return zone.seconds(_next_day(schedule, local))


def _next_day(schedule: str, local: datetime) -> datetime:
    day = first_day(schedule, local)
    if schedule == "monthly":
        return day.replace(year=day.year + 1, month=1) if day.month == 12 else day.replace(month=day.month + 1)
    return day + timedelta(days=7 if schedule == "weekly" else 1)


def newest_of_each(names: Sequence[str], schedules: Collection[str]) -> set[str]:
    """The last of ``names``, which come in the order they were made, of each schedule.

    They say what has been done, and hold what an unchanged dataset was last seen with.
    """
    found = {one: name for name in names if (one := schedule_of(name)) is not None}
    return {name for one, name in found.items() if one in schedules}
