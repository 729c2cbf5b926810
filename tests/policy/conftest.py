"""Pools, and local time, of a test's own."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.pool import Pool
from tests.policy.kit import Content


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """An empty pool, ``tank``, with a dataset ``tank/a``."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    monkeypatch.setenv("LAMINA_BACKGROUND", "off")
    with Pool.create("tank", tmp_path / "tank") as made:
        made.create_dataset("tank/a")
        yield made


@pytest.fixture
def content(pool: Pool, tmp_path: Path) -> Content:
    """Changes what datasets hold."""
    return Content(pool, tmp_path / "content")


@pytest.fixture
def local_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Make local time that of a zone; it is undone at the end."""

    def become(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield become
    monkeypatch.undo()
    time.tzset()
