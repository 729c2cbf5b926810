"""Blocks of bytes as a stream, for those who read."""

import io
from collections.abc import Generator
from typing import Any, BinaryIO

_READ = 1 << 20


def readable(blocks: Generator[bytes, None, None]) -> BinaryIO:
    """Blocks of bytes as a stream; closing it ends who makes them."""
    return io.BufferedReader(_Blocks(blocks), _READ)


class _Blocks(io.RawIOBase):
    def __init__(self, blocks: Generator[bytes, None, None]) -> None:
        self._blocks = blocks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = memoryview(block)
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._blocks.close()
