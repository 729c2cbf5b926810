"""Having a pool to oneself: for what replaces its catalogue, gives it away or takes it down.

Nobody else may have it open (SQLite's own locks tell), serve a mount of it or hold a lease; and as long as it is held,
nobody can open it. What is held are locks: they go with the process, however it ends.
"""

import contextlib
import fcntl
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from lamina.errors import AccessDenied, Busy
from lamina.pool import files
from lamina.pool.mounted import mounted
from lamina.pool.names import printable
from lamina.store.disk import DISK, Disk
from lamina.store.lease import is_alive

_PATIENCE = 2.0
"""Seconds that others get to finish: a look at the pool takes milliseconds."""
_LOCK_START = 0x40000000
_LOCK_LENGTH = 512
"""Where SQLite puts its locks in a database file (PENDING_BYTE and what follows, os.h); whoever has a database in WAL
mode open holds a shared one."""
_BACKGROUND = frozenset((b"--background", b"__scrub"))
"""Words that only such a process has in its command line."""
_FLOCK = struct.Struct("@hhqqi")
"""``struct flock`` (fcntl.h)."""


@contextlib.contextmanager
def alone(path: Path, name: str, verb: str, disk: Disk = DISK) -> Iterator[None]:
    """Hold the pool in ``path``, called ``name``. Raises ``Busy`` where others use it, ``AccessDenied``."""
    with contextlib.ExitStack() as stack:
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"cannot {verb} '{name}': another command that needs the pool to itself is at work; try again later"
            ) from None
        except OSError as error:
            raise AccessDenied(f"cannot {verb} '{name}': '{printable(str(path))}': {error.strerror}") from None
        _stop_background(path, disk)
        until = time.monotonic() + _PATIENCE
        catalogue = _open(path / files.CATALOGUE)
        while True:
            user = _user(path, disk) or (_lock(catalogue) if catalogue >= 0 else None)
            if user is None:
                break
            # A mount of this name may be another pool's: it is told only if something is in the way.
            where = next(iter(mounted(name).items()), None)
            if where is not None or time.monotonic() > until:
                # The catalogue's descriptor stays open: if it is this process that has the pool open, closing it would
                # drop the locks that SQLite holds here (fcntl_locking(2)).
                raise Busy(f"cannot {verb} '{name}': " + (_unmount(*where) if where else f"pool is busy: {user}"))
            time.sleep(0.02)
        if catalogue >= 0:
            stack.callback(os.close, catalogue)
        yield


def _stop_background(path: Path, disk: Disk) -> None:
    """End processes that lamina has started in the background on this pool: they can go on later where they were."""
    for pid in lease_holders(path, disk):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"lamina" in words and not _BACKGROUND.isdisjoint(words) and _holds(pid, path / files.LEASES):
                os.kill(pid, signal.SIGTERM)


def _holds(pid: int, leases: Path) -> bool:
    """Whether a process has a file of this directory open: a number alone may be another process's by now, or of
    another pid namespace."""
    real = os.path.realpath(leases)
    descriptors = f"/proc/{pid}/fd"
    return any(
        os.path.dirname(os.readlink(f"{descriptors}/{fd}")) == real
        for fd in os.listdir(descriptors)
        if os.path.islink(f"{descriptors}/{fd}")
    )


def _unmount(what: str, where: str) -> str:
    where = printable(where)
    return f"'{printable(what)}' is mounted on '{where}'; 'lamina umount {where}' first"


def lease_holders(path: Path, disk: Disk = DISK) -> set[int]:
    """Numbers of the processes that hold a lease on the pool in ``path``: writers, servers of mounts, gc and scrub."""
    directory = path / files.LEASES
    try:
        leases = [name for name in disk.listdir(directory) if is_alive(directory, name, disk)]
    except OSError:
        return set()
    pids = [name.partition("-")[0] for name in leases]
    return {int(pid) for pid in pids if pid.isascii() and pid.isdigit()}


def _user(path: Path, disk: Disk) -> str | None:
    """A process that holds a lease on the pool."""
    for pid in sorted(lease_holders(path, disk)):
        return f"process {pid} works with it; wait for it to end, or end it"
    return None


def _open(catalogue: Path) -> int:
    try:
        return os.open(catalogue, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1  # lost, or no file: nobody can open it


def _lock(fd: int) -> str | None:
    """Lock the database file as SQLite does for itself alone; who is in the way."""
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCK_START, _LOCK_LENGTH, 0)
    try:
        # Owned by the open file, not by the process: closing another descriptor of the same file does not drop it.
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except OSError:
        pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted))[4]
        return f"process {pid} has it open; end it, or wait for it" if pid > 0 else "another process has it open"
    return None
