"""Follows the frames of a zstd stream, so that one that is cut short or goes on with something else is known as such.

The library gives what it could decompress and no error where the input ends inside a frame. Format: RFC 8878, 3.1.
"""

from lamina.errors import OciError

MAGIC = b"\x28\xb5\x2f\xfd"
MAX_WINDOW = 1 << 27
"""Bytes of memory that a frame may ask for: what zstd's own highest level takes."""

_SKIPPABLE = 0x184D2A50
_RLE, _RESERVED = 1, 3
_START, _SKIP_SIZE, _DESCRIPTOR, _BLOCK = range(4)
_NEEDED = {_START: 4, _SKIP_SIZE: 4, _DESCRIPTOR: 1, _BLOCK: 3}


class FrameWalker:
    """Is shown a stream's bytes as they pass; reads headers and jumps over the rest."""

    def __init__(self, what: str) -> None:
        """``what`` names the stream in the ``OciError`` it may raise."""
        self._what = what
        self._state = _START
        self._needed = _NEEDED[_START]
        self._header = b""
        self._skip = 0
        self._checksum = 0
        self._lost = False
        """Whether something came that is no frame: it may be that one before was damaged, and ended elsewhere."""

    @property
    def between_frames(self) -> bool:
        """Whether a frame would begin with the last bytes that were shown, or with some that are none."""
        return self._lost or (self._state == _START and not self._skip)

    def feed(self, data: memoryview) -> None:
        """The bytes that come next."""
        position = 0
        while position < len(data) and not self._lost:
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
                continue
            step = min(self._needed - len(self._header), len(data) - position)
            self._header += data[position : position + step]
            position += step
            if len(self._header) == self._needed:
                header, self._header = self._header, b""
                self._take(header)

    def finish(self) -> None:
        """The stream ended, and was decompressed. Raises ``OciError`` unless that was between two frames."""
        if self._lost:
            raise OciError(f"{self._what} goes on with something else after its zstd data")
        if self._state != _START or self._header or self._skip:
            raise OciError(f"{self._what} is cut short: its last zstd frame is not whole")

    def _take(self, header: bytes) -> None:
        number = int.from_bytes(header, "little")
        if self._state == _START:
            if header == MAGIC:
                self._go(_DESCRIPTOR)
            elif number & ~0xF == _SKIPPABLE:
                self._go(_SKIP_SIZE)
            else:
                self._lost = True
        elif self._state == _SKIP_SIZE:
            self._skip = number
            self._go(_START)
        elif self._state == _DESCRIPTOR:
            single, dictionary = number >> 5 & 1, number & 3
            content_size = (single, 2, 4, 8)[number >> 6]
            self._checksum = 4 if number & 4 else 0
            self._skip = (1 - single) + (0, 1, 2, 4)[dictionary] + content_size
            self._go(_BLOCK)
        else:
            last, kind, size = number & 1, number >> 1 & 3, number >> 3
            if kind == _RESERVED:
                self._lost = True
            self._skip = 1 if kind == _RLE else size
            if last:
                self._skip += self._checksum
                self._go(_START)

    def _go(self, state: int) -> None:
        self._state = state
        self._needed = _NEEDED[state]
