"""What a stream becomes at the receiver: under which names, upon which snapshot, and why it cannot.

The rules and words are OpenZFS's (``zfs_receive_one`` in lib/libzfs/libzfs_sendrecv.c, ``dmu_recv_begin_check`` in
module/zfs/dmu_recv.c). Everything is decided when a snapshot begins to come, and once more in the transaction that
names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lamina.errors import AlreadyExists, Busy, InvalidName, LaminaError, NotFound, StreamError
from lamina.pool.catalogue import Catalogue, DatasetRow, SnapshotRow
from lamina.pool.lineage.destroying import Doomed, doom
from lamina.pool.lineage.families import Family
from lamina.pool.lineage.renaming import missing_above
from lamina.pool.names import (
    dataset_name_error,
    parent_of,
    pool_of_name,
    printable,
    snapshot_name_error,
    split_snapshot,
)
from lamina.pool.partials import Partial, find_partial
from lamina.replication.messages import Begin, Resume, SentDataset, SentSnapshot

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


@dataclass(frozen=True, slots=True)
class ReceiveOptions:
    """How a stream is received: the options of ``lamina receive``.

    ``naming``: ``exact``, or below the destination the sender's name without its pool (``path``, ``-d``), or its last
    part (``last``, ``-e``). ``properties`` (stored form) are set instead of what the stream says, ``excluded`` are left
    as they are. ``alone``: nothing may follow the stream. ``parents``: datasets that are missing above are made.
    ``negotiated``: the sender was told what is here (``sync``), what came of streams that were cut included; datasets
    that have nothing in them are as good as new.
    """

    force: bool = False
    dry_run: bool = False
    resumable: bool = False
    skip_holds: bool = False
    naming: str = "exact"
    properties: Mapping[str, str] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()
    alone: bool = True
    parents: bool = False
    negotiated: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a snapshot becomes. ``row``: its dataset, if that is there; ``above``: datasets to be made over it.

    ``base``: the snapshot here that it starts from; ``origin``: the dataset is to be made a clone of ``base``.
    ``there``: it is there already. ``doomed``: what goes first, with ``-F``. ``partial``: what has come of it before.
    """

    dataset: str
    tag: str
    row: DatasetRow | None = None
    above: list[str] = field(default_factory=list)
    base: SnapshotRow | None = None
    origin: bool = False
    there: bool = False
    doomed: Doomed | None = None
    partial: Partial | None = None

    @property
    def name(self) -> str:
        """Its full name."""
        return f"{self.dataset}@{self.tag}"


def what(snapshot: SentSnapshot | None) -> str:
    """How a refusal begins."""
    if snapshot is None:
        return "cannot receive: "
    return f"cannot receive {'new filesystem' if snapshot.base is None else 'incremental'} stream: "


class Destination:
    """The place in a pool where one stream goes."""

    def __init__(self, pool: "Pool", word: str, options: ReceiveOptions, begin: Begin) -> None:
        """``word``: the dataset or snapshot that was named. Raises ``NotFound``, ``InvalidName``, ``StreamError``."""
        self._pool = pool
        self._catalogue: Catalogue = pool._catalogue
        self._options = options
        self._begin = begin
        dataset, self._tag = split_snapshot(word)
        self._make_above = options.naming != "exact" or options.parents
        if self._tag is not None and (begin.package or begin.snapshots > 1):
            raise LaminaError(what(None) + "destination cannot specify snapshot name for multi-snapshot stream")
        if pool_of_name(dataset) != pool.name:
            raise NotFound(f"{what(None)}no such pool '{printable(pool_of_name(dataset))}'")
        if options.naming != "exact":
            if self._tag is not None:
                raise InvalidName(f"{what(None)}-d and -e take a dataset, '{printable(word)}' is a snapshot")
            if self._catalogue.find_dataset(dataset) is None:
                raise NotFound(f"{what(None)}specified fs ({printable(dataset)}) does not exist")
            dataset += _tail(begin.name, options.naming)
        self.top = dataset

    def dataset_name(self, sent: SentDataset) -> str:
        """The name that a dataset of the stream gets here. Raises ``InvalidName`` for one that cannot be."""
        name = f"{self.top}/{sent.name}" if sent.name else self.top
        reason = dataset_name_error(name)
        if reason is not None:
            raise InvalidName(f"{what(None)}invalid name '{printable(name)}': {reason}")
        return name

    def arrival(self, sent: SentDataset, snapshot: SentSnapshot, resume: Resume | None) -> Arrival:
        """What a snapshot becomes as the pool is now. Raises what refuses it."""
        refused = what(snapshot)
        dataset = self.dataset_name(sent)
        tag = self._tag or snapshot.name
        name = f"{dataset}@{tag}"
        reason = snapshot_name_error(name)
        if reason is not None:
            raise InvalidName(f"{refused}invalid name '{printable(name)}': {reason}")
        row = self._catalogue.find_dataset(dataset)
        partial = find_partial(self._catalogue, row.id) if row is not None else None
        if row is not None and resume is None and self._options.negotiated:
            return replace(self._told(row, tag, snapshot, refused), partial=partial)
        if row is not None and (partial is not None or resume is not None):
            return self._resumed(row, tag, snapshot, resume, partial, refused)
        if resume is not None:
            raise NotFound(f"{refused}destination '{dataset}' does not exist")
        if row is None:
            return self._new(dataset, tag, sent, snapshot, refused)
        if snapshot.base is None:
            return self._over(row, tag, snapshot, refused)
        return self._upon(row, tag, snapshot, refused)

    # -- a dataset that is not there ------------------------------------------------------------------------------

    def _new(self, dataset: str, tag: str, sent: SentDataset, snapshot: SentSnapshot, refused: str) -> Arrival:
        above = self.missing(dataset, refused)
        base = None
        if snapshot.base is not None:
            if sent.origin is None or sent.origin.guid != snapshot.base.guid:
                raise NotFound(f"{refused}destination '{dataset}' does not exist")
            base = self._find_origin(snapshot.base.guid)
            if base is None:
                raise NotFound(
                    f"{refused}local origin for clone {dataset}@{tag} does not exist; receive "
                    f"'{printable(sent.origin.name)}' first"
                )
        return Arrival(dataset, tag, above=above, base=base, origin=base is not None)

    def missing(self, dataset: str, refused: str) -> list[str]:
        """What has to be made above a dataset. Raises ``NotFound`` where that was not asked for."""
        above = missing_above(self._catalogue, dataset)
        within = self._options.negotiated and all(f"{one}/".startswith(f"{self.top}/") for one in above)
        if above and not (self._make_above or within):
            parent = parent_of(dataset) or dataset
            raise NotFound(f"cannot open '{parent}': dataset does not exist\n{refused}unable to restore to destination")
        return above

    def _find_origin(self, guid: int) -> SnapshotRow | None:
        """A snapshot of this guid anywhere in the pool: where several are, the one with the nearest name."""
        names = {row.id: row.name for row in self._catalogue.datasets()}
        found = [row for row in self._catalogue.snapshots() if row.guid == guid]

        def distance(row: SnapshotRow) -> tuple[int, str]:
            mine, other = self.top.split("/"), names[row.dataset].split("/")
            common = next((at for at, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), 0)
            common = common or min(len(mine), len(other))
            return -common, names[row.dataset]

        return min(found, key=distance, default=None)

    # -- a dataset that is there ----------------------------------------------------------------------------------

    def _over(self, row: DatasetRow, tag: str, snapshot: SentSnapshot, refused: str) -> Arrival:
        """A full stream into a dataset that is there."""
        snapshots = self._catalogue.snapshots(row.id)
        if self._begin.source is not None and any(one.guid == snapshot.guid for one in snapshots):
            return Arrival(row.name, tag, row, there=True)  # it was new when this package was first received
        if not self._options.force:
            raise AlreadyExists(f"{refused}destination '{row.name}' exists\nmust specify -F to overwrite it")
        if snapshots:
            raise AlreadyExists(
                f"{refused}destination has snapshots (eg. {row.name}@{snapshots[-1].name})\n"
                "must destroy them to overwrite it"
            )
        if row.origin is not None:
            raise AlreadyExists(f"{refused}destination '{row.name}' is a clone\nmust destroy it to overwrite it")
        self._pool._check_idle([row.name])
        return Arrival(row.name, tag, row)

    def _upon(self, row: DatasetRow, tag: str, snapshot: SentSnapshot, refused: str) -> Arrival:
        """An incremental stream."""
        assert snapshot.base is not None
        snapshots = self._catalogue.snapshots(row.id)
        if any(one.guid == snapshot.guid for one in snapshots):
            return Arrival(row.name, tag, row, there=True)
        base = next((one for one in snapshots if one.guid == snapshot.base.guid), None)
        if base is None:
            raise LaminaError(f"{refused}most recent snapshot of {row.name} does not\nmatch incremental source")
        doomed = None
        newer: set[int] = set()
        if self._options.force:
            rows = [one for one in snapshots if one.txg > base.txg]
            newer = {one.id for one in rows}
            doomed = self._doomed(row, rows, refused)
        elif row.head != base.root:
            raise Busy(f"{refused}destination {row.name} has been modified\nsince most recent snapshot")
        if any(one.name == tag and one.id not in newer for one in snapshots):
            raise AlreadyExists(f"cannot restore to {row.name}@{tag}: destination already exists")
        return Arrival(row.name, tag, row, base=base, doomed=doomed)

    def _doomed(self, row: DatasetRow, newer: list[SnapshotRow], refused: str) -> Doomed | None:
        """What a rollback to the base destroys. Raises ``Busy`` for what is held, cloned or mounted."""
        if not newer:
            return None
        family = Family(self._catalogue)
        dependents = family.dependents(newer)
        if dependents:
            names = "\n".join(family.name(one) for one in dependents)
            raise Busy(f"{refused}clones of snapshots that are newer exist; destroy or promote them first:\n{names}")
        try:
            doomed = doom(self._catalogue, family, family.closure(newer, clones=False))
            self._pool._check_idle([row.name, *doomed.names])
        except Busy as error:
            raise Busy(f"{refused}{error}") from None
        return doomed

    def _told(self, row: DatasetRow, tag: str, snapshot: SentSnapshot, refused: str) -> Arrival:
        """A stream of a sender that knows what is here: what has no snapshots yet is as if it were made by it."""
        snapshots = self._catalogue.snapshots(row.id)
        if any(one.guid == snapshot.guid for one in snapshots):
            return Arrival(row.name, tag, row, there=True)  # another stream was quicker
        if not snapshots:
            origin = self._catalogue.snapshot_by_id(row.origin) if row.origin is not None else None
            if snapshot.base is None and origin is None and row.head is None:
                return Arrival(row.name, tag, row)
            if snapshot.base is not None and origin is not None and origin.guid == snapshot.base.guid:
                if row.head != origin.root and not self._options.force:
                    raise Busy(f"{refused}destination {row.name} has been modified\nsince most recent snapshot")
                return Arrival(row.name, tag, row, base=origin)
        if snapshot.base is None:
            return self._over(row, tag, snapshot, refused)
        return self._upon(row, tag, snapshot, refused)

    # -- going on -------------------------------------------------------------------------------------------------

    def _resumed(
        self,
        row: DatasetRow,
        tag: str,
        snapshot: SentSnapshot,
        resume: Resume | None,
        partial: Partial | None,
        refused: str,
    ) -> Arrival:
        """The rest of a stream that was cut."""
        if partial is None:
            raise StreamError(
                f"{refused}the stream goes on with one that was cut, of which '{row.name}' has nothing; send it from "
                "the beginning"
            )
        source = snapshot.base.guid if snapshot.base is not None else None
        told = (snapshot.guid, source, snapshot.root)
        if resume is None or told != (partial.guid, partial.source, partial.root) or resume.after != partial.after:
            raise Busy(
                f'{refused}destination {row.name} contains partially-complete state from "lamina receive -s"; go on '
                f"with 'lamina send -t' and its receive_resume_token, or drop it with 'lamina receive -A {row.name}'"
            )
        if snapshot.base is None:
            if not self._catalogue.snapshots(row.id):
                if row.head is not None and not self._options.force:
                    raise Busy(f"{refused}destination {row.name} has been modified\nsince it was made")
                return Arrival(row.name, tag, row, partial=partial)
            raise AlreadyExists(
                f"{refused}destination has snapshots (eg. {row.name}@{self._catalogue.snapshots(row.id)[-1].name})\n"
                "must destroy them to overwrite it"
            )
        origin = self._catalogue.snapshot_by_id(row.origin) if row.origin is not None else None
        if origin is not None and origin.guid == snapshot.base.guid and not self._catalogue.snapshots(row.id):
            if row.head != origin.root and not self._options.force:
                raise Busy(f"{refused}destination {row.name} has been modified\nsince most recent snapshot")
            return Arrival(row.name, tag, row, base=origin, partial=partial)
        found = self._upon(row, tag, snapshot, refused)
        return replace(found, partial=partial)


def _tail(name: str, naming: str) -> str:
    """What ``-d`` or ``-e`` puts behind the destination, of the dataset's name at the sender."""
    if naming == "last":
        return f"/{name.rpartition('/')[2]}"
    _, slash, rest = name.partition("/")
    return f"/{rest}" if slash else ""
