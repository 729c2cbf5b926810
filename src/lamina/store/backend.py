"""Where packs lie: one narrow interface, and the local directory as its first implementation.

Nothing above may assume a POSIX path: an object store is the next backend.
"""

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lamina.errors import AccessDenied, DamagedData, LaminaError
from lamina.store.disk import DISK, Disk, read_range, translated, write_range
from lamina.store.medium import Medium

_PAGE = 4096
_OPEN_FILES = 256
_NEAR = 1 << 20
_RUN = 4
_WINDOW = 8 << 20
"""After ``_RUN`` reads that each lie within ``_NEAR`` bytes of the last one's end, this many bytes are read ahead."""
_MOST_PARTS = 1024
"""``IOV_MAX`` (limits.h)."""


class Appender(Protocol):
    """A file that is being written at its end by one process."""

    def append(self, parts: Sequence[bytes]) -> None:
        """Add bytes at the end. Raises ``NoSpace``; what was written of ``parts`` by then is dead weight."""
        ...

    def sync(self) -> None:
        """Return only when all that was appended is on stable storage."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class Backend(Protocol):
    """Files of bytes by flat name. Errors: ``NoSpace``, ``AccessDenied``, ``DamagedData`` for what is missing."""

    def append_to(self, name: str, size: int) -> Appender:
        """Open ``name`` to append after its first ``size`` bytes (created where 0); what lay behind is dropped."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``. Raises ``DamagedData`` where the file is missing or ends before."""
        ...

    def read_stored(self, name: str, offset: int, length: int) -> memoryview:
        """The same as it lies on the medium, whatever memory holds of it; the thread's next such read overwrites it."""
        ...

    def size(self, name: str) -> int:
        """Size of a file in bytes."""
        ...

    def list(self) -> list[str]:
        """Names of all files, sorted."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        ...

    def punch(self, name: str, offset: int, length: int) -> bool:
        """Give back the space of the whole pages within a range, which is dead; the file keeps its size.

        Whether that was done: not where no whole page lies in the range, nor where the system has no holes.
        """
        ...

    def allocated(self, name: str) -> int:
        """Bytes that a file takes, which are fewer than its size where holes were punched."""
        ...


class _OpenFile:
    """A descriptor that closes with its last reference: a reader in another thread may still be inside ``pread``."""

    __slots__ = ("_ahead", "_disk", "_next", "_run", "fd")

    def __init__(self, path: Path, disk: Disk) -> None:
        self.fd = disk.open(path, os.O_RDONLY)
        self._disk = disk
        self._next = 0
        self._run = 0
        self._ahead = 0

    def note(self, offset: int, length: int) -> None:
        """Have the kernel read ahead of whoever reads objects in the order they lie.

        Its own read-ahead gives up where several threads take turns. Called by any of them: at worst it is asked twice.
        """
        if not 0 <= offset - self._next + _NEAR < 2 * _NEAR:
            self._run = self._ahead = 0
        self._run += 1
        self._next = end = offset + length
        if self._run >= _RUN and self._ahead < end + _WINDOW // 2:
            start = max(self._ahead, end)
            self._ahead = end + _WINDOW
            os.posix_fadvise(self.fd, start, self._ahead - start, os.POSIX_FADV_WILLNEED)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            self._disk.close(self.fd)


class LocalAppender:
    """Appends to a local file through one descriptor."""

    def __init__(self, path: Path, size: int, mode: int, disk: Disk = DISK) -> None:
        self._fd = -1
        self._path = path
        self._disk = disk
        self._end = size
        self._new = size == 0
        try:
            self._fd = disk.open(path, os.O_WRONLY | (os.O_CREAT if self._new else 0), mode)
            if self._new and stat.S_IMODE(disk.stat(self._fd).st_mode) != mode:
                disk.chmod(self._fd, mode)  # whatever the umask: the pool's permissions were chosen when it was made
            disk.truncate(self._fd, size)
        except OSError as error:
            self.close()
            raise translated(error, f"cannot write '{path}'") from error

    def append(self, parts: Sequence[bytes]) -> None:
        """See ``Appender``."""
        try:
            for start in range(0, len(parts), _MOST_PARTS):
                some = parts[start : start + _MOST_PARTS]
                self._end = write_range(self._disk, self._fd, some, self._end)
        except OSError as error:
            raise translated(error, f"cannot write '{self._path}'") from error

    def sync(self) -> None:
        """See ``Appender``. The directory entry of a new file is synced with its first bytes."""
        try:
            self._disk.sync(self._fd)
            if self._new:
                self._disk.sync_directory(self._path.parent)
                self._new = False
        except OSError as error:
            raise translated(error, f"cannot sync '{self._path}'") from error

    def close(self) -> None:
        """See ``Appender``."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._disk.close(fd)


class LocalBackend:
    """Packs as files in one directory. Safe to read from several threads."""

    def __init__(self, directory: Path, file_mode: int = 0o600, disk: Disk = DISK) -> None:
        self._directory = directory
        self._mode = file_mode
        self._disk = disk
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._medium = Medium(disk)

    def append_to(self, name: str, size: int) -> LocalAppender:
        """See ``Backend``."""
        return LocalAppender(self._directory / name, size, self._mode, self._disk)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """See ``Backend``."""
        try:
            file = self._file(name)  # held, so that nobody closes the descriptor meanwhile
            file.note(offset, length)
            data = read_range(self._disk, file.fd, length, offset)
        except OSError as error:
            raise self._unreadable(name, offset, error) from error
        if len(data) < length:
            raise DamagedData(f"pack '{name}' is cut short: no {length} bytes at {offset}")
        return data

    def read_stored(self, name: str, offset: int, length: int) -> memoryview:
        """See ``Backend``."""
        try:
            data = self._medium.read(self._directory / name, offset, length)
        except OSError as error:
            raise self._unreadable(name, offset, error) from error
        if len(data) < length:
            raise DamagedData(f"pack '{name}' is cut short: no {length} bytes at {offset}")
        return data

    def _unreadable(self, name: str, offset: int, error: OSError) -> LaminaError:
        if isinstance(error, FileNotFoundError):
            return DamagedData(f"pack '{name}' is missing")
        if isinstance(error, PermissionError):
            return AccessDenied(f"cannot read '{self._directory / name}': permission denied")
        return DamagedData(f"pack '{name}' cannot be read at {offset}: {error.strerror}")

    def size(self, name: str) -> int:
        """See ``Backend``."""
        return self._status(name).st_size

    def allocated(self, name: str) -> int:
        """See ``Backend``."""
        return self._status(name).st_blocks * 512

    def _status(self, name: str) -> os.stat_result:
        try:
            return self._disk.stat(self._directory / name)
        except FileNotFoundError:
            raise DamagedData(f"pack '{name}' is missing") from None
        except OSError as error:
            raise translated(error, f"cannot look at '{self._directory / name}'") from error

    def list(self) -> list[str]:
        """See ``Backend``."""
        try:
            return sorted(self._disk.listdir(self._directory))
        except OSError as error:
            raise translated(error, f"cannot look at '{self._directory}'") from error

    def delete(self, name: str) -> None:
        """See ``Backend``."""
        with self._lock:
            self._open.pop(name, None)
        try:
            self._disk.unlink(self._directory / name)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise translated(error, f"cannot remove '{self._directory / name}'") from error

    def punch(self, name: str, offset: int, length: int) -> bool:
        """See ``Backend``."""
        start = -(-offset // _PAGE) * _PAGE
        end = (offset + length) // _PAGE * _PAGE
        if end <= start:
            return False
        path = self._directory / name
        try:
            fd = self._disk.open(path, os.O_WRONLY)
            try:
                return self._disk.punch(fd, start, end - start)
            finally:
                self._disk.close(fd)
        except FileNotFoundError:
            raise DamagedData(f"pack '{name}' is missing") from None
        except OSError as error:
            raise translated(error, f"cannot punch a hole into '{path}'") from error

    def close(self) -> None:
        """Release all descriptors."""
        with self._lock:
            self._open.clear()

    def _file(self, name: str) -> _OpenFile:
        with self._lock:
            file = self._open.get(name)
            if file is None:
                file = self._open[name] = _OpenFile(self._directory / name, self._disk)
                if len(self._open) > _OPEN_FILES:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(name)
            return file
