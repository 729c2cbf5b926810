"""Tree items in any order, given back sorted, in bounded memory: what does not fit is sorted into runs on disk."""

import contextlib
import heapq
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lamina.store.disk import translated

_HEAD = struct.Struct("<HI")
_OVERHEAD = 180
_READ = 1 << 18


class ItemSpool:
    """Collects (key, value) items; keys are distinct. ``add_many`` is safe from several threads."""

    def __init__(self, directory: Path, memory: int = 64 << 20) -> None:
        """``memory`` in bytes bounds what is held before a run is written to an unnamed file in ``directory``."""
        self._directory = directory
        self._memory = memory
        self._items: list[tuple[bytes, bytes]] = []
        self._held = 0
        self._runs: list[BinaryIO] = []
        self._lock = threading.Lock()

    def add(self, key: bytes, value: bytes) -> None:
        """Add one item."""
        with self._lock:
            self._items.append((key, value))
            self._held += len(key) + len(value) + _OVERHEAD
            if self._held > self._memory:
                self._spill()

    def add_many(self, items: list[tuple[bytes, bytes]]) -> None:
        """Add items."""
        with self._lock:
            self._items += items
            self._held += sum(len(key) + len(value) + _OVERHEAD for key, value in items)
            if self._held > self._memory:
                self._spill()

    def sorted(self) -> Iterator[tuple[bytes, bytes]]:
        """All items by key. Ends the spool."""
        self._items.sort()
        if not self._runs:
            yield from self._items
            return
        try:
            yield from heapq.merge(*(_read_run(run) for run in self._runs), self._items)
        except OSError as error:
            raise translated(error, f"cannot read back from '{self._directory}'") from error

    def close(self) -> None:
        """Release the files."""
        for run in self._runs:
            with contextlib.suppress(OSError):
                run.close()
        self._runs = []
        self._items = []

    def _spill(self) -> None:
        self._items.sort()
        try:
            run: BinaryIO = tempfile.TemporaryFile(dir=self._directory, buffering=_READ)  # type: ignore[assignment]  # noqa: SIM115
            self._runs.append(run)
            for key, value in self._items:
                run.write(_HEAD.pack(len(key), len(value)) + key + value)
            run.flush()
        except OSError as error:
            raise translated(error, f"cannot write to '{self._directory}'") from error
        self._items = []
        self._held = 0


def _read_run(run: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    run.seek(0)
    while head := run.read(_HEAD.size):
        key_length, value_length = _HEAD.unpack(head)
        data = run.read(key_length + value_length)
        yield data[:key_length], data[key_length:]
