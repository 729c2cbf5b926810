"""Reading a layer ahead: one thread fetches, verifies and decompresses it, another cuts and stores what comes of it."""

import io
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK = 1 << 20
_MOST = 6
"""Blocks that wait, at most: as much memory as a layer takes more."""


class ReadAhead(io.RawIOBase):
    """The bytes of ``source``, read by a thread of its own; what it raises is raised here, in its place.

    To be closed, which waits for the thread: whoever gives up closes what ``source`` reads from before.
    """

    def __init__(self, source: io.BufferedIOBase) -> None:
        super().__init__()
        self._source = source
        self._changed = threading.Condition()
        """Guards what follows."""
        self._blocks: deque[memoryview] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._given_up = False
        self._thread = threading.Thread(target=self._read_all, name="layer-ahead", daemon=True)
        self._thread.start()

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """See ``io.RawIOBase``. Raises what reading the source raised."""
        view = memoryview(buffer).cast("B")
        with self._changed:
            while not self._blocks and not self._ended:
                self._changed.wait()
            if not self._blocks:
                if self._error is not None:
                    raise self._error
                return 0
            block = self._blocks[0]
        # No lock is held: this thread alone takes blocks away.
        count = min(len(view), len(block))
        view[:count] = block[:count]
        with self._changed:
            if count < len(block):
                self._blocks[0] = block[count:]
            else:
                self._blocks.popleft()
                self._changed.notify_all()
        return count

    def close(self) -> None:
        """Have the thread end, and close the source."""
        if not self.closed:
            with self._changed:
                self._given_up = True
                self._changed.notify_all()
            self._thread.join()
            self._source.close()
        super().close()

    def _read_all(self) -> None:
        error: BaseException | None = None
        try:
            while self._read_one():
                pass
        except BaseException as raised:
            error = raised
        with self._changed:
            self._error = error
            self._ended = True
            self._changed.notify_all()

    def _read_one(self) -> bool:
        """Read a block and put it with the others once there is room; False at the end."""
        block = bytearray(_BLOCK)
        count = self._source.readinto(block)
        if not count:
            return False
        with self._changed:
            while len(self._blocks) >= _MOST and not self._given_up:
                self._changed.wait()
            self._blocks.append(memoryview(block)[:count])
            self._changed.notify_all()
            return not self._given_up
