"""What may be renamed to what, with OpenZFS's refusals."""

from lamina.errors import AlreadyExists, InvalidName, NotFound
from lamina.pool.catalogue import Catalogue, Change
from lamina.pool.names import check_dataset_name, check_snapshot_name, parent_of, pool_of_name, split_snapshot


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


def snapshot_renames(catalogue: Catalogue, old: str, new: str, recursive: bool) -> list[tuple[str, str]]:
    """(old, new) full names of the snapshots that a rename of ``old`` renames; ``new`` may be the short name alone."""
    dataset, snapshot = split_snapshot(old)
    target = new if "@" in new else f"{dataset}@{new}"
    check_snapshot_name(target, "rename to")
    other, name = split_snapshot(target)
    if other != dataset:
        raise InvalidName(f"cannot rename to '{target}': snapshots must be part of same dataset")
    if catalogue.find_snapshot(old) is None:
        raise NotFound(f"cannot open '{old}': dataset does not exist")
    rows = catalogue.datasets(dataset) if recursive else [catalogue.dataset(dataset)]
    pairs = [(f"{row.name}@{snapshot}", f"{row.name}@{name}") for row in rows]
    return [(before, after) for before, after in pairs if catalogue.find_snapshot(before) is not None]


def rename_snapshot(catalogue: Catalogue, change: Change, old: str, new: str) -> None:
    """Rename one, inside a change."""
    row = catalogue.find_snapshot(old)
    if row is None:
        raise NotFound(f"cannot open '{old}': dataset does not exist")
    if catalogue.find_snapshot(new) is not None:
        raise AlreadyExists(f"cannot rename '{old}': dataset already exists")
    catalogue.rename_snapshot(change, row.id, split_snapshot(new)[1] or "")
