"""Clones and promotion: refusals in OpenZFS's words, and that nothing of a snapshot is lost on the way."""

import pytest

from lamina.errors import AlreadyExists, Busy, InvalidName, LaminaError, NotFound, PropertyError
from lamina.pool import Pool
from tests.pool.names import names, refused, value
from tests.pool.records import compare_with_catalogue
from tests.pool.trees import Library

CLONE = [
    (("tank/images", "tank/c"), InvalidName, "cannot open 'tank/images': missing '@' delimiter in snapshot name"),
    (("tank/images@nosuch", "tank/c"), NotFound, "cannot open 'tank/images@nosuch': dataset does not exist"),
    (("tank/images@1", "tank/a"), AlreadyExists, "cannot create 'tank/a': dataset already exists"),
    (("tank/images@1", "tank"), AlreadyExists, "cannot create 'tank': dataset already exists"),
    (("tank/images@1", "nosuch/c"), NotFound, "cannot create 'nosuch/c': no such pool 'nosuch'"),
    (("tank/images@1", "tank/nope/c"), NotFound, "cannot create 'tank/nope/c': parent does not exist"),
    (
        ("tank/images@1", "tank/c@x"),
        InvalidName,
        "cannot create 'tank/c@x': snapshot delimiter '@' is not expected here",
    ),
    (("tank/images@1", "tank/c", {"used": "1"}), PropertyError, "cannot create 'tank/c': 'used' is readonly"),
]


@pytest.mark.parametrize(("arguments", "kind", "words"), CLONE, ids=[case[2] for case in CLONE])
def test_clone_refusals(filled: Pool, arguments: tuple[str, str], kind: type[LaminaError], words: str) -> None:
    refused(filled, lambda: filled.clone(*arguments), words, kind)


def test_a_clone_is_what_its_origin_is_and_takes_nothing(filled: Pool, library: Library) -> None:
    before = value(filled, "tank", "used")
    made = filled.clone("tank/images@1", "tank/x/y/c", {"compression": "gzip-9"}, parents=True)
    assert made == ["tank/x", "tank/x/y", "tank/x/y/c"]
    assert filled.clone("tank/images@1", "tank/x/y/c", parents=True) == []
    assert filled.root("tank/x/y/c") == filled.root("tank/images@1")
    assert filled.get("tank/x/y/c", ["compression"])["compression"].source == "local"
    assert filled.get("tank/x/y", ["compression"])["compression"].source == "default"
    wanted = {"origin": "tank/images@1", "used": 0, "logicalused": 0, "unique": 0}
    assert {name: one.value for name, one in filled.get("tank/x/y/c", list(wanted)).items()} == wanted
    assert value(filled, "tank/x/y/c", "logicalreferenced") == library[2].data_bytes
    assert value(filled, "tank", "used") == before
    filled.clone("tank/images@1", "tank/b")
    assert value(filled, "tank/images@1", "clones") == "tank/b,tank/x/y/c"
    assert value(filled, "tank/images@2", "clones") is None
    compare_with_catalogue(filled)


def test_a_clone_of_an_empty_snapshot_is_empty(filled: Pool) -> None:
    filled.snapshot(["tank/a@empty"])
    filled.clone("tank/a@empty", "tank/c")
    assert filled.root("tank/c") is None
    assert value(filled, "tank/c", "origin") == "tank/a@empty"
    filled.promote("tank/c")
    assert value(filled, "tank/a", "origin") == "tank/c@empty"


PROMOTE = [
    ("tank/a", LaminaError, "cannot promote 'tank/a': not a cloned filesystem"),
    ("tank/nosuch", NotFound, "cannot open 'tank/nosuch': dataset does not exist"),
    ("tank/a@x", InvalidName, "cannot open 'tank/a@x': snapshot delimiter '@' is not expected here"),
]


@pytest.mark.parametrize(("name", "kind", "words"), PROMOTE)
def test_promote_refusals(filled: Pool, name: str, kind: type[LaminaError], words: str) -> None:
    for dry_run in (True, False):
        refused(filled, lambda d=dry_run: filled.promote(name, dry_run=d), words, kind)  # type: ignore[misc]


def test_promote_refuses_a_name_that_is_taken(filled: Pool) -> None:
    filled.clone("tank/images@2", "tank/c")
    filled.snapshot(["tank/c@1"])
    words = "cannot promote 'tank/c': conflicting snapshot '1' from parent 'tank/images@2'"
    refused(filled, lambda: filled.promote("tank/c"), words, AlreadyExists)
    filled.rename("tank/c@1", "mine")
    assert filled.promote("tank/c") == ["tank/images@1", "tank/images@2"]


def test_promote_refuses_a_name_that_gets_too_long(filled: Pool) -> None:
    long = "s" * (255 - len("tank/images@"))
    filled.snapshot([f"tank/images@{long}"])
    filled.clone(f"tank/images@{long}", "tank/a/clone")
    words = f"cannot promote 'tank/a/clone': snapshot '{long}' of 'tank/images': name is too long"
    refused(filled, lambda: filled.promote("tank/a/clone"), words, InvalidName)


def test_promote_moves_snapshots_as_they_are(filled: Pool) -> None:
    filled.set(["tank/images@1"], {"user:note": "first"})
    filled.snapshot(["tank/images@mid"])
    filled.hold("keep", ["tank/images@1"])
    filled.bookmark("tank/images@1", "tank/images#b")
    filled.clone("tank/images@mid", "tank/c")
    filled.clone("tank/images@1", "tank/other")
    filled.snapshot(["tank/images@late", "tank/c@own"])
    asked = ["guid", "creation", "createtxg", "userrefs", "user:note", "clones", "referenced"]
    before = filled.get("tank/images@1", asked)
    total = value(filled, "tank", "logicalused")
    filled.promote("tank/c")
    assert names(filled) == [
        *("tank", "tank/a", "tank/a/b", "tank/c", "tank/c@1", "tank/c@2", "tank/c@mid", "tank/c@own"),
        *("tank/images", "tank/images@late", "tank/images#b", "tank/images/base", "tank/images/base@1", "tank/other"),
    ]
    assert filled.get("tank/c@1", asked) == before
    assert [hold.tag for hold in filled.holds(["tank/c@1"])] == ["keep"]
    origins = {name: value(filled, name, "origin") for name in ("tank/c", "tank/images", "tank/other")}
    assert origins == {"tank/c": None, "tank/images": "tank/c@mid", "tank/other": "tank/c@1"}
    assert filled.root("tank/images") == filled.root("tank/c@2")
    assert value(filled, "tank/images", "usedbydataset") == 0
    assert value(filled, "tank", "logicalused") == total
    compare_with_catalogue(filled)


def test_promoting_back_restores_what_was(filled: Pool) -> None:
    filled.clone("tank/images@1", "tank/c")
    shown = ["used", "logicalused", "origin", "referenced", "usedbydataset", "usedbysnapshots"]
    before = {name: filled.get(name, shown) for name in names(filled, "filesystem", "snapshot")}
    filled.promote("tank/c")
    assert value(filled, "tank/images", "origin") == "tank/c@1"
    filled.promote("tank/images")
    assert {name: filled.get(name, shown) for name in names(filled, "filesystem", "snapshot")} == before


def test_what_is_promoted_no_longer_hangs_on_its_parent(filled: Pool, library: Library) -> None:
    filled.clone("tank/images@2", "tank/c")
    filled.promote("tank/c")
    filled.destroy("tank/images", recursive=True)
    assert not filled.verify("tank/c", library[3].path)
    # The head is its own: it does not follow the image.
    filled.destroy("tank/c@2")
    assert not filled.verify("tank/c", library[3].path)
    assert not filled.verify("tank/c@1", library[2].path)


def test_a_head_does_not_follow_an_image_that_moved_away(filled: Pool, library: Library) -> None:
    filled.clone("tank/images@2", "tank/c")
    filled.promote("tank/c")
    assert not filled.verify("tank/images", library[3].path)
    refused(
        filled,
        lambda: filled.destroy("tank/c@2"),
        "cannot destroy 'tank/c@2': snapshot has dependent clones\n"
        "use '-R' to destroy the following datasets:\ntank/images/base@1\ntank/images/base\ntank/images",
        Busy,
    )
    filled.import_image(library[1].path, "tank/images@3")
    assert filled.root("tank/images") == filled.root("tank/images@3")
    filled.destroy("tank/images@3")
    assert not filled.verify("tank/images", library[3].path)


def test_a_head_whose_image_moved_away_holds_its_tree(filled: Pool, library: Library) -> None:
    filled.clone("tank/images@2", "tank/c")
    filled.import_image(library[1].path, "tank/c@own")
    filled.promote("tank/c")
    assert value(filled, "tank/c@2", "unique") == 0
    filled.promote("tank/images")
    assert value(filled, "tank/images@2", "unique") == 0


def test_clones_of_clones_and_promotion_up_the_line(filled: Pool) -> None:
    filled.clone("tank/images@1", "tank/c1")
    filled.snapshot(["tank/c1@s"])
    filled.clone("tank/c1@s", "tank/c2")
    filled.snapshot(["tank/c2@t"])
    filled.clone("tank/c2@t", "tank/c3")
    filled.promote("tank/c3")
    origins = {name: value(filled, name, "origin") for name in ("tank/c1", "tank/c2", "tank/c3")}
    assert origins == {"tank/c1": "tank/images@1", "tank/c2": "tank/c3@t", "tank/c3": "tank/c1@s"}
    filled.promote("tank/c3")
    filled.promote("tank/c3")
    origins = {name: value(filled, name, "origin") for name in ("tank/images", "tank/c1", "tank/c2", "tank/c3")}
    assert origins == {
        "tank/images": "tank/c3@1",
        "tank/c1": "tank/c3@s",
        "tank/c2": "tank/c3@t",
        "tank/c3": None,
    }
    assert [name for name in names(filled, "snapshot") if "c3" in name] == ["tank/c3@1", "tank/c3@s", "tank/c3@t"]
    compare_with_catalogue(filled)


def test_a_mounted_snapshot_does_not_move(filled: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.clone("tank/images@1", "tank/c")
    monkeypatch.setattr(Pool, "_mounted", lambda self: {"tank/images@1": "/mnt/x"})
    words = "cannot unmount '/mnt/x': 'tank/images@1' is mounted; 'lamina umount tank/images@1' first"
    refused(filled, lambda: filled.promote("tank/c"), words, Busy)


def test_very_long_lines_of_clones(pool: Pool) -> None:
    """Deeper than Python's stack."""
    catalogue = pool._catalogue
    with pool._writer() as writer, catalogue.change(writer) as change:
        origin = None
        for number in range(1500):
            row = catalogue.add_dataset(change, f"tank/c{number}", {})
            catalogue.database.execute("UPDATE dataset SET origin = ? WHERE id = ?", (origin, row))
            origin = catalogue.add_snapshot(change, row, "s", "snapshot", None, 0)
    with pytest.raises(Busy) as caught:
        pool.destroy("tank/c0@s")
    assert len(str(caught.value).split("\n")) == 2 + 2 * 1499
    plan = pool.destroy("tank/c1", clones=True)
    assert len(plan.names) == 2 * 1499 and plan.names[0] == "tank/c1499@s"
    assert names(pool) == ["tank", "tank/c0", "tank/c0@s"]
    compare_with_catalogue(pool)
