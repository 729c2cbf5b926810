"""Which states are of one history, and bytes by folder next to sums over all files."""

import os
import random
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.errors import InvalidName, LaminaError, NotFound
from lamina.fs.diff import Change, Kind
from lamina.fs.types import ROOT_INO
from lamina.fs.view import StoredTree
from lamina.pool import Pool
from lamina.pool.lineage.differences import Comparison, FolderSums, endpoints
from lamina.store.record import Kind as ObjectKind
from tests.fs.diff_model import DIR, REG, Model, by_inode, by_path
from tests.fs.test_diff import rows_of
from tests.pool.heads import take
from tests.pool.trees import Library, blob, write_tree


def moved(model: Model) -> Model:
    """The model with its file ``a`` renamed to ``b``, or back."""
    other = model.copy()
    names = other.files[ROOT_INO].names
    old, new = (b"a", b"b") if b"a" in names else (b"b", b"a")
    names[new] = names.pop(old)
    return other


@pytest.fixture
def model() -> Model:
    made = Model(seed=5)
    made.make(REG, ROOT_INO, b"a")
    return made


def is_renaming(pool: Pool, old: str, new: str) -> bool:
    kinds = {change.kind for change in pool.diff(old, new)}
    assert kinds in ({Kind.MODIFIED, Kind.RENAMED}, {Kind.MODIFIED, Kind.ADDED, Kind.REMOVED})
    return Kind.RENAMED in kinds


def test_states_of_one_dataset_are_of_one_history_until_an_image_comes(pool: Pool, model: Model) -> None:
    take(pool, "tank/a", "s1", model)
    take(pool, "tank/a", "s2", moved(model))
    assert is_renaming(pool, "tank/a@s1", "tank/a@s2")
    assert is_renaming(pool, "tank/a@s1", "tank/a")
    assert not list(pool.diff("tank/a@s1", "tank/a@s1"))
    take(pool, "tank/a", "image", model, "image")
    take(pool, "tank/a", "s3", moved(model))
    assert not is_renaming(pool, "tank/a@s1", "tank/a@s3")
    assert not is_renaming(pool, "tank/a@s2", "tank/a@image")
    assert is_renaming(pool, "tank/a@image", "tank/a@s3")
    assert is_renaming(pool, "tank/a@image", "tank/a")


def test_two_images_are_compared_by_path_in_either_order(pool: Pool, model: Model) -> None:
    take(pool, "tank/a", "2", model, "image")
    take(pool, "tank/a", "1", moved(model), "image")
    for old, new in (("tank/a@1", "tank/a@2"), ("tank/a@2", "tank/a@1")):
        assert not is_renaming(pool, old, new)


def test_a_clone_goes_on_with_the_history_of_its_origin(pool: Pool, model: Model) -> None:
    take(pool, "tank/a", "image", model, "image")
    pool.clone("tank/a@image", "tank/b")
    assert not list(pool.diff("tank/a@image", "tank/b"))
    take(pool, "tank/b", "s", moved(model))
    pool.clone("tank/b@s", "tank/c")
    assert is_renaming(pool, "tank/a@image", "tank/b@s")
    assert is_renaming(pool, "tank/a@image", "tank/c")
    take(pool, "tank/a", "later", moved(model), "image")
    assert not list(pool.diff("tank/a@later", "tank/b"))
    take(pool, "tank/a", "beside", model)
    assert not is_renaming(pool, "tank/a@beside", "tank/b"), "what the origin became later is of another history"
    with pytest.raises(LaminaError, match="Not an earlier snapshot from the same fs"):
        pool.diff("tank/b@s", "tank/a@image")


def test_the_later_state_of_one_history_cannot_come_first(pool: Pool, model: Model) -> None:
    take(pool, "tank/a", "s1", model)
    take(pool, "tank/a", "s2", moved(model))
    with pytest.raises(LaminaError, match=r"^Unable to obtain diffs: Not an earlier snapshot from the same fs: name"):
        pool.diff("tank/a@s2", "tank/a@s1")


def test_a_head_that_nothing_was_put_in(pool: Pool, model: Model) -> None:
    pool.create_dataset("tank/empty")
    take(pool, "tank/a", "s1", model)
    assert {(str(change.kind), change.path) for change in pool.diff("tank/a@s1", "tank/empty")} == {
        ("M", b"/"),
        ("-", b"/a"),
    }
    assert Comparison(pool, "tank/a@s1", pool, "tank/empty").sums()[0].new == 0


def test_two_pools(pool: Pool, place: Path, model: Model) -> None:
    with Pool.create("dozer", place / "dozer") as other:
        take(pool, "tank/a", "s", model)
        take(other, "dozer/a", "s", model)
        assert not list(Comparison(pool, "tank/a@s", other, "dozer/a@s").changes())
        changed = moved(model)
        file = changed.make(REG, ROOT_INO, b"more")
        changed.files[file].data = bytes(range(1, 100))
        changed.touch(file, size=99)
        take(other, "dozer/a", "t", changed)
        comparison = Comparison(pool, "tank/a@s", other, "dozer/a@t")
        assert not comparison.related
        assert rows_of(list(comparison.changes())) == by_path(model, changed)
        (sums,) = comparison.sums()
        moved_bytes = file_bytes(model, 2)
        assert sums == FolderSums(b"/", 3, 99 + moved_bytes, moved_bytes, 0, sums.new)
        located = other.store.locate(set(comparison.new.objects()) - set(comparison.old.objects())).values()
        assert sums.new == sum(one.stored for one in located if one.kind == ObjectKind.CHUNK) > 0


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("tank/a@s", None, ("tank/a@s", "tank/a")),
        ("tank/a@s", "@t", ("tank/a@s", "tank/a@t")),
        ("@s", "tank/a", ("tank/a@s", "tank/a")),
        ("@s", "tank/a@t", ("tank/a@s", "tank/a@t")),
        ("tank/a@s", "tank/b", ("tank/a@s", "tank/b")),
    ],
)
def test_operands(old: str, new: str | None, found: tuple[str, str]) -> None:
    assert endpoints(old, new) == found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tank/a", None, "Badly formed snapshot name tank/a: missing '@' delimiter in snapshot name"),
        ("@s", None, "Badly formed snapshot name @s"),
        ("tank/a@", None, "Badly formed snapshot name tank/a@"),
        ("tank/a", "tank/b", "Unable to determine which snapshots to compare: invalid name"),
        ("@s", "@t", "Unable to determine which snapshots to compare: invalid name"),
        ("tank/a@s", "@", "Unable to determine which snapshots to compare: invalid name"),
    ],
)
def test_operands_that_say_nothing(old: str, new: str | None, message: str) -> None:
    with pytest.raises(InvalidName) as caught:
        endpoints(old, new)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_what_does_not_exist(pool: Pool) -> None:
    pool.create_dataset("tank/a")
    with pytest.raises(NotFound, match=r"^Unable to obtain diffs: No such file or directory: 'tank/a@s'"):
        pool.diff("tank/a@s")
    with pytest.raises(NotFound, match=r"^cannot open 'tank/b': dataset does not exist"):
        pool.diff("tank/b@s")


def test_imports_of_one_tree_differ_in_nothing(pool: Pool, library: Library) -> None:
    for name in ("one", "two"):
        pool.import_image(library[2].path, f"tank/{name}@1")
    assert not list(pool.diff("tank/one@1", "tank/two@1"))


def test_imports_say_which_directory_holds_an_inode(pool: Pool, library: Library, place: Path) -> None:
    """From a directory and from a tar: every inode's link names a directory that has it."""
    import tarfile

    with tarfile.open(place / "t.tar", "w") as tar:
        tar.add(library[3].path, ".")
        tar.add(library[4].path / "lib", "./lib")  # replaces what is there, hard links too
        for name in ("./new/one", "./lib/two"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, "./link"
            tar.addfile(member)
        tar.add(library[4].path / "lib", "./link")
    pool.import_image(library[3].path, "tank/a@directory")
    pool.import_image(place / "t.tar", "tank/a@tar")
    for name in ("tank/a@directory", "tank/a@tar"):
        tree = pool.tree(name)
        held: dict[int, set[int]] = {ROOT_INO: {ROOT_INO}}
        waiting = [ROOT_INO]
        while waiting:
            folder = waiting.pop()
            for entry in tree.readdir(folder):
                held.setdefault(entry.ino, set()).add(folder)
                waiting += [entry.ino] * (entry.mode_type == DIR)
        assert any(len(folders) > 1 for folders in held.values())
        assert len(held) == tree.totals.inodes
        for ino, folders in held.items():
            assert tree.inode(ino).parent in folders


# -- bytes by folder --------------------------------------------------------------------------------------------------


def new_bytes(pool: Pool, old: str, new: str) -> int:
    """Stored bytes of data that only the second of two states reaches."""
    keys = [set(tree.objects()) for tree in (pool.tree(old), pool.tree(new)) if isinstance(tree, StoredTree)]
    located = pool.store.locate(keys[1] - keys[0]).values()
    return sum(one.stored for one in located if one.kind == ObjectKind.CHUNK)


def file_bytes(model: Model, ino: int) -> int:
    """Data bytes as the model stores them: pieces of 8 that are not all zero."""
    data = model.files[ino].data
    return sum(len(data[at : at + 8]) for at in range(0, len(data), 8) if data[at : at + 8].strip(b"\0"))


def slow_sums(old: Model, new: Model, changes: list[Change]) -> dict[bytes, list[int]]:
    """(files, added, removed) of every folder above a change; hard-linked files once for each name of a model."""
    found: dict[bytes, list[int]] = {b"/": [0, 0, 0]}
    for change in changes:
        if S_ISDIR(change.inode.mode):
            continue
        parts = change.path.split(b"/")[1:-1]
        for depth in range(len(parts) + 1):
            row = found.setdefault(b"/" + b"/".join(parts[:depth]), [0, 0, 0])
            row[0] += 1
            if change.kind == Kind.ADDED and S_ISREG(change.inode.mode):
                row[1] += file_bytes(new, change.inode.ino)
            elif change.kind == Kind.REMOVED and S_ISREG(change.inode.mode):
                row[2] += file_bytes(old, change.inode.ino)
    return found


@given(seed=st.integers(0, 10**6), edits=st.integers(0, 20), related=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sums_are_those_of_the_files(pool: Pool, seed: int, edits: int, related: bool) -> None:
    before = Model(seed=seed)
    for _ in range(60):
        before.change()
    unlink_hard_links(before)
    after = before.copy()
    for _ in range(edits):
        after.change()
    unlink_hard_links(after)
    if not related:
        after = after.renumbered()
    name = f"tank/d{len(pool.list(['tank'], recursive=True))}"
    take(pool, name, "old", before)
    take(pool, name, "new", after, "snapshot" if related else "image")
    comparison = Comparison(pool, f"{name}@old", pool, f"{name}@new")
    assert comparison.related == related
    changes = list(comparison.changes())
    assert rows_of(changes) == (by_inode if related else by_path)(before, after)
    sums = comparison.sums(99)
    assert sums[0].path == b"/" and sums[0].new == new_bytes(pool, f"{name}@old", f"{name}@new")
    slow = slow_sums(before, after, changes)
    fast = {one.path: [one.files, one.added, one.removed] for one in sums}
    assert {path: row for path, row in fast.items() if any(row)} == {p: row for p, row in slow.items() if any(row)}
    shallow = {one.path: one for one in comparison.sums(1)}
    assert shallow == {one.path: one for one in sums if one.path.count(b"/") == 1}


def unlink_hard_links(model: Model) -> None:
    """Leave each file one name: what is counted once then needs no rule."""
    while True:
        linked = [ino for ino, file in model.files.items() if file.type != DIR and file.inode.nlink > 1]
        if not linked:
            return
        holder = model.holders(linked[0])[0]
        name = next(name for name, ino in model.files[holder].names.items() if ino == linked[0])
        model.unlink(holder, name)


def test_sums_of_imported_trees(pool: Pool, place: Path) -> None:
    generator = random.Random(3)
    big = generator.randbytes(3_000_000)
    files = {
        "lib/big": big,
        "lib/gone": generator.randbytes(200_000),
        "lib/deep/same": blob(3, 70_000),
        "etc/a": b"a" * 1000,
        "etc/b": generator.randbytes(1000),
        "etc/c": generator.randbytes(1000),
    }
    write_tree(place / "old", files, {"etc/linked": "lib/deep/same"})
    del files["lib/gone"]
    files["lib/big"] = big[:1_000_000] + b"inserted" + big[1_000_000:]
    files["etc/b"] = generator.randbytes(1000)
    files["usr/new"] = generator.randbytes(300_000)
    write_tree(place / "new", files, {"etc/linked": "lib/deep/same", "usr/again": "usr/new"})
    for name in ("old", "new"):
        pool.import_image(place / name, f"tank/{name}@1")
    comparison = Comparison(pool, "tank/old@1", pool, "tank/new@1")
    sums = {one.path: replace(one, path=b"") for one in comparison.sums(2)}
    assert sums.keys() >= {b"/", b"/lib", b"/etc", b"/usr"}
    assert sums[b"/usr"].added == 300_000 and sums[b"/usr"].files == 2, "two names, but the bytes once"
    assert sums[b"/lib"].removed == 200_000
    assert 8 < sums[b"/lib"].changed < 1_500_000, "an insertion changes the chunks around it"
    assert sums[b"/etc"].changed == 1000, "the other small files of the chunk are the same"
    assert sums[b"/"].new == new_bytes(pool, "tank/old@1", "tank/new@1")
    assert sums[b"/"].added == 300_000 and sums[b"/"].removed == 200_000


def test_times_can_be_ignored(pool: Pool, place: Path) -> None:
    for name, time in (("old", 10**18), ("new", 2 * 10**18)):
        write_tree(place / name, {"a": b"same", "b": blob(3, 90_000), "c/d": b"old" if name == "old" else b"now"})
        for path in (place / name, *(place / name).rglob("*")):
            os.utime(path, ns=(time, time), follow_symlinks=False)
        pool.import_image(place / name, f"tank/{name}@1")
    changes = {(str(c.kind), c.path) for c in pool.diff("tank/old@1", "tank/new@1")}
    assert changes == {("M", path) for path in (b"/", b"/a", b"/b", b"/c", b"/c/d", b"/link")}
    assert [c.path for c in pool.diff("tank/old@1", "tank/new@1", times=False)] == [b"/c/d"]
