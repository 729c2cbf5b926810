"""Taking the objects of a stream in: each is proved by its checksum and its key before it is kept.

The thread that reads the stream hands groups of objects to others, which decode and hash them, and appends them in the
order in which they came: what is in the pool is then always a beginning of what was sent.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import xxhash
import zstandard
from blake3 import blake3

from lamina.errors import DamagedData, StreamError
from lamina.ingest.tasks import Task, Workers
from lamina.replication.stream import NEWER, Piece
from lamina.store.codec import MAX_OBJECT, Codec, Coder
from lamina.store.record import Kind, Record, parse_record_header
from lamina.store.writer import Encoded, StoreWriter

_GROUP_BYTES = 1 << 20
_GROUP_OBJECTS = 256
_IN_FLIGHT = 24 << 20
"""Bytes of objects that wait to be proved or appended."""
_EACH = 1 << 10
"""Bytes that an object takes in memory besides its payload: a million of one byte each are not small."""
_WINDOW = 1 << 20
"""Largest window of a zstd frame (``store/codec.py``)."""
_KINDS = frozenset([Kind.CHUNK, Kind.NODE, Kind.ROOT])
_CODECS = frozenset(int(codec) for codec in Codec)


@dataclass(frozen=True, slots=True)
class _Arrived:
    record: Record
    payload: bytes
    offset: int
    """Where its frame begins in the stream."""


@dataclass(slots=True)
class _Group:
    size: int
    count: int
    last: bytes
    task: Task | None

    @property
    def weight(self) -> int:
        """Bytes that it takes in memory, about."""
        return self.size + self.count * _EACH


class Proof:
    """Proves objects. Safe to use from several threads."""

    def __init__(self) -> None:
        self._coder = Coder()

    def prove(self, arrived: list[_Arrived]) -> list[Encoded]:
        """The objects as they are kept. Raises ``StreamError`` for the first that is not what its key says."""
        return [self._prove(one) for one in arrived]

    def _prove(self, arrived: _Arrived) -> Encoded:
        record, payload = arrived.record, arrived.payload
        try:
            if xxhash.xxh3_64_intdigest(payload) != record.checksum:
                raise DamagedData("its payload does not match its checksum")
            if record.codec == Codec.ZSTD:
                _check_frame(payload)
            data = self._coder.decode(record.codec, payload, record.decoded)
            if blake3(data).digest() != record.key:
                raise DamagedData("it does not match its key")
        except DamagedData as error:
            raise StreamError(
                f"checksum mismatch: the object {record.key.hex()} at byte {arrived.offset} is damaged: {error}"
            ) from None
        return Encoded(record.key, record.kind, record.codec, record.decoded, record.checksum, payload)


def _check_frame(payload: bytes) -> None:
    """Raise ``DamagedData`` unless a zstd frame is as packs hold them."""
    try:
        found = zstandard.get_frame_parameters(payload)
    except zstandard.ZstdError as error:
        raise DamagedData(f"its payload is no zstd frame: {error}") from None
    if found.window_size > _WINDOW or found.dict_id or not found.has_checksum:
        raise DamagedData("its payload is a zstd frame of another form than packs hold")


def arrived_object(piece: Piece) -> _Arrived:
    """The object of a frame, its header checked. Raises ``StreamError``."""
    try:
        record = parse_record_header(piece.payload, 0)
    except DamagedData as error:
        raise StreamError(f"invalid stream: the object at byte {piece.offset}: {error}") from None
    if record.codec not in _CODECS:
        raise StreamError(
            f"the stream holds an object of codec {record.codec} at byte {piece.offset}, which this lamina lacks; "
            f"{NEWER}"
        )
    sizes = (record.stored, record.decoded)
    if record.kind not in _KINDS or not 0 < min(sizes) <= max(sizes) <= MAX_OBJECT:
        raise StreamError(f"invalid stream: the object at byte {piece.offset} is of a kind or size that none can have")
    if len(piece.body) != record.stored:
        raise StreamError(f"invalid stream: the object at byte {piece.offset} does not fill its frame")
    return _Arrived(record, piece.body, piece.offset)


class Intaking:
    """The objects of one snapshot, on their way into the pool. For the thread that reads the stream."""

    def __init__(self, writer: StoreWriter | None, workers: Workers, check: Callable[[], None]) -> None:
        """``writer`` None: they are proved and dropped. ``check`` is called often and may raise."""
        self._writer = writer
        self._workers = workers
        self._check = check
        self._proof = Proof()
        self._some: list[_Arrived] = []
        self._size = 0
        self._groups: deque[_Group] = deque()
        self._in_flight = 0
        self.objects = 0
        self.bytes = 0
        self.kept = 0
        self.kept_bytes = 0
        """What is in the pool, from the beginning; ``last`` is the key of the last of these objects."""
        self.last: bytes | None = None

    def add(self, piece: Piece) -> None:
        """Take the next object. Raises ``StreamError``, also for an earlier one."""
        arrived = arrived_object(piece)
        self.objects += 1
        self.bytes += arrived.record.stored
        self._some.append(arrived)
        self._size += arrived.record.stored
        if self._size >= _GROUP_BYTES or len(self._some) >= _GROUP_OBJECTS:
            self._hand_out()

    def finish(self) -> None:
        """Have all objects in the pool, durable and in the index."""
        self._hand_out()
        self.drain()
        if self._writer is not None:
            self._writer.flush()

    def drain(self) -> None:
        """Have all groups that were handed out in the pool; ``last`` is then the last of them."""
        while self._groups:
            self._append()

    def settle(self) -> None:
        """Take all that comes before the first object that is damaged: nothing is raised for it."""
        self._check = _nothing
        with contextlib.suppress(StreamError):
            self._hand_out()
            self.drain()

    def _hand_out(self) -> None:
        if not self._some:
            return
        some, size = self._some, self._size
        self._some, self._size = [], 0
        self._check()
        last = some[-1].record.key
        count = len(some)
        task: Task | None = None
        wanted = some
        if self._writer is not None:
            fresh = self._writer.claim([one.record.key for one in some])
            wanted = [one for one in {one.record.key: one for one in some}.values() if one.record.key in fresh]
        if wanted:
            task = self._workers.submit_urgent(self._proof.prove, wanted)
        self._groups.append(group := _Group(size, count, last, task))
        self._in_flight += group.weight
        while self._in_flight > _IN_FLIGHT:
            self._append()

    def _append(self) -> None:
        """Take the oldest group, proved, into the pool."""
        group = self._groups.popleft()
        self._in_flight -= group.weight
        if group.task is not None:
            try:
                objects: list[Encoded] = group.task.result()
            except BaseException:
                # What comes after it must not be taken for all that came.
                self._groups.clear()
                self._some, self._size = [], 0
                raise
            if self._writer is not None:
                self._writer.append(objects)
        self.kept += group.count
        self.kept_bytes += group.size
        self.last = group.last


def _nothing() -> None:
    pass
