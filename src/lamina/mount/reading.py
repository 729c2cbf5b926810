"""READ and LSEEK: from a range of a file to the parts of chunks, with sequential readers detected and served ahead."""

import errno
import os
from bisect import bisect_right
from collections.abc import Callable

from lamina.errors import DamagedData
from lamina.fs.types import Extent
from lamina.mount import protocol
from lamina.mount.data import ChunkCache, Decoder, Wanted
from lamina.mount.namespace import Place
from lamina.mount.push import Pusher, Store

_SMALL = 128 << 10
"""Files up to this many bytes: the rest of the chunk is pushed after any small read."""
_SMALL_READ = 64 << 10
"""Reads up to this many bytes count as small."""
_WINDOW = 16 << 20
"""Extents of a sequential reader are taken for this many bytes at a time."""
_WHOLE = 2 << 20
"""Files up to this many bytes: all extents are taken at the first read."""
_AHEAD_FIRST = 512 << 10
"""Decoded ahead of the first read when it starts at 0: most files are read on to their end."""
_AHEAD_MIN = 2 << 20
_AHEAD_MAX = 8 << 20
_AHEAD_STEP = 1 << 20
_MOST_STATES = 4096
_MOST_PARTS = 1000
"""``IOV_MAX`` is 1024 (limits.h)."""
_ZEROS = memoryview(bytes(1 << 20))

Part = tuple[bytes | None, int, int]
"""(chunk key, first byte, end) in a chunk, or (None, 0, length) of a hole."""

Report = Callable[[int, bytes, BaseException], None]
"""Logs (node, chunk key, error) of a read that failed."""


class FileState:
    """What is remembered of a file that is being read."""

    __slots__ = ("ahead", "extents", "ino", "next", "place", "run", "size", "starts", "window_end", "window_start")

    def __init__(self, place: Place, ino: int, size: int) -> None:
        self.place = place
        self.ino = ino
        self.size = size
        self.next = 0
        self.run = 0
        self.ahead = 0
        self.window_start = 0
        self.window_end = 0
        self.extents: list[Extent] = []
        self.starts: list[int] = []

    def load(self, start: int, end: int) -> None:
        """Have the extents that touch [start, end)."""
        self.extents = self.place.view.extents(self.ino, start, end)
        self.starts = [extent.offset for extent in self.extents]
        self.window_start, self.window_end = start, end

    def parts(self, start: int, end: int) -> list[Part]:
        """Where the bytes [start, end) are; they must be loaded."""
        found: list[Part] = []
        extents = self.extents
        position = start
        for index in range(max(bisect_right(self.starts, start) - 1, 0), len(extents)):
            extent = extents[index]
            offset = extent.offset
            if offset >= end:
                break
            stop = min(offset + extent.length, end)
            if stop <= position:
                continue
            if offset > position:
                found.append((None, 0, offset - position))
                position = offset
            inside = extent.chunk_offset - offset
            found.append((extent.key, inside + position, inside + stop))
            position = stop
        if position < end:
            found.append((None, 0, end - position))
        return found

    def touching(self, start: int, end: int) -> list[Extent]:
        """The loaded extents that touch [start, end)."""
        first = max(bisect_right(self.starts, start) - 1, 0)
        return [e for e in self.extents[first : bisect_right(self.starts, end - 1)] if e.offset + e.length > start]


class Reader:
    """Answers READ and LSEEK."""

    def __init__(
        self,
        device: int,
        cache: ChunkCache,
        decoder: Decoder,
        pusher: Pusher,
        locate: Callable[[int], tuple[Place, int]],
        known: dict[int, int],
        report: Report,
    ) -> None:
        self._device = device
        self._cache = cache
        self._decoder = decoder
        self._pusher = pusher
        self._locate = locate
        self._known = known
        self._report = report
        self._states: dict[int, FileState] = {}
        self._hints = pusher.hints

    def forget(self, node: int) -> None:
        """The kernel has dropped an inode."""
        self._states.pop(node, None)

    def _state(self, node: int) -> FileState:
        state = self._states.get(node)
        if state is None:
            place, ino = self._locate(node)
            size = self._known.get(node)
            if size is None:
                size = place.view.inode(ino).size
            state = FileState(place, ino, size)
            if len(self._states) >= _MOST_STATES:
                for old in list(self._states)[: _MOST_STATES // 4]:
                    del self._states[old]
            self._states[node] = state
        return state

    def read(self, unique: int, node: int, request: bytes) -> None:
        """READ: answered here when every chunk is in the cache, else by the thread that decodes the last."""
        _, offset, length = protocol.READ_IN.unpack_from(request, 40)
        hint = self._hints.get(node)
        if hint is not None and self._read_small(unique, node, hint, offset, length):
            return
        state = self._state(node)
        size = state.size
        end = min(offset + length, size)
        if offset >= end:
            os.write(self._device, protocol.OUT_HEADER.pack(16, 0, unique))
            return
        sequential = offset == state.next or not offset
        if offset == state.next:
            state.run += 1
        else:
            state.run = 0 if offset else 1
            state.ahead = 0
        state.next = end
        if offset < state.window_start or end > state.window_end:
            if size <= _WHOLE:
                state.load(0, size)
            elif sequential:
                state.load(offset, min(max(offset + _WINDOW, end), size))
            else:
                state.load(offset, end)
        parts = state.parts(offset, end)
        cache = self._cache
        chunks: dict[bytes, bytes | None] = {}
        missing = False
        for key, _, _ in parts:
            if key is not None and key not in chunks:
                data = chunks[key] = cache.get(key)
                if data is None:
                    missing = True
        # Files up to a chunk or so are pushed whole at the first read; of larger ones the chunk around a read that
        # does not go on where the last ended. A sequential reader is left to the kernel's own read-ahead, which
        # pushed pages would keep from growing.
        extents: list[Extent] | None = None
        if chunks and length <= _SMALL_READ and (size <= _SMALL or (not sequential and offset)):
            # Taken now: a later request may load another window before a decoding thread gets to push.
            extents = state.touching(offset, end) or None
        if missing:

            def done(wanted: Wanted) -> None:
                if wanted.error is not None:
                    self._fail(unique, node, wanted.error_key, wanted.error)
                elif extents is not None and self._hold_back(state, unique, node, parts, extents, wanted.chunks):
                    pass
                elif self._answer(unique, node, parts, wanted.chunks) and extents is not None:
                    self._push(state, extents, offset, end, wanted.chunks)

            self._decoder.want(state.place.view, Wanted(chunks, done))
        elif self._answer(unique, node, parts, chunks) and extents is not None:
            self._push(state, extents, offset, end, chunks)
        if sequential and end < size:
            self._read_ahead(state, end)

    def _read_small(self, unique: int, node: int, extent: Extent, offset: int, length: int) -> bool:
        """Answer for a small file that is known to lie whole in a chunk that is in the cache. False: the long way."""
        data = self._cache.get(extent.key)
        size = extent.length
        if data is None or self._known.get(node) != size or len(data) < extent.chunk_offset + size:
            return False
        start = extent.chunk_offset
        body = data[start + offset : start + min(offset + length, size)] if offset < size else b""
        reply = protocol.OUT_HEADER.pack(16 + len(body), 0, unique) + body
        place, ino = self._locate(node)
        if not self._pusher.hold_back(place, ino, extent.key, data, lambda: self._write(reply)):
            self._write(reply)
        return True

    def _hold_back(
        self,
        state: FileState,
        unique: int,
        node: int,
        parts: list[Part],
        extents: list[Extent],
        chunks: dict[bytes, bytes | None],
    ) -> bool:
        """For the first read from a chunk that small files share: learn of them, and let them go first. Decoder's."""
        extent = extents[0]
        data = chunks.get(extent.key)
        if data is None or extent.length != state.size or len(data) <= extent.length:
            return False
        self._pusher.learn(state.place, state.ino, extent.key)
        return self._pusher.hold_back(
            state.place, state.ino, extent.key, data, lambda: self._answer(unique, node, parts, chunks)
        )

    def _answer(self, unique: int, node: int, parts: list[Part], chunks: dict[bytes, bytes | None]) -> bool:
        iov: list[bytes | memoryview] = [b""]
        total = 16
        for key, first, last in parts:
            length = last - first
            total += length
            if key is None:
                while length > 0:
                    iov.append(_ZEROS[:length])
                    length -= len(_ZEROS)
                continue
            data = chunks[key]
            if data is None or len(data) < last:
                self._fail(unique, node, key, DamagedData("a chunk is shorter than the extent that refers to it"))
                return False
            iov.append(data if length == len(data) else memoryview(data)[first:last])
        iov[0] = protocol.OUT_HEADER.pack(total, 0, unique)
        if len(iov) > _MOST_PARTS:
            iov = [b"".join(iov)]
        return self._write(*iov)

    def _write(self, *parts: bytes | memoryview) -> bool:
        try:
            os.writev(self._device, parts)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # the reader was killed, or the mount ends
                raise
            return False
        return True

    def _fail(self, unique: int, node: int, key: bytes, error: BaseException) -> None:
        self._report(node, key, error)
        self._write(protocol.error_reply(unique, errno.EIO))

    def _push(
        self, state: FileState, extents: list[Extent], start: int, end: int, chunks: dict[bytes, bytes | None]
    ) -> None:
        """After a small read: the rest of what its chunks hold of the file."""
        if start <= extents[0].offset and end >= extents[-1].offset + extents[-1].length:
            return
        node = state.place.base | state.ino
        found = ((extent, chunks.get(extent.key)) for extent in extents)
        self._pusher.push([Store(node, state.size, extent, data) for extent, data in found if data is not None])

    def _read_ahead(self, state: FileState, end: int) -> None:
        distance = _AHEAD_FIRST if state.run == 1 else min(_AHEAD_MIN * state.run, _AHEAD_MAX)
        target = min(end + distance, state.size)
        first = max(state.ahead, end) if state.ahead <= target else end
        if target - first < min(_AHEAD_STEP, distance) and target < state.size:
            return
        if first >= target:
            return
        if target > state.window_end or first < state.window_start:
            state.load(end, min(end + _WINDOW, state.size))
        keys = dict.fromkeys(key for key, _, _ in state.parts(first, target) if key is not None)
        state.ahead = target
        self._decoder.ahead(state.place.view, list(keys))

    def lseek(self, unique: int, node: int, request: bytes) -> None:
        """LSEEK with SEEK_DATA or SEEK_HOLE; adjacent extents are one run of data."""
        _, offset, whence = protocol.LSEEK_IN.unpack_from(request, 40)
        place, ino = self._locate(node)
        size = self._state(node).size
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            os.write(self._device, protocol.error_reply(unique, errno.EINVAL))
            return
        found = seek(place, ino, size, offset, data=whence == os.SEEK_DATA)
        if found is None:
            os.write(self._device, protocol.error_reply(unique, errno.ENXIO))
        else:
            os.write(self._device, protocol.LSEEK_REPLY.pack(24, 0, unique, found))


def seek(place: Place, ino: int, size: int, offset: int, *, data: bool) -> int | None:
    """The first byte of data, or of a hole, at or after ``offset``; None when there is none (lseek(2): ENXIO).

    Looks at a window that grows, since a large file has thousands of extents and the answer is mostly near.
    """
    if offset >= size:
        return None
    position, window = offset, 4 << 20
    start = offset
    while start < size:
        end = min(start + window, size)
        for extent in place.view.extents(ino, start, end):
            if extent.offset + extent.length <= position or not extent.length:
                continue
            if data:
                return max(offset, extent.offset)
            if extent.offset > position:
                return position
            position = extent.offset + extent.length
        if not data and position < end:
            return position
        start, window = end, window * 4
    return None if data else size
