"""How the properties ``retention`` and ``autosnapshot`` are typed and kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import PropertyError
from lamina.pool.properties import check_inherit, default_value, parse_value
from lamina.pool.rules import (
    COUNTS,
    SCHEDULES,
    Duration,
    Retention,
    parse_duration,
    parse_prefix,
    parse_retention,
    parse_schedules,
)


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("none", "none"),
        ("last=3", "last=3"),
        ("weekly=4,daily=7,last=3", "last=3,daily=7,weekly=4"),
        ("within=10d", "within=10d"),
        ("within=1y6m2w10d3h,yearly=010", "yearly=10,within=1y6m2w10d3h"),
        ("prefix=auto-,daily=7", "daily=7"),
        ("daily=7,prefix=nightly-", "daily=7,prefix=nightly-"),
        ("daily=7,prefix=", "daily=7,prefix="),
        ("prefix=a b,last=1", "last=1,prefix=a b"),
    ],
)
def test_retention_is_kept_in_one_form(typed: str, stored: str) -> None:
    assert parse_value("retention", typed) == stored
    assert parse_value("retention", stored) == stored


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("", "'' is no rule"),
        ("None", "'None' is no rule"),
        ("daily", "'daily' is no rule"),
        ("7", "'7' is no rule"),
        ("daily=7,", "'' is no rule"),
        ("daily=7 ,weekly=1", "bad 'daily': '7 ' is no number"),
        ("minutely=7", "'minutely=7' is no rule"),
        ("daily=", "bad 'daily': '' is no number"),
        ("daily=-1", "bad 'daily': '-1' is no number"),
        ("daily=٣", "bad 'daily': '٣' is no number"),
        ("daily=1000000000", "bad 'daily': '1000000000' is no number"),
        ("daily=0", "bad 'daily': a rule that keeps nothing is left out"),
        ("daily=7,daily=7", "names 'daily' twice"),
        ("within=0d", "bad 'within': '0d' is no duration"),
        ("within=10", "bad 'within': '10' is no duration"),
        ("within=3d1y", "bad 'within': '3d1y' is no duration"),
        ("within=5M", "bad 'within': '5M' is no duration"),
        ("prefix=x", "must name a rule"),
        ("last=1,prefix=a@b", "bad 'prefix': 'a@b' cannot begin"),
        ("last=1,prefix=a/b", "bad 'prefix': 'a/b' cannot begin"),
        ("last=1,prefix=\x1b[2J", "bad 'prefix': '\\x1b[2J' cannot begin"),
        ("last=1,prefix=" + "x" * 300, "cannot begin"),
    ],
)
def test_refused_retention(typed: str, part: str) -> None:
    with pytest.raises(PropertyError) as caught:
        parse_value("retention", typed)
    assert part in str(caught.value) and "'retention'" in str(caught.value) and "\n" not in str(caught.value)


counts = st.fixed_dictionaries({}, optional={name: st.integers(1, 999_999_999) for name in COUNTS})
durations = st.builds(Duration, *[st.integers(0, 999_999)] * 5).filter(lambda one: one != Duration())
prefixes = st.text("abcXYZ019-_.: ", max_size=12)


@given(counts, st.none() | durations, prefixes, st.randoms(use_true_random=False))
def test_what_is_kept_means_what_was_typed(rules: dict[str, int], within: Duration | None, prefix: str, order) -> None:
    parts = [f"{name}={number}" for name, number in rules.items()]
    parts += [f"within={within}"] if within is not None else []
    if not parts:
        return
    parts.append(f"prefix={prefix}")
    order.shuffle(parts)
    kept = parse_value("retention", ",".join(parts))
    assert parse_retention(kept) == (Retention(**rules, within=within), prefix)
    assert parse_value("retention", kept) == kept


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10d", Duration(days=10)),
        ("48h", Duration(hours=48)),
        ("1y6m", Duration(years=1, months=6)),
        ("2w1h", Duration(weeks=2, hours=1)),
        ("007d", Duration(days=7)),
    ],
)
def test_durations(text: str, found: Duration) -> None:
    assert parse_duration(text) == found


@pytest.mark.parametrize("text", ["", "d", "10", "10D", "-1d", "1.5d", "1d ", "9999999d", "0h", "1h1h"])
def test_no_durations(text: str) -> None:
    with pytest.raises(PropertyError, match="is no duration"):
        parse_duration(text)


def test_prefixes() -> None:
    assert parse_prefix("") == "" and parse_prefix("daily-") == "daily-"


@pytest.mark.parametrize(
    ("typed", "stored"),
    [("none", "none"), ("daily", "daily"), ("monthly,hourly", "hourly,monthly"), (",".join(SCHEDULES),) * 2],
)
def test_schedules(typed: str, stored: str) -> None:
    assert parse_value("autosnapshot", typed) == stored
    assert ",".join(parse_schedules(stored)) == ("" if stored == "none" else stored)


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("", "'' is no schedule"),
        ("on", "'on' is no schedule"),
        ("yearly", "'yearly' is no schedule"),
        ("daily, weekly", "' weekly' is no schedule"),
        ("daily,none", "'none' is no schedule"),
        ("daily,daily", "names 'daily' twice"),
    ],
)
def test_refused_schedules(typed: str, part: str) -> None:
    with pytest.raises(PropertyError) as caught:
        parse_value("autosnapshot", typed)
    assert part in str(caught.value)


def test_both_are_inherited_and_off_at_first() -> None:
    for name in ("retention", "autosnapshot"):
        assert check_inherit(name) == name
        assert default_value(name) == "none"
