"""The root file system of a tree as a tar: PAX, every owner, time, hard link, attribute, device and hole.

Members come in one order whatever the history: a directory, then what is in it by name. What is written streams
through; of the tree only the way down and the names of files with several names are held.
"""

import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from lamina.errors import DamagedData
from lamina.fs.node import (
    DIRENT,
    EXTENT,
    INODE,
    SYMLINK,
    XATTR,
    inode_key,
    number_key,
    unpack_extent,
    unpack_inode,
)
from lamina.fs.types import ROOT_INO, Dirent, Extent, Inode
from lamina.fs.view import StoredTree
from lamina.oci.outgoing import tarwriting
from lamina.oci.outgoing.assembling import Piece, assembled
from lamina.oci.outgoing.tarwriting import Header, ending, padding, sparse_map

_FEW = 64
"""Extents of a file that are kept between the look for holes and the writing of its data."""

_TYPES = {
    stat.S_IFREG: tarwriting.REGULAR,
    stat.S_IFLNK: tarwriting.SYMLINK,
    stat.S_IFCHR: tarwriting.CHAR,
    stat.S_IFBLK: tarwriting.BLOCK_DEVICE,
    stat.S_IFDIR: tarwriting.DIRECTORY,
    stat.S_IFIFO: tarwriting.FIFO,
}


@dataclass(slots=True)
class _File:
    inode: Inode
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    target: bytes = b""
    extents: list[Extent] = field(default_factory=list)
    """All extents of a file that has few, else the first ones."""
    whole: bool = True


class RootTar:
    """Writes one tree. ``left_out``: paths of sockets, for which tar has no form, known once all is written."""

    def __init__(self, tree: StoredTree) -> None:
        self._tree = tree
        self._names: dict[int, bytes] = {}
        self.left_out: list[bytes] = []

    def blocks(self, threads: int = 2) -> Generator[bytes, None, None]:
        """The archive, about 1 MiB at a time. Raises ``DamagedData``, which names the file."""
        written = 0
        for data in assembled(self._members(), self._tree.chunk, threads):
            written += len(data)
            yield data
        yield ending(written)

    def _members(self) -> Iterator[bytes | Piece]:
        yield self._header(b"./", self._file(ROOT_INO, b"./")).pack()
        levels = [(b"./", self._sorted(ROOT_INO))]
        while levels:
            above, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                levels.pop()
                continue
            path = above + entry.name
            if entry.mode_type == stat.S_IFDIR:
                path += b"/"
                yield self._header(path, self._file(entry.ino, path)).pack()
                levels.append((path, self._sorted(entry.ino)))
            else:
                yield from self._other(path, entry.ino)

    def _sorted(self, ino: int) -> Iterator[Dirent]:
        # By name: mostly the order in which files were imported, so that small ones that share a chunk come together.
        return iter(sorted(self._tree.readdir(ino), key=lambda entry: entry.name))

    def _other(self, path: bytes, ino: int) -> Iterator[bytes | Piece]:
        first = self._names.get(ino)
        file = self._file(ino, path)
        inode = file.inode
        if stat.S_ISSOCK(inode.mode):
            self.left_out.append(path)
            return
        header = self._header(path, file)
        if first is not None:
            header.type, header.link, header.xattrs = tarwriting.HARD_LINK, first, {}
            yield header.pack()
            return
        if inode.nlink > 1:
            self._names[ino] = path
        if not stat.S_ISREG(inode.mode):
            yield header.pack()
            return
        segments = self._segments(file)
        stored = sum(length for _, length in segments)
        header.size = stored
        if stored == inode.size:
            yield header.pack()
        else:
            if not segments or sum(segments[-1]) < inode.size:
                segments.append((inode.size, 0))  # as GNU tar says where a file ends in a hole
            text = sparse_map(segments)
            header.size += len(text)
            header.sparse_size = inode.size
            yield header.pack()
            yield text
        for extent in self._extents(file):
            yield Piece(extent.key, extent.chunk_offset, extent.length, path)
        if end := padding(stored):
            yield end

    def _header(self, path: bytes, file: _File) -> Header:
        inode = file.inode
        kind = _TYPES.get(stat.S_IFMT(inode.mode), tarwriting.REGULAR)
        device = kind in (tarwriting.CHAR, tarwriting.BLOCK_DEVICE)
        return Header(
            name=path,
            type=kind,
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            mtime_ns=inode.mtime_ns,
            atime_ns=inode.atime_ns if inode.atime_ns != inode.mtime_ns else None,
            ctime_ns=inode.ctime_ns if inode.ctime_ns != inode.mtime_ns else None,
            link=file.target,
            device=(os.major(inode.rdev), os.minor(inode.rdev)) if device else (0, 0),
            xattrs=file.xattrs,
        )

    def _file(self, ino: int, path: bytes) -> _File:
        """All that is known of an inode but its entries, in one pass over its items."""
        items = self._tree.reader.items(inode_key(ino), inode_key(ino + 1))
        key, value = next(items, (b"", b""))
        if key != inode_key(ino):
            raise DamagedData(f"'{path.decode('utf-8', 'backslashreplace')}' has no inode")
        file = _File(unpack_inode(ino, value))
        for key, value in items:
            kind = key[8]
            if kind == XATTR:
                file.xattrs[key[9:]] = value
            elif kind == SYMLINK:
                file.target = value
            elif kind == EXTENT:
                if len(file.extents) == _FEW:
                    file.whole = False
                    break
                file.extents.append(unpack_extent(key, value))
            elif kind in (INODE, DIRENT):
                break
        return file

    def _extents(self, file: _File) -> Iterator[Extent]:
        """The extents of a file, as far as they lie in it and each byte once."""
        found: Iterator[Extent] = iter(file.extents)
        if not file.whole:
            ino = file.inode.ino
            items = self._tree.reader.items(number_key(ino, EXTENT, 0), inode_key(ino + 1))
            found = (unpack_extent(key, value) for key, value in items)
        position = 0
        for extent in found:
            start, end = max(extent.offset, position), min(extent.offset + extent.length, file.inode.size)
            if start < end:
                position = end
                yield Extent(start, end - start, extent.key, extent.chunk_offset + start - extent.offset)

    def _segments(self, file: _File) -> list[tuple[int, int]]:
        """(offset, length) of what is data; adjacent extents are one."""
        segments: list[tuple[int, int]] = []
        start = end = 0
        for extent in self._extents(file):
            if extent.offset > end:
                if end > start:
                    segments.append((start, end - start))
                start = extent.offset
            end = extent.offset + extent.length
        if end > start:
            segments.append((start, end - start))
        return segments
