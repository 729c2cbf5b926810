"""Hours, days, weeks and durations where clocks are turned."""

import time
import zoneinfo
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import LaminaError, UsageError
from lamina.policy.periods import PERIOD, Zone, before, open_zone
from lamina.pool.rules import Duration, parse_duration
from tests.policy.zones import at, moments, zone, zones

BERLIN = zone("Europe/Berlin")


@pytest.mark.parametrize(
    ("moment", "rule", "label"),
    [
        ("2026-11-23T13:59:59", "hourly", "2026-11-23 14:00"),
        ("2026-11-22T23:00:00", "daily", "2026-11-23"),
        ("2026-11-22T22:59:59", "daily", "2026-11-22"),
        ("2026-11-22T22:59:59", "weekly", "2026-W47"),
        ("2026-11-22T23:00:00", "weekly", "2026-W48"),
        # Weeks belong to the year of their Thursday.
        ("2027-01-03T12:00:00", "weekly", "2026-W53"),
        ("2024-12-30T12:00:00", "weekly", "2025-W01"),
        ("2026-12-31T23:00:00", "monthly", "2027-01"),
        ("2026-12-31T23:00:00", "yearly", "2027"),
        ("0001-01-01T00:00:00+00:00", "yearly", "0001"),
        # The hour from two to three comes twice on 25 October, and not at all on 29 March.
        ("2026-10-25T00:30:00", "hourly", "2026-10-25 02:00"),
        ("2026-10-25T01:30:00", "hourly", "2026-10-25 02:00 again"),
        ("2026-03-29T01:00:00", "hourly", "2026-03-29 03:00"),
    ],
)
def test_labels(moment: str, rule: str, label: str) -> None:
    assert PERIOD[rule](BERLIN.local(at(moment))) == label


def hours_of(day: str, name: str) -> int:
    """How many hours of a zone lie in a day of it, counted second by quarter of an hour."""
    start = at(day) - 40 * 3600
    found = {PERIOD["hourly"](zone(name).local(start + step * 900)) for step in range(4 * 100)}
    return sum(label.startswith(day) for label in found)


def test_days_have_23_24_and_25_hours() -> None:
    assert [hours_of(day, "Europe/Berlin") for day in ("2026-03-29", "2026-06-01", "2026-10-25")] == [23, 24, 25]
    assert [hours_of(day, "America/Havana") for day in ("2026-03-08", "2026-11-01")] == [23, 25]
    assert hours_of("2026-10-25", "Antarctica/Troll") == 26


@given(st.data(), zones)
def test_a_period_is_one_stretch_of_time(data: st.DataObject, name: str) -> None:
    one, other = sorted((data.draw(moments(name)), data.draw(moments(name))))
    between = data.draw(st.integers(one, other))
    for rule, label in PERIOD.items():
        labels = [label(zone(name).local(moment)) for moment in (one, between, other)]
        if labels[0] == labels[2]:
            assert labels[1] == labels[0], rule


@given(st.data(), zones)
def test_hours_are_told_apart_by_their_offset_too(data: st.DataObject, name: str) -> None:
    one, other = data.draw(moments(name)), data.draw(moments(name))
    labels = [PERIOD["hourly"](zone(name).local(moment)) for moment in (one, other)]
    clocks = [datetime.fromtimestamp(moment, ZoneInfo(name)) for moment in (one, other)]
    same = [f"{clock:%Y-%m-%d %H}" for clock in clocks]
    assert (labels[0] == labels[1]) == (same[0] == same[1] and clocks[0].utcoffset() == clocks[1].utcoffset())


@pytest.mark.parametrize(
    ("now", "duration", "since"),
    [
        ("2026-11-23T12:00:00", "10d", "2026-11-13T12:00:00"),
        ("2026-11-23T12:00:00", "48h", "2026-11-21T12:00:00"),
        # Noon the day before is 25 hours ago when clocks were turned back, 23 when forward.
        ("2026-10-25T11:00:00", "1d", "2026-10-24T10:00:00"),
        ("2026-10-25T11:00:00", "24h", "2026-10-24T11:00:00"),
        ("2026-03-29T10:00:00", "1d", "2026-03-28T11:00:00"),
        ("2026-10-26T11:00:00", "1w", "2026-10-19T10:00:00"),
        # The last day of a month that has it.
        ("2026-03-31T10:00:00", "1m", "2026-02-28T11:00:00"),
        ("2024-03-31T10:00:00", "1m", "2024-02-29T11:00:00"),
        ("2024-02-29T11:00:00", "1y", "2023-02-28T11:00:00"),
        ("2026-01-15T11:00:00", "1m", "2025-12-15T11:00:00"),
        ("2026-01-15T11:00:00", "1y13m", "2023-12-15T11:00:00"),
        ("2026-07-15T10:00:00", "1y6m2w10d3h", "2024-12-22T08:00:00"),
        # Half past two did not exist the day before: clocks jumped over it.
        ("2026-03-30T00:30:00", "1d", "2026-03-29T01:30:00"),
        # An hour that comes twice stays the one it is when only hours are counted.
        ("2026-10-25T01:30:00", "1h", "2026-10-25T00:30:00"),
        ("2026-10-25T00:30:00", "1h", "2026-10-24T23:30:00"),
    ],
)
def test_before(now: str, duration: str, since: str) -> None:
    assert before(at(now), parse_duration(duration), BERLIN) == at(since)


@pytest.mark.parametrize("duration", ["2026y", "999999y", "999999m", "999999d", "999999w", "999999y999999m"])
def test_before_all_calendars(duration: str) -> None:
    assert before(at("2026-11-23"), parse_duration(duration), BERLIN) < at("0001-01-02T00:00:00+00:00")


@given(st.integers(-(1 << 63), 1 << 63), zones)
def test_any_time_has_a_place(seconds: int, name: str) -> None:
    local = zone(name).local(seconds)
    assert all(label(local) for label in PERIOD.values())
    assert before(seconds, Duration(days=1), zone(name)) < max(seconds, -(1 << 61))


def test_local_time_is_the_system_s(local_time: Callable[[str], None]) -> None:
    local_time("Europe/Berlin")
    system = open_zone()
    for moment in range(at("2026-10-24T20:00:00"), at("2026-10-25T05:00:00"), 600):
        assert system.local(moment) == BERLIN.local(moment) and system.local(moment).fold == BERLIN.local(moment).fold
    assert system.seconds(datetime(2026, 10, 25, 2, 30)) == at("2026-10-25T00:30:00")
    local_time("America/New_York")
    assert open_zone().local(0).hour == 19


def test_rules_in_tz_are_the_c_library_s(local_time: Callable[[str], None]) -> None:
    local_time("CET-1CEST,M3.5.0,M10.5.0/3")
    assert open_zone().local(at("2026-07-01T00:00:00")).hour == 2


@pytest.mark.parametrize("name", ["", "Nowhere", "Europe/Nowhere", "../etc/passwd", "/etc/passwd", "Europe", "\x1b[2J"])
def test_zones_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="unknown time zone") as caught:
        open_zone(name)
    assert str(caught.value).isprintable()


def test_a_zone_in_the_environment_that_is_none(local_time: Callable[[str], None]) -> None:
    local_time("Europe/Nowhere")
    assert time.tzname[0] not in ("CET", "UTC")  # what the C library makes of it, quietly
    with pytest.raises(UsageError, match="unknown time zone 'Europe/Nowhere'"):
        open_zone()


def test_a_machine_without_zones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_time: Callable[[str], None]
) -> None:
    zoneinfo.reset_tzpath([tmp_path / "missing"])
    ZoneInfo.clear_cache()
    try:
        assert open_zone("UTC").local(0) == datetime(1970, 1, 1)
        for ask in (lambda: open_zone("Europe/Berlin"), lambda: local_time("Europe/Berlin") or open_zone()):
            with pytest.raises(LaminaError, match="no time zone database; install the package tzdata") as caught:
                ask()
            assert caught.value.exit_status == 1
        local_time("UTC")
        assert open_zone() == Zone()
    finally:
        zoneinfo.reset_tzpath()
        ZoneInfo.clear_cache()
