"""Finding and listing datasets, snapshots and bookmarks."""

from collections.abc import Collection, Sequence

from lamina.errors import NotFound
from lamina.pool.catalogue import Catalogue, SnapshotRow
from lamina.pool.lineage.bookmarks import BookmarkRow, bookmarks_of, open_bookmark
from lamina.pool.names import check_name, printable
from lamina.pool.values import Entry

_FEW = 32
"""Datasets up to which each is asked for its snapshots."""


def list_entries(
    catalogue: Catalogue, pool: str, roots: Sequence[str], recursive: bool, depth: int | None, types: Collection[str]
) -> list[Entry]:
    """See ``Pool.list``."""
    only_snapshots = "filesystem" not in types
    limit = depth if depth is not None else None if recursive or not roots else 1 if only_snapshots else 0
    below = {root: catalogue.datasets(root) for root in roots or [pool] if "@" not in root and "#" not in root}
    snapshots: dict[int, list[SnapshotRow]] = {}
    if "snapshot" in types or "image" in types:
        snapshots = _snapshots(catalogue, [dataset.id for some in below.values() for dataset in some])
    bookmarks: dict[int, list[BookmarkRow]] = {}
    if "bookmark" in types:
        for bookmark in bookmarks_of(catalogue):
            bookmarks.setdefault(bookmark.dataset, []).append(bookmark)
    found: dict[str, Entry] = {}
    for root in roots or [pool]:
        if "@" in root or "#" in root:
            found.setdefault(root, find_entry(catalogue, root))
            continue
        check_name(root)
        base = catalogue.dataset(root).name.count("/")
        for dataset in below[root]:
            level = dataset.name.count("/") - base
            if limit is not None and level > limit:
                continue
            if not only_snapshots:
                found.setdefault(dataset.name, Entry(dataset.name, "filesystem", dataset.id))
            if limit is None or level + 1 <= limit:
                for row in snapshots.get(dataset.id, ()):
                    if "snapshot" in types or row.kind in types:
                        name = f"{dataset.name}@{row.name}"
                        found.setdefault(name, Entry(name, "snapshot", row.id, row.kind))
                for bookmark in bookmarks.get(dataset.id, ()):
                    name = f"{dataset.name}#{bookmark.name}"
                    found.setdefault(name, Entry(name, "bookmark", bookmark.id))
    return list(found.values())


def _snapshots(catalogue: Catalogue, datasets: Sequence[int]) -> dict[int, list[SnapshotRow]]:
    """Snapshots by dataset: of few datasets theirs only, of many all that there are."""
    if len(datasets) <= _FEW:
        return {dataset: catalogue.snapshots(dataset) for dataset in datasets}
    found: dict[int, list[SnapshotRow]] = {}
    for row in catalogue.snapshots():
        found.setdefault(row.dataset, []).append(row)
    return found


def find_entry(catalogue: Catalogue, name: str) -> Entry:
    """The dataset, snapshot or bookmark of this name. Raises ``NotFound``, ``InvalidName``."""
    if "#" in name:
        return Entry(name, "bookmark", open_bookmark(catalogue, name).id)
    check_name(name)
    if "@" in name:
        snapshot = catalogue.find_snapshot(name)
        if snapshot is None:
            raise NotFound(f"cannot open '{printable(name)}': dataset does not exist")
        return Entry(name, "snapshot", snapshot.id, snapshot.kind)
    return Entry(name, "filesystem", catalogue.dataset(name).id)
