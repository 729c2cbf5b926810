"""Sums over leaves tell every tree that makes a file system from every one that does not."""

import random
from collections.abc import Callable
from functools import reduce
from stat import S_IFDIR, S_IFLNK, S_IFREG

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.fs.node import (
    DIRENT,
    EXTENT,
    INODE,
    SYMLINK,
    XATTR,
    Node,
    inode_key,
    key_ino,
    kind_key,
    number_key,
    pack_dirent,
    pack_extent,
    pack_inode,
    pack_node,
    unpack_inode,
)
from lamina.fs.structure import Leaf, Summary, join, read_leaf, tree_problems
from lamina.fs.tree import TreeReader
from lamina.fs.types import Inode, Totals

Items = dict[bytes, bytes]


def make(seed: int, *, parents: bool = True, hard_links: bool = True) -> Items:
    """Items of a random file system."""
    generator = random.Random(seed)
    items: Items = {}
    directories = [1]
    children: dict[int, int] = {1: 0}
    holder = {1: 1}
    files: dict[int, list[int]] = {}
    number = 1
    for _ in range(generator.randrange(5, 60)):
        number += generator.randrange(1, 4)
        parent = generator.choice(directories)
        name = b"n%d" % number
        kind = generator.choice([S_IFDIR, S_IFREG, S_IFREG, S_IFREG, S_IFLNK])
        cookie = generator.randrange(1, 1 << 40) << 15
        items[number_key(parent, DIRENT, cookie)] = pack_dirent(number, kind, name)
        holder[number] = parent
        if kind == S_IFDIR:
            directories.append(number)
            children[parent] += 1
            children[number] = 0
            continue
        files[number] = [kind, 1, 0]
        if kind == S_IFLNK:
            items[kind_key(number, SYMLINK)] = b"target"
        elif generator.random() < 0.8:
            position = 0
            for _ in range(generator.randrange(1, 4)):
                position += generator.choice([0, 4096])
                length = generator.randrange(1, 5000)
                chunk = generator.randbytes(32)
                items[number_key(number, EXTENT, position)] = pack_extent(length, generator.randrange(9), chunk)
                position += length
            files[number][2] = position + generator.choice([0, 100])
        if generator.random() < 0.2:
            items[kind_key(number, XATTR, b"user.x")] = b"value"
        if hard_links and kind == S_IFREG and generator.random() < 0.2:
            again = generator.choice(directories)
            cookie = generator.randrange(1, 1 << 40) << 15
            items[number_key(again, DIRENT, cookie)] = pack_dirent(number, kind, name + b"again")
            files[number][1] += 1
    for ino, below in children.items():
        inode = Inode(ino, S_IFDIR | 0o755, 0, 0, 2 + below, 0, 0, 0, 0, parent=holder[ino] if parents else 0)
        items[inode_key(ino)] = pack_inode(inode)
    for ino, (kind, links, size) in files.items():
        inode = Inode(ino, kind | 0o644, 0, 0, links, size, 0, 0, 0, parent=holder[ino] if parents else 0)
        items[inode_key(ino)] = pack_inode(inode)
    return items


class Tree:
    """Leaves of a few items each, so that every border is crossed somewhere."""

    def __init__(self, items: Items, width: int) -> None:
        keys = sorted(items)
        self.leaves = [
            Node(pack_node(0, keys[at : at + width], [items[key] for key in keys[at : at + width]]))
            for at in range(0, len(keys), width)
        ]

    def summaries(self) -> list[Summary]:
        return [read_leaf(leaf).summary for leaf in self.leaves]


def totals_of(items: Items) -> Totals:
    inodes = [unpack_inode(key_ino(key), value) for key, value in items.items() if key[8] == INODE]
    data = sum(int.from_bytes(value[:4], "little") for key, value in items.items() if key[8] == EXTENT)
    kinds = [inode.mode & 0o170000 for inode in inodes]
    return Totals(len(inodes), kinds.count(S_IFREG), kinds.count(S_IFDIR), data, max(inode.ino for inode in inodes) + 1)


def problems(items: Items, width: int = 5, totals: Totals | None = None) -> list[str]:
    tree = Tree(items, width)
    return tree_problems(reduce(join, tree.summaries()), totals or totals_of(items), reader(tree), set())


def reader(tree: Tree) -> TreeReader:
    """Looks at leaves one after the other, as the real one does."""

    class Leaves(TreeReader):
        def __init__(self) -> None:
            pass

        def leaves(self, start: bytes = b"") -> "object":  # type: ignore[override]
            return iter(tree.leaves)

    return Leaves()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 40), parents=st.booleans(), links=st.booleans())
def test_what_is_right_is_right(seed: int, width: int, parents: bool, links: bool) -> None:
    assert problems(make(seed, parents=parents, hard_links=links), width) == []


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 12))
def test_joining_does_not_depend_on_the_order(seed: int, width: int) -> None:
    """A tree's summary is the same whichever neighbours are joined first: sums of subtrees can be kept."""
    summaries = Tree(make(seed), width).summaries()
    left = reduce(join, summaries)
    right = reduce(lambda behind, before: join(before, behind), reversed(summaries))
    generator = random.Random(seed)
    while len(summaries) > 1:
        at = generator.randrange(len(summaries) - 1)
        summaries[at : at + 2] = [join(*summaries[at : at + 2])]
    for one in (left, right, summaries[0]):
        one.below = ()
    assert left == right == summaries[0]


def pick(items: Items, kind: int, mode_type: int | None = None) -> bytes:
    """A key of the kind, not the root's."""
    return next(
        key
        for key, value in sorted(items.items())
        if key[8] == kind
        and (kind != INODE or key_ino(key) > 1)
        and (mode_type is None or unpack_inode(key_ino(key), value).mode & 0o170000 == mode_type)
    )


def change_inode(mode_type: int | None = None, **changes: int) -> Callable[[Items], None]:
    from dataclasses import replace

    def change(items: Items) -> None:
        key = pick(items, INODE, mode_type)
        items[key] = pack_inode(replace(unpack_inode(key_ino(key), items[key]), **changes))

    return change


def remove(kind: int, mode_type: int | None = None) -> Callable[[Items], None]:
    return lambda items: items.pop(pick(items, kind, mode_type)) and None


def cycle(items: Items) -> None:
    """Two directories that hold each other: all counts are right, and nothing leads there."""
    a, b = 9001, 9002
    for one, other in ((a, b), (b, a)):
        items[inode_key(one)] = pack_inode(Inode(one, S_IFDIR | 0o755, 0, 0, 3, 0, 0, 0, 0, parent=other))
        items[number_key(one, DIRENT, 1 << 20)] = pack_dirent(other, S_IFDIR, b"x")


def two_names(items: Items) -> None:
    """A directory with two names, and link counts that fit."""
    from dataclasses import replace

    key = pick(items, INODE, S_IFDIR)
    ino = key_ino(key)
    items[number_key(1, DIRENT, 77 << 15)] = pack_dirent(ino, S_IFDIR, b"second")
    for one, more in ((key, 2), (inode_key(1), 1)):
        inode = unpack_inode(key_ino(one), items[one])
        items[one] = pack_inode(replace(inode, nlink=inode.nlink + more))


def wrong_type(items: Items) -> None:
    key = next(key for key, value in items.items() if key[8] == DIRENT and value[8] == S_IFREG >> 12)
    items[key] = items[key][:8] + bytes([S_IFLNK >> 12]) + items[key][9:]


def bad_name(items: Items) -> None:
    key = pick(items, DIRENT)
    items[key] = items[key][:9] + b"a/b"


def overlap(items: Items) -> None:
    key = next(key for key in sorted(items) if key[8] == EXTENT)
    offset = int.from_bytes(key[9:], "big")
    items[number_key(key_ino(key), EXTENT, offset + 1)] = items[key]


def stray(kind: int, rest: bytes) -> Callable[[Items], None]:
    return lambda items: items.update({kind_key(8000, kind, rest): b"v" * 40}) or None


WRONG: list[tuple[str, Callable[[Items], None], str]] = [
    ("links", change_inode(S_IFREG, nlink=9), "links, it says 9"),
    ("no links", change_inode(S_IFREG, nlink=0), "has no name"),
    ("directory's links", change_inode(S_IFDIR, nlink=17), "links, it says 17"),
    ("parent", change_inode(S_IFREG, parent=1 << 40), "holds it, which does not"),
    ("size", change_inode(S_IFREG, size=0), "has data beyond its size"),
    ("type", change_inode(S_IFREG, mode=S_IFDIR | 0o755), "which its type does not have"),
    ("no inode", remove(INODE, S_IFREG), "not there"),
    ("no directory", remove(INODE, S_IFDIR), "not there"),
    ("no entry", remove(DIRENT), "links, it says"),
    ("no target", remove(SYMLINK), "is a symbolic link without a target"),
    ("cycle", cycle, "cannot be reached from the root"),
    ("two names", two_names, "has 2 names"),
    ("type of a name", wrong_type, "says another type than the inode"),
    ("name", bad_name, "with a name that cannot be"),
    ("overlap", overlap, "has extents that overlap"),
    ("stray attribute", stray(XATTR, b"x"), "has items, but no inode item"),
    ("stray kind", stray(9, b""), "of a kind that is not known"),
    ("no root", lambda items: items.pop(inode_key(1)) and None, "no root directory"),
]


@pytest.mark.parametrize("width", [1, 4, 1000])
@pytest.mark.parametrize(("change", "words"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_what_is_wrong_is_found(change: Callable[[Items], None], words: str, width: int) -> None:
    items = make(4, hard_links=False)
    change(items)
    found = problems(items, width)
    assert any(words in line for line in found), found


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), pick=st.integers(0, 10**6), width=st.integers(1, 30))
def test_any_item_taken_away_is_missed(seed: int, pick: int, width: int) -> None:
    """But for what nothing says must be there: a hole may stand where data was, and nobody counts attributes."""
    items = make(seed)
    totals = totals_of(items)
    key = sorted(items)[pick % len(items)]
    del items[key]
    assert problems(items, width, totals) or key[8] == XATTR


@pytest.mark.parametrize("field", ["inodes", "files", "directories", "data_bytes"])
def test_totals_are_compared(field: str) -> None:
    from dataclasses import replace

    items = make(4)
    totals = totals_of(items)
    assert problems(items, totals=replace(totals, **{field: getattr(totals, field) + 1}))
    assert problems(items, totals=replace(totals, next_ino=totals.next_ino - 1))


def test_a_known_shape_hides_nothing() -> None:
    known: set[tuple[int, int]] = set()
    for seed in (4, 5, 4):
        tree = Tree(make(seed), 6)
        assert tree_problems(reduce(join, tree.summaries()), totals_of(make(seed)), reader(tree), known) == []
    items = make(4)
    cycle(items)
    tree = Tree(items, 6)
    assert tree_problems(reduce(join, tree.summaries()), totals_of(items), reader(tree), known)


def test_chunks_and_how_much_of_each() -> None:
    chunk = b"c" * 32
    items = {
        inode_key(1): pack_inode(Inode(1, S_IFREG, 0, 0, 1, 900, 0, 0, 0)),
        number_key(1, EXTENT, 0): pack_extent(100, 50, chunk),
        number_key(1, EXTENT, 200): pack_extent(10, 0, chunk),
    }
    keys = sorted(items)
    leaf = read_leaf(Node(pack_node(0, keys, [items[key] for key in keys])))
    assert isinstance(leaf, Leaf) and leaf.chunks == {chunk: 150}
