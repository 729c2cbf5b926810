"""What the frames of a stream say that are not objects, and the reading of them, which believes nothing.

Members that are not known are passed by; a stream that needs one understood names a feature in its first frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamina.errors import StreamError
from lamina.pool.names import printable
from lamina.replication.stream import NEWER, Piece, packed

FEATURES: frozenset[str] = frozenset()
"""Features of streams that this version knows."""

MOST_DATASETS = 100_000
MOST_SNAPSHOTS = 1_000_000
KEPT_AT_ONCE = 4096
"""Snapshots that one frame of kind KEPT names."""

_MOST_NAME = 255
_MOST_NUMBER = (1 << 63) - 1
_MOST_TIME = 253_402_300_799
"""The end of the year 9999, in seconds since 1970: what can be written as a date."""
_MOST_BYTES = 1 << 20
"""Of the properties of one dataset or snapshot, as in name records."""
_KEY_DIGITS = 64


class _Fields:
    """The members of a frame, each read with the type and bounds that it must have."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._value = piece.json()

    def refuse(self, name: str) -> StreamError:
        """The error for a member that makes no sense."""
        return StreamError(f"invalid stream: '{name}' in the frame at byte {self._piece.offset} makes no sense")

    def text(self, name: str, most: int = _MOST_NAME) -> str:
        """A string of at most ``most`` bytes."""
        value = self._value.get(name)
        if not isinstance(value, str) or _length(value) > most:
            raise self.refuse(name)
        return value

    def number(self, name: str, least: int = 0, most: int = _MOST_NUMBER) -> int:
        """A whole number."""
        value = self._value.get(name)
        if type(value) is not int or not least <= value <= most:
            raise self.refuse(name)
        return value

    def guid(self, name: str) -> int | None:
        """A guid, or null."""
        return None if self._value.get(name) is None else self.number(name, 1)

    def key(self, name: str) -> bytes | None:
        """The key of an object in hexadecimal, or null."""
        value = self._value.get(name)
        if value is None:
            return None
        try:
            if isinstance(value, str) and len(value) == _KEY_DIGITS:
                return bytes.fromhex(value)
        except ValueError:
            pass
        raise self.refuse(name)

    def words(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._value.get(name)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.refuse(name)
        return tuple(value)

    def properties(self, name: str) -> dict[str, str]:
        """Strings by name."""
        value = self._value.get(name)
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise self.refuse(name)
        if sum(_length(one) + _length(text) for one, text in value.items()) > _MOST_BYTES:
            raise self.refuse(name)
        return value

    def holds(self, name: str) -> dict[str, int]:
        """Times by tag."""
        value = self._value.get(name)
        if not isinstance(value, dict) or not all(
            type(one) is int and 0 <= one <= _MOST_TIME for one in value.values()
        ):
            raise self.refuse(name)
        if not all(0 < _length(tag) <= _MOST_NAME for tag in value):
            raise self.refuse(name)
        return value

    def member(self, name: str) -> "_Fields | None":
        """An object within, or null."""
        value = self._value.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.refuse(name)
        inner = object.__new__(_Fields)
        inner._piece, inner._value = self._piece, value
        return inner

    def has(self, name: str) -> bool:
        """Whether it is there and not null."""
        return self._value.get(name) is not None

    def pairs(self, name: str) -> list[tuple[str, int]]:
        """Names with guids."""
        value = self._value.get(name)
        if not isinstance(value, list) or len(value) > KEPT_AT_ONCE:
            raise self.refuse(name)
        found = []
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2:
                raise self.refuse(name)
            text, guid = pair
            if not isinstance(text, str) or _length(text) > _MOST_NAME:
                raise self.refuse(name)
            if type(guid) is not int or not 0 < guid <= _MOST_NUMBER:
                raise self.refuse(name)
            found.append((text, guid))
        return found


def _length(text: str) -> int:
    """Bytes; more than anything may have where it cannot be written as UTF-8."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return _MOST_BYTES + 1


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a stream goes on with one that was cut: behind the object ``after`` of the snapshot ``guid``."""

    guid: int
    after: bytes


@dataclass(frozen=True, slots=True)
class Begin:
    """The first frame. ``name``: of the dataset that was named, ``snapshot`` of its last snapshot.

    ``package``: a dataset with all below it; ``source`` is then the name of the snapshot that it starts from.
    ``size``: stored bytes of the objects to come, as far as they are known beforehand.
    """

    pool: str
    pool_guid: int
    name: str
    snapshot: str
    package: bool
    source: str | None
    datasets: int
    snapshots: int
    objects: int
    size: int
    resume: Resume | None = None
    features: tuple[str, ...] = ()

    def payload(self) -> bytes:
        """As it stands in the stream."""
        resume = None
        if self.resume is not None:
            resume = {"guid": self.resume.guid, "after": self.resume.after.hex()}
        return packed(
            {
                "pool": self.pool,
                "pool_guid": self.pool_guid,
                "name": self.name,
                "snapshot": self.snapshot,
                "package": self.package,
                "from": self.source,
                "datasets": self.datasets,
                "snapshots": self.snapshots,
                "objects": self.objects,
                "bytes": self.size,
                "resume": resume,
                "features": list(self.features),
            }
        )

    @classmethod
    def parse(cls, piece: Piece) -> "Begin":
        """Raises ``StreamError``."""
        fields = _Fields(piece)
        features = fields.words("features")
        unknown = sorted(set(features) - FEATURES)
        if unknown:
            shown = printable(", ".join(unknown))[:200]
            raise StreamError(f"the stream uses features that this lamina does not know: {shown}; {NEWER}")
        inner = fields.member("resume")
        resume = None
        if inner is not None:
            after = inner.key("after")
            if after is None:
                raise inner.refuse("after")
            resume = Resume(inner.number("guid", 1), after)
        package = piece.json().get("package")
        if type(package) is not bool:
            raise fields.refuse("package")
        return cls(
            pool=fields.text("pool"),
            pool_guid=fields.number("pool_guid"),
            name=fields.text("name"),
            snapshot=fields.text("snapshot"),
            package=package,
            source=fields.text("from") if fields.has("from") else None,
            datasets=fields.number("datasets", 1, MOST_DATASETS),
            snapshots=fields.number("snapshots", 0, MOST_SNAPSHOTS),
            objects=fields.number("objects"),
            size=fields.number("bytes"),
            resume=resume,
            features=features,
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """The snapshot that a clone was made of, by its full name at the sender and its guid."""

    name: str
    guid: int


@dataclass(frozen=True, slots=True)
class SentDataset:
    """A dataset of the stream. ``name`` is relative to the one that was named: empty, or ``a/b``.

    ``properties``: those set on it, None where the stream carries none.
    """

    name: str
    guid: int
    origin: Origin | None = None
    properties: Mapping[str, str] | None = None

    def payload(self) -> bytes:
        """As it stands in the stream."""
        origin = None if self.origin is None else {"name": self.origin.name, "guid": self.origin.guid}
        properties = None if self.properties is None else dict(self.properties)
        return packed({"name": self.name, "guid": self.guid, "origin": origin, "properties": properties})

    @classmethod
    def parse(cls, piece: Piece) -> "SentDataset":
        """Raises ``StreamError``."""
        fields = _Fields(piece)
        inner = fields.member("origin")
        return cls(
            name=fields.text("name"),
            guid=fields.number("guid", 1),
            origin=None if inner is None else Origin(inner.text("name"), inner.number("guid", 1)),
            properties=fields.properties("properties") if fields.has("properties") else None,
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """Snapshots that a dataset of a package has at the sender, sent or not; ``dataset`` counts from 0."""

    dataset: int
    snapshots: list[tuple[str, int]]

    def payload(self) -> bytes:
        """As it stands in the stream."""
        return packed({"dataset": self.dataset, "snapshots": [list(pair) for pair in self.snapshots]})

    @classmethod
    def parse(cls, piece: Piece) -> "Kept":
        """Raises ``StreamError``."""
        fields = _Fields(piece)
        return cls(fields.number("dataset", 0, MOST_DATASETS), fields.pairs("snapshots"))


@dataclass(frozen=True, slots=True)
class Link:
    """The snapshot that a stream starts from: ``name`` as the sender calls it."""

    name: str
    guid: int


@dataclass(frozen=True, slots=True)
class SentSnapshot:
    """A snapshot of the stream. ``base``: the one that it starts from, None for a full stream.

    ``objects``: how many come; ``size``: their stored bytes, as far as that is known beforehand. ``taken``: logical
    bytes that it counts as taken in.
    """

    dataset: int
    name: str
    guid: int
    creation: int
    kind: str
    taken: int
    root: bytes | None
    base: Link | None
    objects: int
    size: int
    properties: Mapping[str, str] = field(default_factory=dict)
    holds: Mapping[str, int] = field(default_factory=dict)

    def payload(self) -> bytes:
        """As it stands in the stream."""
        base = None if self.base is None else {"name": self.base.name, "guid": self.base.guid}
        value: dict[str, Any] = {
            "dataset": self.dataset,
            "name": self.name,
            "guid": self.guid,
            "creation": self.creation,
            "kind": self.kind,
            "taken": self.taken,
            "root": None if self.root is None else self.root.hex(),
            "from": base,
            "objects": self.objects,
            "bytes": self.size,
            "properties": dict(self.properties),
            "holds": dict(self.holds),
        }
        return packed(value)

    @classmethod
    def parse(cls, piece: Piece) -> "SentSnapshot":
        """Raises ``StreamError``."""
        fields = _Fields(piece)
        inner = fields.member("from")
        kind = fields.text("kind")
        if kind not in ("snapshot", "image"):
            raise fields.refuse("kind")
        return cls(
            dataset=fields.number("dataset", 0, MOST_DATASETS),
            name=fields.text("name"),
            guid=fields.number("guid", 1),
            creation=fields.number("creation", 0, _MOST_TIME),
            kind=kind,
            taken=fields.number("taken"),
            root=fields.key("root"),
            base=None if inner is None else Link(inner.text("name", 2 * _MOST_NAME), inner.number("guid", 1)),
            objects=fields.number("objects"),
            size=fields.number("bytes"),
            properties=fields.properties("properties"),
            holds=fields.holds("holds"),
        )


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    """What came of a snapshot: objects, their stored bytes, and the BLAKE3-256 of every byte of the stream before."""

    objects: int
    size: int
    digest: str

    def payload(self) -> bytes:
        """As it stands in the stream."""
        return packed({"objects": self.objects, "bytes": self.size, "digest": self.digest})

    @classmethod
    def parse(cls, piece: Piece) -> "SnapshotEnd":
        """Raises ``StreamError``, also where the digest is another."""
        fields = _Fields(piece)
        return cls(fields.number("objects"), fields.number("bytes"), _digest(piece, fields))


@dataclass(frozen=True, slots=True)
class End:
    """The last frame: how many came before, and the BLAKE3-256 of every byte of the stream before."""

    frames: int
    digest: str

    def payload(self) -> bytes:
        """As it stands in the stream."""
        return packed({"frames": self.frames, "digest": self.digest})

    @classmethod
    def parse(cls, piece: Piece) -> "End":
        """Raises ``StreamError``, also where digest or count are others."""
        fields = _Fields(piece)
        if fields.number("frames") != piece.number:
            raise StreamError(f"invalid stream: the count of frames at byte {piece.offset} is not that of what came")
        return cls(piece.number, _digest(piece, fields))


def _digest(piece: Piece, fields: _Fields) -> str:
    digest = fields.text("digest")
    if digest != piece.digest:
        raise StreamError(f"checksum mismatch: the digest at byte {piece.offset} is not that of what came before it")
    return digest
