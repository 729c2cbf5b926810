"""Datasets with .zfs, whole pools, and names that come and go under a mount."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import NotFound
from lamina.fs.types import ROOT_INO
from lamina.mount import umount
from lamina.mount.namespace import INO_BITS, DatasetNamespace, PoolNamespace
from tests.mount.conftest import Mounter
from tests.mount.fake import FakePool, FakeTree, write_names

Names = dict[str, tuple[str, int]]

DATASET: Names = {
    "tank": ("filesystem", 1),
    "tank/x": ("filesystem", 2),
    "tank/x@one": ("snapshot", 3),
    "tank/x@two": ("snapshot", 4),
    "tank/x/child": ("filesystem", 5),
    "tank/x/child@other": ("snapshot", 6),
    "tank/xy@no": ("snapshot", 7),
}
POOL: Names = {
    "tank": ("filesystem", 1),
    "tank@top": ("snapshot", 2),
    "tank/images": ("filesystem", 3),
    "tank/images/pytorch": ("filesystem", 4),
    "tank/images/pytorch@2.7.1": ("snapshot", 5),
    "tank/images/pytorch@2.8.0": ("snapshot", 6),
    "tank/empty": ("filesystem", 7),
    "tank/flat": ("filesystem", 8),
    "tank/flat@s": ("snapshot", 9),
}


def tree_with(text: bytes) -> FakeTree:
    tree = FakeTree()
    tree.file(1, b"f", text)
    tree.file(tree.directory(1, b"d"), b"g", text * 2)
    return tree


def eventually(check: Callable[[], bool], seconds: float = 3.0) -> bool:
    until = time.monotonic() + seconds
    while not check():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_dataset_shows_its_snapshots(mounter: Mounter) -> None:
    trees = {"tank/x": tree_with(b"head"), "tank/x@one": tree_with(b"one"), "tank/x@two": tree_with(b"two")}
    root = mounter(trees, "tank/x", names=DATASET)
    assert sorted(os.listdir(root)) == ["d", "f"]  # hidden: reached, not listed
    assert (root / "f").read_bytes() == b"head"
    assert os.listdir(root / ".zfs") == ["snapshot"]
    assert sorted(os.listdir(root / ".zfs/snapshot")) == ["one", "two"]
    assert (root / ".zfs/snapshot/one/f").read_bytes() == b"one"
    assert (root / ".zfs/snapshot/two/d/g").read_bytes() == b"twotwo"
    with pytest.raises(FileNotFoundError):
        os.stat(root / ".zfs/snapshot/three")
    with pytest.raises(OSError):
        os.mkdir(root / ".zfs/snapshot/three")
    numbers = [
        os.stat(root / p).st_ino
        for p in ("", ".zfs", ".zfs/snapshot", "f", ".zfs/snapshot/one", ".zfs/snapshot/one/f", ".zfs/snapshot/two/f")
    ]
    assert len(set(numbers)) == len(numbers) and numbers[0] == 1
    # The number is told the same way by readdir, and by a server that is started again.
    entry = next(e for e in os.scandir(root / ".zfs/snapshot") if e.name == "one")
    assert entry.inode() == numbers[4]
    umount(root)
    again = mounter(trees, "tank/x", names=DATASET)
    assert os.stat(again / ".zfs/snapshot/one/f").st_ino == numbers[5]
    assert (again / ".zfs/snapshot/one/d/../..").resolve() == again / ".zfs/snapshot"


def test_visible_snapdir(mounter: Mounter) -> None:
    root = mounter(tree_with(b"x"), "tank/x", names=DATASET, properties={"snapdir": "visible"})
    assert sorted(os.listdir(root)) == [".zfs", "d", "f"]
    assert sorted(os.listdir(root)) == [".zfs", "d", "f"]


def test_snapshot_has_no_zfs(mounter: Mounter) -> None:
    root = mounter(tree_with(b"x"), "tank/x@one", names=DATASET)
    with pytest.raises(FileNotFoundError):
        os.stat(root / ".zfs")


def test_snapshots_come_and_go(mounter: Mounter, tmp_path: Path) -> None:
    trees = {"tank/x": tree_with(b"head"), "*": tree_with(b"any")}
    root = mounter(trees, "tank/x", names=DATASET)
    snapshots = root / ".zfs/snapshot"
    assert sorted(os.listdir(snapshots)) == ["one", "two"]
    assert not (snapshots / "new").exists()
    write_names(tmp_path / "names.json", {**DATASET, "tank/x@new": ("snapshot", 20)})
    assert eventually(lambda: (snapshots / "new/f").exists())
    assert "new" in os.listdir(snapshots)
    less = {name: row for name, row in DATASET.items() if name != "tank/x@one"}
    write_names(tmp_path / "names.json", less)
    assert eventually(lambda: not (snapshots / "one").exists())
    assert eventually(lambda: os.listdir(snapshots) == ["two"])
    # The same name, another snapshot: another tree.
    old = os.stat(snapshots / "two").st_ino
    write_names(tmp_path / "names.json", {**less, "tank/x@two": ("snapshot", 30)})
    assert eventually(lambda: os.stat(snapshots / "two").st_ino != old)
    # The dataset gets another name; its snapshots stay in reach.
    renamed = {name.replace("tank/x", "tank/y"): row for name, row in less.items()}
    write_names(tmp_path / "names.json", renamed)
    assert eventually(lambda: (snapshots / "two/f").exists())
    assert (root / "f").read_bytes() == b"head"


def test_whole_pool(mounter: Mounter, tmp_path: Path) -> None:
    trees = {name: tree_with(name.encode()) for name in POOL if "@" in name}
    trees["tank/images/pytorch@new"] = tree_with(b"new")
    root = mounter(trees, "tank", names=POOL, whole_pool=True)
    assert sorted(os.listdir(root)) == ["@top", "flat@s", "images"]
    assert sorted(os.listdir(root / "images")) == ["pytorch@2.7.1", "pytorch@2.8.0"]
    for name in ("pytorch@2.7.1", "pytorch@2.8.0"):
        assert (root / "images" / name / "f").read_bytes() == f"tank/images/{name}".encode()
    assert (root / "@top/d/g").exists() and not (root / "empty").exists()
    paths = ["", "images", "@top", "@top/f", "flat@s", "flat@s/f", "images/pytorch@2.8.0"]
    assert len({os.stat(root / p).st_ino for p in paths}) == len(paths)
    assert [e for _, d, _ in os.walk(root) for e in d if e == "d"] == ["d"] * 4
    write_names(tmp_path / "names.json", {**POOL, "tank/images/pytorch@new": ("snapshot", 40)})
    assert eventually(lambda: (root / "images/pytorch@new/f").exists())
    less = {n: r for n, r in POOL.items() if not n.startswith("tank/images")}
    write_names(tmp_path / "names.json", less)
    assert eventually(lambda: sorted(os.listdir(root)) == ["@top", "flat@s"])
    assert eventually(lambda: not (root / "images").exists())


def test_node_numbers_are_a_function_of_snapshot_and_inode(tmp_path: Path) -> None:
    write_names(tmp_path / "n", POOL)
    pool = FakePool(tmp_path / "n", {"*": tree_with(b"x")})
    first, second = PoolNamespace(pool), PoolNamespace(pool)
    second.children(1)
    second.place(9)
    # A server that has just been started knows a node that an earlier one gave out.
    assert first.place(6).base == 6 << INO_BITS == second.place(6).base
    assert first.children(1) == second.children(1)
    with pytest.raises(NotFound):
        first.place(3)  # a dataset's row, not a snapshot's
    with pytest.raises(NotFound):
        first.children(1 << 62 | 999)


def test_places_are_bounded(tmp_path: Path) -> None:
    names: Names = {"tank": ("filesystem", 1), "tank/x": ("filesystem", 2)}
    names.update({f"tank/x@s{i}": ("snapshot", 10 + i) for i in range(600)})
    write_names(tmp_path / "n", names)
    pool = FakePool(tmp_path / "n", {"*": tree_with(b"x")})
    namespace = DatasetNamespace(pool, pool.list(("tank/x",))[0], visible=False)
    for i in range(600):
        assert namespace.place(10 + i).base == (10 + i) << INO_BITS
    assert len(namespace._places) <= 257
    assert namespace.place(0).view.inode(ROOT_INO).ino == ROOT_INO
