"""The SQLite file of a pool: one connection, short transactions, safe for many processes.

This room owns the tables that say where objects lie; the room ``pool`` adds its own to the same file, so that one
transaction can make new objects and the name that reaches them visible together.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lamina.errors import AccessDenied, DamagedData, LaminaError, NoSpace, UnsupportedPool
from lamina.store.disk import DISK, Disk

BUSY_TIMEOUT = 60.0
"""Seconds that a writer waits for another's transaction."""

WAL_LIMIT = 16 << 20
"""The write-ahead log is cut back to this many bytes after a checkpoint."""

STORE_SCHEMA = """
CREATE TABLE pack(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL CHECK (state IN ('open', 'sealed')),
    size INTEGER NOT NULL,
    lease TEXT
) STRICT;
CREATE INDEX pack_open ON pack(state) WHERE state = 'open';
CREATE TABLE object(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL UNIQUE,
    pack INTEGER NOT NULL REFERENCES pack(id),
    offset INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    decoded INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    condemned INTEGER
) STRICT;
CREATE INDEX object_condemned ON object(condemned) WHERE condemned IS NOT NULL;
CREATE INDEX object_pack ON object(pack, offset, stored);
CREATE INDEX object_names ON object(id) WHERE kind = 4;
CREATE TABLE copy(
    object INTEGER NOT NULL REFERENCES object(id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    pack INTEGER NOT NULL REFERENCES pack(id),
    offset INTEGER NOT NULL,
    PRIMARY KEY (object, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX copy_pack ON copy(pack, offset);
CREATE TABLE lease(
    name TEXT PRIMARY KEY,
    pid INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('write', 'read', 'gc', 'scrub')),
    started INTEGER NOT NULL,
    renewed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
"""``object.condemned``: the pool's epoch at which gc found the object unreachable, or ``DAMAGED``; look-ups for sharing
pass it by, a commit that reaches it clears the mark, storing it anew moves it. ``copy``: the same payload once more, in
another pack. ``pack.size``: bytes that are synced and may be named by rows; what lies
behind is dead. AUTOINCREMENT because bitmaps of row numbers must never meet a number that was given twice."""

DAMAGED = -1
"""``object.condemned`` of an object that scrub found damaged and could not repair; no name of a time."""


class Database:
    """A connection shared by the threads of one process. Use as a context manager or ``close`` it."""

    def __init__(self, path: Path, *, write: bool, disk: Disk = DISK) -> None:
        """Open the database file ``path``. Raises ``AccessDenied``, ``UnsupportedPool`` where it is no database."""
        self.path = path
        self.writable = write
        self.disk = disk
        self._lock = threading.RLock()
        self._connection = self._open(path, write)
        self._depth = 0

    @classmethod
    def create(cls, path: Path, schema: str, file_mode: int = 0o600, disk: Disk = DISK) -> "Database":
        """A new database with the store's tables and ``schema``; SQLite gives its log files the same permissions."""
        disk.close(disk.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, file_mode))
        disk.chmod(path, file_mode)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA page_size = 4096")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript("BEGIN;" + STORE_SCHEMA + schema + "COMMIT;")
        return cls(path, write=True, disk=disk)

    @staticmethod
    def _open(path: Path, write: bool) -> sqlite3.Connection:
        deadline = time.monotonic() + 2.0
        while True:
            try:
                return _connected(path, write)
            except sqlite3.OperationalError as error:
                # The last writer takes the log away when it closes and puts an empty one back (see close): a reader
                # without write permission that comes between the two tries again.
                if write or not path.exists() or (error.sqlite_errorname or "").startswith("SQLITE_BUSY"):
                    raise _translated(error, path) from error
                if time.monotonic() > deadline:
                    raise AccessDenied(
                        f"cannot open '{path}': permission denied, or its log files are missing: the next command of "
                        "its owner puts them back"
                    ) from error
                time.sleep(0.02)
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorname != "SQLITE_NOTADB":
                    raise _translated(error, path) from error
                raise UnsupportedPool(
                    f"cannot open '{path}': {error}; it is not a lamina catalogue, or is damaged"
                ) from None

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query at once: no read transaction outlives the call."""
        with self._lock:
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise _translated(error, self.path) from error

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement inside ``transaction``; returns the last row id."""
        with self._lock:
            try:
                return self._connection.execute(sql, parameters).lastrowid or 0
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                raise _translated(error, self.path) from error

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for many rows inside ``transaction``; returns how many rows changed."""
        with self._lock:
            try:
                return self._connection.executemany(sql, rows).rowcount
            except sqlite3.Error as error:
                raise _translated(error, self.path) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """A write transaction, begun IMMEDIATE so that it never fails half-way for a lock; nested calls join it."""
        with self._lock:
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise _translated(error, self.path) from error
            self._depth = 1
            committing = False
            try:
                yield
                committing = True
                self._connection.execute("COMMIT")
            except BaseException as error:
                # After some errors (disk full) SQLite has rolled back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                    failure = _translated(error, self.path)
                    # Where the log had no room it holds no whole transaction; where it could not be synced it may.
                    failure.uncertain = committing and error.sqlite_errorname != "SQLITE_FULL"
                    raise failure from error
                raise
            finally:
                self._depth = 0

    def close(self) -> None:
        """Close the connection.

        SQLite removes its log with the last connection; a reader that may not write the directory could then not open
        the database at all, so empty ones are put back (an empty log means: the database file is all there is).
        """
        with self._lock:
            self._connection.close()
            if self.writable:
                put_back_logs(self.path, self.disk)

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


LOG_RESERVE = {"-wal": 1 << 20, "-shm": 32 << 10}
"""Bytes that the log files hold while nobody has the database open: on a full disk it can still be read, which needs
the second, and names destroyed. Zeros are no valid log: SQLite takes them for an empty one."""


def put_back_logs(path: Path, disk: Disk = DISK) -> None:
    """Create ``-wal`` and ``-shm`` files of zeros beside a database where they are missing, with its permissions."""
    with contextlib.suppress(OSError):
        status = disk.stat(path)
        for suffix, size in LOG_RESERVE.items():
            with contextlib.suppress(OSError):
                descriptor = disk.open(f"{path}{suffix}", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
                try:
                    if os.geteuid() == 0:
                        disk.chown(descriptor, status.st_uid, status.st_gid)
                    disk.chmod(descriptor, status.st_mode & 0o777)
                    disk.allocate(descriptor, 0, size)
                finally:
                    disk.close(descriptor)


def _connected(path: Path, write: bool) -> sqlite3.Connection:
    """A connection that has read something; one that cannot is closed, and its locks with it."""
    connection = sqlite3.connect(
        f"file:{_quote(str(path))}?mode={'rw' if write else 'ro'}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT,
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -16000")
        if write:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 1000")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        else:
            connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        return connection
    except BaseException:
        connection.close()
        raise


def _quote(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _is_full(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def _translated(error: sqlite3.Error, path: Path) -> LaminaError:
    """The project's error for one of SQLite's (https://www.sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorname", "") or ""
    text = str(error)
    # Where shared memory finds no room SQLite speaks of an I/O error.
    full = code == "SQLITE_IOERR_SHMSIZE" or (code.startswith("SQLITE_IOERR") and _is_full(path))
    if code.startswith("SQLITE_FULL") or "disk is full" in text or full:
        return NoSpace(
            f"cannot write '{path}': no space left on device; destroy what is not needed or use a larger disk"
        )
    if code.startswith("SQLITE_READONLY") or code.startswith("SQLITE_PERM") or "readonly" in text:
        return AccessDenied(f"cannot write '{path}': permission denied")
    if code.startswith("SQLITE_IOERR"):
        return LaminaError(f"cannot read or write '{path}': {text}; the kernel's log (dmesg) says more")
    if code.startswith("SQLITE_CANTOPEN"):
        if os.access(path, os.R_OK):
            return LaminaError(f"cannot open '{path}' or its log files: the system's limits or the disk may be why")
        return AccessDenied(f"cannot open '{path}': permission denied or missing")
    if code.startswith("SQLITE_BUSY"):
        return LaminaError(
            f"the catalogue '{path}' has been locked by another process for {BUSY_TIMEOUT:.0f} s; try again"
        )
    if code.startswith("SQLITE_CORRUPT") or code.startswith("SQLITE_NOTADB"):
        return DamagedData(f"the catalogue '{path}' is damaged: {text}")
    return LaminaError(f"catalogue '{path}': {text}")
