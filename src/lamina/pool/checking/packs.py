"""Checking the index against the packs: files there and long enough, rows apart, headers as rows say."""

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from lamina.errors import DamagedData
from lamina.pool.checking.findings import Findings
from lamina.pool.recording import former_guids
from lamina.pool.units import format_size
from lamina.store.lease import is_alive
from lamina.store.objects import Location, signed
from lamina.store.record import (
    PACK_ALIGN,
    PACK_HEADER,
    RECORD_HEADER,
    Kind,
    pack_name,
    pack_number,
    parse_pack_header,
    parse_record_header,
)

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_PAGE_ROWS = 20_000
_COLUMNS = "id, key, pack, offset, stored, decoded, kind, codec, checksum"


@dataclass(frozen=True, slots=True)
class _Pack:
    number: int
    state: str
    size: int
    lease: str | None


def check_packs(pool: "Pool", findings: Findings, headers: bool) -> None:
    """Packs, rows, copies, headers and leases."""
    database = pool._database
    packs = [_Pack(*row) for row in database.query("SELECT id, state, size, lease FROM pack ORDER BY id")]
    findings.packs = len(packs)
    dead = sum(_check_pack(pool, findings, pack) for pack in packs)
    if dead:
        findings.note(f"{format_size(dead)} in packs are dead: 'lamina pool gc' gives them back")
    _check_files(pool, findings, {pack.number for pack in packs})
    _check_leases(pool, findings, packs)
    _check_copies(pool, findings)
    for location in _to_read(pool, headers):
        _check_header(pool, findings, location)
    findings.objects = database.query("SELECT count(*) FROM object")[0][0]
    lost = database.query("SELECT count(*) FROM object WHERE condemned < 0")[0][0]
    if lost:
        findings.repair(f"{lost} objects are known to be damaged or missing")


def _check_pack(pool: "Pool", findings: Findings, pack: _Pack) -> int:
    """One pack: its file, its header, and that what lies in it lies apart. Bytes that nothing refers to."""
    name = pack_name(pack.number)
    try:
        size = pool._backend.size(name) if pack.size else 0
    except DamagedData as error:
        findings.repair(str(error))
        return 0
    if size < pack.size:
        findings.repair(f"pack '{name}' is cut short: it has {size} bytes of {pack.size}")
    elif pack.size:
        _check_pack_header(pool, findings, pack)
    end, dead = PACK_HEADER.size, 0
    for offset, stored in _rows(pool, pack.number):
        if not stored:
            continue  # the place of an object that is missing
        begin = offset - RECORD_HEADER
        if begin < end:
            findings.rebuild(f"two rows claim the same bytes of pack '{name}' at {begin}")
        dead += max(begin - end, 0)
        end = max(end, offset + stored)
    if end > pack.size and end > PACK_HEADER.size:
        findings.rebuild(f"rows reach to {end} in pack '{name}', of which {pack.size} bytes are durable")
    tail = pack.size - end
    return dead + (tail if tail >= PACK_ALIGN else 0)


def _rows(pool: "Pool", pack: int) -> Iterator[tuple[int, int]]:
    """(offset, stored) of all that lies in a pack, in order."""
    objects = pool._database.query("SELECT offset, stored FROM object WHERE pack = ? ORDER BY offset", (pack,))
    copies = pool._database.query(
        "SELECT c.offset, o.stored FROM copy c JOIN object o ON o.id = c.object WHERE c.pack = ? ORDER BY c.offset",
        (pack,),
    )
    return heapq.merge(objects, copies)


def _check_pack_header(pool: "Pool", findings: Findings, pack: _Pack) -> None:
    name = pack_name(pack.number)
    try:
        header = parse_pack_header(pool._backend.read(name, 0, PACK_HEADER.size))
    except DamagedData as error:
        findings.problem(
            f"pack '{name}': {error}",
            "its objects can be read; 'lamina pool gc' moves them away when it compacts the pack",
        )
        return
    if header.guid not in {pool.guid, pool._catalogue.meta("next_guid"), *former_guids(pool._catalogue)}:
        findings.repair(f"pack '{name}' is another pool's")


def _check_files(pool: "Pool", findings: Findings, known: set[int]) -> None:
    orphans = size = 0
    strange = []
    for name in pool._backend.list():
        number = pack_number(name)
        if number is None:
            strange.append(name)
        elif number not in known:
            orphans += 1
            try:
                size += pool._backend.allocated(name)
            except DamagedData:
                orphans -= 1  # removed meanwhile
    if orphans:
        findings.note(f"{orphans} pack files ({format_size(size)}) belong to nothing: 'lamina pool gc' removes them")
    if strange:
        findings.note(f"'{strange[0]}'{' and others' if strange[1:] else ''} among the packs is none of lamina's files")


def _check_leases(pool: "Pool", findings: Findings, packs: list[_Pack]) -> None:
    leases = {name for (name,) in pool._database.query("SELECT name FROM lease")}
    directory = pool.path / "leases"
    dead = [name for name in leases if not is_alive(directory, name, pool._database.disk)]
    if dead:
        findings.note(f"{len(dead)} leases are of processes that died: the next command that writes removes them")
    for pack in packs:
        if pack.lease is not None and pack.lease not in leases:
            findings.rebuild(f"pack '{pack_name(pack.number)}' is taken by a lease that is not there")


def _check_copies(pool: "Pool", findings: Findings) -> None:
    """Copies lie in other packs than the object and each other, and there is one of what is kept twice."""
    database = pool._database
    for (number,) in database.query(
        "SELECT c.object FROM copy c JOIN object o ON o.id = c.object WHERE c.pack = o.pack "
        "UNION SELECT a.object FROM copy a JOIN copy b ON a.object = b.object AND a.pack = b.pack "
        "AND a.number < b.number LIMIT 10"
    ):
        findings.rebuild(f"two copies of object {number} lie in the same pack")
    single = database.query(
        "SELECT count(*) FROM object WHERE kind <> ? AND condemned IS NULL AND id NOT IN (SELECT object FROM copy)",
        (int(Kind.CHUNK),),
    )[0][0]
    if single:
        findings.note(f"{single} tree nodes and name records are kept once only: 'lamina pool scrub' copies them")


def _to_read(pool: "Pool", headers: bool) -> Iterator[Location]:
    """Places whose record headers are to be looked at, by pack: of copies too."""
    wanted = "1" if headers else f"kind <> {int(Kind.CHUNK)}"
    start = 0
    while True:
        rows = pool._database.query(
            f"SELECT {_COLUMNS} FROM object WHERE id > ? AND stored > 0 AND {wanted} ORDER BY id LIMIT ?",
            (start, _PAGE_ROWS),
        )
        if not rows:
            return
        locations = [Location(*row) for row in rows]
        start = locations[-1].id
        copies: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, pack, offset in pool._database.query(
            "SELECT object, pack, offset FROM copy WHERE object BETWEEN ? AND ?", (locations[0].id, start)
        ):
            copies[number].append((pack, offset))
        everywhere = chain(
            locations,
            (replace(one, pack=pack, offset=offset) for one in locations for pack, offset in copies.get(one.id, ())),
        )
        yield from sorted(everywhere, key=lambda one: (one.pack, one.offset))


def _check_header(pool: "Pool", findings: Findings, row: Location) -> None:
    name = pack_name(row.pack)
    try:
        data = pool._backend.read(name, row.offset - RECORD_HEADER, RECORD_HEADER)
        record = parse_record_header(data, row.offset - RECORD_HEADER)
    except DamagedData as error:
        findings.repair(f"object {row.key.hex()} in pack '{name}' at {row.offset}: {error}")
        return
    told = (record.key, record.kind, record.codec, record.stored, record.decoded, signed(record.checksum))
    if told != (row.key, row.kind, row.codec, row.stored, row.decoded, row.checksum):
        findings.rebuild(f"the record in pack '{name}' at {row.offset} is not what the index says of it")
