"""Hours, days, weeks, months and years of a time zone, as labels that tell two of them apart.

A day is what the calendar calls one: 23 or 25 hours long when clocks are turned. An hour that comes twice, because
they were turned back, is two hours. Weeks are ISO 8601's: they begin on Monday and belong to the year of their
Thursday.
"""

import calendar
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from lamina.errors import LaminaError, UsageError
from lamina.pool.names import printable
from lamina.pool.rules import Duration

AGAIN = " again"
"""Ends the label of an hour that comes for the second time."""

_PLACE = re.compile(r":?([A-Za-z_+-]+(?:/[A-Za-z0-9_+-]+)+)")
"""What in ``TZ`` is a zone of the database, and not a rule such as ``CET-1CEST``."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A time zone; ``info`` None is the system's local time."""

    info: tzinfo | None = None

    def local(self, seconds: int) -> datetime:
        """What clocks show at a time in seconds since 1970: a naive datetime, with its ``fold``.

        Times that no calendar has are the first or the last that it has.
        """
        try:
            return datetime.fromtimestamp(seconds, self.info).replace(tzinfo=None)
        except (OverflowError, OSError, ValueError):
            return datetime.max if seconds > 0 else datetime.min

    def seconds(self, local: datetime) -> int:
        """The first second since 1970 at which clocks show ``local``, or jump over it."""
        return int(local.replace(tzinfo=self.info, fold=0).timestamp())


def open_zone(name: str | None = None) -> Zone:
    """The zone of this name in the system's database, such as ``Europe/Berlin``; None: local time.

    Raises ``UsageError`` for a name that is none and ``LaminaError`` where the machine has no database.
    """
    if name is None:
        # The C library takes a zone that it cannot find for UTC and says nothing.
        place = _PLACE.fullmatch(os.environ.get("TZ", ""))
        if place is not None:
            _named(place[1])
        return Zone()
    return Zone(_named(name))


def _named(name: str) -> tzinfo:
    from datetime import UTC
    from zoneinfo import TZPATH, ZoneInfo

    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        pass
    if not any(os.path.isdir(path) for path in TZPATH):
        raise LaminaError(
            f"cannot find time zone '{printable(name)}': this machine has no time zone database; install the package "
            "tzdata, or use UTC"
        )
    raise UsageError(f"unknown time zone '{printable(name)}': a name such as Europe/Berlin or UTC is expected")


def _hour(local: datetime) -> str:
    return f"{_day(local)} {local.hour:02d}:00{AGAIN if local.fold else ''}"


def _day(local: datetime) -> str:
    return f"{local.year:04d}-{local.month:02d}-{local.day:02d}"


def _week(local: datetime) -> str:
    year, week, _ = local.isocalendar()
    return f"{year:04d}-W{week:02d}"


def _month(local: datetime) -> str:
    return f"{local.year:04d}-{local.month:02d}"


def _year(local: datetime) -> str:
    return f"{local.year:04d}"


PERIOD: Mapping[str, Callable[[datetime], str]] = {
    "hourly": _hour,
    "daily": _day,
    "weekly": _week,
    "monthly": _month,
    "yearly": _year,
}
"""Rule to what names the period that a local time lies in: ``2026-11-23 14:00``, ``2026-11-23``, ``2026-W48``,
``2026-11``, ``2026``."""


def first_day(schedule: str, local: datetime) -> datetime:
    """Midnight of the first day of the week, month or day that ``local`` lies in."""
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if schedule == "weekly":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if schedule == "monthly" else day


def before(now: int, duration: Duration, zone: Zone) -> int:
    """The time that lies ``duration`` before ``now``, in seconds since 1970.

    Years to days go by the calendar, the same time of day; a day that the month does not have is its last one. Hours
    are of 3600 seconds. What lies before all calendars is the beginning of time.
    """
    local = zone.local(now)
    months = local.year * 12 + local.month - 1 - duration.years * 12 - duration.months
    year, month = divmod(months, 12)
    try:
        if months != local.year * 12 + local.month - 1:
            length = calendar.monthrange(year, month + 1)[1]
            local = local.replace(year=year, month=month + 1, day=min(local.day, length), fold=0)
        days = duration.weeks * 7 + duration.days
        if days:
            local = (local - timedelta(days=days)).replace(fold=0)
        # Without a step of the calendar the hour that comes twice must stay the one it is.
        start = now if local == zone.local(now) else zone.seconds(local)
        return start - duration.hours * 3600
    except (OverflowError, ValueError, calendar.IllegalMonthError):
        return -(1 << 62)
