"""Where an archive is written to: a file that appears under its name when it is whole, or a stream."""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from types import TracebackType

from lamina.errors import AccessDenied, LaminaError, NoSpace, NotFound
from lamina.pool.names import printable


class Output:
    """A descriptor that is written from its beginning to its end. ``position``: bytes written so far."""

    def __init__(self, fd: int, shown: str) -> None:
        self._fd = fd
        self.shown = shown
        self.position = 0
        self.seekable = False
        """Whether what was written may be changed: then what is not known at the beginning is filled in later."""

    def write(self, data: bytes) -> None:
        """Write all of it. Raises ``LaminaError``; ``BrokenPipeError`` where nobody reads any more."""
        view = memoryview(data)
        while view:
            try:
                count = os.write(self._fd, view)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise unwritable(self.shown, error) from None
            self.position += count
            view = view[count:]

    def change(self, data: bytes, offset: int) -> None:
        """Put ``data`` over what was written at ``offset``."""
        try:
            os.pwrite(self._fd, data, offset)
        except OSError as error:
            raise unwritable(self.shown, error) from None

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class FileOutput(Output):
    """A file that is written beside its place and takes it at the end, durable; after a failure nothing is there."""

    def __init__(self, path: Path) -> None:
        super().__init__(-1, printable(str(path)))
        self._given = path
        self._path = Path(os.path.realpath(path))
        self._beside = self._path.parent / f".{self._path.name[:200]}.{secrets.token_hex(6)}"
        self.seekable = True

    def __enter__(self) -> "FileOutput":
        """Raises ``LaminaError``."""
        try:
            self._fd = os.open(self._beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            folder = printable(str(self._given.parent))
            raise NotFound(f"cannot write '{self.shown}': there is no directory '{folder}'; make it first") from None
        except OSError as error:
            raise unwritable(self.shown, error) from None
        except BaseException:
            # Ctrl-C, right after it was made.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._beside)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                os.fsync(self._fd)
                os.replace(self._beside, self._path)
                sync_directory(self._path.parent)
        except OSError as failure:
            raise unwritable(self.shown, failure) from None
        finally:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._beside)


class SpecialOutput(Output):
    """A pipe or a device that is there already."""

    def __init__(self, path: Path) -> None:
        """Raises ``LaminaError``."""
        shown = printable(str(path))
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise unwritable(shown, error) from None
        super().__init__(fd, shown)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)


def open_output(path: str) -> Output:
    """Where to write: ``-`` is standard output. Raises ``LaminaError``."""
    if path == "-":
        return Output(1, "standard output")
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return FileOutput(Path(path))
    if stat.S_ISDIR(mode):
        raise LaminaError(f"cannot write '{printable(path)}': it is a directory; name a file in it")
    return FileOutput(Path(path)) if stat.S_ISREG(mode) else SpecialOutput(Path(path))


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unwritable(shown: str, error: OSError) -> LaminaError:
    """The project's error for one of the system's."""
    what = f"cannot write '{shown}': {(error.strerror or str(error)).lower()}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{what}; nothing of it was left there")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDenied(what)
    return LaminaError(what)
