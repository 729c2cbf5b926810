"""Moving what is left in a pack to others, so that the pack can go.

Payloads are copied as they are, once their checksum fits. The order is that of every write: appended, synced, then one
transaction moves the rows, each only if it still says that the object lies where it was read. A reader that comes with
the old place finds nothing there that checks, and looks again.
"""

import contextlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import xxhash

from lamina.errors import AccessDenied, DamagedData, LaminaError
from lamina.store.database import DAMAGED, Database
from lamina.store.objects import ObjectStore, signed
from lamina.store.packs import OpenPack, take_pack
from lamina.store.record import PACK_ALIGN, PACK_TARGET, RECORD_HEADER, pack_header, pack_name, record_header

_ROWS_AT_ONCE = 4096
_BYTES_AT_ONCE = 32 << 20


@dataclass(frozen=True, slots=True)
class _Record:
    """A payload in the pack that is emptied: of an object itself (``number`` 0), or of one of its copies."""

    object: int
    number: int
    offset: int
    key: bytes
    stored: int
    decoded: int
    kind: int
    codec: int
    checksum: int


@dataclass(frozen=True, slots=True)
class _Move:
    """Where a record was copied to."""

    record: _Record
    pack: int
    offset: int


class Compactor:
    """Empties packs. ``lease`` is the name of the lease it works under; for one thread."""

    def __init__(
        self, store: ObjectStore, lease: str, guid: int, doomed: Container[int] = (), pack_target: int = PACK_TARGET
    ) -> None:
        """``doomed``: packs that are to be emptied, so that nothing is moved there."""
        self._store = store
        self._database = store.database
        self._lease = lease
        self._guid = guid
        self._doomed = doomed
        self._target = pack_target
        self._open: dict[int, OpenPack] = {}
        """By the number of the copies that go there."""
        self._moves: list[_Move] = []
        self._uncertain = False
        self.moved_objects = 0
        self.moved_bytes = 0

    def empty(self, number: int) -> None:
        """Move all that rows name out of a pack that the lease holds. What is damaged stays where it is.

        Raises ``NoSpace``; what was moved by then is whole.
        """
        for some in _batches(_records(self._database, number)):
            elsewhere = _elsewhere(self._database, some, number)
            for record in some:
                self._copy(number, record, elsewhere.get(record.object, set()))
            self._flush(number)

    def close(self) -> None:
        """Let go of the packs written to; what was copied and not named is cut off."""
        opened, self._open = [*self._open.values()], {}
        sizes = dict(self._database.query("SELECT id, size FROM pack WHERE lease = ?", (self._lease,)))
        for pack in opened:
            pack.appender.close()
            size = sizes.get(pack.number)
            # Where rows may name it after all, when the catalogue is opened next, it stays.
            if size and pack.size > size and not self._uncertain:
                with contextlib.suppress(LaminaError):
                    self._store.backend.append_to(pack_name(pack.number), size).close()
        if opened:
            with self._database.transaction():
                self._database.execute_many(
                    "UPDATE pack SET lease = NULL WHERE id = ? AND lease = ?",
                    ((pack.number, self._lease) for pack in opened),
                )

    def _copy(self, source: int, record: _Record, elsewhere: set[int]) -> None:
        try:
            payload = self._store.backend.read(pack_name(source), record.offset, record.stored)
        except (DamagedData, AccessDenied):
            return
        if signed(xxhash.xxh3_64_intdigest(payload)) != record.checksum:
            return
        head = record_header(
            record.kind, record.codec, record.stored, record.decoded, record.checksum % (1 << 64), record.key
        )
        pack = self._pack(source, record, elsewhere)
        self._moves.append(_Move(record, pack.number, pack.size + RECORD_HEADER))
        pack.add(head, payload)

    def _pack(self, source: int, record: _Record, elsewhere: set[int]) -> OpenPack:
        """The pack that a record goes to: that of its copies' number, but never one that holds the object already."""
        number = record.number
        while True:
            pack = self._open.get(number)
            if pack is not None and pack.size + RECORD_HEADER + record.stored > self._target:
                self._flush(source, seal=number)
                pack = None
            if pack is None:
                pack = self._take(number)
            if pack.number not in elsewhere:
                return pack
            number += 1

    def _take(self, number: int) -> OpenPack:
        with self._database.transaction():
            pack, size = take_pack(
                self._database, self._store.backend, self._lease, largest=number == 0, but=self._doomed
            )
        opened = OpenPack(pack, size, self._store.backend.append_to(pack_name(pack), size))
        if not size:
            opened.add(pack_header(self._guid, pack))
        self._open[number] = opened
        return opened

    def _flush(self, source: int, seal: int | None = None) -> None:
        """Make durable what was copied and move its rows; with ``seal``, end that pack."""
        moves, self._moves = self._moves, []
        used = {move.pack for move in moves}
        packs = [(number, pack) for number, pack in self._open.items() if pack.number in used or number == seal]
        for number, pack in packs:
            if number == seal:
                pack.add(bytes(-pack.size % PACK_ALIGN))
            pack.drain()
            pack.appender.sync()
        objects = [(m.pack, m.offset, m.record.object, source, m.record.offset) for m in moves if not m.record.number]
        copies = [
            (m.pack, m.offset, m.record.object, m.record.number, source, m.record.offset)
            for m in moves
            if m.record.number
        ]
        try:
            moved = self._move_rows(objects, copies, packs, seal)
        except LaminaError as error:
            self._uncertain = error.uncertain
            raise
        if seal is not None:
            self._open.pop(seal).appender.close()
        self.moved_objects += max(moved, 0)
        self.moved_bytes += sum(move.record.stored for move in moves)

    def _move_rows(
        self,
        objects: Sequence[tuple[int, ...]],
        copies: Sequence[tuple[int, ...]],
        packs: Sequence[tuple[int, OpenPack]],
        seal: int | None,
    ) -> int:
        with self._database.transaction():
            moved = self._database.execute_many(
                "UPDATE object SET pack = ?, offset = ? WHERE id = ? AND pack = ? AND offset = ?", objects
            )
            moved += self._database.execute_many(
                "UPDATE copy SET pack = ?, offset = ? WHERE object = ? AND number = ? AND pack = ? AND offset = ?",
                copies,
            )
            for number, pack in packs:
                state = ("sealed", None) if number == seal else ("open", self._lease)
                self._database.execute(
                    "UPDATE pack SET state = ?, lease = ?, size = ? WHERE id = ?", (*state, pack.size, pack.number)
                )
        return moved


def _records(database: Database, pack: int) -> list[_Record]:
    """All that rows name in a pack and that is not known to be damaged, in the order it lies."""
    columns = "o.key, o.stored, o.decoded, o.kind, o.codec, o.checksum"
    rows = database.query(
        f"SELECT o.id, 0, o.offset, {columns} FROM object o WHERE o.pack = ? AND o.condemned IS NOT ?", (pack, DAMAGED)
    )
    rows += database.query(
        f"SELECT c.object, c.number, c.offset, {columns} FROM copy c JOIN object o ON o.id = c.object WHERE c.pack = ?",
        (pack,),
    )
    return sorted((_Record(*row) for row in rows), key=lambda record: record.offset)


def _batches(records: list[_Record]) -> Iterator[list[_Record]]:
    some: list[_Record] = []
    size = 0
    for record in records:
        some.append(record)
        size += record.stored
        if len(some) >= _ROWS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _elsewhere(database: Database, records: list[_Record], pack: int) -> dict[int, set[int]]:
    """The other packs that hold the objects of these records."""
    found: dict[int, set[int]] = {}
    for table, column in (("object", "id"), ("copy", "object")):
        for start in range(0, len(records), 400):
            some = [record.object for record in records[start : start + 400]]
            marks = ",".join("?" * len(some))
            for number, place in database.query(
                f"SELECT {column}, pack FROM {table} WHERE {column} IN ({marks})", some
            ):
                if place != pack:
                    found.setdefault(number, set()).add(place)
    return found
