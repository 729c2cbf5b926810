"""The directory of a pool: its layout, its marker file, its permissions.

pool.json       what this is: format version, name, guid; read before anything else
catalogue.db    SQLite: names, properties, roots, the index of objects (with -wal and -shm)
packs/          the objects
leases/         locked by processes that write
tmp/            what an import cannot hold in memory; unnamed files
"""

import contextlib
import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamina.errors import (
    AccessDenied,
    AlreadyExists,
    DamagedMarker,
    InvalidName,
    LaminaError,
    NoSpace,
    NotFound,
    UnsupportedPool,
)
from lamina.pool import features
from lamina.pool.names import pool_name_error, printable
from lamina.store.disk import DISK, Disk, read_range, translated, write_range

FORMAT = "lamina pool"
FORMAT_VERSION = 1
FEATURES = features.NAMES
"""Feature flags that this version knows; a pool with another one is refused."""

MARKER = "pool.json"
DESTROYING = f"{MARKER}.destroying"
"""What the marker is called once the pool is being destroyed: from then on it is no pool."""
CATALOGUE = "catalogue.db"
PACKS = "packs"
LEASES = "leases"
TEMPORARY = "tmp"


@dataclass(frozen=True, slots=True)
class PoolMarker:
    """What ``pool.json`` says. ``mode`` are the permissions of the pool's directories."""

    name: str
    guid: int
    mode: int
    features: tuple[str, ...] = ()

    @property
    def file_mode(self) -> int:
        """Permissions of the pool's files."""
        return self.mode & 0o666


def make_directory(name: str, path: Path, group: str | None, mode: int | None, disk: Disk = DISK) -> PoolMarker:
    """Lay out a new pool in ``path``, which does not exist or is empty. The marker is not yet written.

    ``mode`` defaults to 0700, or 0750 where a ``group`` is named. Raises ``AlreadyExists``, ``AccessDenied``; then
    nothing was made.
    """
    gid = -1
    if group is not None:
        import grp

        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise NotFound(f"cannot create '{name}': group '{printable(group)}' does not exist") from None
    if mode is None:
        mode = 0o700 if group is None else 0o750
    if mode & ~0o777 or mode & 0o700 != 0o700:
        raise InvalidName(f"cannot create '{name}': mode {mode:o} must be of the form 7xx, such as 750")
    shown = printable(str(path))
    made: list[Path] = []
    try:
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise AlreadyExists(f"cannot create '{name}': '{shown}' exists and is not a directory")
        if path.exists() and disk.listdir(path):
            what = "holds a pool already" if (path / MARKER).exists() else "exists and is not empty"
            raise AlreadyExists(f"cannot create '{name}': '{shown}' {what}; name an empty or a new directory")
        for directory in absent(path):
            disk.mkdir(directory)
            made.append(directory)
            if mode & 0o077:
                disk.chmod(directory, 0o755)  # whatever the umask: others must reach the pool
        for directory in (path / PACKS, path / LEASES, path / TEMPORARY):
            disk.mkdir(directory)  # of two processes at once, one makes the first
            made.append(directory)
        for directory in (path, path / PACKS, path / LEASES, path / TEMPORARY):
            if gid >= 0:
                disk.chown(directory, -1, gid)
            # setgid: whoever of the group creates a file there, it stays the group's
            disk.chmod(directory, mode | (0o2000 if gid >= 0 else 0))
        for directory in made:
            with contextlib.suppress(PermissionError):  # above a directory that one may write but not read
                disk.sync_directory(directory.parent)
    except OSError as error:
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                disk.rmdir(directory)
        if isinstance(error, FileExistsError):
            raise AlreadyExists(f"cannot create '{name}': '{shown}' is being made a pool by another process") from None
        where = printable(os.fsdecode(error.filename)) if error.filename else shown
        why = (error.strerror or "").lower()
        raise refusal(error)(f"cannot create '{name}': '{where}': {why}") from None
    return PoolMarker(name, int.from_bytes(os.urandom(8), "big") >> 1, mode, tuple(sorted(FEATURES)))


def refusal(error: OSError) -> type[LaminaError]:
    """What the system's error means where a pool is made: most often that one may not."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace
    return LaminaError if error.errno == errno.EIO else AccessDenied


def absent(path: Path) -> list[Path]:
    """``path`` and the directories above it that do not exist, from the top."""
    found: list[Path] = []
    while not path.exists():
        found.insert(0, path)
        path = path.parent
    return found


def remove_directory(path: Path, made: Sequence[Path], disk: Disk = DISK) -> None:
    """Take back what making a pool left in ``path``, and the directories ``made`` for it, as far as the disk lets."""
    with contextlib.suppress(OSError):
        disk.unlink(path / MARKER)  # first: what is left then is no pool
    for name in (PACKS, LEASES, TEMPORARY):
        with contextlib.suppress(OSError):
            for below in disk.listdir(path / name):
                with contextlib.suppress(OSError):
                    disk.unlink(path / name / below)
            disk.rmdir(path / name)
    for name in (f".{MARKER}.new", CATALOGUE, *(f"{CATALOGUE}-{log}" for log in ("wal", "shm", "journal"))):
        with contextlib.suppress(OSError):
            disk.unlink(path / name)
    for directory in reversed(made):
        with contextlib.suppress(OSError):
            disk.rmdir(directory)


def write_marker(path: Path, marker: PoolMarker, disk: Disk = DISK) -> None:
    """Write ``pool.json`` whole and durably: with it, the directory is a pool."""
    text = json.dumps(
        {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "name": marker.name,
            "guid": marker.guid,
            "mode": f"{marker.mode:o}",
            "features": list(marker.features),
        },
        indent=1,
    )
    data = text.encode() + b"\n"
    temporary = path / f".{MARKER}.new"
    fd = disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, marker.file_mode)
    try:
        disk.chmod(fd, marker.file_mode)
        write_range(disk, fd, [data], 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.replace(temporary, path / MARKER)
    disk.sync_directory(path)


_MOST_MARKER = 1 << 20


def read_marker(path: Path, name: str, disk: Disk = DISK) -> PoolMarker:
    """What ``pool.json`` says. Raises ``NotFound``, ``AccessDenied``, ``UnsupportedPool``."""
    shown = printable(str(path))
    try:
        fd = disk.open(path / MARKER, os.O_RDONLY)
        try:
            text = read_range(disk, fd, _MOST_MARKER, 0).decode()
        finally:
            disk.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.lexists(path / DESTROYING):
            raise NotFound(
                f"cannot open '{name}': its destruction was begun; 'lamina pool destroy {name}' finishes it"
            ) from None
        raise NotFound(f"cannot open '{name}': no pool in '{shown}' ('{MARKER}' is not there)") from None
    except PermissionError:
        raise AccessDenied(f"cannot open '{name}': permission denied; {_who_may(path)}") from None
    except IsADirectoryError:
        raise UnsupportedPool(f"cannot open '{name}': '{shown}/{MARKER}' cannot be read: it is a directory") from None
    except OSError as error:
        raise translated(error, f"cannot open '{name}': cannot read '{shown}/{MARKER}'") from None
    except UnicodeDecodeError:
        raise _damaged(path, name, "not text") from None
    try:
        data = json.loads(text)
        version = int(data["version"])
        if data["format"] != FORMAT:
            raise ValueError("format")
        if version > FORMAT_VERSION:
            raise UnsupportedPool(
                f"cannot open '{name}': the pool is of format version {version}, this lamina knows up to "
                f"{FORMAT_VERSION}; use a newer lamina"
            )
        flags = tuple(str(feature) for feature in data["features"])
        marker = PoolMarker(str(data["name"]), int(data["guid"]), int(data["mode"], 8), flags)
        if pool_name_error(marker.name) is not None:
            raise ValueError("name")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, name, str(error)) from None
    unknown = sorted(set(flags) - FEATURES)
    if unknown:
        raise UnsupportedPool(
            f"cannot open '{name}': the pool uses features that this lamina does not know: "
            f"{printable(', '.join(unknown))}; use a newer lamina"
        )
    return marker


def _damaged(path: Path, name: str, why: str) -> DamagedMarker:
    shown = printable(str(path))
    return DamagedMarker(
        f"cannot open '{name}': '{shown}/{MARKER}' is damaged ({printable(why)}); 'lamina pool recover {shown}' writes "
        "it anew"
    )


def check_writable(path: Path, name: str) -> None:
    """Raise ``AccessDenied`` unless the caller may change the pool."""
    for part in (path, path / PACKS, path / LEASES):
        if not os.access(part, os.W_OK | os.X_OK, effective_ids=True):
            raise AccessDenied(f"cannot write to pool '{name}': permission denied; {_who_may(path)}")


def _who_may(path: Path) -> str:
    """A sentence on whose pool it is."""
    import grp
    import pwd
    import stat

    try:
        status = path.stat()
    except OSError:
        return "ask whoever runs it for access"
    owner, group = str(status.st_uid), str(status.st_gid)
    with contextlib.suppress(KeyError):
        owner = pwd.getpwuid(status.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(status.st_gid).gr_name
    rights = {0o7: "read and write", 0o5: "read"}.get(stat.S_IMODE(status.st_mode) >> 3 & 0o7)
    return f"it belongs to {owner}" + (f", and group {group} may {rights} it" if rights else "")
