"""The directory of a pool: its layout, its marker file, its permissions.

pool.json       what this is: format version, name, guid; read before anything else
catalogue.db    SQLite: names, properties, roots, the index of objects (with -wal and -shm)
packs/          the objects
leases/         locked by processes that write
tmp/            what an import cannot hold in memory; unnamed files
"""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from lamina.errors import AccessDenied, AlreadyExists, InvalidName, NotFound, UnsupportedPool
from lamina.pool.names import printable

FORMAT = "lamina pool"
FORMAT_VERSION = 1
FEATURES: frozenset[str] = frozenset()
"""Feature flags that this version knows; a pool with another one is refused."""

MARKER = "pool.json"
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


def make_directory(name: str, path: Path, group: str | None, mode: int | None) -> PoolMarker:
    """Lay out a new pool in ``path``, which does not exist or is empty. The marker is not yet written.

    ``mode`` defaults to 0700, or 0750 where a ``group`` is named. Raises ``AlreadyExists``, ``AccessDenied``.
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
    try:
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise AlreadyExists(f"cannot create '{name}': '{shown}' exists and is not a directory")
        if path.exists() and any(path.iterdir()):
            what = "holds a pool already" if (path / MARKER).exists() else "exists and is not empty"
            raise AlreadyExists(f"cannot create '{name}': '{shown}' {what}; name an empty or a new directory")
        path.mkdir(parents=True, exist_ok=True)
        for directory in (path, path / PACKS, path / LEASES, path / TEMPORARY):
            directory.mkdir(exist_ok=True)
            if gid >= 0:
                os.chown(directory, -1, gid)
            # setgid: whoever of the group creates a file there, it stays the group's
            os.chmod(directory, mode | (0o2000 if gid >= 0 else 0))
    except PermissionError as error:
        raise AccessDenied(f"cannot create '{name}': permission denied on '{error.filename}'") from None
    except OSError as error:
        raise AccessDenied(f"cannot create '{name}': '{shown}': {error.strerror}") from None
    return PoolMarker(name, int.from_bytes(os.urandom(8), "big") >> 1, mode)


def write_marker(path: Path, marker: PoolMarker) -> None:
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
    temporary = path / f".{MARKER}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        os.fchmod(file.fileno(), marker.file_mode)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / MARKER)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_marker(path: Path, name: str) -> PoolMarker:
    """What ``pool.json`` says. Raises ``NotFound``, ``AccessDenied``, ``UnsupportedPool``."""
    try:
        text = (path / MARKER).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"cannot open '{name}': no pool in '{path}' ('{MARKER}' is not there)") from None
    except PermissionError:
        raise AccessDenied(f"cannot open '{name}': permission denied; {_who_may(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UnsupportedPool(f"cannot open '{name}': '{path / MARKER}' cannot be read: {error}") from None
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
        features = tuple(str(feature) for feature in data["features"])
        marker = PoolMarker(str(data["name"]), int(data["guid"]), int(data["mode"], 8), features)
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedPool(f"cannot open '{name}': '{path / MARKER}' is damaged ({error})") from None
    unknown = sorted(set(features) - FEATURES)
    if unknown:
        raise UnsupportedPool(
            f"cannot open '{name}': the pool uses features that this lamina does not know: {', '.join(unknown)}"
        )
    return marker


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
