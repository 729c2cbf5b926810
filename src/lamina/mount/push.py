"""Filling the page cache before it asks: FUSE_NOTIFY_STORE from a thread of its own.

A small read decodes a whole chunk. The rest of the chunk, and the other small files in it that the kernel knows, are
stored into the page cache, so that the next reads there cost no request. This is right on immutable trees only: on a
mount that can be written it would overwrite dirty pages.

The thread is its own because a store waits for pages that a pending read has locked; whoever answers reads must not.
One read at a time may have its answer held back for a moment while its neighbours are stored ahead of it (a program
that walks a directory asks for them within microseconds). That read's own file is left out until it is answered, and
every other answer is given without this thread, so that nothing here can wait for itself.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from lamina.fs.types import Extent
from lamina.mount import protocol
from lamina.mount.data import ChunkCache
from lamina.mount.namespace import Place

_PAGE = os.sysconf("SC_PAGESIZE")
_MOST_QUEUED = 32 << 20
"""Bytes of chunks that wait to be pushed; beyond that a push is left out."""
_MOST_PUSHED = 200_000
"""Nodes remembered as already in the page cache."""
_MOST_HINTS = 60_000
"""Small files of which it is remembered where in a chunk they lie."""
_MOST_CHUNKS = 1024
"""Chunks whose list of small files is remembered."""
_AGAIN_SECONDS = 1.0
"""A read this long after its file was pushed says that the page cache has let go; sooner, that both met on the way."""
_HEAD_START_SECONDS = 0.0015
"""How long an answer may be held back."""
_GONE = frozenset((errno.ENOENT, errno.ENODEV, errno.EINTR))


class Push:
    """What to store: the ``extents`` of one file that lie in ``chunks``, and the small files that share ``shared``."""

    __slots__ = ("answer", "chunks", "cost", "extents", "ino", "place", "shared", "size")

    def __init__(
        self,
        place: Place,
        ino: int,
        size: int,
        extents: list[Extent],
        chunks: dict[bytes, bytes | None],
        shared: bytes | None,
    ) -> None:
        self.place = place
        self.ino = ino
        self.size = size
        self.extents = extents
        self.chunks = chunks
        self.shared = shared
        self.cost = sum(len(data) for data in chunks.values() if data is not None)
        self.answer: Callable[[], object] | None = None


class _Group:
    """The small files of one chunk, and when they were last stored, at which state of what the kernel knows."""

    __slots__ = ("files", "pushed_at", "version")

    def __init__(self, files: list[tuple[int, Extent]]) -> None:
        self.files = files
        self.pushed_at = -_AGAIN_SECONDS
        self.version = -1


class Pusher:
    """Queues decoded chunks for the page cache."""

    def __init__(
        self, device: int, cache: ChunkCache, known: dict[int, int], on_error: Callable[[str, BaseException], None]
    ) -> None:
        self._device = device
        self._cache = cache
        self._known = known
        self._on_error = on_error
        self._pushed: set[int] = set()
        self._groups: dict[bytes, _Group] = {}
        self._queue: SimpleQueue[Push | Sequence[int] | None] = SimpleQueue()
        self._bytes = 0
        self._jobs = 0
        self._lock = threading.Lock()
        self._version = 0
        self.hints: dict[int, Extent] = {}
        """The one extent of small files that share a chunk, by node, as far as remembered."""
        self.disabled = False
        self._thread = threading.Thread(target=self._work, name="push", daemon=True)
        self._thread.start()

    def wants(self, chunk: bytes) -> bool:
        """Whether the small files of a chunk are worth a push: not, when it was done and nothing has changed since."""
        group = self._groups.get(chunk)
        return group is None or group.version != self._version or time.monotonic() - group.pushed_at >= _AGAIN_SECONDS

    def push(self, push: Push) -> None:
        """Store soon. Cheap; leaves it out when busy."""
        if self.disabled:
            return
        with self._lock:
            if self._bytes + push.cost > _MOST_QUEUED:
                return
            self._bytes += push.cost
            self._jobs += 1
        self._queue.put(push)

    def push_then(self, push: Push, answer: Callable[[], object]) -> bool:
        """Store the neighbours first, then ``answer``, when nothing is being stored now. False: the caller answers."""
        if self.disabled:
            return False
        with self._lock:
            if self._jobs:
                return False
            self._bytes += push.cost
            self._jobs += 1
        push.answer = answer
        self._queue.put(push)
        return True

    def listed(self, nodes: Sequence[int]) -> None:
        """The kernel has just learnt of these small files: store those whose chunk is at hand."""
        self._version += 1
        if self.disabled or not self.hints:
            return
        hints = self.hints
        likely = [node for node in nodes if node in hints]
        if likely:
            with self._lock:
                self._jobs += 1
            self._queue.put(likely)

    def forget(self, node: int) -> None:
        """The kernel has dropped an inode, and its pages."""
        self._pushed.discard(node)

    def close(self) -> None:
        """End the thread."""
        self.disabled = True
        self._queue.put(None)
        self._thread.join(timeout=2)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if self.disabled:
                    pass
                elif isinstance(job, Push):
                    self._push(job)
                else:
                    self._push_listed(job)
            except Exception as error:
                self._on_error("filling the page cache failed", error)
            try:
                if isinstance(job, Push):
                    self._answer(job)
            except Exception as error:
                self._on_error("answering a read failed", error)
            with self._lock:
                self._jobs -= 1
                if isinstance(job, Push):
                    self._bytes -= job.cost
            del job

    def _answer(self, push: Push) -> None:
        answer, push.answer = push.answer, None
        if answer is not None:
            answer()

    def _push(self, push: Push) -> None:
        if push.shared is not None:
            self._push_neighbours(push, push.shared)
        self._answer(push)
        for extent in push.extents:
            data = push.chunks.get(extent.key)
            if data is not None:
                self._store(push.place.base | push.ino, push.size, extent, data)

    def _push_neighbours(self, push: Push, key: bytes) -> None:
        data = push.chunks.get(key)
        if data is None or not self.wants(key):
            return
        known, pushed, base = self._known, self._pushed, push.place.base
        if len(pushed) > _MOST_PUSHED:
            pushed.clear()
        group = self._group(push.place, push.ino, key)
        started = time.monotonic()
        again = started - group.pushed_at >= _AGAIN_SECONDS
        group.pushed_at, group.version = started, self._version
        pushed.add(base | push.ino)
        for other, extent in group.files:
            node = base | other
            size = known.get(node)
            if size is None or other == push.ino or (node in pushed and not again):
                continue
            # Before the store: a read that comes in between then finds it noted.
            pushed.add(node)
            if not self._store(node, size, extent, data) or extent.length < size:
                pushed.discard(node)
            if push.answer is not None and time.monotonic() - started > _HEAD_START_SECONDS:
                self._answer(push)

    def _push_listed(self, nodes: Sequence[int]) -> None:
        for node in nodes:
            extent = self.hints.get(node)
            size = self._known.get(node)
            if extent is None or size is None or node in self._pushed:
                continue
            data = self._cache.get(extent.key)
            if data is not None:
                self._pushed.add(node)
                if not self._store(node, size, extent, data):
                    self._pushed.discard(node)

    def _group(self, place: Place, ino: int, key: bytes) -> _Group:
        group = self._groups.get(key)
        if group is None:
            files = [(other, e) for other, e in place.view.chunk_neighbours(ino) if e.key == key and e.offset == 0]
            if len(self._groups) >= _MOST_CHUNKS:
                del self._groups[next(iter(self._groups))]
            group = self._groups[key] = _Group(files)
            hints = self.hints
            for _ in range(len(hints) + len(files) - _MOST_HINTS):
                del hints[next(iter(hints))]
            for other, extent in files:
                hints[place.base | other] = extent
        return group

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
