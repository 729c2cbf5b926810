"""A pool with names for tests of snapshots, clones, holds and bookmarks, and looking at all of its rows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import LaminaError
from lamina.pool import Pool, registry
from tests.pool.trees import Library

TABLES = (
    *("meta", "dataset", "snapshot", "hold", "bookmark", "dataset_property", "snapshot_property", "tree", "lease"),
    *("pack", "history"),
)


def rows(pool: Pool) -> dict[str, list[tuple[object, ...]]]:
    """Everything that names are made of."""
    return {table: sorted(pool._database.query(f"SELECT * FROM {table}"), key=repr) for table in TABLES}


def refused(pool: Pool, step: Callable[[], object], words: str, kind: type[LaminaError] = LaminaError) -> None:
    """Fail unless ``step`` is refused in these words and leaves no trace."""
    before = rows(pool)
    with pytest.raises(kind) as caught:
        step()
    assert str(caught.value) == words
    assert rows(pool) == before


def names(pool: Pool, *types: str) -> list[str]:
    """Full names of what there is."""
    return [entry.name for entry in pool.list(types=types or ("filesystem", "snapshot", "bookmark"))]


def value(pool: Pool, name: str, prop: str) -> object:
    """One property's value."""
    return pool.get(name, [prop])[prop].value


def fill(pool: Pool, library: Library) -> None:
    """``tank/images`` with two images of different trees and a child, and ``tank/a/b``, empty."""
    pool.create_dataset("tank/a/b", parents=True)
    pool.import_image(library[2].path, "tank/images@1")
    pool.import_image(library[3].path, "tank/images@2")
    pool.import_image(library[4].path, "tank/images/base@1")


def copied(made: Path, place: Path) -> Pool:
    """A copy of a pool's directory, known as ``tank`` and open."""
    shutil.copytree(made, place)
    registry.add("tank", place)
    return Pool.open("tank", write=True)


def write_head(pool: Pool, name: str, source: str, taken: int) -> None:
    """A head that was written to, as far as names show it: the tree of ``source``, with ``taken`` new bytes."""
    with pool._writer() as writer, pool._catalogue.change(writer) as change:
        row = pool._catalogue.dataset(name)
        pool._catalogue.set_head(change, row.id, pool.root(source), None, taken)
