"""Names at the receiver of a sync: what was renamed at the source is renamed here, and with ``--prune`` what was
destroyed there goes here.

Only snapshots go that came from one of the source's datasets by a stream, of datasets that still have a snapshot in
common with the source; never one that is held, cloned or mounted. The source names each one that is gone: a list that
did not come whole can only be too short.
"""

import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lamina.errors import AlreadyExists, Busy, LaminaError
from lamina.pool.catalogue import Catalogue, Change, DatasetRow, SnapshotRow
from lamina.pool.lineage.destroying import carry_out, doom
from lamina.pool.lineage.families import Family
from lamina.pool.names import printable, snapshot_name_error
from lamina.replication.destination import Destination, what
from lamina.replication.messages import SentSnapshot
from lamina.replication.sync.proposal import Proposal
from lamina.replication.sync.verdict import Verdict

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_TEMPORARY = "lamina-sync"
"""What a snapshot is called while its new name is still another's."""


@dataclass(slots=True)
class Aligning:
    """Brings the names of one destination in line with a proposal."""

    pool: "Pool"
    destination: Destination
    proposal: Proposal
    _catalogue: Catalogue = field(init=False)

    def __post_init__(self) -> None:
        self._catalogue = self.pool._catalogue

    def judge(self) -> Verdict:
        """What would become of everything, and what is refused; nothing is changed."""
        verdict = Verdict()
        with contextlib.suppress(_Undone), self._catalogue.database.transaction():
            change = Change(int(self._catalogue.meta("txg") or 0) + 1, int(time.time()))
            for number in range(len(self.proposal.datasets)):
                try:
                    self._judge(change, number, verdict)
                except LaminaError as error:
                    verdict.refused[number] = str(error)
            raise _Undone
        return verdict

    def _judge(self, change: Change, number: int, verdict: Verdict) -> None:
        found = Verdict()
        self._make_room(change, number, found)
        self._check(number)
        self._destroy_gone(change, number, found)
        for name in ("destroyed", "renamed", "kept"):
            getattr(verdict, name).extend(getattr(found, name))

    def make_room(self, change: Change, refused: Collection[int], done: Verdict) -> None:
        """What has to be done before snapshots come: names that they will have must be free."""
        for number in range(len(self.proposal.datasets)):
            if number not in refused:
                self._make_room(change, number, done)

    def finish(self, change: Change, refused: Collection[int], done: Verdict) -> None:
        """What is done once they have come."""
        for number in range(len(self.proposal.datasets)):
            if number not in refused:
                self._destroy_gone(change, number, done)

    def is_idle(self, verdict: Verdict) -> bool:
        """Whether nothing is to be renamed or destroyed."""
        return not (verdict.destroyed or verdict.renamed)

    # -- whether snapshots can come ---------------------------------------------------------------------------------

    def _check(self, number: int) -> None:
        """Raise what refuses the snapshots of a dataset, as things are."""
        sent = self.proposal.datasets[number]
        name = self.destination.dataset_name(sent)
        coming = [one for one in self.proposal.snapshots if one.dataset == number]
        row = self._catalogue.find_dataset(name)
        if row is None:
            self.destination.missing(name, what(coming[0] if coming else None))
        if not coming:
            return
        own = {one.guid for one in self.proposal.snapshots}
        doomed: set[int] = set()
        if coming[0].base is None or coming[0].base.guid not in own:
            try:
                arrival = self.destination.arrival(sent, coming[0], None)
            except Busy as error:
                if not str(error).endswith("modified\nsince most recent snapshot"):
                    raise
                raise Busy(f"{error}; -F takes it back to the newest one that both have") from None
            if arrival.doomed is not None:
                doomed = {one.id for one in arrival.doomed.rows}
        if row is not None:
            self._check_names(row, coming, doomed)

    def _check_names(self, row: DatasetRow, coming: list[SentSnapshot], doomed: set[int]) -> None:
        own = {one.guid for one in coming}
        rows = self._catalogue.snapshots(row.id)
        taken = {one.name for one in rows if one.id not in doomed and one.guid not in own}
        for one in coming:
            reason = snapshot_name_error(f"{row.name}@{one.name}")
            if reason is not None:
                raise LaminaError(f"cannot receive: invalid name '{printable(one.name)}': {reason}")
            if one.name in taken:
                raise AlreadyExists(f"cannot restore to {row.name}@{one.name}: destination already exists")

    # -- renaming, destroying ---------------------------------------------------------------------------------------

    def _make_room(self, change: Change, number: int, done: Verdict) -> None:
        dataset = self._catalogue.find_dataset(self.destination.dataset_name(self.proposal.datasets[number]))
        if dataset is None:
            return
        wanted = self.proposal.renamed.get(number, {})
        names = {one.name for one in self.proposal.snapshots if one.dataset == number} | set(wanted.values())
        newest = self._newest_common(dataset, number)
        gone = self._gone(dataset, number)
        self._destroy(change, [one for one in gone if one.name in names or one.txg > newest], done)
        rows = {one.guid: one for one in self._catalogue.snapshots(dataset.id)}
        moving = [(rows[guid], name) for guid, name in wanted.items() if guid in rows and rows[guid].name != name]
        others = {one.name for one in rows.values()} - {one.name for one, _ in moving}
        moving = [(one, name) for one, name in moving if name not in others and self._is_name(dataset, name)]
        mounted = self.pool._mounted() if moving else {}
        moving = [(one, name) for one, name in moving if f"{dataset.name}@{one.name}" not in mounted]
        for one, _ in moving:
            self._catalogue.rename_snapshot(change, one.id, f"{_TEMPORARY}-{one.id}")
        for one, name in moving:
            self._catalogue.rename_snapshot(change, one.id, name)
            done.renamed.append(f"{dataset.name}@{one.name} to {dataset.name}@{name}")

    def _newest_common(self, dataset: DatasetRow, number: int) -> int:
        """The transaction of the snapshot here that the first one to come starts from: what is newer is in its way."""
        coming = next((one for one in self.proposal.snapshots if one.dataset == number), None)
        if coming is None or coming.base is None:
            return 1 << 63
        guid = coming.base.guid
        return next((one.txg for one in self._catalogue.snapshots(dataset.id) if one.guid == guid), 1 << 63)

    def _is_name(self, dataset: DatasetRow, name: str) -> bool:
        return snapshot_name_error(f"{dataset.name}@{name}") is None

    def _destroy_gone(self, change: Change, number: int, done: Verdict) -> None:
        dataset = self._catalogue.find_dataset(self.destination.dataset_name(self.proposal.datasets[number]))
        if dataset is not None:
            self._destroy(change, self._gone(dataset, number), done)

    def _gone(self, dataset: DatasetRow, number: int) -> list[SnapshotRow]:
        """Snapshots of a dataset that came from the source, and that it does not have any more."""
        gone = self.proposal.gone.get(number, set())
        rows = self._catalogue.snapshots(dataset.id)
        if all(one.guid in gone for one in rows):
            return []  # they have nothing in common
        sources = {sent.guid for sent in self.proposal.datasets}
        came = dict(self._catalogue.database.query("SELECT snapshot, source FROM received_snapshot"))
        return [one for one in rows if one.guid in gone and came.get(one.id) in sources]

    def _destroy(self, change: Change, rows: list[SnapshotRow], done: Verdict) -> None:
        if not rows:
            return
        family = Family(self._catalogue)
        held = {number for (number,) in self._catalogue.database.query("SELECT DISTINCT snapshot FROM hold")}
        mounted = self.pool._mounted()
        going: list[SnapshotRow] = []
        for row in rows:
            name = family.name(row)
            why = "it is held" if row.id in held else "it has clones" if family.clone_ids(row.id) else ""
            why = why or (f"it is mounted at {mounted[name]}" if name in mounted else "")
            if not why:
                going.append(row)
            elif (line := f"'{name}' is gone at the source and stays: {why}") not in done.kept:
                done.kept.append(line)
        if going:
            doomed = doom(self._catalogue, family, going)
            carry_out(self._catalogue, change, doomed)
            done.destroyed += doomed.names


class _Undone(Exception):
    """Ends a transaction that was only to see what would be."""
