"""Differences of trees next to a comparison of everything with everything."""

import sys
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import DamagedData
from lamina.fs import diff as diff_module
from lamina.fs import tree as tree_module
from lamina.fs.contents import Contents
from lamina.fs.diff import Change, Kind, diff
from lamina.fs.node import (
    DIRENT,
    EXTENT,
    INODE,
    inode_key,
    key_ino,
    name_cookie,
    number_key,
    pack_dirent,
    pack_extent,
    pack_inode,
    pack_root,
    unpack_dirent,
    unpack_inode,
)
from lamina.fs.tree import apply
from lamina.fs.types import ROOT_INO, Inode, Totals
from lamina.fs.view import StoredTree
from tests.fs.diff_model import DEV, DIR, FIFO, LNK, REG, Model, Row, by_inode, by_path, replayed
from tests.fs.kit import NO_TOTALS, Item, Objects, noise


def rows_of(changes: list[Change]) -> set[Row]:
    rows = [(str(change.kind), change.path, change.old_path) for change in changes]
    assert len(rows) == len(set(rows)), "a change is given once"
    return set(rows)


def stored(model: Model, objects: Objects) -> StoredTree:
    return objects.tree(model.items(objects), model.totals())


def edited(tree: StoredTree, before: Model, after: Model, objects: Objects) -> StoredTree:
    """The tree with the edits that make ``before`` ``after``: as a head is written."""
    old, new = dict(before.items(objects)), dict(after.items(objects))
    edits = [(key, new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    height, top = apply(tree.reader, edits, objects.put)
    return StoredTree(objects.put(pack_root(height, top, after.totals())), objects.get)


def random_pair(seed: int, size: int, edits: int, links: float) -> tuple[Model, Model]:
    old = Model(links, seed)
    for _ in range(size):
        old.change()
    new = old.copy()
    for _ in range(edits):
        new.change()
    return old, new


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(0, 120),
    edits=st.integers(0, 25),
    links=st.sampled_from([1.0, 0.6, 0.0]),
    few=st.sampled_from([0, 2000]),
)
@settings(max_examples=250, deadline=None)
def test_what_differs_is_what_a_full_comparison_finds(seed: int, size: int, edits: int, links: float, few: int) -> None:
    before, after = random_pair(seed, size, edits, links)
    objects = Objects()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_module, "_BOUNDS", ((100, 300, 900), (120, 300, 900)))
        patch.setattr(diff_module, "_FEW", few)
        old = stored(before, objects)
        new = edited(old, before, after, objects)
        assert new.root_key == stored(after, objects).root_key
        assert rows_of(list(diff(old, new))) == by_path(before, after)
        related = rows_of(list(diff(old, new, related=True)))
        assert related == by_inode(before, after)
        assert replayed(before, related) == after.paths().keys()
        imported = stored(after.renumbered(), objects)
        assert rows_of(list(diff(old, imported))) == by_path(before, after)
        assert not list(diff(new, imported))


def test_many_kinds_of_names_and_types_differ_as_they_should() -> None:
    old = Model()
    top = old.make(DIR, 1, b"d\xff\n")
    file = old.make(REG, top, b"file")
    gone = old.make(DIR, top, b"gone")
    old.make(REG, gone, b"below")
    swap = old.make(REG, 1, b"swap")
    old.make(DIR, 1, b"turn")
    device = old.make(DEV, 1, b"null")
    link = old.make(LNK, 1, b"link")
    old.make(FIFO, 1, b"pipe")
    read = old.make(REG, 1, b"read")
    named = old.make(REG, 1, b"named")
    new = old.copy()
    for ino in (file, swap, device, link):
        new.touch(ino, mtime_ns=5)
    new.touch(device, rdev=0x105)
    new.files[link].data = b"anywhere"
    new.touch(link, size=8)
    new.files[swap].xattrs[b"user.x"] = b""
    new.unlink(top, b"gone")
    new.unlink(1, b"turn")
    new.make(REG, 1, b"turn")
    new.touch(read, atime_ns=7, ctime_ns=8)
    new.files[top].names[b"other"] = named
    new.settle(named)
    objects = Objects()
    changes = list(diff(stored(old, objects), stored(new, objects), related=True))
    assert [(str(change.kind), change.path, change.links) for change in changes] == [
        ("M", b"/", 0),
        ("M", b"/d\xff\n", 0),
        ("M", b"/d\xff\n/file", 0),
        ("-", b"/d\xff\n/gone", 0),
        ("-", b"/d\xff\n/gone/below", 0),
        ("+", b"/d\xff\n/other", 0),
        ("M", b"/link", 0),
        ("M", b"/named", 1),
        ("M", b"/null", 0),
        ("M", b"/swap", 0),
        ("-", b"/turn", 0),
        ("+", b"/turn", 0),
    ]
    assert changes[2].old is not None and changes[2].inode.mtime_ns == 5 != changes[2].old.mtime_ns
    assert changes[3].new is None and changes[3].inode.ino == gone


def test_a_file_that_was_moved_over_another_is_renamed_and_the_other_removed() -> None:
    old = Model()
    file, other = old.make(REG, 1, b"a"), old.make(REG, 1, b"b")
    folder = old.make(DIR, 1, b"x")
    inner = old.make(REG, folder, b"inner")
    old.make(REG, folder, b"still")
    new = old.copy()
    new.files[1].names = {b"b": file, b"y": folder}
    new.settle(other)
    new.touch(inner, mode=REG | 0o600)
    objects = Objects()
    trees = stored(old, objects), stored(new, objects)
    assert [(str(c.kind), c.old_path, c.path) for c in diff(*trees, related=True)] == [
        ("M", b"", b"/"),
        ("R", b"/a", b"/b"),
        ("-", b"", b"/b"),
        ("R", b"/x", b"/y"),
        ("R", b"/x/inner", b"/y/inner"),
    ]
    assert rows_of(list(diff(*trees))) == by_path(old, new)


def test_two_directories_that_changed_places() -> None:
    """Each lies below the other in one of the trees: neither can wait for the other."""
    old = Model()
    outer = old.make(DIR, 1, b"x")
    inner = old.make(DIR, outer, b"y")
    new = old.copy()
    new.files[1].names = {b"y": inner}
    new.files[inner].names = {b"x": outer}
    new.files[outer].names = {}
    for ino in (outer, inner):
        new.settle(ino)
    objects = Objects()
    found = rows_of(list(diff(stored(old, objects), stored(new, objects), related=True)))
    assert found == {("M", b"/", b""), ("R", b"/y/x", b"/x"), ("R", b"/y", b"/x/y")}


def test_an_inode_number_of_other_contents_is_no_renaming() -> None:
    """What is said to be of one history may not be: numbers alone make no file."""
    old, new = Model(), Model()
    old.files[old.make(REG, 1, b"a")].data = b"of this"
    new.clock += 9
    new.files[new.make(REG, 1, b"b")].data = b"that is"
    objects = Objects()
    found = rows_of(list(diff(stored(old, objects), stored(new, objects), related=True)))
    assert found == {("M", b"/", b""), ("-", b"/a", b""), ("+", b"/b", b"")}


def test_the_same_bytes_in_other_chunks_are_no_difference() -> None:
    old = Model()
    file = old.make(REG, 1, b"a")
    old.files[file].data = bytes(16) + b"0123456789" + bytes(3)
    old.touch(file, size=29)
    new = old.copy()
    new.files[file].shared = 3
    new.touch(file, mtime_ns=77)
    objects = Objects()
    trees = stored(old, objects), stored(new, objects)
    assert rows_of(list(diff(*trees))) == {("M", b"/a", b"")}
    assert not list(diff(*trees, times=False))
    assert rows_of(list(diff(*trees, times=False, repacked=True))) == {("=", b"/a", b"")}
    new.files[file].data = bytes(16) + b"0123x56789" + bytes(3)
    assert rows_of(list(diff(trees[0], stored(new, objects), times=False))) == {("M", b"/a", b"")}


@pytest.mark.parametrize(
    ("data", "other", "same"),
    [
        (b"", b"", True),
        (b"abcabc", b"abcabd", False),
        (b"abcabc", b"abcab", False),
        (bytes(9), bytes(9), True),
        (bytes(4) + b"abcd" + bytes(4), bytes(4) + b"abcd" + bytes(4), True),
        (bytes(4) + b"abcd" + bytes(4), bytes(5) + b"abcd" + bytes(3), False),
    ],
)
def test_contents_are_compared_however_they_are_cut(data: bytes, other: bytes, same: bool) -> None:
    """Every way of cutting both into pieces, as parts of one chunk that holds all: zeros stored or left out."""
    objects = Objects()
    pool = objects.put(data + other)
    inode = Inode(2, REG, 0, 0, 1, 0, 0, 0, 0)

    def cut(text: bytes, start: int, step: int, holes: bool) -> StoredTree:
        items = [(inode_key(2), pack_inode(inode))]
        for at in range(0, len(text), step):
            piece = text[at : at + step]
            if piece.strip(b"\0") or not holes:
                items.append((number_key(2, EXTENT, at), pack_extent(len(piece), start + at, pool)))
        return objects.tree(items)

    for step, other_step, holes in product((1, 2, 3, 4, 7, 20), (1, 3, 5, 20), (False, True)):
        trees = cut(data, 0, step, holes), cut(other, len(data), other_step, not holes)
        left, right = replace(inode, size=len(data)), replace(inode, size=len(other))
        assert Contents(*trees).same(left, right) == same
        if same:
            assert Contents(*trees).unshared(left, right) == (0, 0)


def test_an_extent_beyond_its_chunk_is_damage() -> None:
    objects = Objects()
    inode = Inode(2, REG, 0, 0, 1, 9, 0, 0, 0)
    trees = [
        objects.tree([(inode_key(2), pack_inode(inode)), (number_key(2, EXTENT, 0), pack_extent(9, 0, objects.put(d)))])
        for d in (b"123456789", b"12345678")
    ]
    with pytest.raises(DamagedData, match="beyond its chunk"):
        Contents(*trees).same(inode, inode)


def test_a_tree_deeper_than_the_stack() -> None:
    depth = sys.getrecursionlimit() + 50
    old = Model()
    directory = 1
    for _ in range(depth):
        directory = old.make(DIR, directory, b"d")
    file = old.make(REG, directory, b"f")
    new = old.copy()
    new.touch(file, mode=REG | 0o600)
    objects = Objects()
    trees = stored(old, objects), stored(new, objects)
    deep = b"/d" * depth + b"/f"
    assert rows_of(list(diff(*trees))) == {("M", deep, b"")}
    assert len(list(diff(stored(Model(), objects), trees[1]))) == depth + 2
    assert len(list(diff(trees[0], stored(Model(), objects)))) == depth + 2


def test_a_directory_in_itself_is_damage() -> None:
    old, new = Model(), Model()
    for model in (old, new):
        folder = model.make(DIR, 1, b"x")
    new.files[folder].names[b"again"] = folder
    objects = Objects()
    trees = stored(old, objects), stored(new, objects)
    for pair in (trees, trees[::-1]):
        with pytest.raises(DamagedData, match="more than one name"):
            list(diff(*pair))


def image(files: int) -> list[Item]:
    """Items of a tree of many files, four levels deep, numbered as an import numbers them."""
    items: list[Item] = []
    folders = [(ROOT_INO, ROOT_INO)]
    number = ROOT_INO + 1

    def name(parent: int, text: bytes, ino: int, mode_type: int) -> None:
        items.append((number_key(parent, DIRENT, name_cookie(text)), pack_dirent(ino, mode_type, text)))

    for _ in range(4):
        above, folders = folders, []
        for ino, parent in above:
            items.append((inode_key(ino), pack_inode(Inode(ino, DIR | 0o755, 0, 0, 2, 0, 1, 2, 3, parent=parent))))
            for _ in range(6):
                name(ino, b"folder-%d" % number, number, DIR)
                folders.append((number, ino))
                number += 1
    for ino, parent in folders:
        items.append((inode_key(ino), pack_inode(Inode(ino, DIR | 0o755, 0, 0, 2, 0, 1, 2, 3, parent=parent))))
    each = files // len(folders) + 1
    for ino, _ in folders:
        for at in range(each):
            inode = Inode(number, REG | 0o644, 0, 0, 1, 5000, number * 977, number * 1009, 7, parent=ino)
            items.append((inode_key(number), pack_inode(inode)))
            items.append((number_key(number, EXTENT, 0), pack_extent(5000, 0, noise(number, 32))))
            name(ino, b"a-file-of-some-name-%d.py" % at, number, REG)
            number += 1
    return sorted(items)


def test_one_changed_file_among_42000_is_found_with_few_reads() -> None:
    items = image(42_000)
    objects = Objects()
    old = objects.tree(items)
    files = [key for key, value in items if key[8] == INODE and unpack_inode(key_ino(key), value).mode & REG]
    assert len(files) > 42_000
    changed = files[len(files) // 3]
    before = unpack_inode(key_ino(changed), dict(items)[changed])
    edits = [(changed, pack_inode(replace(before, mtime_ns=5)))]
    new = StoredTree(objects.put(pack_root(*apply(old.reader, edits, objects.put), NO_TOTALS)), objects.get)
    for related in (False, True):
        old, new = (StoredTree(tree.root_key, objects.get) for tree in (old, new))
        objects.read.clear()
        (change,) = diff(old, new, related=related)
        assert change.kind == Kind.MODIFIED and change.inode.ino == before.ino and change.path.count(b"/") == 5
        assert len(objects.read) <= 60


def test_a_tree_of_another_numbering_is_read_once() -> None:
    """Where all numbers differ every node is read, but the look for what differs ends early."""
    items = image(6_000)
    objects = Objects()
    old = objects.tree(items, Totals(6_600, 6_000, 600, 0, 2))
    shifted = [shift(item) for item in items]
    new = objects.tree(sorted(shifted), Totals(6_600, 6_000, 600, 0, 2))
    nodes = len(list(old.reader.nodes())) + len(list(new.reader.nodes()))
    old, new = (StoredTree(tree.root_key, objects.get, 4096) for tree in (old, new))
    objects.read.clear()
    assert not list(diff(old, new))
    assert len(objects.read) <= nodes + 2


def shift(item: Item) -> Item:
    """An item of any inode but the root's, with numbers that are one higher."""
    key, value = item
    ino, rest = key_ino(key), key[8:]
    if rest[0] == DIRENT:
        entry = unpack_dirent(key, value)
        value = pack_dirent(entry.ino + 1, entry.mode_type, entry.name)
    elif rest[0] == INODE:
        inode = unpack_inode(ino, value)
        value = pack_inode(replace(inode, parent=inode.parent + (inode.parent != ROOT_INO)))
    return inode_key(ino + (ino != ROOT_INO))[:8] + rest, value


@pytest.mark.parametrize("parent", [0, 1, 2**64 - 1])
def test_the_parent_link_is_optional(parent: int) -> None:
    inode = Inode(9, REG | 0o644, 1, 2, 3, 4, 5, 6, 7, 8, 9, parent)
    value = pack_inode(inode)
    assert unpack_inode(9, value) == inode
    assert len(value) == (80 if parent else 72), "what is not known takes no room, as before there were links"
    assert pack_inode(replace(inode, parent=0)) == value[:72]
    with pytest.raises(DamagedData):
        unpack_inode(9, value[:72] + b"\1" * 7)
