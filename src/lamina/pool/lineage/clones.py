"""Clones: datasets that begin as a snapshot, and which of the two is the other's origin."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamina.errors import AlreadyExists, InvalidName, LaminaError, NotFound
from lamina.pool.catalogue import Catalogue, Change, DatasetRow, SnapshotRow
from lamina.pool.figures.limits import Guard, check_new
from lamina.pool.lineage.renaming import missing_above
from lamina.pool.lineage.snapshots import open_snapshot, snapshot_by_id
from lamina.pool.names import check_dataset_name, pool_of_name, snapshot_name_error
from lamina.pool.properties import parse_properties

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


def clone(pool: "Pool", snapshot: str, dataset: str, properties: Mapping[str, str], *, parents: bool) -> list[str]:
    """See ``Pool.clone``."""
    catalogue = pool._catalogue

    def missing() -> list[str]:
        open_snapshot(catalogue, snapshot)
        check_dataset_name(dataset)
        if pool_of_name(dataset) != pool.name:
            raise NotFound(f"cannot create '{dataset}': no such pool '{pool_of_name(dataset)}'")
        if catalogue.find_dataset(dataset) is not None:
            if parents:
                return []
            raise AlreadyExists(f"cannot create '{dataset}': dataset already exists")
        above = missing_above(catalogue, dataset)
        if above and not parents:
            raise NotFound(f"cannot create '{dataset}': parent does not exist")
        return [*above, dataset]

    made = missing()
    stored = parse_properties(properties, prefix=f"cannot create '{dataset}': ")
    if not made:
        return []
    guard = Guard(catalogue, pool._free())
    with pool._writer() as writer, catalogue.change(writer) as change:
        made = missing()
        origin = open_snapshot(catalogue, snapshot)
        for one in made:
            number = catalogue.add_dataset(change, one, stored if one == dataset else {})
            if one == dataset:
                catalogue.database.execute("UPDATE dataset SET origin = ? WHERE id = ?", (origin.id, number))
                # What it shows was taken in by its origin.
                catalogue.set_head(change, number, origin.root, None, 0)
        check_new(catalogue, pool._free(), dataset)
        guard.check([dataset], f"cannot create '{dataset}'")
    return made


def promote(pool: "Pool", name: str, *, dry_run: bool) -> list[str]:
    """See ``Pool.promote``."""
    catalogue = pool._catalogue
    _, parent, _, moving = _check_promotion(catalogue, name)
    if dry_run:
        return [f"{parent.name}@{row.name}" for row in moving]
    guard = Guard(catalogue, pool._free())
    with pool._writer() as writer, catalogue.change(writer) as change:
        parent = _check_promotion(catalogue, name)[1]
        names = promote_rows(pool, change, name)
        guard.check([name, parent.name], f"cannot promote '{name}'")
    return names


def promote_rows(pool: "Pool", change: Change, name: str) -> list[str]:
    """The same inside a change."""
    catalogue = pool._catalogue
    dataset, parent, origin, moving = _check_promotion(catalogue, name)
    names = [f"{parent.name}@{row.name}" for row in moving]
    pool._check_idle(names)
    catalogue.database.execute_many(
        "UPDATE snapshot SET dataset = ? WHERE id = ?", [(dataset.id, row.id) for row in moving]
    )
    change.snapshots.update(row.id for row in moving)
    follows_moved = parent.follows in {row.id for row in moving}
    if follows_moved or (parent.follows is None and parent.head in {row.root for row in moving}):
        # Its tree is its origin's now, which also counts what was taken in. An image that it followed is no
        # longer its own: destroyed, it must not take this head along.
        catalogue.set_head(change, parent.id, parent.head, None, 0)
    swaps = [(parent.origin, dataset.id), (origin.id, parent.id)]
    catalogue.database.execute_many("UPDATE dataset SET origin = ? WHERE id = ?", swaps)
    change.datasets.update((dataset.id, parent.id))
    change.accounting = True
    return names


def _check_promotion(catalogue: Catalogue, name: str) -> tuple[DatasetRow, DatasetRow, SnapshotRow, list[SnapshotRow]]:
    """The clone, its origin's dataset, its origin, and the snapshots that move. Raises what refuses a promotion."""
    check_dataset_name(name, "open")
    dataset = catalogue.dataset(name)
    if dataset.origin is None:
        raise LaminaError(f"cannot promote '{name}': not a cloned filesystem")
    origin = snapshot_by_id(catalogue, dataset.origin)
    parent = catalogue.dataset_by_id(origin.dataset)
    moving = [row for row in catalogue.snapshots(parent.id) if row.txg <= origin.txg]
    own = {row.name for row in catalogue.snapshots(dataset.id)}
    for row in moving:
        if row.name in own:
            raise AlreadyExists(
                f"cannot promote '{name}': conflicting snapshot '{row.name}' from parent '{parent.name}@{origin.name}'"
            )
        reason = snapshot_name_error(f"{name}@{row.name}")
        if reason is not None:
            raise InvalidName(f"cannot promote '{name}': snapshot '{row.name}' of '{parent.name}': {reason}")
    return dataset, parent, origin, moving
