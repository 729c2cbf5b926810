"""Importing a directory tree as it lies on disk."""

import contextlib
import errno
import os
import resource
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
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
from lamina.ingest.content import SMALL, ContentWriter
from lamina.ingest.progress import Tally
from lamina.ingest.tasks import Workers
from lamina.store.chunker import ReadInto
from lamina.store.writer import StoreWriter

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 3
_SPARSE_LEAST = 64 << 10
_MOST_OPEN = 200
"""Large files that may wait, each with its descriptor, while the walk goes on through small ones."""
_TICK_NS = 10_000_000
"""Times of files go on in steps of a timer tick, 10 ms at most (inode_set_ctime_current, CONFIG_HZ=100)."""
_SHOWN = 1024
_CHANGED = "changed while it was read, left out"
_KEPT_CHANGING = "kept changing while it was read, left out"


class _Descriptor:
    """A descriptor that closes with its last reference: a task that never runs must not keep it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


@dataclass(slots=True)
class _Linked:
    """A file with several names: its items are added at the end, with the names that were seen."""

    ino: int
    inode: Inode
    names: list[tuple[int, bytes, bytes, int]] = field(default_factory=list)
    """(directory's inode number, its path, name, cookie)"""
    stored: bool = True


@dataclass(slots=True)
class _Folder:
    """A directory that is being walked."""

    fd: int
    ino: int
    parent: int
    path: bytes
    status: os.stat_result
    entries: Iterator[tuple[bytes, int, str, int]]
    below: int = 0
    """Directories in it that were taken in."""


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
    allow_deep_trees()
    return _DirectoryImport(writer, content, spool, workers, tally, exclude).run(root)


def allow_deep_trees() -> None:
    """Lift the limit of open files as far as this process may: a walk holds a descriptor for each level of depth."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
        shown = printable(os.fsencode(root))
        try:
            fd = _open_quietly(os.fsencode(root), _DIRECTORY & ~os.O_NOFOLLOW, None)
        except OSError as error:
            raise SourceError(f"cannot import {shown}: {error.strerror}") from error
        if _identity(os.fstat(fd)) in self._exclude:
            os.close(fd)
            raise SourceError(f"cannot import {shown}: it is the pool itself")
        stack: list[_Folder] = []
        try:
            stack.append(self._enter(fd, ROOT_INO, ROOT_INO, b""))
            while stack:
                folder = stack[-1]
                for name, ino, kind, cookie in folder.entries:
                    if kind == "d":
                        below = self._descend(folder, name, ino, cookie)
                        if below is not None:
                            folder.below += 1
                            stack.append(below)
                            break
                    elif kind == "f":
                        self._regular(folder, name, ino, cookie)
                    else:
                        self._special(folder, name, ino, cookie)
                else:
                    inode = _inode(folder.ino, folder.status, 2 + folder.below, 0, folder.parent)
                    self._spool.add(inode_key(folder.ino), pack_inode(inode))
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
        if _identity(os.fstat(fd)) in self._exclude:
            os.close(fd)
            self._tally.problem(path[:-1], "the pool itself, left out")
            return None
        folder = self._enter(fd, ino, parent.ino, path)
        self._name(parent.ino, name, ino, stat.S_IFDIR, cookie)
        return folder

    def _enter(self, fd: int, ino: int, parent: int, path: bytes) -> _Folder:
        """List a directory, number its entries, and add its xattrs. Closes ``fd`` where it fails."""
        try:
            status = os.fstat(fd)
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
            cookies = give_cookies([name for name, _ in entries])
            self._xattrs(ino, fd)
        except OSError as error:
            os.close(fd)
            raise SourceError(f"cannot read directory {printable(path)}: {error.strerror}") from error
        except BaseException:
            os.close(fd)
            raise
        numbered = [(name, self._next + at, kind, cookies[at]) for at, (name, kind) in enumerate(entries)]
        self._next += len(entries)
        return _Folder(fd, ino, parent, path, status, iter(numbered))

    def _name(self, parent: int, name: bytes, ino: int, mode_type: int, cookie: int) -> None:
        self._spool.add(number_key(parent, DIRENT, cookie), pack_dirent(ino, mode_type, name))

    # -- files ----------------------------------------------------------------------------------------------------

    def _regular(self, folder: _Folder, name: bytes, ino: int, cookie: int) -> None:
        try:
            file = _Descriptor(_open_quietly(name, _FILE, folder.fd))
            status = _settled(file.fd)
            if not stat.S_ISREG(status.st_mode):
                self._tally.problem(folder.path + name, _CHANGED)
                return
            linked = self._link(folder, name, ino, status, cookie)
            if linked is not None and linked.ino != ino:
                return
            if status.st_size <= SMALL:
                self._small(folder, name, ino, file.fd, status, linked, cookie)
            else:
                self._workers.submit(
                    self._large,
                    folder.ino,
                    folder.path + name,
                    name,
                    ino,
                    file,
                    linked,
                    cookie,
                    queued=_MOST_OPEN,
                    long=True,
                )
        except OSError as error:
            self._failed(folder, name, error)

    def _link(self, folder: _Folder, name: bytes, ino: int, status: os.stat_result, cookie: int) -> _Linked | None:
        if status.st_nlink < 2:
            return None
        linked = self._linked.get(_identity(status))
        if linked is None:
            linked = self._linked[_identity(status)] = _Linked(ino, _inode(ino, status, 0, status.st_size, folder.ino))
        linked.names.append((folder.ino, folder.path, name, cookie))
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
            status = _settled(fd)
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
        self, parent: int, path: bytes, name: bytes, ino: int, file: _Descriptor, linked: _Linked | None, cookie: int
    ) -> None:
        """In a worker."""
        fd = file.fd
        try:
            for _ in range(_TRIES):
                status = _settled(fd)
                segments = _segments(fd, status)
                items, size = self._content.stream(ino, status.st_size, segments, partial(_reader, fd))
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
        self._spool.add_many(items)
        self._done(parent, name, ino, status, linked, cookie)
        self._tally.add(1, 0)

    def _left_out(self, path: bytes, linked: _Linked | None) -> None:
        if linked is not None:
            linked.stored = False  # reported at the end, by all its names
        else:
            self._tally.problem(path, _KEPT_CHANGING)

    def _done(
        self, parent: int, name: bytes, ino: int, status: os.stat_result, linked: _Linked | None, cookie: int
    ) -> None:
        if linked is not None:
            linked.inode = _inode(ino, status, 0, status.st_size, parent)
            return
        self._spool.add_many(
            [
                (inode_key(ino), pack_status(status, 1, parent)),
                (number_key(parent, DIRENT, cookie), pack_dirent(ino, stat.S_IFREG, name)),
            ]
        )

    def _special(self, folder: _Folder, name: bytes, ino: int, cookie: int) -> None:
        """Symbolic links, devices, FIFOs, sockets."""
        linked = None
        try:
            status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                self._tally.problem(folder.path + name, _CHANGED)
                return
            target = os.readlink(name, dir_fd=folder.fd) if stat.S_ISLNK(status.st_mode) else None
            linked = self._link(folder, name, ino, status, cookie)
            if linked is not None and linked.ino != ino:
                return
            self._xattrs(ino, b"/proc/self/fd/%d/%s" % (folder.fd, name))
        except OSError as error:
            self._failed(folder, name, error)
            if linked is not None:
                linked.stored = False
            return
        inode = _inode(ino, status, 1, status.st_size, folder.ino)
        if target is not None:
            self._spool.add(kind_key(ino, SYMLINK), target)
            # Reading the target has just touched the access time.
            inode = replace(inode, atime_ns=inode.mtime_ns, size=len(target))
        if linked is not None:
            linked.inode = inode
        else:
            self._spool.add(inode_key(ino), pack_inode(inode))
            self._name(folder.ino, name, ino, stat.S_IFMT(status.st_mode), cookie)
        self._tally.add(1, 0)

    def _finish_linked(self) -> None:
        """Items of files with several names; the link count is that of the names in this tree."""
        for linked in self._linked.values():
            if not linked.stored:
                for _, path, name, _ in linked.names:
                    self._tally.problem(path + name, _KEPT_CHANGING)
                continue
            inode = linked.inode
            mode_type = stat.S_IFMT(inode.mode)
            self._spool.add(inode_key(linked.ino), pack_inode(replace(inode, nlink=len(linked.names))))
            for parent, _, name, cookie in linked.names:
                self._name(parent, name, linked.ino, mode_type, cookie)

    # -- what may go wrong ----------------------------------------------------------------------------------------

    def _failed(self, folder: _Folder, name: bytes, error: OSError) -> None:
        """A file that vanished or changed its type since the listing is reported; anything else ends the import."""
        path = folder.path + name
        if error.errno in (errno.ENOENT, errno.ESTALE):
            self._tally.problem(path, "vanished while the tree was read")
        elif error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            self._tally.problem(path, _CHANGED)
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
    """A path in quotes for messages: control bytes and invalid UTF-8 escaped, a very long one cut."""
    if len(path) > _SHOWN:
        path = path[:_SHOWN] + b"..."
    text = path.rstrip(b"/").decode("utf-8", "backslashreplace") or "."
    return "'" + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text) + "'"


def _open_quietly(name: bytes, flags: int, directory: int | None) -> int:
    """Open without touching the access time, which would make the next import of the same tree a different one."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=directory)
    except PermissionError:  # O_NOATIME is for the owner
        return os.open(name, flags, dir_fd=directory)


def _inode(ino: int, status: os.stat_result, nlink: int, size: int, parent: int) -> Inode:
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
        parent=parent,
    )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _settled(fd: int) -> os.stat_result:
    """The status of a file, once what is written from now on gives it other times: only then can ``_same`` tell."""
    for _ in range(_TRIES):
        now = time.time_ns()
        status = os.fstat(fd)
        if not 0 <= now - status.st_ctime_ns < _TICK_NS:
            break
        time.sleep(_TICK_NS / 1e9)
    return status


def _same(a: os.stat_result, b: os.stat_result) -> bool:
    return a.st_size == b.st_size and a.st_mtime_ns == b.st_mtime_ns and a.st_ctime_ns == b.st_ctime_ns


def _segments(fd: int, status: os.stat_result) -> list[tuple[int, int]]:
    """The parts of a file that may hold data; file systems that know no holes give one part."""
    if status.st_blocks * 512 >= status.st_size or status.st_size < _SPARSE_LEAST:
        return [(0, status.st_size)]
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
    return parts


def _reader(fd: int, start: int, end: int) -> ReadInto:
    position = start

    def read_into(view: memoryview) -> int:
        nonlocal position
        count = os.preadv(fd, [view[: min(len(view), end - position)]], position) if position < end else 0
        position += count
        return count

    return read_into
