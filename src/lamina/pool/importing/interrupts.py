"""Ctrl-C during an import, taken where it can be undone.

Python raises ``KeyboardInterrupt`` between any two steps of the main thread: also after a lock was taken and before
the block that gives it back was entered, and then every other thread waits for ever; or with a transaction begun that
nobody ends before the import is taken back. So the signal is only noted, and raised where work is handed out or waited
for.
"""

import io
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, BinaryIO

from lamina.ingest.tasks import Task, Workers


class Interrupts:
    """Notes SIGINT while it is entered, if Python's own handler is in charge. A second one is raised at once."""

    def __init__(self) -> None:
        self._pending = False
        self._before: Any = None
        self._waiting = False

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if one was noted."""
        if self._pending:
            raise KeyboardInterrupt

    def stream(self, source: BinaryIO) -> "WaitingStream":
        """``source``, to be read by the main thread: an interrupt is raised at once while a read waits for bytes."""
        return WaitingStream(source, self)

    def waiting(self, read: Callable[[Any], int | None], view: Any) -> int:
        """Call ``read(view)``. Nothing is held then, and the bytes may never come."""
        self._waiting = True
        try:
            self.check()
            return read(view) or 0
        finally:
            self._waiting = False

    def __enter__(self) -> "Interrupts":
        in_charge = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if in_charge and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if kind is None:
                self.check()  # too late for this import, not for what its caller does next

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._pending or self._waiting:
            raise KeyboardInterrupt
        self._pending = True


class WaitingStream(io.RawIOBase):
    """See ``Interrupts.stream``."""

    def __init__(self, source: BinaryIO, interrupts: Interrupts) -> None:
        self._read: Callable[[Any], int | None] = getattr(source, "readinto1", None) or source.readinto  # type: ignore[attr-defined]
        self._interrupts = interrupts

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, view: Any) -> int:
        """See ``io.RawIOBase``."""
        return self._interrupts.waiting(self._read, view)


class CheckedWorkers(Workers):
    """Workers that call ``check_all`` wherever work is handed out or waited for; what it raises ends the import."""

    def __init__(self, threads: int, check_all: Callable[[], None]) -> None:
        super().__init__(threads)
        self._check_all = check_all

    def check(self) -> None:
        """See ``Workers``."""
        self._check_all()
        super().check()

    def submit_urgent(self, function: Callable[..., Any], *arguments: Any) -> Task:
        """See ``Workers``."""
        self._check_all()
        return super().submit_urgent(function, *arguments)
