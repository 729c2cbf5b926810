"""What the two sides of a sync say to each other, as bytes: a greeting, frames, and in the middle a stream.

``docs/sync.md`` specifies all of it. Frames have the form of those of a stream (``replication/stream.py``); the
numbers of both sides count on their own.
"""

import contextlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import IO, Any

import xxhash

from lamina.errors import ConnectionLost, FarError, StreamError
from lamina.pool.names import printable
from lamina.replication.messages import _Fields as Fields
from lamina.replication.stream import CHECK, FRAME, MAX_PAYLOAD, OVERHEAD, Frame, Piece, packed

__all__ = ["Channel", "Fields", "Said", "Say", "packed"]

MAGIC = b"LAMINASY"
VERSIONS = (1, 1)
"""The lowest and the highest version of the protocol that this lamina speaks."""
GREETING = struct.Struct("<8sHH")
LEAST_BUFFER = 1 << 18
"""Bytes that the buffer of what is read from has at least."""
MOST_TALK = 32 << 20
"""Bytes of names and figures that the other side may say. All of it is held in memory: about 100,000 snapshots that
are to come, or 400,000 that are there."""
_MOST_UNHEARD = 1000
"""Frames that may lie before the one that says why nobody reads any more."""
_SHOWN = 120
"""Bytes of what was said instead of a greeting that are shown."""


class Say(IntEnum):
    """What a frame is. The first four are those of streams."""

    BEGIN = Frame.BEGIN
    DATASET = Frame.DATASET
    SNAPSHOT = Frame.SNAPSHOT
    KEPT = Frame.KEPT
    REQUEST = 64
    INVENTORY = 65
    HERE = 66
    ROOTS = 67
    QUESTION = 68
    GONE = 69
    RENAMED = 70
    CANDIDATES = 71
    VERDICT = 72
    ANSWER = 73
    PART = 74
    GO = 75
    RESULT = 76
    ERROR = 77


_COUNTED = frozenset([Say.CANDIDATES, Say.ANSWER])
"""Frames of which there are as many as was said before."""


@dataclass(frozen=True, slots=True)
class Said:
    """A frame that was read."""

    kind: Say
    payload: bytes
    offset: int
    number: int

    @property
    def piece(self) -> Piece:
        """As the parsers of the frames of streams take it."""
        return Piece(Frame.BEGIN, self.payload, self.offset, self.number)

    def fields(self) -> Fields:
        """The members of a frame that holds JSON. Raises ``StreamError``."""
        return Fields(self.piece)


class Channel:
    """The two pipes to the other side. ``sent`` and ``received`` count bytes, ``rounds`` how often it was waited for.

    ``where`` is what messages call the other side; empty: it is on this machine.
    """

    def __init__(self, reader: IO[bytes], writer: IO[bytes], where: str = "") -> None:
        self._reader = reader
        self._writer = writer
        self.where = where
        self.sent = self.received = self.rounds = 0
        self.greeted = self.ended = self.streaming = False
        self._told = False
        """Whether something was said since the other side was last waited for."""
        self._number = self._awaited = self._talk = 0

    # -- saying ---------------------------------------------------------------------------------------------------

    def greet(self) -> None:
        """Say which versions are spoken here."""
        self.write(GREETING.pack(MAGIC, *VERSIONS))

    def say(self, kind: Say, payload: bytes | Mapping[str, Any]) -> None:
        """Say one thing; ``flush`` before the other side is waited for."""
        data = payload if isinstance(payload, bytes) else packed(dict(payload))
        if len(data) > MAX_PAYLOAD:
            raise StreamError(f"cannot sync: what is to be said of one dataset or snapshot takes {len(data)} bytes")
        head = FRAME.pack(kind, len(data), self._number)
        check = xxhash.xxh3_64(head)
        check.update(data)
        self._number += 1
        self.write(b"".join((head, CHECK.pack(check.intdigest()), data)))

    def write(self, data: bytes, /) -> None:
        """Say plain bytes: those of a stream. Raises ``ConnectionLost``, or what the other side refused with."""
        try:
            self._writer.write(data)
        except (OSError, ValueError):
            raise self._broken() from None
        self.sent += len(data)
        self._told = True

    def flush(self) -> None:
        """Have all of it under way."""
        try:
            self._writer.flush()
        except (OSError, ValueError):
            raise self._broken() from None

    def fail(self, message: str, *, again: bool = False) -> None:
        """Say why it ends here; no matter whether anybody hears it. In the middle of a stream it just ends."""
        if self.streaming:
            return
        with contextlib.suppress(ConnectionLost, FarError, StreamError):
            self.say(Say.ERROR, {"message": message[: MAX_PAYLOAD // 8], "again": again, "lost": self.ended})
            self.flush()

    def _broken(self) -> Exception:
        """Nobody reads any more: the other side may have said why."""
        try:
            for _ in range(_MOST_UNHEARD):
                self.hear(*Say)
        except (FarError, ConnectionLost, StreamError) as error:
            return error
        return self.lost()

    # -- hearing --------------------------------------------------------------------------------------------------

    def check_greeting(self) -> None:
        """Hear which versions the other side speaks; ``hear`` does it first. Raises as that does."""
        self._turn()
        seen = self._seen()
        if seen[: len(MAGIC)] != MAGIC[: len(seen)]:
            said = printable(seen.split(b"\n")[0][:_SHOWN].decode("utf-8", "replace")).strip()
            raise StreamError("the other side is no lamina that syncs" + (f"; it said '{said}'" if said else ""))
        data = self._read(GREETING.size)
        if len(data) < GREETING.size:
            raise self.lost()
        self.greeted = True
        _, low, high = GREETING.unpack(data)
        if not (low <= VERSIONS[1] and high >= VERSIONS[0]):
            raise StreamError(
                f"the other side syncs in versions {low} to {high}, this lamina in {VERSIONS[0]} to {VERSIONS[1]}; "
                "use the same lamina on both"
            )

    def hear(self, *wanted: Say) -> Said:
        """The next thing that the other side says, one of ``wanted``.

        Raises ``FarError`` where it says that it failed, ``StreamError`` where it makes no sense, ``ConnectionLost``.
        """
        if not self.greeted:
            self.check_greeting()
        at = self.received
        head = self._read(OVERHEAD)
        if len(head) < OVERHEAD:
            raise self.lost()
        kind, length, number = FRAME.unpack_from(head)
        if length > MAX_PAYLOAD or number != self._awaited or head[1:4] != b"\0\0\0":
            raise StreamError(f"what the other side says makes no sense: at byte {at} is no frame {self._awaited}")
        if kind not in _COUNTED:
            self._talk += length
        if self._talk > MOST_TALK:
            raise StreamError(
                f"the other side says more than {MOST_TALK >> 20} MiB of names; sync fewer datasets at once"
            )
        payload = self._read(length)
        if len(payload) < length:
            raise self.lost()
        check = xxhash.xxh3_64(head[: FRAME.size])
        check.update(payload)
        if check.intdigest() != CHECK.unpack_from(head, FRAME.size)[0]:
            raise StreamError(f"checksum mismatch: what the other side said at byte {at} is not what has come")
        self._awaited += 1
        if kind == Say.ERROR:
            said = Said(Say.ERROR, payload, at, number).piece.json()
            if said.get("lost") is True:
                raise self.lost()
            raise FarError(_message(said.get("message")), again=said.get("again") is True)
        if kind not in wanted:
            raise StreamError(f"what the other side says makes no sense: at byte {at} comes a frame of type {kind}")
        return Said(Say(kind), payload, at, number)

    def readable(self) -> bool:
        """Whether it is a source of bytes: those of a stream."""
        return True

    def readinto1(self, view: Any) -> int:
        """Some bytes of a stream."""
        self._turn()
        # Asked for more than its buffer, a BufferedReader waits for the pipe although it has some bytes.
        count: int = self._reader.readinto1(memoryview(view)[:LEAST_BUFFER])  # type: ignore[attr-defined]
        self.received += count
        self.ended = self.ended or not count
        return count

    readinto = readinto1

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes of a stream."""
        return self._read(size)

    def lost(self) -> ConnectionLost:
        """The error for an end that should not be."""
        return ConnectionLost(f"the connection ended after {self.received} bytes")

    def _read(self, size: int) -> bytes:
        self._turn()
        try:
            data = self._reader.read(size)
        except (OSError, ValueError):
            raise self.lost() from None
        self.received += len(data)
        self.ended = self.ended or len(data) < size
        return data

    def _seen(self) -> bytes:
        """The first that comes, which is not taken yet."""
        with contextlib.suppress(OSError, ValueError):
            return bytes(self._reader.peek(1)[:_SHOWN])  # type: ignore[attr-defined]
        return b""

    def _turn(self) -> None:
        if self._told:
            self._told = False
            self.rounds += 1


def _message(said: object) -> str:
    text = said if isinstance(said, str) else ""
    return "\n".join(printable(line) for line in text[:65536].split("\n")) or "it failed without a word"
