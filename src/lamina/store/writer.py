"""Taking objects in: encode what the pool does not have, append it to packs, then name it in the index.

The order at every flush: payloads appended, packs synced, rows committed; a thread of the writer's own waits for the
disk, so that the others go on. A writer has a pack of its own open for each copy that it makes (tree nodes are kept
twice, in different packs), so writers never contend; a lease says that the process is alive.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash
from blake3 import blake3
from pyroaring import BitMap64

from lamina.errors import LaminaError
from lamina.store.codec import DEFAULT, Buffer, Compression
from lamina.store.flusher import Batch, CopyRow, Flusher, Part, Row
from lamina.store.lease import Lease, live_leases
from lamina.store.objects import Location, ObjectStore, signed
from lamina.store.packs import OpenPack, take_pack
from lamina.store.record import (
    PACK_ALIGN,
    PACK_TARGET,
    RECORD_HEADER,
    Kind,
    pack_header,
    pack_name,
    record_header,
)

_BUFFER = 4 << 20
_FLUSH_ROWS = 8192
_FLUSH_BYTES = 64 << 20
"""A batch is made durable after this many rows or bytes: the disk is kept busy, and little is left for the end."""
_ROWS_AT_ONCE = 16384

_UPSERT = """
INSERT INTO object(id, key, pack, offset, stored, decoded, kind, codec, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT(key) DO UPDATE SET pack = excluded.pack, offset = excluded.offset, stored = excluded.stored,
    decoded = excluded.decoded, codec = excluded.codec, checksum = excluded.checksum, condemned = NULL
WHERE condemned IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An object that the pool does not have yet, ready to be appended."""

    key: bytes
    kind: int
    codec: int
    decoded: int
    checksum: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class _Inserted:
    """Rows of a batch: of all its objects, and those that it made."""

    all: BitMap64
    new: BitMap64


@dataclass(slots=True)
class Written:
    """What a writer has stored so far: objects, decoded bytes of data chunks, payload bytes of everything."""

    objects: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0


PutNames = Callable[[Sequence[bytes]], list[int]]
"""Stores name records inside the transaction of a commit; the row numbers they get."""


class StoreWriter:
    """Takes objects in for one process. Methods are safe to call from several threads.

    ``reached`` collects the row numbers of all objects that the caller put, new or shared.
    """

    def __init__(
        self,
        store: ObjectStore,
        leases: Path,
        guid: int,
        generation: Callable[[], int],
        epoch: Callable[[], int] = lambda: 0,
        file_mode: int = 0o600,
        copies: int = 1,
        node_copies: int = 1,
    ) -> None:
        """``generation`` counts changes of what names reach, ``epoch`` is gc's clock; ``copies`` of data chunks are
        kept, and ``node_copies`` of everything else, each in another pack."""
        self._store = store
        self._database = store.database
        self._guid = guid
        self._generation = generation
        self._epoch = epoch
        self._copies = copies
        self._node_copies = node_copies
        self._leases = leases
        self._lease = Lease(leases, store.database, epoch, file_mode)
        self._started = generation()
        self._lock = threading.RLock()
        self._known = threading.Lock()
        """Guards the sets of keys and rows; never held while waiting."""
        self._flusher = Flusher(self._write_rows)
        self._open: dict[int, OpenPack] = {}
        """By the number of the copy that goes there."""
        self._durable: dict[int, int] = {}
        """Bytes of the packs written to that rows may name."""
        self._unflushed = 0
        self._rows: list[Row] = []
        self._copy_rows: list[CopyRow] = []
        self._claimed: set[bytes] = set()
        self._failed: LaminaError | None = None
        self._taken: dict[int, int] = {}
        """Sizes of the packs written to as they were before: 0 of those that this writer began."""
        self._own_ids = BitMap64()
        self.reached = BitMap64()
        self.written = Written()

    @property
    def lease(self) -> str:
        """The name of this writer's lease: whoever puts may pin what it builds on."""
        return self._lease.name

    # -- deciding and encoding: any thread ------------------------------------------------------------------------

    def claim(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of ``keys`` that the caller has to encode and ``append``: not in the pool and not claimed before."""
        fresh: set[bytes] = set()
        with self._known:
            ask = [key for key in keys if key not in self._claimed]
        found = self._store.ids(ask) if ask else {}
        with self._known:
            for key in ask:
                number = found.get(key)
                if number is not None:
                    self.reached.add(number)
                elif key not in self._claimed:
                    self._claimed.add(key)
                    fresh.add(key)
        return fresh

    def encode(self, key: bytes, data: Buffer, kind: int, compression: Compression) -> Encoded:
        """Compress an object. Touches nothing shared."""
        codec, payload = self._store.coder.encode(data, compression)
        return Encoded(key, kind, codec, len(data), xxhash.xxh3_64_intdigest(payload), payload)

    def put(self, data: Buffer, kind: int, compression: Compression = DEFAULT) -> bytes:
        """Store one object and return its key."""
        key = blake3(data).digest()
        if self.claim((key,)):
            self.append((self.encode(key, data, kind, compression),))
        return key

    # -- appending ------------------------------------------------------------------------------------------------

    def append(self, objects: Sequence[Encoded]) -> None:
        """Append encoded objects, together, to the open pack."""
        with self._lock, self._failing():
            for item in objects:
                self._append(item)
            if len(self._rows) >= _FLUSH_ROWS or self._unflushed >= _FLUSH_BYTES:
                self._flusher.put(self._batch())

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """After an error half-way, offsets may be wrong: nothing more is appended or named."""
        failed = self._failed or self._flusher.failed
        if failed is not None:
            raise failed
        try:
            yield
        except LaminaError as error:
            self._failed = error
            raise
        except BaseException as error:
            self._failed = LaminaError(f"writing into the pool was broken off: {type(error).__name__} {error}".strip())
            raise

    def _wanted(self, kind: int) -> int:
        """How many copies of an object are kept."""
        return self._copies if kind == Kind.CHUNK else self._node_copies

    def _append(self, item: Encoded, *, roll: bool = True) -> None:
        """Append an object to the packs of its copies; ``roll`` goes on to the next pack where one is full."""
        head = record_header(item.kind, item.codec, len(item.payload), item.decoded, item.checksum, item.key)
        numbers = range(self._wanted(item.kind))
        for number in numbers:  # all before the first is used: a seal names what was appended so far
            pack = self._open.get(number)
            if pack is None or (roll and pack.size + len(item.payload) > PACK_TARGET):
                self._next_pack(number)
        for number in numbers:
            pack = self._open[number]
            place = (pack.number, pack.size + RECORD_HEADER)
            pack.add(head, item.payload)
            if number:
                self._copy_rows.append((item.key, number, *place))
            else:
                row = (item.key, *place, len(item.payload), item.decoded, item.kind)
                self._rows.append((*row, item.codec, signed(item.checksum)))
            self._unflushed += RECORD_HEADER + len(item.payload)
        if item.kind != Kind.NAMES:
            self.written.objects += 1
        self.written.stored_bytes += len(item.payload)
        if item.kind == Kind.CHUNK:
            self.written.new_bytes += item.decoded

    def _next_pack(self, number: int) -> None:
        """Seal the pack of a copy if there is one, and take the next."""
        if number in self._open:
            self._flusher.put(self._batch(seal=number))
            del self._open[number]
        self._take_packs([number])

    def _take_packs(self, numbers: Sequence[int]) -> None:
        """Go on with packs that a finished writer left open, or begin new ones."""
        if not numbers:
            return
        taken: dict[int, tuple[int, int]] = {}
        with self._database.transaction():
            live_leases(self._leases, self._database, but=self._lease.name)
            for number in numbers:
                taken[number] = take_pack(self._database, self._store.backend, self._lease.name, largest=number == 0)
        for number, (pack, size) in taken.items():
            self._taken[pack] = self._durable[pack] = size
            appender = self._store.backend.append_to(pack_name(pack), size)
            self._open[number] = OpenPack(pack, size, appender, _BUFFER)
            if size == 0:
                self._open[number].add(pack_header(self._guid, pack))

    # -- making it durable ----------------------------------------------------------------------------------------

    @property
    def fresh(self) -> BitMap64:
        """Rows that this writer has made since its last commit: those of objects that nobody had."""
        with self._known:
            return self._own_ids.copy()

    def flush(self) -> None:
        """Have everything that was put durable and in the index; nothing refers to it yet."""
        with self._lock, self._failing():
            self._flush()

    def _batch(self, seal: int | None = None) -> Batch:
        """What was appended since the last batch, handed to the files; called with the lock held."""
        parts: list[Part] = []
        for number, pack in self._open.items():
            if number == seal:
                pack.add(bytes(-pack.size % PACK_ALIGN))
            pack.drain()
            parts.append(Part(pack.appender, pack.number, pack.size, number == seal))
        self._unflushed = 0
        rows, self._rows = self._rows, []
        copies, self._copy_rows = self._copy_rows, []
        return Batch(parts, rows, copies)

    def _flush(self) -> None:
        """Have everything durable and named; called with the lock held."""
        self._flusher.wait()
        if self._rows or any(pack.size > self._durable[pack.number] for pack in self._open.values()):
            self._write_rows(self._batch())

    def _write_rows(self, batch: Batch) -> None:
        """Sync packs, then commit the rows of their objects."""
        for part in batch.parts:
            if part.size > self._durable[part.pack]:
                part.appender.sync()
        with self._naming(batch.parts):
            own = self._insert(batch.rows, batch.copies)
        with self._known:
            self.reached |= own.all
            self._own_ids |= own.new
            self._claimed.difference_update([row[0] for row in batch.rows])

    @contextlib.contextmanager
    def _naming(self, parts: Sequence[Part]) -> Iterator[None]:
        """A transaction of rows that name what was appended to packs, and is synced."""
        before = {part.pack: self._durable[part.pack] for part in parts}
        # From here on, until it is known that they are not there: whoever is interrupted must not cut what rows name.
        self._durable.update({part.pack: part.size for part in parts})
        try:
            with self._database.transaction():
                yield
                self._set_sizes(parts)
        except LaminaError as error:
            if not error.uncertain:
                self._durable.update(before)
            raise

    def _set_sizes(self, parts: Sequence[Part]) -> None:
        for part in parts:
            state = ("sealed", None) if part.seal else ("open", self._lease.name)
            self._database.execute(
                "UPDATE pack SET state = ?, lease = ?, size = ? WHERE id = ?", (*state, part.size, part.pack)
            )

    def _insert(self, rows: list[Row], copies: list[CopyRow]) -> "_Inserted":
        """Name objects inside a transaction."""
        if not rows:
            return _Inserted(BitMap64(), BitMap64())
        sequence = self._database.query("SELECT seq FROM sqlite_sequence WHERE name = 'object'")
        first = (sequence[0][0] if sequence else 0) + 1
        self._database.execute_many(_UPSERT, ((first + n, *row) for n, row in enumerate(rows)))
        if self._database.query("SELECT count(*) FROM object WHERE id >= ?", (first,))[0][0] == len(rows):
            new = BitMap64(range(first, first + len(rows)))
            ids = {row[0]: first + n for n, row in enumerate(rows)} if copies else {}
            self._insert_copies(copies, ids)
            return _Inserted(new, new)
        # Some were there: condemned ones have moved here, those that another process brought in the meantime stay
        # where they are, and our bytes are dead weight.
        located = self._store.locate([row[0] for row in rows])
        ours = {row[0]: location for row in rows if self._is_at(location := located[row[0]], row)}
        moved = [(location.id,) for location in ours.values() if location.id < first]
        self._database.execute_many("DELETE FROM copy WHERE object = ?", moved)
        self._insert_copies(copies, {key: location.id for key, location in ours.items()})
        return _Inserted(
            BitMap64(location.id for location in located.values()),
            BitMap64(location.id for location in ours.values() if location.id >= first),
        )

    @staticmethod
    def _is_at(location: Location, row: Row) -> bool:
        return (location.pack, location.offset) == (row[1], row[2])

    def _insert_copies(self, copies: list[CopyRow], ids: dict[bytes, int]) -> None:
        if not copies:
            return
        self._database.execute_many(
            "INSERT INTO copy(object, number, pack, offset) VALUES (?, ?, ?, ?)",
            [(ids[key], *place) for key, *place in copies if key in ids],
        )

    @contextlib.contextmanager
    def commit(self) -> Iterator[PutNames]:
        """Make all that was put durable, then run the body in one transaction: the rows that name a root.

        The body stores its name records with the function that it gets; they are in packs, synced, before the
        transaction commits. The objects reached lose their condemned mark in the same transaction, and the lease is
        renewed: no other thread may be inside ``claim`` meanwhile, what it decides could be lost.
        """
        with self._lock:
            with self._failing():
                # Not inside the transaction: a roll-back must take no pack's row with it.
                self._take_packs([one for one in range(self._wanted(Kind.NAMES)) if one not in self._open])
                self._flush()
            try:
                with self._database.transaction():
                    alone = self._generation() == self._started
                    if self.reached:
                        for (condemned,) in self._database.query("SELECT id FROM object WHERE condemned > 0"):
                            if condemned in self.reached:
                                self._database.execute("UPDATE object SET condemned = NULL WHERE id = ?", (condemned,))
                    yield self._put_names
                    self._lease.renew(self._epoch())
                    generation = self._generation()
            except BaseException as error:
                # What was appended in it is dead weight; the next pack is one that begins where rows end.
                self._close_packs()
                if isinstance(error, LaminaError) and error.uncertain:
                    raise type(error)(f"{error}; see whether it was done all the same") from error
                raise
            # What is named stays, whatever comes after; what comes after can be taken back if only this writer commits.
            if alone:
                self._started = generation
            self._taken = {pack.number: pack.size for pack in self._open.values()}
            self._durable.update(self._taken)
            self._own_ids.clear()

    def _put_names(self, records: Sequence[bytes]) -> list[int]:
        keys = [blake3(record).digest() for record in records]
        for key, record in zip(keys, records, strict=True):
            self._append(self.encode(key, record, Kind.NAMES, DEFAULT), roll=False)
        batch = self._batch()
        for part in batch.parts:
            if part.size > self._durable[part.pack]:
                part.appender.sync()
        self._insert(batch.rows, batch.copies)
        self._set_sizes(batch.parts)
        located = self._store.locate(keys)
        return [located[key].id for key in keys]

    def _close_packs(self) -> None:
        for pack in self._open.values():
            pack.appender.close()
        self._open = {}
        self._rows, self._copy_rows = [], []

    def close(self) -> None:
        """Release the pack and the lease. What was flushed stays in the pool."""
        with self._lock:
            self._flusher.close()
            self._close_packs()
            self._lease.close()

    def abort(self) -> None:
        """Take back what was put, after a failure, and close.

        Rows can go at once only if nobody else may have decided to share them: no other lease is alive, and no commit
        happened since this writer began. Else they stay for gc.
        """
        with self._lock:
            self._flusher.close(drop=True)
            left = [pack.number for pack in self._open.values()]
            self._close_packs()
            for number in left:
                # On a full disk this gives the room that the transaction below needs.
                with contextlib.suppress(LaminaError):
                    self._store.backend.append_to(pack_name(number), self._durable[number]).close()
            try:
                for pack, size in self._take_back():
                    if size:
                        self._store.backend.append_to(pack_name(pack), size).close()
                    else:
                        self._store.backend.delete(pack_name(pack))
            except LaminaError:
                pass  # the disk may still be full: what is left is dead weight
            finally:
                self._lease.close()  # only now may others write to these packs

    def _take_back(self) -> list[tuple[int, int]]:
        """Remove the rows of what was put if nobody else can know them; the packs to cut, with their former sizes.

        In short transactions: on a disk that is nearly full, a long one may not fit the log. Whoever came in between
        may share what is left, so each of them looks again.
        """
        own = list(self._own_ids)
        while True:
            with self._database.transaction():
                leases = live_leases(self._leases, self._database, but=self._lease.name)
                if self._generation() != self._started or any(lease.kind == "write" for lease in leases):
                    return []
                if not own:
                    return [(pack, size) for pack, size in self._taken.items() if self._shrink(pack, size)]
                some, own = own[:_ROWS_AT_ONCE], own[_ROWS_AT_ONCE:]
                self._database.execute_many("DELETE FROM object WHERE id = ?", ((row,) for row in some))

    def _shrink(self, pack: int, size: int) -> bool:
        """Set a pack back to ``size``, inside a transaction, if all rows behind are gone, and gc is not at it."""
        if not self._database.query(
            "SELECT 1 FROM pack WHERE id = ? AND (lease IS NULL OR lease = ?)", (pack, self._lease.name)
        ):
            return False
        for table in ("object", "copy"):
            if self._database.query(f"SELECT 1 FROM {table} WHERE pack = ? AND offset >= ? LIMIT 1", (pack, size)):
                return False
        if size:
            self._database.execute(
                "UPDATE pack SET state = 'open', size = ?, lease = ? WHERE id = ?", (size, self._lease.name, pack)
            )
        else:
            self._database.execute("DELETE FROM pack WHERE id = ?", (pack,))
        return True
