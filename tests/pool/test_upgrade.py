"""A pool that the first version of lamina made: refused in a line, upgraded in one step, recovered, and in order."""

import json
import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Busy, DamagedData, UnsupportedPool
from lamina.pool import Pool, features, files, registry
from lamina.pool.recovery import upgrade as upgrading
from lamina.pool.recovery.recover import recover_pool
from lamina.pool.recovery.removing import destroy_pool
from lamina.pool.recovery.upgrade import examine, upgrade_pool
from lamina.pool.schema import POOL_SCHEMA, SCHEMA_VERSION
from lamina.store.database import STORE_SCHEMA
from tests.pool.example import impatient
from tests.pool.trees import write_tree

__all__ = ["impatient"]

OLD = Path(__file__).parent / "data" / "pool-v1.tar.gz"
"""Made by lamina 0.1.0 before its catalogue had a second version."""
NAMES = ["tank", "tank/empty", "tank/images", "tank/images/base", "tank/images/base@2", "tank/images/base@three"]


@pytest.fixture
def old(place: Path) -> Path:
    """The directory of such a pool."""
    with tarfile.open(OLD) as tar:
        tar.extractall(place, filter="data")
    registry.add("tank", place / "tank")
    return place / "tank"


def whole(pool: Pool) -> None:
    """All that was in it is there, and more can be done."""
    assert [entry.name for entry in pool.list(types=("filesystem", "snapshot"))] == NAMES
    values = pool.get("tank/images/base", ["compression", "com.example:team"])
    assert (values["compression"].value, values["com.example:team"].source) == ("lz4", "inherited from tank/images")
    assert pool.get("tank/images/base@2", ["com.example:note"])["com.example:note"].value == "kept"
    tree = pool.tree("tank/images/base@three")
    assert tree.totals.files == 3 and tree.totals.inodes == 7
    entry = tree.lookup(1, b"lib")
    assert entry is not None
    inside = {one.name: one.ino for one in tree.readdir(entry.ino)}
    assert tree.read(inside[b"text"], 0, 7) == b"lamina " and tree.inode(inside[b"own"]).nlink == 2
    for (key,) in pool._database.query("SELECT key FROM object"):
        pool.store.get(key, verify=True)
    assert pool.check(headers=True).problems == []


def test_it_is_refused_in_a_line(old: Path) -> None:
    for write in (False, True):
        with pytest.raises(UnsupportedPool) as caught:
            Pool.open("tank", write=write)
        assert str(caught.value) == (
            "cannot open 'tank': the pool is formatted using a legacy on-disk format; "
            "'lamina pool upgrade tank' brings it up to date"
        )
    with pytest.raises(UnsupportedPool, match="'lamina pool upgrade tank' brings it up to date"):
        recover_pool("tank", force=True)


def test_upgraded(old: Path, place: Path) -> None:
    found = examine("tank")
    assert (found.version, found.missing, found.needed) == (1, list(features.ALL), True)
    done = upgrade_pool("tank", command="lamina pool upgrade tank")
    assert (done.version, done.missing) == (1, list(features.ALL))
    assert set(files.read_marker(old, "tank").features) == features.NAMES
    assert not upgrade_pool("tank").needed
    with Pool.open("tank", write=True) as pool:
        whole(pool)
        assert [line.command for line in pool.history()] == ["lamina pool upgrade tank"]
        source = write_tree(place / "s", {"own": b"new" * 9999})
        pool.import_image(source.path, "tank/images/new@1")
        pool.gc(wait=0)
        assert pool.verify("tank/images/new@1", source.path) == []
        pool.destroy("tank/images/new", recursive=True)
        pool.gc(wait=0)
        whole(pool)


def test_its_tables_are_those_of_a_new_pool(old: Path) -> None:
    with closing(sqlite3.connect(old / "catalogue.db")) as database:
        given = dict(database.execute("SELECT name, seq FROM sqlite_sequence"))
    upgrade_pool("tank")
    fresh = sqlite3.connect(":memory:")
    fresh.executescript(STORE_SCHEMA + POOL_SCHEMA)
    with closing(sqlite3.connect(old / "catalogue.db")) as database:
        # Numbers of what is gone are not given again.
        now = dict(database.execute("SELECT name, seq FROM sqlite_sequence"))
        assert {name: now[name] for name in ("dataset", "snapshot")} == {
            name: given[name] for name in ("dataset", "snapshot")
        }
        assert now["object"] > given["object"]
        assert _shape(database) == _shape(fresh)
    fresh.close()


def _shape(database: sqlite3.Connection) -> dict[str, Any]:
    shape: dict[str, Any] = {"version": database.execute("PRAGMA user_version").fetchone()}
    for kind, name, text in database.execute("SELECT type, name, sql FROM sqlite_schema").fetchall():
        if kind == "table" and not name.startswith("sqlite_"):
            keys = sorted(row[2:] for row in database.execute(f"PRAGMA foreign_key_list({name})"))
            text = (database.execute(f"PRAGMA table_info({name})").fetchall(), keys)
        shape[f"{kind} {name}"] = text
    return shape


def test_recovered_without_ever_being_upgraded(old: Path) -> None:
    """Its name records carry no guid; the packs that they stand in do."""
    (old / "catalogue.db").unlink()
    report = recover_pool("tank")
    assert report.lines == [] and (report.datasets, report.snapshots) == (4, 2)
    with Pool.open("tank") as pool:
        whole(pool)


def test_upgraded_and_recovered(old: Path) -> None:
    upgrade_pool("tank")
    for name in ("catalogue.db", "pool.json"):
        (old / name).unlink()
    assert recover_pool("tank").lines == []
    with Pool.open("tank") as pool:
        whole(pool)


@pytest.mark.parametrize("step", ["_change_tables", "Catalogue.write_full", "files.write_marker"])
def test_broken_off_and_done_again(old: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Killed before the transaction ended, the pool is as it was; after it, features are what is left to do."""
    before = (old / "catalogue.db").read_bytes()
    pid = os.fork()
    if pid == 0:
        try:
            monkeypatch.setattr(f"lamina.pool.recovery.upgrade.{step}", lambda *_, **__: os._exit(7))
            upgrade_pool("tank")
        finally:
            os._exit(1)
    assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 7
    if step != "files.write_marker":
        assert examine("tank").version == 1
        with closing(sqlite3.connect(old / "catalogue.db")) as database:
            assert database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'copy'").fetchone() == (0,)
        assert len((old / "catalogue.db").read_bytes()) == len(before)
    else:
        assert (examine("tank").version, examine("tank").missing) == (SCHEMA_VERSION, list(features.ALL))
    upgrade_pool("tank")
    with Pool.open("tank") as pool:
        whole(pool)


def test_others_at_work_are_in_the_way(old: Path) -> None:
    with (
        closing(sqlite3.connect(old / "catalogue.db")) as database,
        pytest.raises(Busy, match="cannot upgrade 'tank': pool is busy"),
    ):
        database.execute("SELECT * FROM dataset").fetchall()
        upgrade_pool("tank")
    upgrade_pool("tank")


def test_a_damaged_one_is_left_alone(old: Path) -> None:
    with closing(sqlite3.connect(old / "catalogue.db")) as database:
        database.execute("UPDATE snapshot SET dataset = 99")
        database.commit()
    with pytest.raises(DamagedData, match="cannot upgrade 'tank': its catalogue is damaged"):
        upgrade_pool("tank")
    assert examine("tank").version == 1
    assert os.listdir(old / "leases") == []


def test_features_one_by_one(place: Path) -> None:
    Pool.create("tank", place / "tank").close()
    marker = json.loads((place / "tank" / "pool.json").read_text())
    assert marker["features"] == sorted(features.NAMES)
    marker["features"].remove("node_copies")
    (place / "tank" / "pool.json").write_text(json.dumps(marker))
    with Pool.open("tank") as pool:
        assert pool.own_properties()["feature@node_copies"] == ("disabled", "local")
    assert [one.name for one in upgrade_pool("tank").missing] == ["node_copies"]
    with Pool.open("tank") as pool:
        assert pool.own_properties()["feature@node_copies"] == ("enabled", "local")
    marker["features"].append("of_the_future")
    (place / "tank" / "pool.json").write_text(json.dumps(marker))
    with pytest.raises(UnsupportedPool, match="features that this lamina does not know: of_the_future"):
        upgrade_pool("tank")


def test_it_can_be_destroyed_as_it_is(old: Path) -> None:
    assert destroy_pool("tank").foreign == []
    assert not old.exists()


def test_each_statement_of_the_schema_is_found() -> None:
    made = [name for name, _ in upgrading._statements()]
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(STORE_SCHEMA + POOL_SCHEMA)
        assert sorted(made) == sorted(
            name
            for (name,) in fresh.execute(
                "SELECT name FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%'"
            )
        )
