"""The stream format: a header, then frames that each carry their place in the stream and a checksum.

The header is 16 bytes: magic ``LAMINAZS``, format version (u32), flags (u32, none yet). A frame is a 24-byte header and
a payload; all numbers little-endian:

    type      u8    what it is (``Frame``); with bit 7, a reader that does not know it passes it by
    zero      3 B
    length    u32   payload length in bytes, at most 2 MiB
    sequence  u64   number of the frame in the stream, from 0
    check     u64   XXH3-64 of the 16 bytes before and the payload

The payload of an object is its record as it stands in a pack, header and encoded bytes; every other payload is JSON.
The last frame holds the BLAKE3-256 of every byte before it. ``docs/stream.md`` specifies all of it.
"""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import xxhash
from blake3 import blake3

from lamina.errors import StreamError
from lamina.store.record import RECORD_HEADER

MAGIC = b"LAMINAZS"
VERSION = 1
MAX_PAYLOAD = 2 << 20
HEADER = struct.Struct("<8sII")
FRAME = struct.Struct("<BxxxIQ")
CHECK = struct.Struct("<Q")
OVERHEAD = FRAME.size + CHECK.size
OPTIONAL = 0x80
"""Bit of the type: whoever does not know the frame loses nothing by passing it by."""
NEWER = "use a newer lamina"


class Frame(IntEnum):
    """What a frame is."""

    BEGIN = 1
    DATASET = 2
    SNAPSHOT = 3
    OBJECT = 4
    SNAPSHOT_END = 5
    END = 6
    KEPT = 7


_KNOWN = {int(kind): kind for kind in Frame}


class Source(Protocol):
    """A binary file to read from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


class Sink(Protocol):
    """A binary file to write to."""

    def write(self, data: bytes, /) -> object:
        """Take all of ``data``."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A frame that was read: its ``payload``, where it begins in the stream, and its number.

    ``body``: of an object, its encoded bytes; the payload is then the record's header alone. ``digest``: of frames that
    say one, the BLAKE3-256 of every byte before them.
    """

    kind: Frame
    payload: bytes
    offset: int
    number: int
    body: bytes = b""
    digest: str = ""

    def json(self) -> dict[str, Any]:
        """The payload of a frame that is not an object. Raises ``StreamError``."""
        try:
            value = json.loads(self.payload)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise StreamError(f"invalid stream: the frame at byte {self.offset} does not hold what it should")
        return value


def packed(value: dict[str, Any]) -> bytes:
    """The payload of a frame that is not an object."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class StreamWriter:
    """Writes a stream. ``position`` counts its bytes, ``frames`` its frames."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._hash = blake3()
        self.frames = 0
        self.position = 0
        self._put(HEADER.pack(MAGIC, VERSION, 0))

    def frame(self, kind: Frame, *parts: bytes | memoryview) -> None:
        """Write a frame whose payload is ``parts``. Raises ``StreamError`` where it would be too large."""
        length = sum(map(len, parts))
        if length > MAX_PAYLOAD:
            raise StreamError(f"cannot send: what is to be said of one dataset or snapshot takes {length} bytes")
        head = FRAME.pack(kind, length, self.frames)
        check = xxhash.xxh3_64(head)
        for part in parts:
            check.update(part)
        self.frames += 1
        self._put(b"".join((head, CHECK.pack(check.intdigest()), *parts)))

    def digest(self) -> str:
        """The BLAKE3-256 of every byte so far."""
        return self._hash.hexdigest()

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self._sink.write(data)
        self.position += len(data)


class StreamReader:
    """Reads a stream, each frame checked; the last one closes it. ``position`` counts its bytes."""

    def __init__(self, source: Source, progress: Callable[[int], None] | None = None) -> None:
        """Read the header. Raises ``StreamError``."""
        self._source = source
        self._hash = blake3()
        self._progress = progress
        self._number = 0
        self.position = 0
        foreign = "failed to read from stream: it is none of lamina's"
        data = self._take(HEADER.size, "failed to read from stream: it is empty", foreign)
        magic, version, flags = HEADER.unpack(data)
        if magic != MAGIC:
            raise StreamError(foreign)
        if version != VERSION or flags:
            raise StreamError(
                f"the stream is of version {version} with flags {flags:#x}, this lamina knows version {VERSION} "
                f"without any; {NEWER}"
            )
        self._hash.update(data)

    def pieces(self) -> Iterator[Piece]:
        """All frames, the last one included. Raises ``StreamError`` at the first that is not what was written."""
        while True:
            piece = self._piece()
            if piece is not None:
                yield piece
                if piece.kind is Frame.END:
                    return

    def check_end(self) -> None:
        """Raise ``StreamError`` where the source goes on behind the last frame."""
        if self._read(1):
            raise StreamError(f"invalid stream: it goes on after its end at byte {self.position}")

    def _piece(self) -> Piece | None:
        """The next frame; None for one that may be passed by."""
        at = self.position
        cut = f"incomplete stream: it ends at byte {at}, in frame {self._number}"
        head = self._take(OVERHEAD, cut, cut)
        kind, length, number = FRAME.unpack_from(head)
        (check,) = CHECK.unpack_from(head, FRAME.size)
        if length > MAX_PAYLOAD or number != self._number or head[1:4] != b"\0\0\0":
            raise StreamError(f"invalid stream: at byte {at} is no frame, or not frame {self._number}")
        # Apart, so that the encoded bytes of an object need not be copied out of it.
        split = min(length, RECORD_HEADER) if kind == Frame.OBJECT else length
        payload = self._take(split, cut, cut)
        body = self._take(length - split, cut, cut) if length > split else b""
        found = xxhash.xxh3_64(head[: FRAME.size])
        found.update(payload)
        found.update(body)
        if found.intdigest() != check:
            raise StreamError(f"checksum mismatch: frame {number} at byte {at} is not what was sent")
        known = _KNOWN.get(kind)
        if known is None and not kind & OPTIONAL:
            raise StreamError(f"the stream holds a frame of type {kind} at byte {at}, which this lamina lacks; {NEWER}")
        digest = self._hash.hexdigest() if known in (Frame.SNAPSHOT_END, Frame.END) else ""
        self._hash.update(head)
        self._hash.update(payload)
        self._hash.update(body)
        self._number += 1
        if self._progress is not None:
            self._progress(self.position)
        return Piece(known, payload, at, number, body, digest) if known is not None else None

    def _take(self, length: int, empty: str, cut: str) -> bytes:
        """Exactly ``length`` bytes, in a buffer that grows with what really comes."""
        part = self._read(min(length, 1 << 20)) if length else b""
        if len(part) == length:
            self.position += length
            return part
        parts = [part]
        missing = length - len(part)
        while missing:
            if not parts[-1]:
                raise StreamError(cut if any(parts) else empty)
            parts.append(self._read(min(missing, 1 << 20)))
            missing -= len(parts[-1])
        self.position += length
        return b"".join(parts)

    def _read(self, length: int) -> bytes:
        try:
            return self._source.read(length)
        except OSError as error:
            raise StreamError(f"cannot read the stream at byte {self.position}: {error.strerror}") from None
