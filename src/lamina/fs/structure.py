"""Whether a tree makes a file system: what its leaves say about each other, summed up so that parts add up.

A tree may share most of its nodes with another one that is known to be right, so a subtree is looked at once and what
it says is kept as a ``Summary``; two neighbours' summaries join to that of both. That every directory entry has its
inode and every inode as many names as it says is a statement about the whole tree. It is made of sums: each name adds
the hash of its inode, each inode takes away ``nlink`` times its own. Only what cancels out is right (but for one case
in 2**60 or so, anew with each process).

The image area (:mod:`lamina.fs.imagearea`) hangs below a directory of its own, a second root: its names and inodes are
held to the same rules, and to those of the area, but no total counts them.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from stat import S_IFDIR, S_IFLNK, S_IFREG
from typing import Any

from lamina.errors import DamagedData
from lamina.fs.imagearea import AREA_KEY, CONFIG_INO, IMAGE_INO, named_ino
from lamina.fs.node import (
    DIRENT,
    EXTENT,
    INODE,
    SYMLINK,
    XATTR,
    Node,
    inode_head,
    key_ino,
    unpack_dirent_value,
    unpack_extent_value,
    unpack_key,
    unpack_number_key,
)
from lamina.fs.tree import TreeReader
from lamina.fs.types import ROOT_INO, Totals

_MOST_PROBLEMS = 8
"""Of one subtree, and of one tree: what is broken mostly is so in a thousand places."""
_TYPES = {SYMLINK: S_IFLNK, DIRENT: S_IFDIR, EXTENT: S_IFREG}
"""The type of inode that may have items of a kind."""
_KIND_NAMES = {SYMLINK: "a target", DIRENT: "directory entries", EXTENT: "extents"}


Edges = tuple[Any, ...]
"""Pairs (directory, directory in it), or tuples of such tuples: joining copies nothing."""


@dataclass(slots=True)
class Run:
    """What is known of one inode whose items may go on in the next leaf. ``type`` is 0 where its inode item lies
    before."""

    ino: int
    type: int = 0
    size: int = 0
    kinds: int = 0
    """A bit for each kind of item that it has."""
    first_extent: int = -1
    last_end: int = 0
    """File offsets of its first extent and behind its last one, in bytes."""


@dataclass(slots=True)
class Summary:
    """What a run of leaves says. ``head`` are items at its beginning whose inode item is not among them.

    The counts are those of the root file system, but for ``area`` and ``configs``.
    """

    inodes: int = 0
    files: int = 0
    directories: int = 0
    data_bytes: int = 0
    largest: int = 0
    links: int = 0
    """Names and link counts: the sum of hashes that must cancel out."""
    homes: int = 0
    """The same of directories alone, each of which has one name."""
    parents: int = 0
    """The same of (inode, parent) where inodes know their parents."""
    edges: int = 0
    """Sum of hashes of (directory, directory in it)."""
    below: Edges = ()
    orphans: int = 0
    """Inodes that do not know their parents."""
    area: int = 0
    """Inodes of the image area."""
    configs: int = 0
    """Those of them that are its config."""
    head: Run | None = None
    tail: Run | None = None
    broken: bool = False
    """Something of it could not be read: sums say nothing."""
    problems: tuple[str, ...] = ()


def _add(problems: tuple[str, ...], *more: str) -> tuple[str, ...]:
    return (problems + more)[:_MOST_PROBLEMS]


def broken() -> Summary:
    """What stands for leaves that cannot be read."""
    return Summary(broken=True)


def join(left: Summary, right: Summary) -> Summary:
    """The summary of two neighbours."""
    problems = _add(left.problems, *right.problems)
    head, tail = left.head, right.tail
    if left.broken or right.broken:
        pass  # what lies between them is not known
    elif right.head is None:
        if left.tail is not None and left.tail is not left.head:
            problems = _add(problems, *_finished(left.tail))
    elif left.tail is None or left.tail.ino != right.head.ino:
        problems = _add(problems, f"inode {right.head.ino} has items, but no inode item")
    else:
        joined, wrong = _merged(left.tail, right.head)
        problems = _add(problems, *wrong)
        if left.tail is left.head:  # no inode item on the left at all
            head = joined
        if right.tail is right.head:
            tail = joined
        elif joined.type:
            problems = _add(problems, *_finished(joined))
    return Summary(
        left.inodes + right.inodes,
        left.files + right.files,
        left.directories + right.directories,
        left.data_bytes + right.data_bytes,
        max(left.largest, right.largest),
        left.links + right.links,
        left.homes + right.homes,
        left.parents + right.parents,
        left.edges + right.edges,
        (left.below, right.below) if left.below and right.below else left.below or right.below,
        left.orphans + right.orphans,
        left.area + right.area,
        left.configs + right.configs,
        head,
        tail,
        left.broken or right.broken,
        problems,
    )


def _merged(left: Run, right: Run) -> tuple[Run, list[str]]:
    wrong = []
    if right.first_extent >= 0 and right.first_extent < left.last_end:
        wrong.append(f"inode {left.ino} has extents that overlap")
    return replace(
        left,
        kinds=left.kinds | right.kinds,
        first_extent=left.first_extent if left.first_extent >= 0 else right.first_extent,
        last_end=max(left.last_end, right.last_end),
    ), wrong


def _finished(run: Run) -> list[str]:
    """What is wrong with an inode all of whose items are known."""
    wrong = []
    for kind, mode_type in _TYPES.items():
        if run.kinds >> kind & 1 and run.type != mode_type:
            wrong.append(f"inode {run.ino} has {_KIND_NAMES[kind]}, which its type does not have")
    if run.type == S_IFLNK and not run.kinds >> SYMLINK & 1:
        wrong.append(f"inode {run.ino} is a symbolic link without a target")
    if run.last_end > run.size and run.type == S_IFREG:
        wrong.append(f"inode {run.ino} has data beyond its size")
    return wrong


@dataclass(slots=True)
class Leaf:
    """One leaf: its summary, and the chunks that it refers to with how many bytes of each it needs."""

    summary: Summary
    chunks: dict[bytes, int] = field(default_factory=dict)


def read_leaf(node: Node) -> Leaf:
    """Look at every item of a leaf. Raises ``DamagedData`` where one cannot be read."""
    try:
        return _read_leaf(node)
    except struct.error:
        raise DamagedData("a tree node holds an item of the wrong length") from None


def _read_leaf(node: Node) -> Leaf:
    """Written out in one piece: a check passes a million items here."""
    sums = Summary()
    chunks: dict[bytes, int] = {}
    problems: list[str] = []
    below: list[tuple[int, int]] = []
    # The inode at hand, as in ``Run``; its type is -1 before the first one and 0 where its inode item lies before.
    last, mode_type, size, kinds, first_extent, end = 0, -1, 0, 0, -1, 0
    links = homes = parents = edges = data_bytes = 0
    seen = False
    for key, value in zip(node.keys, node.values, strict=True):
        ino, kind = unpack_key(key)
        if kind == INODE:
            if mode_type > 0:
                if kinds & ~_ALLOWED.get(mode_type, _ANY) or end > size or mode_type == S_IFLNK:
                    problems += _finished(Run(last, mode_type, size, kinds, first_extent, end))
            elif mode_type == 0 and not seen:
                sums.head = Run(last, 0, 0, kinds, first_extent, end)
            mode, nlink, size, parent = inode_head(value)
            last, mode_type, kinds, first_extent, end = ino, mode & 0o170000, 0, -1, 0
            seen = True
            if ino >= IMAGE_INO:
                sums.area += 1
                sums.configs += ino == CONFIG_INO
                problems += _area_inode(ino, mode_type, nlink, parent)
                if ino != IMAGE_INO:
                    links += nlink * hash((ino, mode_type, _SALT))
                    parents += hash((ino, parent, _SALT))
                continue
            sums.inodes += 1
            links += nlink * hash((ino, mode_type, _SALT))
            if mode_type == S_IFREG:
                sums.files += 1
            elif mode_type == S_IFDIR:
                sums.directories += 1
                homes += hash((ino, _SALT))
            if not nlink or mode_type <= 0:
                problems.append(f"inode {ino} has no name, or no type")
            if not parent:
                sums.orphans += 1
            elif ino != ROOT_INO:
                parents += hash((ino, parent, _SALT))
            elif parent != ROOT_INO:
                problems.append("the root directory has a parent")
            continue
        if ino != last or mode_type < 0:
            if mode_type >= 0:
                problems.append(f"inode {ino} has items, but no inode item")
            last, mode_type, size, kinds, first_extent, end = ino, 0, 0, 0, -1, 0
        kinds |= 1 << kind
        if kind == EXTENT:
            _, _, offset = unpack_number_key(key)
            length, start, chunk = unpack_extent_value(value)
            if first_extent < 0:
                first_extent = offset
            elif offset < end:
                problems.append(f"inode {ino} has extents that overlap")
            end = offset + length
            if ino < IMAGE_INO:
                data_bytes += length
            need = start + length
            if chunks.get(chunk, -1) < need:
                chunks[chunk] = need
        elif kind == DIRENT:
            child, letter = unpack_dirent_value(value)
            parents -= hash((child, ino, _SALT))
            if letter == _DIRECTORY:
                # Its name and its own ".", and the ".." in it, which is a link to the directory that holds it.
                links -= 2 * hash((child, S_IFDIR, _SALT)) + hash((ino, S_IFDIR, _SALT))
                homes -= hash((child, _SALT))
                edges += hash((ino, child, _EDGE))
                below.append((ino, child))
            else:
                links -= hash((child, letter << 12, _SALT))
            name = value[9:]
            if (ino == IMAGE_INO or child >= IMAGE_INO) and (ino != IMAGE_INO or child != named_ino(name)):
                problems.append(f"directory {ino} has an entry {name!r:.90} that is of another inode, {child}")
            if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
                problems.append(f"directory {ino} has an entry with a name that cannot be")
        elif kind not in (XATTR, SYMLINK):
            problems.append(f"inode {ino} has an item of a kind that is not known")
    sums.tail = Run(last, mode_type, size, kinds, first_extent, end)
    if not mode_type and sums.head is None and not seen:
        sums.head = sums.tail
    sums.links, sums.homes, sums.parents, sums.edges, sums.data_bytes = links, homes, parents, edges, data_bytes
    sums.below = tuple(below)
    sums.largest = last
    if last >= IMAGE_INO:
        behind = bisect_left(node.keys, AREA_KEY)
        sums.largest = key_ino(node.keys[behind - 1]) if behind else 0
    sums.problems = tuple(problems[:_MOST_PROBLEMS])
    return Leaf(sums, chunks)


def _area_inode(ino: int, mode_type: int, nlink: int, parent: int) -> list[str]:
    """What is wrong with an inode of the image area."""
    if ino == IMAGE_INO:
        right = (mode_type, nlink, parent) == (S_IFDIR, 2, IMAGE_INO)
        return [] if right else ["the directory of the image's layers is not as it should be"]
    right = (mode_type, nlink, parent) == (S_IFREG, 1, IMAGE_INO)
    return [] if right else [f"inode {ino} of the image's layers is not a file of one name in their directory"]


_DIRECTORY = S_IFDIR >> 12
_ANY = 1 << XATTR
_ALLOWED = {mode_type: _ANY | 1 << kind for kind, mode_type in _TYPES.items()}
"""Kinds of items that an inode of a type may have, as bits."""
_SALT = "names"
_EDGE = "edge"
_ROOTS = (ROOT_INO, IMAGE_INO)
"""Strings, whose hashes are salted anew in each process (object.__hash__ in the language reference)."""


def tree_problems(summary: Summary, totals: Totals, reader: TreeReader, known: set[tuple[int, int]]) -> list[str]:
    """What is wrong with a whole tree, at most a few lines. ``known`` remembers shapes that were found right."""
    problems = list(summary.problems)
    if summary.broken:
        return problems
    if summary.tail is not None:
        problems += _finished(summary.tail)
    if summary.head is not None:
        problems.append(f"inode {summary.head.ino} has items, but no inode item")
    for what, mine, told in (
        ("inodes", summary.inodes, totals.inodes),
        ("files", summary.files, totals.files),
        ("directories", summary.directories, totals.directories),
        ("bytes of data", summary.data_bytes, totals.data_bytes),
    ):
        if mine != told:
            problems.append(f"it holds {mine} {what}, its root says {told}")
    if summary.largest >= totals.next_ino:
        problems.append(f"inode {summary.largest} is there, its root says that the next one is {totals.next_ino}")
    if summary.area and not summary.configs:
        problems.append("its image has no config")
    root = hash((ROOT_INO, S_IFDIR, _SALT))
    right = summary.links == 2 * root and summary.homes == hash((ROOT_INO, _SALT))
    # Where some inodes do not know their parents, or have several, sums of parents do not cancel out.
    parents = summary.parents if summary.orphans < summary.inodes else 0
    if not right or (parents and (summary.links, parents) not in known):
        found = list(_explained(reader))
        if not right and not found:
            found = ["names and inodes do not match"]
        if right and not found:
            known.add((summary.links, parents))
        problems += found
    elif (summary.homes, summary.edges) not in known:
        if _is_one(summary):
            known.add((summary.homes, summary.edges))
        else:
            problems += list(_explained(reader)) or ["not all directories can be reached from the root"]
    return problems[:_MOST_PROBLEMS]


def _is_one(summary: Summary) -> bool:
    """Whether all directories are reached from the root; each is known to have one name."""
    below: dict[int, list[int]] = {}
    stack: list[Any] = [summary.below]
    while stack:
        some = stack.pop()
        if some and isinstance(some[0], int):
            below.setdefault(some[0], []).append(some[1])
        else:
            stack.extend(some)
    count, wave = 0, [ROOT_INO]
    while wave:
        count += len(wave)
        wave = [child for ino in wave for child in below.get(ino, ())]
        if count > summary.directories:
            return False
    return count == summary.directories


def _explained(reader: TreeReader) -> Iterator[str]:
    """What is wrong with names and inodes, from all of them at once."""
    inodes: dict[int, tuple[int, int, int]] = {}
    """(type, links, parent) by number."""
    names: dict[int, list[tuple[int, int]]] = {}
    below: dict[int, list[int]] = {}
    for leaf in reader.leaves():
        for key, value in zip(leaf.keys, leaf.values, strict=True):
            if key[8] == INODE:
                mode, nlink, _, parent = inode_head(value)
                inodes[key_ino(key)] = (mode & 0o170000, nlink, parent)
            elif key[8] == DIRENT:
                child, letter = unpack_dirent_value(value)
                names.setdefault(child, []).append((key_ino(key), letter << 12))
                if letter == _DIRECTORY:
                    below.setdefault(key_ino(key), []).append(child)
    if inodes.get(ROOT_INO, (0, 0, 0))[0] != S_IFDIR:
        yield "it has no root directory"
    for ino in sorted(names.keys() - inodes.keys()):
        yield f"a name in directory {names[ino][0][0]} is of inode {ino}, which is not there"
    for ino, (mode_type, nlink, parent) in inodes.items():
        held = names.get(ino, [])
        if any(told != mode_type for _, told in held):
            yield f"a name of inode {ino} says another type than the inode"
        if mode_type == S_IFDIR:
            wanted = 2 + len(below.get(ino, []))
            if len(held) != (ino not in _ROOTS):
                yield f"directory {ino} has {len(held)} names"
        else:
            wanted = len(held)
        if nlink != wanted:
            yield f"inode {ino} has {wanted} links, it says {nlink}"
        if parent and ino not in _ROOTS and all(holder != parent for holder, _ in held):
            yield f"inode {ino} says that directory {parent} holds it, which does not"
    seen = set(_ROOTS)
    stack = [*_ROOTS]
    while stack:
        for child in below.get(stack.pop(), []):
            if child not in seen:
                seen.add(child)
                stack.append(child)
    for ino, (mode_type, _, _) in inodes.items():
        if mode_type == S_IFDIR and ino not in seen:
            yield f"directory {ino} cannot be reached from the root"


def check_child(parent: Node, at: int, child: Node) -> None:
    """Raise ``DamagedData`` unless a child is what the inner node above says."""
    if child.level != parent.level - 1:
        raise DamagedData("a tree node is not of the level below its parent's")
    if child.keys[-1] != parent.keys[at] or (at and child.keys[0] <= parent.keys[at - 1]):
        raise DamagedData("a tree node does not end where its parent says")
