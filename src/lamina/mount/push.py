"""Filling the page cache before it asks: FUSE_NOTIFY_STORE from a thread of its own.

A small read decodes a whole chunk. The rest of the chunk, and the other small files in it that the kernel knows, are
stored into the page cache, so that the next reads there cost no request. This is right on immutable trees only: on a
mount that can be written it would overwrite dirty pages.

The thread is its own because a store waits for pages that a pending read has locked; whoever answers reads must not.

Neighbours are stored while the answer to the read is held back: a program that walks a directory asks for them within
microseconds, and two busy threads take the interpreter from each other for longer than a request takes (measured on a
tree of 20,000 files: stores beside the requests made a walk slower than none). Only one answer at a time is held back,
its own file is left out until it is given, and every other answer is given without this thread: so nothing here can
wait for itself.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from lamina.fs.types import Extent
from lamina.mount import protocol
from lamina.mount.namespace import Place

_PAGE = os.sysconf("SC_PAGESIZE")
_MOST_QUEUED = 16 << 20
"""Bytes of chunks that wait to be pushed; beyond that a push is left out."""
_MOST_PUSHED = 200_000
"""Nodes remembered as already in the page cache."""
_MOST_HINTS = 60_000
"""Small files of which it is remembered where in a chunk they lie."""
_MOST_GROUPS = 1024
"""Chunks whose small files are remembered."""
_FEWEST = 6
"""Neighbours that are worth holding an answer back for."""
_AGAIN_SECONDS = 1.0
"""A read this long after its chunk was pushed says that the page cache has let go; sooner, that both met on the way."""
_HELD_BACK_SECONDS = 0.0015
"""How long an answer may be held back."""
_GONE = frozenset((errno.ENOENT, errno.ENODEV, errno.EINTR))


class Store:
    """An extent of a file to be stored, from the chunk ``data``."""

    __slots__ = ("data", "extent", "node", "size")

    def __init__(self, node: int, size: int, extent: Extent, data: bytes) -> None:
        self.node = node
        self.size = size
        self.extent = extent
        self.data = data


class _Job:
    __slots__ = ("answer", "cost", "stores")

    def __init__(self, stores: list[Store], answer: Callable[[], object] | None) -> None:
        self.stores = stores
        self.answer = answer
        self.cost = sum(len(store.data) for store in stores) if answer is None else 0


class _Group:
    """The small files of one chunk; when they were last stored, and what the kernel knew of then."""

    __slots__ = ("files", "pushed_at", "version")

    def __init__(self, files: list[tuple[int, Extent]]) -> None:
        self.files = files
        self.pushed_at = -_AGAIN_SECONDS
        self.version = -1


class Pusher:
    """Queues decoded chunks for the page cache, and remembers which small files share one."""

    def __init__(self, device: int, known: dict[int, int], on_error: Callable[[str, BaseException], None]) -> None:
        self._device = device
        self._known = known
        self._on_error = on_error
        self._pushed: set[int] = set()
        self._groups: dict[bytes, _Group] = {}
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._bytes = 0
        self._jobs = 0
        self._lock = threading.Lock()
        self.version = 0
        """Counts up whenever the kernel gets to know files."""
        self.hints: dict[int, Extent] = {}
        """The one extent of small files that share a chunk, by node, as far as remembered."""
        self.disabled: bool = False
        self._thread = threading.Thread(target=self._work, name="push", daemon=True)
        self._thread.start()

    def learn(self, place: Place, ino: int, key: bytes) -> None:
        """Note which small files share the chunk of ``ino``, so that reads of them need no look into the tree."""
        if key in self._groups:
            return
        files = [(other, e) for other, e in place.view.chunk_neighbours(ino) if e.key == key and e.offset == 0]
        with self._lock:
            if len(self._groups) >= _MOST_GROUPS:
                del self._groups[next(iter(self._groups))]
            self._groups[key] = _Group(files)
            hints = self.hints
            for _ in range(len(hints) + len(files) - _MOST_HINTS):
                del hints[next(iter(hints))]
            for other, extent in files:
                hints[place.base | other] = extent

    def push(self, stores: list[Store]) -> None:
        """Store soon. Cheap; leaves it out when busy."""
        if self.disabled:
            return
        job = _Job(stores, None)
        with self._lock:
            if self._bytes + job.cost > _MOST_QUEUED:
                return
            self._bytes += job.cost
            self._jobs += 1
        self._queue.put(job)

    def hold_back(self, place: Place, ino: int, key: bytes, data: bytes, answer: Callable[[], object]) -> bool:
        """Store the neighbours of ``ino`` in the chunk, then ``answer``. False when that is not worth it, or busy."""
        group = self._groups.get(key)
        if group is None or group.version == self.version or self._jobs or self.disabled:
            return False
        started = time.monotonic()
        again = started - group.pushed_at >= _AGAIN_SECONDS
        group.version = self.version
        known, pushed, base = self._known, self._pushed, place.base
        stores = []
        for other, extent in group.files:
            node = base | other
            size = known.get(node)
            if size == extent.length and other != ino and (again or node not in pushed):
                stores.append(Store(node, extent.length, extent, data))
        if len(stores) < _FEWEST:
            return False
        if not self._claim():
            return False
        group.pushed_at = started
        if len(pushed) > _MOST_PUSHED:
            pushed.clear()
        pushed.add(base | ino)
        self._queue.put(_Job(stores, answer))
        return True

    def _claim(self) -> bool:
        with self._lock:
            if self._jobs:
                return False
            self._jobs += 1
            return True

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
                self._push(job)
            except Exception as error:
                self._on_error("filling the page cache failed", error)
            try:
                _answer(job)
            except Exception as error:
                self._on_error("answering a read failed", error)
            with self._lock:
                self._jobs -= 1
                self._bytes -= job.cost
            del job

    def _push(self, job: _Job) -> None:
        pushed = self._pushed
        until = time.monotonic() + _HELD_BACK_SECONDS
        for store in job.stores:
            if self.disabled:
                return
            # Noted before: a read that comes in between then finds it noted.
            pushed.add(store.node)
            if not self._store(store.node, store.size, store.extent, store.data):
                pushed.discard(store.node)
            if job.answer is not None and time.monotonic() > until:
                _answer(job)

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


def _answer(job: _Job) -> None:
    answer, job.answer = job.answer, None
    if answer is not None:
        answer()
