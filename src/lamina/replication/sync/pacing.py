"""Writing no faster than a rate."""

import time

from lamina.replication.stream import Sink

_LEAST_WAIT = 0.01
_PIECE = 64 << 10
"""Bytes that are written at once, so that a slow rate is an even one."""


class Paced:
    """A sink that takes at most ``rate`` bytes a second, over the time since it was made."""

    def __init__(self, sink: Sink, rate: int) -> None:
        self._sink = sink
        self._rate = rate
        self._began = time.monotonic()
        self._written = 0

    def write(self, data: bytes, /) -> object:
        """Write, and wait as long as that should have taken."""
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            self._sink.write(piece)
            self._written += len(piece)
            ahead = self._written / self._rate - (time.monotonic() - self._began)
            if ahead > _LEAST_WAIT:
                time.sleep(ahead)
        return len(data)
