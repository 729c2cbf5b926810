"""Retention on a real pool: what is asked about, what is protected, what goes."""

from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Busy, InvalidName, NotFound
from lamina.policy.periods import Zone
from lamina.policy.pruning import Plan, Selection, Target, named_targets, plan, property_targets, prune
from lamina.pool import Pool
from lamina.pool.rules import parse_retention
from tests.policy.kit import DAY, Content, date, snapshots, take
from tests.policy.zones import at, zone

UTC = zone("UTC")
NOON = at("2026-11-23T12:00:00")
DAYS = [NOON - DAY * day for day in range(6, -1, -1)]
TAGS = [f"s2026-11-{day}-1200" for day in range(17, 24)]


def target(dataset: str, rules: str, **selection: Any) -> Target:
    return Target(dataset, parse_retention(rules)[0], Selection(**selection))


def words(found: Plan) -> dict[str, str]:
    return {one.snapshot.name: ", ".join(map(str, one.reasons)) for one in found.decisions}


def test_plan_and_prune(pool: Pool, content: Content) -> None:
    for day in DAYS:
        content.change("tank/a")
        take(pool, "tank/a", [day])
    for entry in pool.images():
        pool.destroy(entry.name)
    content.change("tank/a")
    before = {entry.name: values for entry, values in _values(pool, "tank/a").items()}
    found = plan(pool, [target("tank/a", "daily=3")], NOON, UTC)
    assert found.doomed == [f"tank/a@{tag}" for tag in reversed(TAGS[:4])]
    assert found.used == {name: values["used"].value for name, values in before.items()}
    assert all(found.used[f"tank/a@{tag}"] for tag in TAGS)
    assert (
        found.reclaim
        == pool.destroy_snapshots(found.doomed, dry_run=True).reclaim
        == sum(found.used[name] for name in found.doomed)
    )
    assert snapshots(pool, "tank/a")[:7] == TAGS  # nothing has been done
    done = prune(pool, [target("tank/a", "daily=3")], NOON, UTC, figures=True)
    assert done == found
    assert snapshots(pool, "tank/a")[:3] == TAGS[4:]
    assert prune(pool, [target("tank/a", "daily=3")], NOON, UTC).doomed == []


def _values(pool: Pool, dataset: str) -> dict[Any, Any]:
    entries = pool.list([dataset], types=("snapshot",))
    return dict(zip(entries, pool.get_many(entries, ["used"]), strict=True))


def test_figures_only_where_asked_for(pool: Pool) -> None:
    take(pool, "tank/a", DAYS)
    found = plan(pool, [target("tank/a", "last=1")], NOON, UTC, figures=False)
    assert (found.used, found.reclaim, len(found.doomed)) == ({}, 0, 6)


def test_held_mounted_and_cloned_ones_stay(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    take(pool, "tank/a", DAYS)
    pool.hold("backup", [f"tank/a@{TAGS[0]}"])
    pool.hold("again", [f"tank/a@{TAGS[0]}"])
    pool.clone(f"tank/a@{TAGS[1]}", "tank/clone")
    mounts = {f"tank/a@{TAGS[2]}": "/mnt/x", "tank/a": "/mnt/a", "tank": "/mnt"}
    monkeypatch.setattr("lamina.policy.pruning.mounted", lambda name: mounts if name == "tank" else {})
    found = prune(pool, [target("tank/a", "last=1")], NOON, UTC)
    said = words(found)
    assert said[f"tank/a@{TAGS[0]}"] == "protected: held by again, backup"
    assert said[f"tank/a@{TAGS[1]}"] == "protected: the origin of tank/clone"
    assert said[f"tank/a@{TAGS[2]}"] == "protected: mounted on /mnt/x"
    assert snapshots(pool, "tank/a") == [*TAGS[:3], TAGS[6]]
    pool.release("backup", [f"tank/a@{TAGS[0]}"])
    pool.release("again", [f"tank/a@{TAGS[0]}"])
    prune(pool, [target("tank/a", "last=1")], NOON, UTC)
    assert snapshots(pool, "tank/a") == [*TAGS[1:3], TAGS[6]]


def test_images_take_no_part_unless_asked(pool: Pool, content: Content) -> None:
    for day in range(4):
        content.change("tank/a")
        date(pool, f"tank/a@image{day + 1}", NOON - DAY * (4 - day))
    take(pool, "tank/a", [NOON - 9 * DAY, NOON - 8 * DAY])
    found = prune(pool, [target("tank/a", "last=1")], NOON, UTC)
    assert found.doomed == ["tank/a@s2026-11-14-1200"]
    assert words(found)["tank/a@image1"] == "protected: an image"
    assert [one.snapshot.name[7:] for one in found.decisions] == [
        *("s2026-11-15-1200", "s2026-11-14-1200", "image4", "image3", "image2", "image1")
    ]
    found = prune(pool, [target("tank/a", "last=3")], NOON, UTC, images=True)
    assert found.doomed == ["tank/a@image2", "tank/a@image1"]
    assert snapshots(pool, "tank/a") == ["image3", "image4", "s2026-11-15-1200"]


def test_selections(pool: Pool) -> None:
    for prefix in ("daily-", "daily", "x-"):
        take(pool, "tank/a", DAYS[:2], prefix)
    pool.snapshot(["tank/a@auto-daily-2026-11-20", "tank/a@auto-daily-mine"])

    def doomed(**selection: Any) -> list[str]:
        found = plan(pool, [target("tank/a", "within=1h", **selection)], NOON + 10**8, UTC)
        return [name.partition("@")[2] for name in found.doomed][::-1]

    assert doomed(prefix="daily-") == ["daily-2026-11-17-1200", "daily-2026-11-18-1200"]
    assert doomed(pattern="*-17-*") == ["daily-2026-11-17-1200", "daily2026-11-17-1200", "x-2026-11-17-1200"]
    assert doomed(prefix="x", pattern="[!x]*") == []
    assert doomed(pattern="X*") == []
    assert doomed(prefix="auto-", automatic=True) == ["auto-daily-2026-11-20"]
    assert len(doomed()) == 8


def test_datasets_are_looked_at_one_by_one(pool: Pool) -> None:
    pool.create_dataset("tank/a/b")
    pool.create_dataset("tank/ab")
    for dataset in ("tank/a", "tank/a/b", "tank/ab"):
        take(pool, dataset, DAYS[:3])
    rules = parse_retention("last=2")[0]
    one = named_targets(pool, ["tank/a"], rules, Selection(), recursive=False)
    both = named_targets(pool, ["tank/a", "tank/a/b"], rules, Selection(), recursive=True)
    assert [each.dataset for each in one] == ["tank/a"]
    assert [each.dataset for each in both] == ["tank/a", "tank/a/b"]
    assert prune(pool, both, NOON, UTC).doomed == [f"tank/a@{TAGS[0]}", f"tank/a/b@{TAGS[0]}"]
    assert snapshots(pool, "tank/ab") == TAGS[:3]
    with pytest.raises(NotFound, match="'tank/none'"):
        named_targets(pool, ["tank/none"], rules, Selection(), recursive=False)
    with pytest.raises(InvalidName, match="'tank/a@x'"):
        named_targets(pool, ["tank/a@x"], rules, Selection(), recursive=False)


def test_rules_from_properties(pool: Pool) -> None:
    for name in ("tank/a/b", "tank/a/c", "tank/d"):
        pool.create_dataset(name)
    pool.set(["tank/a"], {"retention": "daily=7,last=3", "autosnapshot": "daily"})
    pool.set(["tank/a/b"], {"retention": "none"})
    pool.set(["tank/a/c"], {"retention": "weekly=4,prefix=w-"})
    daily = Target("tank/a", parse_retention("last=3,daily=7")[0], Selection("auto-"), ("daily",))
    weekly = Target("tank/a/c", parse_retention("weekly=4")[0], Selection("w-"), ("daily",))
    assert property_targets(pool, []) == property_targets(pool, ["tank"]) == [daily, weekly]
    assert property_targets(pool, ["tank/a/c", "tank/d"]) == [weekly]
    pool.inherit("tank/a/b", "retention")
    assert [one.dataset for one in property_targets(pool, [])] == ["tank/a", "tank/a/b", "tank/a/c"]
    assert property_targets(pool, ["tank/a/c"], pattern="*x", automatic=True)[0].selection == Selection(
        "w-", "*x", True
    )
    for root, error in (("tank/none", NotFound), ("tank/a@x", InvalidName)):
        with pytest.raises(error):
            property_targets(pool, [root])


def test_what_schedules_go_by_stays(pool: Pool) -> None:
    """Else the next run of the timer would make it again, and the next prune destroy it."""
    tags = [
        "auto-daily-2026-11-21",
        "auto-daily-2026-11-22",
        "auto-hourly-2026-11-22-1200",
        "auto-hourly-2026-11-23-1100",
    ]
    for number, tag in enumerate(tags):
        pool.snapshot([f"tank/a@{tag}"])
        date(pool, f"tank/a@{tag}", NOON - 9000 + number)
    pool.set(["tank"], {"retention": "yearly=1", "autosnapshot": "daily"})
    assert words(plan(pool, property_targets(pool, []), NOON, UTC)) == {
        "tank/a@auto-hourly-2026-11-23-1100": "yearly 1 of 1: 2026",
        "tank/a@auto-hourly-2026-11-22-1200": "yearly: 2026 has a newer one",
        "tank/a@auto-daily-2026-11-22": "protected: autosnapshot=daily goes by it",
        "tank/a@auto-daily-2026-11-21": "yearly: 2026 has a newer one",
    }
    # The clock was set back: the current period's one stays too.
    earlier = at("2026-11-21T12:00:00")
    for tag in tags:
        date(pool, f"tank/a@{tag}", earlier - 100)
    found = plan(pool, property_targets(pool, []), earlier, UTC)
    assert found.doomed == ["tank/a@auto-hourly-2026-11-22-1200"]
    # One that was made under a wrong clock, in the future, is no measure of what has been done.
    date(pool, "tank/a@auto-daily-2026-11-22", NOON + DAY)
    found = plan(pool, property_targets(pool, []), NOON, UTC)
    assert "protected: autosnapshot=daily goes by it" in words(found)["tank/a@auto-daily-2026-11-21"]


def test_what_becomes_held_meanwhile_is_decided_anew(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    take(pool, "tank/a", DAYS)
    destroy = Pool.destroy_snapshots
    calls: list[int] = []

    def interfered(self: Pool, names: Any, **options: Any) -> Any:
        calls.append(len(names))
        if len(calls) == 1:
            pool.hold("now", [f"tank/a@{TAGS[0]}"])
        if len(calls) == 2:
            destroy(pool, [f"tank/a@{TAGS[1]}"])
        return destroy(self, names, **options)

    monkeypatch.setattr(Pool, "destroy_snapshots", interfered)
    prune(pool, [target("tank/a", "last=1")], NOON, UTC)
    assert calls == [6, 5, 4]
    assert snapshots(pool, "tank/a") == [TAGS[0], TAGS[6]]


def test_interference_without_end_is_an_error(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    take(pool, "tank/a", DAYS)

    def busy(*_: object, **__: object) -> None:
        raise Busy("in use")

    monkeypatch.setattr(Pool, "destroy_snapshots", busy)
    with pytest.raises(Busy, match="in use"):
        prune(pool, [target("tank/a", "last=1")], NOON, UTC)
    assert snapshots(pool, "tank/a") == TAGS


def test_all_or_nothing_in_one_transaction(pool: Pool) -> None:
    pool.create_dataset("tank/b")
    take(pool, "tank/a", DAYS)
    take(pool, "tank/b", DAYS)
    before = pool.get(pool.snapshot(["tank@mark"])[0], ["createtxg"])["createtxg"].value
    rules = parse_retention("last=1")[0]
    prune(pool, named_targets(pool, ["tank"], rules, Selection(prefix="s"), recursive=True), NOON, UTC)
    after = pool.get(pool.snapshot(["tank@after"])[0], ["createtxg"])["createtxg"].value
    assert isinstance(before, int) and isinstance(after, int) and after - before == 2
    assert snapshots(pool, "tank/a") == snapshots(pool, "tank/b") == TAGS[6:]


def test_local_time_by_default(pool: Pool, tmp_path: Path) -> None:
    take(pool, "tank/a", [at("2026-11-22T22:30:00"), at("2026-11-22T23:30:00")])
    assert len(plan(pool, [target("tank/a", "daily=9")], NOON, zone("Europe/Berlin")).doomed) == 0
    assert len(plan(pool, [target("tank/a", "daily=9")], NOON, UTC).doomed) == 1
    assert Zone().info is None
