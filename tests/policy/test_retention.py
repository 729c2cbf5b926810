"""Which snapshots are kept: by hand, and next to a model that asks each question by itself."""

import os
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.policy.retention import Decision, Snapshot, decide
from lamina.pool.rules import Duration, Retention, parse_retention
from tests.policy.zones import at, moments, zone, zones

BERLIN = zone("Europe/Berlin")
NOON = at("2026-11-23T11:00:00")
DAY = 86400

EXAMPLES = int(os.environ.get("LAMINA_RETENTION", "100"))
"""Pools that are compared with the model."""


def made(*times: int) -> list[Snapshot]:
    """Snapshots of these times, made in this order."""
    return [Snapshot(f"s{number}", when, 100 + number, number) for number, when in enumerate(times)]


def run(snapshots: list[Snapshot], rules: str, now: int = NOON) -> list[Decision]:
    return decide(snapshots, parse_retention(rules)[0], now, BERLIN)


def kept(snapshots: list[Snapshot], rules: str, now: int = NOON) -> list[str]:
    """Names of what is kept, the oldest first."""
    return [one.snapshot.name for one in reversed(run(snapshots, rules, now)) if one.keep]


def said(snapshots: list[Snapshot], rules: str, now: int = NOON) -> dict[str, str]:
    return {one.snapshot.name: ", ".join(map(str, one.reasons)) for one in run(snapshots, rules, now)}


def test_no_rule_decides_nothing() -> None:
    with pytest.raises(ValueError, match="no rule"):
        decide(made(1, 2), Retention(), NOON, BERLIN)


def test_nothing_to_decide() -> None:
    assert run([], "last=3") == []


def test_reasons() -> None:
    # Two a day, at 5 and at 11, for ten days: Saturday 14 to Monday 23 November.
    snapshots = made(*(NOON - DAY * day - late * 6 * 3600 for day in range(9, -1, -1) for late in (1, 0)))
    words = said(snapshots, "last=1,daily=3,weekly=2")
    assert list(words) == [f"s{number}" for number in range(19, -1, -1)]  # the newest first
    assert words["s19"] == "last 1 of 1, daily 1 of 3: 2026-11-23, weekly 1 of 2: 2026-W48"
    assert words["s18"] == "last: older, daily: 2026-11-23 has a newer one, weekly: 2026-W48 has a newer one"
    assert words["s17"] == "daily 2 of 3: 2026-11-22, weekly 2 of 2: 2026-W47"
    assert words["s15"] == "daily 3 of 3: 2026-11-21"
    assert words["s14"] == "last: older, daily: 2026-11-21 has a newer one, weekly: 2026-W47 has a newer one"
    assert words["s13"] == "last: older, daily: older, weekly: 2026-W47 has a newer one"
    assert words["s3"] == "last: older, daily: older, weekly: older"
    assert kept(snapshots, "last=1,daily=3,weekly=2") == ["s15", "s17", "s19"]


def test_days_without_snapshots_use_up_nothing() -> None:
    assert kept(made(*(NOON - DAY * day for day in (400, 300, 200, 100))), "daily=3") == ["s1", "s2", "s3"]


def test_rules_count_for_themselves() -> None:
    # borg would keep three here: its weekly rule does not count what the daily rule kept.
    assert kept(made(NOON - 8 * DAY, NOON - DAY, NOON), "daily=1,weekly=1") == ["s2"]


def test_within_is_younger_and_not_as_old() -> None:
    snapshots = made(NOON - 7200, NOON - 7199, NOON)
    assert kept(snapshots, "within=2h") == ["s1", "s2"]
    assert said(snapshots, "within=2h") == {"s2": "within 2h", "s1": "within 2h", "s0": "within 2h: older"}
    assert kept(made(at("2026-10-24T10:00:00"), at("2026-10-24T10:00:01")), "within=1d", at("2026-10-25T11:00:00")) == [
        "s1"
    ]


def test_the_same_second_goes_by_the_order_of_making() -> None:
    one, two = Snapshot("a", NOON, 7, 9), Snapshot("b", NOON, 8, 3)
    assert kept([two, one], "daily=1") == ["b"]
    # One transaction: the row that came later.
    assert kept([Snapshot("b", NOON, 7, 2), Snapshot("a", NOON, 7, 1)], "last=1") == ["b"]


def test_what_comes_from_the_future_stays_and_takes_no_place() -> None:
    snapshots = made(NOON - DAY, NOON, NOON + 1, NOON + 9 * DAY)
    words = said(snapshots, "last=1")
    assert kept(snapshots, "last=1") == ["s1", "s2", "s3"]
    assert words["s1"] == "last 1 of 1"
    assert words["s3"].startswith("future: made ") and words["s3"].endswith("still to come; check the clock")
    assert kept(made(NOON - DAY, NOON, 1 << 62), "daily=1") == ["s1", "s2"]


def test_a_clock_that_was_set_back() -> None:
    # The last one was made when the clock said 1970, and is the newest all the same.
    snapshots = made(NOON - 2 * DAY, NOON - DAY, 3600)
    assert kept(snapshots, "last=1") == ["s2"]
    assert kept(snapshots, "daily=2") == ["s0", "s1"]
    assert kept(snapshots, "daily=3") == ["s0", "s1", "s2"]
    # Within a day the order of making counts, whatever the clock said.
    assert kept(made(NOON, NOON - 3600), "daily=1") == ["s1"]
    assert kept(made(-(1 << 62), 0), "yearly=9,last=1") == ["s0", "s1"]


def test_shields_keep_and_the_rules_count_on() -> None:
    snapshots = made(NOON - 3 * DAY, NOON - 2 * DAY, NOON - DAY)
    snapshots[0] = Snapshot("s0", NOON - 3 * DAY, 100, 0, ("held by backup", "mounted on /mnt"))
    snapshots.append(Snapshot("s3", NOON, 103, 3, ("held by x",)))
    words = said(snapshots, "last=2")
    assert words == {
        "s3": "protected: held by x, last 1 of 2",
        "s2": "last 2 of 2",
        "s1": "last: older",
        "s0": "protected: held by backup, protected: mounted on /mnt",
    }


def test_days_of_23_and_25_hours() -> None:
    # Every half an hour of the three days around the night in which clocks are turned back.
    start = at("2026-10-23T22:00:00")  # midnight in Berlin
    snapshots = made(*range(start, start + 73 * 3600, 1800))
    now = start + 73 * 3600
    assert len(kept(snapshots, "hourly=1000", now)) == 73
    assert len(kept(snapshots, "daily=9", now)) == 3
    last_of_day = [snapshots[24 * 2 - 1].name, snapshots[49 * 2 - 1].name, snapshots[73 * 2 - 1].name]
    assert kept(snapshots, "daily=9", now) == last_of_day
    start = at("2026-03-27T23:00:00")
    snapshots = made(*range(start, start + 71 * 3600, 1800))
    assert len(kept(snapshots, "hourly=1000", start + 71 * 3600)) == 71
    assert kept(snapshots, "daily=2", start + 71 * 3600) == [snapshots[47 * 2 - 1].name, snapshots[71 * 2 - 1].name]


def test_a_zone_says_when_days_begin() -> None:
    snapshots = made(at("2026-11-21T20:00:00"), at("2026-11-22T03:00:00"), at("2026-11-22T20:00:00"))
    rules = Retention(daily=9)
    for name, count in (("UTC", 2), ("America/New_York", 2), ("Asia/Kathmandu", 2), ("Pacific/Kiritimati", 2)):
        assert sum(one.keep for one in decide(snapshots, rules, NOON, zone(name))) == count, name
    kept_by = {
        name: [one.snapshot.name for one in decide(snapshots, rules, NOON, zone(name)) if one.keep]
        for name in ("UTC", "America/New_York", "Asia/Kathmandu")
    }
    assert kept_by == {"UTC": ["s2", "s0"], "America/New_York": ["s2", "s1"], "Asia/Kathmandu": ["s2", "s1"]}


# -- the model ----------------------------------------------------------------------------------------------------

FORMATS = {"hourly": "%Y-%m-%d %H %z", "daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m", "yearly": "%Y"}


def model_keeps(one: Snapshot, everything: list[Snapshot], rules: Retention, now: int, name: str) -> bool:
    """Whether ``one`` is kept, from the sentences of the manual, asked of this snapshot alone."""
    if one.creation > now or one.shields:
        return True
    others = [other for other in everything if other.creation <= now]

    def newer(other: Snapshot) -> bool:
        return (other.createtxg, other.number) > (one.createtxg, one.number)

    if sum(newer(other) for other in others) < rules.last:
        return True
    if rules.within is not None and now - one.creation < rules.within.hours * 3600:
        return True
    for rule, form in FORMATS.items():

        def period(moment: int, form: str = form) -> str:
            return datetime.fromtimestamp(moment, ZoneInfo(name)).strftime(form)

        mine = period(one.creation)
        newest = not any(newer(other) and period(other.creation) == mine for other in others)
        later = {period(other.creation) for other in others if other.creation > one.creation} - {mine}
        if newest and len(later) < getattr(rules, rule):
            return True
    return False


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[Snapshot], Retention, int, str]:
    name = draw(zones)
    number = draw(st.integers(0, 25))
    times = draw(st.lists(moments(name), min_size=number, max_size=number))
    if draw(st.booleans()):
        times.sort()  # a clock that behaves
    if draw(st.booleans()):
        times = [moment // 3600 * 3600 for moment in times]  # ties
    txgs = sorted(draw(st.lists(st.integers(1, 40), min_size=number, max_size=number)))
    shields = draw(st.sets(st.integers(0, 24), max_size=3))
    snapshots = [
        Snapshot(f"s{at}", moment, txg, at, ("held",) if at in shields else ())
        for at, (moment, txg) in enumerate(zip(times, txgs, strict=True))
    ]
    small = st.integers(0, 6)
    hours = draw(st.none() | st.integers(1, 2000))
    rules = Retention(*(draw(small) for _ in range(6)), within=hours and Duration(hours=hours))
    now = draw(st.sampled_from([max(times, default=0), at("2027-02-01")]) | moments(name))
    return draw(st.permutations(snapshots)), rules, now, name


@settings(max_examples=EXAMPLES, deadline=None)
@given(pools())
def test_as_the_model(case: tuple[list[Snapshot], Retention, int, str]) -> None:
    snapshots, rules, now, name = case
    if not rules:
        return
    decisions = decide(snapshots, rules, now, zone(name))
    assert sorted(one.snapshot.name for one in decisions) == sorted(one.name for one in snapshots)
    assert [one.snapshot.order for one in decisions] == sorted((one.order for one in snapshots), reverse=True)
    for one in decisions:
        assert one.keep == model_keeps(one.snapshot, snapshots, rules, now, name), one
        assert one.reasons and all(reason.keeps == one.keep for reason in one.reasons)
    # What a rule says it keeps is what it keeps, counted from the newest on without a gap.
    for rule in ("last", *FORMATS):
        places = [reason.place for one in decisions for reason in one.reasons if reason.rule == rule and reason.keeps]
        assert sorted(places) == list(range(1, len(places) + 1)) and len(places) <= getattr(rules, rule)


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(pools())
def test_a_second_prune_removes_nothing(case: tuple[list[Snapshot], Retention, int, str]) -> None:
    snapshots, rules, now, name = case
    if not rules:
        return
    left = [one.snapshot for one in decide(snapshots, rules, now, zone(name)) if one.keep]
    assert all(one.keep for one in decide(left, rules, now, zone(name)))
