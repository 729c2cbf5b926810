"""Whether two files hold the same bytes, and how many they do not share: by their chunks as far as those tell.

The same bytes may lie in other chunks: a small file's chunk holds its neighbours too, and ``recordsize`` may have
changed between two imports. Only then chunks are read.
"""

from collections import OrderedDict
from collections.abc import Iterator

from lamina.errors import DamagedData
from lamina.fs.node import EXTENT, inode_key, number_key, unpack_extent
from lamina.fs.types import Extent, Inode
from lamina.fs.view import StoredTree

_CHUNKS = 16
"""Decoded chunks kept, 1 MiB each at most: neighbours are compared one after the other."""

_Run = tuple[int, bytes, int]
"""(length, chunk key, offset in the chunk); the key is empty for a hole."""


class Contents:
    """Compares files of an old and a new tree."""

    def __init__(self, old: StoredTree, new: StoredTree) -> None:
        self._trees = (old, new)
        self._chunks: OrderedDict[bytes, bytes] = OrderedDict()

    def stored_alike(self, old: Inode, new: Inode) -> bool:
        """Whether both files are the same extents of the same chunks."""
        left, right = (_items(tree, inode.ino) for tree, inode in zip(self._trees, (old, new), strict=True))
        while (one := next(left, None)) == next(right, None):
            if one is None:
                return True
        return False

    def same(self, old: Inode, new: Inode) -> bool:
        """Whether both files hold the same bytes."""
        if old.size != new.size:
            return False
        if self.stored_alike(old, new):
            return True
        left, right = (_runs(tree, inode) for tree, inode in zip(self._trees, (old, new), strict=True))
        a: _Run = (0, b"", 0)
        b: _Run = (0, b"", 0)
        done = 0
        while done < old.size:
            a = a if a[0] else next(left)
            b = b if b[0] else next(right)
            length = min(a[0], b[0])
            if a[1:] != b[1:] and self._bytes(0, a, length) != self._bytes(1, b, length):
                return False
            a, b = _behind(a, length), _behind(b, length)
            done += length
        return True

    def unshared(self, old: Inode, new: Inode) -> tuple[int, int]:
        """Bytes of the old file in chunks that the new one does not have, and the other way round."""
        if self.same(old, new):
            return 0, 0
        sums = [self.by_chunk(0, old.ino), self.by_chunk(1, new.ino)]
        lost, gained = (
            sum(length for key, length in mine.items() if key not in theirs) for mine, theirs in (sums, reversed(sums))
        )
        return lost, gained

    def by_chunk(self, side: int, ino: int) -> dict[bytes, int]:
        """Bytes of a file in the old tree (``side`` 0) or the new one (1), by the key of the chunk they lie in."""
        found: dict[bytes, int] = {}
        for extent in _extents(self._trees[side], ino):
            found[extent.key] = found.get(extent.key, 0) + extent.length
        return found

    def _bytes(self, side: int, run: _Run, length: int) -> bytes:
        _, key, start = run
        if not key:
            return bytes(length)
        data = self._chunks.get(key)
        if data is None:
            data = self._chunks[key] = self._trees[side].chunk(key)
            if len(self._chunks) > _CHUNKS:
                self._chunks.popitem(last=False)
        else:
            self._chunks.move_to_end(key)
        if len(data) < start + length:
            raise DamagedData(f"an extent reaches beyond its chunk {key.hex()}")
        return data[start : start + length]


def _items(tree: StoredTree, ino: int) -> Iterator[tuple[bytes, bytes]]:
    """(offset as in the key, value) of a file's extents."""
    for key, value in tree.reader.items(number_key(ino, EXTENT, 0), inode_key(ino + 1)):
        yield key[9:], value


def _extents(tree: StoredTree, ino: int) -> Iterator[Extent]:
    for key, value in tree.reader.items(number_key(ino, EXTENT, 0), inode_key(ino + 1)):
        yield unpack_extent(key, value)


def _runs(tree: StoredTree, inode: Inode) -> Iterator[_Run]:
    """A file from its first byte to its last: extents and the holes between them. Never an empty one."""
    position = 0
    for extent in _extents(tree, inode.ino):
        start, end = max(extent.offset, position), min(extent.offset + extent.length, inode.size)
        if start > position:
            hole = min(start, inode.size) - position
            if hole > 0:
                yield hole, b"", 0
                position += hole
        if end > position:
            yield end - position, extent.key, extent.chunk_offset + position - extent.offset
            position = end
    if position < inode.size:
        yield inode.size - position, b"", 0


def _behind(run: _Run, length: int) -> _Run:
    rest, key, start = run
    return rest - length, key, start + length if key else 0
