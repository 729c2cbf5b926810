"""Bringing names in line with a sender's (``receive -F`` of ``send -R -i``): what was renamed there is renamed here,
what is gone there goes here.

Datasets are known by the snapshots that they have in common, as in OpenZFS (``recv_incremental_replication``).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.pool.catalogue import Catalogue, Change, DatasetRow, SnapshotRow
from lamina.pool.lineage.clones import promote_rows
from lamina.pool.lineage.destroying import carry_out, doom
from lamina.pool.lineage.families import Family, Row
from lamina.pool.lineage.renaming import missing_above
from lamina.pool.names import check_dataset_name, check_snapshot_name
from lamina.replication.destination import ReceiveOptions
from lamina.replication.grammar import Contents
from lamina.replication.messages import Begin

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

Tell = Callable[[str], None]

_TEMPORARY = "lamina-recv"
"""What something is called while its new name is still another's."""


def must_reconcile(begin: Begin, options: ReceiveOptions) -> bool:
    """Whether a stream brings names in line."""
    return options.force and begin.package and begin.source is not None


def reconcile(pool: "Pool", change: Change, names: Sequence[str], contents: Contents, tell: Tell | None) -> list[str]:
    """Promote, rename and destroy inside a change; returns lines about what had to stay.

    ``names``: those that the datasets of the package have here, that of the one above all first. Raises ``Busy``,
    ``InvalidName``.
    """
    return _Reconciliation(pool, change, names, contents, tell or (lambda line: None)).run()


class _Reconciliation:
    def __init__(self, pool: "Pool", change: Change, names: Sequence[str], contents: Contents, tell: Tell) -> None:
        self._pool = pool
        self._catalogue: Catalogue = pool._catalogue
        self._change = change
        self._top = names[0]
        self._names = names
        self._kept = contents.kept
        """Snapshots of each dataset at the sender, names by guid."""
        self._origins = [sent.origin for sent in contents.datasets]
        self._tell = tell
        self._left: list[str] = []

    def run(self) -> list[str]:
        if self._catalogue.find_dataset(self._top) is None:
            return []
        matched = self._match()
        self._promote(matched)
        self._rename_datasets(matched)
        for number, at in matched.items():
            self._snapshots(self._catalogue.dataset_by_id(number), self._kept[at])
        return self._left

    def _match(self) -> dict[int, int]:
        """Datasets here, by row, with those of the package that have a snapshot in common with them."""
        by_guid: dict[int, list[int]] = {}
        for at, snapshots in enumerate(self._kept):
            for guid in snapshots:
                by_guid.setdefault(guid, []).append(at)
        rows = self._catalogue.datasets(self._top)
        common = {
            row.id: [at for one in self._catalogue.snapshots(row.id) for at in by_guid.get(one.guid, ())]
            for row in rows
        }
        matched = {
            row.id: next(at for at in common[row.id] if self._names[at] == row.name)
            for row in rows
            if any(self._names[at] == row.name for at in common[row.id])
        }
        matched.setdefault(rows[0].id, 0)
        for row in rows:
            left = [at for at in common[row.id] if at not in matched.values()]
            if row.id not in matched and left:
                matched[row.id] = left[0]
        return matched

    def _promote(self, matched: dict[int, int]) -> None:
        """What was promoted at the sender: a clone here whose origin is among the clone's own snapshots there.

        A clone that is not known here and has taken a dataset's snapshots over is made, and promoted.
        """
        for number, at in list(matched.items()):
            origin = self._origins[at]
            if origin is None or origin.guid in self._kept[at]:
                continue
            own = next((one for one in self._catalogue.snapshots(number) if one.guid == origin.guid), None)
            owner = next((one for one, kept in enumerate(self._kept) if origin.guid in kept), None)
            if own is not None and owner is not None and owner not in matched.values():
                name = f"{self._top}/{_TEMPORARY}-of-{number}"
                made = self._catalogue.add_dataset(self._change, name, {})
                self._catalogue.database.execute("UPDATE dataset SET origin = ? WHERE id = ?", (own.id, made))
                self._catalogue.set_head(self._change, made, own.root, None, 0)
                matched[made] = owner
        promoted = True
        while promoted:
            promoted = False
            for number, at in matched.items():
                row = self._catalogue.dataset_by_id(number)
                if row.origin is None or self._catalogue.snapshot_by_id(row.origin).guid not in self._kept[at]:
                    continue
                self._tell(f"promoting {row.name}")
                promote_rows(self._pool, self._change, row.name)
                promoted = True

    # -- datasets -------------------------------------------------------------------------------------------------

    def _rename_datasets(self, matched: Mapping[int, int]) -> None:
        """Datasets that are called otherwise at the sender move out of the way, what is gone there goes, then they
        move to their new names."""
        before = {number: self._catalogue.dataset_by_id(number).name for number in matched}
        moving = [number for number in matched if before[number] != self._names[matched[number]]]
        for number in moving:
            self._rename(number, f"{self._top}/{_TEMPORARY}-{number}")
        self._destroy([row for row in self._catalogue.datasets(self._top) if row.id not in matched])
        for number in sorted(moving, key=lambda one: self._names[matched[one]].split("/")):
            name = self._names[matched[number]]
            self._tell(f"attempting rename {before[number]} to {name}")
            for above in missing_above(self._catalogue, name):
                self._catalogue.add_dataset(self._change, above, {})
            self._rename(number, name)
            self._tell("success")

    def _rename(self, number: int, name: str) -> None:
        old = self._catalogue.dataset_by_id(number).name
        for row in self._catalogue.datasets(old):
            moved = name + row.name[len(old) :]
            check_dataset_name(moved)
            for snapshot in self._catalogue.snapshots(row.id):
                check_snapshot_name(f"{moved}@{snapshot.name}")
        self._pool._check_idle([row.name for row in self._catalogue.datasets(old)])
        self._catalogue.rename_dataset(self._change, old, name)

    def _destroy(self, rows: Sequence[Row]) -> None:
        """Destroy what is gone at the sender, but for what is held here, or has clones that stay."""
        family = Family(self._catalogue)
        held = {number for (number,) in self._catalogue.database.query("SELECT DISTINCT snapshot FROM hold")}
        going = list(rows)
        staying = True
        while staying and going:
            every = family.closure(going, clones=False)
            within = {(type(row), row.id) for row in every}
            staying = False
            for row in going.copy():
                reason = self._in_the_way(family, row, held, within)
                if reason is not None:
                    going.remove(row)
                    self._left.append(f"'{family.name(row)}' is gone at the sender and stays here: {reason}")
                    staying = True
        if not going:
            return
        doomed = doom(self._catalogue, family, family.closure(going, clones=False))
        self._pool._check_idle(doomed.names)
        for name in doomed.names:
            self._tell(f"attempting destroy {name}")
        carry_out(self._catalogue, self._change, doomed)
        for _ in doomed.names:
            self._tell("success")

    def _in_the_way(self, family: Family, row: Row, held: set[int], within: set[tuple[type[Row], int]]) -> str | None:
        """Why a dataset or snapshot cannot go."""
        below = family.closure([row], clones=False)
        for one in below:
            if isinstance(one, SnapshotRow) and one.id in held:
                return f"'{family.name(one)}' is held"
        for one in family.dependents(below):
            if (type(one), one.id) not in within:
                return f"'{family.name(one)}' depends on it"
        return None

    # -- snapshots ------------------------------------------------------------------------------------------------

    def _snapshots(self, dataset: DatasetRow, kept: Mapping[int, str]) -> None:
        rows = self._catalogue.snapshots(dataset.id)
        if any(row.guid in kept for row in rows):
            # Of a dataset that has nothing in common none is known to be gone.
            self._destroy([row for row in rows if row.guid not in kept])
        moving = [row for row in rows if kept.get(row.guid, row.name) != row.name]
        for row in moving:
            self._catalogue.rename_snapshot(self._change, row.id, f"{_TEMPORARY}-{row.id}")
        for row in moving:
            name = f"{dataset.name}@{kept[row.guid]}"
            check_snapshot_name(name)
            self._tell(f"attempting rename {dataset.name}@{row.name} to {name}")
            self._pool._check_idle([f"{dataset.name}@{row.name}"])
            self._catalogue.rename_snapshot(self._change, row.id, kept[row.guid])
            self._tell("success")
