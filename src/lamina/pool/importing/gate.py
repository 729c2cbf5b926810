"""Who may be at the pool's writer: many threads at a time, or one alone, and nobody any more once it is closed.

A thread that waits for bytes from elsewhere, perhaps for ever, is let out meanwhile.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

from lamina.errors import LaminaError

_LOOK_SECONDS = 0.05


class Visit:
    """One thread's stay behind the gate."""

    def __init__(self, gate: "Gate") -> None:
        self._gate = gate
        self.inside = False

    def enter(self) -> None:
        """Go in. Raises ``LaminaError`` once the gate is closed."""
        self._gate._enter()
        self.inside = True

    def leave(self) -> None:
        """Go out, if inside."""
        if self.inside:
            self.inside = False
            self._gate._leave()

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Be out meanwhile."""
        self.leave()
        yield
        self.enter()


class Gate:
    """See the module."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._shut = False
        self._closed = False

    @contextlib.contextmanager
    def visit(self) -> Iterator[Visit]:
        """Be inside, with others."""
        visit = Visit(self)
        try:
            visit.enter()
            yield visit
        finally:
            visit.leave()

    @contextlib.contextmanager
    def shut(self, check: Callable[[], None]) -> Iterator[None]:
        """Be alone: wait until nobody is inside, and let nobody in. ``check`` is called while waiting."""
        with self._changed:
            self._shut = True
        try:
            while True:
                with self._changed:
                    if not self._inside or self._changed.wait_for(self._is_empty, _LOOK_SECONDS):
                        break
                check()
            yield
        finally:
            with self._changed:
                self._shut = False
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more, and wait until nobody is inside."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(self._is_empty)

    def _is_empty(self) -> bool:
        return not self._inside

    def _enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._shut)
            if self._closed:
                raise LaminaError("the import has ended")
            self._inside += 1

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()
