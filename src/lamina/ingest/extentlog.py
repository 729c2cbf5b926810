"""The extents of a layer's tar while it is being taken in: compact, in order, beyond some megabytes on disk.

What comes first is known first: where a member's bytes lie in the tar. Which chunk they are in is known at once by
number, and by key only when the chunk is stored; so records hold numbers, and a table has the keys.
"""

import contextlib
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lamina.fs.types import Extent
from lamina.store.disk import translated

_RECORD = struct.Struct("<QIIQ")
"""Offset in the tar, length, offset in the chunk, number of the chunk."""
_KEY = 32
_MEMORY = 8 << 20
"""Bytes of records held before they are written to a file: 350,000 of them, what an image of 100,000 files has."""
_READ = _RECORD.size << 12


class ExtentLog:
    """Extents in ascending order, added by one thread. Chunks may be named from any thread."""

    def __init__(self, directory: Path, memory: int = _MEMORY) -> None:
        """What exceeds ``memory`` bytes goes to an unnamed file in ``directory``."""
        self.size = 0
        """Bytes of the tar so far, holes included; set by whoever adds."""
        self._directory = directory
        self._memory = memory
        self._records = bytearray()
        self._file: BinaryIO | None = None
        self._spilled = 0
        self._keys = bytearray()
        self._lock = threading.Lock()
        self._last: tuple[int, int, int, int] | None = None
        """(offset, length, offset in the chunk, number) of the extent that may still grow."""

    def chunk(self) -> int:
        """The number of a chunk whose key is told later."""
        with self._lock:
            number = len(self._keys) // _KEY
            self._keys += bytes(_KEY)
            return number

    def name(self, number: int, key: bytes) -> None:
        """Tell the key of a chunk."""
        with self._lock:
            self._keys[number * _KEY : (number + 1) * _KEY] = key

    def add(self, offset: int, length: int, chunk_offset: int, number: int) -> None:
        """Add an extent; one that goes on where the one before ended becomes a part of it."""
        last = self._last
        if last is not None:
            before, size, start, chunk = last
            if chunk == number and before + size == offset and start + size == chunk_offset:
                self._last = (before, size + length, start, chunk)
                return
            self._records += _RECORD.pack(*last)
            if len(self._records) >= self._memory:
                self._spill()
        self._last = (offset, length, chunk_offset, number)

    def extents(self) -> Iterator[Extent]:
        """All extents, ascending; once all chunks have been named and nothing is added any more. Any thread."""
        keys = bytes(self._keys)
        for records in self._all():
            for offset, length, chunk_offset, number in _RECORD.iter_unpack(records):
                yield Extent(offset, length, keys[number * _KEY : (number + 1) * _KEY], chunk_offset)

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        self._records = bytearray()

    def _all(self) -> Iterator[bytes | bytearray]:
        position = 0
        while position < self._spilled:
            assert self._file is not None
            try:
                # By position: several may read at a time.
                with self._lock:
                    self._file.seek(position)
                    some = self._file.read(min(_READ, self._spilled - position))
            except OSError as error:
                raise translated(error, f"cannot read back from '{self._directory}'") from error
            position += len(some)
            yield some
        yield self._records
        if self._last is not None:
            yield _RECORD.pack(*self._last)

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
            assert self._file is not None
            self._file.seek(self._spilled)
            left = memoryview(self._records)
            while left:
                written = self._file.write(left)
                left = left[written:]
        except OSError as error:
            raise translated(error, f"cannot write to '{self._directory}'") from error
        self._spilled += len(self._records)
        self._records = bytearray()
