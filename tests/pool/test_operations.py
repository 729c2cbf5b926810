"""Creating, renaming, setting, inheriting, destroying: what is refused, in OpenZFS's words, and leaves no trace."""

import pytest

from lamina.errors import AlreadyExists, Busy, InvalidName, LaminaError, NotFound, PropertyError
from lamina.pool import Pool
from tests.pool.records import compare_with_catalogue
from tests.pool.trees import Library


def rows(pool: Pool) -> list[list[tuple[object, ...]]]:
    """Everything that names are made of."""
    tables = ("meta", "dataset", "snapshot", "dataset_property", "snapshot_property", "tree", "lease")
    return [pool._database.query(f"SELECT * FROM {table}") for table in tables]


@pytest.fixture
def filled(pool: Pool, library: Library) -> Pool:
    """A pool with a few datasets and images."""
    pool.create_dataset("tank/a/b/c", parents=True)
    pool.create_dataset("tank/images", {"compression": "lz4"})
    for number, tag in enumerate(("s1", "s2", "s3")):
        pool.import_image(library[2 + number].path, f"tank/images/base@{tag}")
    pool.import_image(library[2].path, "tank/images@s1")
    return pool


# (arguments of create_dataset, refusal): the transcript's.
CREATE = [
    (("tank/images",), AlreadyExists, "cannot create 'tank/images': dataset already exists"),
    (("tank/q/r/s",), NotFound, "cannot create 'tank/q/r/s': parent does not exist"),
    (("nosuch/x",), NotFound, "cannot create 'nosuch/x': no such pool 'nosuch'"),
    (("tank",), AlreadyExists, "cannot create 'tank': dataset already exists"),
    (("tank/x/",), InvalidName, "cannot create 'tank/x/': trailing slash in name"),
    (("tank/n@s",), InvalidName, "cannot create 'tank/n@s': snapshot delimiter '@' is not expected here"),
    (("tank/images/s1/..",), InvalidName, "cannot create 'tank/images/s1/..': parent reference, '..' is found in name"),
    (("tank/n", {"bogus": "1"}), PropertyError, "cannot create 'tank/n': invalid property 'bogus'"),
    (("tank/n", {"used": "1"}), PropertyError, "cannot create 'tank/n': 'used' is readonly"),
    (
        ("tank/n", {"compression": "lz4", "recordsize": "100K"}),
        PropertyError,
        "cannot create 'tank/n': 'recordsize' must be power of 2 from 512B to 1M",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "words"), CREATE, ids=[case[2] for case in CREATE])
def test_create_refusals(filled: Pool, arguments: tuple[str], kind: type[LaminaError], words: str) -> None:
    before = rows(filled)
    with pytest.raises(kind) as caught:
        filled.create_dataset(*arguments)
    assert str(caught.value) == words
    assert rows(filled) == before


def test_create_with_parents(pool: Pool) -> None:
    assert pool.create_dataset("tank/a/b", {"atime": "off"}, parents=True, dry_run=True) == ["tank/a", "tank/a/b"]
    assert pool.list() == pool.list(["tank"])
    assert pool.create_dataset("tank/a/b", {"atime": "off"}, parents=True) == ["tank/a", "tank/a/b"]
    assert pool.create_dataset("tank/a/b", parents=True) == []
    sources = {name: pool.get(name, ["atime"])["atime"].source for name in ("tank/a", "tank/a/b")}
    assert sources == {"tank/a": "default", "tank/a/b": "local"}


RENAME = [
    (("tank/images", "tank/a"), AlreadyExists, "cannot rename 'tank/images': dataset already exists"),
    (("tank/nosuch", "tank/y"), NotFound, "cannot open 'tank/nosuch': dataset does not exist"),
    (("tank/images", "other/y"), NotFound, "cannot create 'other/y': no such pool 'other'"),
    (("tank/images", "tank/q/r/s"), NotFound, "cannot create 'tank/q/r/s': parent does not exist"),
    (
        ("tank/images@s1", "tank/a@zz"),
        InvalidName,
        "cannot rename to 'tank/a@zz': snapshots must be part of same dataset",
    ),
    (
        ("tank/images", "tank/images/sub"),
        InvalidName,
        "cannot rename to 'tank/images/sub': New dataset name cannot be a descendant of current dataset name",
    ),
    (("tank", "tank2"), InvalidName, "cannot create 'tank2': missing dataset name"),
    (("tank/images", "tank2"), InvalidName, "cannot create 'tank2': missing dataset name"),
    (("tank/images@nosuch", "x"), NotFound, "cannot open 'tank/images@nosuch': dataset does not exist"),
    (("tank/nosuch@s1", "x"), NotFound, "cannot open 'tank/nosuch@s1': dataset does not exist"),
    (
        ("tank/images/base@s1", "s2"),
        AlreadyExists,
        "cannot rename 'tank/images/base@s1': dataset already exists",
    ),
    (("tank/images", "tank/" + "x" * 251), InvalidName, "name is too long"),  # a snapshot below would be of 256 bytes
]


@pytest.mark.parametrize(("arguments", "kind", "words"), RENAME, ids=[case[2] for case in RENAME])
def test_rename_refusals(filled: Pool, arguments: tuple[str, str], kind: type[LaminaError], words: str) -> None:
    before = rows(filled)
    with pytest.raises(kind) as caught:
        filled.rename(*arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert rows(filled) == before


def test_rename_moves_all_below(filled: Pool) -> None:
    root = filled.tree("tank/images/base@s2")
    filled.rename("tank/images", "tank/q/r/s", parents=True)
    names = [entry.name for entry in filled.list(types=("filesystem", "snapshot"))]
    assert names == [
        *("tank", "tank/a", "tank/a/b", "tank/a/b/c", "tank/q", "tank/q/r", "tank/q/r/s", "tank/q/r/s@s1"),
        *("tank/q/r/s/base", "tank/q/r/s/base@s1", "tank/q/r/s/base@s2", "tank/q/r/s/base@s3"),
    ]
    assert filled.tree("tank/q/r/s/base@s2").totals == root.totals
    assert filled.get("tank/q/r/s/base", ["compression"])["compression"].source == "inherited from tank/q/r/s"


def test_rename_snapshots(filled: Pool) -> None:
    filled.rename("tank/images@s1", "tank/images@new", recursive=True)
    filled.rename("tank/images/base@new", "s1")
    names = [entry.name for entry in filled.list(["tank/images"], recursive=True, types=("snapshot",))]
    assert names == [f"tank/images{end}" for end in ("@new", "/base@s1", "/base@s2", "/base@s3")]


def test_rename_of_many_is_all_or_nothing(filled: Pool) -> None:
    filled.rename("tank/images/base@s2", "taken")
    before = rows(filled)
    with pytest.raises(AlreadyExists):
        filled.rename("tank/images@s1", "taken", recursive=True)
    assert rows(filled) == before


SET = [
    ("tank/nosuch", {"compression": "lz4"}, NotFound, "cannot open 'tank/nosuch': dataset does not exist"),
    (
        "tank/images",
        {"compression": "zstd", "atime": "bogus"},
        PropertyError,
        "cannot set property for 'tank/images': 'atime' must be one of 'on | off'",
    ),
    ("tank/images", {"bogus": "1"}, PropertyError, "cannot set property for 'tank/images': invalid property 'bogus'"),
    ("tank/images", {"used": "1"}, PropertyError, "cannot set property for 'tank/images': 'used' is readonly"),
    (
        "tank/images",
        {"quota": "1"},
        PropertyError,
        "cannot set property for 'tank/images': size is less than current used or reserved space",
    ),
    (
        "tank/images@s1",
        {"compression": "lz4"},
        PropertyError,
        "cannot set property for 'tank/images@s1': this property can not be modified for snapshots",
    ),
    ("tank/images@no", {"a:b": "1"}, NotFound, "cannot open 'tank/images@no': dataset does not exist"),
]


@pytest.mark.parametrize(("name", "properties", "kind", "words"), SET, ids=[case[3] for case in SET])
def test_set_refusals(filled: Pool, name: str, properties: dict[str, str], kind: type[LaminaError], words: str) -> None:
    before = rows(filled)
    with pytest.raises(kind) as caught:
        filled.set([name, "tank/a"] if "@" not in name else [name], properties)
    assert str(caught.value) == words
    assert rows(filled) == before


def test_set_several_at_once(filled: Pool) -> None:
    filled.set(["tank/a", "tank/images"], {"compression": "gzip-9", "quota": "1G", "x:y": "z"})
    for name in ("tank/a", "tank/images"):
        values = filled.get(name, ["compression", "quota", "x:y"])
        assert [value.value for value in values.values()] == ["gzip-9", 1 << 30, "z"]
        assert {value.source for value in values.values()} == {"local"}
    below = filled.get("tank/a/b/c", ["compression", "quota", "x:y"])
    assert [value.value for value in below.values()] == ["gzip-9", 0, "z"]
    assert [value.source for value in below.values()] == ["inherited from tank/a", "default", "inherited from tank/a"]


INHERIT = [
    ("tank/images", "bogus", PropertyError, "invalid property 'bogus'"),
    ("tank/images", "used", PropertyError, "used property is read-only"),
    ("tank/nosuch", "compression", NotFound, "cannot open 'tank/nosuch': dataset does not exist"),
    (
        "tank/images",
        "quota",
        PropertyError,
        "'quota' property cannot be inherited; use 'lamina set quota=none' to clear",
    ),
]


@pytest.mark.parametrize(("name", "prop", "kind", "words"), INHERIT, ids=[case[3] for case in INHERIT])
def test_inherit_refusals(filled: Pool, name: str, prop: str, kind: type[LaminaError], words: str) -> None:
    before = rows(filled)
    with pytest.raises(kind) as caught:
        filled.inherit(name, prop)
    assert str(caught.value) == words
    assert rows(filled) == before


DESTROY = [
    ("tank/nosuch", "cannot open 'tank/nosuch': dataset does not exist"),
    ("nosuch", "cannot open 'nosuch': dataset does not exist"),
    ("tank/images@nosuch", "could not find any snapshots to destroy; check snapshot names."),
    ("tank/images@a@b", "cannot destroy 'tank/images@a@b': multiple '@' and/or '#' delimiters in name"),
]


@pytest.mark.parametrize(("name", "words"), DESTROY)
@pytest.mark.parametrize("dry_run", [False, True])
def test_destroy_refusals(filled: Pool, name: str, words: str, dry_run: bool) -> None:
    before = rows(filled)
    with pytest.raises(LaminaError) as caught:
        filled.destroy(name, dry_run=dry_run)
    assert str(caught.value) == words
    assert rows(filled) == before


def test_destroy_of_what_has_children_lists_them(filled: Pool) -> None:
    for dry_run in (True, False):
        with pytest.raises(Busy) as caught:
            filled.destroy("tank/images", dry_run=dry_run)
        first, second, *below = str(caught.value).split("\n")
        assert first == "cannot destroy 'tank/images': filesystem has children"
        assert second == "use '-r' to destroy the following datasets:"
        assert sorted(below) == sorted(
            ["tank/images@s1", "tank/images/base", *(f"tank/images/base@s{number}" for number in (1, 2, 3))]
        )
    with pytest.raises(Busy, match=r"^cannot destroy 'tank': operation does not apply to pools\n"):
        filled.destroy("tank")


def test_destroy_of_the_root_leaves_the_pool(filled: Pool) -> None:
    plan = filled.destroy("tank", recursive=True)
    assert [entry.name for entry in filled.list(types=("filesystem", "snapshot"))] == ["tank"]
    assert "tank" not in plan.names and len(plan.names) == 9
    assert filled.get("tank", ["used", "logicalused"])["used"].value == 0
    filled.create_dataset("tank/a")
    compare_with_catalogue(filled)


def test_destroy_of_one_snapshot_name_below(filled: Pool) -> None:
    assert filled.destroy("tank/images@s1", recursive=True).names == ["tank/images@s1", "tank/images/base@s1"]
    assert filled.destroy("tank/images@s2", recursive=True).names == ["tank/images/base@s2"]


def test_destroy_of_an_origin_is_refused(filled: Pool) -> None:
    filled.create_dataset("tank/clone")
    found = filled._catalogue.find_snapshot("tank/images/base@s1")
    assert found is not None
    filled._database.execute("UPDATE dataset SET origin = ? WHERE name = 'tank/clone'", (found.id,))
    for name, recursive, what in (
        ("tank/images/base@s1", False, "snapshot"),
        ("tank/images/base@s1", True, "snapshot"),
        ("tank/images", True, "filesystem"),
    ):
        with pytest.raises(Busy) as caught:
            filled.destroy(name, recursive=recursive)
        lines = str(caught.value).split("\n")
        assert lines == [
            f"cannot destroy '{name}': {what} has dependent clones",
            "use '-R' to destroy the following datasets:",
            "tank/clone",
        ]
    assert filled.get("tank/clone", ["origin"])["origin"].value == "tank/images/base@s1"


def test_a_mounted_image_is_busy(filled: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "_mounted", lambda self: {"tank/images/base@s1": "/mnt/img"})
    for step in (
        lambda: filled.destroy("tank/images/base@s1"),
        lambda: filled.destroy("tank/images", recursive=True),
        lambda: filled.rename("tank/images/base@s1", "x"),
        lambda: filled.rename("tank/images", "tank/x"),
    ):
        before = rows(filled)
        with pytest.raises(Busy, match=r"^cannot unmount '/mnt/img': .*is mounted"):
            step()
        assert rows(filled) == before
    filled.destroy("tank/images/base@s2")
    assert filled.get("tank/images/base@s1", ["mounted"])["mounted"].value == "yes"


def test_list_by_depth_and_type(filled: Pool) -> None:
    def names(*roots: str, recursive: bool = False, depth: int | None = None, types: str = "filesystem") -> list[str]:
        found = filled.list(roots, recursive=recursive, depth=depth, types=types.split())
        return [entry.name for entry in found]

    assert names() == ["tank", "tank/a", "tank/a/b", "tank/a/b/c", "tank/images", "tank/images/base"]
    assert names("tank/images") == ["tank/images"]
    assert names("tank", depth=1) == ["tank", "tank/a", "tank/images"]
    assert names("tank", depth=0) == ["tank"]
    assert names("tank/a", recursive=True) == ["tank/a", "tank/a/b", "tank/a/b/c"]
    assert names("tank/images", types="snapshot") == ["tank/images@s1"]
    assert names("tank/images", depth=1, types="filesystem snapshot") == [
        *("tank/images", "tank/images@s1", "tank/images/base")
    ]
    assert names("tank/images", depth=2, types="image")[1:] == [f"tank/images/base@s{n}" for n in (1, 2, 3)]
    assert names("tank/images@s1", "tank/images/base@s2") == ["tank/images@s1", "tank/images/base@s2"]
    assert names("tank/a", "tank/a/b", recursive=True) == ["tank/a", "tank/a/b", "tank/a/b/c"]
    for name in ("tank/nosuch", "tank/a@nosuch", "other"):
        with pytest.raises(NotFound, match=f"^cannot open '{name}': dataset does not exist$"):
            names(name)


def test_names_are_escaped_in_refusals(pool: Pool) -> None:
    for step in (pool.create_dataset, pool.destroy, pool.entry, pool.tree, lambda name: pool.rename("tank/a", name)):
        with pytest.raises(LaminaError) as caught:
            step("tank/\x1b[31m\n")
        assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_an_origin_and_its_clone_go_together(filled: Pool) -> None:
    """In whichever order their names come."""
    for name, origin in (("tank/a/clone", "tank/images/base@s1"), ("tank/z", "tank/images@s1")):
        filled.create_dataset(name)
        found = filled._catalogue.find_snapshot(origin)
        assert found is not None
        filled._database.execute("UPDATE dataset SET origin = ? WHERE name = ?", (found.id, name))
    assert len(filled.destroy("tank", recursive=True).names) == 11
    assert [entry.name for entry in filled.list(types=("filesystem", "snapshot"))] == ["tank"]
