"""Ctrl-C during an import, taken where it can be undone.

Python raises ``KeyboardInterrupt`` between any two steps of the main thread: also after a lock was taken and before
the block that gives it back was entered, and then every other thread waits for ever; or with a transaction begun that
nobody ends before the import is taken back. So the signal is only noted, and raised where work is handed out or waited
for.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from lamina.ingest.tasks import Task, Workers


class Interrupts:
    """Notes SIGINT while it is entered, if Python's own handler is in charge. A second one is raised at once."""

    def __init__(self) -> None:
        self._pending = False
        self._before: Any = None

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if one was noted."""
        if self._pending:
            raise KeyboardInterrupt

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
        if self._pending:
            raise KeyboardInterrupt
        self._pending = True


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
