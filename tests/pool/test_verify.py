"""Verifying trees that are deeper than Python's stack and than a path may be long."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.pool import Pool

DEPTH = 1200


@pytest.fixture
def root(place: Path) -> Iterator[Path]:
    """A directory that is gone after the test, come what may: the cleaning of temporary directories recurses."""
    (place / "deep").mkdir()
    yield place / "deep"
    subprocess.run(["rm", "-rf", str(place / "deep")], check=True)


def test_a_very_deep_tree(place: Path, root: Path) -> None:
    directory = os.open(root, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("level", dir_fd=directory)
        below = os.open("level", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory)
    os.write(file, b"x")
    with Pool.create("tank", place / "tank") as pool:
        pool.import_image(root, "tank/deep@1")
        assert pool.verify("tank/deep@1", root) == []
        os.pwrite(file, b"y", 0)
        found = pool.verify("tank/deep@1", root)
    os.close(file)
    os.close(directory)
    path = b"level/" * DEPTH + b"file"
    assert {difference.path for difference in found} == {path}
    assert "contents differ between 0 and 1" in [difference.what for difference in found]
