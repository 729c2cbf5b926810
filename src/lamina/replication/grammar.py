"""What a stream says, in the order in which it has to: frames as messages, counted and matched against each other."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from lamina.errors import StreamError
from lamina.replication.messages import Begin, End, Kept, SentDataset, SentSnapshot, SnapshotEnd
from lamina.replication.stream import Frame, Piece, StreamReader

MOST_KEPT = 1_000_000
"""Snapshots that one side says that it has."""
MOST_SAID = 128 << 20
"""What a stream may say of datasets and of the snapshots that they have at the sender, by this measure, in bytes."""
_DATASET = 512
_PAIR = 256
"""What a dataset takes besides its name; a property, or the name and guid of a snapshot, besides its text."""

_NEXT = {
    Frame.BEGIN: (Frame.DATASET,),
    Frame.DATASET: (Frame.DATASET, Frame.KEPT, Frame.SNAPSHOT, Frame.END),
    Frame.KEPT: (Frame.DATASET, Frame.KEPT, Frame.SNAPSHOT, Frame.END),
    Frame.SNAPSHOT: (Frame.OBJECT, Frame.SNAPSHOT_END),
    Frame.OBJECT: (Frame.OBJECT, Frame.SNAPSHOT_END),
    Frame.SNAPSHOT_END: (Frame.SNAPSHOT, Frame.END),
}
"""What may follow what."""


@dataclass(slots=True)
class Contents:
    """The datasets of a stream, and of a package the snapshots that each has at the sender: names by guid."""

    datasets: list[SentDataset] = field(default_factory=list)
    kept: list[dict[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Incoming:
    """An object, as the frame that holds it."""

    piece: Piece


Message = Begin | Contents | SentSnapshot | Incoming | SnapshotEnd | End


class Grammar:
    """Reads one stream. ``snapshot`` is the one that is coming."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._contents = Contents()
        self._names: set[str] = set()
        self._said = 0
        self._begin: Begin | None = None
        self._snapshots = 0
        self._objects = 0
        self._bytes = 0
        self.snapshot: SentSnapshot | None = None

    def messages(self) -> Iterator[Message]:
        """All that the stream says: begin, contents, and for each snapshot itself, its objects and its end; the end.

        Raises ``StreamError`` at the first frame that is not what was sent, or out of place.
        """
        before: Frame | None = None
        for piece in self._reader.pieces():
            allowed = _NEXT[before] if before is not None else (Frame.BEGIN,)
            if piece.kind not in allowed:
                raise StreamError(
                    f"invalid stream: at byte {piece.offset} comes {_shown(piece.kind)}, where "
                    f"{' or '.join(_shown(kind) for kind in allowed)} belongs"
                )
            if piece.kind in (Frame.SNAPSHOT, Frame.END) and self._snapshots == 0:
                self._check_datasets(piece)
                yield self._contents
            before = piece.kind
            if piece.kind is Frame.OBJECT:
                yield self._object(piece)
            elif piece.kind is Frame.BEGIN:
                self._begin = Begin.parse(piece)
                yield self._begin
            elif piece.kind is Frame.DATASET:
                self._dataset(piece)
            elif piece.kind is Frame.KEPT:
                self._keep(piece)
            elif piece.kind is Frame.SNAPSHOT:
                yield self._snapshot(piece)
            elif piece.kind is Frame.SNAPSHOT_END:
                yield self._snapshot_end(piece)
            else:
                yield self._end(piece)

    @property
    def begin(self) -> Begin:
        """The first message."""
        assert self._begin is not None
        return self._begin

    def _dataset(self, piece: Piece) -> None:
        sent = SentDataset.parse(piece)
        first = not self._contents.datasets
        # The one that was named comes first, and has no name of its own.
        if len(self._contents.datasets) == self.begin.datasets or first == bool(sent.name) or sent.name in self._names:
            raise StreamError(f"invalid stream: the dataset at byte {piece.offset} is one too many, or out of place")
        properties = sent.properties or {}
        self._count(piece, _DATASET + sum(_PAIR + len(name) + len(value) for name, value in properties.items()))
        self._names.add(sent.name)
        self._contents.datasets.append(sent)
        self._contents.kept.append({})

    def _keep(self, piece: Piece) -> None:
        kept = Kept.parse(piece)
        if not self.begin.package or kept.dataset != len(self._contents.datasets) - 1:
            raise StreamError(f"invalid stream: the list of snapshots at byte {piece.offset} is out of place")
        self._count(piece, sum(_PAIR + len(name) for name, _ in kept.snapshots))
        self._contents.kept[-1].update({guid: name for name, guid in kept.snapshots})

    def _count(self, piece: Piece, size: int) -> None:
        """All of it is held in memory until the stream ends."""
        self._said += size
        if self._said > MOST_SAID:
            raise StreamError(
                f"cannot receive: at byte {piece.offset} the stream has said more of datasets, properties and "
                "snapshots than is held in memory; send what is below the dataset in several streams"
            )

    def _check_datasets(self, piece: Piece) -> None:
        if len(self._contents.datasets) != self.begin.datasets:
            raise StreamError(
                f"invalid stream: {len(self._contents.datasets)} datasets have come at byte {piece.offset}, not the "
                f"{self.begin.datasets} that were announced"
            )

    def _snapshot(self, piece: Piece) -> SentSnapshot:
        sent = SentSnapshot.parse(piece)
        self._snapshots += 1
        before = self.snapshot.dataset if self.snapshot is not None else 0
        resume = self.begin.resume
        if (
            self._snapshots > self.begin.snapshots
            or not before <= sent.dataset < len(self._contents.datasets)
            or (sent.root is None and sent.objects)
            or (resume is not None and (resume.guid != sent.guid or self.begin.snapshots != 1))
        ):
            raise StreamError(f"invalid stream: the snapshot at byte {piece.offset} is one too many, or out of place")
        self.snapshot = sent
        self._objects = self._bytes = 0
        return sent

    def _object(self, piece: Piece) -> Incoming:
        assert self.snapshot is not None
        self._objects += 1
        if self._objects > self.snapshot.objects:
            raise StreamError(f"invalid stream: the object at byte {piece.offset} is more than were announced")
        return Incoming(piece)

    def _snapshot_end(self, piece: Piece) -> SnapshotEnd:
        assert self.snapshot is not None
        end = SnapshotEnd.parse(piece)
        if end.objects != self._objects or self._objects != self.snapshot.objects:
            raise StreamError(
                f"invalid stream: {self._objects} objects have come at byte {piece.offset}, not the "
                f"{self.snapshot.objects} that were announced"
            )
        return end

    def _end(self, piece: Piece) -> End:
        if self._snapshots != self.begin.snapshots:
            raise StreamError(
                f"invalid stream: {self._snapshots} snapshots have come at byte {piece.offset}, not the "
                f"{self.begin.snapshots} that were announced"
            )
        return End.parse(piece)


def _shown(kind: Frame) -> str:
    return kind.name.replace("_", " ")
