"""Importing a tar of a tree: the members, applied in order as an extraction would, become a tree."""

import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from lamina.errors import SourceError
from lamina.fs.node import (
    DIRENT,
    INODE,
    SYMLINK,
    XATTR,
    give_cookies,
    inode_key,
    key_ino,
    kind_key,
    number_key,
    pack_dirent,
    pack_inode,
    unpack_inode,
)
from lamina.fs.spool import ItemSpool
from lamina.fs.types import ROOT_INO, Inode, Totals
from lamina.ingest import tar
from lamina.ingest.assemble import write_tree
from lamina.ingest.content import SMALL, ContentWriter
from lamina.ingest.directory import printable
from lamina.ingest.progress import Tally
from lamina.ingest.tasks import Workers
from lamina.ingest.unpacked import open_stream
from lamina.store.chunker import ReadInto
from lamina.store.writer import StoreWriter

_TYPES = {
    tar.REGULAR: stat.S_IFREG,
    tar.SYMLINK: stat.S_IFLNK,
    tar.CHAR: stat.S_IFCHR,
    tar.BLOCK_DEVICE: stat.S_IFBLK,
    tar.FIFO: stat.S_IFIFO,
}
_NAME_MAX = 255
_LINK_MAX = 4095


@dataclass(slots=True)
class _Folder:
    """A directory so far: its inode, and its names with (inode number, type)."""

    inode: Inode
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    names: dict[bytes, "_Folder | tuple[int, int]"] = field(default_factory=dict)


def import_tar(
    stream: BinaryIO, writer: StoreWriter, content: ContentWriter, spool: ItemSpool, workers: Workers, tally: Tally
) -> tuple[bytes, Totals]:
    """Import a tar stream, compressed or not: the key of the root object, and the totals.

    A later member of a name replaces an earlier one. Raises ``SourceError`` for members outside the tree (absolute, or
    with ``..``), links to what is not there, and archives that are damaged or cut short.
    """
    return _TarImport(writer, content, spool, workers, tally).run(stream)


class _TarImport:
    def __init__(
        self, writer: StoreWriter, content: ContentWriter, spool: ItemSpool, workers: Workers, tally: Tally
    ) -> None:
        self._writer = writer
        self._content = content
        self._spool = spool
        self._workers = workers
        self._tally = tally
        self._root = _Folder(_directory(ROOT_INO, ROOT_INO))
        self._next = ROOT_INO + 1
        self._links: dict[int, int] = {}
        self._holders: dict[int, int] = {}
        """For files that have, or had, several names: the lowest directory that holds one."""
        self._dead: set[int] = set()

    def run(self, stream: BinaryIO) -> tuple[bytes, Totals]:
        reader = tar.TarReader(open_stream(stream))
        for member in reader:
            self._take(member, reader)
        self._content.end_group()
        self._workers.drain()
        self._finish()
        return write_tree(self._alive(self._spool.sorted()), self._next, self._writer)

    def _alive(self, items: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """Items without those of replaced files, link counts as they came out."""
        if not self._links:
            yield from items
            return
        for key, value in items:
            ino = key_ino(key)
            if ino in self._dead:
                continue
            if key[8] == INODE and ino in self._links:
                value = pack_inode(replace(unpack_inode(ino, value), nlink=self._links[ino], parent=self._holders[ino]))
            yield key, value

    # -- members --------------------------------------------------------------------------------------------------

    def _take(self, member: tar.Member, reader: tar.TarReader) -> None:
        parts = _parts(member.name)
        if member.type == tar.DIRECTORY:
            self._folder(member, parts)
            return
        if not parts:
            raise SourceError(f"tar member {printable(member.name)} has no name that a file can have")
        parent = self._parent(parts[:-1], member.name)
        if member.type == tar.HARD_LINK:
            self._hard_link(member, parent, parts[-1])
            return
        self._remove(parent, parts[-1])
        ino = self._next
        self._next += 1
        mode_type = _TYPES[member.type]
        size = len(member.link) if member.type == tar.SYMLINK else member.size
        inode = Inode(
            ino=ino,
            mode=member.mode | mode_type,
            uid=member.uid & 0xFFFFFFFF,
            gid=member.gid & 0xFFFFFFFF,
            nlink=1,
            size=size,
            mtime_ns=member.mtime_ns,
            ctime_ns=member.ctime_ns if member.ctime_ns is not None else member.mtime_ns,
            atime_ns=member.atime_ns if member.atime_ns is not None else member.mtime_ns,
            rdev=member.rdev,
            parent=parent.inode.ino,
        )
        if member.type == tar.SYMLINK:
            if not 0 < len(member.link) <= _LINK_MAX or b"\0" in member.link:
                raise SourceError(f"tar member {printable(member.name)} is a symbolic link without a usable target")
            self._spool.add(kind_key(ino, SYMLINK), member.link)
        self._spool.add(inode_key(ino), pack_inode(inode))
        self._add_xattrs(ino, member.xattrs)
        parent.names[parts[-1]] = (ino, mode_type)
        if member.type == tar.REGULAR and member.size:
            self._contents(member, ino, reader)
        else:
            self._tally.add(1, 0)

    def _contents(self, member: tar.Member, ino: int, reader: tar.TarReader) -> None:
        segments = [(offset, offset + length) for offset, length in member.segments]
        if member.size <= SMALL:
            data = bytearray(member.size)
            for start, end in segments:
                reader.read_into(memoryview(data)[start:end])
            self._content.small(ino, bytes(data))
            return
        items, _ = self._content.stream(ino, member.size, segments, _Filled(reader, segments).opened)
        self._spool.add_many(items)
        self._tally.add(1, 0)

    def _folder(self, member: tar.Member, parts: list[bytes]) -> None:
        if not parts:
            folder = self._root
        else:
            parent = self._parent(parts[:-1], member.name)
            entry = parent.names.get(parts[-1])
            if isinstance(entry, _Folder):
                folder = entry
            else:
                self._remove(parent, parts[-1])
                folder = parent.names[parts[-1]] = self._new_folder(parent)
        folder.inode = replace(
            folder.inode,
            mode=member.mode | stat.S_IFDIR,
            uid=member.uid & 0xFFFFFFFF,
            gid=member.gid & 0xFFFFFFFF,
            mtime_ns=member.mtime_ns,
            ctime_ns=member.ctime_ns if member.ctime_ns is not None else member.mtime_ns,
            atime_ns=member.atime_ns if member.atime_ns is not None else member.mtime_ns,
        )
        folder.xattrs = member.xattrs

    def _new_folder(self, parent: _Folder) -> _Folder:
        ino = self._next
        self._next += 1
        return _Folder(_directory(ino, parent.inode.ino))

    def _parent(self, parts: list[bytes], name: bytes) -> _Folder:
        """The directory of a member; missing ones are made, as tar(1) does. Links are never followed."""
        folder = self._root
        for part in parts:
            entry = folder.names.get(part)
            if entry is None:
                entry = folder.names[part] = self._new_folder(folder)
            elif not isinstance(entry, _Folder):
                raise SourceError(f"tar member {printable(name)} lies below {printable(part)}, which is no directory")
            folder = entry
        return folder

    def _hard_link(self, member: tar.Member, parent: _Folder, name: bytes) -> None:
        target: _Folder | tuple[int, int] | None = self._root
        for part in _parts(member.link):
            target = target.names.get(part) if isinstance(target, _Folder) else None
        if target is None:
            raise SourceError(
                f"tar member {printable(member.name)} is a hard link to {printable(member.link)}, which is not there"
            )
        if isinstance(target, _Folder):
            raise SourceError(f"tar member {printable(member.name)} is a hard link to a directory")
        if parent.names.get(name) == target:
            return
        # Before the removal: the target may lie below the directory whose place the link takes.
        self._links[target[0]] = self._links.get(target[0], 1) + 1
        self._remove(parent, name)
        parent.names[name] = target
        self._tally.add(1, 0)

    def _remove(self, folder: _Folder, name: bytes) -> None:
        entry = folder.names.pop(name, None)
        stack = [entry]
        while stack:
            gone = stack.pop()
            if isinstance(gone, _Folder):
                stack.extend(gone.names.values())
            elif gone is not None:
                left = self._links.get(gone[0], 1) - 1
                self._links[gone[0]] = left
                if left == 0:
                    self._dead.add(gone[0])
                    self._tally.inexact = True

    def _add_xattrs(self, ino: int, xattrs: dict[bytes, bytes]) -> None:
        for key, value in xattrs.items():
            self._spool.add(kind_key(ino, XATTR, key), value)

    def _finish(self) -> None:
        """Add the items of all directories."""
        stack = [self._root]
        while stack:
            folder = stack.pop()
            names = sorted(folder.names)
            below = [entry for entry in folder.names.values() if isinstance(entry, _Folder)]
            ino = folder.inode.ino
            self._spool.add(inode_key(ino), pack_inode(replace(folder.inode, nlink=2 + len(below))))
            self._add_xattrs(ino, folder.xattrs)
            for name, cookie in zip(names, give_cookies(names), strict=True):
                entry = folder.names[name]
                target, mode_type = (entry.inode.ino, stat.S_IFDIR) if isinstance(entry, _Folder) else entry
                self._spool.add(number_key(ino, DIRENT, cookie), pack_dirent(target, mode_type, name))
                if target in self._links:
                    self._holders[target] = min(self._holders.get(target, ino), ino)
            stack.extend(below)


def _directory(ino: int, parent: int) -> Inode:
    return Inode(ino, stat.S_IFDIR | 0o755, 0, 0, 2, 0, 0, 0, 0, parent=parent)


def _parts(name: bytes) -> list[bytes]:
    """The components of a member's name. Raises ``SourceError`` for what would leave the tree."""
    if name.startswith(b"/"):
        raise SourceError(f"tar member {printable(name)} is absolute; members must lie below the root")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    for part in parts:
        if part == b"..":
            raise SourceError(f"tar member {printable(name)} leaves the tree with '..'")
        if len(part) > _NAME_MAX or b"\0" in part:
            raise SourceError(f"tar member {printable(name[:300])} has a name that no file can have")
    return parts


class _Filled:
    """A sparse member's bytes in order, with the zeros between its segments, (start, end) each."""

    def __init__(self, reader: tar.TarReader, segments: list[tuple[int, int]]) -> None:
        self._reader = reader
        self._segments = deque(segments)

    def opened(self, start: int, end: int) -> ReadInto:
        """A reader of the file's bytes [start, end); to be asked for in order, and read to the end."""
        position = start

        def read_into(view: memoryview) -> int:
            nonlocal position
            while self._segments and self._segments[0][1] <= position:
                self._segments.popleft()
            first, last = self._segments[0] if self._segments else (end, end)
            if position < first:
                count = min(len(view), first - position, end - position)
                view[:count] = bytes(count)
            else:
                count = self._reader.read_into(view[: min(len(view), last - position)])
            position += count
            return count

        return read_into
