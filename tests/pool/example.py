"""A pool with everything in it that names can be: fixtures for tests of what keeps pools whole."""

import shutil
from pathlib import Path

import pytest

from lamina.pool import Pool, registry
from tests.pool.trees import Library


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.pool.recovery.alone._PATIENCE", 0.1)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory, library: Library) -> Path:
    """The directory of a pool with everything in it that names can be."""
    place = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_POOLS", str(place / "known"))
        patch.setenv("LAMINA_BACKGROUND", "off")
        fill(place / "tank", library)
    return place / "tank"


@pytest.fixture
def filled(place: Path, example: Path) -> Path:
    """A copy of it, which nobody has open."""
    shutil.copytree(example, place / "tank")
    registry.add("tank", place / "tank")
    return place / "tank"


def fill(path: Path, library: Library) -> None:
    with Pool.create("tank", path, own_properties={"comment": "all of it"}) as pool:
        pool.command = "lamina fill 'tank'"
        pool.create_dataset("tank/images", {"compression": "lz4", "com.example:team": "vision"})
        for number in (2, 3, 4, 1):
            pool.import_image(library[number].path, f"tank/images/base@{number}")
        pool.set(["tank/images/base@3"], {"com.example:note": "\N{SNOWMAN}"})
        pool.snapshot(["tank/images@s", "tank/images/base@manual"])
        pool.clone("tank/images/base@4", "tank/clone")
        pool.clone("tank/images/base@2", "tank/promoted")
        pool.promote("tank/promoted")
        pool.hold("keep", ["tank/images@s"])
        pool.bookmark("tank/images@s", "tank/images#mark")
        pool.rename("tank/images/base@3", "three")
        pool.command = None
        pool.import_image(library[0].path, "tank/last@1")
        pool.create_dataset("tank/gone/below", parents=True)
        pool.destroy("tank/gone", recursive=True)
