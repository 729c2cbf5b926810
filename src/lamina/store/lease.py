"""Leases: a process that takes objects in holds one, so that gc deletes nothing it may have decided to share.

A lease is a file in the pool that its process keeps locked (flock(2)): the lock goes with the process however it
ends. Its row in the catalogue says at which epoch of gc all its decisions were last committed; every commit renews it.
What was condemned at an epoch is deleted once all writers' leases have come that far. Leases of other kinds hold back
nothing here: those of readers pin roots, those of gc and scrub say that one runs.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lamina.errors import AccessDenied
from lamina.store.database import Database
from lamina.store.disk import DISK, Disk, translated


class Lease:
    """One process's lease on a pool, held until ``close``."""

    def __init__(
        self,
        directory: Path,
        database: Database,
        epoch: Callable[[], int],
        file_mode: int = 0o600,
        kind: str = "write",
    ) -> None:
        self.name: str
        self._path: Path
        self._database = database
        self._disk = database.disk
        self._fd = -1
        try:
            while self._fd < 0 or not self._path.exists():  # swept between its creation and its lock
                self._release()
                self.name = f"{os.getpid()}-{secrets.token_hex(6)}"
                self._path = directory / self.name
                self._fd = self._disk.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, file_mode)
                self._disk.chmod(self._fd, file_mode)
                if os.geteuid() == 0:
                    # Whoever owns the pool must be able to tell whether root's process still runs.
                    owner = self._disk.stat(directory)
                    self._disk.chown(self._fd, owner.st_uid, owner.st_gid)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError as error:
            self._release()
            if isinstance(error, PermissionError):
                raise AccessDenied(f"cannot write to the pool: permission denied on '{directory}'") from None
            raise translated(error, f"cannot write to '{directory}'") from error
        try:
            with database.transaction():
                now = epoch()  # in the transaction: gc cannot condemn between the look and the row
                database.execute(
                    "INSERT INTO lease(name, pid, kind, started, renewed) VALUES (?, ?, ?, ?, ?)",
                    (self.name, os.getpid(), kind, last_object(database), now),
                )
        except BaseException:
            self._release()
            raise

    def renew(self, epoch: int) -> None:
        """Inside the transaction that commits all decisions made so far."""
        self._database.execute(
            "UPDATE lease SET renewed = ?, started = ? WHERE name = ?",
            (epoch, last_object(self._database), self.name),
        )

    def close(self) -> None:
        """Give the lease back; its packs are free for others."""
        with contextlib.suppress(Exception), self._database.transaction():
            self._database.execute("DELETE FROM lease WHERE name = ?", (self.name,))
            self._database.execute("UPDATE pack SET lease = NULL WHERE lease = ?", (self.name,))
        self._release()

    def _release(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            # A file that nobody has locked is swept by whoever comes next.
            with contextlib.suppress(OSError):
                self._disk.unlink(self._path)
            self._disk.close(fd)


def last_object(database: Database) -> int:
    """The highest number that an object row was ever given."""
    rows = database.query("SELECT seq FROM sqlite_sequence WHERE name = 'object'")
    return int(rows[0][0]) if rows else 0


def is_alive(directory: Path, name: str, disk: Disk = DISK) -> bool:
    """Whether the process that holds lease ``name`` still runs; so it does where that cannot be found out."""
    try:
        descriptor = disk.open(directory / name, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        disk.close(descriptor)
    return False


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease of a process that runs. ``started``: rows of objects above this one may be of what it is putting."""

    name: str
    pid: int
    kind: str
    started: int
    renewed: int


def live_leases(directory: Path, database: Database, but: str | None = None) -> list[LeaseRow]:
    """The leases whose processes run, without ``but``; rows and files of dead ones are swept, their pins with them.

    To be called inside a transaction.
    """
    alive = []
    rows = _rows(database)
    _sweep_files(directory, {*(row.name for row in rows), but}, database.disk)
    for row in rows:
        if row.name == but:
            continue
        if is_alive(directory, row.name, database.disk):
            alive.append(row)
        else:
            database.execute("DELETE FROM lease WHERE name = ?", (row.name,))
            database.execute("UPDATE pack SET lease = NULL WHERE lease = ?", (row.name,))
            with contextlib.suppress(OSError):
                database.disk.unlink(directory / row.name)
    return alive


def running(directory: Path, database: Database) -> list[LeaseRow]:
    """The leases whose processes run; changes nothing, so whoever may only read the pool can ask."""
    return [row for row in _rows(database) if is_alive(directory, row.name, database.disk)]


def _rows(database: Database) -> list[LeaseRow]:
    return [LeaseRow(*row) for row in database.query("SELECT name, pid, kind, started, renewed FROM lease")]


def _sweep_files(directory: Path, named: set[str | None], disk: Disk) -> None:
    """Remove the files of processes that died before their lease had a row, or after it had one."""
    try:
        names = disk.listdir(directory)
    except OSError as error:
        raise translated(error, f"cannot look at '{directory}'") from error
    for name in names:
        if name in named:
            continue
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            descriptor = disk.open(directory / name, os.O_RDWR)
            try:
                # Locked, as long as it is being made: then this raises, and the file stays.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                disk.unlink(directory / name)
            finally:
                disk.close(descriptor)
