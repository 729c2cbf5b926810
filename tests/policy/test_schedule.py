"""When automatic snapshots are due, and their names."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.policy.periods import PERIOD
from lamina.policy.schedule import Due, ahead, automatic_name, due, newest_of_each, next_start, schedule_of
from lamina.pool.names import snapshot_name_error
from lamina.pool.rules import SCHEDULES
from tests.policy.zones import at, moments, zone, zones

BERLIN = zone("Europe/Berlin")
NOON = at("2026-11-25T11:00:00")  # a Wednesday


@pytest.mark.parametrize(
    ("schedule", "moment", "name"),
    [
        ("hourly", "2026-11-25T11:59:59", "auto-hourly-2026-11-25-1200"),
        ("daily", "2026-11-24T23:00:00", "auto-daily-2026-11-25"),
        ("weekly", "2026-11-25T11:00:00", "auto-weekly-2026-11-23"),
        ("weekly", "2027-01-03T11:00:00", "auto-weekly-2026-12-28"),
        ("monthly", "2026-11-25T11:00:00", "auto-monthly-2026-11-01"),
        ("hourly", "2026-10-25T00:30:00", "auto-hourly-2026-10-25-0200"),
        ("hourly", "2026-10-25T01:30:00", "auto-hourly-2026-10-25-0200-2"),
        ("hourly", "2026-10-25T02:30:00", "auto-hourly-2026-10-25-0300"),
    ],
)
def test_names(schedule: str, moment: str, name: str) -> None:
    assert automatic_name(schedule, at(moment), BERLIN) == name
    assert schedule_of(name) == schedule


@pytest.mark.parametrize(
    "name",
    [
        "auto-",
        "auto-daily-",
        "auto-daily-2026-11-2",
        "auto-daily-2026-11-25-1200",
        "auto-daily-2026-11-25x",
        "auto-hourly-2026-11-25",
        "auto-hourly-2026-11-25-1230",
        "auto-yearly-2026-01-01",
        "daily-2026-11-25",
        "Auto-daily-2026-11-25",
        "xauto-daily-2026-11-25",
    ],
)
def test_names_of_people(name: str) -> None:
    assert schedule_of(name) is None


def test_due() -> None:
    assert due((), (), NOON, BERLIN) == []
    found = due(("monthly", "hourly"), ("auto-daily-2026-11-25",), NOON, BERLIN)
    assert found == [Due("hourly", "auto-hourly-2026-11-25-1200"), Due("monthly", "auto-monthly-2026-11-01")]
    assert due(("monthly", "hourly"), [one.name for one in found], NOON + 3599, BERLIN) == []
    assert due(("monthly", "hourly"), [one.name for one in found], NOON + 3600, BERLIN) == [
        Due("hourly", "auto-hourly-2026-11-25-1300")
    ]


def test_ahead() -> None:
    names = ["auto-daily-2026-11-25", "auto-daily-2026-11-26", "auto-hourly-2036-01-01-0000", "zoo", "daily-2099-01-01"]
    assert ahead(names, NOON, BERLIN) == ["auto-daily-2026-11-26", "auto-hourly-2036-01-01-0000"]
    assert ahead(["auto-hourly-2026-10-25-0200-2"], at("2026-10-25T00:30"), BERLIN) == ["auto-hourly-2026-10-25-0200-2"]
    assert ahead(["auto-hourly-2026-10-25-0200"], at("2026-10-25T01:30"), BERLIN) == []


def test_newest_of_each() -> None:
    names = ["auto-daily-2026-11-26", "auto-hourly-2026-11-25-1200", "x", "auto-daily-2026-11-25"]
    assert newest_of_each(names, ("daily", "weekly")) == {"auto-daily-2026-11-25"}
    assert newest_of_each(names, SCHEDULES) == {"auto-daily-2026-11-25", "auto-hourly-2026-11-25-1200"}


@given(st.data(), zones)
def test_a_name_stands_for_a_period(data: st.DataObject, name: str) -> None:
    one, other = data.draw(moments(name)), data.draw(moments(name))
    for schedule in SCHEDULES:
        same = len({PERIOD[schedule](zone(name).local(moment)) for moment in (one, other)}) == 1
        names = [automatic_name(schedule, moment, zone(name)) for moment in (one, other)]
        assert (names[0] == names[1]) == same
        assert schedule_of(names[0]) == schedule and snapshot_name_error(f"tank@{names[0]}") is None


@given(st.data(), zones)
def test_the_next_period_begins_where_this_one_ends(data: st.DataObject, name: str) -> None:
    now = data.draw(moments(name))
    for schedule in SCHEDULES:
        start = next_start(schedule, now, zone(name))
        names = [automatic_name(schedule, moment, zone(name)) for moment in (now, start - 1, start)]
        assert now < start and names[0] == names[1] != names[2]


@settings(deadline=None)
@given(st.data(), zones, st.sets(st.sampled_from(SCHEDULES), min_size=1))
def test_a_timer_that_fires_whenever_it_likes(data: st.DataObject, name: str, schedules: set[str]) -> None:
    """Late, often, twice, and with clocks set back: every period that was met has one snapshot, and only one."""
    times = data.draw(st.lists(moments(name), min_size=1, max_size=30))
    names: list[str] = []
    for now in times:
        names += [one.name for one in due(schedules, set(names), now, zone(name))]
        assert due(schedules, set(names), now, zone(name)) == []
    assert len(set(names)) == len(names)
    met = {(schedule, PERIOD[schedule](zone(name).local(now))) for schedule in schedules for now in times}
    assert len(names) == len(met)
