"""Holds, deferred destruction and bookmarks."""

import time

import pytest

from lamina.errors import AlreadyExists, Busy, InvalidName, LaminaError, NotFound, UsageError
from lamina.pool import Pool
from lamina.pool.lineage.holds import Hold
from tests.pool.names import names, refused, value
from tests.pool.records import compare_with_catalogue

HELD = "cannot destroy snapshot {0}: it's being held. Run 'lamina holds -r {0}' to see holders."


def tags(pool: Pool, *wanted: str, recursive: bool = False) -> list[tuple[str, str]]:
    return [(hold.snapshot, hold.tag) for hold in pool.holds(wanted, recursive=recursive)]


HOLD = [
    ("tank/images@nosuch", NotFound, "cannot hold snapshot 'tank/images@nosuch': dataset does not exist"),
    ("tank/images", InvalidName, "'tank/images' is not a snapshot"),
    ("tank/nosuch@x", NotFound, "cannot open 'tank/nosuch': dataset does not exist"),
    ("tank/images@1", AlreadyExists, "cannot hold snapshot 'tank/images@1': tag already exists on this dataset"),
]


@pytest.mark.parametrize(("name", "kind", "words"), HOLD)
@pytest.mark.parametrize("recursive", [False, True])
def test_hold_refusals(filled: Pool, name: str, kind: type[LaminaError], words: str, recursive: bool) -> None:
    filled.hold("keep", ["tank/images@1"])
    some = ["tank/images@2", name] if kind is not AlreadyExists else [name]
    refused(filled, lambda: filled.hold("keep", some, recursive=recursive), words, kind)


@pytest.mark.parametrize(
    ("tag", "why"),
    [("", "the tag is empty"), ("x" * 256, "tag too long"), ("\udc80", "the tag is not valid UTF-8")],
)
def test_tags_that_cannot_be(filled: Pool, tag: str, why: str) -> None:
    words = f"cannot hold snapshot 'tank/images@1': {why}"
    refused(filled, lambda: filled.hold(tag, ["tank/images@1"]), words, InvalidName)
    words = "cannot release hold from snapshot 'tank/images@1': no such tag on this dataset"
    refused(filled, lambda: filled.release(tag, ["tank/images@1"]), words)


RELEASE = [
    ("tank/images@1", "cannot release hold from snapshot 'tank/images@1': no such tag on this dataset"),
    ("tank/images@nosuch", "cannot release hold from snapshot 'tank/images@nosuch': dataset does not exist"),
    ("tank/images", "'tank/images' is not a snapshot"),
]


@pytest.mark.parametrize(("name", "words"), RELEASE)
def test_release_refusals(filled: Pool, name: str, words: str) -> None:
    filled.hold("keep", ["tank/images@2"])
    refused(filled, lambda: filled.release("keep", ["tank/images@2", name]), words)


def test_holds_below(filled: Pool) -> None:
    filled.hold("a", ["tank/images@1"], recursive=True)
    filled.hold("b", ["tank/images/base@1"])
    below = [("tank/images@1", "a"), ("tank/images/base@1", "a"), ("tank/images/base@1", "b")]
    assert tags(filled, "tank/images@1", recursive=True) == below
    assert tags(filled, "tank/images/base@1", "tank/images@1") == below[1:] + below[:1]
    assert [value(filled, name, "userrefs") for name in ("tank/images@1", "tank/images/base@1")] == [1, 2]
    filled.release("b", ["tank/images@1"], recursive=True)  # where it is not, it need not be
    assert tags(filled, "tank/images@1", recursive=True) == below[:2]
    (hold,) = filled.holds(["tank/images@1"])
    assert isinstance(hold, Hold)
    assert int(str(value(filled, "tank", "creation"))) <= hold.creation <= time.time()
    compare_with_catalogue(filled)
    refused(filled, lambda: filled.holds(["tank/images@x"]), "cannot open 'tank/images@x': dataset does not exist")


def test_holds_of_very_many_snapshots(pool: Pool) -> None:
    made = pool.snapshot([f"tank@s{number}" for number in range(1200)])
    pool.hold("x", made)
    assert tags(pool, *made) == [(name, "x") for name in made]
    refused(
        pool,
        lambda: pool.destroy_snapshots([*made[:3], "tank@no"]),
        "cannot destroy snapshot tank@no: dataset does not exist",
    )
    pool.release("x", made)
    assert pool.destroy("tank@s10%s1189").names == made[10:1190]
    assert names(pool, "snapshot") == made[:10] + made[1190:]
    compare_with_catalogue(pool)


def test_what_is_held_stays(filled: Pool) -> None:
    filled.hold("keep", ["tank/images@1"])
    filled.hold("keep", ["tank/images/base@1"])
    refused(filled, lambda: filled.destroy("tank/images@1"), HELD.format("tank/images@1"), Busy)
    both = "\n".join(HELD.format(name) for name in ("tank/images/base@1", "tank/images@1"))
    refused(filled, lambda: filled.destroy("tank/images", recursive=True), both, Busy)
    refused(filled, lambda: filled.destroy("tank", recursive=True, clones=True), both, Busy)
    words = HELD.format("tank/images@1")
    refused(filled, lambda: filled.destroy_snapshots(["tank/images@2", "tank/images@1"]), words, Busy)
    filled.rename("tank/images@1", "new")  # a hold is the snapshot's, not its name's
    refused(filled, lambda: filled.destroy("tank/images@new"), HELD.format("tank/images@new"), Busy)


def test_deferred_until_the_last_hold_goes(filled: Pool) -> None:
    filled.hold("one", ["tank/images@1"])
    filled.hold("two", ["tank/images@1"])
    plan = filled.destroy("tank/images@1%2", defer=True, dry_run=True)
    assert (plan.names, plan.deferred) == (["tank/images@2"], ["tank/images@1"])
    freed = plan.reclaim
    assert freed == value(filled, "tank/images@2", "unique")
    assert value(filled, "tank/images@1", "defer_destroy") == "off"
    filled.destroy("tank/images@1%2", defer=True)
    assert value(filled, "tank/images@1", "defer_destroy") == "on"
    assert filled.root("tank/images") == filled.root("tank/images@1")
    filled.release("one", ["tank/images@1"])
    assert filled.exists("tank/images@1")
    filled.hold("late", ["tank/images@1"])  # a deferred snapshot can be held again
    filled.release("two", ["tank/images@1"])
    compare_with_catalogue(filled)
    filled.release("late", ["tank/images@1"])
    assert not filled.exists("tank/images@1") and filled.root("tank/images") is None
    compare_with_catalogue(filled)


def test_deferred_until_the_last_clone_goes(filled: Pool) -> None:
    filled.clone("tank/images@1", "tank/c1")
    filled.clone("tank/images@1", "tank/c2")
    filled.hold("x", ["tank/images@1"])
    assert filled.destroy("tank/images@1", defer=True).deferred == ["tank/images@1"]
    filled.release("x", ["tank/images@1"])
    assert filled.exists("tank/images@1")
    assert filled.destroy("tank/c1").names == ["tank/c1"]
    plan = filled.destroy("tank/c2", dry_run=True)
    assert plan.names == ["tank/c2", "tank/images@1"]
    assert plan.reclaim > 0
    assert filled.destroy("tank/c2").names == plan.names
    assert not filled.exists("tank/images@1")
    compare_with_catalogue(filled)


def test_deferred_and_promoted(filled: Pool) -> None:
    filled.clone("tank/images@1", "tank/c")
    filled.destroy("tank/images@1", defer=True)
    filled.promote("tank/c")
    assert value(filled, "tank/c@1", "defer_destroy") == "on"
    filled.destroy("tank/images", recursive=True)
    assert not filled.exists("tank/c@1") and filled.exists("tank/c")
    compare_with_catalogue(filled)


def test_nothing_keeps_a_snapshot_that_is_free(filled: Pool) -> None:
    assert filled.destroy("tank/images@1", defer=True).names == ["tank/images@1"]
    assert not filled.exists("tank/images@1")
    with pytest.raises(UsageError, match="-d is for snapshots"):
        filled.destroy("tank/images", recursive=True, defer=True)


# -- bookmarks ----------------------------------------------------------------------------------------------------

BOOKMARK = [
    (
        ("tank/images@nosuch", "tank/images#b"),
        NotFound,
        "cannot open 'tank/images@nosuch': dataset does not exist",
    ),
    (
        ("tank/images#nosuch", "tank/images#b"),
        NotFound,
        "cannot open 'tank/images#nosuch': dataset does not exist",
    ),
    (
        ("tank/images@1", "tank/images#old"),
        AlreadyExists,
        "cannot create bookmark 'tank/images#old': bookmark exists",
    ),
    (
        ("tank/images@1", "tank/images"),
        InvalidName,
        "cannot create bookmark 'tank/images': missing '#' delimiter in bookmark name",
    ),
    (
        ("tank/images@1", "tank/images#a#b"),
        InvalidName,
        "cannot create bookmark 'tank/images#a#b': multiple '@' and/or '#' delimiters in name",
    ),
    (
        ("tank/images@1", "tank/images#\x1b"),
        InvalidName,
        "cannot create bookmark 'tank/images#\\x1b': invalid character '\\x1b' in name",
    ),
    (
        ("tank/images@1", "tank/nosuch#b"),
        NotFound,
        "cannot create bookmark 'tank/nosuch#b': dataset does not exist",
    ),
    (
        ("tank/images@1", "tank/a#b"),
        LaminaError,
        "cannot create bookmark 'tank/a#b': source is not an ancestor of the new bookmark's dataset",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "words"), BOOKMARK, ids=[case[2] for case in BOOKMARK])
def test_bookmark_refusals(filled: Pool, arguments: tuple[str, str], kind: type[LaminaError], words: str) -> None:
    filled.bookmark("tank/images@1", "tank/images#old")
    refused(filled, lambda: filled.bookmark(*arguments), words, kind)


def test_a_bookmark_outlives_its_snapshot(filled: Pool) -> None:
    asked = ["guid", "creation", "createtxg"]
    before = filled.get("tank/images@1", asked)
    filled.bookmark("tank/images@1", "tank/images#b")
    freed = filled.destroy("tank/images@1", dry_run=True).reclaim
    assert freed == filled.destroy("tank/images@1", measure=True).reclaim > 0
    filled.bookmark("tank/images#b", "tank/images#again")
    for name in ("tank/images#b", "tank/images#again"):
        assert filled.get(name, asked) == before
        assert filled.entry(name).type == "bookmark" and filled.exists(name)
    assert {name for name, one in filled.get("tank/images#b").items() if one.value is not None} == {"type", *asked}
    filled.rename("tank/images", "tank/x")
    assert names(filled, "bookmark") == ["tank/x#again", "tank/x#b"]
    compare_with_catalogue(filled)
    assert filled.destroy("tank/x#b").names == ["tank/x#b"]
    assert names(filled, "bookmark") == ["tank/x#again"]
    filled.destroy("tank/x", recursive=True)
    assert names(filled, "bookmark") == []
    compare_with_catalogue(filled)


def test_destroying_bookmarks(filled: Pool) -> None:
    refused(filled, lambda: filled.destroy("tank/images#no"), "bookmark 'tank/images#no' does not exist.", NotFound)
    filled.bookmark("tank/images@1", "tank/images#b")
    assert filled.destroy("tank/images#b", dry_run=True).names == ["tank/images#b"]
    assert filled.exists("tank/images#b")
    for step in ({"recursive": True}, {"clones": True}, {"defer": True}):
        with pytest.raises(UsageError, match="are not for bookmarks"):
            filled.destroy("tank/images#b", **step)
    with pytest.raises(LaminaError, match="bookmarks have no properties"):
        filled.set(["tank/images#b"], {"a:b": "c"})
    with pytest.raises(LaminaError, match="bookmarks have no properties"):
        filled.inherit("tank/images#b", "a:b")


def test_bookmarks_of_a_clone(filled: Pool) -> None:
    """Of what it has come out of, and of nothing else."""
    filled.clone("tank/images@1", "tank/c")
    filled.snapshot(["tank/c@s"])
    filled.clone("tank/c@s", "tank/cc")
    filled.bookmark("tank/images@1", "tank/c#b")
    filled.bookmark("tank/images@1", "tank/cc#b")
    for source, name in (
        ("tank/images@2", "tank/cc#x"),
        ("tank/c@s", "tank/images#x"),
        ("tank/images/base@1", "tank/c#x"),
    ):
        words = f"cannot create bookmark '{name}': source is not an ancestor of the new bookmark's dataset"
        refused(filled, lambda s=source, n=name: filled.bookmark(s, n), words)  # type: ignore[misc]
    filled.promote("tank/cc")  # a bookmark stays where it is
    assert names(filled, "bookmark") == ["tank/c#b", "tank/cc#b"]
