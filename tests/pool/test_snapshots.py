"""Taking snapshots and rolling back: what is refused, in OpenZFS's words, and what they leave."""

import pytest

from lamina.errors import AlreadyExists, Busy, InvalidName, LaminaError, NotFound, PropertyError
from lamina.pool import Pool
from tests.pool.names import names, refused, rows, value, write_head
from tests.pool.records import compare_with_catalogue
from tests.pool.trees import Library

SNAPSHOT = [
    (["tank/images@1"], {}, AlreadyExists, "cannot create snapshot 'tank/images@1': dataset already exists"),
    (["tank/nosuch@x"], {}, NotFound, "cannot open 'tank/nosuch': dataset does not exist"),
    (["tank/a@x", "tank/nosuch@x"], {}, NotFound, "cannot open 'tank/nosuch': dataset does not exist"),
    (
        ["tank/images@"],
        {},
        InvalidName,
        "cannot create snapshot 'tank/images@': empty component or misplaced '@' or '#' delimiter in name",
    ),
    (
        ["tank/images@a@b"],
        {},
        InvalidName,
        "cannot create snapshot 'tank/images@a@b': multiple '@' and/or '#' delimiters in name",
    ),
    (["tank/images@a/b"], {}, InvalidName, "cannot create snapshot 'tank/images@a/b': trailing slash in name"),
    (["tank/images@a%b"], {}, InvalidName, "cannot create snapshot 'tank/images@a%b': invalid character % in name"),
    (
        ["tank/images@" + "x" * 300],
        {},
        InvalidName,
        f"cannot create snapshot 'tank/images@{'x' * 300}': name is too long",
    ),
    (
        ["tank/images@s4"],
        {"compression": "lz4"},
        PropertyError,
        "cannot create snapshots : this property can not be modified for snapshots",
    ),
    (["tank/images"], {}, InvalidName, "cannot create snapshot 'tank/images': missing '@' delimiter in snapshot name"),
]


@pytest.mark.parametrize(("wanted", "properties", "kind", "words"), SNAPSHOT, ids=[case[3][:70] for case in SNAPSHOT])
def test_snapshot_refusals(
    filled: Pool, wanted: list[str], properties: dict[str, str], kind: type[LaminaError], words: str
) -> None:
    refused(filled, lambda: filled.snapshot(wanted, properties=properties), words, kind)


def test_a_recursive_snapshot_is_of_all_or_of_none(filled: Pool) -> None:
    assert filled.snapshot(["tank@x"], recursive=True) == [
        *("tank@x", "tank/a@x", "tank/a/b@x", "tank/images@x", "tank/images/base@x")
    ]
    assert len({value(filled, name, "createtxg") for name in names(filled, "snapshot") if name.endswith("@x")}) == 1
    filled.destroy("tank@x")
    filled.destroy("tank/images@x")
    taken = ("tank/a@x", "tank/a/b@x", "tank/images/base@x")
    words = "\n".join(f"cannot create snapshot '{name}': dataset already exists" for name in taken)
    refused(filled, lambda: filled.snapshot(["tank@x"], recursive=True), words, AlreadyExists)
    compare_with_catalogue(filled)


def test_a_name_too_long_below_refuses_all(filled: Pool) -> None:
    long = "y" * (255 - len("tank/images@"))
    full = f"tank/images/base@{long}"
    words = f"cannot create snapshot '{full}': name is too long"
    refused(filled, lambda: filled.snapshot([f"tank/images@{long}"], recursive=True), words, InvalidName)
    filled.snapshot([f"tank/images@{long}"])


def test_several_snapshots_at_once(filled: Pool) -> None:
    made = filled.snapshot(["tank/a@x", "tank/images@y", "tank/a@x", "tank/a@z"], properties={"a:b": "c"})
    assert made == ["tank/a@x", "tank/images@y", "tank/a@z"]
    assert [value(filled, name, "a:b") for name in made] == ["c", "c", "c"]
    assert filled.root("tank/images@y") == filled.root("tank/images") != filled.root("tank/images@1")
    assert filled.root("tank/a@x") is None
    assert filled.tree("tank/a@x").totals.inodes == 1
    assert [entry.kind for entry in filled.list(["tank/images"], types=("snapshot",))] == ["image", "image", "snapshot"]
    compare_with_catalogue(filled)


def test_a_snapshot_needs_no_walk_and_no_space(filled: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> bytes:
        raise AssertionError("a tree was read")

    objects = filled._database.query("SELECT count(*) FROM object WHERE kind <> 4")
    monkeypatch.setattr(type(filled.store), "get", never)
    monkeypatch.setattr("lamina.pool.figures.accounting.Accounting._reckon", never)
    filled.snapshot(["tank@s"], recursive=True)
    filled.clone("tank/images@s", "tank/c")
    filled.promote("tank/c")
    filled.hold("h", ["tank/c@s"])
    filled.bookmark("tank/c@s", "tank/c#b")
    filled.rename("tank/c", "tank/d")
    filled.release("h", ["tank/d@s"])
    filled.promote("tank/images")
    filled.rollback("tank/images@1", destroy_clones=True)
    filled.destroy("tank/images", recursive=True)
    assert filled._database.query("SELECT count(*) FROM object WHERE kind <> 4") == objects


# -- what was taken in --------------------------------------------------------------------------------------------


def test_a_snapshot_of_what_is_there_already_takes_nothing_in(filled: Pool, library: Library) -> None:
    before = value(filled, "tank/images", "logicalused")
    for number in range(3):
        filled.snapshot([f"tank/images@daily{number}"])
    assert value(filled, "tank/images", "logicalused") == before
    assert filled._database.query("SELECT DISTINCT taken FROM snapshot WHERE kind = 'snapshot'") == [(0,)]


def test_what_was_taken_in_outlives_the_image_with_its_snapshots(filled: Pool, library: Library) -> None:
    first, second, base = (library[number].data_bytes for number in (2, 3, 4))
    filled.snapshot(["tank/images@daily1"])
    filled.snapshot(["tank/images@daily2"])
    assert value(filled, "tank/images", "logicalused") == first + second + base
    filled.destroy("tank/images@2")
    assert filled.root("tank/images") == filled.root("tank/images@1")
    assert value(filled, "tank/images", "logicalused") == first + second + base
    filled.destroy("tank/images@daily1")
    assert value(filled, "tank/images", "logicalused") == first + second + base
    filled.destroy("tank/images@daily2")
    assert value(filled, "tank/images", "logicalused") == first + base
    compare_with_catalogue(filled)


def test_a_written_head_counts_what_it_took_in(filled: Pool, library: Library) -> None:
    first = library[2].data_bytes
    write_head(filled, "tank/a", "tank/images@1", 1000)
    assert value(filled, "tank/a", "logicalused") == 1000
    filled.snapshot(["tank/a@1", "tank/a@same"])
    assert filled._database.query("SELECT taken FROM snapshot WHERE kind = 'snapshot' ORDER BY id") == [(1000,), (0,)]
    assert value(filled, "tank/a", "logicalused") == 1000
    write_head(filled, "tank/a", "tank/images@2", 70)
    filled.snapshot(["tank/a@2"])
    assert value(filled, "tank/a", "logicalused") == 1070
    filled.destroy("tank/a@1,same")  # what @2 holds of it is still there
    assert value(filled, "tank/a", "logicalused") == 1070
    filled.destroy("tank/a@2")
    assert value(filled, "tank/a", "logicalused") == 1070
    write_head(filled, "tank/a", "tank/images@1", first)
    filled.snapshot(["tank/a@3"])
    write_head(filled, "tank/a", "tank/images@2", 50)
    filled.destroy("tank/a@3")  # never more than there is
    assert value(filled, "tank/a", "logicalused") == min(first + 50, library[3].data_bytes)


def test_what_is_rolled_back_was_not_taken_in(filled: Pool) -> None:
    write_head(filled, "tank/a", "tank/images@1", 1000)
    filled.snapshot(["tank/a@1"])
    write_head(filled, "tank/a", "tank/images@2", 70)
    filled.snapshot(["tank/a@2"])
    filled.rollback("tank/a@1", destroy_newer=True)
    filled.destroy("tank/a@1")
    assert value(filled, "tank/a", "logicalused") == 1000


# -- rolling back -------------------------------------------------------------------------------------------------

ROLLBACK = [
    ("tank/images@nosuch", NotFound, "cannot open 'tank/images@nosuch': dataset does not exist"),
    ("tank/images", InvalidName, "cannot open 'tank/images': missing '@' delimiter in snapshot name"),
    ("tank/nosuch@x", NotFound, "cannot open 'tank/nosuch@x': dataset does not exist"),
]


@pytest.mark.parametrize(("name", "kind", "words"), ROLLBACK)
def test_rollback_refusals(filled: Pool, name: str, kind: type[LaminaError], words: str) -> None:
    for step in (False, True):
        refused(filled, lambda step=step: filled.rollback(name, dry_run=step), words, kind)  # type: ignore[misc]


def test_newer_snapshots_and_bookmarks_are_in_the_way(filled: Pool) -> None:
    filled.snapshot(["tank/images@s3"])
    filled.bookmark("tank/images@s3", "tank/images#b")
    filled.bookmark("tank/images@1", "tank/images#old")
    words = (
        "cannot rollback to 'tank/images@1': more recent snapshots or bookmarks exist\n"
        "use '-r' to force deletion of the following snapshots and bookmarks:\n"
        "tank/images@2\ntank/images@s3\ntank/images#b"
    )
    refused(filled, lambda: filled.rollback("tank/images@1"), words, Busy)
    gone = filled.rollback("tank/images@1", destroy_newer=True)
    assert gone == ["tank/images@2", "tank/images@s3", "tank/images#b"]
    assert names(filled) == [
        *("tank", "tank/a", "tank/a/b", "tank/images", "tank/images@1", "tank/images#old"),
        *("tank/images/base", "tank/images/base@1"),
    ]
    assert filled.root("tank/images") == filled.root("tank/images@1")
    compare_with_catalogue(filled)


def test_snapshots_of_the_same_moment_are_not_newer(filled: Pool) -> None:
    filled.snapshot(["tank/images@hourly", "tank/images@daily"])
    assert filled.rollback("tank/images@hourly") == []
    assert filled.rollback("tank/images@daily") == []


def test_clones_of_newer_snapshots_are_in_the_way(filled: Pool) -> None:
    filled.clone("tank/images@2", "tank/c")
    filled.snapshot(["tank/c@x"])
    filled.clone("tank/c@x", "tank/a/cc")
    words = (
        "cannot rollback to 'tank/images@1': clones of previous snapshots exist\n"
        "use '-R' to force deletion of the following clones and dependents:\ntank/a/cc\ntank/c@x\ntank/c"
    )
    refused(filled, lambda: filled.rollback("tank/images@1", destroy_newer=True), words, Busy)
    before = rows(filled)
    assert filled.rollback("tank/images@1", destroy_clones=True, dry_run=True) == [
        *("tank/a/cc", "tank/c@x", "tank/c", "tank/images@2")
    ]
    assert rows(filled) == before
    filled.rollback("tank/images@1", destroy_clones=True)
    assert "tank/c" not in names(filled) and "tank/a/cc" not in names(filled)
    compare_with_catalogue(filled)


def test_a_dataset_below_its_own_clone_is_not_rolled_back(filled: Pool) -> None:
    filled.clone("tank/images@2", "tank/c")
    filled.rename("tank/images", "tank/c/images")
    words = "cannot rollback to 'tank/c/images@1': 'tank/c/images' lies below a clone of its own; rename it first"
    refused(filled, lambda: filled.rollback("tank/c/images@1", destroy_clones=True), words, Busy)


def test_a_held_newer_snapshot_is_in_the_way(filled: Pool) -> None:
    filled.hold("keep", ["tank/images@2"])
    words = (
        "cannot destroy snapshot tank/images@2: it's being held. Run 'lamina holds -r tank/images@2' to see holders."
    )
    refused(filled, lambda: filled.rollback("tank/images@1", destroy_newer=True), words, Busy)


def test_what_is_mounted_is_not_rolled_back(filled: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    for mounted in ("tank/images", "tank/images@2"):
        monkeypatch.setattr(Pool, "_mounted", lambda self, name=mounted: {name: "/mnt/x"})
        words = f"cannot unmount '/mnt/x': '{mounted}' is mounted; 'lamina umount {mounted}' first"
        refused(filled, lambda: filled.rollback("tank/images@1", destroy_newer=True), words, Busy)


def test_a_head_follows_the_image_that_it_is_rolled_back_to(filled: Pool, library: Library) -> None:
    filled.snapshot(["tank/images@plain"])
    filled.rollback("tank/images@plain")
    assert value(filled, "tank/images@2", "unique") == 0  # held by the snapshot and by the head
    filled.destroy("tank/images@2")
    filled.destroy("tank/images@plain")
    head = filled.tree("tank/images").totals.data_bytes
    assert head == library[3].data_bytes == value(filled, "tank/images", "logicalreferenced")
    filled.rollback("tank/images@1")
    assert filled.tree("tank/images").totals.data_bytes == library[2].data_bytes
    filled.destroy("tank/images@1")
    assert filled.root("tank/images") is None
    assert value(filled, "tank/images", "used") == value(filled, "tank/images/base", "used")


def test_a_clone_that_loses_its_image_is_its_origin_again(filled: Pool, library: Library) -> None:
    filled.clone("tank/images@1", "tank/c")
    filled.import_image(library[1].path, "tank/c@own")
    assert filled.root("tank/c") == filled.root("tank/c@own")
    filled.destroy("tank/c@own")
    assert filled.root("tank/c") == filled.root("tank/images@1")
    assert value(filled, "tank/c", "used") == 0
