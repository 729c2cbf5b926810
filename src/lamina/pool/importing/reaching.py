"""What a tree reaches, collected while it is written: rows for its bitmap, and all of it kept from gc."""

from collections.abc import Iterable, Iterator

from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.fs.node import EXTENT, extent_chunk
from lamina.store.codec import Buffer, Compression
from lamina.store.objects import ObjectStore
from lamina.store.record import Kind
from lamina.store.writer import StoreWriter

_BATCH = 512
_MOST_SEEN = 1 << 18
"""Keys remembered, 25 MB: each chunk is met in a layer and again in a file, mostly in the same order."""


class Reaching:
    """Puts the nodes of one tree, and claims the chunks that its items name."""

    def __init__(self, writer: StoreWriter, store: ObjectStore, compression: Compression) -> None:
        """``compression`` is for chunks that have to be stored anew."""
        self._writer = writer
        self._store = store
        self._compression = compression
        self._rows = BitMap64()
        self._later: list[bytes] = []
        """Objects whose rows are there only after the next flush."""
        self._seen: set[bytes] = set()
        self._batch: list[bytes] = []

    def put(self, data: Buffer, kind: int) -> bytes:
        """Store a node or the root."""
        key = self._writer.put(data, kind)
        self._later.append(key)
        return key

    def items(self, items: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """The same items; once they have come, their chunks are claimed."""
        last = b""
        seen = self._seen
        for item in items:
            key, value = item
            if key[8] == EXTENT:
                chunk = extent_chunk(value)
                if chunk != last and chunk not in seen:
                    self._reach(chunk)
                last = chunk
            yield item
        self._claim()

    def rows(self) -> BitMap64:
        """Rows of all objects of the tree; after a flush."""
        for start in range(0, len(self._later), _BATCH):
            some = self._later[start : start + _BATCH]
            located = self._store.locate(some)
            if any(key not in located for key in some):
                raise DamagedData("a chunk that an image needs is gone; import it again")
            self._rows.update(location.id for location in located.values())
        self._later = []
        return self._rows

    def _reach(self, chunk: bytes) -> None:
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen.add(chunk)
        self._batch.append(chunk)
        if len(self._batch) >= _BATCH:
            self._claim()

    def _claim(self) -> None:
        batch, self._batch = self._batch, []
        fresh = self._writer.claim(batch)
        for key in fresh:
            # It was condemned: whoever stores it again moves it. Raises DamagedData where it cannot be read.
            data = self._store.get(key)
            self._writer.append((self._writer.encode(key, data, Kind.CHUNK, self._compression),))
        located = self._store.locate(batch)
        self._rows.update(location.id for key, location in located.items() if key not in fresh)
        self._later += [key for key in batch if key in fresh or key not in located]
