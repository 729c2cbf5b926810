"""Two pools that know each other only by streams."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.pool import Pool
from tests.pool.trees import Library, make_library


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory for pools; what is created is known only in this test."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    return tmp_path


@pytest.fixture
def tank(place: Path) -> Iterator[Pool]:
    """The sender."""
    with Pool.create("tank", place / "tank") as made:
        yield made


@pytest.fixture
def back(place: Path, tank: Pool) -> Iterator[Pool]:
    """The receiver."""
    with Pool.create("back", place / "back") as made:
        yield made


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Small trees that share files with each other."""
    return make_library(tmp_path_factory.mktemp("library"))
