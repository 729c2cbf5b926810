"""A pool with dated snapshots, and datasets whose content can be changed."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from lamina.pool import Pool
from lamina.pool.names import split_snapshot
from tests.pool.trees import write_tree

DAY = 86400


def date(pool: Pool, name: str, creation: int) -> None:
    """Have a snapshot made at another time than it was: what a clock would have written."""
    dataset, tag = split_snapshot(name)
    with pool._database.transaction():
        pool._database.execute(
            "UPDATE snapshot SET creation = ? WHERE name = ? AND dataset = (SELECT id FROM dataset WHERE name = ?)",
            (creation, tag or "", dataset),
        )


def take(pool: Pool, dataset: str, times: Iterable[int], prefix: str = "s") -> list[str]:
    """Snapshots of these times, in this order, named for them."""
    names = []
    for moment in times:
        name = f"{dataset}@{prefix}{datetime.fromtimestamp(moment, UTC):%Y-%m-%d-%H%M}"
        pool.snapshot([name])
        date(pool, name, moment)
        names.append(name)
    return names


def snapshots(pool: Pool, dataset: str) -> list[str]:
    """Tags of a dataset's snapshots, in the order they were made."""
    return [entry.name.partition("@")[2] for entry in pool.list([dataset], types=("snapshot",))]


class Content:
    """Puts new content into datasets: images that are destroyed again, so that the head stays."""

    def __init__(self, pool: Pool, place: Path) -> None:
        self._pool = pool
        self._place = place
        self._count = 0

    def change(self, dataset: str) -> None:
        """Give the head of a dataset a tree that it never had."""
        self._count += 1
        source = write_tree(self._place / f"content{self._count}", {"file": b"%d" % self._count * 5000})
        self._pool.import_image(source.path, f"{dataset}@image{self._count}")
