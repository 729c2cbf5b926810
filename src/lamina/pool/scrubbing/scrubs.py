"""What the catalogue knows of scrubs: the row of the last one, and the counts of errors.

One scrub at a time. The row ``scan`` says how far it is and which lease its process holds; whoever's lease stands
there is the scrubber, and one that finds another's, or another state, stops. So a scrub is paused, canceled and taken
over by changing the row.
"""

import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

from lamina.errors import Busy, LaminaError
from lamina.pool import files
from lamina.pool.catalogue import Catalogue
from lamina.store.database import DAMAGED, Database
from lamina.store.lease import is_alive, last_object
from lamina.store.record import Kind

SCANNING, PAUSED, FINISHED, CANCELED = "scanning", "paused", "finished", "canceled"
_UNTIL = "scan_until"
_MESSAGE = "scan_message"
_COUNTS = ("read_errors", "write_errors", "checksum_errors")


@dataclass(frozen=True, slots=True)
class Scan:
    """The row ``scan``: sizes in bytes, times in seconds since 1970, ``seconds`` spent reading, ``rate`` in bytes/s.

    ``pack`` and ``offset`` are the last place that was examined; ``errors`` counts what could not be repaired.
    """

    state: str
    started: int
    ended: int | None = None
    lease: str | None = None
    rate: int = 0
    pack: int = 0
    offset: int = 0
    examined: int = 0
    total: int = 0
    repaired: int = 0
    errors: int = 0
    seconds: int = 0


_COLUMNS = ", ".join(field.name for field in fields(Scan))


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Places of objects that could not be read, written, or did not match, since the counts were cleared."""

    read: int = 0
    write: int = 0
    checksum: int = 0

    def __bool__(self) -> bool:
        return bool(self.read or self.write or self.checksum)


class Scrubs:
    """The row and the counts of one pool."""

    def __init__(self, catalogue: Catalogue, directory: Path) -> None:
        """``directory`` is the pool's."""
        self._catalogue = catalogue
        self._database: Database = catalogue.database
        self._leases = directory / files.LEASES

    def last(self) -> Scan | None:
        """The last scrub, or the one that is going on."""
        rows = self._database.query(f"SELECT {_COLUMNS} FROM scan")
        return Scan(*rows[0]) if rows else None

    def is_running(self, scan: Scan | None) -> bool:
        """Whether its process is alive."""
        return (
            scan is not None
            and scan.state == SCANNING
            and (scan.lease is not None and is_alive(self._leases, scan.lease, self._database.disk))
        )

    # -- changing it ----------------------------------------------------------------------------------------------

    def begin(self, pool: str, rate: int | None, *, restart: bool = False) -> bool:
        """Get the row ready for a scrubber; whether one runs already, which then has its rate set.

        A paused scrub, or one whose process died, goes on where it was. Raises ``Busy`` where one runs and no rate is
        given.
        """
        with self._database.transaction():
            scan = self.last()
            if scan is not None and self.is_running(scan):
                if rate is None:
                    raise Busy(f"cannot scrub {pool}: currently scrubbing; use 'lamina pool scrub -s' to cancel scrub")
                self._put(replace(scan, rate=rate))
                return True
            self._catalogue.set_meta(_MESSAGE, None)
            if scan is not None and scan.state in (SCANNING, PAUSED) and not restart:
                kept = scan.rate if rate is None else rate
                self._put(replace(scan, state=SCANNING, ended=None, lease=None, rate=kept))
            else:
                self._catalogue.set_meta(_UNTIL, last_object(self._database))
                self._put(Scan(SCANNING, int(time.time()), rate=rate or 0))
            return False

    def take(self, lease: str) -> Scan:
        """Make ``lease`` the scrubber. Raises ``Busy`` where another is, or none is wanted any more."""
        with self._database.transaction():
            scan = self.last()
            if scan is None or scan.state != SCANNING or self.is_running(scan):
                raise Busy("another process scrubs the pool, or the scrub was stopped meanwhile")
            taken = replace(scan, lease=lease)
            self._put(taken)
            return taken

    def until(self) -> int:
        """The newest object row that the scrub reads."""
        return int(self._catalogue.meta(_UNTIL) or 0)

    def save(self, scan: Scan) -> bool:
        """Write the figures of the scrubber, whose lease ``scan`` names; False where it is not that any more."""
        with self._database.transaction():
            now = self.last()
            if now is None or now.lease != scan.lease:
                return False
            # State and rate are others' to change.
            self._put(replace(scan, state=now.state, ended=now.ended, rate=now.rate))
            return now.state == SCANNING

    def finish(self, scan: Scan) -> None:
        """The scrubber has come to the end."""
        with self._database.transaction():
            if self.save(scan):
                self._put(replace(scan, state=FINISHED, ended=int(time.time()), lease=None))

    def pause(self, pool: str) -> None:
        """Pause a scrub. Raises ``Busy`` where it is paused; where there is none, nothing is to be done, as in ZFS."""
        with self._database.transaction():
            scan = self.last()
            if scan is None or scan.state not in (SCANNING, PAUSED):
                return
            if scan.state == PAUSED:
                raise Busy(f"cannot pause scrubbing {pool}: scrub is paused; use 'lamina pool scrub' to resume scrub")
            self._put(replace(scan, state=PAUSED, ended=int(time.time())))

    def cancel(self, pool: str) -> None:
        """Cancel a scrub that runs or is paused. Raises ``LaminaError`` where there is none."""
        with self._database.transaction():
            scan = self.last()
            if scan is None or scan.state not in (SCANNING, PAUSED):
                raise LaminaError(f"cannot cancel scrubbing {pool}: there is no active scrub")
            self._put(replace(scan, state=CANCELED, ended=int(time.time())))

    def _put(self, scan: Scan) -> None:
        values = [getattr(scan, field.name) for field in fields(Scan)]
        marks = ", ".join("?" * len(values))
        self._database.execute(f"INSERT OR REPLACE INTO scan(id, {_COLUMNS}) VALUES (1, {marks})", values)

    # -- errors ---------------------------------------------------------------------------------------------------

    def fail(self, lease: str, message: str) -> None:
        """Note why the scrubber ends before its time."""
        with self._database.transaction():
            scan = self.last()
            if scan is not None and scan.lease == lease:
                self._catalogue.set_meta(_MESSAGE, message)

    def message(self) -> str:
        """Why the last scrubber ended before its time; empty where that is not known."""
        return str(self._catalogue.meta(_MESSAGE) or "")

    def counts(self) -> ErrorCounts:
        """Errors since the counts were cleared."""
        return ErrorCounts(*(int(self._catalogue.meta(name) or 0) for name in _COUNTS))

    def add(self, more: ErrorCounts) -> None:
        """Count errors."""
        if more:
            with self._database.transaction():
                before = self.counts()
                for name, old, new in zip(
                    _COUNTS,
                    (before.read, before.write, before.checksum),
                    (more.read, more.write, more.checksum),
                    strict=True,
                ):
                    self._catalogue.set_meta(name, old + new)

    def clear(self) -> None:
        """Forget the counts."""
        with self._database.transaction():
            for name in _COUNTS:
                self._catalogue.set_meta(name, 0)

    def damaged(self) -> int:
        """How many objects are known to be damaged or missing."""
        names_from = int(self._catalogue.meta("names_from") or 0)
        rows = self._database.query(
            "SELECT count(*) FROM object WHERE condemned = ? AND NOT (kind = ? AND id < ?)",
            (DAMAGED, Kind.NAMES, names_from),
        )
        return int(rows[0][0])
