"""Bringing a pool of an older lamina up to date: its catalogue in one transaction, then the features in its marker."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lamina.errors import DamagedData, NotFound, UnsupportedPool
from lamina.pool import features, files, registry
from lamina.pool.catalogue import Catalogue
from lamina.pool.features import Feature
from lamina.pool.names import printable
from lamina.pool.recovery.alone import alone
from lamina.pool.schema import POOL_SCHEMA, SCHEMA_VERSION
from lamina.store.backend import LocalBackend
from lamina.store.database import STORE_SCHEMA, Database
from lamina.store.disk import DISK, Disk
from lamina.store.objects import ObjectStore
from lamina.store.writer import StoreWriter

_DERIVED = ("figure", "reach", "share", "resized", "lease", "pin", "scan")
"""Tables whose rows are made anew, or mean nothing once nobody has the pool open."""


@dataclass(slots=True)
class Upgrade:
    """What a pool lacks, or what an upgrade gave it: ``version`` of its catalogue before, and features."""

    name: str
    version: int
    missing: list[Feature] = field(default_factory=list)

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return self.version < SCHEMA_VERSION or bool(self.missing)


def examine(name: str, disk: Disk = DISK) -> Upgrade:
    """What the pool lacks. Raises ``NotFound``, ``DamagedData``, ``UnsupportedPool`` for one of a newer lamina."""
    path = _path(name)
    marker = files.read_marker(path, printable(name), disk)
    if not os.path.lexists(path / files.CATALOGUE):
        raise DamagedData(f"cannot open '{name}': its catalogue is missing; 'lamina pool recover {name}' rebuilds it")
    with contextlib.closing(Database(path / files.CATALOGUE, write=False, disk=disk)) as database:
        version = int(database.query("PRAGMA user_version")[0][0])
    if version > SCHEMA_VERSION:
        raise UnsupportedPool(
            f"cannot open '{name}': its catalogue is of version {version}, this lamina knows up to {SCHEMA_VERSION}; "
            "use a newer lamina"
        )
    if version < 1:
        raise DamagedData(f"cannot open '{name}': its catalogue is empty; 'lamina pool recover {name}' rebuilds it")
    return Upgrade(name, version, [one for one in features.ALL if one.name not in marker.features])


def upgrade_pool(name: str, *, command: str | None = None, disk: Disk = DISK) -> Upgrade:
    """Give a pool all that it lacks; what that was. Raises ``Busy`` where others use it."""
    found = examine(name, disk)
    path = _path(name)
    files.check_writable(path, name)
    if not found.needed:
        return found
    with alone(path, name, "upgrade", disk):
        pass  # others would go on with what they know of the tables
    marker = files.read_marker(path, name, disk)
    if found.version < SCHEMA_VERSION:
        with contextlib.closing(Database(path / files.CATALOGUE, write=True, disk=disk)) as database:
            _upgrade_catalogue(database, path, marker, command)
    files.write_marker(path, replace(marker, features=tuple(sorted(features.NAMES))), disk)
    return found


def _path(name: str) -> Path:
    path = registry.find(name)
    if path is None:
        raise NotFound(f"cannot open '{printable(name)}': no such pool")
    return path


def _upgrade_catalogue(database: Database, path: Path, marker: files.PoolMarker, command: str | None) -> None:
    """All tables and rows as a new pool has them, and a record of all names: those of before have no rows."""
    database.query("PRAGMA foreign_keys = OFF")  # tables are replaced; outside of a transaction only
    database.query("PRAGMA legacy_alter_table = ON")
    with database.transaction():
        _change_tables(database)
        catalogue = Catalogue(database)
        catalogue.command = command
        with contextlib.closing(LocalBackend(path / files.PACKS, marker.file_mode, database.disk)) as backend:
            writer = StoreWriter(
                ObjectStore(database, backend),
                path / files.LEASES,
                marker.guid,
                catalogue.generation,
                catalogue.epoch,
                marker.file_mode,
                node_copies=2,
            )
            try:
                catalogue.write_full(writer)
            except BaseException:
                writer.abort()
                raise
            writer.close()
        wrong = database.query("PRAGMA foreign_key_check")
        if wrong:
            raise DamagedData(
                f"cannot upgrade '{marker.name}': its catalogue is damaged ({wrong[0][0]}); use the lamina that made it"
            )


def _change_tables(database: Database) -> None:
    """Give the tables the columns, indices and triggers of this version, inside a transaction."""
    wanted = dict(_statements())
    there = {name for (name,) in database.query("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")}
    fresh = sqlite3.connect(":memory:")
    fresh.executescript(STORE_SCHEMA + POOL_SCHEMA)
    for (table,) in fresh.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"):
        if table not in there:
            database.execute(wanted[table])
            continue
        new = [row[1:] for row in fresh.execute(f"PRAGMA table_info({table})")]
        old = [row[1:] for row in database.query(f"PRAGMA table_info({table})")]
        if table in _DERIVED:
            database.execute(f"DROP TABLE {table}")
            database.execute(wanted[table])
        elif new != old:
            _replace_table(database, table, wanted[table], [row[0] for row in new], [row[0] for row in old])
    fresh.close()
    for (trigger,) in database.query("SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
        database.execute(f"DROP TRIGGER {trigger}")  # it may do something else by now
    left = {name for (name,) in database.query("SELECT name FROM sqlite_schema")}
    for name, statement in wanted.items():
        if name not in left:
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _replace_table(database: Database, table: str, statement: str, new: list[str], old: list[str]) -> None:
    """Make a table anew with the rows that it has (https://www.sqlite.org/lang_altertable.html#otheralter)."""
    columns = ", ".join(column for column in new if column in old)
    sequence = database.query("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
    database.execute(f"ALTER TABLE {table} RENAME TO former_{table}")
    database.execute(statement)
    database.execute(f"INSERT INTO {table}({columns}) SELECT {columns} FROM former_{table}")
    database.execute(f"DROP TABLE former_{table}")
    if sequence:
        database.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        database.execute("INSERT INTO sqlite_sequence(name, seq) VALUES (?, ?)", (table, sequence[0][0]))


def _statements() -> Iterator[tuple[str, str]]:
    """Statements of the schema by what they make."""
    statement = ""
    for line in (STORE_SCHEMA + POOL_SCHEMA).splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            words = statement.split()
            if words[0] == "CREATE":
                yield words[2].partition("(")[0], statement.strip().rstrip(";")
            statement = ""
