"""Recovering a pool whose catalogue is lost: all of it is made anew from the packs, beside the old one.

The new catalogue is complete and synced before it takes the old one's place by a rename; a crash at any point leaves
the one or the other. What is left of the old one is kept as ``catalogue.db.damaged-N``.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lamina.errors import AccessDenied, AlreadyExists, DamagedData, DamagedMarker, NotFound, UnsupportedPool
from lamina.ingest.progress import Progress
from lamina.pool import features, files, registry
from lamina.pool.catalogue import Catalogue
from lamina.pool.names import pool_name_error, printable
from lamina.pool.recovery.alone import alone
from lamina.pool.recovery.chain import Names
from lamina.pool.recovery.rebuild import Indexer, PackFile, Scan, Told, all_roots, pack_files, read_names, record_reader
from lamina.pool.recovery.restoring import Restored, Restorer, keep_sequence
from lamina.pool.schema import POOL_SCHEMA, SCHEMA_VERSION
from lamina.store.backend import LocalBackend
from lamina.store.database import LOG_RESERVE, Database, put_back_logs
from lamina.store.disk import DISK, Disk, translated
from lamina.store.objects import ObjectStore
from lamina.store.writer import StoreWriter

NEW = f"{files.CATALOGUE}.new"
DAMAGED = f"{files.CATALOGUE}.damaged-"
_WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
"""First bytes of a write-ahead log that is one (https://www.sqlite.org/walformat.html)."""

ProgressCallback = Callable[[Progress], None]


@dataclass(slots=True)
class RecoverReport:
    """What a recovery brought back.

    ``lines`` say, one each, what is not as it was, and ``notes`` what damage there is that may or may not have cost
    something; ``kept`` is where the old catalogue is.
    """

    name: str
    path: Path
    guid: int
    txg: int
    reason: str
    packs: int = 0
    objects: int = 0
    copies: int = 0
    datasets: int = 0
    snapshots: int = 0
    bookmarks: int = 0
    missing: int = 0
    seconds: float = 0.0
    kept: Path | None = None
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def recover_pool(
    where: str | Path,
    *,
    dry_run: bool = False,
    force: bool = False,
    command: str | None = None,
    progress: ProgressCallback | None = None,
    disk: Disk = DISK,
) -> RecoverReport:
    """Rebuild the catalogue of the pool of that name, or in that directory, and ``pool.json`` where it is lost.

    ``dry_run`` leaves everything as it is; ``force`` also where nothing is wrong with the catalogue; ``command`` is
    what the history says. Raises ``Busy`` where others use the pool, ``AlreadyExists`` where nothing is wrong.
    """
    started = time.monotonic()
    path = _directory(where)
    marker = _marker(path, disk)
    shown = marker.name if marker is not None else printable(str(path))
    files.check_writable(path, shown)
    reason = _damage(path, marker, disk)
    if reason is None and not force:
        raise AlreadyExists(
            f"cannot recover '{shown}': nothing is wrong with its catalogue that would have to be rebuilt; -f does it "
            "all the same"
        )
    try:
        with alone(path, shown, "recover", disk):
            report = _Recovery(path, marker, disk, progress).run(dry_run, reason or "asked for", shown)
            if not dry_run:
                _anchor(report, command, disk)
    except OSError as error:
        raise translated(error, f"cannot recover '{shown}'") from error
    report.seconds = time.monotonic() - started
    return report


def _directory(where: str | Path) -> Path:
    text = str(where)
    path = Path(os.path.abspath(text)) if isinstance(where, Path) or "/" in text else registry.find(text)
    if path is None:
        raise NotFound(f"cannot recover '{printable(text)}': no such pool; name its directory, with a '/' in it")
    if os.path.lexists(path / files.DESTROYING):
        raise NotFound(f"cannot recover '{printable(text)}': it is being destroyed")
    if not (path / files.PACKS).is_dir():
        raise NotFound(f"cannot recover '{printable(text)}': there are no packs in '{printable(str(path))}'")
    return path


def _marker(path: Path, disk: Disk) -> files.PoolMarker | None:
    try:
        return files.read_marker(path, printable(path.name), disk)
    except (NotFound, DamagedMarker):
        return None


def _damage(path: Path, marker: files.PoolMarker | None, disk: Disk) -> str | None:
    """What is wrong with the catalogue; None where it can be used. Raises where it is of another version."""
    if marker is None:
        return f"{files.MARKER} is missing or damaged"
    if not os.path.lexists(path / files.CATALOGUE):
        return "the catalogue is missing"
    try:
        with _opened(path / files.CATALOGUE, disk) as database:
            version = database.query("PRAGMA user_version")[0][0]
            if version > SCHEMA_VERSION:
                raise UnsupportedPool(
                    f"cannot recover '{marker.name}': its catalogue is of version {version}, this lamina knows up to "
                    f"{SCHEMA_VERSION}; use a newer lamina"
                )
            wrong = database.query("PRAGMA quick_check(1)")[0][0]
            if version < 1 or wrong != "ok":
                return "the catalogue is empty" if version < 1 else f"the catalogue is damaged: {printable(wrong)}"
            if version < SCHEMA_VERSION:
                raise UnsupportedPool(
                    f"cannot recover '{marker.name}': nothing is wrong with its catalogue, which is formatted using a "
                    f"legacy on-disk format; 'lamina pool upgrade {marker.name}' brings it up to date"
                )
            catalogue = Catalogue(database)
            if catalogue.meta("recovery") is not None:
                return "an earlier recovery was broken off"
            if catalogue.meta("guid") != marker.guid:
                return "the catalogue is another pool's"
            catalogue.datasets()
            catalogue.snapshots()
    except UnsupportedPool as error:
        if "cannot recover" in str(error):
            raise
        return "the catalogue is no database"
    except DamagedData as error:
        return str(error)
    return None


def _opened(path: Path, disk: Disk) -> Database:
    """The catalogue, without changing it: what a log holds stays there."""
    try:
        return Database(path, write=False, disk=disk)
    except AccessDenied:  # its logs are missing, which whoever may write makes anew
        return Database(path, write=True, disk=disk)


class _Recovery:
    """One recovery."""

    def __init__(
        self, path: Path, marker: files.PoolMarker | None, disk: Disk, progress: ProgressCallback | None
    ) -> None:
        self._path = path
        self._marker = marker
        self._disk = disk
        self._callback = progress
        self._bytes = self._total = self._count = 0

    def run(self, dry_run: bool, reason: str, shown: str) -> RecoverReport:
        packs = pack_files(self._path, self._disk)
        guid = self._guid(packs, shown)
        mode = self._marker.mode if self._marker is not None else self._path.stat().st_mode & 0o777
        self._count, self._total = len(packs), sum(pack.size for pack in packs)
        self._remove_new()
        database = Database.create(self._path / NEW, POOL_SCHEMA, mode & 0o666, self._disk)
        database.query("PRAGMA cache_size = -65536")  # keys come in no order
        try:
            with contextlib.closing(LocalBackend(self._path / files.PACKS, mode & 0o666, self._disk)) as backend:
                report, marker = self._build(database, backend, packs, guid, mode, shown)
            report.reason = reason
            database.query("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            database.close()
        for suffix in LOG_RESERVE:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(f"{self._path / NEW}{suffix}")
        if dry_run:
            self._remove_new()
        else:
            fd = self._disk.open(self._path / NEW, os.O_RDONLY)
            self._disk.sync(fd)
            self._disk.close(fd)
            report.kept = self._install()
            if marker != self._marker:
                files.write_marker(self._path, marker, self._disk)
        return report

    def _guid(self, packs: list[PackFile], shown: str) -> int:
        """Whose packs these are: as ``pool.json`` says or, where it is lost, the last pack."""
        guids = [pack.header.guid for pack in packs if pack.header is not None]
        if self._marker is not None and (self._marker.guid in guids or not guids):
            return self._marker.guid
        if not guids:
            raise DamagedData(f"cannot recover '{shown}': there is no pack, or none whose beginning can be read")
        return guids[-1]

    def _build(
        self,
        database: Database,
        backend: LocalBackend,
        packs: list[PackFile],
        guid: int,
        mode: int,
        shown: str,
    ) -> tuple[RecoverReport, files.PoolMarker]:
        indexer = Indexer(database, self._disk, self._advance)
        guid = indexer.index(packs, guid)
        self._report(True)
        store = ObjectStore(database, backend)
        told = read_names(indexer.found.links, record_reader(store))
        lines = _scan_lines(indexer.found, told)
        name = self._name(told.names, shown)
        if told.tip is None:
            lines.append(f"no name record could be read: each tree is restored as a snapshot of '{name}/recovered'")
            told.names = _salvaged(database, name)
        catalogue = Catalogue(database)
        self._set_meta(catalogue, store, told, guid, sorted(indexer.formerly - {guid}), packs)
        restored = Restorer(catalogue, store, told.names, name).run()
        wrong = database.query("PRAGMA foreign_key_check")
        if wrong:
            raise DamagedData(f"cannot recover '{shown}': the names found do not fit together: {wrong[0]}")
        marker = self._marker or files.PoolMarker(name, guid, mode)
        marker = replace(marker, name=name, guid=guid, features=tuple(sorted(features.NAMES)))
        return _made(name, self._path, guid, told, indexer.found, restored, lines), marker

    def _name(self, names: Names, shown: str) -> str:
        """The pool's name: that of the dataset that others lie below."""
        roots = [row["name"] for row in names.datasets.values() if "/" not in row["name"]]
        if roots:
            return max(
                map(str, roots),
                key=lambda root: sum(row["name"].startswith(root + "/") for row in names.datasets.values()),
            )
        if self._marker is not None:
            return self._marker.name
        if pool_name_error(self._path.name) is None:
            return self._path.name
        raise DamagedData(f"cannot recover '{shown}': its name is in no name record; give the directory a pool's name")

    def _set_meta(
        self,
        catalogue: Catalogue,
        store: ObjectStore,
        told: Told,
        guid: int,
        formerly: list[int],
        packs: list[PackFile],
    ) -> None:
        live = store.locate(bytes.fromhex(key) for key in told.live)
        with catalogue.database.transaction():
            for name, value in {
                "guid": guid,
                "txg": told.names.txg,
                "generation": 1,
                "record": told.tip,
                "names_from": min((one.id for one in live.values()), default=None),
                "names_full": 0,
                "names_since": sum(one.decoded for one in live.values()),
                "formerly": str(formerly) if formerly else None,
                "recovery": "unfinished",
            }.items():
                if value is not None:
                    catalogue.set_meta(name, value)
            keep_sequence(catalogue, "pack", max((pack.number for pack in packs), default=0))

    def _install(self) -> Path | None:
        """Put the new catalogue in the old one's place; where the old one is now."""
        old = self._path / files.CATALOGUE
        kept = None
        taken = {int(name[len(DAMAGED) :].partition("-")[0] or 0) for name in self._names() if _is_kept(name)}
        number = max(taken, default=0) + 1
        log = Path(f"{old}-wal")
        for source, target in ((old, self._path / f"{DAMAGED}{number}"), (log, self._path / f"{DAMAGED}{number}-wal")):
            if source.exists() and (source is old or _is_log(source)):
                _link(source, target)
                kept = kept or target
        for suffix in (*LOG_RESERVE, "-journal"):
            # A log that stayed would be taken for the new one's.
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(f"{old}{suffix}")
        self._disk.sync_directory(self._path)
        self._disk.replace(self._path / NEW, old)
        self._disk.sync_directory(self._path)
        put_back_logs(old, self._disk)
        return kept

    def _remove_new(self) -> None:
        for name in self._names():
            if name.startswith(NEW):
                self._disk.unlink(self._path / name)

    def _names(self) -> list[str]:
        return self._disk.listdir(self._path)

    def _advance(self, count: int) -> None:
        self._bytes += count
        self._report(False)

    def _report(self, done: bool) -> None:
        if self._callback is not None:
            size = self._total if done else min(self._bytes, self._total)
            self._callback(Progress(self._count, size, 0, 0, self._count, self._total, done))


def _is_kept(name: str) -> bool:
    return name.startswith(DAMAGED) and name[len(DAMAGED) :].partition("-")[0].isdigit()


def _is_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in _WAL_MAGIC


def _link(source: Path, target: Path) -> None:
    """A second name for a file, so that the first can be replaced; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _scan_lines(found: Scan, told: Told) -> list[str]:
    lines = [f"'{name}' is another pool's pack: it is left alone" for name in found.foreign]
    if found.rejected:
        lines.append(f"{found.rejected} name records are another pool's, or not to be understood: they are left out")
    for gap in told.gaps:
        lines.append(
            f"name records are lost: what changed after txg {gap.before} and up to txg {gap.after} may be undone or "
            "missing"
        )
    return [printable(line) for line in lines]


def _salvaged(database: Database, name: str) -> Names:
    """Names for a pool of which no name is known: each tree is a snapshot of ``POOL/recovered``."""
    now = int(time.time())
    names = Names(txg=1)

    def row(number: int, one: str) -> dict[str, Any]:
        guid = int.from_bytes(os.urandom(8), "big") >> 1
        return {"id": number, "name": one, "guid": guid, "creation": now, "txg": 1, "taken": 0}

    for number, one in ((1, name), (2, f"{name}/recovered")):
        names.datasets[number] = {**row(number, one), "head": None, "follows": None, "origin": None}
    for number, key in enumerate(all_roots(database), 1):
        own = {"dataset": 2, "kind": "snapshot", "root": key.hex()}
        names.snapshots[number] = {**row(number, f"root-{key.hex()[:12]}"), **own}
    return names


def _made(
    name: str, path: Path, guid: int, told: Told, found: Scan, restored: Restored, lines: list[str]
) -> RecoverReport:
    return RecoverReport(
        name,
        path,
        guid,
        told.names.txg,
        "",
        found.packs,
        found.objects,
        found.copies,
        restored.datasets,
        restored.snapshots,
        restored.bookmarks,
        restored.missing,
        lines=lines + restored.lines,
        notes=found.damaged,
    )


def _anchor(report: RecoverReport, command: str | None, disk: Disk) -> None:
    """Record what was recovered as all there is: a full name record, from which the chain goes on."""
    marker = files.read_marker(report.path, report.name, disk)
    with Database(report.path / files.CATALOGUE, write=True, disk=disk) as database:
        catalogue = Catalogue(database)
        catalogue.command = command
        with contextlib.closing(LocalBackend(report.path / files.PACKS, marker.file_mode, disk)) as backend:
            writer = StoreWriter(
                ObjectStore(database, backend),
                report.path / files.LEASES,
                report.guid,
                catalogue.generation,
                catalogue.epoch,
                marker.file_mode,
                node_copies=2,
            )
            try:
                with catalogue.change(writer) as change:
                    change.full = True
                    database.execute("DELETE FROM meta WHERE name = 'recovery'")
            except BaseException:
                writer.abort()
                raise
            writer.close()
