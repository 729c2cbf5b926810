"""Reading the records of many objects as they are stored: in the order of their rows, in large neighbouring reads."""

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import xxhash
from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.store.objects import Location, ObjectStore, signed
from lamina.store.record import pack_name, record_header

_ROWS = 2048
"""Rows that are looked up at once."""
_WINDOW = 8 << 20
"""Bytes of payloads that are read ahead at once."""
_RUN = 4 << 20
"""Bytes of one read."""
_GAP = 128 << 10
"""Bytes of other objects that are read rather than skipped."""
_AHEAD = 2
"""Windows that wait to be taken."""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """An object as a pack holds it."""

    head: bytes
    payload: bytes | memoryview


class RecordReader:
    """Reads records from one pool, in a thread of its own, ahead of whoever takes them."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def records(self, rows: BitMap64) -> Iterator[StoredRecord]:
        """The records of these rows, ascending. Raises ``DamagedData`` where one is not what it was, in no copy."""
        ready: queue.Queue[list[StoredRecord] | BaseException | None] = queue.Queue(_AHEAD)
        stop = threading.Event()

        def put(item: list[StoredRecord] | BaseException | None) -> None:
            while not stop.is_set():
                with contextlib.suppress(queue.Full):
                    ready.put(item, timeout=0.1)
                    return

        def read() -> None:
            try:
                for window in self._windows(rows):
                    put(self._read(window))
                    if stop.is_set():
                        return
                put(None)
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=read, name="send-reader", daemon=True)
        thread.start()
        try:
            while (window := ready.get()) is not None:
                if isinstance(window, BaseException):
                    raise window
                yield from window
        finally:
            stop.set()
            thread.join()

    def _windows(self, rows: BitMap64) -> Iterator[list[Location]]:
        """Locations in the order of rows, as many as are read at once."""
        window: list[Location] = []
        size = 0
        numbers = iter(rows)
        while some := list(islice(numbers, _ROWS)):
            for location in self._locate(some):
                window.append(location)
                size += location.stored
                if size >= _WINDOW:
                    yield window
                    window, size = [], 0
        if window:
            yield window

    def _locate(self, rows: Sequence[int]) -> list[Location]:
        found = sorted(self._store.locate_ids(rows), key=lambda location: location.id)
        if len(found) < len(rows):
            raise DamagedData(
                f"{len(rows) - len(found)} objects are not in the pool any more: the snapshot was destroyed while it "
                "was sent, or 'lamina pool check' says what is wrong"
            )
        return found

    def _read(self, window: list[Location]) -> list[StoredRecord]:
        """The records of a window, each proved by its checksum."""
        payloads: dict[int, bytes | memoryview] = {}
        for run in _runs(sorted(window, key=lambda one: (one.pack, one.offset))):
            start = run[0].offset
            length = run[-1].offset + run[-1].stored - start
            try:
                data = memoryview(self._store.backend.read(pack_name(run[0].pack), start, length))
            except DamagedData:
                continue  # one by one: each may have moved, or have a copy
            for one in run:
                payload = data[one.offset - start : one.offset - start + one.stored]
                if signed(xxhash.xxh3_64_intdigest(payload)) == one.checksum:
                    payloads[one.id] = payload
        records = []
        for one in window:
            found = payloads.get(one.id)
            if found is None or not one.stored:
                one, found = self._again(one)
            checksum = one.checksum % (1 << 64)
            head = record_header(one.kind, one.codec, one.stored, one.decoded, checksum, one.key)
            records.append(StoredRecord(head, found))
        return records

    def _again(self, location: Location) -> tuple[Location, bytes]:
        """An object that was not found where it lay: gc may have moved it since, or another copy is whole."""
        while True:
            fresh = self._store.locate((location.key,)).get(location.key)
            if fresh is None or not fresh.stored:
                break
            for place in (fresh, *self._store.copies(fresh)):
                with contextlib.suppress(DamagedData):
                    payload = self._store.backend.read(pack_name(place.pack), place.offset, place.stored)
                    if signed(xxhash.xxh3_64_intdigest(payload)) == place.checksum:
                        return place, payload
            after = self._store.locate((location.key,)).get(location.key)
            if after is None or (after.pack, after.offset) == (fresh.pack, fresh.offset):
                break
        raise DamagedData(
            f"object {location.key.hex()} is damaged or missing; 'lamina pool scrub' names the files that it is part of"
        )


def _runs(locations: Sequence[Location]) -> Iterator[list[Location]]:
    """Neighbours in one pack, to be read at once."""
    run: list[Location] = []
    end = 0
    for one in locations:
        near = run and one.pack == run[0].pack and one.offset - end <= _GAP
        if run and (not near or one.offset + one.stored - run[0].offset > _RUN):
            yield run
            run = []
        run.append(one)
        end = one.offset + one.stored
    if run:
        yield run
