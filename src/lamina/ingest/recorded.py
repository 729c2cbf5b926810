"""Taking in a layer's tar so that it can be written again bit for bit.

The bytes of members become chunks as those of files do, so that they are shared with whatever has the same files. All
else (headers, padding, the end of the archive) goes to *recipe* chunks. An ``ExtentLog`` says where each byte lies.
"""

import threading
from typing import BinaryIO

import xxhash

from lamina.ingest.content import SMALL, ChunkWriter
from lamina.ingest.extentlog import ExtentLog
from lamina.ingest.progress import Tally
from lamina.ingest.tar import TarReader
from lamina.ingest.tasks import Workers
from lamina.store.chunker import HOLE_MIN, ReadInto
from lamina.store.codec import DEFAULT, Compression
from lamina.store.writer import StoreWriter

_RECIPE_LEAST, _RECIPE_MOST = 64 << 10, 256 << 10
_RECIPE_MASK = 63
"""A recipe chunk ends after a member whose headers' hash says so: similar layers share most of them. Headers of 700
bytes a member make it 110 KiB on average."""


def record_layer(
    stream: BinaryIO,
    log: ExtentLog,
    writer: StoreWriter,
    workers: Workers,
    tally: Tally,
    compression: Compression,
    recordsize: int,
) -> bool:
    """Take in a layer's tar to its end; whether an end-of-archive marker came.

    All its chunks are stored then. Raises ``SourceError`` for an archive that is damaged or cut short.
    """
    return _Recording(stream, log, writer, workers, tally, compression, recordsize).run()


class _Recording:
    def __init__(
        self,
        stream: BinaryIO,
        log: ExtentLog,
        writer: StoreWriter,
        workers: Workers,
        tally: Tally,
        compression: Compression,
        recordsize: int,
    ) -> None:
        self._log = log
        self._workers = workers
        self._tally = tally
        self._reader = TarReader(stream, layer=True, record=self._plain)
        self._chunks = ChunkWriter(writer, workers, tally, compression, recordsize, self._begin, self._named)
        self._recipe = bytearray()
        self._number = 0
        self._piece = 0
        """Where in the recipe chunk the headers of the member at hand begin."""
        self._zeros = 0
        """Zeros after the end of the archive."""
        self._lock = threading.Lock()
        self._open = 0
        """Chunks that have a number and no key yet."""

    def run(self) -> bool:
        reader, tally = self._reader, self._tally
        for _ in reader:
            self._end_piece()
            if not reader.left:
                tally.add(1, 0)
            elif reader.left <= SMALL:
                self._small(reader.left)
            else:
                self._large(reader.left)
                tally.add(1, 0)
        self._end()
        self._chunks.end_group()
        self._workers.help_until(lambda: not self._open)
        return reader.ended

    # -- what is not data -----------------------------------------------------------------------------------------

    def _plain(self, data: bytes) -> None:
        """Bytes that no member owns: they come in order, between calls for members' bytes."""
        if self._reader.ended:
            self._zeros += len(data)
        else:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        log = self._log
        while data:
            if not self._recipe:
                self._number = self._begin()
            some = data[: _RECIPE_MOST - len(self._recipe)]
            log.add(log.size, len(some), len(self._recipe), self._number)
            log.size += len(some)
            self._recipe += some
            if len(self._recipe) == _RECIPE_MOST:
                self._end_recipe()
            data = data[len(some) :]

    def _end_piece(self) -> None:
        """The headers of one more member are complete."""
        recipe = self._recipe
        if len(recipe) >= _RECIPE_LEAST and not xxhash.xxh3_64_intdigest(recipe[self._piece :]) & _RECIPE_MASK:
            self._end_recipe()
        else:
            self._piece = len(recipe)

    def _end_recipe(self) -> None:
        if self._recipe:
            self._workers.submit(self._store_recipe, self._number, bytes(self._recipe), queued=64)
            self._recipe = bytearray()
            self._piece = 0

    def _store_recipe(self, number: int, data: bytes) -> None:
        # Headers shrink to a seventh. They are no data of the user's, to whom "off" may make sense.
        self._named(number, [], self._chunks.store(data, DEFAULT))

    def _end(self) -> None:
        """All of the archive has been read."""
        if self._zeros >= HOLE_MIN:
            self._log.size += self._zeros
        else:
            self._keep(bytes(self._zeros))
        self._end_recipe()

    # -- data -----------------------------------------------------------------------------------------------------

    def _small(self, size: int) -> None:
        data = bytearray(size)
        self._reader.read_into(memoryview(data))
        number, offset = self._chunks.add_small(0, bytes(data))
        self._log.add(self._log.size, size, offset, number)
        self._log.size += size

    def _large(self, size: int) -> None:
        """A long run of stored bytes, cut as a file of these bytes would be. Of a sparse member that is what the
        archive has of it, without its holes."""
        log = self._log
        start = log.size
        for offset, length, key in self._chunks.chunks(size, [(0, size)], self._opened):
            number = log.chunk()
            log.name(number, key)
            log.add(start + offset, length, 0, number)
        log.size = start + size

    def _opened(self, start: int, end: int) -> ReadInto:
        return self._reader.read_into

    # -- chunks ---------------------------------------------------------------------------------------------------

    def _begin(self) -> int:
        with self._lock:
            self._open += 1
        return self._log.chunk()

    def _named(self, number: int, members: list[tuple[int, int]], key: bytes) -> None:
        """In any thread."""
        self._log.name(number, key)
        with self._lock:
            self._open -= 1
