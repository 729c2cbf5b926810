"""Taking snapshots of heads, and taking a head back to one.

A snapshot is a row. What it has *taken in* (``logicalused``) is what its head had taken in since the snapshot before
it: nothing where the tree is that of a snapshot or an image that the dataset has already.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lamina.errors import AlreadyExists, Busy, InvalidName, NotFound
from lamina.pool.catalogue import Catalogue, Change, DatasetRow, SnapshotRow
from lamina.pool.figures.limits import Guard
from lamina.pool.names import check_snapshot_name, printable, snapshot_name_error, split_snapshot
from lamina.pool.properties import parse_properties

if TYPE_CHECKING:
    from lamina.pool.lineage.destroying import Doomed
    from lamina.pool.pool import Pool

_MANY = 64
"""For so many snapshots of one dataset, all of it are read at once."""


def open_snapshot(catalogue: Catalogue, name: str) -> SnapshotRow:
    """The snapshot of this full name. Raises ``NotFound``, ``InvalidName``."""
    check_snapshot_name(name, "open")
    row = catalogue.find_snapshot(name)
    if row is None:
        raise NotFound(f"cannot open '{name}': dataset does not exist")
    return row


def snapshot_by_id(catalogue: Catalogue, number: int) -> SnapshotRow:
    """A snapshot by its row."""
    ((dataset, name),) = catalogue.database.query(
        "SELECT d.name, s.name FROM snapshot s JOIN dataset d ON d.id = s.dataset WHERE s.id = ?", (number,)
    )
    found = catalogue.find_snapshot(f"{dataset}@{name}")
    assert found is not None
    return found


def find_snapshots(catalogue: Catalogue, names: Iterable[str]) -> dict[str, SnapshotRow]:
    """Rows of those of ``names`` that are there, each once."""
    by_dataset: dict[str, dict[str, None]] = {}
    for name in names:
        dataset, tag = split_snapshot(name)
        by_dataset.setdefault(dataset, {})[tag or ""] = None
    found: dict[str, SnapshotRow] = {}
    for dataset, tags in by_dataset.items():
        if len(tags) < _MANY:
            rows = [catalogue.find_snapshot(f"{dataset}@{tag}") for tag in tags]
        else:
            owner = catalogue.find_dataset(dataset)
            all_rows = {row.name: row for row in catalogue.snapshots(owner.id)} if owner is not None else {}
            rows = [all_rows.get(tag) for tag in tags]
        found.update((f"{dataset}@{row.name}", row) for row in rows if row is not None)
    return found


def with_below(catalogue: Catalogue, name: str) -> list[str]:
    """The full name of a snapshot, and those that it would have in the datasets below. Raises ``NotFound``."""
    dataset, tag = split_snapshot(name)
    catalogue.dataset(dataset)
    return [f"{row.name}@{tag}" for row in catalogue.datasets(dataset)]


# -- taking -------------------------------------------------------------------------------------------------------


def snapshot(pool: "Pool", names: Sequence[str], *, recursive: bool, properties: Mapping[str, str]) -> list[str]:
    """See ``Pool.snapshot``."""
    catalogue = pool._catalogue
    wanted = _wanted(catalogue, names, recursive)
    stored = parse_properties(properties, entry_type="snapshot", prefix="cannot create snapshots : ")
    _refuse_taken(catalogue, wanted)
    guard = Guard(catalogue, pool._free())
    with pool._writer() as writer, catalogue.change(writer) as change:
        wanted = _wanted(catalogue, names, recursive)
        _refuse_taken(catalogue, wanted)
        for name, dataset in wanted.items():
            number = _take(catalogue, change, dataset, split_snapshot(name)[1] or "")
            catalogue.set_snapshot_properties(change, number, stored)
        guard.check({row.name for row in wanted.values()}, f"cannot create snapshot '{next(iter(wanted), '')}'")
    return list(wanted)


def _wanted(catalogue: Catalogue, names: Sequence[str], recursive: bool) -> dict[str, DatasetRow]:
    """Full names of the snapshots to make, each once, with their datasets."""
    wanted: dict[str, DatasetRow] = {}
    for name in names:
        dataset, tag = split_snapshot(name)
        catalogue.dataset(dataset)
        for row in catalogue.datasets(dataset) if recursive else [catalogue.dataset(dataset)]:
            full = row.name if tag is None else f"{row.name}@{tag}"
            reason = snapshot_name_error(full)
            if reason is not None:
                raise InvalidName(f"cannot create snapshot '{printable(full)}': {reason}")
            wanted[full] = row
    return wanted


def _refuse_taken(catalogue: Catalogue, wanted: Mapping[str, DatasetRow]) -> None:
    taken = [name for name in wanted if catalogue.find_snapshot(name) is not None]
    if taken:
        lines = [f"cannot create snapshot '{name}': dataset already exists" for name in taken]
        raise AlreadyExists("\n".join(lines))


def _take(catalogue: Catalogue, change: Change, dataset: DatasetRow, name: str) -> int:
    taken = 0
    row = catalogue.dataset_by_id(dataset.id)  # another snapshot of this change may have counted what the head took in
    if row.head is not None and not _has_root(catalogue, row.id, row.head):
        taken = row.taken
        catalogue.set_head(change, row.id, row.head, row.follows, 0)
    return catalogue.add_snapshot(change, row.id, name, "snapshot", row.head, taken)


def _has_root(catalogue: Catalogue, dataset: int, root: int) -> bool:
    rows = catalogue.database.query("SELECT 1 FROM snapshot WHERE dataset = ? AND root = ? LIMIT 1", (dataset, root))
    return bool(rows)


# -- passing on ---------------------------------------------------------------------------------------------------


def pass_on_taken(catalogue: Catalogue, change: Change, dataset: DatasetRow, going: set[int]) -> None:
    """What snapshots that go have taken in is counted in what came after them: it is still stored there.

    At most as much as that holds, and never in an image: it was counted whole when it was imported.
    """
    carried = 0
    for number, kind, root, taken in catalogue.database.query(
        "SELECT id, kind, root, taken FROM snapshot WHERE dataset = ? ORDER BY txg, id", (dataset.id,)
    ):
        if number in going:
            carried = taken if kind == "image" else _taken(catalogue, root, taken, carried)
        elif carried:
            if kind != "image":
                catalogue.database.execute(
                    "UPDATE snapshot SET taken = ? WHERE id = ?", (_taken(catalogue, root, taken, carried), number)
                )
                change.snapshots.add(number)
            carried = 0
    if carried and dataset.head is not None and dataset.follows is None:
        taken = _taken(catalogue, dataset.head, dataset.taken, carried)
        catalogue.set_head(change, dataset.id, dataset.head, None, taken)


def _taken(catalogue: Catalogue, root: int | None, taken: int, carried: int) -> int:
    if not carried or root is None:
        return taken
    ((data_bytes,),) = catalogue.database.query("SELECT data_bytes FROM tree WHERE root = ?", (root,))
    return max(taken, min(taken + carried, int(data_bytes)))


# -- rolling back -------------------------------------------------------------------------------------------------


def rollback(pool: "Pool", name: str, *, destroy_newer: bool, destroy_clones: bool, dry_run: bool) -> list[str]:
    """See ``Pool.rollback``."""
    from lamina.pool.lineage.destroying import carry_out, destroying

    catalogue = pool._catalogue
    plan = _rollback_plan(catalogue, name, destroy_newer, destroy_clones)
    if not dry_run:
        dataset = split_snapshot(name)[0]
        pool._check_idle([dataset, *plan.names])
        guard = Guard(catalogue, pool._free())
        with destroying(pool) as change:
            plan = _rollback_plan(catalogue, name, destroy_newer, destroy_clones)
            pool._check_idle([dataset, *plan.names])
            target = open_snapshot(catalogue, name)
            follows = target.id if target.kind == "image" else None
            catalogue.set_head(change, target.dataset, target.root, follows, target.taken if follows else 0)
            carry_out(catalogue, change, plan, undone={row.id for row in _newer(catalogue, target)})
            guard.check([dataset], f"cannot rollback to '{name}'")
    return plan.names


def _newer(catalogue: Catalogue, target: SnapshotRow) -> list[SnapshotRow]:
    """Snapshots of its dataset that were taken later: those of the same moment hold the same."""
    return [row for row in catalogue.snapshots(target.dataset) if row.txg > target.txg]


def _rollback_plan(catalogue: Catalogue, name: str, destroy_newer: bool, destroy_clones: bool) -> "Doomed":
    """What a rollback destroys. Raises ``NotFound``, ``Busy``."""
    from lamina.pool.lineage.bookmarks import bookmarks_of
    from lamina.pool.lineage.destroying import doom
    from lamina.pool.lineage.families import Family

    target = open_snapshot(catalogue, name)
    dataset = split_snapshot(name)[0]
    newer = _newer(catalogue, target)
    bookmarks = [row for row in bookmarks_of(catalogue, target.dataset) if row.txg > target.txg]
    if (newer or bookmarks) and not (destroy_newer or destroy_clones):
        names = [f"{dataset}@{row.name}" for row in newer] + [f"{dataset}#{row.name}" for row in bookmarks]
        raise Busy(
            f"cannot rollback to '{name}': more recent snapshots or bookmarks exist\n"
            "use '-r' to force deletion of the following snapshots and bookmarks:\n" + "\n".join(names)
        )
    family = Family(catalogue)
    dependents = family.dependents(newer)
    if dependents and not destroy_clones:
        raise Busy(
            f"cannot rollback to '{name}': clones of previous snapshots exist\n"
            "use '-R' to force deletion of the following clones and dependents:\n"
            + "\n".join(family.name(row) for row in dependents)
        )
    if any(isinstance(row, DatasetRow) and row.id == target.dataset for row in dependents):
        raise Busy(f"cannot rollback to '{name}': '{dataset}' lies below a clone of its own; rename it first")
    doomed = doom(catalogue, family, family.closure(newer, clones=True))
    names = [*doomed.names, *(f"{dataset}#{row.name}" for row in bookmarks)]
    return replace(doomed, bookmarks=bookmarks, names=names)
