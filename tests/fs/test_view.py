"""A read view next to what it was made of."""

import random
import stat
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import DamagedData, NotFound
from lamina.fs import node, view
from lamina.fs.node import (
    DIRENT,
    EXTENT,
    NS,
    SYMLINK,
    XATTR,
    give_cookies,
    inode_key,
    kind_key,
    number_key,
    pack_dirent,
    pack_extent,
    pack_inode,
)
from lamina.fs.types import ROOT_INO, Inode, Totals
from lamina.fs.view import StoredTree, path_of
from tests.fs.kit import Item, Objects, noise


def inode(ino: int, mode: int = 0o100644, size: int = 0, **more: int) -> Inode:
    fields = {"mtime_ns": 1, "ctime_ns": 2, "atime_ns": 3, **more}
    return Inode(ino, mode, 0, 0, 1, size, **fields)


def directory(ino: int, names: dict[bytes, tuple[int, int]]) -> list[Item]:
    """Items of a directory: inode number and type by name."""
    order = list(names)
    items = [(inode_key(ino), pack_inode(inode(ino, 0o40755)))]
    for name, cookie in zip(order, give_cookies(order), strict=True):
        items.append((number_key(ino, DIRENT, cookie), pack_dirent(*names[name], name)))
    return items


names = st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name)


# -- directories ----------------------------------------------------------------------------------------------------


@given(st.dictionaries(names, st.integers(2, 1 << 60), max_size=60), st.lists(names, max_size=5), st.booleans())
@settings(max_examples=80, deadline=None)
def test_lookup_and_readdir(entries: dict[bytes, int], others: list[bytes], collide: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if collide:
            for module in (node, view):
                patch.setattr(module, "name_cookie", lambda name: ((1 << 48) - 1 - len(name) % 2) << 15)
        wanted = {name: (ino, stat.S_IFREG) for name, ino in entries.items()}
        neighbours = directory(ROOT_INO + 1, {b"a neighbour": (9, stat.S_IFREG)})
        tree = Objects().tree(sorted(directory(ROOT_INO, wanted) + neighbours))
        for name in [*entries, *others]:
            found = tree.lookup(ROOT_INO, name)
            assert (found and (found.ino, found.mode_type, found.name)) == (
                (*wanted[name], name) if name in wanted else None
            )
        listed = list(tree.readdir(ROOT_INO))
        assert {entry.name: (entry.ino, entry.mode_type) for entry in listed} == wanted
        cookies = [entry.cookie for entry in listed]
        assert cookies == sorted(set(cookies))
        assert all(1 << 15 <= cookie < 1 << 63 for cookie in cookies)
        # Going on after any cookie, also one whose name has gone, gives exactly the rest.
        for at, cookie in enumerate(cookies):
            assert list(tree.readdir(ROOT_INO, cookie)) == listed[at + 1 :]
            assert list(tree.readdir(ROOT_INO, cookie - 1)) == listed[at:]
        assert list(tree.readdir(ROOT_INO, (1 << 63) - 1)) == []


def test_cookies_stay_while_names_come_and_go() -> None:
    some = {b"%d" % number: (number, stat.S_IFREG) for number in range(2, 500)}
    more = {**{name: target for name, target in some.items() if target[0] % 3}, b"new": (7000, stat.S_IFREG)}
    before = {entry.name: entry.cookie for entry in Objects().tree(sorted(directory(ROOT_INO, some))).readdir(ROOT_INO)}
    after = {entry.name: entry.cookie for entry in Objects().tree(sorted(directory(ROOT_INO, more))).readdir(ROOT_INO)}
    assert all(before[name] == cookie for name, cookie in after.items() if name in before)


def test_paths() -> None:
    items = directory(1, {b"usr": (2, stat.S_IFDIR)}) + directory(2, {b"bin": (3, stat.S_IFREG)})
    tree = Objects().tree(sorted([*items, (inode_key(3), pack_inode(inode(3)))]))
    for path in (b"usr/bin", b"/usr//bin/", b"./usr/./bin"):
        assert path_of(tree, path) == 3
    assert path_of(tree, b"") == path_of(tree, b"/") == ROOT_INO
    for path in (b"usr/lib", b"usr/bin/x", b".."):
        with pytest.raises(NotFound):
            path_of(tree, path)


# -- inodes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [0, 1, -1, NS - 1, -NS, -NS - 1, -(2**40) * NS + 5, 2**40 * NS + 999_999_999])
def test_times_before_the_epoch_and_below_a_second(time: int) -> None:
    tree = Objects().tree([(inode_key(1), pack_inode(inode(1, mtime_ns=time, ctime_ns=time + 1, atime_ns=time - 1)))])
    found = tree.inode(1)
    assert (found.mtime_ns, found.ctime_ns, found.atime_ns) == (time, time + 1, time - 1)


def test_what_is_not_there() -> None:
    tree = Objects().tree([(inode_key(5), pack_inode(inode(5)))])
    for ino in (0, 1, 4, 6, 1 << 60):
        with pytest.raises(NotFound):
            tree.inode(ino)
        assert (tree.xattrs(ino), tree.extents(ino), list(tree.readdir(ino)), tree.lookup(ino, b"x")) == (
            {},
            [],
            [],
            None,
        )
        with pytest.raises(NotFound):
            tree.read(ino, 0, 1)
    with pytest.raises(NotFound, match="not a symbolic link"):
        tree.readlink(5)


@given(st.dictionaries(names, st.binary(max_size=5000), max_size=8), st.binary(min_size=1, max_size=4095))
@settings(max_examples=50, deadline=None)
def test_xattrs_and_links(xattrs: dict[bytes, bytes], target: bytes) -> None:
    items = [(inode_key(ino), pack_inode(inode(ino))) for ino in (4, 5, 6)]
    items += [(kind_key(5, XATTR, name), value) for name, value in xattrs.items()]
    items += [(kind_key(4, XATTR, b"user.other"), b"4"), (kind_key(6, XATTR, b"user.other"), b"6")]
    items += [(kind_key(5, SYMLINK), target), (number_key(5, DIRENT, 1), b""), (number_key(5, EXTENT, 0), b"")]
    tree = Objects().tree(sorted(items))
    assert tree.xattrs(5) == xattrs
    assert tree.readlink(5) == target


def test_totals_come_from_the_root() -> None:
    totals = Totals(7, 3, 4, 1 << 50, 99)
    assert Objects().tree([(inode_key(1), b"")], totals).totals == totals


def test_a_root_that_is_none() -> None:
    objects = Objects()
    for data in (b"", b"LR", b"x" * 76, bytes(76)):
        with pytest.raises(DamagedData):
            StoredTree(objects.put(data), objects.get)
    with pytest.raises(DamagedData):
        StoredTree(bytes(32), objects.get)


# -- contents -------------------------------------------------------------------------------------------------------

pieces = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 5000), st.integers(0, 300)), max_size=8)


@given(pieces, st.integers(0, 5000), st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 60_000)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_reading(parts: list[tuple[int, int, int]], tail: int, reads: list[tuple[int, int]]) -> None:
    """Extents with holes between, in chunks from an offset on, next to the bytes themselves."""
    objects = Objects()
    model = bytearray()
    items: list[Item] = []
    places = []
    for number, (hole, length, before) in enumerate(parts):
        model += bytes(hole)
        data = noise(number, length)
        key = objects.put(noise(number + 100, before) + data + b"after")
        items.append((number_key(5, EXTENT, len(model)), pack_extent(length, before, key)))
        places.append((len(model), length))
        model += data
    model += bytes(tail)
    items += [(inode_key(ino), pack_inode(inode(ino, size=len(model)))) for ino in (5, 6)]
    items.append((number_key(6, EXTENT, 0), pack_extent(1, 0, objects.put(b"x"))))
    tree = objects.tree(sorted(items))
    assert tree.read(5, 0, len(model)) == tree.read(5, 0, 1 << 40) == bytes(model)
    for offset, size in [*reads, (len(model), 1), (len(model) + 1000, 5), (0, 0), (max(len(model) - 1, 0), 10)]:
        assert tree.read(5, offset, size) == bytes(model[offset : offset + size])
        found = [(extent.offset, extent.length) for extent in tree.extents(5, offset, offset + size)]
        wanted = [(at, n) for at, n in places if at < offset + size and at + n > offset]
        if size:
            assert found == wanted
    assert [(extent.offset, extent.length) for extent in tree.extents(5)] == places


def test_a_huge_hole_is_read_as_zeros() -> None:
    objects = Objects()
    size = 200 << 30
    key = objects.put(b"end")
    tree = objects.tree(
        [(inode_key(2), pack_inode(inode(2, size=size))), (number_key(2, EXTENT, size - 3), pack_extent(3, 0, key))]
    )
    assert tree.read(2, 100 << 30, 10) == bytes(10)
    assert tree.read(2, size - 5, 100) == b"\0\0end"
    assert len(tree.extents(2)) == 1 and tree.extents(2, 0, 1 << 30) == []


def test_an_extent_beyond_its_chunk_is_damage() -> None:
    objects = Objects()
    key = objects.put(b"short")
    tree = objects.tree(
        [(inode_key(2), pack_inode(inode(2, size=100))), (number_key(2, EXTENT, 0), pack_extent(100, 0, key))]
    )
    with pytest.raises(DamagedData, match="beyond its chunk"):
        tree.read(2, 0, 1)


def test_neighbours_in_a_chunk() -> None:
    objects = Objects()
    items: list[Item] = []
    groups = {}
    for first in range(2, 62, 6):
        members = range(first, first + 6)
        key = objects.put(b"".join(b"%04d" % ino for ino in members))
        for at, ino in enumerate(members):
            items += [
                (inode_key(ino), pack_inode(inode(ino, size=4))),
                (number_key(ino, EXTENT, 0), pack_extent(4, 4 * at, key)),
            ]
            groups[ino] = list(members)
    items.append((inode_key(100), pack_inode(inode(100))))
    tree = objects.tree(sorted(items))
    for ino, members in groups.items():
        found = tree.chunk_neighbours(ino)
        assert [number for number, _ in found] == members
        for number, extent in found:
            data = tree.chunk(extent.key)
            assert data[extent.chunk_offset : extent.chunk_offset + extent.length] == b"%04d" % number
    assert tree.chunk_neighbours(100) == tree.chunk_neighbours(5000) == []


def test_objects_are_all_that_is_reached() -> None:
    objects = Objects()
    items: list[Item] = []
    for ino in range(2, 3000):
        items.append((inode_key(ino), pack_inode(inode(ino, size=4))))
        if ino % 2:
            items.append((number_key(ino, EXTENT, 0), pack_extent(4, 0, objects.put(b"%04d" % (ino % 700)))))
    tree = objects.tree(items)
    assert set(tree.objects()) == set(objects.data)
    top = tree.reader._top
    assert set(tree.objects(lambda key: key == top)) == {tree.root_key}


def test_many_threads_and_a_tiny_cache() -> None:
    objects = Objects()
    entries = {b"name-%d" % number: (number, stat.S_IFREG) for number in range(2, 4000)}
    items = directory(ROOT_INO, entries)
    items += [(inode_key(ino), pack_inode(inode(ino, size=ino))) for ino in range(2, 4000)]
    root = objects.tree(sorted(items)).root_key
    tree = StoredTree(root, objects.data.__getitem__, cache_nodes=2)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(300):
                number = rng.randrange(2, 4000)
                found = tree.lookup(ROOT_INO, b"name-%d" % number)
                assert found is not None and found.ino == number
                assert tree.inode(number).size == number
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
