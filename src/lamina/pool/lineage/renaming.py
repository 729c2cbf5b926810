"""What may be renamed to what, with OpenZFS's refusals."""

from typing import TYPE_CHECKING

from lamina.errors import AlreadyExists, InvalidName, NotFound
from lamina.pool.catalogue import Catalogue, SnapshotRow
from lamina.pool.figures.limits import Guard
from lamina.pool.lineage.bookmarks import bookmarks_of, check_bookmark_name
from lamina.pool.names import check_dataset_name, check_snapshot_name, parent_of, pool_of_name, split_snapshot

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


def missing_above(catalogue: Catalogue, name: str) -> list[str]:
    """The datasets above ``name`` that do not exist, from the top."""
    missing: list[str] = []
    above = parent_of(name)
    while above is not None and catalogue.find_dataset(above) is None:
        missing.insert(0, above)
        above = parent_of(above)
    return missing


def check_rename(catalogue: Catalogue, pool: str, old: str, new: str, parents: bool) -> None:
    """Raise unless the dataset ``old``, with all below it, can become ``new``."""
    catalogue.dataset(old)
    check_dataset_name(new, "create")
    if "/" not in new:
        raise InvalidName(f"cannot create '{new}': missing dataset name")
    if pool_of_name(new) != pool:
        raise NotFound(f"cannot create '{new}': no such pool '{pool_of_name(new)}'")
    if new.startswith(old + "/"):
        raise InvalidName(f"cannot rename to '{new}': New dataset name cannot be a descendant of current dataset name")
    if catalogue.find_dataset(new) is not None:
        raise AlreadyExists(f"cannot rename '{old}': dataset already exists")
    if missing_above(catalogue, new) and not parents:
        raise NotFound(f"cannot create '{new}': parent does not exist")
    for row in catalogue.datasets(old):
        after = new + row.name[len(old) :]
        check_dataset_name(after, "create")
        for snapshot in catalogue.snapshots(row.id):
            check_snapshot_name(f"{after}@{snapshot.name}", "create")
        for bookmark in bookmarks_of(catalogue, row.id):
            check_bookmark_name(f"{after}#{bookmark.name}", "create")


def rename(pool: "Pool", old: str, new: str, *, parents: bool, recursive: bool, dry_run: bool) -> list[str]:
    """See ``Pool.rename``."""
    catalogue = pool._catalogue

    def moving() -> list[str]:
        if "@" in old:
            return list(snapshot_renames(catalogue, old, new, recursive))
        check_rename(catalogue, pool.name, old, new, parents)
        return [one.name for one in pool.list([old], recursive=True, types=("filesystem", "snapshot"))]

    names = moving()
    if dry_run:
        return names
    pool._check_idle(names)
    guard = Guard(catalogue, pool._free())
    with pool._writer() as writer, catalogue.change(writer) as change:
        names = moving()
        pool._check_idle(names)
        if "@" in old:
            for row, name in snapshot_renames(catalogue, old, new, recursive).values():
                catalogue.rename_snapshot(change, row.id, name)
        else:
            for above in missing_above(catalogue, new):
                catalogue.add_dataset(change, above, {})
            catalogue.rename_dataset(change, old, new)
            guard.check([new], f"cannot rename '{old}'")
    return names


def snapshot_renames(catalogue: Catalogue, old: str, new: str, recursive: bool) -> dict[str, tuple[SnapshotRow, str]]:
    """Old full name to row and new name of the snapshots that a rename of ``old`` renames.

    ``new`` may be the name after the ``@`` alone. Raises ``NotFound``, ``InvalidName``, ``AlreadyExists``.
    """
    dataset, snapshot = split_snapshot(old)
    target = new if "@" in new else f"{dataset}@{new}"
    check_snapshot_name(target, "rename to")
    other, name = split_snapshot(target)
    if other != dataset:
        raise InvalidName(f"cannot rename to '{target}': snapshots must be part of same dataset")
    if catalogue.find_snapshot(old) is None:
        raise NotFound(f"cannot open '{old}': dataset does not exist")
    found: dict[str, tuple[SnapshotRow, str]] = {}
    for row in catalogue.datasets(dataset) if recursive else [catalogue.dataset(dataset)]:
        before, after = f"{row.name}@{snapshot}", f"{row.name}@{name}"
        renamed = catalogue.find_snapshot(before)
        if renamed is None:
            continue
        check_snapshot_name(after, "rename to")
        if catalogue.find_snapshot(after) is not None:
            raise AlreadyExists(f"cannot rename '{before}': dataset already exists")
        found[before] = (renamed, name or "")
    return found
