"""Making and opening pools."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.errors import AlreadyExists, DamagedData, LaminaError, NoSpace, NotFound, UnsupportedPool
from lamina.pool import files, registry
from lamina.pool.catalogue import Catalogue
from lamina.pool.names import check_pool_name, printable
from lamina.pool.ownproperties import check_properties, stored_value
from lamina.pool.properties import parse_properties
from lamina.pool.recording import former_guids
from lamina.pool.schema import POOL_SCHEMA, SCHEMA_VERSION
from lamina.store.database import Database
from lamina.store.disk import Disk

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


def create_pool(
    kind: "type[Pool]",
    name: str,
    path: str | Path,
    group: str | None,
    mode: int | None,
    properties: Mapping[str, str],
    own_properties: Mapping[str, str],
    command: str | None,
    disk: Disk,
) -> "Pool":
    """See ``Pool.create``."""
    check_pool_name(name)
    check_properties(name, own_properties, "create")
    stored = parse_properties(properties, prefix=f"cannot create '{name}': ")
    _check_unknown(name)
    place = Path(os.path.abspath(path))
    with _translating(f"cannot create '{name}'"):
        made = files.absent(place)
    marker = files.make_directory(name, place, group, mode, disk)
    with contextlib.ExitStack() as undo:
        undo.callback(files.remove_directory, place, made, disk)
        with _translating(f"cannot create '{name}'"):
            database = Database.create(place / files.CATALOGUE, POOL_SCHEMA, marker.file_mode, disk)
            pool = kind(place, marker, database)
            undo.callback(pool.close)
            pool.command = command
            with pool._writer() as writer, pool._catalogue.change(writer) as change:
                pool._catalogue.set_meta("guid", marker.guid)
                for key, value in own_properties.items():
                    if value:
                        pool._catalogue.set_meta(key, stored_value(key, value))
                change.pool = bool(own_properties)
                pool._catalogue.add_dataset(change, name, stored)
            registry.add(name, place)
            undo.callback(registry.remove, name)
            files.write_marker(place, marker, disk)
            pool.command = None
        undo.pop_all()
    return pool


def open_pool(kind: "type[Pool]", name_or_path: str | Path, write: bool, disk: Disk) -> "Pool":
    """See ``Pool.open``."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text:
        path: Path | None = Path(os.path.abspath(text))
        shown = printable(text)
    else:
        path, shown = registry.find(text), printable(text)
    if path is None:
        raise NotFound(f"cannot open '{shown}': no such pool")
    marker = files.read_marker(path, shown, disk)
    if write:
        files.check_writable(path, marker.name)
    if not os.path.lexists(path / files.CATALOGUE):
        raise DamagedData(f"cannot open '{shown}': its catalogue '{files.CATALOGUE}' is missing; {_recover(shown)}")
    try:
        database = Database(path / files.CATALOGUE, write=write, disk=disk)
    except (DamagedData, UnsupportedPool) as error:
        raise type(error)(f"{error}; {_recover(shown)}") from None
    try:
        version = database.query("PRAGMA user_version")[0][0]
        if version < 1:
            raise DamagedData(f"cannot open '{shown}': its catalogue '{files.CATALOGUE}' is empty; {_recover(shown)}")
        if version > SCHEMA_VERSION:
            raise UnsupportedPool(
                f"cannot open '{shown}': its catalogue is of version {version}, this lamina knows up to "
                f"{SCHEMA_VERSION}; use a newer lamina"
            )
        if version < SCHEMA_VERSION:
            raise UnsupportedPool(
                f"cannot open '{shown}': the pool is formatted using a legacy on-disk format; "
                f"'lamina pool upgrade {shown}' brings it up to date"
            )
        marker = named(marker, database)
    except BaseException:
        database.close()
        raise
    return kind(path, marker, database)


def _recover(shown: str) -> str:
    return f"'lamina pool recover {shown}' rebuilds it from the packs"


def named(marker: files.PoolMarker, database: Database) -> files.PoolMarker:
    """The marker with the name and guid that the catalogue gives the pool: what changes them changes it first."""
    catalogue = Catalogue(database)
    guid = catalogue.meta("guid")
    if guid != marker.guid and marker.guid in former_guids(catalogue):
        marker = replace(marker, guid=guid)
    if catalogue.find_dataset(marker.name) is not None:
        return marker
    roots = database.query("SELECT name FROM dataset WHERE instr(name, '/') = 0")
    return replace(marker, name=roots[0][0]) if len(roots) == 1 else marker


@contextlib.contextmanager
def _translating(what: str) -> Iterator[None]:
    """The project's errors for the system's and SQLite's."""
    try:
        yield
    except LaminaError:
        raise
    except OSError as error:
        where = f"'{printable(os.fsdecode(error.filename))}': " if error.filename else ""
        raise files.refusal(error)(f"{what}: {where}{(error.strerror or str(error)).lower()}") from None
    except sqlite3.Error as error:
        raise (NoSpace if "full" in str(error) else LaminaError)(f"{what}: the catalogue: {error}") from None


def _check_unknown(name: str) -> None:
    known = registry.find(name)
    if known is None:
        return
    if os.path.lexists(known / files.MARKER):
        raise AlreadyExists(f"cannot create '{name}': pool already exists")
    if os.path.lexists(known / files.DESTROYING):
        raise AlreadyExists(
            f"cannot create '{name}': its destruction was begun; 'lamina pool destroy {name}' finishes it"
        )
    raise AlreadyExists(
        f"cannot create '{name}': pool already exists, but there is none in '{printable(str(known))}'; bring it back, "
        f"or remove '{printable(str(registry.link(name)))}' to forget it"
    )
