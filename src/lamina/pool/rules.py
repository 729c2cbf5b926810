"""Retention rules and schedules as values of properties: how they are typed, kept and printed.

``retention`` is one value, ``last=3,daily=7,weekly=4``, so that it is inherited whole: a child that sets its own never
mixes with what its parent says. ``autosnapshot`` is a list of schedules, ``hourly,daily``. What the values mean is
decided in :mod:`lamina.policy`; ``none`` means no rule and no schedule.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.errors import PropertyError
from lamina.pool.names import printable, snapshot_name_error
from lamina.pool.properties import PROPERTIES

PERIODS = ("hourly", "daily", "weekly", "monthly", "yearly")
"""Rules that keep one snapshot a period, the finest first."""

COUNTS = ("last", *PERIODS)
"""Rules that take a number."""

SCHEDULES = ("hourly", "daily", "weekly", "monthly")
"""What ``autosnapshot`` takes, the finest first."""

AUTOMATIC_PREFIX = "auto-"
"""What names of automatic snapshots begin with; ``retention`` is about these unless it says ``prefix=``."""

MAX_COUNT = 999_999_999

_UNITS = {"y": "years", "m": "months", "w": "weeks", "d": "days", "h": "hours"}
_DURATION = re.compile("".join(rf"(?:(?P<{name}>[0-9]{{1,6}}){unit})?" for unit, name in _UNITS.items()))


@dataclass(frozen=True, slots=True)
class Duration:
    """A span of time as the calendar counts it: a day is a day, be it 23 or 25 hours long."""

    years: int = 0
    months: int = 0
    weeks: int = 0
    days: int = 0
    hours: int = 0

    def __str__(self) -> str:
        return "".join(f"{getattr(self, name)}{unit}" for unit, name in _UNITS.items() if getattr(self, name))


@dataclass(frozen=True, slots=True)
class Retention:
    """What to keep: numbers of snapshots, one a period, and an age. 0 and None are rules that are not given."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Duration | None = None

    def __bool__(self) -> bool:
        """Whether any rule is given: without one nothing may be removed."""
        return self.within is not None or any(getattr(self, name) for name in COUNTS)

    def __str__(self) -> str:
        parts = [f"{name}={getattr(self, name)}" for name in COUNTS if getattr(self, name)]
        return ",".join([*parts, f"within={self.within}"] if self.within is not None else parts)


def parse_duration(text: str) -> Duration:
    """Return what ``10d``, ``48h`` or ``1y6m`` means; PropertyError for anything else."""
    match = _DURATION.fullmatch(text)
    found = Duration(**{name: int(value) for name, value in match.groupdict("0").items()}) if match else Duration()
    if not str(found):
        raise PropertyError(
            f"'{printable(text)}' is no duration: numbers with y, m (months), w, d or h, the largest first, such as "
            "10d or 1y6m"
        )
    return found


def parse_count(text: str) -> int:
    """Return the number of a rule; PropertyError unless it is one from 0 to 999999999."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_COUNT))):
        raise PropertyError(f"'{printable(text)}' is no number from 0 to {MAX_COUNT}")
    return int(text)


def parse_retention(text: str) -> tuple[Retention, str]:
    """Return the rules and the prefix that a value of ``retention`` names; ``none`` gives no rule.

    Raises ``PropertyError``.
    """
    prefix = AUTOMATIC_PREFIX
    if text == "none":
        return Retention(), prefix
    counts: dict[str, int] = {}
    within: Duration | None = None
    seen: set[str] = set()
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or name not in (*COUNTS, "within", "prefix"):
            raise PropertyError(
                f"'retention' must be '{PROPERTIES['retention'].values}': '{printable(part)}' is no rule"
            )
        if name in seen:
            raise PropertyError(f"'retention' names '{name}' twice")
        seen.add(name)
        try:
            if name == "within":
                within = parse_duration(value)
            elif name == "prefix":
                prefix = parse_prefix(value)
            elif not (number := parse_count(value)):
                raise PropertyError("a rule that keeps nothing is left out")
            else:
                counts[name] = number
        except PropertyError as error:
            raise PropertyError(f"'retention' has a bad '{name}': {error}") from None
    found = Retention(**counts, within=within)
    if not found:
        raise PropertyError("'retention' must name a rule, such as last=3, or be 'none'")
    return found, prefix


def parse_prefix(text: str) -> str:
    """Return ``text`` if names of snapshots can begin with it; PropertyError else."""
    # With a letter behind it: "." is no name, and begins some.
    if snapshot_name_error(f"pool@{text}x") is not None or "/" in text:
        raise PropertyError(f"'{printable(text)}' cannot begin a snapshot's name")
    return text


def parse_schedules(text: str) -> Sequence[str]:
    """Return the schedules that a value of ``autosnapshot`` names, the finest first. Raises ``PropertyError``."""
    if text == "none":
        return ()
    words = text.split(",")
    for word in words:
        if word not in SCHEDULES:
            raise PropertyError(
                f"'autosnapshot' must be '{PROPERTIES['autosnapshot'].values}': '{printable(word)}' is no schedule"
            )
        if words.count(word) > 1:
            raise PropertyError(f"'autosnapshot' names '{word}' twice")
    return tuple(word for word in SCHEDULES if word in words)


def stored_form(name: str, typed: str) -> str:
    """Return the one form in which a value of ``retention`` or ``autosnapshot`` is kept. Raises ``PropertyError``."""
    if name == "autosnapshot":
        return ",".join(parse_schedules(typed)) or "none"
    found, prefix = parse_retention(typed)
    if not found:
        return "none"
    return str(found) if prefix == AUTOMATIC_PREFIX else f"{found},prefix={prefix}"
