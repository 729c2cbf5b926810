"""Reading a pack from its first byte to its last, whatever state it is in: how an index is rebuilt from packs alone.

A pack that nothing happened to is a run of records up to its padding. Otherwise: a payload that does not match its
checksum is passed over; a range that gc gave back reads as zeros and is skipped; where no record begins, the next one
is searched for: a header whose check fits before a payload that fits its checksum. Such a find may be a piece of user
data that looks like a pack, because it is one: it is ``strayed``, and so is all that follows it in the pack.
"""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import xxhash

from lamina.errors import DamagedData
from lamina.store.disk import DISK, Disk
from lamina.store.record import (
    PACK_HEADER,
    RECORD_HEADER,
    RECORD_MAGIC,
    Kind,
    PackHeader,
    Record,
    parse_pack_header,
    parse_record_header,
)

_BLOCK = 4 << 20
_PAGE = 4096
_MOST_STORED = 1 << 20
"""No payload is longer: objects are shorter, and what does not shrink is stored as it is."""
_KINDS = frozenset(int(kind) for kind in Kind)
_ZEROS = bytes(_PAGE)
_TAIL = 8
"""A payload that ends with so many zeros has lost them to a hole: compressed or not, data hardly ever ends so."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """A record whose payload matches its checksum. ``searched``: it was found by searching."""

    record: Record
    payload: memoryview
    strayed: bool
    searched: bool


class Cause(Enum):
    """Why a range cannot be read, as far as that can be told."""

    HOLE = "beside a hole: the remains of what was given back"
    END = "at the end: what was being written there"
    DAMAGE = "damage"


@dataclass(slots=True)
class Damage:
    """A range of a pack that holds something, but no record that can be read. ``end`` is the byte after it."""

    start: int
    end: int
    cause: Cause


@dataclass(slots=True)
class PackScan:
    """One pack, read once. ``header`` is None where its first bytes are damaged; ``end`` is behind its last record."""

    path: Path
    disk: Disk = DISK
    progress: Callable[[int], None] | None = None
    """Called with the bytes passed since the last call."""
    size: int = 0
    header: PackHeader | None = None
    end: int = 0
    damage: list[Damage] = field(default_factory=list)

    def records(self) -> Iterator[Scanned]:
        """All records that can be read, in the order they lie. Raises ``OSError`` where the file cannot be opened."""
        fd = self.disk.open(self.path, os.O_RDONLY)
        try:
            self.size = self.disk.stat(fd).st_size
            yield from self._records(_Window(fd, self.size, self.disk, self.progress))
        finally:
            self.disk.close(fd)

    def _records(self, window: "_Window") -> Iterator[Scanned]:
        try:
            self.header = parse_pack_header(bytes(window.at(0, PACK_HEADER.size)))
            self.end = PACK_HEADER.size
        except DamagedData:
            if self.size:
                self._note(0, min(PACK_HEADER.size, self.size), Cause.DAMAGE)
        position = PACK_HEADER.size
        strayed = searched = False
        while position < self.size:
            head = window.at(position, RECORD_HEADER)
            record = self._header(window, position, head)
            if record is None:
                # The magic's bytes are not zero, so none can begin among zeros.
                start = window.skip_zeros(position)
                found = self._search(window, start)
                if found > start:
                    hole = start > position or window.is_hole(-(-start // _PAGE) * _PAGE, found)
                    cause = Cause.HOLE if hole else Cause.DAMAGE if found < self.size else Cause.END
                    self._note(start, found, cause)
                position, strayed, searched = found, True, True
                continue
            payload = window.at(record.offset, record.stored)
            if xxhash.xxh3_64_intdigest(payload) != record.checksum:
                hole = not any(payload[-_TAIL:])
                self._note(position, record.offset + record.stored, Cause.HOLE if hole else Cause.DAMAGE)
            else:
                self.end = record.offset + record.stored
                yield Scanned(record, payload, strayed, searched)
            searched = False
            position = record.offset + record.stored

    def _header(self, window: "_Window", position: int, head: memoryview) -> Record | None:
        """The record that begins here, if its header checks and its payload lies within the file."""
        try:
            record = parse_record_header(bytes(head), position)
        except DamagedData:
            return None
        if record.kind not in _KINDS or record.stored > _MOST_STORED or record.offset + record.stored > self.size:
            return None
        return record

    def _search(self, window: "_Window", start: int) -> int:
        """Where the next record begins whose header and payload check; the size of the pack where there is none."""
        position = start
        while position < self.size:
            found = window.find(RECORD_MAGIC, position)
            if found < 0:
                break
            record = self._header(window, found, window.at(found, RECORD_HEADER))
            if record is not None:
                payload = window.at(record.offset, record.stored)
                if xxhash.xxh3_64_intdigest(payload) == record.checksum:
                    return found
            position = found + 1
        return self.size

    def _note(self, start: int, end: int, cause: Cause) -> None:
        self.damage.append(Damage(start, end, cause))


class _Window:
    """A part of a file in memory that moves forward. Pages that the disk cannot read are zeros."""

    def __init__(self, fd: int, size: int, disk: Disk, progress: Callable[[int], None] | None) -> None:
        self._fd = fd
        self._size = size
        self._disk = disk
        self._progress = progress
        self._start = 0
        self._length = 0
        self._buffer = bytearray(_BLOCK + _MOST_STORED)
        """One for all: a new one for each block would cost more in page faults than the checksums."""
        self._view = memoryview(self._buffer)
        self._passed = 0

    def at(self, offset: int, length: int) -> memoryview:
        """The bytes from ``offset``, fewer at the end of the file. Holds until the next call."""
        begin = offset - self._start
        if begin < 0 or begin + length > self._length:
            self._move(offset)
            begin = offset - self._start
        return self._view[begin : min(begin + length, self._length)]

    def find(self, what: bytes, offset: int) -> int:
        """The first place from ``offset`` on where ``what`` stands, or -1."""
        while offset < self._size:
            self.at(offset, len(what))
            found = self._buffer.find(what, offset - self._start, self._length)
            if found >= 0:
                return self._start + found
            # One that goes across the border is found in the next round.
            after = self._start + self._length - len(what) + 1
            if after <= offset:
                return -1
            offset = after
        return -1

    def is_hole(self, offset: int, end: int) -> bool:
        """Whether the page at ``offset`` is one of zeros that begins before ``end``."""
        page = self.at(offset, _PAGE)
        return offset < end and len(page) == _PAGE and page == _ZEROS

    def skip_zeros(self, offset: int) -> int:
        """The first byte from ``offset`` on that is not zero, or the size of the file."""
        while offset < self._size:
            if offset % _PAGE == 0:
                offset = self._next_data(offset)
            page = self.at(offset, _PAGE - offset % _PAGE)
            if not page or page != _ZEROS[: len(page)]:
                rest = bytes(page)
                return offset + len(rest) - len(rest.lstrip(b"\0"))
            offset += len(page)
        return self._size

    def _next_data(self, offset: int) -> int:
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return self._size
            return offset

    def _move(self, offset: int) -> None:
        """Have as much as fits from ``offset`` on; what is there already is kept."""
        begin = offset - self._start
        kept = self._length - begin if 0 <= begin < self._length else 0
        self._buffer[:kept] = self._buffer[begin : begin + kept]
        self._start = offset
        wanted = max(min(len(self._buffer), self._size - offset) - kept, 0)
        self._read(offset + kept, self._view[kept : kept + wanted])
        self._length = kept + wanted
        end = offset + self._length
        if self._progress is not None and end > self._passed:
            self._progress(end - self._passed)
            self._passed = end

    def _read(self, offset: int, into: memoryview) -> None:
        done = 0
        while done < len(into):
            try:
                count = self._disk.read_into(self._fd, into[done : done + _BLOCK], offset + done)
            except OSError:
                count = self._read_pages(offset + done, into[done : done + _BLOCK])
            if not count:  # cut short since it was opened
                into[done:] = bytes(len(into) - done)
                return
            done += count

    def _read_pages(self, offset: int, into: memoryview) -> int:
        """The same page by page, after an error."""
        done = 0
        while done < len(into):
            some = min(_PAGE - (offset + done) % _PAGE, len(into) - done)
            try:
                part = self._disk.read(self._fd, some, offset + done)
            except OSError:
                part = b""
            into[done : done + some] = part.ljust(some, b"\0")
            done += some
        return done
