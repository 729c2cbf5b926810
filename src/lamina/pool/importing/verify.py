"""Comparing a stored tree with a directory: every name, every byte, all metadata."""

import errno
import os
import stat
from collections.abc import Callable, Generator
from pathlib import Path

from lamina.errors import DamagedData, NotFound, SourceError
from lamina.fs.types import ROOT_INO, Inode
from lamina.fs.view import TreeView
from lamina.ingest.directory import allow_deep_trees
from lamina.ingest.progress import Progress
from lamina.pool.reports import Difference

_READ = 4 << 20

Level = Generator[tuple[bytes, bytes, int, int], None, None]
"""(path, name, descriptor of the parent, inode number) of directories."""


def verify_tree(tree: TreeView, against: Path, progress: Callable[[Progress], None] | None = None) -> list[Difference]:
    """All differences, in the order of the walk. Damaged objects are differences too.

    Access and change times are not compared: comparing changes them. Raises ``NotFound`` where ``against`` is no
    directory.
    """
    if not against.is_dir():
        raise NotFound(f"cannot verify against '{against}': it is not a directory")
    return _Verifier(tree, progress).run(against)


class _Verifier:
    def __init__(self, tree: TreeView, progress: Callable[[Progress], None] | None) -> None:
        self._tree = tree
        self._progress = progress
        self._found: list[Difference] = []
        self._links: dict[tuple[int, int], tuple[int, int]] = {}
        self._numbers: dict[int, tuple[int, int]] = {}
        self._files = 0
        self._bytes = 0

    def run(self, root: Path) -> list[Difference]:
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise SourceError(f"cannot verify against '{root}': {error.strerror}") from None
        try:
            self._metadata(b".", self._tree.inode(ROOT_INO), os.fstat(fd))
            self._xattrs(b".", ROOT_INO, b"/proc/self/fd/%d" % fd, follow=True)
            self._walk(b"", fd, ROOT_INO)
        except DamagedData as error:
            self._found.append(Difference(b".", f"is damaged: {error}"))
            return self._found
        finally:
            os.close(fd)
        for identity, (ino, count) in self._links.items():
            del identity
            wanted = self._tree.inode(ino).nlink
            if wanted != count:
                self._found.append(Difference(b"inode %d" % ino, f"has {wanted} names in the snapshot, {count} there"))
        self._report(True)
        return self._found

    def _walk(self, path: bytes, fd: int, ino: int) -> None:
        """Compare a directory and all below it, without recursion: trees may be deeper than Python's stack."""
        allow_deep_trees()
        levels = [self._directory(path, fd, ino)]
        try:
            while levels:
                below = next(levels[-1], None)
                if below is not None:
                    levels.append(self._below(*below))
                else:
                    levels.pop()
        finally:
            for level in reversed(levels):
                level.close()

    def _below(self, where: bytes, name: bytes, parent: int, ino: int) -> Level:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as error:
            self._found.append(Difference(where, f"cannot be read: {error.strerror}"))
            return
        try:
            yield from self._directory(where + b"/", fd, ino)
        except DamagedData as error:
            self._found.append(Difference(where, f"is damaged: {error}"))
        except OSError as error:
            self._found.append(Difference(where, f"cannot be read: {error.strerror}"))
        finally:
            os.close(fd)

    def _directory(self, path: bytes, fd: int, ino: int) -> Level:
        """Compare what lies in a directory; gives the directories in it, to be compared before it goes on."""
        mine = {entry.name: entry for entry in self._tree.readdir(ino)}
        theirs = {os.fsencode(name) for name in os.listdir(fd)}
        for name in sorted(theirs - mine.keys()):
            self._found.append(Difference(path + name, "is not in the snapshot"))
        for name in sorted(mine):
            where = path + name
            if name not in theirs:
                self._found.append(Difference(where, "is only in the snapshot"))
                continue
            try:
                if self._entry(where, name, fd, mine[name].ino):
                    yield where, name, fd, mine[name].ino
            except DamagedData as error:
                self._found.append(Difference(where, f"is damaged: {error}"))
            except OSError as error:
                self._found.append(Difference(where, f"cannot be read: {error.strerror}"))

    def _entry(self, where: bytes, name: bytes, parent: int, ino: int) -> bool:
        """Compare one entry; whether it is a directory to go down into."""
        inode = self._tree.inode(ino)
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not self._metadata(where, inode, status):
            return False
        self._xattrs(where, ino, b"/proc/self/fd/%d/%s" % (parent, name), follow=False)
        mode_type = stat.S_IFMT(inode.mode)
        if mode_type == stat.S_IFDIR:
            return True
        self._files += 1
        self._link(where, ino, status)
        if mode_type == stat.S_IFLNK and self._tree.readlink(ino) != os.readlink(name, dir_fd=parent):
            self._found.append(Difference(where, "is a symbolic link to something else"))
        elif mode_type == stat.S_IFREG and inode.size:
            self._contents(where, name, parent, inode)
        return False

    def _metadata(self, where: bytes, inode: Inode, status: os.stat_result) -> bool:
        """Compare; whether the types agree, so that going on makes sense."""
        if stat.S_IFMT(inode.mode) != stat.S_IFMT(status.st_mode):
            self._found.append(Difference(where, "is of another type"))
            return False
        pairs: list[tuple[str, object, object]] = [
            ("mode", oct(inode.mode & 0o7777), oct(status.st_mode & 0o7777)),
            ("owner", inode.uid, status.st_uid),
            ("group", inode.gid, status.st_gid),
            ("mtime", inode.mtime_ns, status.st_mtime_ns),
        ]
        if stat.S_ISREG(inode.mode) or stat.S_ISLNK(inode.mode):
            pairs.append(("size", inode.size, status.st_size))
        if stat.S_ISBLK(inode.mode) or stat.S_ISCHR(inode.mode):
            pairs.append(("device", inode.rdev, status.st_rdev))
        for what, mine, theirs in pairs:
            if mine != theirs:
                self._found.append(Difference(where, f"{what} is {mine} in the snapshot, {theirs} there"))
        return True

    def _link(self, where: bytes, ino: int, status: os.stat_result) -> None:
        """Names of one file here must be names of one file there."""
        identity = (status.st_dev, status.st_ino)
        known, count = self._links.get(identity, (ino, 0))
        self._links[identity] = (known, count + 1)
        if known != ino or self._numbers.setdefault(ino, identity) != identity:
            self._found.append(Difference(where, "is linked to another file"))

    def _xattrs(self, where: bytes, ino: int, path: bytes, *, follow: bool) -> None:
        mine = self._tree.xattrs(ino)
        theirs: dict[bytes, bytes] = {}
        try:
            for name in os.listxattr(path, follow_symlinks=follow):
                theirs[os.fsencode(name)] = os.getxattr(path, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                shown = key.decode("utf-8", "backslashreplace")
                self._found.append(Difference(where, f"extended attribute {shown} differs"))

    def _contents(self, where: bytes, name: bytes, parent: int, inode: Inode) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            position = 0
            while position < inode.size:
                extents = self._tree.extents(inode.ino, position, position + 1)
                if not extents or extents[0].offset > position:
                    position = self._hole(where, fd, inode, position)
                    if position < 0:
                        return
                    continue
                extent = extents[0]
                data = self._tree.chunk(extent.key)[extent.chunk_offset : extent.chunk_offset + extent.length]
                if len(data) != extent.length or os.pread(fd, extent.length, extent.offset) != data:
                    self._found.append(
                        Difference(where, f"contents differ between {position} and {extent.offset + extent.length}")
                    )
                    return
                position = extent.offset + extent.length
                self._bytes += extent.length
                self._report(False)
        finally:
            os.close(fd)

    def _hole(self, where: bytes, fd: int, inode: Inode, position: int) -> int:
        """Check that a hole reads as zeros there; the byte after it, or -1."""
        following = [e.offset for e in self._tree.extents(inode.ino, position, inode.size) if e.offset >= position]
        end = min(following, default=inode.size)
        while position < end:
            try:
                start = min(os.lseek(fd, position, os.SEEK_DATA), end)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                start = end
            size = min(_READ, end - start)
            if size and os.pread(fd, size, start).strip(b"\0"):
                self._found.append(
                    Difference(where, f"contents differ after {start}: a hole in the snapshot, data there")
                )
                return -1
            position = start + size
        return end

    def _report(self, done: bool) -> None:
        if self._progress is not None:
            totals = self._tree.totals
            count = totals.inodes - totals.directories
            self._progress(Progress(self._files, self._bytes, 0, 0, count, totals.data_bytes, done))
