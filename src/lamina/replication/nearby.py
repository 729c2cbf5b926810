"""A tree that differs little from one that is known to be whole: what it reaches, found without walking all of it.

Both trees' inner nodes are read; leaves that only one of them has are looked at item by item, and the others just for
pieces of files that the tree they come from may have lost. What a known tree says of itself is true, so sums over the
leaves that differ tell whether the new one is a file system too (``fs/structure.py``). Whatever is not certain here is
left to a walk of the whole tree: the answer is then None.

Measured on an image of 48,000 inodes: 50 ms for one changed file, where a walk takes 700.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce

from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.fs.imagearea import AREA_KEY
from lamina.fs.node import EXTENT, INODE, Node, extent_chunk, key_ino, unpack_root
from lamina.fs.structure import Leaf, Summary, join, read_leaf
from lamina.fs.types import Totals
from lamina.pool.checking.walking import Walked
from lamina.replication.outline import Outline, TreeNodes, key_range
from lamina.store.objects import ObjectStore
from lamina.store.record import Kind

_MOST_DIFFERING = 200
"""Leaves that differ, above which a walk is no slower."""
_FEW = 64
"""Chunks that are looked for in a leaf's bytes rather than in its items."""


@dataclass(frozen=True, slots=True)
class KnownTree:
    """A tree that a name refers to: the key of its root, and the rows of all that it reaches."""

    root: bytes
    objects: BitMap64


def compare(store: ObjectStore, root: bytes, known: KnownTree) -> Walked | None:
    """What the tree ``root`` reaches, if it is whole and differs little from ``known``; else None."""
    try:
        return _Comparison(store, root, known).run()
    except (_Unsure, DamagedData):
        return None


class _Unsure(Exception):
    """It takes a walk to tell."""


def _require(condition: bool) -> None:
    if not condition:
        raise _Unsure


@dataclass(slots=True)
class _Sums:
    """What leaves add up to."""

    inodes: int = 0
    files: int = 0
    directories: int = 0
    data_bytes: int = 0
    links: int = 0
    homes: int = 0
    parents: int = 0
    edges: int = 0
    configs: int = 0
    chunks: dict[bytes, int] = field(default_factory=dict)

    def add(self, leaf: Leaf) -> None:
        one = leaf.summary
        _require(not one.problems)
        self.inodes += one.inodes
        self.files += one.files
        self.directories += one.directories
        self.data_bytes += one.data_bytes
        self.links += one.links
        self.homes += one.homes
        self.parents += one.parents
        self.edges += one.edges
        self.configs += one.configs
        for key, need in leaf.chunks.items():
            self.chunks[key] = max(need, self.chunks.get(key, 0))


class _Comparison:
    def __init__(self, store: ObjectStore, root: bytes, known: KnownTree) -> None:
        self._nodes = TreeNodes(store)
        self._root = root
        self._known = known
        self._read: dict[int, Leaf] = {}
        """Leaves of the new tree that were looked at, by their place."""

    def run(self) -> Walked:
        nodes = self._nodes
        height, top, totals = unpack_root(nodes.get(self._root, Kind.ROOT))
        old_height, old_top, old_totals = unpack_root(nodes.get(self._known.root, Kind.ROOT))
        old, new = nodes.outline(old_height, old_top), nodes.outline(height, top)
        old_places = {key: at for at, key in enumerate(old.leaves)}
        shared = set(new.leaves) & old_places.keys()
        fresh = [at for at, key in enumerate(new.leaves) if key not in shared]
        gone = [key for key in old.leaves if key not in shared]
        _require(len(fresh) + len(gone) <= _MOST_DIFFERING and len(set(new.leaves)) == len(new.leaves))
        added, taken = _Sums(), _Sums()
        for at in fresh:
            added.add(self._leaf(new, at))
        for key in gone:
            taken.add(read_leaf(nodes.node(key, 0)))
        lost = set(taken.chunks) - set(added.chunks)
        self._scan(new, shared, lost)
        self._check_borders(new, old, old_places)
        self._check_sums(totals, old_totals, added, taken, new)
        objects = self._known.objects - nodes.rows([self._known.root, *old.inner, *gone, *lost])
        objects |= nodes.rows([self._root, *new.inner, *(new.leaves[at] for at in fresh)])
        objects |= self._chunks(added.chunks)
        return Walked(objects, totals, set(), True, [])

    def _leaf(self, outline: Outline, at: int) -> Leaf:
        found = self._read.get(at)
        if found is None:
            found = self._read[at] = read_leaf(self._nodes.node(outline.leaves[at], 0))
        return found

    def _scan(self, new: Outline, shared: set[bytes], lost: set[bytes]) -> None:
        """Check where each leaf lies, and take what shared leaves still need out of ``lost``."""
        for key, low, last in new.ranges():
            data = self._nodes.get(key, Kind.NODE)
            first, end = key_range(data)
            _require(low < first and end == last)
            if key in shared and lost:
                lost -= _needed(data, lost)

    def _check_borders(self, new: Outline, old: Outline, places: dict[bytes, int]) -> None:
        """Items of one inode go on over the end of a leaf: that has to fit wherever neighbours are not as they were."""
        count = len(new.leaves)
        for start, stop in _merged(self._uncertain(new, old, places)):
            leaves = [self._leaf(new, at).summary for at in range(start, stop + 1)]
            joined = reduce(join, leaves)
            if stop == count - 1:
                joined = join(joined, Summary())  # its last inode has no more items
            _require(not joined.problems and not joined.broken)
            _require(start > 0 or joined.head is None)

    def _uncertain(self, new: Outline, old: Outline, places: dict[bytes, int]) -> Iterator[tuple[int, int]]:
        """Ranges of leaves around each border that is new, from one with an inode item to one with an inode item."""
        count = len(new.leaves)
        for at in range(count + 1):
            before = places.get(new.leaves[at - 1]) if at else -1
            after = places.get(new.leaves[at]) if at < count else len(old.leaves)
            if before is not None and after is not None and after == before + 1:
                continue
            start, stop = max(at - 1, 0), min(at, count - 1)
            while start > 0 and not self._has_inode(new, start):
                start -= 1
            while stop < count - 1 and not self._has_inode(new, stop):
                stop += 1
            yield start, stop

    def _has_inode(self, new: Outline, at: int) -> bool:
        summary = self._leaf(new, at).summary
        return summary.inodes + summary.area > 0

    def _check_sums(self, totals: Totals, before: Totals, added: _Sums, taken: _Sums, new: Outline) -> None:
        _require(totals.inodes == before.inodes + added.inodes - taken.inodes)
        _require(totals.files == before.files + added.files - taken.files)
        _require(totals.directories == before.directories + added.directories - taken.directories)
        _require(totals.data_bytes == before.data_bytes + added.data_bytes - taken.data_bytes)
        # Names and link counts, directories, who holds what, and the shape: as before, but for what cancels out.
        _require((added.links, added.homes) == (taken.links, taken.homes))
        _require((added.parents, added.edges) == (taken.parents, taken.edges))
        _require(added.configs == taken.configs)
        _require(self._largest(new) < totals.next_ino)

    def _largest(self, new: Outline) -> int:
        """The last inode number of the root file system: that of an image lies before its layers."""
        if new.last < AREA_KEY:
            return key_ino(new.last)
        at, low = max((at, low) for at, (_, low, _) in enumerate(new.ranges()) if low < AREA_KEY)
        return self._leaf(new, at).summary.largest or key_ino(low)

    def _chunks(self, chunks: dict[bytes, int]) -> BitMap64:
        found = self._nodes.locate(list(chunks))
        for key, need in chunks.items():
            place = found.get(key)
            _require(place is not None and place.kind == Kind.CHUNK and place.decoded >= need and place.stored > 0)
        return BitMap64(place.id for place in found.values())


def _needed(data: bytes, lost: set[bytes]) -> set[bytes]:
    """Those chunks among ``lost`` that the extents in a leaf refer to."""
    if len(lost) <= _FEW and not any(key in data for key in lost):
        return set()
    node = Node(data)
    extents = (value for key, value in zip(node.keys, node.values, strict=True) if key[8] == EXTENT)
    return {extent_chunk(value) for value in extents} & lost


def _merged(ranges: Iterator[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Ranges that overlap as one."""
    merged: list[tuple[int, int]] = []
    for start, stop in ranges:
        if merged and start <= merged[-1][1]:
            merged[-1] = (min(start, merged[-1][0]), max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


assert INODE == 0  # an inode's own item is its first: a leaf that has one says where an inode's items begin
