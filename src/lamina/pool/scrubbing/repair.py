"""Repair: damaged and missing objects are had from somewhere else, proved by their keys, and stored anew.

From another pool they come by key. From files, chunks come from the ranges that the tree tells; tree nodes, and what
no tree tells any more, by running the import once more and keeping nothing but what is damaged. What is repaired may
show more that is missing below it, so all of it is gone through until nothing new is won.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from lamina.errors import DamagedData, LaminaError
from lamina.fs.view import StoredTree
from lamina.pool import files
from lamina.pool.importing.interrupts import Interrupts
from lamina.pool.names import split_snapshot
from lamina.pool.scrubbing.absent import note_absent
from lamina.pool.scrubbing.damage import DamageFinder, Hit, HitTree, lost_objects
from lamina.pool.scrubbing.filesource import Assembler, plan_of, read_archive, read_directory
from lamina.pool.scrubbing.scrub import ScrubProgress, mending_writer, renew_names, scrub, scrubs_of, writer_of
from lamina.pool.scrubbing.scrubs import FINISHED, ErrorCounts
from lamina.pool.scrubbing.sources import ObjectSource, open_source
from lamina.pool.values import Values
from lamina.store.codec import Compression, parse_compression
from lamina.store.database import DAMAGED, Database
from lamina.store.mending import Mender, MendingWriter, PickingWriter
from lamina.store.record import Kind, pack_name
from lamina.store.verifying import Verifier, places_in
from lamina.store.writer import Encoded

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_AT_ONCE = 2048
"""Objects that are asked for together."""
_MOST_BYTES = 128 << 20
"""Decoded bytes of chunks that are put together from files at the same time."""
_NEWEST = (1 << 63) - 1

RepairProgress = Callable[[int, int], None]
"""Gets the objects repaired so far, and how many were damaged."""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did: objects repaired, bytes stored for them, and objects that are still damaged or missing."""

    source: str
    repaired: int
    stored: int
    left: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An object that is to be had: its row, kind (0: not sure), decoded bytes, and the places it is to lie in."""

    key: bytes
    kind: int
    decoded: int
    places: int
    absent: bool


def repair_from(
    pool: "Pool",
    source: str,
    *,
    ssh: str | None = None,
    progress: RepairProgress | None = None,
    scrubbing: ScrubProgress | None = None,
) -> RepairReport:
    """Repair what is damaged or missing from ``source``: a pool, ``[user@]host:POOL``, a directory or an archive.

    Where no damage is known, the pool is scrubbed first. Raises ``SourceError`` where the source cannot be read.
    """
    files.check_writable(pool.path, pool.name)
    opened = open_source(source, ssh)
    try:
        _look_for_damage(pool, scrubbing)
        with Interrupts() as interrupts:
            repair = _Repair(pool, progress, interrupts.check)
            if isinstance(opened, Path):
                repair.from_files(opened)
            else:
                repair.from_objects(opened)
        left = scrubs_of(pool).damaged()
        if not left:
            scrubs_of(pool).clear()
        return RepairReport(source, repair.repaired, repair.stored, left)
    finally:
        if not isinstance(opened, Path):
            opened.close()


def _look_for_damage(pool: "Pool", scrubbing: ScrubProgress | None) -> None:
    """Make known what can be seen at a glance, packs that are missing or cut short; if nothing is, all there is."""
    database, scrubs = pool.store.database, scrubs_of(pool)
    verifier = Verifier(pool.store.backend, pool.guid)
    mender = Mender(pool.store, verifier, lambda: mending_writer(pool))
    for pack, size in database.query("SELECT id, size FROM pack WHERE size > 0"):
        try:
            if pool.store.backend.size(pack_name(pack)) >= size:
                continue
        except DamagedData:
            pass
        after = 0
        while places := places_in(database, pack, after, _NEWEST):
            after = places[-1].location.offset
            flaws = [flaw for place in places if (flaw := verifier.place(place)) is not None]
            mended = mender.mend(flaws)
            scrubs.add(ErrorCounts(mended.unreadable, 0, mended.checksum))
    note_absent(pool)
    if not scrubs.damaged():
        scrubs.begin(pool.name, None)
        if scrub(pool, scrubbing).state != FINISHED:
            raise LaminaError(
                f"cannot repair {pool.name}: the scrub that looks for damage was stopped; start the repair again"
            )
    renew_names(pool)


class _Repair:
    def __init__(self, pool: "Pool", progress: RepairProgress | None, check: Callable[[], None]) -> None:
        """``check`` raises a Ctrl-C that was noted, where it can be undone."""
        self._pool = pool
        self._check = check
        self._database: Database = pool.store.database
        self._verifier = Verifier(pool.store.backend, pool.guid)
        self._progress = progress
        self._total = scrubs_of(pool).damaged()
        self.repaired = 0
        self.stored = 0

    def _wanted(self) -> dict[bytes, _Wanted]:
        """All objects but name records that are damaged or missing, by key."""
        rows = self._database.query(
            "SELECT key, kind, decoded, stored, (SELECT count(*) FROM copy WHERE object = id) FROM object "
            "WHERE condemned = ? AND kind != ?",
            (DAMAGED, Kind.NAMES),
        )
        return {
            key: _Wanted(key, kind, decoded, max(1 + copies, 1 if kind == Kind.CHUNK else 2), not stored)
            for key, kind, decoded, stored, copies in rows
        }

    def _took(self, stored: int) -> None:
        self._check()
        self.repaired += 1
        self.stored += stored
        if self._progress is not None:
            self._progress(self.repaired, max(self._total, self.repaired))

    # -- by key ---------------------------------------------------------------------------------------------------

    def from_objects(self, source: ObjectSource) -> None:
        """Ask for everything by its key, until what comes shows nothing more that is missing."""
        asked: set[bytes] = set()
        while keys := sorted(self._wanted().keys() - asked):
            for start in range(0, len(keys), _AT_ONCE):
                self._fetch(source, keys[start : start + _AT_ONCE])
            asked.update(keys)
            note_absent(self._pool)

    def _fetch(self, source: ObjectSource, keys: Sequence[bytes]) -> None:
        wanted = self._wanted()
        with mending_writer(self._pool) as writer:
            for record, payload in source.fetch(keys):
                one = wanted.get(record.key)
                if one is None:
                    continue
                try:
                    self._verifier.prove_record(record, payload)
                except DamagedData:
                    continue
                item = Encoded(record.key, one.kind, record.codec, record.decoded, record.checksum, payload)
                self._store(writer, item, one)
            writer.flush()

    def _store(self, writer: MendingWriter, item: Encoded, one: _Wanted) -> None:
        writer.restore(item, one.places)
        self._took(len(item.payload))

    # -- from files -----------------------------------------------------------------------------------------------

    def from_files(self, source: Path) -> None:
        """Chunks from ranges of files; what is left, by importing once more."""
        before = -1
        while (left := len(self._wanted())) and left != before:
            before = left
            self._from_ranges(source)
            if self._wanted():
                self._import_again(source)
            note_absent(self._pool)

    def _from_ranges(self, source: Path) -> None:
        # One finder for all trees: what is repaired meanwhile is passed over, what it remembers of nodes stays true.
        finder = self._finder()
        for tree in finder.trees():
            wanted = {key: one for key, one in self._wanted().items() if one.kind == Kind.CHUNK}
            if not wanted:
                return
            try:
                view = StoredTree(tree.root, self._pool.store.get)
                hits = finder.find(tree).hits
            except DamagedData:
                continue
            for some in _groups(hits, wanted):
                self._read_ranges(source, tree, view, some, wanted)

    def _read_ranges(
        self, source: Path, tree: HitTree, view: StoredTree, hits: Sequence[Hit], wanted: Mapping[bytes, _Wanted]
    ) -> None:
        plan = plan_of(view, hits)
        compression = self._settings(tree)[1]
        with mending_writer(self._pool) as writer:

            def done(key: bytes, data: bytes) -> None:
                codec, payload = self._pool.store.coder.encode(data, compression)
                item = Encoded(key, Kind.CHUNK, codec, len(data), xxhash.xxh3_64_intdigest(payload), payload)
                self._store(writer, item, wanted[key])

            sizes = {key: 0 if one.absent else one.decoded for key, one in wanted.items()}
            assembler = Assembler(plan, sizes, done)
            read = read_directory if source.is_dir() else read_archive
            read(source, plan, assembler)
            if assembler.is_wrong:
                read(source, plan, assembler)
            writer.flush()

    def _finder(self) -> DamageFinder:
        return DamageFinder(self._pool._catalogue, self._pool.store, lost_objects(self._pool._catalogue))

    def _settings(self, tree: HitTree) -> tuple[int, Compression]:
        """(recordsize, compression) of the first dataset that shows a tree."""
        dataset, _ = split_snapshot(tree.names[0])
        values = Values(self._pool._catalogue, 0, {})
        return (
            int(values.setting(dataset, "recordsize")[0]),
            parse_compression(values.setting(dataset, "compression")[0]),
        )

    def _import_again(self, source: Path) -> None:
        """Run the importer over the source, for each recordsize that the damaged trees may have been made with."""
        for recordsize, compression in dict.fromkeys(self._settings(tree) for tree in self._finder().trees()):
            wanted = self._wanted()
            if not wanted:
                return
            places = {one.key: one.places for one in wanted.values()}
            import_again(self._pool, source, recordsize, compression, places, self._check)
            for key in wanted.keys() - self._wanted().keys():
                rows = self._database.query("SELECT stored FROM object WHERE key = ?", (key,))
                self._took(rows[0][0] if rows else 0)


def _groups(hits: Sequence[Hit], wanted: Mapping[bytes, _Wanted]) -> "list[list[Hit]]":
    """Hits in groups whose chunks fit in memory together; all those of one chunk in one group."""
    chunks: dict[bytes, list[Hit]] = {}
    for hit in hits:
        chunks.setdefault(hit[1][8:40], []).append(hit)
    groups: list[list[Hit]] = []
    room = 0
    for key, some in chunks.items():
        if key not in wanted:
            continue
        size = max(wanted[key].decoded, 1)
        if size > room or not groups:
            groups.append([])
            room = _MOST_BYTES
        groups[-1] += some
        room -= size
    return groups


def import_again(
    pool: "Pool",
    source: Path,
    recordsize: int,
    compression: Compression,
    wanted: Mapping[bytes, int],
    check: Callable[[], None],
) -> None:
    """Import a directory or an archive, keeping only the objects ``wanted`` (key to number of places), and no name.

    ``check`` is called wherever work is handed out; what it raises ends the import.
    """
    from lamina.fs.spool import ItemSpool
    from lamina.ingest.content import ContentWriter
    from lamina.ingest.directory import import_directory
    from lamina.ingest.progress import Tally
    from lamina.ingest.tarsource import import_tar
    from lamina.pool.importing.interrupts import CheckedWorkers

    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(writer_of(pool, PickingWriter))
        writer.pick(wanted)
        spool = stack.enter_context(contextlib.closing(ItemSpool(pool.path / files.TEMPORARY)))
        workers = stack.enter_context(contextlib.closing(CheckedWorkers(max(os.cpu_count() or 1, 2), check)))
        tally = Tally()
        content = ContentWriter(writer, spool, workers, tally, compression, recordsize)
        if source.is_dir():
            import_directory(source, writer, content, spool, workers, tally)
        else:
            with source.open("rb", buffering=1 << 20) as stream:
                import_tar(stream, writer, content, spool, workers, tally)
        writer.flush()
