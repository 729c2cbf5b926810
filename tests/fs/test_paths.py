"""From inode numbers back to paths: with links to parents, without them, and in trees that have lost nodes."""

import random
import stat

import pytest

from lamina.errors import DamagedData
from lamina.fs.node import (
    DIRENT,
    Node,
    give_cookies,
    inode_key,
    number_key,
    pack_dirent,
    pack_inode,
    pack_root,
)
from lamina.fs.paths import Paths, readable
from lamina.fs.tree import build
from lamina.fs.types import ROOT_INO, Inode, Totals
from lamina.fs.view import StoredTree


class Objects:
    """Objects in memory, some of which cannot be read."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.lost: set[bytes] = set()

    def put(self, data: bytes) -> bytes:
        key = len(self.data).to_bytes(32, "big")
        self.data[key] = data
        return key

    def get(self, key: bytes) -> bytes:
        if key in self.lost:
            raise DamagedData("lost")
        return self.data[key]


def make_tree(objects: Objects, linked: bool) -> tuple[StoredTree, dict[int, set[bytes]]]:
    """A random tree of directories and files, some with several names; all paths by inode number."""
    generator = random.Random(5)
    paths: dict[int, set[bytes]] = {ROOT_INO: {b""}}
    names: dict[int, dict[bytes, tuple[int, int]]] = {ROOT_INO: {}}
    parents = {ROOT_INO: ROOT_INO}
    nlink: dict[int, int] = {}
    for ino in range(2, 1500):
        above = generator.choice(list(names)[-40:])
        name = b"n%d" % ino
        is_directory = generator.random() < 0.15
        names[above][name] = (ino, stat.S_IFDIR if is_directory else stat.S_IFREG)
        parents[ino], nlink[ino] = above, 1
        (path,) = paths[above]
        paths[ino] = {path + b"/" + name if path else name}
        if is_directory:
            names[ino] = {}
        elif generator.random() < 0.1:
            other = generator.choice(list(names))
            names[other][b"again%d" % ino] = (ino, stat.S_IFREG)
            (path,) = paths[other]
            paths[ino].add((path + b"/" if path else b"") + b"again%d" % ino)
            nlink[ino] = 2
    items = []
    for ino, parent in parents.items():
        mode = stat.S_IFDIR if ino in names else stat.S_IFREG
        inode = Inode(ino, mode | 0o644, 0, 0, nlink.get(ino, 2), 0, 0, 0, 0, parent=parent if linked else 0)
        items.append((inode_key(ino), pack_inode(inode)))
    for ino, inside in names.items():
        ordered = sorted(inside)
        for name, cookie in zip(ordered, give_cookies(ordered), strict=True):
            items.append((number_key(ino, DIRENT, cookie), pack_dirent(*inside[name], name)))
    height, top = build(sorted(items), objects.put)
    root = objects.put(pack_root(height, top, Totals(len(parents), 0, 0, 0, 1500)))
    return StoredTree(root, objects.get, cache_nodes=0), paths


@pytest.mark.parametrize("linked", [True, False])
def test_every_inode_has_a_path(linked: bool) -> None:
    tree, paths = make_tree(Objects(), linked)
    found = Paths(tree).of(sorted(paths))
    assert found.keys() == paths.keys()
    assert all(found[ino] in paths[ino] for ino in paths)
    few = Paths(tree)
    for ino in (700, 3, 1499, 700, 4711):  # asked one by one
        assert few.of([ino]).get(ino) in paths.get(ino, {None})
    assert {ino: set(some) for ino, some in Paths(tree).all_of([ino for ino in paths if ino != 1]).items()} == {
        ino: some for ino, some in paths.items() if ino != 1
    }


@pytest.mark.parametrize("linked", [True, False])
def test_with_lost_nodes(linked: bool) -> None:
    """What can be named is named right; what is found has a readable entry, and nothing is made up."""
    objects = Objects()
    tree, paths = make_tree(objects, linked)
    leaves = [key for key, node in tree.reader.nodes() if not node.level]
    whole = len(list(readable(tree.reader)))
    named = set()
    for lost in leaves[1::3]:
        objects.lost = {lost}
        hidden = Node(objects.data[lost])
        assert len(list(readable(tree.reader))) == whole - len(hidden.keys)
        damaged = StoredTree(tree.root_key, objects.get, cache_nodes=0)
        found = Paths(damaged).of(sorted(paths))
        assert all(path in paths[ino] for ino, path in found.items())
        named.add(len(found))
        inodes = [int.from_bytes(key[:8], "big") for key in hidden.keys if key[8] == 0]
        if inodes:
            (inside,) = Paths(damaged).within([(inodes[0], inodes[-1])])
            every = set().union(*(paths[ino] for ino in range(inodes[0], inodes[-1] + 1)))
            assert set(inside) <= every
    assert named and max(named) > 0
    objects.lost = set(objects.data) - {tree.root_key}
    assert list(readable(StoredTree(tree.root_key, objects.get).reader)) == []
    assert Paths(StoredTree(tree.root_key, objects.get)).of([5]) == {}


def test_a_loop_of_directories_ends() -> None:
    """A tree that no import makes."""
    objects = Objects()
    items = [
        (inode_key(1), pack_inode(Inode(1, stat.S_IFDIR, 0, 0, 2, 0, 0, 0, 0, parent=1))),
        (inode_key(2), pack_inode(Inode(2, stat.S_IFDIR, 0, 0, 2, 0, 0, 0, 0, parent=3))),
        (number_key(2, DIRENT, 1 << 15), pack_dirent(3, stat.S_IFDIR, b"three")),
        (inode_key(3), pack_inode(Inode(3, stat.S_IFDIR, 0, 0, 2, 0, 0, 0, 0, parent=2))),
        (number_key(3, DIRENT, 1 << 15), pack_dirent(2, stat.S_IFDIR, b"two")),
    ]
    height, top = build(items, objects.put)
    root = objects.put(pack_root(height, top, Totals(3, 0, 3, 0, 4)))
    assert Paths(StoredTree(root, objects.get)).of([1, 2, 3]) == {1: b""}
