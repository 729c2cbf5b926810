"""Checking packs against the index: every place of an object is read in the order it lies, and proved by its key.

A record is whole when its header says what the index says, its payload matches its checksum, and what the payload
decodes to has the BLAKE3 that is its key.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import xxhash
from blake3 import blake3

from lamina.errors import DamagedData
from lamina.store.backend import Backend
from lamina.store.codec import Buffer, Codec, Coder
from lamina.store.database import DAMAGED, Database
from lamina.store.objects import Location, signed
from lamina.store.record import (
    PACK_HEADER,
    RECORD_HEADER,
    Kind,
    Record,
    pack_name,
    parse_pack_header,
    parse_record_header,
)

BATCH = 4096
"""Rows that are in memory at the same time."""
_RUN = 4 << 20
"""Bytes that are read at once."""
_GAP = 128 << 10
"""Dead bytes that are read rather than skipped: less than a disk reads in the time of a seek."""

_FIRSTS = """
SELECT id, key, pack, offset, stored, decoded, kind, codec, checksum, condemned, 0,
    kind != ? AND NOT EXISTS (SELECT 1 FROM copy WHERE object = id)
FROM object WHERE pack = ? AND offset > ? AND id <= ? AND stored > 0 ORDER BY offset LIMIT ?
"""
_COPIES = """
SELECT o.id, o.key, c.pack, c.offset, o.stored, o.decoded, o.kind, o.codec, o.checksum, o.condemned, c.number, 0
FROM copy c JOIN object o ON o.id = c.object
WHERE c.pack = ? AND c.offset > ? AND c.object <= ? AND o.stored > 0 ORDER BY c.offset LIMIT ?
"""


class Fault(Enum):
    """What is wrong with a place."""

    UNREADABLE = "unreadable"
    """The pack is missing or cut short, or the disk gives an error."""
    CHECKSUM = "checksum"
    """The payload is not what it was."""
    HEADER = "header"
    """The payload is whole, the header before it, or that of its pack, is not."""
    LONELY = "lonely"
    """All is well here, but the second copy that a tree node has is not there."""


@dataclass(frozen=True, slots=True)
class Place:
    """One of the places where an object lies: ``number`` 0 is the first, others are copies."""

    location: Location
    number: int
    condemned: int | None
    lonely: bool

    @property
    def marked(self) -> bool:
        """Whether an earlier scrub found the object damaged."""
        return self.condemned == DAMAGED


@dataclass(frozen=True, slots=True)
class Flaw:
    """A place with something wrong."""

    place: Place
    fault: Fault
    what: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Places that lie together in one pack, to be read at once: bytes [start, end)."""

    pack: int
    start: int
    end: int
    places: Sequence[Place]


def places_in(database: Database, pack: int, after: int, newest: int, limit: int = BATCH) -> list[Place]:
    """Up to ``limit`` places of a pack with offsets above ``after``, ascending, of objects up to row ``newest``."""
    found = _placed(database.query(_FIRSTS, (Kind.CHUNK, pack, after, newest, limit)))
    found += _placed(database.query(_COPIES, (pack, after, newest, limit)))
    found.sort(key=lambda place: place.location.offset)
    return found[:limit]


def _placed(rows: list[Any]) -> list[Place]:
    return [Place(Location(*row[:9]), row[10], row[9], bool(row[11])) for row in rows]


def current(database: Database, place: Place) -> Place | None:
    """The same place as the index has it now; None where the object, or that copy, is gone."""
    if place.number:
        rows = database.query(
            "SELECT o.id, o.key, c.pack, c.offset, o.stored, o.decoded, o.kind, o.codec, o.checksum, o.condemned, "
            "c.number, 0 FROM copy c JOIN object o ON o.id = c.object WHERE c.object = ? AND c.number = ?",
            (place.location.id, place.number),
        )
    else:
        rows = database.query(
            "SELECT id, key, pack, offset, stored, decoded, kind, codec, checksum, condemned, 0, "
            "kind != ? AND NOT EXISTS (SELECT 1 FROM copy WHERE object = id) FROM object WHERE id = ?",
            (Kind.CHUNK, place.location.id),
        )
    return _placed(rows)[0] if rows else None


def others(database: Database, place: Place) -> list[Place]:
    """The other places of the object."""
    found = []
    if place.number:
        first = current(database, replace(place, number=0))
        found = [first] if first is not None else []
    rows = database.query(
        "SELECT number, pack, offset FROM copy WHERE object = ? AND number != ? ORDER BY number",
        (place.location.id, place.number),
    )
    return found + [
        Place(replace(place.location, pack=pack, offset=offset), number, place.condemned, False)
        for number, pack, offset in rows
    ]


def runs(places: Sequence[Place]) -> Iterator[Run]:
    """Places of one pack, in order, as runs to be read at once."""
    some: list[Place] = []
    start = end = 0
    for place in places:
        location = place.location
        first, last = location.offset - RECORD_HEADER, location.offset + location.stored
        if some and (first > end + _GAP or last - start > _RUN):
            yield Run(some[0].location.pack, start, end, some)
            some = []
        if not some:
            start = end = first
        some.append(place)
        end = max(end, last)
    if some:
        yield Run(some[0].location.pack, start, end, some)


class Verifier:
    """Reads and checks. Safe to use from several threads: reading, hashing and decoding release the GIL."""

    def __init__(self, backend: Backend, guid: int) -> None:
        self._backend = backend
        self._guid = guid
        self._coder = Coder()

    def run(self, run: Run, header_lost: bool = False) -> list[Flaw]:
        """What is wrong in a run. ``header_lost``: the header of its pack is, so that no record in it is whole."""
        try:
            data = self._backend.read_stored(pack_name(run.pack), run.start, run.end - run.start)
        except DamagedData:
            return [flaw for place in run.places if (flaw := self.place(place, header_lost)) is not None]
        found = []
        for place in run.places:
            begin = place.location.offset - run.start
            flaw = self._check(
                place,
                data[begin - RECORD_HEADER : begin],
                data[begin : begin + place.location.stored],
                header_lost,
            )
            if flaw is not None:
                found.append(flaw)
        return found

    def place(self, place: Place, header_lost: bool = False) -> Flaw | None:
        """What is wrong with one place, read by itself."""
        location = place.location
        try:
            data = self._backend.read_stored(
                pack_name(location.pack), location.offset - RECORD_HEADER, RECORD_HEADER + location.stored
            )
        except DamagedData as error:
            return Flaw(place, Fault.UNREADABLE, str(error))
        return self._check(place, data[:RECORD_HEADER], data[RECORD_HEADER:], header_lost)

    def payload(self, place: Place) -> bytes:
        """The payload of a place, proved. Raises ``DamagedData``."""
        location = place.location
        data = bytes(self._backend.read_stored(pack_name(location.pack), location.offset, location.stored))
        self.prove(location, data)
        return data

    def prove(self, location: Location, payload: Buffer) -> None:
        """Raise ``DamagedData`` unless ``payload`` is that of the object."""
        if signed(xxhash.xxh3_64_intdigest(payload)) != location.checksum:
            raise DamagedData("the payload does not match its checksum")
        self._prove_key(location.key, location.codec, payload, location.decoded)

    def prove_record(self, record: Record, payload: Buffer) -> None:
        """The same for a record from elsewhere, which nothing vouches for but its key."""
        if len(payload) != record.stored or xxhash.xxh3_64_intdigest(payload) != record.checksum:
            raise DamagedData("the payload does not match its checksum")
        self._prove_key(record.key, record.codec, payload, record.decoded)

    def _prove_key(self, key: bytes, codec: int, payload: Buffer, decoded: int) -> None:
        data = payload if codec == Codec.STORED else self._coder.decode(codec, payload, decoded)
        if len(data) != decoded or blake3(data).digest() != key:
            raise DamagedData("the data does not match its key")

    def header(self, pack: int) -> DamagedData | None:
        """What is wrong with the header of a pack."""
        try:
            header = parse_pack_header(bytes(self._backend.read_stored(pack_name(pack), 0, PACK_HEADER.size)))
        except DamagedData as error:
            return error
        if (header.guid, header.number) != (self._guid, pack):
            return DamagedData("pack header is that of another pack")
        return None

    def _check(self, place: Place, head: memoryview, payload: memoryview, header_lost: bool) -> Flaw | None:
        location = place.location
        try:
            self.prove(location, payload)
        except DamagedData as error:
            return Flaw(place, Fault.CHECKSUM, str(error))
        if header_lost:
            return Flaw(place, Fault.HEADER, "the header of its pack is damaged")
        try:
            record = parse_record_header(bytes(head), location.offset - RECORD_HEADER)
        except DamagedData as error:
            return Flaw(place, Fault.HEADER, str(error))
        told = (record.key, record.kind, record.codec, record.stored, record.decoded, signed(record.checksum))
        if told != (
            location.key,
            location.kind,
            location.codec,
            location.stored,
            location.decoded,
            location.checksum,
        ):
            return Flaw(place, Fault.HEADER, "the record's header is that of another object")
        return Flaw(place, Fault.LONELY) if place.lonely else None
