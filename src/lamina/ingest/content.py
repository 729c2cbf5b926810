"""File contents to chunks: large files cut by content, small ones packed several to a chunk.

Small files of neighbouring names share a chunk, which ends where a hash of a file's bytes says so: the same neighbours
give the same chunk in every image, and a changed file changes only its own. Against an object a file this measured
(three PyTorch images' files below 32 KiB) a fifth less space and a thirteenth of the distinct objects.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import xxhash
from blake3 import blake3

from lamina.fs.node import EXTENT, number_key, pack_extent
from lamina.fs.spool import ItemSpool
from lamina.ingest.progress import Tally
from lamina.ingest.tasks import Task, Workers
from lamina.store.chunker import BUFFER, ReadInto, chunks_of, data_parts, make_chunker
from lamina.store.codec import Compression
from lamina.store.record import Kind
from lamina.store.writer import Encoded, StoreWriter

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

SMALL = 32 << 10
"""Files of at most this many bytes are packed together."""

_GROUP_LEAST = 16 << 10
_GROUP_MOST = 128 << 10
_GROUP_MASK = 15
_IN_FLIGHT = 12 << 20
_RUN = 4 << 20

Opener = Callable[[int, int], ReadInto]
"""Gives a reader of the bytes [start, end) of a file, zeros where it has holes; asked for in ascending order."""


class ContentWriter:
    """Stores file contents and adds their EXTENT items to a spool."""

    def __init__(
        self,
        writer: StoreWriter,
        spool: ItemSpool,
        workers: Workers,
        tally: Tally,
        compression: Compression,
        recordsize: int,
    ) -> None:
        self._writer = writer
        self._spool = spool
        self._workers = workers
        self._tally = tally
        self._compression = compression
        self._recordsize = recordsize
        self._tools: list[tuple[FastCDC, bytearray]] = []
        self._group: list[bytes] = []
        self._members: list[tuple[int, int]] = []
        self._size = 0

    def small(self, ino: int, data: bytes) -> None:
        """Take a whole small file; it is stored with its neighbours. One thread only."""
        if self._size + len(data) > _GROUP_MOST:
            self.end_group()
        self._group.append(data)
        self._members.append((ino, len(data)))
        self._size += len(data)
        if self._size >= _GROUP_LEAST and xxhash.xxh3_64_intdigest(data) & _GROUP_MASK == 0:
            self.end_group()

    def end_group(self) -> None:
        """Hand over the small files taken so far."""
        if self._group:
            self._workers.submit(self._store_group, self._group, self._members, queued=64)
            self._group, self._members, self._size = [], [], 0

    def _store_group(self, parts: list[bytes], members: list[tuple[int, int]]) -> None:
        data = b"".join(parts)
        key = blake3(data).digest()
        if self._writer.claim((key,)):
            self._writer.append((self._writer.encode(key, data, Kind.CHUNK, self._compression),))
        items = []
        offset = 0
        for ino, size in members:
            items.append((number_key(ino, EXTENT, 0), pack_extent(size, offset, key)))
            offset += size
        self._spool.add_many(items)
        self._tally.add(len(members), offset)

    def stream(
        self, ino: int, size: int, segments: list[tuple[int, int]], opener: Opener
    ) -> tuple[list[tuple[bytes, bytes]], int]:
        """Store a large file of ``size`` bytes; outside of ``segments``, (start, end) each, it holds zeros.

        Returns its items, not yet in the spool, and the bytes they hold. Any thread.
        """
        try:
            chunker, buffer = self._tools.pop()
        except IndexError:
            chunker, buffer = make_chunker(self._recordsize), bytearray(BUFFER)
        pipeline = _Pipeline(self._writer, self._workers, self._compression)
        items: list[tuple[bytes, bytes]] = []
        total = 0
        try:
            for start, end in data_parts(segments, size):
                holes = {"hole_before": start > 0, "hole_after": end < size}
                for chunks in chunks_of(opener(start, end), chunker, buffer, start, **holes):
                    keys = [blake3(view).digest() for _, view in chunks]
                    pipeline.put(keys, [view for _, view in chunks])
                    taken = 0
                    for key, (offset, view) in zip(keys, chunks, strict=True):
                        items.append((number_key(ino, EXTENT, offset), pack_extent(len(view), 0, key)))
                        taken += len(view)
                    total += taken
                    self._tally.add(0, taken)
            pipeline.finish()
        finally:
            self._tools.append((chunker, buffer))
        return items, total


class _Pipeline:
    """New chunks of a file: compressed by whoever is free, appended in order and runs, so that a file lies together."""

    def __init__(self, writer: StoreWriter, workers: Workers, compression: Compression) -> None:
        self._writer = writer
        self._workers = workers
        self._compression = compression
        self._tasks: deque[tuple[int, Task]] = deque()
        self._in_flight = 0
        self._run: list[Encoded] = []
        self._run_size = 0

    def put(self, keys: list[bytes], views: list[memoryview]) -> None:
        self._workers.check()  # a long file must not outlive its import
        fresh = self._writer.claim(keys)
        if not fresh:
            return
        for key, view in zip(keys, views, strict=True):
            if key in fresh:
                fresh.discard(key)
                data = bytes(view)
                task = self._workers.submit_urgent(self._writer.encode, key, data, Kind.CHUNK, self._compression)
                self._tasks.append((len(data), task))
                self._in_flight += len(data)
        while self._in_flight > _IN_FLIGHT:
            self._take()

    def finish(self) -> None:
        while self._tasks:
            self._take()
        self._write()

    def _take(self) -> None:
        size, task = self._tasks.popleft()
        encoded: Encoded = task.result()
        self._in_flight -= size
        self._run.append(encoded)
        self._run_size += len(encoded.payload)
        if self._run_size >= _RUN:
            self._write()

    def _write(self) -> None:
        if self._run:
            self._writer.append(self._run)
            self._run, self._run_size = [], 0
