"""Damaged chunks from files: the tree says which bytes of which files a chunk holds, and its key says if they are it.

Exact and cheap: only the ranges are read, from a directory or, in one pass, from an archive.
"""

import contextlib
import errno
import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from lamina.errors import SourceError
from lamina.fs.node import key_ino, unpack_extent
from lamina.fs.paths import Paths
from lamina.fs.types import Extent
from lamina.fs.view import StoredTree
from lamina.ingest.tar import REGULAR, Member, TarReader
from lamina.ingest.unpacked import open_stream
from lamina.pool.names import printable
from lamina.pool.scrubbing.damage import Hit

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BLOCK = 1 << 20
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO, errno.EACCES})


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of a file that lie in a chunk: ``length`` from ``offset`` in the file, ``at`` in the chunk."""

    offset: int
    length: int
    at: int
    chunk: bytes


Plan = dict[bytes, list[Range]]
"""Ranges by path below the root, each list by offset."""


@dataclass(slots=True)
class _Assembly:
    """A chunk that is being put together. ``left`` are its pieces, (at, length), that are not yet there.

    ``wrong``: all were there and did not make the chunk: one of the files is another by now.
    """

    data: bytearray
    left: set[tuple[int, int]]
    wrong: bool = False


def plan_of(tree: StoredTree, hits: Sequence[Hit]) -> Plan:
    """Where the chunks of these extents lie in files; a file of several names is looked for under each."""
    extents: dict[int, list[Extent]] = {}
    for key, value in hits:
        extents.setdefault(key_ino(key), []).append(unpack_extent(key, value))
    linked = {ino for ino in extents if _has_links(tree, ino)}
    paths = Paths(tree)
    named = {ino: [path] for ino, path in paths.of(sorted(extents.keys() - linked)).items()}
    if linked:
        named.update(paths.all_of(linked))
    plan: Plan = {}
    for ino, names in named.items():
        ranges = [Range(one.offset, one.length, one.chunk_offset, one.key) for one in extents[ino]]
        for name in names:
            plan[name] = sorted(ranges, key=lambda one: one.offset)
    return plan


def _has_links(tree: StoredTree, ino: int) -> bool:
    try:
        return tree.inode(ino).nlink > 1
    except Exception:  # hidden by a damaged node: all its names are looked for
        return True


class Assembler:
    """Puts chunks together from pieces, and hands over those that are what their keys say."""

    def __init__(self, plan: Plan, sizes: Mapping[bytes, int], done: Callable[[bytes, bytes], None]) -> None:
        """``sizes``: decoded bytes of each chunk; ``done`` gets a key and the bytes."""
        self._done = done
        pieces: dict[bytes, set[tuple[int, int]]] = {}
        for ranges in plan.values():
            for one in ranges:
                pieces.setdefault(one.chunk, set()).add((one.at, one.length))
        self._open: dict[bytes, _Assembly] = {}
        for chunk, some in pieces.items():
            size = max(sizes.get(chunk, 0), max(at + length for at, length in some))
            if _covers(some, size):
                self._open[chunk] = _Assembly(bytearray(size), some)

    def wants(self, one: Range) -> bool:
        """Whether a range is still needed: for the first time, or in place of one that may have been wrong."""
        assembly = self._open.get(one.chunk)
        return assembly is not None and (assembly.wrong or (one.at, one.length) in assembly.left)

    @property
    def is_done(self) -> bool:
        """Whether nothing is needed any more."""
        return not self._open

    @property
    def is_wrong(self) -> bool:
        """Whether another pass may help: pieces did not fit together, and other files may have the same ones."""
        return any(assembly.wrong for assembly in self._open.values())

    def put(self, one: Range, data: bytes | memoryview, at: int = 0) -> None:
        """Take bytes of a range, from its byte ``at`` on."""
        assembly = self._open.get(one.chunk)
        if assembly is not None:
            assembly.data[one.at + at : one.at + at + len(data)] = data

    def end(self, one: Range) -> None:
        """All bytes of a range were put."""
        assembly = self._open.get(one.chunk)
        if assembly is None:
            return
        assembly.left.discard((one.at, one.length))
        if assembly.left:
            return
        data = bytes(assembly.data)
        if blake3(data).digest() == one.chunk:
            del self._open[one.chunk]
            self._done(one.chunk, data)
        else:
            assembly.wrong = True


def _covers(pieces: set[tuple[int, int]], size: int) -> bool:
    """Whether pieces, (at, length), make up all of a chunk: what no file shows of it cannot be had from files."""
    end = 0
    for at, length in sorted(pieces):
        if at > end:
            return False
        end = max(end, at + length)
    return end == size


def read_directory(root: Path, plan: Plan, assembler: Assembler) -> None:
    """Read what is planned from a directory. Links are never followed. Raises ``SourceError``."""
    try:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"cannot repair from '{printable(str(root))}': {error.strerror}") from None
    try:
        for path in sorted(plan):
            wanted = plan[path]
            if not any(map(assembler.wants, wanted)):
                continue
            with _file(top, path) as fd:
                if fd < 0:
                    continue
                for one in filter(assembler.wants, wanted):
                    try:
                        data = os.pread(fd, one.length, one.offset)
                    except OSError as error:
                        shown = printable(os.fsdecode(path))
                        raise SourceError(f"cannot read '{shown}' in the source: {error.strerror}") from None
                    if len(data) == one.length:
                        assembler.put(one, data)
                        assembler.end(one)
    finally:
        os.close(top)


@contextlib.contextmanager
def _file(top: int, path: bytes) -> Iterator[int]:
    """A regular file below ``top``; -1 where there is none of this path."""
    opened: list[int] = []
    try:
        at = top
        *above, name = path.split(b"/")
        for part in above:
            at = os.open(part, _FLAGS | os.O_DIRECTORY, dir_fd=at)
            opened.append(at)
        at = _open_quietly(name, at)
        opened.append(at)
        yield at if stat.S_ISREG(os.fstat(at).st_mode) else -1
    except OSError as error:
        if error.errno not in _GONE:
            raise
        yield -1
    finally:
        for fd in opened:
            os.close(fd)


def _open_quietly(name: bytes, directory: int) -> int:
    """Open without touching the access time, which an import keeps."""
    try:
        return os.open(name, _FLAGS | os.O_NOATIME, dir_fd=directory)
    except PermissionError:  # O_NOATIME is for the owner
        return os.open(name, _FLAGS, dir_fd=directory)


def read_archive(archive: Path, plan: Plan, assembler: Assembler) -> None:
    """Read what is planned from a tar, compressed or not, in one pass. Raises ``SourceError``."""
    try:
        with archive.open("rb", buffering=1 << 20) as stream:
            reader = TarReader(open_stream(stream))
            for member in reader:
                if member.type != REGULAR or assembler.is_done:
                    continue
                wanted = [one for one in plan.get(_path(member.name), ()) if assembler.wants(one)]
                if wanted:
                    _read_member(reader, member, wanted, assembler)
    except OSError as error:
        raise SourceError(f"cannot repair from '{printable(str(archive))}': {error.strerror}") from None


def _path(name: bytes) -> bytes:
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


def _read_member(reader: TarReader, member: Member, wanted: Sequence[Range], assembler: Assembler) -> None:
    """Go through a member's bytes once; between its segments a file holds zeros."""
    wanted = [one for one in wanted if one.offset + one.length <= member.size]
    ends = sorted(wanted, key=lambda one: one.offset + one.length)
    starts = [one.offset for one in wanted]
    buffer = bytearray(_BLOCK)
    position = 0
    for begin, data in _contents(reader, member, buffer):
        if not ends:
            return
        position = begin + len(data)
        for one in wanted[: bisect_left(starts, position)]:
            first, last = max(one.offset, begin), min(one.offset + one.length, position)
            if first < last:
                assembler.put(one, data[first - begin : last - begin], first - one.offset)
        while ends and ends[0].offset + ends[0].length <= position:
            assembler.end(ends.pop(0))


def _contents(reader: TarReader, member: Member, buffer: bytearray) -> Iterator[tuple[int, memoryview]]:
    """(offset, bytes) of a whole file, holes as zeros."""
    position = 0
    zeros = memoryview(bytes(_BLOCK))
    for offset, length in [*member.segments, (member.size, 0)]:
        while position < offset:
            size = min(offset - position, _BLOCK)
            yield position, zeros[:size]
            position += size
        end = offset + length
        while position < end:
            view = memoryview(buffer)[: min(end - position, _BLOCK)]
            count = reader.read_into(view)
            if not count:
                return
            yield position, view[:count]
            position += count
