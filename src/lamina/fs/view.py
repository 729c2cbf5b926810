"""A read view of one immutable tree."""

from collections.abc import Callable, Iterator
from typing import Protocol

from lamina.errors import DamagedData, NotFound
from lamina.fs.node import (
    DIRENT,
    EXTENT,
    MAX_ORDINAL,
    SYMLINK,
    XATTR,
    extent_chunk,
    inode_key,
    key_ino,
    kind_key,
    name_cookie,
    number_key,
    unpack_dirent,
    unpack_extent,
    unpack_inode,
    unpack_root,
)
from lamina.fs.tree import TreeReader
from lamina.fs.types import Dirent, Extent, Inode, Totals

_NEIGHBOUR_INODES = 64
_MAX_EXTENT = 1 << 20


class TreeView(Protocol):
    """What the mount, export and verify read a tree through. All methods are safe to call from several threads.

    Raises ``NotFound`` for an inode that is not there and ``DamagedData`` for objects that do not check.
    """

    totals: Totals

    def inode(self, ino: int) -> Inode:
        """The inode numbered ``ino``."""
        ...

    def lookup(self, parent: int, name: bytes) -> Dirent | None:
        """The entry ``name`` of directory ``parent``, or None."""
        ...

    def readdir(self, ino: int, after: int = 0) -> Iterator[Dirent]:
        """Entries of a directory with a cookie greater than ``after``, in cookie order; no "." and "..".

        Cookies are at least 32768 and below 2**63.
        """
        ...

    def readlink(self, ino: int) -> bytes:
        """Target of a symbolic link."""
        ...

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """All extended attributes, by full name (``security.capability``)."""
        ...

    def extents(self, ino: int, start: int = 0, end: int | None = None) -> list[Extent]:
        """Extents that touch bytes [start, end) of the file, in order, whole (not clipped)."""
        ...

    def chunk(self, key: bytes) -> bytes:
        """The decoded bytes of a chunk, checked. Does the I/O and decoding itself; no cache. Releases the GIL while
        decoding."""
        ...

    def chunk_neighbours(self, ino: int) -> list[tuple[int, Extent]]:
        """(inode number, extent) of small files that share the chunk of small file ``ino``, itself included."""
        ...

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """Bytes of a file, zeros for holes, short only at the end of the file."""
        ...


class StoredTree:
    """A ``TreeView`` over objects. Safe to use from several threads."""

    def __init__(self, root: bytes, get: Callable[[bytes], bytes], cache_nodes: int = 512) -> None:
        """``root`` is the key of a root object, ``get`` returns the checked bytes of an object by key."""
        self._get = get
        height, top, self.totals = unpack_root(get(root))
        self.root_key = root
        self.reader = TreeReader(get, height, top, cache_nodes)

    def inode(self, ino: int) -> Inode:
        """See ``TreeView``."""
        value = self.reader.find(inode_key(ino))
        if value is None:
            raise NotFound(f"inode {ino} does not exist")
        return unpack_inode(ino, value)

    def lookup(self, parent: int, name: bytes) -> Dirent | None:
        """See ``TreeView``."""
        first = name_cookie(name)
        start, end = number_key(parent, DIRENT, first), number_key(parent, DIRENT, first + MAX_ORDINAL + 1)
        for key, value in self.reader.items(start, end):
            if value[9:] == name:
                return unpack_dirent(key, value)
        return None

    def readdir(self, ino: int, after: int = 0) -> Iterator[Dirent]:
        """See ``TreeView``."""
        for key, value in self.reader.items(number_key(ino, DIRENT, after + 1), kind_key(ino, EXTENT)):
            yield unpack_dirent(key, value)

    def readlink(self, ino: int) -> bytes:
        """See ``TreeView``."""
        target = self.reader.find(kind_key(ino, SYMLINK))
        if target is None:
            raise NotFound(f"inode {ino} is not a symbolic link")
        return target

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """See ``TreeView``."""
        return {key[9:]: value for key, value in self.reader.items(kind_key(ino, XATTR), kind_key(ino, SYMLINK))}

    def extents(self, ino: int, start: int = 0, end: int | None = None) -> list[Extent]:
        """See ``TreeView``."""
        if end is None:
            return [unpack_extent(k, v) for k, v in self.reader.items(kind_key(ino, EXTENT), inode_key(ino + 1))]
        found = [
            unpack_extent(key, value)
            for key, value in self.reader.items(
                number_key(ino, EXTENT, max(start - _MAX_EXTENT, 0)), number_key(ino, EXTENT, end)
            )
        ]
        return [extent for extent in found if extent.offset + extent.length > start]

    def chunk(self, key: bytes) -> bytes:
        """See ``TreeView``."""
        return self._get(key)

    def chunk_neighbours(self, ino: int) -> list[tuple[int, Extent]]:
        """See ``TreeView``."""
        own = self.extents(ino, 0, 1)
        if not own:
            return []
        chunk = own[0].key
        found: list[tuple[int, Extent]] = []
        start = inode_key(max(ino - _NEIGHBOUR_INODES, 0))
        end = inode_key(ino + _NEIGHBOUR_INODES)
        for key, value in self.reader.items(start, end):
            if key[8] == EXTENT and extent_chunk(value) == chunk:
                found.append((key_ino(key), unpack_extent(key, value)))
        return found

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """See ``TreeView``."""
        length = self.inode(ino).size
        end = min(offset + size, length)
        if end <= offset:
            return b""
        parts: list[bytes] = []
        position = offset
        for extent in self.extents(ino, offset, end):
            if extent.offset > position:
                parts.append(bytes(extent.offset - position))
                position = extent.offset
            data = self.chunk(extent.key)
            if len(data) < extent.chunk_offset + extent.length:
                raise DamagedData(f"inode {ino}: extent at {extent.offset} reaches beyond its chunk")
            stop = min(end, extent.offset + extent.length)
            parts.append(
                data[extent.chunk_offset + position - extent.offset : extent.chunk_offset + stop - extent.offset]
            )
            position = stop
        parts.append(bytes(end - position))
        return b"".join(parts)

    def objects(self, skip: Callable[[bytes], bool] | None = None) -> Iterator[bytes]:
        """Keys of all objects that the tree reaches, the root's included, repeats possible.

        ``skip`` leaves out what lies below a node whose key it says yes to.
        """
        yield self.root_key
        for key, node in self.reader.nodes(skip):
            yield key
            if node.level == 0:
                for item, value in zip(node.keys, node.values, strict=True):
                    if item[8] == EXTENT:
                        yield extent_chunk(value)


def path_of(tree: TreeView, path: bytes) -> int:
    """Inode number of a path below the root; symbolic links are not followed. Raises ``NotFound``."""
    ino = 1
    for name in path.split(b"/"):
        if name and name != b".":
            entry = tree.lookup(ino, name)
            if entry is None:
                raise NotFound(f"{path!r} does not exist")
            ino = entry.ino
    return ino
