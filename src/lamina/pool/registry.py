"""Where pools are known: a directory of symbolic links, ``NAME -> /path/of/the/pool``.

Root's pools stand in ``/etc/lamina/pools`` and are everybody's; a user's own in ``$XDG_CONFIG_HOME/lamina/pools``
(default ``~/.config``). ``LAMINA_POOLS`` names another directory to use instead of both. In ``.exported`` below it
stand links to pools that were exported, so that they can be found again.
"""

import contextlib
import os
from pathlib import Path

from lamina.errors import AccessDenied, AlreadyExists
from lamina.store.disk import DISK

SYSTEM = Path("/etc/lamina/pools")
EXPORTED = ".exported"
"""No pool's name begins with a point."""


def directories() -> list[Path]:
    """Directories of links, the one that new pools are written to first."""
    own = os.environ.get("LAMINA_POOLS")
    if own:
        return [Path(own)]
    if os.geteuid() == 0:
        return [SYSTEM]
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return [Path(config) / "lamina" / "pools", SYSTEM]


def find(name: str) -> Path | None:
    """The directory of the pool ``name``."""
    for directory in directories():
        with contextlib.suppress(OSError):
            return Path(os.readlink(directory / name))
    return None


def names() -> list[str]:
    """Names of all known pools, in order."""
    found: set[str] = set()
    for directory in directories():
        with contextlib.suppress(OSError):
            found.update(name for name in os.listdir(directory) if name != EXPORTED)
    return sorted(found)


def add(name: str, path: Path, verb: str = "create") -> None:
    """Make a pool known. Raises ``AlreadyExists`` where the name is another pool's."""
    directory = directories()[0]
    try:
        _make(directory)
        os.symlink(path, directory / name)
        with contextlib.suppress(PermissionError):  # one may write it, but not read
            DISK.sync_directory(directory)
    except FileExistsError:
        raise AlreadyExists(f"cannot {verb} '{name}': pool already exists") from None
    except OSError as error:
        raise AccessDenied(f"cannot write '{directory}': {error.strerror}") from None
    for link in (one / EXPORTED for one in directories()):
        for old in _links(link):
            with contextlib.suppress(OSError):
                if Path(os.readlink(old)) == path:
                    old.unlink()


def _make(directory: Path) -> None:
    if directory.is_dir():
        return
    directory.mkdir(parents=True)
    if SYSTEM in (directory, directory.parent):
        # Whatever root's umask: names of pools are everybody's, who may open one is the pool's affair.
        for made in (directory, directory.parent):
            os.chmod(made, 0o755)


def forget(name: str) -> None:
    """Forget a pool that stays where it is; where that is stays noted. Raises ``AccessDenied``."""
    for directory in directories():
        link = directory / name
        if not link.is_symlink():
            continue
        try:
            _make(directory / EXPORTED)
            place, number = directory / EXPORTED / name, 0
            while place.is_symlink() and os.readlink(place) != os.readlink(link):
                number += 1
                place = directory / EXPORTED / f"{name}.{number}"
            os.replace(link, place)
            with contextlib.suppress(PermissionError):
                DISK.sync_directory(directory)
        except OSError as error:
            raise AccessDenied(f"cannot export '{name}': '{link}': {error.strerror}") from None
        return


def exported() -> list[Path]:
    """Directories of pools that were exported and not imported again."""
    found = []
    for directory in directories():
        for link in _links(directory / EXPORTED):
            with contextlib.suppress(OSError):
                found.append(Path(os.readlink(link)))
    return found


def _links(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def remove(name: str) -> None:
    """Forget a pool."""
    for directory in directories():
        with contextlib.suppress(OSError):
            (directory / name).unlink()
            return


def link(name: str) -> Path | None:
    """The link that makes the pool ``name`` known."""
    return next((directory / name for directory in directories() if (directory / name).is_symlink()), None)
