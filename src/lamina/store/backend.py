"""Where packs lie: one narrow interface, and the local directory as its first implementation.

Nothing above may assume a POSIX path: an object store is the next backend.
"""

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lamina.errors import AccessDenied, DamagedData, LaminaError, NoSpace

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

    def size(self, name: str) -> int:
        """Size of a file in bytes."""
        ...

    def list(self) -> list[str]:
        """Names of all files, sorted."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        ...


def _translated(error: OSError, what: str) -> LaminaError:
    """The project's error for one of the system's while writing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{what}: {error.strerror}; destroy what is not needed, or move the pool to a larger disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDenied(f"{what}: {error.strerror}")
    return LaminaError(f"{what}: {error.strerror}")


class _OpenFile:
    """A descriptor that closes with its last reference: a reader in another thread may still be inside ``pread``."""

    __slots__ = ("_ahead", "_next", "_run", "fd")

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
            os.close(self.fd)


class LocalAppender:
    """Appends to a local file through one descriptor."""

    def __init__(self, path: Path, size: int, mode: int) -> None:
        flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT if size == 0 else 0)
        self._fd = -1
        self._path = path
        self._new = size == 0
        try:
            self._fd = os.open(path, flags, mode)
            if self._new and stat.S_IMODE(os.fstat(self._fd).st_mode) != mode:
                os.fchmod(self._fd, mode)  # whatever the umask: the pool's permissions were chosen when it was made
            os.ftruncate(self._fd, size)
            os.lseek(self._fd, size, os.SEEK_SET)
        except OSError as error:
            self.close()
            raise _translated(error, f"cannot write '{path}'") from error

    def append(self, parts: Sequence[bytes]) -> None:
        """See ``Appender``."""
        try:
            for start in range(0, len(parts), _MOST_PARTS):
                some = parts[start : start + _MOST_PARTS]
                written = os.writev(self._fd, some)
                if written < sum(map(len, some)):  # a disk that is nearly full takes a part
                    view = memoryview(b"".join(some))[written:]
                    while view:
                        view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise _translated(error, f"cannot write '{self._path}'") from error

    def sync(self) -> None:
        """See ``Appender``. The directory entry of a new file is synced with its first bytes."""
        try:
            os.fdatasync(self._fd)
            if self._new:
                directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
                self._new = False
        except OSError as error:
            raise _translated(error, f"cannot sync '{self._path}'") from error

    def close(self) -> None:
        """See ``Appender``."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LocalBackend:
    """Packs as files in one directory. Safe to read from several threads."""

    def __init__(self, directory: Path, file_mode: int = 0o600) -> None:
        self._directory = directory
        self._mode = file_mode
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()

    def append_to(self, name: str, size: int) -> LocalAppender:
        """See ``Backend``."""
        return LocalAppender(self._directory / name, size, self._mode)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """See ``Backend``."""
        try:
            file = self._file(name)  # held, so that nobody closes the descriptor meanwhile
            file.note(offset, length)
            data = os.pread(file.fd, length, offset)
            while len(data) < length:
                more = os.pread(file.fd, length - len(data), offset + len(data))
                if not more:
                    raise DamagedData(f"pack '{name}' is cut short: no {length} bytes at {offset}")
                data += more
        except FileNotFoundError:
            raise DamagedData(f"pack '{name}' is missing") from None
        except PermissionError:
            raise AccessDenied(f"cannot read '{self._directory / name}': permission denied") from None
        except OSError as error:
            raise DamagedData(f"pack '{name}' cannot be read at {offset}: {error.strerror}") from error
        return data

    def size(self, name: str) -> int:
        """See ``Backend``."""
        try:
            return os.stat(self._directory / name).st_size
        except FileNotFoundError:
            raise DamagedData(f"pack '{name}' is missing") from None

    def list(self) -> list[str]:
        """See ``Backend``."""
        return sorted(os.listdir(self._directory))

    def delete(self, name: str) -> None:
        """See ``Backend``."""
        with self._lock:
            self._open.pop(name, None)
        (self._directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Release all descriptors."""
        with self._lock:
            self._open.clear()

    def _file(self, name: str) -> _OpenFile:
        with self._lock:
            file = self._open.get(name)
            if file is None:
                file = self._open[name] = _OpenFile(self._directory / name)
                if len(self._open) > _OPEN_FILES:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(name)
            return file
