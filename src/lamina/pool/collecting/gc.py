"""Garbage collection: what names no longer reach is deleted, and its space given back.

Nothing may go that a running import has decided to share. While processes hold write leases, what nothing reaches is
first **condemned**, at the pool's next epoch: look-ups pass it by from then on, and a commit that reaches it all the
same takes the mark off. It is **deleted** once every write lease was renewed since. Where nobody writes, it is deleted
at once. Every step is a short transaction that looks again whether names or leases have changed; a collection that
ends anywhere is gone on with by the next one. Space comes last: the rows of packs that hold nothing go, then their
files; dead ranges become holes; what is left in packs that are mostly dead moves to others.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pyroaring import BitMap64

from lamina.errors import AccessDenied, Busy, LaminaError, NoSpace
from lamina.pool import files
from lamina.pool.collecting.background import Background
from lamina.pool.collecting.freeing import (
    Reach,
    all_objects,
    catch_up,
    condemned,
    freeing,
    has_work,
    kept_by_mounts,
    name_records,
    read_reach,
    stored_bytes,
)
from lamina.pool.importing.interrupts import Interrupts
from lamina.pool.reports import GcReport
from lamina.store.compaction import Compactor
from lamina.store.lease import Lease, LeaseRow, live_leases, running
from lamina.store.record import PACK_TARGET
from lamina.store.space import PackSpace, PackUse

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_ROWS_AT_ONCE = 10_000
_LEAST_ROWS = 16
"""On a full disk transactions shrink to this many rows, so that they fit what the log holds anyway."""
_TURN = 0.25
_LONGEST_TURN = 0.05
"""Between two transactions others get this part of the last one's time, at most so many seconds."""
_MOST_ROUNDS = 8
"""After so many it ends although names let go of ever more: somebody else goes on."""
_POLL_SECONDS = (0.05, 2.0)
_LEAST_WASTE = PACK_TARGET // 256
"""Bytes that a pack must waste for the rest of it to be moved."""
_SMALL = PACK_TARGET // 8
_MOST_SMALL = 16
"""More packs than this of less than ``_SMALL`` live bytes are merged."""


@dataclass(frozen=True, slots=True)
class GcProgress:
    """How far a collection is: rows deleted, or packs looked at, of so many. ``waiting_for``: processes by number."""

    step: str
    done: int = 0
    total: int = 0
    waiting_for: tuple[int, ...] = ()


ProgressCallback = Callable[[GcProgress], None]


def collect(
    pool: "Pool",
    *,
    dry_run: bool = False,
    full: bool = True,
    wait: float | None = None,
    queue: bool = True,
    progress: ProgressCallback | None = None,
) -> GcReport:
    """See ``Pool.gc``.

    Without ``full`` what broken imports left is looked for only where counts say that there is some; without ``queue``
    another collection that runs is not waited for.
    """
    began = time.monotonic()
    if dry_run:
        return _plan(pool, full, began)
    files.check_writable(pool.path, pool.name)
    if not pool.writable:
        raise AccessDenied(f"cannot collect garbage in '{pool.name}': it was opened for reading")
    with Interrupts() as interrupts:
        until = float("inf") if wait is None else began + wait
        return _Collection(pool, interrupts.check, progress, until if queue else began).run(full, until, began)


def _plan(pool: "Pool", full: bool, began: float) -> GcReport:
    """What a collection would free now."""
    database = pool.store.database
    found = read_reach(pool._catalogue)
    writers = [row for row in running(pool.path / files.LEASES, database) if row.kind == "write"]
    garbage = found.left | condemned(database)
    if full:
        garbage |= _strays(database_objects=all_objects(database), found=found, writers=writers)
    garbage &= all_objects(database)
    stored = stored_bytes(database, garbage)
    mounted, mounted_by = kept_by_mounts(pool._catalogue)
    return GcReport(
        name=pool.name,
        dry_run=True,
        objects=len(garbage),
        stored=stored,
        given=0,
        packs=0,
        moved=0,
        freeing=stored,
        waiting_for=[row.pid for row in writers],
        mounted=mounted,
        mounted_by=mounted_by,
        seconds=time.monotonic() - began,
    )


def _strays(database_objects: BitMap64, found: Reach, writers: Sequence[LeaseRow]) -> BitMap64:
    """Objects that nothing reaches and no tree tells of: left by broken imports. Not those of imports that run."""
    strays = database_objects - found.live
    if writers:
        strays.remove_range(min(row.started for row in writers) + 1, 1 << 63)
    return strays


class _Collection:
    """One run."""

    def __init__(
        self, pool: "Pool", check: Callable[[], None], progress: ProgressCallback | None, until: float
    ) -> None:
        self._pool = pool
        self._catalogue = pool._catalogue
        self._database = pool.store.database
        self._leases = pool.path / files.LEASES
        self._check = check
        self._progress = progress
        self._lease = self._begin(until)
        self._space = PackSpace(self._database, pool.store.backend, self._lease.name)
        self._rows_at_once = _ROWS_AT_ONCE
        self._objects = self._stored = self._given = self._packs = self._moved = 0
        self._total = 0

    def _begin(self, until: float) -> Lease:
        """Take the lease that says that gc runs; one at a time."""
        pause, longest = _POLL_SECONDS
        while True:
            lease: Lease | None = None
            try:
                with self._database.transaction():
                    leases = live_leases(self._leases, self._database)
                    other = next((row.pid for row in leases if row.kind == "gc"), None)
                    if other is None:
                        mode = self._pool._marker.file_mode
                        lease = Lease(self._leases, self._database, self._catalogue.epoch, mode, kind="gc")
            except BaseException:
                if lease is not None:  # its row was not committed: nobody may think that gc runs
                    lease.close()
                raise
            if other is None:
                assert lease is not None
                return lease
            if time.monotonic() >= until:
                raise Busy(
                    f"cannot collect garbage in '{self._pool.name}': process {other} is doing so already; wait for it"
                )
            self._check()
            self._report("queueing", waiting_for=(other,))
            time.sleep(pause)
            pause = min(pause * 1.5, longest)

    def run(self, full: bool, until: float, began: float) -> GcReport:
        """Collect until nothing is left to free, or what is left is not given free before ``until``."""
        waiting: list[int] = []
        try:
            self._refresh()  # sums let go of what goes by its sizes: quick as long as its rows are there
            rounds, counted = 0, False
            while rounds < _MOST_ROUNDS:
                self._mark(full)
                self._delete()
                self._give_back()
                full, counted = not counted and self._has_strays(), True
                if full:
                    continue
                began_waiting = time.monotonic()
                waiting = self._wait(until)
                if waiting or self._end():
                    break
                rounds += time.monotonic() - began_waiting < _POLL_SECONDS[0]  # a wait ends, names may never
        finally:
            self._lease.close()
        if not waiting:
            Background(self._pool).start()
        self._refresh()
        mounted, mounted_by = kept_by_mounts(self._catalogue)
        return GcReport(
            name=self._pool.name,
            dry_run=False,
            objects=self._objects,
            stored=self._stored,
            given=max(self._given, 0),
            packs=self._packs,
            moved=self._moved,
            freeing=freeing(self._catalogue),
            waiting_for=waiting,
            mounted=mounted,
            mounted_by=mounted_by,
            seconds=time.monotonic() - began,
        )

    def _end(self) -> bool:
        """Stop being the one that collects, unless there is work again: who is turned away by us relies on it."""
        with self._database.transaction():
            if has_work(self._catalogue):
                return False
            self._lease.close()
            return True

    def _refresh(self) -> None:
        from lamina.pool.figures.accounting import Accounting

        try:
            Accounting(self._catalogue).refresh()
        except LaminaError:
            pass  # whoever asks for the figures computes them

    # -- marking --------------------------------------------------------------------------------------------------

    def _mark(self, full: bool) -> None:
        """Condemn what nothing reaches, or delete it where nobody writes, and forget the trees that had reached it."""
        self._check()
        self._report("marking")
        found = read_reach(self._catalogue)
        garbage = found.left
        if full:
            writers = [row for row in running(self._leases, self._database) if row.kind == "write"]
            strays = _strays(all_objects(self._database), found, writers)
            # Asked for after the rows: so none that was recorded in between is taken for a stray.
            garbage = garbage | (strays - name_records(self._catalogue))
        # The root's row goes with its tree: the tree must be there as long as something of it is.
        garbage = garbage - BitMap64(found.unnamed)
        self._total = self._objects + len(garbage) + len(found.unnamed)
        rows = iter(garbage)
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            self._in_short(some, lambda few: self._free(found, few))
        self._in_short(found.unnamed, lambda few: self._free_trees(found, few))

    def _in_short(self, rows: Sequence[int], step: Callable[[Sequence[int]], None]) -> None:
        """Run a transaction for some rows at a time; for fewer where the disk is full."""
        done = 0
        while done < len(rows):
            few = rows[done : done + self._rows_at_once]
            if self._in_turn(lambda few=few: step(few)):  # type: ignore[misc]
                done += len(few)

    def _in_turn(self, step: Callable[[], object]) -> bool:
        """Run a transaction, and let others have theirs; False where it has to be tried again with fewer rows."""
        self._check()
        began = time.monotonic()
        try:
            step()
        except NoSpace:
            if self._rows_at_once <= _LEAST_ROWS:
                raise
            self._rows_at_once = max(self._rows_at_once // 8, _LEAST_ROWS)
            self._relieve()
            return False
        if self._rows_at_once < _ROWS_AT_ONCE:
            self._relieve()
        self._report("deleting", self._objects, max(self._total, self._objects))
        # Who waits for SQLite's lock looks only now and then, and would find it taken each time.
        time.sleep(min((time.monotonic() - began) * _TURN, _LONGEST_TURN))
        return True

    def _relieve(self) -> None:
        """Have the log begin anew, and give back what can be without taking any."""
        try:
            self._database.query("PRAGMA wal_checkpoint(PASSIVE)")
            self._drop_packs()
        except LaminaError:
            pass  # whether there is room enough, the next transaction tells

    def _writers(self) -> list[LeaseRow]:
        """Inside a transaction: the processes that may have decided to share something."""
        return [row for row in live_leases(self._leases, self._database, self._lease.name) if row.kind == "write"]

    def _free(self, found: Reach, rows: Sequence[int]) -> None:
        """One transaction: condemn or delete those of ``rows`` that no name has come to reach meanwhile."""
        with self._database.transaction():
            catch_up(self._catalogue, found)
            self._condemn_or_delete([row for row in rows if row not in found.live])

    def _free_trees(self, found: Reach, roots: Sequence[int]) -> None:
        """One transaction: forget trees, all that they alone reached being condemned or gone."""
        with self._database.transaction():
            catch_up(self._catalogue, found)
            gone = [root for root in roots if root not in found.named]
            self._database.execute_many("DELETE FROM tree WHERE root = ?", ((root,) for root in gone))
            self._condemn_or_delete([root for root in gone if root not in found.live])

    def _condemn_or_delete(self, rows: Sequence[int]) -> None:
        if self._writers():
            self._condemn(rows)
        else:
            self._delete_rows(rows)

    def _condemn(self, rows: Sequence[int]) -> None:
        """What scrub has marked keeps its mark: an import that shares it all the same must not make it look whole."""
        epoch = self._catalogue.epoch() + 1
        changed = self._database.execute_many(
            "UPDATE object SET condemned = ? WHERE id = ? AND condemned IS NULL", ((epoch, row) for row in rows)
        )
        if changed > 0:
            self._catalogue.set_meta("epoch", epoch)

    # -- deleting -------------------------------------------------------------------------------------------------

    def _delete(self) -> None:
        """Delete what was condemned before every running import last committed."""
        left = True

        def step() -> None:
            nonlocal left
            left = self._delete_some()

        while left:
            self._in_turn(step)

    def _delete_some(self) -> bool:
        with self._database.transaction():
            limit = min((row.renewed for row in self._writers()), default=self._catalogue.epoch())
            rows = self._database.query(
                "SELECT id FROM object WHERE condemned > 0 AND condemned <= ? AND id NOT IN (SELECT root FROM tree) "
                "LIMIT ?",
                (limit, self._rows_at_once),
            )
            self._delete_rows([row for (row,) in rows])
        return bool(rows)

    def _delete_rows(self, rows: Sequence[int]) -> None:
        for start in range(0, len(rows), 500):
            some = rows[start : start + 500]
            marks = ",".join("?" * len(some))
            count, stored = self._database.query(
                f"SELECT count(*), ifnull(sum(stored), 0) FROM object WHERE id IN ({marks})", some
            )[0]
            self._database.execute(f"DELETE FROM object WHERE id IN ({marks})", some)
            self._objects += count
            self._stored += stored

    def _has_strays(self) -> bool:
        """Whether there are more rows than names, marks and running imports account for."""
        found = read_reach(self._catalogue)
        rows = self._database.query("SELECT count(*) FROM object")[0][0]
        writers = [row for row in running(self._leases, self._database) if row.kind == "write"]
        if writers:
            first = min(row.started for row in writers) + 1
            rows -= self._database.query("SELECT count(*) FROM object WHERE id >= ?", (first,))[0][0]
        return bool(rows > len(found.live | found.left | condemned(self._database)))

    def _wait(self, until: float) -> list[int]:
        """Return once something condemned can be deleted, or nothing is; the processes waited for where it takes long.

        Raises ``KeyboardInterrupt``.
        """
        pause, longest = _POLL_SECONDS
        while True:
            self._check()
            first = self._database.query("SELECT min(condemned) FROM object WHERE condemned > 0")[0][0]
            if first is None:
                return []
            holders = [
                row.pid for row in running(self._leases, self._database) if row.kind == "write" and row.renewed < first
            ]
            if not holders:
                return []
            if time.monotonic() >= until:
                return sorted(holders)
            self._report("waiting", waiting_for=tuple(sorted(holders)))
            time.sleep(pause)
            pause = min(pause * 1.5, longest)

    # -- space ----------------------------------------------------------------------------------------------------

    def _drop_packs(self) -> None:
        packs, given = self._space.drop_unused(self._space.numbers())
        self._packs += packs
        self._given += given

    def _give_back(self) -> None:
        """Give back whole packs, dead ranges, and what is wasted in packs that are mostly dead."""
        self._drop_packs()
        self._given += self._space.drop_strays()
        uses = self._space.uses()
        after: list[PackUse] = []
        for done, use in enumerate(uses):
            self._check()
            self._report("punching", done, len(uses))
            after.append(self._space.punch(use))
            self._given += use.allocated - after[-1].allocated
        self._compact(list(_worth_moving(after)))

    def _compact(self, uses: list[PackUse]) -> None:
        doomed = {use.number for use in uses}
        compactor = Compactor(self._pool.store, self._lease.name, self._pool.guid, doomed)
        try:
            for done, use in enumerate(uses):
                self._check()
                self._report("compacting", done, len(uses))
                # Marked ones will soon be gone, and need not be moved.
                if self._database.query("SELECT 1 FROM object WHERE pack = ? AND condemned > 0 LIMIT 1", (use.number,)):
                    continue
                if self._pool._free() < use.live + _LEAST_WASTE:
                    continue
                with self._space.held(use.number) as free:
                    if free:
                        compactor.empty(use.number)
                packs, given = self._space.drop_unused([use.number])
                self._packs += packs
                self._given += given - compactor.moved_bytes
                self._moved += compactor.moved_bytes
                compactor.moved_bytes = 0
        except NoSpace:
            pass  # what was moved by then is whole; the rest another time
        finally:
            compactor.close()

    def _report(self, step: str, done: int = 0, total: int = 0, waiting_for: tuple[int, ...] = ()) -> None:
        if self._progress is not None:
            self._progress(GcProgress(step, done, total, waiting_for))


def _worth_moving(uses: Sequence[PackUse]) -> Iterator[PackUse]:
    """Packs that take twice what is live in them although their dead ranges were given back; many that are small."""
    small: list[PackUse] = []
    for use in sorted(uses, key=lambda one: one.live):
        # Some file systems set room aside behind the end of a file that grows: that is no waste.
        taken = min(use.allocated, use.size)
        if taken - use.live >= _LEAST_WASTE and taken >= 2 * use.live:
            yield use
        elif use.live < _SMALL:
            small.append(use)
    if len(small) > _MOST_SMALL:
        yield from small
