"""From inode numbers back to paths, in a tree that may have lost nodes. The image area has none."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from stat import S_IFDIR

from lamina.errors import DamagedData, LaminaError
from lamina.fs.imagearea import AREA_KEY, IMAGE_INO
from lamina.fs.node import DIRENT, EXTENT, Node, key_ino, kind_key, unpack_dirent
from lamina.fs.tree import TreeReader
from lamina.fs.types import ROOT_INO
from lamina.fs.view import StoredTree

_MOST_INSIDE = 100_000
"""Names of one hidden range that are kept: the first ones, and the last."""

Edge = tuple[int, bytes]
"""The directory that holds an inode, and its name there."""


def readable(reader: TreeReader, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Items with start <= key < end of a tree, without those that damaged nodes hide."""
    try:
        top = reader.top()
    except DamagedData:
        return
    stack: list[Node] = [top]
    while stack:
        node = stack.pop()
        if node.level == 0:
            at = bisect_left(node.keys, start)
            stop = len(node.keys) if end is None else bisect_left(node.keys, end)
            yield from zip(node.keys[at:stop], node.values[at:stop], strict=True)
            continue
        below: list[Node] = []
        for at in range(bisect_left(node.keys, start), len(node.keys)):
            if end is not None and at and node.keys[at - 1] >= end:
                break
            try:
                below.append(reader.child(node, at))
            except DamagedData:
                continue
        stack += reversed(below)


class Paths:
    """Paths in one tree. A file of several names has one of them."""

    def __init__(self, tree: StoredTree) -> None:
        self._tree = tree
        self._edges: dict[int, Edge] = {}
        self._sought: set[int] = set()

    def of(self, inodes: Sequence[int]) -> dict[int, bytes]:
        """The path below the root of each; those that cannot be found are left out."""
        self._climb(inodes)
        found = {}
        for ino in inodes:
            path = self._path(ino)
            if path is not None:
                found[ino] = path
        return found

    def all_of(self, inodes: Iterable[int]) -> dict[int, list[bytes]]:
        """Every path of each: needs all directory entries read."""
        wanted = set(inodes)
        named: dict[int, list[Edge]] = {}
        for parent, name, ino, _ in self._entries():
            if ino in wanted:
                named.setdefault(ino, []).append((parent, name))
        self._climb({parent for edges in named.values() for parent, _ in edges})
        found: dict[int, list[bytes]] = {}
        for ino, edges in named.items():
            above = [(self._path(parent), name) for parent, name in edges]
            found[ino] = sorted(_joined(parent, name) for parent, name in above if parent is not None)
        return found

    def within(self, ranges: Sequence[tuple[int, int]]) -> list[list[bytes]]:
        """For each range (first, last) of inode numbers the paths of those that have names, in order of number."""
        if not ranges:
            return []
        inside: list[dict[int, Edge]] = [{} for _ in ranges]
        for parent, name, ino, _ in self._entries():
            for (first, last), edges in zip(ranges, inside, strict=True):
                if first <= ino <= last and (len(edges) < _MOST_INSIDE or ino == last):
                    edges.setdefault(ino, (parent, name))
        self._climb({parent for edges in inside for parent, _ in edges.values()})
        found = []
        for edges in inside:
            above = [(self._path(edges[ino][0]), edges[ino][1]) for ino in sorted(edges)]
            found.append([_joined(parent, name) for parent, name in above if parent is not None])
        return found

    def _path(self, ino: int) -> bytes | None:
        names: list[bytes] = []
        seen: set[int] = set()
        while ino != ROOT_INO:
            edge = self._edges.get(ino)
            if edge is None or ino in seen:
                return None
            seen.add(ino)
            ino, name = edge
            names.append(name)
        return b"/".join(reversed(names))

    def _climb(self, inodes: Iterable[int]) -> None:
        """Learn the edges of ``inodes`` and of all above them, a level at a time."""
        wanted = set(inodes)
        while wanted := {ino for ino in wanted if ROOT_INO < ino < IMAGE_INO and ino not in self._edges}:
            below: dict[int, set[int]] = {}
            for ino in wanted:
                below.setdefault(self._parent(ino), set()).add(ino)
            unknown = below.pop(0, set())
            for parent, some in below.items():
                unknown |= self._look(parent, some)
            if not unknown <= self._sought:
                self._search(unknown)
            wanted = {self._edges[ino][0] for ino in wanted if ino in self._edges}

    def _parent(self, ino: int) -> int:
        try:
            return self._tree.inode(ino).parent
        except LaminaError:
            return 0

    def _look(self, parent: int, wanted: set[int]) -> set[int]:
        """Learn the names of ``wanted`` in the directory that should hold them; those that are not found."""
        left = set(wanted)
        for key, value in readable(self._tree.reader, kind_key(parent, DIRENT), kind_key(parent, EXTENT)):
            entry = unpack_dirent(key, value)
            if entry.ino in left:
                left.discard(entry.ino)
                self._edges[entry.ino] = (parent, entry.name)
                if not left:
                    break
        return left

    def _search(self, wanted: set[int]) -> None:
        """Learn the edges of all directories and of ``wanted`` from all directory entries: links to parents are not
        there, or their inodes cannot be read."""
        self._sought |= wanted
        for parent, name, ino, mode_type in self._entries():
            if mode_type == S_IFDIR or ino in wanted:
                self._edges.setdefault(ino, (parent, name))

    def _entries(self) -> Iterator[tuple[int, bytes, int, int]]:
        """(directory, name, inode number, type) of all entries that can be read."""
        for key, value in readable(self._tree.reader, end=AREA_KEY):
            if key[8] == DIRENT:
                entry = unpack_dirent(key, value)
                yield key_ino(key), entry.name, entry.ino, entry.mode_type


def _joined(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name
