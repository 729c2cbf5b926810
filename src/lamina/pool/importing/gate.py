"""Who may be at the pool's writer: many threads at a time, or one alone, and nobody any more once it is closed.

A thread that waits for bytes from elsewhere, perhaps for ever, is let out meanwhile. Ctrl-C may be raised anywhere in
the main thread the second time: so who is inside is a set, not a count, and the lock is entered by itself, which the
interpreter does in one step, and not through the condition, which takes it in several.
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

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Be out meanwhile. Raises ``LaminaError`` once the gate is closed."""
        self._gate._leave(self)
        yield
        self._gate._enter(self)


class Gate:
    """See the module."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside: set[Visit] = set()
        self._shut = False
        self._closed = False

    @contextlib.contextmanager
    def visit(self) -> Iterator[Visit]:
        """Be inside, with others. Raises ``LaminaError`` once the gate is closed."""
        visit = Visit(self)
        try:
            self._enter(visit)
            yield visit
        finally:
            self._leave(visit)

    @contextlib.contextmanager
    def shut(self, check: Callable[[], None]) -> Iterator[None]:
        """Be alone: wait until nobody is inside, and let nobody in. ``check`` is called while waiting."""
        try:
            self._shut = True
            while not self._waited(_LOOK_SECONDS):
                check()
            yield
        finally:
            self._shut = False
            with self._lock:
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more, and wait until nobody is inside."""
        self._closed = True
        while not self._waited(1.0):
            pass

    def _waited(self, seconds: float) -> bool:
        with self._lock:
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._inside, seconds)

    def _enter(self, visit: Visit) -> None:
        with self._lock:
            self._changed.wait_for(lambda: self._closed or not self._shut)
            if self._closed:
                raise LaminaError("the import has ended")
            self._inside.add(visit)

    def _leave(self, visit: Visit) -> None:
        with self._lock:
            self._inside.discard(visit)
            self._changed.notify_all()
