"""Taking objects in: encode what the pool does not have, append it to a pack, then name it in the index.

The order at every flush: payloads appended, pack synced, rows committed; a thread of the writer's own waits for the
disk, so that the others go on. One writer has one open pack at a time, so
writers never contend; a lease says that the process is alive.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash
from blake3 import blake3
from pyroaring import BitMap64

from lamina.errors import DamagedData, LaminaError
from lamina.store.backend import Appender
from lamina.store.codec import DEFAULT, Buffer, Compression
from lamina.store.lease import Lease, live_leases
from lamina.store.objects import ObjectStore, signed
from lamina.store.record import (
    PACK_ALIGN,
    PACK_HEADER,
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
_BIG_BUFFER = 16384
_MOST_BATCHES = 3

_UPSERT = """
INSERT INTO object(id, key, pack, offset, stored, decoded, kind, codec, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT(key) DO UPDATE SET pack = excluded.pack, offset = excluded.offset, stored = excluded.stored,
    codec = excluded.codec, checksum = excluded.checksum, condemned = NULL WHERE condemned IS NOT NULL
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


@dataclass(slots=True)
class Written:
    """What a writer has stored so far: objects, decoded bytes of data chunks, payload bytes of everything."""

    objects: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0


_Row = tuple[bytes, int, int, int, int, int, int, int]
"""The columns of an index row after its number."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Objects that were appended to a pack and are not yet named. ``size``: bytes of the pack to make durable."""

    appender: Appender
    pack: int
    size: int
    rows: list[_Row]
    seal: bool


class _Flusher:
    """Makes batches durable in order, in a thread of its own. A pack takes long to sync."""

    def __init__(self, write: Callable[[_Batch], None]) -> None:
        self._write = write
        self._batches: list[_Batch] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.failed: LaminaError | None = None

    def put(self, batch: _Batch) -> None:
        """Queue a batch; waits while two are in hand, which bounds what is not yet on disk."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="flush", daemon=True)
                self._thread.start()
            while len(self._batches) >= _MOST_BATCHES and self.failed is None:
                self._changed.wait()
            self._batches.append(batch)
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when all batches are durable. Raises the error of the first that failed."""
        with self._changed:
            while self._batches:
                self._changed.wait()
        if self.failed is not None:
            raise self.failed

    def close(self, *, drop: bool = False) -> None:
        """Finish what is queued (after a failure, or if told: drop it) and end the thread."""
        with self._changed:
            if drop and self.failed is None:
                self.failed = LaminaError("what was written is taken back")
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._batches and not self._closed:
                    self._changed.wait()
                if not self._batches:
                    return
                batch = self._batches[0]
            try:
                if self.failed is None:
                    self._write(batch)
            except LaminaError as error:
                self.failed = error
            except BaseException as error:
                self.failed = LaminaError(f"writing into the pool failed: {type(error).__name__} {error}".strip())
            finally:
                if batch.seal:
                    batch.appender.close()
                with self._changed:
                    self._batches.pop(0)
                    self._changed.notify_all()


class StoreWriter:
    """Takes objects in for one process. Methods are safe to call from several threads.

    ``reached`` collects the row numbers of all objects that the caller put, new or shared.
    """

    def __init__(
        self, store: ObjectStore, leases: Path, guid: int, generation: Callable[[], int], file_mode: int = 0o600
    ) -> None:
        self._store = store
        self._database = store.database
        self._guid = guid
        self._generation = generation
        self._leases = leases
        self._lease = Lease(leases, store.database, generation(), file_mode)
        self._started = generation()
        self._lock = threading.RLock()
        self._known = threading.Lock()
        """Guards the sets of keys and rows; never held while waiting."""
        self._flusher = _Flusher(self._write_rows)
        self._appender: Appender | None = None
        self._pack = 0
        self._size = 0
        self._durable: dict[int, int] = {}
        """Bytes of the packs written to that rows may name."""
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._unflushed = 0
        self._rows: list[_Row] = []
        self._claimed: set[bytes] = set()
        self._failed: LaminaError | None = None
        self._taken: dict[int, int] = {}
        """Sizes of the packs written to as they were before: 0 of those that this writer began."""
        self._own_ids = BitMap64()
        self.reached = BitMap64()
        self.written = Written()

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
                if self._appender is None or self._size + len(item.payload) > PACK_TARGET:
                    self._next_pack()
                self._append(item)
            if len(self._rows) >= _FLUSH_ROWS or self._unflushed >= _FLUSH_BYTES:
                self._flusher.put(self._batch(seal=False))

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

    def _append(self, item: Encoded) -> None:
        head = record_header(item.kind, item.codec, len(item.payload), item.decoded, item.checksum, item.key)
        self._buffer += (head, item.payload)
        self._buffered += RECORD_HEADER + len(item.payload)
        if item.kind != Kind.NAMES:
            row = (item.key, self._pack, self._size + RECORD_HEADER, len(item.payload), item.decoded, item.kind)
            self._rows.append((*row, item.codec, signed(item.checksum)))
            self.written.objects += 1
        self._size += RECORD_HEADER + len(item.payload)
        self.written.stored_bytes += len(item.payload)
        if item.kind == Kind.CHUNK:
            self.written.new_bytes += item.decoded
        if self._buffered >= _BUFFER:
            self._drain()

    def _drain(self) -> None:
        if self._buffer:
            assert self._appender is not None
            self._appender.append(self._buffer)
            self._unflushed += self._buffered
            self._buffer = []
            self._buffered = 0

    def _next_pack(self) -> None:
        """Seal the open pack if there is one; go on with one that a finished writer left open, or begin a new one."""
        if self._appender is not None:
            self._flusher.put(self._batch(seal=True))
            self._appender = None
        with self._database.transaction():
            live_leases(self._leases, self._database, but=self._lease.name)
            self._pack, self._size = self._free_pack()
            self._database.execute("UPDATE pack SET lease = ? WHERE id = ?", (self._lease.name, self._pack))
        self._taken[self._pack] = self._durable[self._pack] = self._size
        self._appender = self._store.backend.append_to(pack_name(self._pack), self._size)
        if self._size == 0:
            self._buffer.append(pack_header(self._guid, self._pack))
            self._buffered += PACK_HEADER.size
            self._size = PACK_HEADER.size

    def _free_pack(self) -> tuple[int, int]:
        """(number, size) of a pack to go on with. One that lost bytes is never written to again."""
        for pack, size in self._database.query("SELECT id, size FROM pack WHERE state = 'open' AND lease IS NULL"):
            try:
                if self._store.backend.size(pack_name(pack)) >= size:
                    return pack, size
            except DamagedData:
                if not size:  # its row was committed, its file not yet made
                    return pack, size
            self._database.execute("UPDATE pack SET state = 'sealed' WHERE id = ?", (pack,))
        return self._database.execute("INSERT INTO pack(state, size) VALUES ('open', 0)"), 0

    # -- making it durable ----------------------------------------------------------------------------------------

    def _batch(self, *, seal: bool) -> "_Batch":
        """What was appended since the last batch, handed to the file; called with the lock held."""
        assert self._appender is not None
        if seal:
            padding = -self._size % PACK_ALIGN
            self._buffer.append(bytes(padding))
            self._size += padding
        self._drain()
        self._unflushed = 0
        rows, self._rows = self._rows, []
        return _Batch(self._appender, self._pack, self._size, rows, seal)

    def _flush(self) -> None:
        """Have everything durable and named; called with the lock held."""
        self._flusher.wait()
        if self._appender is not None:
            self._write_rows(self._batch(seal=False))

    def _write_rows(self, batch: "_Batch") -> None:
        """Sync a pack, then commit the rows of its objects."""
        batch.appender.sync()
        with self._database.transaction():
            self._insert(batch.rows)
            state = ("sealed", None) if batch.seal else ("open", self._lease.name)
            self._database.execute(
                "UPDATE pack SET state = ?, lease = ?, size = ? WHERE id = ?", (*state, batch.size, batch.pack)
            )
        self._durable[batch.pack] = batch.size
        with self._known:
            self._claimed.difference_update([row[0] for row in batch.rows])

    def _insert(self, rows: list[_Row]) -> None:
        if not rows:
            return
        sequence = self._database.query("SELECT seq FROM sqlite_sequence WHERE name = 'object'")
        first = (sequence[0][0] if sequence else 0) + 1
        self._database.execute_many(_UPSERT, ((first + n, *row) for n, row in enumerate(rows)))
        if self._database.query("SELECT count(*) FROM object WHERE id >= ?", (first,))[0][0] == len(rows):
            own = BitMap64(range(first, first + len(rows)))
            with self._known:
                self.reached |= own
                self._own_ids |= own
            return
        # Another process brought some of them in the meantime: theirs stay, our bytes are dead weight.
        located = self._store.locate([row[0] for row in rows])
        with self._known:
            for location in located.values():
                self.reached.add(location.id)
                if location.id >= first:
                    self._own_ids.add(location.id)

    @contextlib.contextmanager
    def commit(self) -> Iterator[list[bytes]]:
        """Make all that was put durable, then run the body in one transaction: the rows that name a root.

        The body appends name records (JSON) to the list it gets; they are in a pack, synced, before the transaction
        commits. The objects reached lose their condemned mark in the same transaction.
        """
        with self._lock:
            with self._failing():
                if self._appender is None:
                    self._next_pack()  # not inside the transaction: a roll-back must take no pack's row with it
                self._flush()
            names: list[bytes] = []
            try:
                with self._database.transaction():
                    for (condemned,) in self._database.query("SELECT id FROM object WHERE condemned IS NOT NULL"):
                        if condemned in self.reached:
                            self._database.execute("UPDATE object SET condemned = NULL WHERE id = ?", (condemned,))
                    yield names
                    for record in names:
                        self._append(self.encode(blake3(record).digest(), record, Kind.NAMES, DEFAULT))
                    if names:
                        self._sync()
                    self._lease.renew(self._generation())
            except BaseException:
                # What was appended in it is dead weight; the next pack is one that begins where rows end.
                self._close_pack()
                raise
            # What is named stays, whatever comes after.
            self._durable[self._pack] = self._size
            self._taken = {self._pack: self._size}
            self._own_ids.clear()

    def _sync(self) -> None:
        """What was appended is durable and may be named, once the transaction around this commits."""
        assert self._appender is not None
        self._drain()
        self._appender.sync()
        self._database.execute("UPDATE pack SET size = ? WHERE id = ?", (self._size, self._pack))

    def _close_pack(self) -> None:
        if self._appender is not None:
            self._appender.close()
            self._appender = None
        self._buffer, self._buffered = [], 0

    def close(self) -> None:
        """Release the pack and the lease. What was flushed stays in the pool."""
        with self._lock:
            self._flusher.close()
            self._close_pack()
            self._lease.close()

    def abort(self) -> None:
        """Take back what was put, after a failure, and close.

        Rows can go at once only if nobody else may have decided to share them: no other lease is alive, and no commit
        happened since this writer began. Else they stay for gc.
        """
        with self._lock:
            self._flusher.close(drop=True)
            if self._appender is not None:
                self._close_pack()
                # On a full disk this gives the room that the transaction below needs.
                with contextlib.suppress(LaminaError):
                    self._store.backend.append_to(pack_name(self._pack), self._durable[self._pack]).close()
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
        """Remove the rows of what was put if nobody else can know them; the packs to cut, with their former sizes."""
        with self._database.transaction():
            others = live_leases(self._leases, self._database, but=self._lease.name)
            if others or self._generation() != self._started:
                return []
            own = list(self._own_ids)
            for start in range(0, len(own), _BIG_BUFFER):
                some = ((row,) for row in own[start : start + _BIG_BUFFER])
                self._database.execute_many("DELETE FROM object WHERE id = ?", some)
            return [(pack, size) for pack, size in self._taken.items() if self._shrink(pack, size)]

    def _shrink(self, pack: int, size: int) -> bool:
        """Set a pack back to ``size``, inside a transaction, if all rows behind are gone."""
        if self._database.query("SELECT 1 FROM object WHERE pack = ? AND offset >= ? LIMIT 1", (pack, size)):
            return False
        if size:
            self._database.execute(
                "UPDATE pack SET state = 'open', size = ?, lease = ? WHERE id = ?", (size, self._lease.name, pack)
            )
        else:
            self._database.execute("DELETE FROM pack WHERE id = ?", (pack,))
        return True
