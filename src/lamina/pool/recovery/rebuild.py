"""A catalogue made anew from packs: the index by scanning them, the names by their records, the rest by walking trees.

Objects are taken as they are found. One that is found again in another pack, bit for bit, is a copy. Records of names
count only if they carry this pool's guid: what looks like a pack may be a file of somebody's image.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3
from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.pool import files
from lamina.pool.records import NameRecord, parse_record
from lamina.pool.recovery.chain import Gap, Link, Names, apply_records, find_chain
from lamina.pool.units import format_size
from lamina.store.codec import Coder
from lamina.store.database import DAMAGED, Database
from lamina.store.disk import Disk
from lamina.store.objects import ObjectStore, signed
from lamina.store.record import (
    PACK_ALIGN,
    PACK_HEADER,
    PACK_TARGET,
    Kind,
    PackHeader,
    pack_number,
    parse_pack_header,
)
from lamina.store.scan import Cause, PackScan, Scanned

_BATCH = 4096
_QUERY = 400
_MOST_COPIES = 3

Row = tuple[bytes, int, int, int, int, int, int, int]
"""key, pack, offset, stored, decoded, kind, codec, checksum."""


@dataclass(frozen=True, slots=True)
class PackFile:
    """A file among the packs. ``header`` is None where its first bytes are damaged."""

    path: Path
    number: int
    size: int
    header: PackHeader | None


def pack_files(path: Path, disk: Disk) -> list[PackFile]:
    """The packs in a pool's directory, by number."""
    found = []
    for name in disk.listdir(path / files.PACKS):
        number = pack_number(name)
        if number is not None:
            place = path / files.PACKS / name
            found.append(PackFile(place, number, disk.stat(place).st_size, _header(place, disk)))
    return sorted(found, key=lambda pack: pack.number)


def _header(path: Path, disk: Disk) -> PackHeader | None:
    fd = disk.open(path, os.O_RDONLY)
    try:
        return parse_pack_header(disk.read(fd, PACK_HEADER.size, 0))
    except (DamagedData, OSError):
        return None
    finally:
        disk.close(fd)


@dataclass(slots=True)
class Scan:
    """What scanning packs found, beside the rows that it put into the database."""

    packs: int = 0
    objects: int = 0
    copies: int = 0
    damaged: list[str] = field(default_factory=list)
    """Of each pack with ranges in which nothing can be read, and which gc did not make so, a line."""
    foreign: list[str] = field(default_factory=list)
    """Files among the packs that belong to another pool."""
    links: dict[str, Link] = field(default_factory=dict)
    """Parts of name records by key."""
    rejected: int = 0
    """Name records that are not this pool's."""


@dataclass(slots=True)
class Indexer:
    """Fills a new database with the rows of packs and objects."""

    database: Database
    disk: Disk
    progress: Callable[[int], None] | None = None
    coder: Coder = field(default_factory=Coder)
    found: Scan = field(default_factory=Scan)
    formerly: set[int] = field(default_factory=set)
    """Guids that the pool had before, as its name records say."""

    def index(self, packs: list[PackFile], guid: int) -> int:
        """Index the packs of the pool ``guid``, of the guids that it had before, and of those that it has got since.

        Returns the one that it has now.
        """
        accepted: set[int] = set()
        fresh, left = {guid}, list(packs)
        while fresh:
            accepted |= fresh
            mine = [pack for pack in left if pack.header is None or pack.header.guid in accepted]
            for pack in mine:
                self._pack(pack, accepted)
            left = [pack for pack in left if pack not in mine]
            later = {one for pack in left for one in self._successor(pack, accepted)}
            guid = next(iter(later - accepted), guid)
            fresh = (self.formerly | later) - accepted
        self.found.foreign += [pack.path.name for pack in left]
        return guid

    def _successor(self, pack: PackFile, accepted: set[int]) -> Iterator[int]:
        """The guid of a pack not accepted, if a record of all names in it says that the pool had another before."""
        if pack.header is None:
            return
        for item in PackScan(pack.path, self.disk).records():
            if item.record.kind == Kind.NAMES:
                with contextlib.suppress(DamagedData):
                    record = parse_record(
                        self.coder.decode(item.record.codec, bytes(item.payload), item.record.decoded)
                    )
                    if record.full and record.pool == pack.header.guid and accepted & _formerly(record):
                        yield record.pool

    def _pack(self, pack: PackFile, accepted: set[int]) -> None:
        scan = PackScan(pack.path, self.disk, self.progress)
        with self.database.transaction():
            self.database.execute("INSERT INTO pack(id, state, size) VALUES (?, 'sealed', 0)", (pack.number,))
        rows: list[Row] = []
        for item in scan.records():
            row = self._row(item, pack, accepted)
            if row is not None:
                rows.append(row)
                if len(rows) >= _BATCH:
                    self._insert(rows)
                    rows = []
        self._insert(rows)
        self.found.packs += 1
        self._tell(pack, scan)
        # What is whole and short is written on; padding belongs to a sealed pack.
        size = max(scan.end, PACK_HEADER.size) if scan.size else 0
        padded = -(-size // PACK_ALIGN) * PACK_ALIGN
        is_open = not scan.damage and scan.header is not None and scan.size != padded and size < PACK_TARGET // 2
        with self.database.transaction():
            self.database.execute(
                "UPDATE pack SET state = ?, size = ? WHERE id = ?",
                ("open" if is_open else "sealed", size if is_open else min(padded, scan.size), pack.number),
            )

    def _tell(self, pack: PackFile, scan: PackScan) -> None:
        ranges = [one for one in scan.damage if one.cause is Cause.DAMAGE]
        if ranges:
            size = format_size(sum(one.end - one.start for one in ranges))
            word = "place" if len(ranges) == 1 else "places"
            self.found.damaged.append(
                f"'{pack.path.name}' is damaged in {len(ranges)} {word} ({size}): names that were recorded there, and "
                "nowhere else, are lost"
            )
        if any(one.cause is Cause.END for one in scan.damage):
            self.found.damaged.append(
                f"'{pack.path.name}' ends within a record: what was written last may be lost, if it was ever committed"
            )

    def _row(self, item: Scanned, pack: PackFile, accepted: set[int]) -> Row | None:
        """The row of an object, unless it is not what its key says, or a name record of another pool."""
        record = item.record
        if item.searched or record.kind == Kind.NAMES:
            try:
                data = self.coder.decode(record.codec, bytes(item.payload), record.decoded)
            except DamagedData:
                return None
            if blake3(data).digest() != record.key:
                return None
            if record.kind == Kind.NAMES and not self._note(data, item, pack, accepted):
                return None
        return (
            *(record.key, pack.number, record.offset, record.stored, record.decoded, record.kind, record.codec),
            signed(record.checksum),
        )

    def _note(self, data: bytes, item: Scanned, pack: PackFile, accepted: set[int]) -> bool:
        """Remember a part of a name record if it is this pool's."""
        try:
            record = parse_record(data)
        except DamagedData:
            self.found.rejected += 1
            return False
        sure = not item.strayed and pack.header is not None
        # Records of version 1 carry no guid: what vouches for them is the pack, if all before them in it was whole.
        if record.pool not in accepted and (record.pool or not sure):
            self.found.rejected += 1
            return False
        known = self.found.links.get(record.key)
        self.found.links[record.key] = Link.of(record, sure or (known is not None and known.sure))
        self.formerly |= _formerly(record)
        return True

    def _insert(self, rows: list[Row]) -> None:
        with self.database.transaction():
            there = self._known([row[0] for row in rows])
            fresh: dict[bytes, Row] = {}
            again: list[Row] = []
            for row in rows:
                if row[0] in there or row[0] in fresh:
                    again.append(row)
                else:
                    fresh[row[0]] = row
            self.database.execute_many(
                "INSERT INTO object(key, pack, offset, stored, decoded, kind, codec, checksum) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                fresh.values(),
            )
            self.found.objects += len(fresh)
            if again:
                self._copies(again)

    def _copies(self, rows: list[Row]) -> None:
        there = self._known([row[0] for row in rows])
        for row in rows:
            number, first = there[row[0]]
            if row[3:] != first[1:]:
                continue  # the same object compressed in another way: dead bytes
            packs = [first[0]] + [
                pack for (pack,) in self.database.query("SELECT pack FROM copy WHERE object = ?", (number,))
            ]
            if row[1] not in packs and len(packs) < _MOST_COPIES:
                self.database.execute(
                    "INSERT INTO copy(object, number, pack, offset) VALUES (?, ?, ?, ?)",
                    (number, len(packs), row[1], row[2]),
                )
                self.found.copies += 1

    def _known(self, keys: list[bytes]) -> dict[bytes, tuple[int, tuple[int, ...]]]:
        """Rows by key: number, and pack with what a copy must have in common."""
        found: dict[bytes, tuple[int, tuple[int, ...]]] = {}
        for start in range(0, len(keys), _QUERY):
            some = keys[start : start + _QUERY]
            for key, number, *rest in self.database.query(
                "SELECT key, id, pack, stored, decoded, kind, codec, checksum FROM object "
                f"WHERE key IN ({','.join('?' * len(some))})",
                some,
            ):
                found[key] = (number, tuple(rest))
        return found


def _formerly(record: NameRecord) -> set[int]:
    """Guids that a record of all names says the pool had before."""
    return {int(guid) for change in record.changes for guid in change.get("pool", {}).get("formerly", ())}


@dataclass(slots=True)
class Told:
    """What the name records tell."""

    names: Names
    gaps: list[Gap]
    tip: str | None
    """Key of the last part of the chain."""
    live: list[str]
    """Keys of the parts that the names come from."""


def read_names(links: Mapping[str, Link], read: Callable[[str], NameRecord]) -> Told:
    """The names of the chain; ``read`` gives a part by its key."""
    chain = find_chain(links.values())
    names = apply_records(read(link.key) for link in chain.links)
    names.txg = max([names.txg, *(link.txg for link in links.values())])
    live = [link.key for link in chain.links]
    return Told(names, chain.gaps, live[-1] if live else None, live)


def record_reader(store: ObjectStore) -> Callable[[str], NameRecord]:
    """Reads parts of name records from a store."""
    return lambda key: parse_record(store.get(bytes.fromhex(key), verify=True))


@dataclass(slots=True)
class Placeholders:
    """Rows for objects that trees need and no pack holds: reading them fails, storing them anew fills them.

    Without a row they would stand in no bitmap, and gc would free them as soon as they were brought back.
    """

    database: Database
    count: int = 0

    def give(self, missing: Mapping[bytes, int], kind: Kind) -> dict[bytes, int]:
        """Row numbers of objects, from their keys and the bytes that are needed of each."""
        rows = self.database.query("SELECT min(id) FROM pack")
        if not rows or rows[0][0] is None:
            return {}
        given: dict[bytes, int] = {}
        for key, need in missing.items():
            given[key] = self.database.execute(
                "INSERT INTO object(key, pack, offset, stored, decoded, kind, codec, checksum, condemned) "
                "VALUES (?, ?, 0, 0, ?, ?, 0, 0, ?)",
                (key, rows[0][0], need, int(kind), DAMAGED),
            )
            self.count += 1
        return given


def unattributed(database: Database, claimed: BitMap64) -> BitMap64:
    """Rows of all objects but name records and those ``claimed``: what a tree with missing nodes may reach."""
    rows = database.query("SELECT id FROM object WHERE kind <> ?", (int(Kind.NAMES),))
    return BitMap64([number for (number,) in rows]) - claimed


def all_roots(database: Database) -> Iterator[bytes]:
    """Keys of all root objects, in the order found."""
    for (key,) in database.query("SELECT key FROM object WHERE kind = ? ORDER BY id", (int(Kind.ROOT),)):
        yield key
