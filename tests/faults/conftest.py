"""A place in memory for pools that are made and broken by the thousand."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.scenarios import make_trees
from tests.faults.sqlite_vfs import library


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory, in memory where there is one; pools made there are known only in this test."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="lamina-faults-", dir=memory if os.access(memory, os.W_OK) else None)).resolve()
    monkeypatch.setenv("LAMINA_POOLS", str(made / "known"))
    monkeypatch.setenv("LAMINA_BACKGROUND", "off")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small trees to import."""
    return make_trees(tmp_path_factory.mktemp("trees"))


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small packs, flushed often: a short import passes every state that a long one does."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 128 << 10)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 4)
    monkeypatch.setattr("lamina.store.writer._BUFFER", 32 << 10)
    monkeypatch.setattr("lamina.pool.collecting.gc._LEAST_WASTE", 16 << 10)
    monkeypatch.setattr("lamina.pool.collecting.gc._SMALL", 32 << 10)
    monkeypatch.setattr("lamina.pool.collecting.gc._MOST_SMALL", 3)
    monkeypatch.setattr("lamina.pool.collecting.gc._ROWS_AT_ONCE", 8)
    if library() is None:
        pytest.skip("Python has its own SQLite inside: its input and output cannot be watched")
