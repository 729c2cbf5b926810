"""Reading files from the medium and not from memory: what a check reads must be what the disk holds.

The page cache may still have good pages of a range that has gone bad on the disk, and a whole pool that is read once
must not push out what others use. So files are opened with ``O_DIRECT`` (open(2)) where the file system takes it;
elsewhere the range is dropped from the cache before it is read.
"""

import errno
import mmap
import os
import threading
from pathlib import Path

from lamina.store.disk import Disk

_ALIGN = 4096
"""Offsets, lengths and buffers of direct reads are multiples of this: no disk has larger logical blocks."""


class Medium(threading.local):
    """Reads ranges of files. Each thread has one buffer of its own, which its next read overwrites."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._buffer = mmap.mmap(-1, _ALIGN)  # anonymous memory begins at a page

    def read(self, path: Path, offset: int, length: int) -> memoryview:
        """``length`` bytes from ``offset``, fewer only where the file ends. Raises ``OSError``."""
        first = offset // _ALIGN * _ALIGN
        span = -(-(offset + length - first) // _ALIGN) * _ALIGN
        if len(self._buffer) < span:
            self._buffer = mmap.mmap(-1, span)
        view = memoryview(self._buffer)
        try:
            filled = self._read(path, os.O_RDONLY | os.O_DIRECT, view[:span], first)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            filled = self._read(path, os.O_RDONLY, view[:span], first)
        return view[offset - first : max(offset - first, min(filled, offset - first + length))]

    def _read(self, path: Path, flags: int, view: memoryview, offset: int) -> int:
        fd = self._disk.open(path, flags)
        try:
            if not flags & os.O_DIRECT:
                os.posix_fadvise(fd, offset, len(view), os.POSIX_FADV_DONTNEED)
            filled = 0
            while filled < len(view):
                count = self._disk.read_into(fd, view[filled:], offset + filled)
                filled += count
                if not count or filled % _ALIGN:  # the end of the file
                    break
            return filled
        finally:
            self._disk.close(fd)
