"""Exporting and importing pools: a pool's directory can be moved or copied and opened elsewhere.

Exporting forgets where a pool is, once nobody uses it and all of it is in its files. Importing makes it known again,
under another name if told to. A copy of a pool has the same guid: beside the first it is taken in only with a guid of
its own, or neither could be told from the other.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lamina.errors import (
    AccessDenied,
    AlreadyExists,
    DamagedData,
    DamagedMarker,
    LaminaError,
    NotFound,
    UnsupportedPool,
)
from lamina.pool import files, registry
from lamina.pool.catalogue import Catalogue
from lamina.pool.names import check_pool_name, printable
from lamina.pool.opening import named
from lamina.pool.recording import former_guids
from lamina.pool.recovery.alone import alone
from lamina.pool.schema import SCHEMA_VERSION
from lamina.store.database import Database
from lamina.store.disk import DISK, Disk


@dataclass(frozen=True, slots=True)
class FoundPool:
    """A pool that is not known here. ``state`` as zpool has it; ``status`` and ``action`` are sentences."""

    name: str
    guid: int
    path: Path
    state: str = "ONLINE"
    status: str = ""
    action: str = "The pool can be imported using its name or numeric identifier."
    comment: str = ""
    copy_of: str = ""
    """Name of the known pool that has the same guid."""


# -- finding ------------------------------------------------------------------------------------------------------


def find_pools(directories: Sequence[str | Path] = ()) -> list[FoundPool]:
    """Pools in these directories, or right below them, that are not known here, by name.

    Without ``directories``: those that were exported, and those beside known and exported ones.
    """
    known = _known()
    found: dict[Path, FoundPool] = {}
    for place in _places(directories):
        if place not in found and place not in known.values() and os.path.lexists(place / files.MARKER):
            pool = _look(place)
            copies = [name for name, path in known.items() if _guid(path) == pool.guid]
            if copies and pool.state == "ONLINE":
                pool = replace(
                    pool,
                    copy_of=copies[0],
                    status=f"The pool is a copy of the pool '{copies[0]}', or the other way round.",
                    action="The pool can be imported with --new-guid, which makes it a pool of its own.",
                )
            found[place] = pool
    return sorted(found.values(), key=lambda pool: (pool.name, pool.path))


def _known() -> dict[str, Path]:
    found = {}
    for name in registry.names():
        path = registry.find(name)
        if path is not None and os.path.lexists(path / files.MARKER):
            found[name] = Path(os.path.realpath(path))
    return found


def _places(directories: Sequence[str | Path]) -> Iterator[Path]:
    if directories:
        for directory in directories:
            if not os.path.isdir(directory):
                raise NotFound(f"cannot open '{printable(str(directory))}': no such directory")
        above = [Path(os.path.realpath(directory)) for directory in directories]
    else:
        near = [Path(os.path.realpath(path)) for path in (*registry.exported(), *_known().values())]
        yield from near
        above = list(dict.fromkeys(path.parent for path in near))
    for directory in above:
        yield directory
        with contextlib.suppress(OSError):
            yield from (directory / name for name in sorted(os.listdir(directory)))


def _guid(path: Path) -> int | None:
    with contextlib.suppress(LaminaError):
        return files.read_marker(path, "?").guid
    return None


def _look(path: Path) -> FoundPool:
    """What a pool's directory says of itself."""
    shown = printable(str(path))
    try:
        marker = files.read_marker(path, printable(path.name))
    except DamagedMarker as error:
        return FoundPool(path.name, 0, path, "FAULTED", _why(error), f"Run 'lamina pool recover {shown}'.")
    except LaminaError as error:
        action = "Access the pool with a newer lamina, or as another user."
        return FoundPool(path.name, 0, path, "UNAVAIL", _why(error), action)
    try:
        if not os.path.lexists(path / files.CATALOGUE):
            raise DamagedData("its catalogue is missing")
        with contextlib.closing(Database(path / files.CATALOGUE, write=False)) as database:
            version = database.query("PRAGMA user_version")[0][0]
            if version > SCHEMA_VERSION:
                raise UnsupportedPool("its catalogue is of a newer version; use a newer lamina")
            if version < 1:
                raise DamagedData("its catalogue is empty")
            marker = named(marker, database)
            comment = str(Catalogue(database).meta("comment") or "")
    except AccessDenied as error:
        return FoundPool(marker.name, marker.guid, path, "UNAVAIL", _why(error), "Ask whoever runs the pool.")
    except LaminaError as error:
        recover = f"The pool cannot be imported. Run 'lamina pool recover {shown}'."
        return FoundPool(marker.name, marker.guid, path, "FAULTED", _why(error), recover)
    if version < SCHEMA_VERSION:
        return FoundPool(
            marker.name,
            marker.guid,
            path,
            status="The pool is formatted using a legacy on-disk version.",
            action="The pool can be imported using its name or numeric identifier; it can be used after an explicit "
            "'lamina pool upgrade'.",
            comment=comment,
        )
    return FoundPool(marker.name, marker.guid, path, comment=comment)


def _why(error: LaminaError) -> str:
    text = str(error)
    return text.partition(": ")[2] if text.startswith("cannot open") else text


# -- importing ----------------------------------------------------------------------------------------------------


def import_pool(
    what: str,
    new_name: str | None = None,
    *,
    directories: Sequence[str | Path] = (),
    new_guid: bool = False,
    command: str | None = None,
) -> str:
    """Make a pool known, named by its name, its guid or its directory; its name from now on.

    ``new_name`` renames it, its root dataset and all below. Raises ``NotFound``, ``AlreadyExists``, ``DamagedData``.
    """
    found = _choose(what, directories)
    shown = printable(what)
    if found.state != "ONLINE":
        raise DamagedData(f"cannot import '{shown}': {found.status}; {_lower(found.action)}")
    name = new_name or found.name
    if new_name is not None:
        check_pool_name(new_name, "import")
    if registry.find(name) is not None:
        raise AlreadyExists(
            f"cannot import '{shown}': a pool with that name already exists; use the form "
            "'lamina pool import <pool | id> <newpool>' to give it a new name"
        )
    if found.copy_of and not new_guid:
        raise AlreadyExists(
            f"cannot import '{shown}': it is a copy of the pool '{found.copy_of}', or the other way round; "
            "--new-guid makes it a pool of its own"
        )
    if name != found.name or new_guid:
        with alone(found.path, found.name, "import"):
            pass  # from here on nobody finds it by a name that changes
        _change(found.path, name if name != found.name else None, new_guid, command)
    elif command is not None:
        _note(found.path, command)
    registry.add(name, found.path, "import")
    return name


def _choose(what: str, directories: Sequence[str | Path]) -> FoundPool:
    shown = printable(what)
    if "/" in what:
        path = Path(os.path.realpath(what))
        some = [pool for pool in find_pools([path]) if pool.path == path]
        if not some and path in _known().values():
            raise AlreadyExists(f"cannot import '{shown}': it is imported already")
    else:
        pools = find_pools(directories)
        some = [pool for pool in pools if pool.name == what] or [pool for pool in pools if str(pool.guid) == what]
        if len(some) > 1 and not directories:
            # What lies beside is an offer only; what was exported here is meant.
            known = {Path(os.path.realpath(path)) for path in registry.exported()}
            some = [pool for pool in some if pool.path in known] or some
    if not some:
        if what in registry.names():
            raise AlreadyExists(
                f"cannot import '{shown}': a pool with that name already exists; use the form "
                "'lamina pool import <pool | id> <newpool>' to give it a new name"
            )
        where = "" if directories else "; name the directory that it lies in with -d"
        raise NotFound(f"cannot import '{shown}': no such pool available{where}")
    if len(some) > 1:
        how = "numeric ID" if len({pool.guid for pool in some}) == len(some) else "its directory"
        raise AlreadyExists(f"cannot import '{shown}': more than one matching pool; import by {how} instead")
    return some[0]


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _note(path: Path, command: str) -> None:
    """A line in the pool's history, where the caller may write one."""
    from lamina.pool.pool import Pool

    with contextlib.suppress(LaminaError), Pool.open(path, write=True) as pool:
        pool._catalogue.command = command
        with pool._writer() as writer, pool._catalogue.change(writer):
            pass


def _change(path: Path, name: str | None, new_guid: bool, command: str | None) -> None:
    """Give a pool another name, or another guid. The catalogue goes first: what it says holds until the marker does."""
    from lamina.pool.pool import Pool

    with Pool.open(path, write=True) as pool:
        catalogue = pool._catalogue
        catalogue.command = command
        marker = replace(pool._marker, name=name or pool.name)
        if new_guid:
            # One that was chosen before and not taken: there may be packs of it.
            guid = catalogue.meta("next_guid") or int.from_bytes(os.urandom(8), "big") >> 1
            formerly = [*former_guids(catalogue), pool.guid]
            marker = replace(marker, guid=guid)
            with pool._database.transaction():
                catalogue.set_meta("next_guid", guid)
                pool._database.execute("UPDATE pack SET state = 'sealed' WHERE state = 'open' AND lease IS NULL")
            pool.guid = marker.guid
        with pool._writer() as writer, catalogue.change(writer) as change:
            if name is not None:
                catalogue.rename_dataset(change, pool.name, name)
            if new_guid:
                catalogue.set_meta("formerly", str(formerly))
                catalogue.set_meta("guid", marker.guid)
                pool._database.execute("DELETE FROM meta WHERE name = 'next_guid'")
                change.pool = change.full = True
        files.write_marker(path, marker)


# -- exporting ----------------------------------------------------------------------------------------------------


def export_pool(name: str, *, command: str | None = None, disk: Disk = DISK) -> None:
    """Forget a pool that nobody uses; ``import_pool`` finds it again. Raises ``NotFound``, ``Busy``."""
    path = registry.find(name)
    if path is None:
        raise NotFound(f"cannot open '{printable(name)}': no such pool")
    if os.path.lexists(path / files.MARKER):
        with alone(path, name, "export", disk):
            pass
        if command is not None:
            _note(path, command)
        _checkpoint(path)
        with alone(path, name, "export", disk):
            registry.forget(name)
    else:
        registry.remove(name)  # its directory is gone: there is nothing to come back to


def _checkpoint(path: Path) -> None:
    """Have everything in the database file itself, so that a copy needs no log."""
    with (
        contextlib.suppress(LaminaError),
        contextlib.closing(Database(path / files.CATALOGUE, write=True)) as database,
    ):
        database.query("PRAGMA wal_checkpoint(TRUNCATE)")
