"""Filling the page cache before it asks: FUSE_NOTIFY_STORE from a thread of its own.

A small read decodes a whole chunk. The rest of the chunk, and the other small files in it that the kernel knows, are
stored into the page cache, so that the next reads there cost no request. This is right on immutable trees only: on a
mount that can be written it would overwrite dirty pages.

The thread is its own because a store waits for pages that a pending read has locked; whoever answers reads must not.
"""

import errno
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from lamina.fs.types import Extent
from lamina.mount import protocol
from lamina.mount.namespace import Place

_PAGE = os.sysconf("SC_PAGESIZE")
_MOST_QUEUED = 32 << 20
"""Bytes of chunks that wait to be pushed; beyond that a push is left out."""
_MOST_PUSHED = 200_000
"""Nodes remembered as already in the page cache."""
_MOST_NEIGHBOURS = 64
"""Chunks whose list of small files is remembered."""
_GONE = frozenset((errno.ENOENT, errno.ENODEV, errno.EINTR))

Push = tuple[Place, int, int, list[Extent], bytes, dict[bytes, bytes | None], bool]
"""place, inode number, file size, extents, key of the first chunk, chunks, whether its other small files are wanted."""


class Pusher:
    """Queues decoded chunks for the page cache."""

    def __init__(self, device: int, known: dict[int, int], on_error: Callable[[str, BaseException], None]) -> None:
        self._device = device
        self._known = known
        self._on_error = on_error
        self._pushed: set[int] = set()
        self._queue: SimpleQueue[Push | None] = SimpleQueue()
        self._queued = 0
        self._lock = threading.Lock()
        self._neighbours: dict[bytes, list[tuple[int, Extent]]] = {}
        self.disabled = False
        self._thread = threading.Thread(target=self._work, name="push", daemon=True)
        self._thread.start()

    def push(
        self,
        place: Place,
        ino: int,
        size: int,
        extents: list[Extent],
        key: bytes,
        chunks: dict[bytes, bytes | None],
        neighbours: bool,
    ) -> None:
        """Store what ``chunks`` hold of a file, and of its small neighbours. Cheap; may leave it out when busy."""
        if self.disabled:
            return
        cost = sum(len(data) for data in chunks.values() if data is not None)
        with self._lock:
            if self._queued + cost > _MOST_QUEUED:
                return
            self._queued += cost
        self._queue.put((place, ino, size, extents, key, chunks, neighbours))

    def forget(self, node: int) -> None:
        """The kernel has dropped an inode, and its pages."""
        self._pushed.discard(node)

    def close(self) -> None:
        """End the thread."""
        self.disabled = True
        self._queue.put(None)
        self._thread.join(timeout=2)

    def _work(self) -> None:
        while (push := self._queue.get()) is not None:
            with self._lock:
                self._queued -= sum(len(data) for data in push[5].values() if data is not None)
            if self.disabled:
                continue
            try:
                self._push(push)
            except Exception as error:
                self._on_error("filling the page cache failed", error)
            del push

    def _push(self, push: Push) -> None:
        place, ino, size, extents, key, chunks, neighbours = push
        for extent in extents:
            data = chunks.get(extent.key)
            if data is not None:
                self._store(place.base | ino, size, extent, data)
        if not neighbours:
            return
        data = chunks.get(key)
        if data is None:
            return
        # That it is read says that the kernel has let its pages go since a push, if there was one.
        self._pushed.discard(place.base | ino)
        if len(self._pushed) > _MOST_PUSHED:
            self._pushed.clear()
        known, pushed, base = self._known, self._pushed, place.base
        for other, extent in self._sharing(place, ino, key):
            node = base | other
            other_size = known.get(node)
            if other_size is None or node in pushed or other == ino or extent.key != key:
                continue
            if extent.offset == 0 and extent.length >= other_size:
                pushed.add(node)
            if not self._store(node, other_size, extent, data):
                pushed.discard(node)

    def _sharing(self, place: Place, ino: int, key: bytes) -> list[tuple[int, Extent]]:
        found = self._neighbours.get(key)
        if found is None:
            found = place.view.chunk_neighbours(ino)
            if len(self._neighbours) >= _MOST_NEIGHBOURS:
                del self._neighbours[next(iter(self._neighbours))]
            self._neighbours[key] = found
        return found

    def _store(self, node: int, size: int, extent: Extent, data: bytes) -> bool:
        """Store the whole pages of an extent. False when the kernel does not know the node."""
        start = -(-extent.offset // _PAGE) * _PAGE
        end = min(extent.offset + extent.length, size)
        if end < size:
            end = end // _PAGE * _PAGE
        length = end - start
        if length <= 0:
            return True
        skip = extent.chunk_offset + start - extent.offset
        body = memoryview(data)[skip : skip + length]
        if len(body) != length:
            return True  # a chunk shorter than its extent: the read itself reports that
        header = protocol.NOTIFY_STORE_OUT.pack(40 + length, protocol.NOTIFY_STORE, 0, node, start, length, 0)
        try:
            os.writev(self._device, (header, body))
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.EINVAL):
                self.disabled = True  # not worth a log line: reads work without
            elif error.errno not in _GONE:
                raise
            return False
        return True
