"""Leases: a process that takes objects in holds one, so that gc deletes nothing it may have decided to share.

A lease is a file in the pool that its process keeps locked (flock(2)): the lock goes with the process however it ends.
Its row in the catalogue says since when decisions are covered; every commit renews it. Deletion of what was condemned
waits for leases older than the mark.
"""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from lamina.errors import AccessDenied, NoSpace
from lamina.store.database import Database


class Lease:
    """One process's lease on a pool, held until ``close``."""

    def __init__(self, directory: Path, database: Database, generation: int, file_mode: int = 0o600) -> None:
        self.name: str
        self._path: Path
        self._database = database
        self._fd = -1
        try:
            while self._fd < 0 or not self._path.exists():  # swept between its creation and its lock
                self._release()
                self.name = f"{os.getpid()}-{secrets.token_hex(6)}"
                self._path = directory / self.name
                self._fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, file_mode)
                os.fchmod(self._fd, file_mode)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
        except PermissionError:
            raise AccessDenied(f"cannot write to the pool: permission denied on '{directory}'") from None
        except OSError as error:
            raise NoSpace(f"cannot write to the pool: {error.strerror}") from error
        try:
            with database.transaction():
                database.execute(
                    "INSERT INTO lease(name, pid, started, renewed) VALUES (?, ?, ?, ?)",
                    (self.name, os.getpid(), generation, generation),
                )
        except BaseException:
            self._release()
            raise

    def renew(self, generation: int) -> None:
        """Inside a transaction: decisions made from here on are covered from ``generation``."""
        self._database.execute("UPDATE lease SET renewed = ? WHERE name = ?", (generation, self.name))

    def close(self) -> None:
        """Give the lease back; its packs are free for others."""
        with contextlib.suppress(Exception), self._database.transaction():
            self._database.execute("DELETE FROM lease WHERE name = ?", (self.name,))
            self._database.execute("UPDATE pack SET lease = NULL WHERE lease = ?", (self.name,))
        self._release()

    def _release(self) -> None:
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def is_alive(directory: Path, name: str) -> bool:
    """Whether the process that holds lease ``name`` still runs."""
    try:
        descriptor = os.open(directory / name, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def live_leases(directory: Path, database: Database, but: str | None = None) -> list[str]:
    """Names of the leases whose processes run, without ``but``; rows and files of dead ones are swept.

    To be called inside a transaction.
    """
    alive = []
    rows = [name for (name,) in database.query("SELECT name FROM lease")]
    _sweep_files(directory, {*rows, but})
    for name in rows:
        if name == but:
            continue
        if is_alive(directory, name):
            alive.append(name)
        else:
            database.execute("DELETE FROM lease WHERE name = ?", (name,))
            database.execute("UPDATE pack SET lease = NULL WHERE lease = ?", (name,))
            (directory / name).unlink(missing_ok=True)
    return alive


def _sweep_files(directory: Path, named: set[str | None]) -> None:
    """Remove the files of processes that died before their lease had a row, or after it had one."""
    for name in os.listdir(directory):
        if name in named:
            continue
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            descriptor = os.open(directory / name, os.O_RDWR | os.O_CLOEXEC)
            try:
                # Locked, as long as it is being made: then this raises, and the file stays.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (directory / name).unlink(missing_ok=True)
            finally:
                os.close(descriptor)
