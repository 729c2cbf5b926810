"""Mending: a damaged place of an object is replaced from one that is whole, in the same pool.

Nothing is written over: the payload is appended to a pack anew and synced, and one transaction moves the row, if it
still says what was found damaged. What has no whole place left is marked ``DAMAGED``: it is not shared any more, and
whoever stores it anew heals it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from lamina.errors import DamagedData, NoSpace
from lamina.store.database import DAMAGED
from lamina.store.objects import ObjectStore
from lamina.store.record import PACK_TARGET, RECORD_HEADER, Kind, record_header
from lamina.store.verifying import Fault, Flaw, Place, Verifier, current, others
from lamina.store.writer import Encoded, StoreWriter

_MOST_PLACES = 3
_AT_ONCE = 16 << 20
"""Bytes of payloads that are moved in one transaction."""


@dataclass(frozen=True, slots=True)
class Move:
    """A payload to be appended anew, and the place that it replaces."""

    place: Place
    payload: bytes


class MendingWriter(StoreWriter):
    """A store writer that also replaces places of objects that are there."""

    def move(self, moves: Sequence[Move]) -> int:
        """Append the payloads and move the rows that still say what ``moves`` say; how many did."""
        with self._lock, self._failing():
            self._flush()
            given: dict[int, set[int]] = {}
            targets = [self._append_again(move, given.setdefault(move.place.location.id, set())) for move in moves]
            self._flusher.wait()
            batch = self._batch()
            for part in batch.parts:
                if part.size > self._durable[part.pack]:
                    part.appender.sync()
            with self._naming(batch.parts):
                return sum(self._replace(move.place, *target) for move, target in zip(moves, targets, strict=True))

    def flush(self) -> None:
        """Have everything durable and named."""
        with self._lock, self._failing():
            self._flush()

    def restore(self, item: Encoded, places: int) -> None:
        """Store an object that is marked as damaged, or not in the index, in so many places: its row moves there."""
        with self._lock:
            self._copies = self._node_copies = places
            self.append((item,))

    def _append_again(self, move: Move, given: set[int]) -> tuple[int, int]:
        """(pack, offset) of the payload in a pack that holds no other copy of the object; ``given``: those just now."""
        location = move.place.location
        elsewhere = given | {place.location.pack for place in others(self._database, move.place)}
        if move.place.lonely:
            elsewhere.add(location.pack)
        slot = next(slot for slot in range(2 * _MOST_PLACES) if self._fits(slot, len(move.payload), elsewhere))
        pack = self._open[slot]
        checksum = location.checksum % (1 << 64)
        head = record_header(location.kind, location.codec, location.stored, location.decoded, checksum, location.key)
        offset = pack.size + RECORD_HEADER
        pack.add(head, move.payload)
        given.add(pack.number)
        return pack.number, offset

    def _fits(self, slot: int, length: int, elsewhere: set[int]) -> bool:
        pack = self._open.get(slot)
        if pack is None or pack.size + length > PACK_TARGET:
            self._next_pack(slot)
        return self._open[slot].number not in elsewhere

    def _replace(self, place: Place, pack: int, offset: int) -> bool:
        location = place.location
        if place.lonely:
            rows = self._database.query("SELECT 1 FROM object WHERE id = ?", (location.id,))
            taken = self._database.query("SELECT 1 FROM copy WHERE object = ?", (location.id,))
            if rows and not taken:
                self._database.execute(
                    "INSERT INTO copy(object, number, pack, offset) VALUES (?, 1, ?, ?)", (location.id, pack, offset)
                )
            return bool(rows) and not taken
        where = (location.id, location.pack, location.offset)
        if place.number:
            changed = self._database.execute_many(
                "UPDATE copy SET pack = ?, offset = ? WHERE object = ? AND pack = ? AND offset = ? AND number = ?",
                [(pack, offset, *where, place.number)],
            )
        else:
            changed = self._database.execute_many(
                "UPDATE object SET pack = ?, offset = ?, condemned = nullif(condemned, ?) "
                "WHERE id = ? AND pack = ? AND offset = ?",
                [(pack, offset, DAMAGED, *where)],
            )
        return changed > 0


@dataclass(slots=True)
class Mended:
    """What became of flaws. ``unreadable`` and ``checksum`` count places; ``repaired`` is bytes of payloads."""

    unreadable: int = 0
    checksum: int = 0
    moved: int = 0
    repaired: int = 0
    unmended: int = 0
    """Places that stay damaged for lack of space, though there is a whole one."""
    lost: dict[int, Place] = field(default_factory=dict)
    """First places, by row, of objects that have no whole one."""


class Mender:
    """Mends flaws: in the thread that owns the database."""

    def __init__(
        self,
        store: ObjectStore,
        verifier: Verifier,
        writer: Callable[[], AbstractContextManager[MendingWriter]],
    ) -> None:
        """``writer`` opens a writer; it is held only while something is mended, since its lease holds back gc."""
        self._store = store
        self._verifier = verifier
        self._writer = writer

    def mend(self, flaws: Sequence[Flaw]) -> Mended:
        """Replace damaged places; mark what has no whole one. Rows that moved or went meanwhile are looked up again."""
        result = Mended()
        for some in self._moves(flaws, result):
            try:
                with self._writer() as writer:
                    result.moved += writer.move(some)
                result.repaired += sum(len(move.payload) for move in some)
            except NoSpace:
                result.unmended += len(some)
        with self._store.database.transaction():
            self._store.database.execute_many(
                "UPDATE object SET condemned = ? WHERE id = ? AND pack = ? AND offset = ? AND condemned IS NULL",
                [
                    (DAMAGED, place.location.id, place.location.pack, place.location.offset)
                    for place in result.lost.values()
                ],
            )
        return result

    def absolve(self, places: Sequence[Place]) -> None:
        """Take the marks from objects whose first places were found whole."""
        with self._store.database.transaction():
            self._store.database.execute_many(
                "UPDATE object SET condemned = NULL WHERE id = ? AND pack = ? AND offset = ? AND condemned = ?",
                [(place.location.id, place.location.pack, place.location.offset, DAMAGED) for place in places],
            )

    def _moves(self, flaws: Sequence[Flaw], result: Mended) -> Iterator[list[Move]]:
        some: list[Move] = []
        size = 0
        for flaw in flaws:
            confirmed = self._confirmed(flaw)
            if confirmed is None:
                continue
            result.unreadable += confirmed.fault is Fault.UNREADABLE
            result.checksum += confirmed.fault in (Fault.CHECKSUM, Fault.HEADER)
            if (confirmed.place.condemned or 0) > 0:
                continue  # nothing reaches it: gc takes it away
            payload = self._whole(confirmed)
            if payload is None:
                self._lose(confirmed.place, result)
                continue
            some.append(Move(confirmed.place, payload))
            size += len(payload)
            if size >= _AT_ONCE:
                yield some
                some, size = [], 0
        if some:
            yield some

    def _confirmed(self, flaw: Flaw) -> Flaw | None:
        """The flaw as it is now: others may have moved the object, or taken it away, since it was read."""
        now = current(self._store.database, flaw.place)
        while now is not None:
            again = self._verifier.place(now, header_lost=flaw.fault is Fault.HEADER and self._header_lost(now))
            after = current(self._store.database, now)
            if after is not None and _same_place(after, now):
                return again
            now = after
        return None

    def _header_lost(self, place: Place) -> bool:
        return self._verifier.header(place.location.pack) is not None

    def _whole(self, flaw: Flaw) -> bytes | None:
        """The payload from a place that is whole."""
        own = [flaw.place] if flaw.fault in (Fault.HEADER, Fault.LONELY) else []
        for place in own + others(self._store.database, flaw.place):
            try:
                return self._verifier.payload(place)
            except DamagedData:
                continue
        return None

    def _lose(self, place: Place, result: Mended) -> None:
        first = current(self._store.database, replace(place, number=0))
        if first is not None:
            result.lost[first.location.id] = first


def _same_place(one: Place, other: Place) -> bool:
    return (one.location.pack, one.location.offset) == (other.location.pack, other.location.offset)


def is_names(place: Place) -> bool:
    """Whether the object is a name record."""
    return place.location.kind == Kind.NAMES


class PickingWriter(MendingWriter):
    """A writer for an importer that runs once more over its source: it takes what is damaged and nothing else."""

    def pick(self, wanted: Mapping[bytes, int]) -> None:
        """Say which objects are wanted, by key, and in how many places each is to lie; before anything is put."""
        self._wanted_places = dict(wanted)
        self._picked: set[bytes] = set()

    def claim(self, keys: Sequence[bytes]) -> set[bytes]:
        """See ``StoreWriter``."""
        with self._known:
            fresh = {key for key in keys if key in self._wanted_places and key not in self._picked}
            self._picked |= fresh
            return fresh

    def append(self, objects: Sequence[Encoded]) -> None:
        """See ``StoreWriter``."""
        for item in objects:
            with self._lock:
                self._copies = self._node_copies = self._wanted_places[item.key]
                super().append((item,))
