"""What stands between a pool's files and the operating system.

Everything in a pool that is changed or read by path or by descriptor goes through a ``Disk``. Tests put one of their
own in its place, which writes down what would survive a power loss, or fails a call. SQLite does its own input and
output.
"""

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from lamina.errors import AccessDenied, LaminaError, NoSpace

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
"""``FALLOC_FL_KEEP_SIZE``, ``FALLOC_FL_PUNCH_HOLE`` (linux/falloc.h)."""

_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})

Target = str | Path
Buffer = bytes | bytearray | memoryview


class Disk:
    """The system's calls under their own names. Each raises ``OSError`` as they do."""

    def open(self, path: Target, flags: int, mode: int = 0o600) -> int:
        """A descriptor, closed on exec. See open(2)."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        """Release a descriptor. What had to be durable was synced before: an error here says nothing more."""
        with contextlib.suppress(OSError):
            os.close(fd)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        """At most ``length`` bytes from ``offset``; none at the end of the file. See pread(2)."""
        return os.pread(fd, length, offset)

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        """The same into memory of the caller's; how many bytes were read. See preadv(2)."""
        return os.preadv(fd, [buffer], offset)

    def write(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        """Write ``parts`` at ``offset``; how many bytes were taken, which may be fewer. See pwritev(2)."""
        return os.pwritev(fd, parts, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Cut or lengthen a file. See ftruncate(2)."""
        os.ftruncate(fd, size)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        """Have room for a range, lengthening the file. See posix_fallocate(3)."""
        os.posix_fallocate(fd, offset, length)

    def punch(self, fd: int, offset: int, length: int) -> bool:
        """Give back the blocks of a range, which reads as zeros from then on; the size of the file stays.

        False where the file system has no holes. See fallocate(2).
        """
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        try:
            fallocate = libc.fallocate64
        except AttributeError:  # C libraries whose off_t always has 64 bits
            fallocate = libc.fallocate
        fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        while fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
            code = ctypes.get_errno()
            if code in _UNSUPPORTED:
                return False
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))
        return True

    def sync(self, fd: int) -> None:
        """Return only when what was written is on stable storage. See fdatasync(2)."""
        os.fdatasync(fd)

    def sync_directory(self, path: Target) -> None:
        """Make the names in a directory durable. See fsync(2)."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, old: Target, new: Target) -> None:
        """Rename, over what is there. See rename(2)."""
        os.replace(old, new)

    def unlink(self, path: Target) -> None:
        """Remove a file's name. See unlink(2)."""
        os.unlink(path)

    def mkdir(self, path: Target) -> None:
        """Make a directory. See mkdir(2)."""
        os.mkdir(path)

    def rmdir(self, path: Target) -> None:
        """Remove an empty directory. See rmdir(2)."""
        os.rmdir(path)

    def chmod(self, path: Target | int, mode: int) -> None:
        """Set permissions by path or descriptor. See chmod(2)."""
        os.chmod(path, mode)

    def chown(self, path: Target | int, uid: int, gid: int) -> None:
        """Set the owner; -1 leaves it. See chown(2)."""
        os.chown(path, uid, gid)

    def stat(self, path: Target | int) -> os.stat_result:
        """What a path or descriptor is. See stat(2)."""
        return os.stat(path)

    def listdir(self, path: Target) -> list[str]:
        """Names in a directory, in no order."""
        return os.listdir(path)

    def statvfs(self, path: Target) -> os.statvfs_result:
        """Size and free blocks of the file system. See statvfs(3)."""
        return os.statvfs(path)


DISK = Disk()
"""The disk itself: holds nothing, so all may share it."""


def read_range(disk: Disk, fd: int, length: int, offset: int) -> bytes:
    """``length`` bytes from ``offset``; fewer only where the file ends."""
    data = disk.read(fd, length, offset)
    while len(data) < length and (more := disk.read(fd, length - len(data), offset + len(data))):
        data += more
    return data


def write_range(disk: Disk, fd: int, parts: Sequence[Buffer], offset: int) -> int:
    """Write all of ``parts``, at most ``IOV_MAX`` of them (1024, limits.h), at ``offset``; the offset behind them."""
    left = sum(map(len, parts))
    while left:
        written = disk.write(fd, parts, offset)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        offset += written
        left -= written
        if left:  # a disk that is nearly full takes a part
            parts = [memoryview(b"".join(parts))[written:]]
    return offset


def translated(error: OSError, what: str) -> LaminaError:
    """The project's error for one of the system's; ``what`` could not be done."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{what}: {error.strerror}; destroy what is not needed, or move the pool to a larger disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDenied(f"{what}: {error.strerror}")
    if error.errno == errno.EIO:
        return LaminaError(f"{what}: {error.strerror}; the disk fails: the kernel's log (dmesg) says more")
    return LaminaError(f"{what}: {error.strerror}")
