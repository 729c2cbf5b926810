"""Importing a directory tree as it lies on disk."""

import contextlib
import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lamina.errors import SourceError
from lamina.fs.node import (
    DIRENT,
    SYMLINK,
    XATTR,
    give_cookies,
    inode_key,
    kind_key,
    number_key,
    pack_dirent,
    pack_inode,
    pack_status,
)
from lamina.fs.spool import ItemSpool
from lamina.fs.types import ROOT_INO, Inode, Totals
from lamina.ingest.assemble import write_tree
from lamina.ingest.content import SMALL, ContentWriter, ReadInto
from lamina.ingest.progress import Tally
from lamina.ingest.tasks import Workers
from lamina.store.writer import StoreWriter

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 3
_SPARSE_LEAST = 64 << 10


@dataclass(slots=True)
class _Linked:
    """A file with several names: its items are added at the end, with the names that were seen."""

    ino: int
    inode: Inode
    names: list[tuple[int, bytes, int]] = field(default_factory=list)
    stored: bool = True


@dataclass(slots=True)
class _Folder:
    """A directory that is being walked."""

    fd: int
    ino: int
    path: bytes
    entries: Iterator[tuple[bytes, int, str, int]]


def import_directory(
    root: Path,
    writer: StoreWriter,
    content: ContentWriter,
    spool: ItemSpool,
    workers: Workers,
    tally: Tally,
    exclude: frozenset[tuple[int, int]] = frozenset(),
) -> tuple[bytes, Totals]:
    """Import the tree below ``root``: the key of its root object, and its totals.

    Directories of ``exclude`` (device, inode) are left out. Files that vanish or keep changing while they are read are
    left out and named in ``tally.problems``. Raises ``SourceError`` where something cannot be read.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # a descriptor a level of depth
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _DirectoryImport(writer, content, spool, workers, tally, exclude).run(root)


class _DirectoryImport:
    def __init__(
        self,
        writer: StoreWriter,
        content: ContentWriter,
        spool: ItemSpool,
        workers: Workers,
        tally: Tally,
        exclude: frozenset[tuple[int, int]],
    ) -> None:
        self._writer = writer
        self._content = content
        self._spool = spool
        self._workers = workers
        self._tally = tally
        self._exclude = exclude
        self._next = ROOT_INO + 1
        self._linked: dict[tuple[int, int], _Linked] = {}

    def run(self, root: Path) -> tuple[bytes, Totals]:
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"cannot import '{root}': {error.strerror}") from error
        stack: list[_Folder] = []
        try:
            stack.append(self._enter(fd, ROOT_INO, b""))
            while stack:
                folder = stack[-1]
                for name, ino, kind, cookie in folder.entries:
                    if kind == "d":
                        below = self._descend(folder, name, ino, cookie)
                        if below is not None:
                            stack.append(below)
                            break
                    elif kind == "f":
                        self._regular(folder, name, ino, cookie)
                    else:
                        self._special(folder, name, ino, cookie)
                else:
                    os.close(folder.fd)
                    stack.pop()
            self._content.end_group()
            self._workers.drain()
        finally:
            for folder in stack:
                os.close(folder.fd)
        self._finish_linked()
        return write_tree(self._spool.sorted(), self._next, self._writer)

    # -- directories ----------------------------------------------------------------------------------------------

    def _descend(self, parent: _Folder, name: bytes, ino: int, cookie: int) -> _Folder | None:
        path = parent.path + name + b"/"
        try:
            fd = _open_quietly(name, _DIRECTORY, parent.fd)
        except OSError as error:
            self._failed(parent, name, error)
            return None
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) in self._exclude:
            os.close(fd)
            self._tally.problem(path[:-1], "the pool itself, left out")
            return None
        folder = self._enter(fd, ino, path)
        self._name(parent.ino, name, ino, stat.S_IFDIR, cookie)
        return folder

    def _enter(self, fd: int, ino: int, path: bytes) -> _Folder:
        """List a directory, number its entries, and add its own items."""
        try:
            entries = []
            with os.scandir(fd) as listing:
                for entry in listing:
                    kind = (
                        "d"
                        if entry.is_dir(follow_symlinks=False)
                        else "f"
                        if entry.is_file(follow_symlinks=False)
                        else "s"
                    )
                    entries.append((os.fsencode(entry.name), kind))
            entries.sort()
            status = os.fstat(fd)
            self._xattrs(ino, fd)
        except OSError as error:
            os.close(fd)
            raise SourceError(f"cannot read directory {printable(path)}: {error.strerror}") from error
        cookies = give_cookies([name for name, _ in entries])
        numbered = [(name, self._next + at, kind, cookies[at]) for at, (name, kind) in enumerate(entries)]
        self._next += len(entries)
        subdirectories = sum(kind == "d" for _, kind in entries)
        self._spool.add(inode_key(ino), pack_inode(_inode(ino, status, 2 + subdirectories, 0)))
        return _Folder(fd, ino, path, iter(numbered))

    def _name(self, parent: int, name: bytes, ino: int, mode_type: int, cookie: int) -> None:
        self._spool.add(number_key(parent, DIRENT, cookie), pack_dirent(ino, mode_type, name))

    # -- files ----------------------------------------------------------------------------------------------------

    def _regular(self, folder: _Folder, name: bytes, ino: int, cookie: int) -> None:
        try:
            fd = _open_quietly(name, _FILE, folder.fd)
        except OSError as error:
            self._failed(folder, name, error)
            return
        keep = False
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                self._tally.problem(folder.path + name, "changed while it was read, left out")
                return
            linked = self._link(folder, name, ino, status, cookie)
            if linked is not None and linked.ino != ino:
                return
            if status.st_size <= SMALL:
                self._small(folder, name, ino, fd, status, linked, cookie)
            else:
                keep = True
                self._workers.submit(
                    self._large, folder.ino, folder.path + name, name, ino, fd, linked, cookie, queued=2
                )
        except OSError as error:
            self._failed(folder, name, error)
        finally:
            if not keep:
                os.close(fd)

    def _link(self, folder: _Folder, name: bytes, ino: int, status: os.stat_result, cookie: int) -> _Linked | None:
        if status.st_nlink < 2:
            return None
        identity = (status.st_dev, status.st_ino)
        linked = self._linked.get(identity)
        if linked is None:
            linked = self._linked[identity] = _Linked(ino, _inode(ino, status, 0, status.st_size))
        linked.names.append((folder.ino, name, cookie))
        return linked

    def _small(
        self,
        folder: _Folder,
        name: bytes,
        ino: int,
        fd: int,
        status: os.stat_result,
        linked: _Linked | None,
        cookie: int,
    ) -> None:
        for _ in range(_TRIES):
            data = os.read(fd, status.st_size + 1)
            after = os.fstat(fd)
            if _same(status, after) and len(data) == status.st_size:
                break
            status = after
            os.lseek(fd, 0, os.SEEK_SET)
        else:
            self._left_out(folder.path + name, linked)
            return
        self._xattrs(ino, fd)
        self._done(folder.ino, name, ino, status, linked, cookie)
        if data:
            self._content.small(ino, data)
        else:
            self._tally.add(1, 0)

    def _large(
        self, parent: int, path: bytes, name: bytes, ino: int, fd: int, linked: _Linked | None, cookie: int
    ) -> None:
        """In a worker: owns ``fd``."""
        try:
            for _ in range(_TRIES):
                status = os.fstat(fd)
                items, size = self._content.stream(ino, _segments(fd, status))
                if _same(status, os.fstat(fd)):
                    break
                self._tally.add(0, -size)
                self._tally.inexact = True
            else:
                self._left_out(path, linked)
                return
            self._xattrs(ino, fd)
        except OSError as error:
            raise SourceError(f"cannot read {printable(path)}: {error.strerror}") from error
        finally:
            os.close(fd)
        self._spool.add_many(items)
        self._done(parent, name, ino, status, linked, cookie)
        self._tally.add(1, 0)

    def _left_out(self, path: bytes, linked: _Linked | None) -> None:
        if linked is not None:
            linked.stored = False
        self._tally.problem(path, "kept changing while it was read, left out")

    def _done(
        self, parent: int, name: bytes, ino: int, status: os.stat_result, linked: _Linked | None, cookie: int
    ) -> None:
        if linked is not None:
            linked.inode = _inode(ino, status, 0, status.st_size)
            return
        self._spool.add_many(
            [
                (inode_key(ino), pack_status(status, 1)),
                (number_key(parent, DIRENT, cookie), pack_dirent(ino, stat.S_IFREG, name)),
            ]
        )

    def _special(self, folder: _Folder, name: bytes, ino: int, cookie: int) -> None:
        """Symbolic links, devices, FIFOs, sockets."""
        try:
            status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
            target = os.readlink(name, dir_fd=folder.fd) if stat.S_ISLNK(status.st_mode) else None
            linked = self._link(folder, name, ino, status, cookie)
            if linked is not None and linked.ino != ino:
                return
            self._xattrs(ino, b"/proc/self/fd/%d/%s" % (folder.fd, name))
        except OSError as error:
            self._failed(folder, name, error)
            return
        inode = _inode(ino, status, 1, status.st_size)
        if target is not None:
            self._spool.add(kind_key(ino, SYMLINK), target)
            # Reading the target has just touched the access time.
            inode = replace(inode, atime_ns=inode.mtime_ns)
        if linked is None:
            self._spool.add(inode_key(ino), pack_inode(inode))
            self._name(folder.ino, name, ino, stat.S_IFMT(status.st_mode), cookie)
        self._tally.add(1, 0)

    def _finish_linked(self) -> None:
        """Items of files with several names; the link count is that of the names in this tree."""
        for linked in self._linked.values():
            if not linked.stored:
                continue
            inode = linked.inode
            mode_type = stat.S_IFMT(inode.mode)
            self._spool.add(inode_key(linked.ino), pack_inode(replace(inode, nlink=len(linked.names))))
            for parent, name, cookie in linked.names:
                self._name(parent, name, linked.ino, mode_type, cookie)

    # -- what may go wrong ----------------------------------------------------------------------------------------

    def _failed(self, folder: _Folder, name: bytes, error: OSError) -> None:
        """A file that vanished or changed its type since the listing is reported; anything else ends the import."""
        path = folder.path + name
        if error.errno in (errno.ENOENT, errno.ESTALE):
            self._tally.problem(path, "vanished while the tree was read")
        elif error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            self._tally.problem(path, "changed while it was read, left out")
        else:
            raise SourceError(f"cannot read {printable(path)}: {error.strerror}") from error

    def _xattrs(self, ino: int, where: int | bytes) -> None:
        try:
            names = os.listxattr(where, follow_symlinks=False) if isinstance(where, bytes) else os.listxattr(where)
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.EPERM):
                return
            raise
        for name in names:
            try:
                if isinstance(where, bytes):
                    value = os.getxattr(where, name, follow_symlinks=False)
                else:
                    value = os.getxattr(where, name)
            except OSError as error:
                if error.errno == errno.ENODATA:
                    continue
                raise
            self._spool.add(kind_key(ino, XATTR, os.fsencode(name)), value)


def printable(path: bytes) -> str:
    """A path in quotes, with control bytes and invalid UTF-8 escaped, for messages."""
    text = path.rstrip(b"/").decode("utf-8", "backslashreplace") or "."
    return "'" + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text) + "'"


def _open_quietly(name: bytes, flags: int, directory: int) -> int:
    """Open without touching the access time, which would make the next import of the same tree a different one."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=directory)
    except PermissionError:  # O_NOATIME is for the owner
        return os.open(name, flags, dir_fd=directory)


def _inode(ino: int, status: os.stat_result, nlink: int, size: int) -> Inode:
    return Inode(
        ino,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        nlink,
        size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_atime_ns,
        status.st_rdev,
    )


def _same(a: os.stat_result, b: os.stat_result) -> bool:
    return a.st_size == b.st_size and a.st_mtime_ns == b.st_mtime_ns and a.st_ctime_ns == b.st_ctime_ns


def _segments(fd: int, status: os.stat_result) -> list[tuple[int, ReadInto]]:
    """The parts of a file that hold data, each with its reader; file systems that know no holes give one part."""
    if status.st_blocks * 512 >= status.st_size or status.st_size < _SPARSE_LEAST:
        return [(0, _reader(fd, 0, status.st_size))]
    parts: list[tuple[int, int]] = []
    position = 0
    while position < status.st_size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), status.st_size)
        if parts and start - parts[-1][1] < _SPARSE_LEAST:
            parts[-1] = (parts[-1][0], end)
        else:
            parts.append((start, end))
        position = end
    return [(start, _reader(fd, start, end)) for start, end in parts]


def _reader(fd: int, start: int, end: int) -> Callable[[memoryview], int]:
    position = start

    def read_into(view: memoryview) -> int:
        nonlocal position
        count = os.preadv(fd, [view[: min(len(view), end - position)]], position) if position < end else 0
        position += count
        return count

    return read_into
