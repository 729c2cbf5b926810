"""Scrub: every object that is there at its beginning is read from the disk, proved by its key, and mended if possible.

Packs are read in order of their numbers, each from its first record to its last; several threads read, hash and decode.
What others store meanwhile has just been written and is not read; what gc moves meanwhile is found where it lies then.
The place and the figures are kept every few seconds, so that a scrub goes on after a pause or the end of its process.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from pyroaring import BitMap64

from lamina.errors import LaminaError, NoSpace
from lamina.pool import files
from lamina.pool.importing.interrupts import Interrupts
from lamina.pool.scrubbing.absent import note_absent
from lamina.pool.scrubbing.scrubs import ErrorCounts, Scan, Scrubs
from lamina.store.database import DAMAGED
from lamina.store.lease import Lease
from lamina.store.memory import keep_freed_memory
from lamina.store.mending import Mender, MendingWriter
from lamina.store.record import Kind
from lamina.store.verifying import Flaw, Place, Run, Verifier, places_in, runs

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_LOOK_SECONDS = 0.5
"""How often the scrubber looks whether it is wanted no more, and how long it sleeps at most."""
_SAVE_SECONDS = 1.0
_MOST_FLAWS = 256
"""Flaws that are collected before they are mended: what is repaired together needs one sync."""

_Writer = TypeVar("_Writer", bound=MendingWriter)
ScrubProgress = Callable[[Scan], None]


def scrubs_of(pool: "Pool") -> Scrubs:
    """What the catalogue knows of scrubs."""
    return Scrubs(pool._catalogue, pool.path)


def scrub(pool: "Pool", progress: ScrubProgress | None = None, begun: Callable[[], None] | None = None) -> Scan:
    """Be the scrubber of the scrub that ``Scrubs.begin`` made ready, to its end, a pause or its cancellation.

    ``begun`` is called once it is clear that this process scrubs. Raises ``Busy`` where another does.
    """
    keep_freed_memory()
    with Interrupts() as interrupts:
        return _Scrubber(pool, progress, begun, interrupts.check).run()


@contextlib.contextmanager
def mending_writer(pool: "Pool") -> Iterator[MendingWriter]:
    """A writer that may also replace places of objects."""
    with writer_of(pool, MendingWriter) as writer:
        yield writer


@contextlib.contextmanager
def writer_of(pool: "Pool", kind: type[_Writer]) -> Iterator[_Writer]:
    """A writer of this kind; what it put is taken back where the body fails."""
    files.check_writable(pool.path, pool.name)
    catalogue = pool._catalogue
    mode = pool._marker.file_mode
    writer = kind(pool.store, pool.path / files.LEASES, pool.guid, catalogue.generation, catalogue.epoch, mode, 1, 2)
    try:
        yield writer
    except BaseException:
        writer.abort()
        raise
    writer.close()


class _Stopped(Exception):
    """The row says that this process is not, or no more, to scrub."""


@dataclass(slots=True)
class _Pending:
    run: Run
    future: "Future[list[Flaw]]"


class _Scrubber:
    def __init__(
        self,
        pool: "Pool",
        progress: ScrubProgress | None,
        begun: Callable[[], None] | None,
        check: Callable[[], None],
    ) -> None:
        """``check`` raises a Ctrl-C that was noted."""
        self._pool = pool
        self._check = check
        self._begun = begun
        self._database = pool.store.database
        self._scrubs = scrubs_of(pool)
        self._verifier = Verifier(pool.store.backend, pool.guid)
        self._mender = Mender(pool.store, self._verifier, lambda: mending_writer(pool))
        self._progress = progress
        self._pending: deque[_Pending] = deque()
        self._flaws: list[Flaw] = []
        self._absolved: list[Place] = []
        self._mended = BitMap64()
        """Rows that were repaired by this process: a disk that loses everything must not keep it busy for ever."""
        self._unmended = 0
        self._scan: Scan
        self._until = 0
        self._began = self._looked = self._saved = time.monotonic()
        self._seconds = 0
        self._due = 0.0
        self._threads = (os.cpu_count() or 1) + 1

    def run(self) -> Scan:
        pool = self._pool
        lease = Lease(
            pool.path / files.LEASES, self._database, pool._catalogue.epoch, pool._marker.file_mode, kind="scrub"
        )
        try:
            self._scan = self._scrubs.take(lease.name)
            self._until = self._scrubs.until()
            if self._begun is not None:
                self._begun()
            self._seconds = self._scan.seconds
            with ThreadPoolExecutor(self._threads, "scrub") as executor:
                try:
                    self._read_all(executor)
                finally:
                    for pending in self._pending:
                        pending.future.cancel()
            note_absent(pool)
            self._save()
            self._scrubs.finish(self._figures())
        except _Stopped:
            pass
        except LaminaError as error:
            with contextlib.suppress(LaminaError):
                self._scrubs.fail(lease.name, str(error))
            raise
        finally:
            with contextlib.suppress(LaminaError):
                if hasattr(self, "_scan"):
                    self._save()
            lease.close()
        found = self._scrubs.last()
        assert found is not None
        return found

    # -- reading --------------------------------------------------------------------------------------------------

    def _read_all(self, executor: ThreadPoolExecutor) -> None:
        if not self._scan.total:
            self._scan = replace(self._scan, total=self._measure())
            self._save()
        pack = self._scan.pack
        if pack:  # where it stopped
            self._read_pack(executor, pack, self._scan.offset)
        while rows := self._database.query("SELECT id FROM pack WHERE id > ? ORDER BY id LIMIT 1", (pack,)):
            pack = rows[0][0]
            self._read_pack(executor, pack, 0)

    def _measure(self) -> int:
        """Bytes of all payloads that are going to be read."""
        queries = (
            "SELECT coalesce(sum(stored), 0) FROM object WHERE id <= ?",
            "SELECT coalesce(sum(o.stored), 0) FROM copy c JOIN object o ON o.id = c.object WHERE c.object <= ?",
        )
        return sum(int(self._database.query(query, (self._until,))[0][0]) for query in queries)

    def _read_pack(self, executor: ThreadPoolExecutor, pack: int, after: int) -> None:
        header_lost: bool | None = None
        while places := places_in(self._database, pack, after, self._until):
            after = places[-1].location.offset
            if header_lost is None:
                header_lost = self._verifier.header(pack) is not None
            for run in runs([place for place in places if place.location.id not in self._mended]):
                self._throttle(run.end - run.start)
                self._pending.append(_Pending(run, executor.submit(self._verifier.run, run, header_lost)))
                while len(self._pending) > 2 * self._threads:
                    self._take()
        while self._pending:
            self._take()

    def _throttle(self, size: int) -> None:
        """Wait until ``size`` bytes may be read at the rate that is set."""
        begin = max(self._due, time.monotonic())
        while self._scan.rate and (left := begin - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
            self._look()
        if self._scan.rate:
            self._due = begin + size / self._scan.rate

    def _take(self) -> None:
        """The outcome of the run that has waited longest."""
        pending = self._pending.popleft()
        flaws = pending.future.result()
        bad = {flaw.place.location.id for flaw in flaws}
        self._flaws += flaws
        self._absolved += [
            place for place in pending.run.places if place.marked and not place.number and place.location.id not in bad
        ]
        self._scan = replace(
            self._scan,
            pack=pending.run.pack,
            offset=pending.run.places[-1].location.offset,
            examined=self._scan.examined + sum(place.location.stored for place in pending.run.places),
        )
        if len(self._flaws) >= _MOST_FLAWS or len(self._absolved) >= _MOST_FLAWS:
            self._mend()
        self._look()

    def _look(self) -> None:
        """Now and then: whether this process is wanted, and what it has found."""
        self._check()
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if now - self._saved >= _SAVE_SECONDS:
            self._save()
        row = self._scrubs.last()
        if row is None or row.lease != self._scan.lease or row.state != self._scan.state:
            raise _Stopped
        self._scan = replace(self._scan, rate=row.rate)
        if self._progress is not None:
            self._progress(self._figures())

    # -- what was found -------------------------------------------------------------------------------------------

    def _mend(self) -> None:
        absolved, self._absolved = self._absolved, []
        if absolved:
            self._mender.absolve(absolved)
        flaws, self._flaws = self._flaws, []
        if not flaws:
            return
        result = self._mender.mend(flaws)
        self._mended |= BitMap64([flaw.place.location.id for flaw in flaws]) - BitMap64(result.lost)
        self._unmended += result.unmended
        self._scan = replace(self._scan, repaired=self._scan.repaired + result.repaired)
        self._scrubs.add(ErrorCounts(result.unreadable, result.unmended, result.checksum))
        if result.lost:
            renew_names(self._pool)

    def _save(self) -> None:
        self._mend()
        self._saved = time.monotonic()
        with contextlib.suppress(NoSpace):  # then it goes on from an earlier place, should it have to
            self._scrubs.save(self._figures())

    def _figures(self) -> Scan:
        seconds = self._seconds + int(time.monotonic() - self._began)
        return replace(self._scan, seconds=seconds, errors=self._scrubs.damaged() + self._unmended)


def renew_names(pool: "Pool") -> None:
    """Where a name record was lost that is still needed, write a full one, which stands for all before it."""
    names_from = int(pool._catalogue.meta("names_from") or 0)
    lost = pool.store.database.query(
        "SELECT 1 FROM object WHERE condemned = ? AND kind = ? AND id >= ? LIMIT 1", (DAMAGED, Kind.NAMES, names_from)
    )
    if lost:
        with pool._writer() as writer, pool._catalogue.change(writer) as change:
            change.full = True
