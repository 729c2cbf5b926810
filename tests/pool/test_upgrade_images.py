"""A pool of version 2, from before images had layers: refused in a line, upgraded in one step, and good for images."""

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from lamina.errors import UnsupportedPool
from lamina.pool import Pool, files, registry
from lamina.pool.recovery.recover import recover_pool
from lamina.pool.recovery.upgrade import examine, upgrade_pool
from lamina.pool.schema import SCHEMA_VERSION
from tests.pool.example import impatient
from tests.pool.layered import Layer, put_image

__all__ = ["impatient"]

OLD = Path(__file__).parent / "data" / "pool-v2.tar.gz"
NAMES = [
    *("tank", "tank/clone", "tank/images", "tank/images/base"),
    *("tank/images/base@1", "tank/images/base@2", "tank/images/base@manual", "tank/images/base#mark"),
]
TABLES = {"image", "image_layer", "blob"}


@pytest.fixture
def old(place: Path) -> Path:
    """The directory of such a pool."""
    with tarfile.open(OLD) as tar:
        tar.extractall(place, filter="data")
    registry.add("tank", place / "tank")
    return place / "tank"


def whole(pool: Pool) -> None:
    """All that was in it is there, in order, and its trees are plain root file systems."""
    assert [entry.name for entry in pool.list(types=("filesystem", "snapshot", "bookmark"))] == NAMES
    assert pool.own_properties()["comment"] == ("of version 2", "local")
    assert pool.own_properties()["images"] == ("tank/images", "default")
    assert [one.tag for one in pool.holds(["tank/images/base@1"])] == ["keep"]
    assert pool.get("tank/images/base@manual", ["com.example:note"])["com.example:note"].value == "kept"
    assert pool.get("tank/clone", ["origin"])["origin"].value == "tank/images/base@1"
    assert pool.image("tank/images/base@2") is None
    assert pool.check().problems == []


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path / "catalogue.db")) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


@pytest.mark.parametrize("write", [False, True])
def test_refused_until_it_is_upgraded(old: Path, write: bool) -> None:
    with pytest.raises(UnsupportedPool) as caught:
        Pool.open("tank", write=write)
    assert str(caught.value) == (
        "cannot open 'tank': the pool is formatted using a legacy on-disk format; "
        "'lamina pool upgrade tank' brings it up to date"
    )
    assert not tables(old) & TABLES


def test_upgraded_it_takes_images(old: Path) -> None:
    found = examine("tank")
    assert (found.version, [one.name for one in found.missing]) == (2, ["image_layers"])
    done = upgrade_pool("tank", command="lamina pool upgrade tank")
    assert (done.version, [one.name for one in done.missing]) == (2, ["image_layers"])
    assert "image_layers" in files.read_marker(old, "tank").features and tables(old) >= TABLES
    assert not upgrade_pool("tank").needed and examine("tank").version == SCHEMA_VERSION
    with Pool.open("tank", write=True) as pool:
        whole(pool)
        assert [line.command for line in pool.history()][-1] == "lamina pool upgrade tank"
        layers = [Layer([b"recipe", "f"]), Layer([b"another"])]
        diff_ids = put_image(pool, "tank/layers@1", {"f": b"data"}, layers)
        row = pool.image("tank/layers@1")
        assert row is not None and [layer.diff_id for layer in row.layers] == diff_ids
        assert pool.image("tank/images/base@2") is None
        assert pool.check().problems == []
        pool.destroy("tank/layers", recursive=True)
        pool.gc(wait=0)
        whole(pool)


def test_recovered_before_and_after(old: Path) -> None:
    """From the packs of version 2 a catalogue of version 3 is made; from those of an upgraded pool too."""
    (old / "catalogue.db").unlink()
    assert recover_pool("tank").lines == []
    with Pool.open("tank", write=True) as pool:
        whole(pool)
    upgrade_pool("tank")
    for suffix in ("", "-wal", "-shm"):
        (old / f"catalogue.db{suffix}").unlink(missing_ok=True)
    assert recover_pool("tank").lines == []
    with Pool.open("tank", write=True) as pool:
        whole(pool)
