"""Streams that may wait for ever, read so that another thread can end the wait."""

import io
import os
import select
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from lamina.errors import LaminaError, OciError, SourceError
from lamina.pool.names import printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_LOOK_MILLISECONDS = 200
_LONGEST_REASON = 300


class PolledStream(io.RawIOBase):
    """A file descriptor's bytes. ``close`` ends a read that waits; the descriptor itself stays open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """See ``io.RawIOBase``. Raises ``ValueError`` once the stream is closed."""
        while not self.closed:
            if self._poll.poll(_LOOK_MILLISECONDS):
                return os.readv(self._descriptor, [memoryview(buffer).cast("B")])
        raise ValueError("it was closed")


class ProcessStream(io.RawIOBase):
    """What a program writes to its standard output. Raises ``OciError`` at the end if the program failed."""

    def __init__(self, words: Sequence[str]) -> None:
        """Start the program. Raises ``OciError``."""
        self._program = words[0]
        self._errors: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            # In a session of its own: Ctrl-C is for this process, which ends the program.
            self._process = subprocess.Popen(
                *(words, 0), None, subprocess.DEVNULL, subprocess.PIPE, self._errors, start_new_session=True
            )
        except OSError as error:
            self._errors.close()
            raise OciError(f"cannot run '{self._program}': {error.strerror}") from None
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._stream = PolledStream(self._output.fileno())
        self._reading = threading.Lock()

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """See ``io.RawIOBase``."""
        with self._reading:
            count = self._stream.readinto(buffer)
        if not count and len(memoryview(buffer)) and self._process.wait():
            raise OciError(f"'{self._program}' failed: {self._reason()}")
        return count

    def _reason(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read(1 << 16).decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return printable(said[-1][:_LONGEST_REASON]) if said else f"exit status {self._process.returncode}"

    def close(self) -> None:
        """End the program too."""
        if self.closed:
            return
        super().close()
        self._stream.close()
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
        self._process.wait()
        with self._reading:  # who waits for bytes lets go soon; closed before, its descriptor might be another file's
            self._output.close()
        self._errors.close()


class PeekedStream(io.RawIOBase):
    """A stream with its first bytes looked at; an error that came meanwhile is raised where its bytes would be."""

    def __init__(self, stream: BinaryIO, count: int) -> None:
        self._stream = stream
        self._error: Exception | None = None
        head = bytearray()
        try:
            while len(head) < count and (more := stream.read(count - len(head))):
                head += more
        except Exception as error:
            self._error = _as_source_error(error)
        self.head = bytes(head)
        self._left = memoryview(self.head)

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """See ``io.RawIOBase``."""
        view = memoryview(buffer).cast("B")
        if self._left:
            count = min(len(view), len(self._left))
            view[:count] = self._left[:count]
            self._left = self._left[count:]
            return count
        if self._error is not None:
            raise self._error
        try:
            return self._stream.readinto(view) or 0  # type: ignore[attr-defined]
        except Exception as error:
            raise _as_source_error(error) from error

    def close(self) -> None:
        """Close the stream too."""
        if not self.closed:
            super().close()
            self._stream.close()


def _as_source_error(error: Exception) -> Exception:
    """What a damaged compressed file raises, each library has its own class for it; others as they are."""
    if isinstance(error, (LaminaError, OSError, ValueError)):
        return error
    return SourceError(f"the compressed archive is damaged: {printable(str(error)[:_LONGEST_REASON])}")
