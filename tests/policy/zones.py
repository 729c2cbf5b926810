"""Moments worth testing: around the turnings of clocks in zones that turn them in different ways."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from lamina.policy.periods import Zone


def at(text: str) -> int:
    """Seconds since 1970 of an ISO time, UTC where it names no offset."""
    when = datetime.fromisoformat(text)
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())


TURNINGS = {
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    # Midnight does not exist, and comes twice.
    "America/Havana": ("2026-03-08T05:00", "2026-11-01T05:00"),
    "Africa/Cairo": ("2026-04-23T22:00", "2026-10-29T21:00"),
    # Half an hour.
    "Australia/Lord_Howe": ("2026-04-04T15:00", "2026-10-03T15:30"),
    # Two hours.
    "Antarctica/Troll": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "Asia/Kathmandu": ("2026-01-01T00:00",),
    "UTC": ("2026-12-31T00:00",),
}

zones = st.sampled_from(sorted(TURNINGS))


def zone(name: str) -> Zone:
    return Zone(ZoneInfo(name))


@st.composite
def moments(draw: st.DrawFn, name: str) -> int:
    """A second near a turning of a zone's clocks, or anywhere in some years."""
    near = st.sampled_from(TURNINGS[name]).flatmap(
        lambda turning: st.integers(-200, 200).map(lambda step: at(turning) + step * 900)
    )
    second = st.sampled_from(TURNINGS[name]).flatmap(
        lambda turning: st.integers(-7300, 7300).map(lambda step: at(turning) + step)
    )
    return draw(near | second | st.integers(at("2025-12-20"), at("2027-01-20")))
