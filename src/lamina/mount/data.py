"""Decoded chunks: a bounded cache and the threads that fill it.

The request loop never decodes. It asks for chunks; the thread that finishes the last chunk of a read answers it.
"""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.fs.view import TreeView


DEFAULT_CACHE_BYTES = 64 << 20
DEFAULT_THREADS = 2 if (os.cpu_count() or 1) <= 2 else 3
"""More take the interpreter from each other without decoding faster. At least two: one may wait for another's push."""
_MOST_AHEAD = 256
"""Chunks that wait to be decoded ahead of any read; more are not asked for."""


class ChunkCache:
    """Decoded chunks by key, least recently used first out, bounded by their bytes.

    Look-ups take no lock: each step is one C call on keys that are ``bytes``, which the interpreter lock makes whole.
    """

    def __init__(self, limit: int = DEFAULT_CACHE_BYTES) -> None:
        self._limit = limit
        self._chunks: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __contains__(self, key: bytes) -> bool:
        return key in self._chunks

    @property
    def size(self) -> int:
        """Bytes of all chunks held."""
        return self._bytes

    def get(self, key: bytes) -> bytes | None:
        """The chunk, or None; a hit makes it the newest."""
        data = self._chunks.get(key)
        if data is not None:
            try:
                self._chunks.move_to_end(key)
            except KeyError:
                pass  # a decoding thread has just let it go
        return data

    def put(self, key: bytes, data: bytes) -> None:
        """Keep a chunk and let the oldest go until the rest fits."""
        with self._lock:
            old = self._chunks.pop(key, None)
            if old is not None:
                self._bytes -= len(old)
            if len(data) > self._limit:
                return
            self._chunks[key] = data
            self._bytes += len(data)
            while self._bytes > self._limit:
                _, gone = self._chunks.popitem(last=False)
                self._bytes -= len(gone)


class Wanted:
    """A read that waits for chunks. ``done`` runs once, in a decoding thread, when all are there or one has failed."""

    __slots__ = ("chunks", "done", "error", "error_key", "missing")

    def __init__(self, chunks: dict[bytes, bytes | None], done: Callable[["Wanted"], None]) -> None:
        self.chunks = chunks
        self.done = done
        self.missing = 0
        self.error: Exception | None = None
        self.error_key = b""


class _Job:
    __slots__ = ("key", "started", "view", "waiting")

    def __init__(self, key: bytes, view: "TreeView") -> None:
        self.key = key
        self.view = view
        self.waiting: list[Wanted] = []
        self.started = False


class Decoder:
    """A few threads that read and decode chunks, those that somebody waits for first."""

    def __init__(self, cache: ChunkCache, threads: int, on_error: Callable[[str, BaseException], None]) -> None:
        self._cache = cache
        self._on_error = on_error
        self._lock = threading.Lock()
        self._jobs: dict[bytes, _Job] = {}
        self._urgent: deque[_Job] = deque()
        self._ahead: deque[_Job] = deque()
        # One token a queued job: a C queue wakes a thread for less than a Condition does.
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"decode-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def want(self, view: "TreeView", wanted: Wanted) -> None:
        """Decode every chunk of ``wanted`` that is None, then call its ``done``. At least one must be None."""
        tokens = 0
        with self._lock:
            for key, data in wanted.chunks.items():
                if data is not None:
                    continue
                wanted.missing += 1
                job = self._jobs.get(key)
                if job is None:
                    job = self._jobs[key] = _Job(key, view)
                    self._urgent.append(job)
                    tokens += 1
                elif not job.started and not job.waiting:
                    # It waits among the read-ahead: let it pass. Whoever takes the second entry finds it started.
                    self._urgent.append(job)
                    tokens += 1
                job.waiting.append(wanted)
        for _ in range(tokens):
            self._tokens.put(True)

    def ahead(self, view: "TreeView", keys: Sequence[bytes]) -> None:
        """Decode chunks that will be wanted soon, when nothing else is to do."""
        tokens = 0
        with self._lock:
            for key in keys:
                if key in self._jobs or key in self._cache:
                    continue
                if len(self._ahead) >= _MOST_AHEAD:
                    break
                job = self._jobs[key] = _Job(key, view)
                self._ahead.append(job)
                tokens += 1
        for _ in range(tokens):
            self._tokens.put(True)

    def close(self) -> None:
        """End the threads after what they are doing now."""
        with self._lock:
            self._ahead.clear()
            self._urgent.clear()
        for _ in self._threads:
            self._tokens.put(False)
        for thread in self._threads:
            thread.join(timeout=5)

    def _take(self) -> _Job | None:
        with self._lock:
            for queue in (self._urgent, self._ahead):
                while queue:
                    job = queue.popleft()
                    if not job.started:
                        job.started = True
                        return job
        return None

    def _work(self) -> None:
        while self._tokens.get():
            job = self._take()
            if job is None:
                continue
            error: Exception | None = None
            data: bytes | None = None
            try:
                # A read may have queued the chunk just when another thread had finished it.
                data = self._cache.get(job.key)
                if data is None:
                    data = job.view.chunk(job.key)
                    self._cache.put(job.key, data)
            except Exception as caught:
                error = caught
            with self._lock:
                del self._jobs[job.key]
                ready = []
                for wanted in job.waiting:
                    wanted.chunks[job.key] = data
                    if error is not None and wanted.error is None:
                        wanted.error, wanted.error_key = error, job.key
                    wanted.missing -= 1
                    if not wanted.missing:
                        ready.append(wanted)
            for wanted in ready:
                try:
                    wanted.done(wanted)
                except Exception as caught:
                    self._on_error("answering a read failed", caught)
            # Nothing of a chunk may stay in this frame while the thread sleeps.
            del job, data, ready
