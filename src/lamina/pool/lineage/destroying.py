"""What a destroy takes away, OpenZFS's refusals, and the destroying itself.

Everything that makes rows of names go comes through ``destroying`` (one transaction, and what follows it).
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lamina.errors import Busy, NotFound, UsageError
from lamina.pool.catalogue import Catalogue, Change, DatasetRow, SnapshotRow
from lamina.pool.lineage.bookmarks import BookmarkRow, bookmarks_of, check_bookmark_name, drop_bookmarks, find_bookmark
from lamina.pool.lineage.families import Family, Row
from lamina.pool.lineage.snapshots import find_snapshots, pass_on_taken, snapshot_by_id
from lamina.pool.names import check_name, check_snapshot_name
from lamina.pool.reports import DestroyPlan

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


@dataclass(frozen=True, slots=True)
class Doomed:
    """What goes: rows, each after what depends on it, and bookmarks; ``names`` of all of them."""

    rows: list[Row] = field(default_factory=list)
    bookmarks: list[BookmarkRow] = field(default_factory=list)
    deferred: list[SnapshotRow] = field(default_factory=list)
    """Those that are held or cloned: they go with their last hold or clone."""
    names: list[str] = field(default_factory=list)
    deferred_names: list[str] = field(default_factory=list)


@contextlib.contextmanager
def destroying(pool: "Pool") -> Iterator[Change]:
    """One change of names that may destroy some; whatever has to follow a destroy follows here."""
    with pool._writer() as writer, pool._catalogue.change(writer) as change:
        yield change


def doom(catalogue: Catalogue, family: Family, rows: Sequence[Row], *, defer: bool = False) -> Doomed:
    """What goes if ``rows`` do, which hold all that depends on them.

    ``defer``: what is held or has clones that stay goes later. The pool's root dataset stays: it is the pool. Raises
    ``Busy`` for what is held, and for what the root dataset is a clone of.
    """
    root = next((row for row in rows if isinstance(row, DatasetRow) and "/" not in row.name), None)
    rows = [row for row in rows if row is not root]
    held = {number for (number,) in catalogue.database.query("SELECT DISTINCT snapshot FROM hold")}
    datasets = {row.id for row in rows if isinstance(row, DatasetRow)}
    going: list[Row] = []
    deferred: list[SnapshotRow] = []
    for row in rows:
        kept = isinstance(row, SnapshotRow) and (row.id in held or not datasets.issuperset(family.clone_ids(row.id)))
        if defer and kept and isinstance(row, SnapshotRow) and row.dataset not in datasets:
            deferred.append(row)
        else:
            going.append(row)
    in_use = [family.name(row) for row in going if isinstance(row, SnapshotRow) and row.id in held]
    if in_use:
        raise Busy(
            "\n".join(
                f"cannot destroy snapshot {name}: it's being held. Run 'lamina holds -r {name}' to see holders."
                for name in in_use
            )
        )
    for row in going:
        if root is not None and isinstance(row, SnapshotRow) and row.id == root.origin:
            raise Busy(
                f"cannot destroy '{family.name(row)}': the pool's own dataset '{root.name}' is a clone of it; "
                f"run 'lamina promote {root.name}' first"
            )
    within = {row.id for row in rows if isinstance(row, SnapshotRow)}
    origins = {row.origin for row in going if isinstance(row, DatasetRow) and row.origin is not None}
    for number in sorted(origins - within - held):
        # A deferred snapshot goes with its last clone.
        if datasets.issuperset(family.clone_ids(number)):
            origin = snapshot_by_id(catalogue, number)
            if origin.defer:
                going.append(origin)
    return Doomed(going, [], deferred, [family.name(row) for row in going], [family.name(row) for row in deferred])


def carry_out(catalogue: Catalogue, change: Change, doomed: Doomed, *, undone: Collection[int] = ()) -> None:
    """Remove the rows. What a snapshot has taken in stays counted in what comes after it, but for those ``undone``."""
    datasets = {row.id for row in doomed.rows if isinstance(row, DatasetRow)}
    going: dict[int, list[SnapshotRow]] = {}
    for row in doomed.rows:
        if isinstance(row, SnapshotRow) and row.dataset not in datasets and row.id not in undone:
            going.setdefault(row.dataset, []).append(row)
    for number, some in going.items():
        if any(row.taken for row in some):
            pass_on_taken(catalogue, change, catalogue.dataset_by_id(number), {row.id for row in some})
    drop_bookmarks(catalogue, change, doomed.bookmarks)
    catalogue.drop_snapshots(change, [row.id for row in doomed.rows if isinstance(row, SnapshotRow)])
    for number in datasets:
        drop_bookmarks(catalogue, change, bookmarks_of(catalogue, number))
        catalogue.drop_dataset(change, number)
    for one in doomed.deferred:
        catalogue.database.execute("UPDATE snapshot SET defer = 1 WHERE id = ?", (one.id,))
        change.snapshots.add(one.id)


def drop_if_free(catalogue: Catalogue, change: Change, snapshot: int) -> None:
    """Let a deferred snapshot go if nothing holds or clones it any more."""
    row = snapshot_by_id(catalogue, snapshot)
    for sql in ("SELECT 1 FROM hold WHERE snapshot = ? LIMIT 1", "SELECT 1 FROM dataset WHERE origin = ? LIMIT 1"):
        if not row.defer or catalogue.database.query(sql, (snapshot,)):
            return
    if row.taken:
        pass_on_taken(catalogue, change, catalogue.dataset_by_id(row.dataset), {snapshot})
    catalogue.drop_snapshots(change, [snapshot])


# -- what is meant ------------------------------------------------------------------------------------------------


def destroy(
    pool: "Pool", name: str, *, recursive: bool, clones: bool, defer: bool, dry_run: bool, measure: bool
) -> DestroyPlan:
    """See ``Pool.destroy``."""

    def plan() -> Doomed:
        if "#" in name:
            return _plan_bookmark(pool._catalogue, name, recursive or clones or defer)
        if "@" in name:
            return _plan_snapshots(pool._catalogue, name, recursive, clones, defer)
        if defer:
            raise UsageError(f"-d is for snapshots: '{name}' is a dataset")
        return _plan_dataset(pool._catalogue, pool.name, name, recursive, clones)

    return _destroy(pool, plan, dry_run, measure)


def destroy_snapshots(pool: "Pool", names: Sequence[str], *, dry_run: bool, defer: bool, measure: bool) -> DestroyPlan:
    """See ``Pool.destroy_snapshots``."""

    def plan() -> Doomed:
        catalogue = pool._catalogue
        for name in names:
            check_snapshot_name(name, "destroy")
        found = find_snapshots(catalogue, names)
        missing = [f"cannot destroy snapshot {name}: dataset does not exist" for name in names if name not in found]
        if missing:
            raise NotFound("\n".join(missing))
        rows = sorted(found.values(), key=lambda row: (row.dataset, row.txg, row.id))
        family = Family(catalogue)
        if not defer:
            _refuse_cloned(family, rows)
        return doom(catalogue, family, rows, defer=defer)

    return _destroy(pool, plan, dry_run, measure)


def _destroy(pool: "Pool", plan: Callable[[], Doomed], dry_run: bool, measure: bool) -> DestroyPlan:
    doomed = plan()
    reclaim = pool._reclaim(doomed.names) if measure else 0
    if not dry_run and (doomed.names or doomed.deferred_names):
        pool._check_idle(doomed.names)
        with destroying(pool) as change:
            doomed = plan()
            pool._check_idle(doomed.names)
            carry_out(pool._catalogue, change, doomed)
    return DestroyPlan(doomed.names, reclaim, doomed.deferred_names)


def _plan_bookmark(catalogue: Catalogue, name: str, more: bool) -> Doomed:
    if more:
        raise UsageError(f"-d, -r and -R are not for bookmarks: '{name}'")
    check_bookmark_name(name, "destroy")
    row = find_bookmark(catalogue, name)
    if row is None:
        raise NotFound(f"bookmark '{name}' does not exist.")
    return Doomed(bookmarks=[row], names=[name])


def _plan_dataset(catalogue: Catalogue, pool: str, name: str, recursive: bool, clones: bool) -> Doomed:
    check_name(name, "destroy")
    target = catalogue.dataset(name)
    if not (recursive or clones) and name == pool:
        raise Busy(
            f"cannot destroy '{name}': operation does not apply to pools\n"
            f"use 'lamina destroy -r {name}' to destroy all datasets in the pool\n"
            f"use 'lamina pool destroy {name}' to destroy the pool itself"
        )
    family = Family(catalogue)
    rows = family.closure([target], clones=clones)
    if not (recursive or clones) and len(rows) > 1:
        raise Busy(
            f"cannot destroy '{name}': filesystem has children\nuse '-r' to destroy the following datasets:\n"
            + "\n".join(family.name(row) for row in rows[:-1])
        )
    dependents = [] if clones else family.dependents(rows)
    if dependents:
        raise Busy(_has_clones(family, f"cannot destroy '{name}': filesystem has dependent clones", dependents))
    return doom(catalogue, family, rows)


def _plan_snapshots(catalogue: Catalogue, name: str, recursive: bool, clones: bool, defer: bool) -> Doomed:
    dataset, _, spec = name.partition("@")
    _check_spec(dataset, spec)
    target = catalogue.dataset(dataset)
    found: list[SnapshotRow] = []
    for row in catalogue.datasets(dataset) if recursive or clones else [target]:
        found += _named(catalogue, row, spec)
    if not found:
        raise NotFound("could not find any snapshots to destroy; check snapshot names.")
    family = Family(catalogue)
    if not clones and not defer:
        _refuse_cloned(family, found)
    return doom(catalogue, family, family.closure(found, clones=clones), defer=defer)


def _check_spec(dataset: str, spec: str) -> None:
    """Raise ``InvalidName`` unless ``spec`` is snapshot names and ranges of them, between commas."""
    check_name(dataset, "destroy")
    for part in spec.split(","):
        first, percent, last = part.partition("%")
        for end in (first, last) if percent else (first,):
            if end or not percent:
                check_name(f"{dataset}@{end}", "destroy")


def _named(catalogue: Catalogue, dataset: DatasetRow, spec: str) -> list[SnapshotRow]:
    """Snapshots of a dataset that ``spec`` names, oldest first: ``a,b``, ``a%c`` with all between, ``%b``, ``b%``.

    A name that is missing names nothing, nor does a range with a missing end (zfs_iter_snapspec).
    """
    if "," not in spec and "%" not in spec:
        found = catalogue.find_snapshot(f"{dataset.name}@{spec}")
        return [] if found is None else [found]
    rows = catalogue.snapshots(dataset.id)
    at = {row.name: number for number, row in enumerate(rows)}
    chosen: set[int] = set()
    for part in spec.split(","):
        first, percent, last = part.partition("%")
        ends = (first, last) if percent else (first, first)
        start = at.get(ends[0], len(rows)) if ends[0] else 0
        stop = at.get(ends[1], -1) if ends[1] else len(rows) - 1
        chosen.update(range(start, stop + 1))
    return [rows[number] for number in sorted(chosen)]


def _refuse_cloned(family: Family, snapshots: Sequence[SnapshotRow]) -> None:
    refusals = []
    for row in snapshots:
        dependents = family.dependents([row])
        if dependents:
            what = f"cannot destroy '{family.name(row)}': snapshot has dependent clones"
            refusals.append(_has_clones(family, what, dependents))
    if refusals:
        raise Busy("\n".join(refusals))


def _has_clones(family: Family, what: str, dependents: Sequence[Row]) -> str:
    names = "\n".join(family.name(row) for row in dependents)
    return f"{what}\nuse '-R' to destroy the following datasets:\n{names}"
