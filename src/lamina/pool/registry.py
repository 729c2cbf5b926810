"""Where pools are known: a directory of symbolic links, ``NAME -> /path/of/the/pool``.

Root's pools stand in ``/etc/lamina/pools`` and are everybody's; a user's own in ``$XDG_CONFIG_HOME/lamina/pools``
(default ``~/.config``). ``LAMINA_POOLS`` names another directory to use instead of both.
"""

import contextlib
import os
from pathlib import Path

from lamina.errors import AccessDenied, AlreadyExists

SYSTEM = Path("/etc/lamina/pools")


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
            found.update(os.listdir(directory))
    return sorted(found)


def add(name: str, path: Path) -> None:
    """Make a pool known. Raises ``AlreadyExists`` where the name is another pool's."""
    directory = directories()[0]
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True)
            if directory == SYSTEM:
                # Whatever root's umask: names of pools are everybody's, who may open one is the pool's affair.
                for made in (directory, directory.parent):
                    os.chmod(made, 0o755)
        os.symlink(path, directory / name)
    except FileExistsError:
        raise AlreadyExists(f"cannot create '{name}': pool already exists") from None
    except OSError as error:
        raise AccessDenied(f"cannot write '{directory}': {error.strerror}") from None


def remove(name: str) -> None:
    """Forget a pool."""
    for directory in directories():
        with contextlib.suppress(OSError):
            (directory / name).unlink()
            return


def link(name: str) -> Path | None:
    """The link that makes the pool ``name`` known."""
    return next((directory / name for directory in directories() if (directory / name).is_symlink()), None)
