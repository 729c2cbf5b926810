"""Two pools that know each other only by streams."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.pool import Pool
from tests.pool.trees import Library, make_library
from tests.replication.machines import Edge, edge, sshd_missing

Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


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


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Edge]:
    """The host ``edge``, with a pool ``backup``."""
    if (reason := sshd_missing()) is not None:
        pytest.skip(reason)
    with edge(tmp_path / "edge") as host:
        made = host.run("lamina", "pool", "create", "backup", host.place / "backup")
        assert (made.returncode, made.stderr) == (0, "")
        yield host


@pytest.fixture
def shell(there: Edge) -> Shell:
    """What a user here types, with ``edge`` in the configuration of ssh."""

    def typed(line: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PATH": f"{there.programs}:{os.environ['PATH']}"}
        words = ["bash", "-c", f"set -o pipefail; {line}"]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)

    return typed
