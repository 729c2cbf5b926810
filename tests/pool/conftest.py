"""A pool in a temporary directory, known by a registry of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.pool import Pool
from tests.pool.names import copied, fill
from tests.pool.trees import Library, make_library


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory for pools; what is created is known only in this test."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    return tmp_path


@pytest.fixture
def pool(place: Path) -> Iterator[Pool]:
    """An empty pool, ``tank``."""
    with Pool.create("tank", place / "tank") as made:
        yield made


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Small trees that share files with each other."""
    return make_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="session")
def template(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a pool with a few names, to be copied."""
    place = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_POOLS", str(place / "known"))
        with Pool.create("tank", place / "tank") as made:
            fill(made, library)
    return place / "tank"


@pytest.fixture
def filled(template: Path, place: Path) -> Iterator[Pool]:
    """A pool with a few names: see ``fill``."""
    with copied(template, place / "tank") as pool:
        yield pool


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of 200 kB, and what counts as waste and as small in proportion."""
    target = 200_000
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", target)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 8)
    monkeypatch.setattr("lamina.store.compaction.Compactor.__init__.__defaults__", ((), target))
    monkeypatch.setattr("lamina.pool.collecting.gc._LEAST_WASTE", 8192)
    monkeypatch.setattr("lamina.pool.collecting.gc._SMALL", target // 8)


@pytest.fixture
def no_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no holes."""
    monkeypatch.setattr("lamina.store.backend.LocalBackend.punch", lambda *_: False)
