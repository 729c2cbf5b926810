"""The last step of every import: sorted items to nodes, totals to a root."""

import stat
import struct
from collections.abc import Iterable, Iterator
from typing import Protocol

from lamina.fs.imagearea import AREA_KEY
from lamina.fs.node import EXTENT, INODE, pack_root
from lamina.fs.tree import build
from lamina.fs.types import Totals
from lamina.store.codec import Buffer
from lamina.store.record import Kind

_U32 = struct.Struct("<I")


class Puts(Protocol):
    """What stores objects: a ``StoreWriter``, mostly."""

    def put(self, data: Buffer, kind: int) -> bytes:
        """Store one object; its key."""
        ...


def write_tree(items: Iterable[tuple[bytes, bytes]], next_ino: int, writer: Puts) -> tuple[bytes, Totals]:
    """Write a tree from ascending items: the key of its root object, and its totals, counted on the way.

    ``next_ino`` and the totals are those of the root file system: the image area is left out.
    """
    counter = _Counter()
    height, top = build(counter.counted(items), lambda node: writer.put(node, Kind.NODE))
    totals = Totals(counter.inodes, counter.files, counter.directories, counter.data_bytes, next_ino)
    return writer.put(pack_root(height, top, totals), Kind.ROOT), totals


class _Counter:
    def __init__(self) -> None:
        self.inodes = 0
        self.files = 0
        self.directories = 0
        self.data_bytes = 0

    def counted(self, items: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        rest = iter(items)
        for item in rest:
            key, value = item
            if key >= AREA_KEY:
                yield item
                yield from rest
                return
            kind = key[8]
            if kind == EXTENT:
                self.data_bytes += _U32.unpack_from(value)[0]
            elif kind == INODE:
                mode_type = stat.S_IFMT(_U32.unpack_from(value)[0])
                self.inodes += 1
                self.files += mode_type == stat.S_IFREG
                self.directories += mode_type == stat.S_IFDIR
            yield item
