"""Automatic snapshots on a real pool, by a clock that the test turns."""

from types import SimpleNamespace
from typing import Any

import pytest

from lamina.errors import AlreadyExists, InvalidName, NoSpace, NotFound
from lamina.policy.automatic import Automatic, run
from lamina.pool import Pool
from tests.policy.kit import DAY, Content, snapshots
from tests.policy.zones import at, zone

BERLIN = zone("Europe/Berlin")
NOON = at("2026-11-25T11:00:00")  # a Wednesday, noon in Berlin


class Clock:
    """What the pool takes for the time."""

    def __init__(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pool = pool
        self.now = NOON
        monkeypatch.setattr("lamina.pool.catalogue.time", SimpleNamespace(time=lambda: float(self.now)))

    def run(self, now: int, *roots: str, **options: Any) -> Automatic:
        self.now = now
        return run(self._pool, now, roots=roots, zone=BERLIN, **options)


@pytest.fixture
def clock(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(pool, monkeypatch)


def test_nothing_has_a_schedule(pool: Pool, clock: Clock) -> None:
    assert clock.run(NOON) == Automatic()
    assert pool.list(types=("snapshot",), recursive=True) == []


def test_what_is_due_is_made_once_and_at_one_moment(pool: Pool, clock: Clock, content: Content) -> None:
    for name in ("tank/a/b", "tank/c", "tank/d"):
        pool.create_dataset(name)
        content.change(name)
    content.change("tank/a")
    pool.set(["tank/a"], {"autosnapshot": "hourly,daily"})
    pool.set(["tank/c"], {"autosnapshot": "weekly"})
    made = [
        "tank/a@auto-hourly-2026-11-25-1200",
        "tank/a@auto-daily-2026-11-25",
        "tank/a/b@auto-hourly-2026-11-25-1200",
        "tank/a/b@auto-daily-2026-11-25",
        "tank/c@auto-weekly-2026-11-23",
    ]
    would = clock.run(NOON, dry_run=True)
    assert (would.made, would.scheduled, would.next) == (made, 3, NOON + 3600)
    assert not pool.exists(made[0])
    assert clock.run(NOON) == would
    assert {pool.get(name, ["createtxg"])["createtxg"].value for name in made} == {
        pool.get(made[0], ["createtxg"])["createtxg"].value
    }
    for later in (0, 1, 3599):
        again = clock.run(NOON + later)
        assert (again.made, again.unchanged) == ([], [])
    assert snapshots(pool, "tank/d") == ["image3"]


def test_only_what_is_named(pool: Pool, clock: Clock, content: Content) -> None:
    for name in ("tank/a/b", "tank/c"):
        pool.create_dataset(name)
        content.change(name)
    content.change("tank/a")
    pool.set(["tank"], {"autosnapshot": "daily", "retention": "last=1"})
    assert clock.run(NOON, "tank/a/b").made == ["tank/a/b@auto-daily-2026-11-25"]
    assert clock.run(NOON, "tank/a", "tank/a/b").made == ["tank/a@auto-daily-2026-11-25"]
    content.change("tank/c")
    for dataset in ("tank/a", "tank/c"):
        pool.snapshot([f"{dataset}@auto-daily-2026-11-01"])
    # Each has an older one to lose; only what is named loses it.
    assert clock.run(NOON, "tank/c", always=True).pruned.doomed == ["tank/c@auto-daily-2026-11-01"]
    assert pool.exists("tank/a@auto-daily-2026-11-01")
    for root, error in (("tank/none", NotFound), ("tank/a@x", InvalidName)):
        with pytest.raises(error):
            clock.run(NOON, root)


def test_what_has_not_changed_is_left_out(pool: Pool, clock: Clock, content: Content) -> None:
    pool.set(["tank/a"], {"autosnapshot": "hourly,daily"})
    # Empty, and never snapshotted: there is nothing to keep.
    assert clock.run(NOON).unchanged == ["tank/a@auto-hourly-2026-11-25-1200", "tank/a@auto-daily-2026-11-25"]
    content.change("tank/a")
    assert len(clock.run(NOON).made) == 2
    idle = clock.run(NOON + 3600)
    assert (idle.made, idle.unchanged) == ([], ["tank/a@auto-hourly-2026-11-25-1300"])
    content.change("tank/a")
    assert clock.run(NOON + 7200).made == ["tank/a@auto-hourly-2026-11-25-1400"]
    # Since the last daily one it has changed, since the last hourly one it has not.
    tomorrow = clock.run(NOON + DAY)
    assert tomorrow.made == ["tank/a@auto-daily-2026-11-26"]
    assert tomorrow.unchanged == ["tank/a@auto-hourly-2026-11-26-1200"]
    assert clock.run(NOON + DAY, always=True).made == ["tank/a@auto-hourly-2026-11-26-1200"]
    pool.create_dataset("tank/empty", {"autosnapshot": "monthly"})
    assert clock.run(NOON, "tank/empty", always=True).made == ["tank/empty@auto-monthly-2026-11-01"]


def test_a_clock_that_jumps(pool: Pool, clock: Clock, content: Content) -> None:
    content.change("tank/a")
    pool.set(["tank/a"], {"autosnapshot": "daily", "retention": "last=9"})
    clock.run(NOON, always=True)
    ten_years_on = clock.run(at("2036-11-25"), always=True)
    assert ten_years_on.made == ["tank/a@auto-daily-2036-11-25"]
    back = clock.run(NOON + 600, always=True)
    assert (back.made, back.ahead) == ([], ["tank/a@auto-daily-2036-11-25"])
    assert [[reason.rule for reason in one.reasons] for one in back.pruned.decisions] == [
        ["future"],
        ["protected", "last"],
    ]
    # A wrong one of the future does not stop those of tomorrow.
    assert clock.run(NOON + DAY, always=True).made == ["tank/a@auto-daily-2026-11-26"]
    # Further back than ever: a day that has none yet gets one, and only one.
    for _ in range(2):
        clock.run(NOON - 30 * DAY, always=True)
    assert snapshots(pool, "tank/a")[1:] == [
        "auto-daily-2026-11-25",
        "auto-daily-2036-11-25",
        "auto-daily-2026-11-26",
        "auto-daily-2026-10-26",
    ]


def test_only_its_own_are_pruned(pool: Pool, clock: Clock, content: Content) -> None:
    content.change("tank/a")
    mine = ["auto-", "auto-mine", "auto-daily-2026-11-01x", "daily-2026-11-01", "auto-daily-2026-11-01-1200"]
    pool.snapshot([f"tank/a@{tag}" for tag in mine])
    pool.snapshot(["tank/a@auto-daily-2026-11-01"])
    for prefix in ("", ",prefix=nightly-"):
        pool.set(["tank/a"], {"autosnapshot": "daily", "retention": f"last=1{prefix}"})
        found = clock.run(NOON, always=True, dry_run=True)
        assert found.pruned.doomed == []  # what is due is not there yet: the newest is the old one
    pool.set(["tank/a"], {"retention": "last=1,prefix="})
    found = clock.run(NOON, always=True)
    assert found.pruned.doomed == ["tank/a@auto-daily-2026-11-01"]
    assert snapshots(pool, "tank/a") == ["image1", *mine, "auto-daily-2026-11-25"]


def test_pruning_can_be_left_out(pool: Pool, clock: Clock) -> None:
    pool.set(["tank/a"], {"autosnapshot": "daily", "retention": "last=1"})
    for day in range(3):
        assert clock.run(NOON + DAY * day, always=True, prune=False).pruned.decisions == []
    assert len(snapshots(pool, "tank/a")) == 3
    assert len(clock.run(NOON + DAY * 2, dry_run=True).pruned.doomed) == 2
    assert len(snapshots(pool, "tank/a")) == 3
    found = clock.run(NOON + DAY * 2, figures=True)
    assert len(found.pruned.doomed) == 2 and len(found.pruned.used) == 3
    assert len(snapshots(pool, "tank/a")) == 1


def test_two_at_once(pool: Pool, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.create_dataset("tank/b")
    pool.set(["tank/a", "tank/b"], {"autosnapshot": "daily"})
    take = Pool.snapshot
    asked: list[list[str]] = []

    def slow(self: Pool, names: Any, **options: Any) -> Any:
        asked.append(list(names))
        if len(asked) == 1:
            take(pool, names[:1])  # the other one was faster
        return take(self, names, **options)

    monkeypatch.setattr(Pool, "snapshot", slow)
    made = clock.run(NOON, always=True).made
    assert asked == [["tank/a@auto-daily-2026-11-25", "tank/b@auto-daily-2026-11-25"], ["tank/b@auto-daily-2026-11-25"]]
    assert made == asked[1]
    monkeypatch.setattr(Pool, "snapshot", _refuse(AlreadyExists("there")))
    with pytest.raises(AlreadyExists):
        clock.run(NOON + DAY, always=True)


def _refuse(error: Exception) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise error

    return refuse


def test_a_full_pool_is_pruned_all_the_same(pool: Pool, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.set(["tank/a"], {"autosnapshot": "daily", "retention": "last=1"})
    pool.snapshot(["tank/a@auto-daily-2026-11-01"])
    pool.snapshot(["tank/a@auto-daily-2026-11-02"])
    monkeypatch.setattr(Pool, "snapshot", _refuse(NoSpace("full")))
    with pytest.raises(NoSpace, match="full"):
        clock.run(NOON, always=True)
    assert snapshots(pool, "tank/a") == ["auto-daily-2026-11-02"]


def test_a_name_that_gets_too_long_stops_no_other(pool: Pool, clock: Clock) -> None:
    long = f"tank/{'x' * 240}"
    pool.create_dataset(long)
    pool.set(["tank"], {"autosnapshot": "daily"})
    found = clock.run(NOON, always=True)
    assert found.made == ["tank@auto-daily-2026-11-25", "tank/a@auto-daily-2026-11-25"]
    assert found.refused == [f"cannot create snapshot '{long}@auto-daily-2026-11-25': name is too long"]


def test_three_weeks_by_a_timer(pool: Pool, clock: Clock, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every six hours, with a night of clocks turned back, days asleep, and nothing made twice."""
    pool.set(["tank/a"], {"autosnapshot": "hourly,daily", "retention": "last=2,daily=4,weekly=3"})
    content.change("tank/a")
    take = Pool.snapshot
    made: list[str] = []

    def noting(self: Pool, names: Any, **options: Any) -> Any:
        made.extend(names)
        return take(self, names, **options)

    monkeypatch.setattr(Pool, "snapshot", noting)
    start = at("2026-10-21T22:00:00")
    asleep = range(at("2026-11-01T22:00:00"), at("2026-11-04T12:00:00"))
    for now in range(start, start + 18 * DAY, 6 * 3600):
        if now not in asleep:
            clock.run(now, always=True)
            clock.run(now + 300, always=True)
    assert len(set(made)) == len(made)
    assert sum("daily" in name for name in made) == 16 and sum("hourly" in name for name in made) == 61
    left = {tag for tag in snapshots(pool, "tank/a") if tag.startswith("auto-")}
    # The newest of the last four days (those at 17 or 23 o'clock), the newest of weeks, two last, and the day's own.
    assert left == {
        "auto-hourly-2026-11-08-1700",
        "auto-hourly-2026-11-08-1100",
        "auto-daily-2026-11-08",
        "auto-hourly-2026-11-07-2300",
        "auto-hourly-2026-11-06-2300",
        "auto-hourly-2026-11-05-2300",
        "auto-hourly-2026-11-01-1700",  # asleep at 23 o'clock
        "auto-hourly-2026-10-25-2300",
    }
