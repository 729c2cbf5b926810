"""What a stream holds: which snapshots, each from which base, and which objects; decided before the first byte."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pyroaring import BitMap64

from lamina.errors import DamagedData, InvalidName, LaminaError, NotFound
from lamina.pool.catalogue import Catalogue, DatasetRow, SnapshotRow
from lamina.pool.figures.sums import Sizes
from lamina.pool.lineage.bookmarks import BookmarkRow, open_bookmark
from lamina.pool.names import check_snapshot_name, parent_of, printable, split_snapshot
from lamina.replication.messages import (
    KEPT_AT_ONCE,
    Begin,
    End,
    Kept,
    Link,
    Origin,
    Resume,
    SentDataset,
    SentSnapshot,
    SnapshotEnd,
)
from lamina.replication.stream import HEADER, OVERHEAD
from lamina.replication.tokens import Token
from lamina.store.record import RECORD_HEADER

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_SETS_KEPT = 16
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for.

    ``base``: the snapshot or bookmark to start from; ``between``: also all snapshots after it (``-I``); ``recursive``:
    with all below, up to their snapshots of the same name (``-R``), passing by those that lack it if ``skip_missing``.
    """

    snapshot: str
    base: str | None = None
    between: bool = False
    recursive: bool = False
    properties: bool = False
    holds: bool = False
    skip_missing: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One snapshot of a stream: ``objects`` are those that the receiver does not have once it has what came before.

    ``name`` is its full name; ``base``: the name of what it starts from as ``send -v`` prints it.
    """

    name: str
    base: str | None
    message: SentSnapshot
    objects: BitMap64
    row: int | None
    """The root's."""

    @property
    def size(self) -> int:
        """Bytes that its frames take."""
        end = SnapshotEnd(self.message.objects, self.message.size, _NO_DIGEST)
        objects = self.message.size + self.message.objects * (OVERHEAD + RECORD_HEADER)
        return 2 * OVERHEAD + len(self.message.payload()) + len(end.payload()) + objects


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole stream. ``skipped``: datasets that are left out for want of the snapshot."""

    begin: Begin
    datasets: list[SentDataset]
    kept: list[Kept]
    parts: list[Part]
    skipped: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes that the stream takes, to the byte."""
        own = [self.begin.payload(), *(one.payload() for one in self.datasets), *(one.payload() for one in self.kept)]
        frames = len(own) + sum(2 + part.message.objects for part in self.parts)
        own.append(End(frames, _NO_DIGEST).payload())
        return HEADER.size + sum(OVERHEAD + len(payload) for payload in own) + sum(part.size for part in self.parts)

    def without(self, pool: "Pool", have: BitMap64) -> "Plan":
        """The same stream for a receiver that has the objects of these rows already."""
        sizes = Sizes(pool.store.database)
        parts = []
        for part in self.parts:
            left = part.objects - have
            message = replace(part.message, objects=len(left), size=sizes.sums(left)[0])
            parts.append(replace(part, objects=left, message=message))
        return replace(self, parts=parts, begin=_counted(self.begin, parts))


def _counted(begin: Begin, parts: Sequence[Part]) -> Begin:
    return replace(
        begin,
        snapshots=len(parts),
        objects=sum(part.message.objects for part in parts),
        size=sum(part.message.size for part in parts),
    )


def plan_send(pool: "Pool", request: Request) -> Plan:
    """The stream that was asked for, each snapshot after what it needs. Raises ``NotFound``, ``LaminaError``."""
    return _Planner(pool, request.properties or request.recursive, request.holds).asked(request)


def plan_resume(pool: "Pool", token: Token) -> Plan:
    """The rest of the snapshot that a token speaks of. Raises ``LaminaError``."""
    return _Planner(pool, token.properties, token.holds).resumed(token)


@dataclass(frozen=True, slots=True)
class _Base:
    """What a snapshot is sent from."""

    name: str
    guid: int
    objects: Callable[[], BitMap64]


class _Planner:
    def __init__(self, pool: "Pool", properties: bool, holds: bool) -> None:
        self._pool = pool
        self._catalogue: Catalogue = pool._catalogue
        self._database = pool.store.database
        self._sizes = Sizes(self._database)
        self._properties = properties
        self._holds = holds
        self._trees: OrderedDict[int, BitMap64] = OrderedDict()
        self._sent = BitMap64()
        self._local = self._catalogue.local_properties() if properties else {}
        self._parts: list[Part] = []

    # -- what was asked for ---------------------------------------------------------------------------------------

    def asked(self, request: Request) -> Plan:
        dataset, target = self._target(request.snapshot)
        base = self._find_base(request, dataset, target) if request.base is not None else None
        skipped: list[str] = []
        rows = [dataset]
        if request.recursive:
            rows = self._with_snapshot(dataset, target, request.skip_missing, skipped)
        placed: set[int] = set()
        datasets: list[SentDataset] = []
        kept: list[Kept] = []
        for row in self._in_order(rows, dataset):
            placed.add(row.id)
            origin = self._origin(row)
            cloned = origin is not None and origin[0] in placed
            first = row.id == dataset.id
            datasets.append(
                SentDataset(
                    name=row.name[len(dataset.name) + 1 :],
                    guid=row.guid,
                    origin=Origin(origin[1].name, origin[1].guid)
                    if origin is not None and (cloned or (first and base is not None and base.guid == origin[1].guid))
                    else None,
                    properties=self._local.get(row.id, {}) if self._properties else None,
                )
            )
            snapshots = self._catalogue.snapshots(row.id)
            if request.recursive:
                pairs = [(one.name, one.guid) for one in snapshots]
                for start in range(0, len(pairs), KEPT_AT_ONCE):
                    kept.append(Kept(len(datasets) - 1, pairs[start : start + KEPT_AT_ONCE]))
            start_from = base if first else self._same_base(row, snapshots, base, request)
            if start_from is None and cloned and origin is not None:
                start_from = origin[1]
            self._dataset(row, len(datasets) - 1, target.name, start_from, request, snapshots)
        begin = Begin(
            pool=self._pool.name,
            pool_guid=self._pool.guid,
            name=dataset.name,
            snapshot=target.name,
            package=request.recursive,
            source=base.name.replace("#", "@").partition("@")[2] if request.recursive and base is not None else None,
            datasets=len(datasets),
            snapshots=0,
            objects=0,
            size=0,
        )
        return Plan(_counted(begin, self._parts), datasets, kept, self._parts, skipped)

    def _target(self, name: str) -> tuple[DatasetRow, SnapshotRow]:
        check_snapshot_name(name, "open")
        target = self._catalogue.find_snapshot(name)
        if target is None:
            raise NotFound(f"cannot open '{name}': dataset does not exist")
        return self._catalogue.dataset_by_id(target.dataset), target

    def _find_base(self, request: Request, dataset: DatasetRow, target: SnapshotRow) -> _Base:
        """The base that was named: ``@name``, ``#name``, or a full name; a name alone is a snapshot's."""
        word = request.base or ""
        if word.startswith(("@", "#")):
            word = dataset.name + word
        elif "@" not in word and "#" not in word:
            word = f"{dataset.name}@{word}"
        refused = LaminaError(f"warning: cannot send '{request.snapshot}': not an earlier snapshot from the same fs")
        if "#" in word:
            if request.between:
                raise InvalidName(
                    f"cannot send '{request.snapshot}': -I takes a snapshot, '{printable(word)}' is a bookmark; use -i"
                )
            bookmark = open_bookmark(self._catalogue, word)
            if bookmark.dataset != dataset.id or bookmark.txg >= target.txg:
                raise refused
            return _Base(word, bookmark.guid, self._bookmarked(request, bookmark, word))
        check_snapshot_name(word, "open")
        row = self._catalogue.find_snapshot(word)
        if row is None:
            raise NotFound(f"cannot open '{word}': dataset does not exist")
        if row.id != dataset.origin and not (row.dataset == dataset.id and row.txg < target.txg):
            raise refused
        return self._base(word, row)

    def _bookmarked(self, request: Request, bookmark: BookmarkRow, name: str) -> Callable[[], BitMap64]:
        """What the receiver has that has the snapshot of a bookmark."""
        for row in self._catalogue.snapshots(bookmark.dataset):
            if row.guid == bookmark.guid:
                return lambda: self._tree(row.root)
        rows = self._database.query("SELECT objects FROM bookmark_objects WHERE bookmark = ?", (bookmark.id,))
        if not rows:
            raise LaminaError(
                f"cannot send '{request.snapshot}': it is not known any more what the snapshot of '{name}' held; send "
                "from a snapshot that is still there"
            )
        found = BitMap64.deserialize(rows[0][0])
        return lambda: found

    def _base(self, name: str, row: SnapshotRow) -> _Base:
        return _Base(name, row.guid, lambda: self._tree(row.root))

    def _origin(self, row: DatasetRow) -> tuple[int, _Base] | None:
        """The dataset and the snapshot that a clone was made of."""
        if row.origin is None:
            return None
        origin = self._catalogue.snapshot_by_id(row.origin)
        name = f"{self._catalogue.dataset_by_id(origin.dataset).name}@{origin.name}"
        return origin.dataset, self._base(name, origin)

    # -- which datasets -------------------------------------------------------------------------------------------

    def _with_snapshot(
        self, top: DatasetRow, target: SnapshotRow, skip_missing: bool, skipped: list[str]
    ) -> list[DatasetRow]:
        """The dataset and those below that have a snapshot of the name; younger ones than it are passed by."""
        found: dict[str, DatasetRow] = {}
        for row in self._catalogue.datasets(top.name):
            above = parent_of(row.name)
            if row.id != top.id and above not in found:
                continue
            if self._catalogue.find_snapshot(f"{row.name}@{target.name}") is not None:
                found[row.name] = row
            elif row.txg > target.txg:
                pass  # made after the snapshots were taken
            elif skip_missing:
                skipped.append(row.name)
            else:
                raise NotFound(
                    f"cannot send {top.name}@{target.name} recursively: snapshot {row.name}@{target.name} does not "
                    "exist; -s leaves out what lacks it"
                )
        return list(found.values())

    def _in_order(self, rows: Sequence[DatasetRow], top: DatasetRow) -> list[DatasetRow]:
        """Datasets after those above them, and clones after what they were made from.

        A clone above its own origin goes first all the same: it is then sent whole.
        """
        owners = {row.id: origin[0] for row in rows if (origin := self._origin(row)) is not None}
        inside = {row.name: row.id for row in rows}
        waiting = {row.id: row for row in rows}
        done: list[DatasetRow] = []
        while waiting:
            above = {row.id: inside.get(parent_of(row.name) or "") for row in waiting.values()}
            free = [row for row in waiting.values() if row.id == top.id or above[row.id] not in waiting]
            ready = [row for row in free if owners.get(row.id) not in waiting or owners.get(row.id) == row.id]
            for row in ready or free[:1]:
                done.append(row)
                del waiting[row.id]
        return done

    def _same_base(
        self, row: DatasetRow, snapshots: Sequence[SnapshotRow], base: _Base | None, request: Request
    ) -> _Base | None:
        """Below the dataset that was named, the base is the snapshot of the same name."""
        if base is None or not request.recursive:
            return None
        tag = base.name.replace("#", "@").partition("@")[2]
        found = next((one for one in snapshots if one.name == tag), None)
        return None if found is None else self._base(f"{row.name}@{tag}", found)

    # -- which snapshots ------------------------------------------------------------------------------------------

    def _dataset(
        self,
        row: DatasetRow,
        index: int,
        tag: str,
        base: _Base | None,
        request: Request,
        snapshots: Sequence[SnapshotRow],
    ) -> None:
        last = next(at for at, one in enumerate(snapshots) if one.name == tag)
        first = 0
        if base is not None:
            after = [at for at, one in enumerate(snapshots) if one.guid == base.guid]
            first = after[0] + 1 if after else self._after_bookmark(base, snapshots, row)
        everything = request.between or (request.recursive and request.base is None)
        chosen = range(first, last + 1) if everything else range(last, last + 1) if first <= last else ()
        shown_short = everything or request.recursive
        before = first
        for at in chosen:
            snapshot = snapshots[at]
            taken = self._taken(snapshots[before : at + 1])
            self._part(row, index, snapshot, base, taken, short=shown_short)
            base = self._base(f"{row.name}@{snapshot.name}", snapshot)
            before = at + 1

    def _after_bookmark(self, base: _Base, snapshots: Sequence[SnapshotRow], row: DatasetRow) -> int:
        """Where the snapshots begin that are younger than a bookmark; an origin is older than all."""
        if "#" not in base.name:
            return 0
        txg = open_bookmark(self._catalogue, base.name).txg
        return sum(one.txg <= txg for one in snapshots)

    def _taken(self, rows: Sequence[SnapshotRow]) -> int:
        """Logical bytes that the last of these counts as taken in where those before are not sent.

        As if they had been destroyed (``pool/lineage/snapshots.py``): at most what it holds, and never more for an
        image.
        """
        carried = 0
        for row in rows:
            taken = row.taken
            if row.kind != "image" and carried and row.root is not None:
                ((held,),) = self._database.query("SELECT data_bytes FROM tree WHERE root = ?", (row.root,))
                taken = max(taken, min(taken + carried, int(held)))
            carried = taken
        return carried

    def _part(
        self, row: DatasetRow, index: int, snapshot: SnapshotRow, base: _Base | None, taken: int, *, short: bool
    ) -> None:
        objects = self._tree(snapshot.root) - self._sent
        if base is not None:
            objects -= base.objects()
        self._sent |= objects
        shown = None
        if base is not None:
            shown = base.name.partition("@")[2] if short and "@" in base.name else base.name
        self._parts.append(
            Part(
                name=f"{row.name}@{snapshot.name}",
                base=shown,
                message=self._message(index, snapshot, base, taken, objects),
                objects=objects,
                row=snapshot.root,
            )
        )

    def _message(
        self, index: int, snapshot: SnapshotRow, base: _Base | None, taken: int, objects: BitMap64
    ) -> SentSnapshot:
        database = self._database
        root: bytes | None = None
        if snapshot.root is not None:
            root = database.query("SELECT key FROM object WHERE id = ?", (snapshot.root,))[0][0]
        properties: dict[str, str] = {}
        if self._properties:
            properties = dict(
                database.query("SELECT name, value FROM snapshot_property WHERE snapshot = ?", (snapshot.id,))
            )
        holds: dict[str, int] = {}
        if self._holds:
            holds = dict(database.query("SELECT tag, creation FROM hold WHERE snapshot = ?", (snapshot.id,)))
        return SentSnapshot(
            dataset=index,
            name=snapshot.name,
            guid=snapshot.guid,
            creation=snapshot.creation,
            kind=snapshot.kind,
            taken=taken,
            root=root,
            base=None if base is None else Link(base.name, base.guid),
            objects=len(objects),
            size=self._sizes.sums(objects)[0],
            properties=properties,
            holds=holds,
        )

    def _tree(self, root: int | None) -> BitMap64:
        """The rows of all objects that a root reaches."""
        if root is None:
            return BitMap64()
        found = self._trees.get(root)
        if found is None:
            rows = self._database.query("SELECT objects FROM tree WHERE root = ?", (root,))
            if not rows:
                raise DamagedData("the catalogue is damaged: a root has no totals; 'lamina pool check' says more")
            found = self._trees[root] = BitMap64.deserialize(rows[0][0])
            if len(self._trees) > _SETS_KEPT:
                self._trees.popitem(last=False)
        self._trees.move_to_end(root)
        return found

    # -- going on -------------------------------------------------------------------------------------------------

    def resumed(self, token: Token) -> Plan:
        dataset, target = self._find_again(token)
        base: _Base | None = None
        if token.source is not None:
            base = self._find_source(token, dataset)
        snapshots = self._catalogue.snapshots(dataset.id)
        last = next(at for at, one in enumerate(snapshots) if one.id == target.id)
        first = next((at + 1 for at, one in enumerate(snapshots) if base is not None and one.guid == base.guid), 0)
        origin = self._origin(dataset)
        sent = SentDataset(
            name="",
            guid=dataset.guid,
            origin=Origin(origin[1].name, origin[1].guid)
            if origin is not None and base is not None and origin[1].guid == base.guid
            else None,
            properties=self._local.get(dataset.id, {}) if self._properties else None,
        )
        rows = self._database.query("SELECT id FROM object WHERE key = ?", (bytes.fromhex(token.after),))
        if not rows:
            raise LaminaError(
                "cannot resume send: the pool does not have the last object that was received; drop what was received "
                "with 'lamina receive -A', and send from the beginning"
            )
        self._sent.add_range(0, rows[0][0] + 1)
        self._part(dataset, 0, target, base, self._taken(snapshots[first : last + 1]), short=False)
        begin = Begin(
            pool=self._pool.name,
            pool_guid=self._pool.guid,
            name=dataset.name,
            snapshot=target.name,
            package=False,
            source=None,
            datasets=1,
            snapshots=1,
            objects=0,
            size=0,
            resume=Resume(target.guid, bytes.fromhex(token.after)),
        )
        return Plan(_counted(begin, self._parts), [sent], [], self._parts)

    def _find_again(self, token: Token) -> tuple[DatasetRow, SnapshotRow]:
        """The snapshot of a token, also where it was renamed."""
        dataset, _ = split_snapshot(token.name)
        found = [row for row in self._catalogue.snapshots() if row.guid == token.guid]
        if not found:
            raise LaminaError(
                f"cannot resume send: '{printable(token.name)}' used in the initial send no longer exists"
            )
        for row in found:
            owner = self._catalogue.dataset_by_id(row.dataset)
            if owner.name == dataset:
                return owner, row
        return self._catalogue.dataset_by_id(found[0].dataset), found[0]

    def _find_source(self, token: Token, dataset: DatasetRow) -> _Base:
        own = [row for row in self._catalogue.snapshots(dataset.id) if row.guid == token.source]
        if own:
            return self._base(f"{dataset.name}@{own[0].name}", own[0])
        origin = self._origin(dataset)
        if origin is not None and origin[1].guid == token.source:
            return origin[1]
        from lamina.pool.lineage.bookmarks import bookmarks_of

        for row in bookmarks_of(self._catalogue, dataset.id):
            if row.guid == token.source:
                name = f"{dataset.name}#{row.name}"
                return _Base(name, row.guid, self._bookmarked(Request(token.name), row, name))
        raise LaminaError(f"cannot resume send: incremental source {token.source:#x} no longer exists")
