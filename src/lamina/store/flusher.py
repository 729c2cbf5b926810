"""Making what was appended durable and named, in order, in a thread of its own: a pack takes long to sync."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from lamina.errors import LaminaError
from lamina.store.backend import Appender

_MOST_BATCHES = 3

Row = tuple[bytes, int, int, int, int, int, int, int]
"""The columns of an index row after its number: key, pack, offset, stored, decoded, kind, codec, checksum."""

CopyRow = tuple[bytes, int, int, int]
"""(key, number, pack, offset) of a further copy of an object."""


@dataclass(frozen=True, slots=True)
class Part:
    """A pack to make durable up to ``size`` bytes; ``seal``: nothing more comes."""

    appender: Appender
    pack: int
    size: int
    seal: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Objects that were appended to packs and are not yet named."""

    parts: list[Part]
    rows: list[Row] = field(default_factory=list)
    copies: list[CopyRow] = field(default_factory=list)


class Flusher:
    """Makes batches durable in order, in a thread of its own. A pack takes long to sync."""

    def __init__(self, write: Callable[[Batch], None]) -> None:
        self._write = write
        self._batches: list[Batch] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.failed: LaminaError | None = None

    def put(self, batch: Batch) -> None:
        """Queue a batch; waits while two are in hand, which bounds what is not yet on disk."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="flush", daemon=True)
                self._thread.start()
            while len(self._batches) >= _MOST_BATCHES and self.failed is None:
                self._changed.wait()
            self._batches.append(batch)
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when all batches are durable. Raises the error of the first that failed."""
        with self._changed:
            while self._batches:
                self._changed.wait()
        if self.failed is not None:
            raise self.failed

    def close(self, *, drop: bool = False) -> None:
        """Finish what is queued (after a failure, or if told: drop it) and end the thread."""
        with self._changed:
            if drop and self.failed is None:
                self.failed = LaminaError("what was written is taken back")
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._batches and not self._closed:
                    self._changed.wait()
                if not self._batches:
                    return
                batch = self._batches[0]
            try:
                if self.failed is None:
                    self._write(batch)
            except LaminaError as error:
                self.failed = error
            except BaseException as error:
                self.failed = LaminaError(f"writing into the pool failed: {type(error).__name__} {error}".strip())
            finally:
                for part in batch.parts:
                    if part.seal:
                        part.appender.close()
                with self._changed:
                    self._batches.pop(0)
                    self._changed.notify_all()
