"""Which snapshots a sync sends, each upon which, once it is known what the other side has."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from pyroaring import BitMap64

from lamina.errors import LaminaError, NotFound
from lamina.pool.catalogue import DatasetRow, SnapshotRow
from lamina.pool.lineage.bookmarks import bookmarks_of
from lamina.pool.names import check_name, printable, split_snapshot
from lamina.pool.pool import Pool
from lamina.replication.messages import Begin, Origin, SentDataset
from lamina.replication.planning import Plan, _Base, _counted, _Planner
from lamina.replication.sync.inventory import SHORT_ROOT, Inventory
from lamina.replication.sync.terms import Terms


@dataclass(slots=True)
class Chosen:
    """What is sent, and what names say: ``gone`` are guids that the source does not have any more, ``renamed`` names
    and guids of snapshots that it calls otherwise, both by the number of the dataset in the plan."""

    plan: Plan
    names: list[str]
    """Full names of the datasets."""
    gone: dict[int, list[int]] = field(default_factory=dict)
    renamed: dict[int, list[tuple[str, int]]] = field(default_factory=dict)

    def objects(self) -> BitMap64:
        """The rows of all that would be sent to somebody who has nothing but the snapshots it starts from."""
        return BitMap64.union(BitMap64(), *(part.objects for part in self.plan.parts))


class Chooser(_Planner):
    """Chooses for one sync."""

    def __init__(self, pool: Pool, terms: Terms, there: Inventory, refused: Collection[str] = ()) -> None:
        """``refused``: full names of datasets that are left out."""
        super().__init__(pool, terms.recursive, terms.holds)
        self._terms = terms
        self._there = there
        self._refused = set(refused)
        self._coming = {guid for tags in there.datasets.values() for guid in tags}
        """Guids of snapshots that the other side has, or will have by then."""

    def choose(self) -> Chosen:
        """What to send. Raises ``NotFound``, ``InvalidName``, ``LaminaError``."""
        check_name(self._terms.source)
        name, tag = split_snapshot(self._terms.source)
        top = self._catalogue.dataset(name)
        if tag is not None and self._catalogue.find_snapshot(f"{name}@{tag}") is None:
            raise NotFound(f"cannot open '{printable(self._terms.source)}': dataset does not exist")
        rows = self._catalogue.datasets(name) if self._terms.recursive else [top]
        found = Chosen(Plan(self._begin(name, tag or ""), [], [], []), [])
        placed: set[int] = set()
        holding = self._holding(rows, tag)
        for row in self._in_order(rows, top):
            snapshots = self._catalogue.snapshots(row.id)
            wanted = self._wanted(snapshots, tag)
            if row.name in self._refused:
                wanted = ()
            if row.id != top.id and (row.name in self._refused or (tag is not None and row.name not in holding)):
                continue
            if not self._terms.recursive and not snapshots:
                shown = printable(name)
                raise LaminaError(
                    f"cannot sync '{shown}': it has no snapshots; 'lamina snapshot {shown}@NAME' takes one"
                )
            placed.add(row.id)
            self._one(found, row, top, placed, snapshots, wanted)
        begin = replace(_counted(found.plan.begin, self._parts), datasets=len(found.names))
        found.plan = Plan(begin, found.plan.datasets, [], self._parts)
        return found

    def _holding(self, rows: Sequence[DatasetRow], tag: str | None) -> set[str]:
        """Names of the datasets that have a snapshot of a name, and of those above them."""
        found: set[str] = set()
        for row in rows:
            if tag is not None and self._catalogue.find_snapshot(f"{row.name}@{tag}") is not None:
                words = row.name.split("/")
                found.update("/".join(words[:count]) for count in range(1, len(words) + 1))
        return found

    def _begin(self, name: str, tag: str) -> Begin:
        return Begin(self._pool.name, self._pool.guid, name, tag, False, None, 0, 0, 0, 0)

    def _wanted(self, snapshots: Sequence[SnapshotRow], tag: str | None) -> Sequence[SnapshotRow]:
        """The snapshots that the other side is to have: all, or up to one, or one alone."""
        if tag is None:
            return snapshots
        last = next((at for at, one in enumerate(snapshots) if one.name == tag), None)
        if last is None:
            return ()
        return snapshots[: last + 1] if self._terms.recursive else snapshots[last : last + 1]

    def _one(
        self,
        found: Chosen,
        row: DatasetRow,
        top: DatasetRow,
        placed: set[int],
        snapshots: Sequence[SnapshotRow],
        wanted: Sequence[SnapshotRow],
    ) -> None:
        """Add a dataset."""
        index = len(found.names)
        name = row.name[len(top.name) + 1 :]
        here = self._there.datasets.get(name, {})
        origin = self._origin(row)
        cloned = None
        if origin is not None and origin[0] in placed and origin[1].guid in self._coming:
            cloned = origin[1]
        found.names.append(row.name)
        found.plan.datasets.append(
            SentDataset(
                name=name,
                guid=row.guid,
                origin=Origin(cloned.name, cloned.guid) if cloned is not None else None,
                properties=self._local.get(row.id, {}) if self._properties and row.name not in self._refused else None,
            )
        )
        known = {one.guid: one.name for one in snapshots}
        found.gone[index] = [guid for guid in here if guid not in known] if self._terms.prune else []
        found.renamed[index] = [(known[guid], guid) for guid, tag in here.items() if known.get(guid, tag) != tag]
        base, after = self._start(row, here, snapshots)
        if base is None and not here:
            base = cloned
        left = [one for one in wanted if one.txg > after and one.guid not in here]
        for snapshot in left:
            before = [one for one in snapshots if after < one.txg < snapshot.txg]
            taken = self._taken([*before, snapshot])
            self._part(row, index, snapshot, base, taken, short=True)
            self._coming.add(snapshot.guid)
            base = self._base(f"{row.name}@{snapshot.name}", snapshot)
            after = snapshot.txg

    def _start(
        self, row: DatasetRow, here: dict[int, str], snapshots: Sequence[SnapshotRow]
    ) -> tuple[_Base | None, int]:
        """The newest snapshot, or bookmark of one, that both have, and its transaction."""
        common = [one for one in snapshots if one.guid in here]
        newest = common[-1] if common else None
        for mark in bookmarks_of(self._catalogue, row.id):
            if mark.guid in here and (newest is None or mark.txg > newest.txg):
                newest = SnapshotRow(0, row.id, mark.name, mark.guid, mark.creation, mark.txg, "", None, 0)
                name = f"{row.name}#{mark.name}"
                objects = self._bookmark(mark.id)
                bookmark = _Base(name, mark.guid, objects.copy)
        if newest is None:
            return None, 0
        if newest.id:
            return self._base(f"{row.name}@{newest.name}", newest), newest.txg
        return bookmark, newest.txg

    def _bookmark(self, number: int) -> BitMap64:
        """What the snapshot of a bookmark held, if that is still known."""
        rows = self._database.query("SELECT objects FROM bookmark_objects WHERE bookmark = ?", (number,))
        return BitMap64.deserialize(rows[0][0]) if rows and not self._terms.thorough else BitMap64()

    def _base(self, name: str, row: SnapshotRow) -> _Base:
        """See ``_Planner``; asked about in full, nothing is taken for there."""
        if self._terms.thorough:
            return _Base(name, row.guid, BitMap64)
        return super()._base(name, row)


def known_trees(pool: Pool, there: Inventory, asked: BitMap64) -> tuple[list[bytes], BitMap64]:
    """Beginnings of roots that both have and that save asking about some of ``asked``; what they reach of it."""
    used: list[bytes] = []
    have = BitMap64()
    database = pool.store.database
    for number, key in database.query("SELECT t.root, o.key FROM tree t JOIN object o ON o.id = t.root"):
        if key[:SHORT_ROOT] not in there.roots:
            continue
        rows = database.query("SELECT objects FROM tree WHERE root = ?", (number,))
        shared = (BitMap64.deserialize(rows[0][0]) & asked) - have if rows else BitMap64()
        if shared:
            used.append(key[:SHORT_ROOT])
            have |= shared
            if have == asked:
                break
    return used, have
