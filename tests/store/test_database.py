"""Transactions, and files that are no database."""

import sqlite3
import threading
from pathlib import Path

import pytest

from lamina.errors import AccessDenied, DamagedData, LaminaError, UnsupportedPool
from lamina.store.database import WAL_LIMIT, Database

SCHEMA = "CREATE TABLE thing(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Database.create(tmp_path / "c.db", SCHEMA).close()
    return tmp_path / "c.db"


def count(database: Database) -> int:
    rows: list[tuple[int]] = database.query("SELECT count(*) FROM thing")
    return rows[0][0]


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    with Database(path, write=True) as database:
        with database.transaction():
            database.execute("INSERT INTO thing(text) VALUES ('a')")
        with pytest.raises(ZeroDivisionError), database.transaction():
            database.execute("INSERT INTO thing(text) VALUES ('b')")
            with database.transaction():
                database.execute("INSERT INTO thing(text) VALUES ('c')")
            raise ZeroDivisionError
        assert count(database) == 1
        with pytest.raises(sqlite3.IntegrityError), database.transaction():
            database.execute("INSERT INTO thing(text) VALUES ('d')")
            database.execute("INSERT INTO thing(text) VALUES ('a')")
        assert count(database) == 1
        with database.transaction():
            database.execute("INSERT INTO thing(text) VALUES ('e')")
        assert count(database) == 2


def test_an_inner_error_undoes_the_outer_transaction(path: Path) -> None:
    with Database(path, write=True) as database:
        with pytest.raises(LaminaError), database.transaction():
            database.execute("INSERT INTO thing(text) VALUES ('a')")
            with database.transaction():
                database.execute("INSERT INTO nothing(text) VALUES ('b')")
        assert count(database) == 0


def test_threads_and_connections_wait_for_each_other(path: Path) -> None:
    with Database(path, write=True) as one, Database(path, write=True) as two:
        errors: list[BaseException] = []

        def work(database: Database, name: str) -> None:
            try:
                for number in range(40):
                    with database.transaction():
                        before = count(database)
                        database.execute("INSERT INTO thing(text) VALUES (?)", (f"{name}{number}",))
                        assert count(database) == before + 1
            except BaseException as error:
                errors.append(error)

        threads = [
            threading.Thread(target=work, args=(database, name))
            for database, name in ((one, "a"), (one, "b"), (two, "c"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert count(one) == count(two) == 120


def test_the_log_is_cut_back(path: Path) -> None:
    with Database(path, write=True) as database:
        with database.transaction():
            database.execute_many("INSERT INTO thing(text) VALUES (?)", ((f"{n:060}",) for n in range(200_000)))
        grown = Path(f"{path}-wal").stat().st_size
        assert grown > WAL_LIMIT
        for number in range(2):
            with database.transaction():
                database.execute("INSERT INTO thing(text) VALUES (?)", (f"last {number}",))
        assert Path(f"{path}-wal").stat().st_size <= WAL_LIMIT


def test_a_reader_writes_nothing(path: Path) -> None:
    with Database(path, write=False) as database:
        with pytest.raises(AccessDenied), database.transaction():
            database.execute("INSERT INTO thing(text) VALUES ('a')")
        assert count(database) == 0


@pytest.mark.parametrize("content", [b"no database at all, " * 50, b"SQLite format 3\0" + b"\xff" * 5000])
@pytest.mark.parametrize("write", [True, False])
def test_what_is_no_database(tmp_path: Path, content: bytes, write: bool) -> None:
    (tmp_path / "x.db").write_bytes(content)
    with pytest.raises((UnsupportedPool, DamagedData)):
        Database(tmp_path / "x.db", write=write)


def test_a_missing_database(tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match="missing"):
        Database(tmp_path / "x.db", write=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a%20b.db", "what?.db", "one#two.db", "späße.db"])
def test_names_that_mean_something_in_a_uri(tmp_path: Path, name: str) -> None:
    with Database.create(tmp_path / name, SCHEMA) as database, database.transaction():
        database.execute("INSERT INTO thing(text) VALUES ('a')")
    with Database(tmp_path / name, write=False) as database:
        assert count(database) == 1


def test_a_catalogue_cut_short_is_damaged(path: Path) -> None:
    with Database(path, write=True) as database, database.transaction():
        database.execute_many("INSERT INTO thing(text) VALUES (?)", ((f"{n:060}",) for n in range(5000)))
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(DamagedData, match="damaged"), Database(path, write=False) as database:
        database.query("SELECT * FROM thing ORDER BY text")
