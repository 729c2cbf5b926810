"""Destroying several snapshots and clones: which are meant, what refuses, that it is all or nothing."""

import pytest

from lamina.errors import AlreadyExists, Busy, InvalidName, NotFound
from lamina.pool import Pool
from tests.pool.names import names, refused, rows, value
from tests.pool.records import compare_with_catalogue


@pytest.fixture
def filled(filled: Pool) -> Pool:
    """``tank/a`` with the snapshots r0 to r5, ``tank/a/b`` with r1, r3 and r5, and images."""
    for number in range(6):
        filled.snapshot([f"tank/a@r{number}"], recursive=number % 2 == 1)
    return filled


SPECS = [
    ("r1%r3", ["r1", "r2", "r3"]),
    ("r1", ["r1"]),
    ("r4,r1", ["r1", "r4"]),
    ("%r1", ["r0", "r1"]),
    ("r4%", ["r4", "r5"]),
    ("%", ["r0", "r1", "r2", "r3", "r4", "r5"]),
    ("r0,r2%r3,r5%", ["r0", "r2", "r3", "r5"]),
    ("r2%r2", ["r2"]),
    ("r1%r3,r2%r4,r2", ["r1", "r2", "r3", "r4"]),
    ("r5,nosuch", ["r5"]),
    ("r5,nosuch%", ["r5"]),
    ("r3%r1", None),
    ("nosuch%r3", None),
    ("r1%nosuch", None),
    ("%nosuch", None),
    ("nosuch,other", None),
]


@pytest.mark.parametrize(("spec", "wanted"), SPECS, ids=[case[0] for case in SPECS])
def test_what_a_list_of_snapshots_means(filled: Pool, spec: str, wanted: list[str] | None) -> None:
    if wanted is None:
        words = "could not find any snapshots to destroy; check snapshot names."
        refused(filled, lambda: filled.destroy(f"tank/a@{spec}"), words, NotFound)
        return
    full = [f"tank/a@{tag}" for tag in wanted]
    before = rows(filled)
    assert filled.destroy(f"tank/a@{spec}", dry_run=True).names == full
    assert rows(filled) == before
    assert filled.destroy(f"tank/a@{spec}").names == full
    left = [f"tank/a@r{number}" for number in range(6) if f"r{number}" not in wanted]
    assert [entry.name for entry in filled.list(["tank/a"], types=("snapshot",))] == left
    compare_with_catalogue(filled)


def test_a_range_in_all_datasets_below(filled: Pool) -> None:
    plan = filled.destroy("tank/a@r1%r3", recursive=True)
    assert plan.names == ["tank/a@r1", "tank/a@r2", "tank/a@r3", "tank/a/b@r1", "tank/a/b@r3"]
    # Where an end of the range is missing, nothing is meant.
    assert filled.destroy("tank/a@r4%r5", recursive=True).names == ["tank/a@r4", "tank/a@r5"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tank/a@", "cannot destroy 'tank/a@': empty component or misplaced '@' or '#' delimiter in name"),
        ("tank/a@x,", "cannot destroy 'tank/a@': empty component or misplaced '@' or '#' delimiter in name"),
        ("tank/a@x%y%z", "cannot destroy 'tank/a@y%z': invalid character % in name"),
        ("tank/a@x@y", "cannot destroy 'tank/a@x@y': multiple '@' and/or '#' delimiters in name"),
        ("tank//a@%", "cannot destroy 'tank//a': empty component or misplaced '@' or '#' delimiter in name"),
        ("tank/a@x\n%y", "cannot destroy 'tank/a@x\\n': invalid character '\\n' in name"),
        ("tank/a%b", "cannot destroy 'tank/a%b': invalid character % in name"),
        ("tank/a#x#y", "cannot destroy 'tank/a#x#y': multiple '@' and/or '#' delimiters in name"),
    ],
)
def test_names_that_cannot_be(filled: Pool, name: str, words: str) -> None:
    refused(filled, lambda: filled.destroy(name), words, InvalidName)


def test_a_cloned_snapshot_in_a_range_refuses_all(filled: Pool) -> None:
    filled.clone("tank/a@r2", "tank/c2")
    filled.snapshot(["tank/c2@s"])
    filled.clone("tank/a@r3", "tank/c3")
    words = (
        "cannot destroy 'tank/a@r2': snapshot has dependent clones\n"
        "use '-R' to destroy the following datasets:\ntank/c2@s\ntank/c2\n"
        "cannot destroy 'tank/a@r3': snapshot has dependent clones\n"
        "use '-R' to destroy the following datasets:\ntank/c3"
    )
    for step in (True, False):
        refused(filled, lambda s=step: filled.destroy("tank/a@r1%r4", dry_run=s), words, Busy)  # type: ignore[misc]
        refused(
            filled,
            lambda s=step: filled.destroy_snapshots([f"tank/a@r{n}" for n in (1, 2, 3)], dry_run=s),  # type: ignore[misc]
            words,
            Busy,
        )
    assert filled.destroy("tank/a@r1%r4", defer=True).deferred == ["tank/a@r2", "tank/a@r3"]
    assert filled.destroy("tank/a@r2,r3", clones=True).names == [
        *("tank/c2@s", "tank/c2", "tank/a@r2", "tank/c3", "tank/a@r3", "tank/a/b@r3")
    ]
    compare_with_catalogue(filled)


def test_everything_that_depends_goes_with_clones(filled: Pool) -> None:
    filled.clone("tank/images@1", "tank/c")
    filled.create_dataset("tank/c/below")
    filled.snapshot(["tank/c/below@s"])
    filled.clone("tank/c/below@s", "tank/a/far")
    filled.bookmark("tank/c/below@s", "tank/a/far#b")
    plan = filled.destroy("tank/images", clones=True, dry_run=True)
    assert plan.names == [
        *("tank/images/base@1", "tank/images/base"),
        *("tank/a/far", "tank/c/below@s", "tank/c/below", "tank/c", "tank/images@1", "tank/images@2", "tank/images"),
    ]
    used = value(filled, "tank", "used")
    assert plan.reclaim == used
    assert filled.destroy("tank/images", clones=True).names == plan.names
    assert names(filled, "filesystem") == ["tank", "tank/a", "tank/a/b"] and names(filled, "bookmark") == []
    assert value(filled, "tank", "used") == 0
    compare_with_catalogue(filled)


def test_a_clone_inside_goes_without_asking(filled: Pool) -> None:
    filled.clone("tank/images@1", "tank/images/clone")
    assert filled.destroy("tank/images", recursive=True).names == [
        *(
            "tank/images/base@1",
            "tank/images/base",
            "tank/images/clone",
            "tank/images@1",
            "tank/images@2",
            "tank/images",
        )
    ]


def test_a_dataset_below_its_own_clone(filled: Pool) -> None:
    filled.clone("tank/images@2", "tank/c")
    filled.rename("tank/images", "tank/c/images")
    words = (
        "cannot destroy 'tank/c/images': filesystem has dependent clones\n"
        "use '-R' to destroy the following datasets:\ntank/c"
    )
    refused(filled, lambda: filled.destroy("tank/c/images", recursive=True), words, Busy)
    assert set(filled.destroy("tank/c", recursive=True).names) == {
        *("tank/c", "tank/c/images", "tank/c/images@1", "tank/c/images@2"),
        *("tank/c/images/base", "tank/c/images/base@1"),
    }
    compare_with_catalogue(filled)


def test_what_the_pool_itself_comes_from_stays(pool: Pool) -> None:
    """The root dataset can become a clone, and never goes."""
    pool.snapshot(["tank@1"])
    pool.clone("tank@1", "tank/c")
    pool.promote("tank/c")
    assert value(pool, "tank", "origin") == "tank/c@1"
    words = "cannot destroy 'tank/c@1': the pool's own dataset 'tank' is a clone of it; run 'lamina promote tank' first"
    for name, how in (
        ("tank", {"recursive": True}),
        ("tank/c", {"clones": True}),
        ("tank/c@1", {"clones": True}),
        ("tank/c@1", {"clones": True, "defer": True}),
    ):
        refused(pool, lambda n=name, h=how: pool.destroy(n, **h), words, Busy)  # type: ignore[misc]
    assert pool.destroy("tank/c@1", defer=True).deferred == ["tank/c@1"]
    pool.promote("tank")
    assert pool.destroy("tank", recursive=True).names == ["tank/c", "tank@1"]
    assert names(pool) == ["tank"]
    compare_with_catalogue(pool)


def test_many_snapshots_all_or_none(filled: Pool) -> None:
    some = ["tank/images@1", "tank/a@r4", "tank/a@r1", "tank/a@r4"]
    plan = filled.destroy_snapshots(some, dry_run=True)
    assert sorted(plan.names) == sorted(set(some))
    assert plan.reclaim == value(filled, "tank/images@1", "unique")
    missing = ("tank/a@no", "tank/no@x")
    words = "\n".join(f"cannot destroy snapshot {name}: dataset does not exist" for name in missing)
    refused(filled, lambda: filled.destroy_snapshots([*some, *missing]), words, NotFound)
    assert filled.destroy_snapshots(some) == plan
    assert filled.destroy_snapshots([]).names == []
    with pytest.raises(InvalidName, match="missing '@'"):
        filled.destroy_snapshots(["tank/a"])
    compare_with_catalogue(filled)


def test_mounted_refuses_the_destroy_and_not_the_question(filled: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "_mounted", lambda self: {"tank/a@r2": "/mnt/x"})
    words = "cannot unmount '/mnt/x': 'tank/a@r2' is mounted; 'lamina umount tank/a@r2' first"
    refused(filled, lambda: filled.destroy("tank/a@r1%r3"), words, Busy)
    refused(filled, lambda: filled.destroy_snapshots(["tank/a@r2"]), words, Busy)
    assert filled.destroy("tank/a@r1%r3", dry_run=True).names == ["tank/a@r1", "tank/a@r2", "tank/a@r3"]
    filled.hold("x", ["tank/a@r2"])
    assert filled.destroy("tank/a@r2", defer=True).deferred == ["tank/a@r2"]  # it goes later


def test_a_read_only_pool_plans(filled: Pool) -> None:
    with Pool.open("tank") as reading:
        assert reading.destroy("tank/images@1", dry_run=True).reclaim > 0
        assert reading.rename("tank/a", "tank/z", dry_run=True)[0] == "tank/a"
        assert [hold.tag for hold in reading.holds(["tank/a@r1"])] == []


def test_renaming_snapshots_with_clones_and_below(filled: Pool) -> None:
    filled.clone("tank/a@r1", "tank/c")
    assert filled.rename("tank/a@r1", "tank/a@new", recursive=True) == ["tank/a@r1", "tank/a/b@r1"]
    assert value(filled, "tank/c", "origin") == "tank/a@new"
    filled.rename("tank/a", "tank/z")
    assert value(filled, "tank/c", "origin") == "tank/z@new"
    long = "n" * (255 - len("tank/z@"))
    words = f"cannot rename to 'tank/z/b@{long}': name is too long"
    refused(filled, lambda: filled.rename("tank/z@r3", long, recursive=True), words, InvalidName)
    filled.rename("tank/z/b@r5", "r0")
    for name in ("tank/z@r3", "tank/z/b@r3"):
        words = f"cannot rename '{name}': dataset already exists"
        refused(filled, lambda: filled.rename("tank/z@r3", "r0", recursive=True), words, AlreadyExists)
        if filled.exists("tank/z@r0"):
            filled.destroy("tank/z@r0")
    compare_with_catalogue(filled)
