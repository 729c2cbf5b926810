"""What a sync is about to do, and what it has done, as the two sides tell each other and their callers."""

from dataclasses import dataclass, field

from lamina.errors import StreamError
from lamina.pool.names import printable
from lamina.replication.planning import Plan
from lamina.replication.sync.inventory import chunks
from lamina.replication.sync.protocol import Channel, Say
from lamina.replication.sync.verdict import Verdict

_PARTS_AT_ONCE = 1024
_MOST_PARTS = 1_000_000
_MOST_LINES = 1000
_PROOF = 64


@dataclass(frozen=True, slots=True)
class Planned:
    """A snapshot that will be sent: full name at the source, what it starts from, bytes of its frames."""

    name: str
    base: str | None
    size: int


@dataclass(slots=True)
class Outlook:
    """What will be sent: bytes of the stream, objects and their stored bytes; and what becomes of names."""

    size: int
    objects: int
    stored: int
    snapshots: int
    parts: list[Planned] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)

    @classmethod
    def of(cls, plan: Plan, verdict: Verdict) -> "Outlook":
        """That of a plan."""
        parts = [Planned(part.name, part.base, part.size) for part in plan.parts]
        return cls(plan.size, plan.begin.objects, plan.begin.size, len(parts), parts, verdict)

    def tell_parts(self, channel: Channel) -> None:
        """Say which snapshots they are."""
        for some in chunks(self.parts, _PARTS_AT_ONCE):
            channel.say(Say.PART, {"parts": [[one.name, one.base, one.size] for one in some]})

    def tell(self, channel: Channel, proof: str) -> None:
        """Say how much it is; a stream follows, unless it is a dry run."""
        figures = {"bytes": self.size, "objects": self.objects, "stored": self.stored, "snapshots": self.snapshots}
        channel.say(Say.GO, {**figures, "proof": proof})

    @classmethod
    def hear(cls, channel: Channel, verdict: Verdict) -> "tuple[Outlook, str]":
        """Hear it, with the proof. Raises ``StreamError``, ``ConnectionLost``, ``FarError``."""
        parts: list[Planned] = []
        while (said := channel.hear(Say.PART, Say.GO)).kind is Say.PART:
            for one in said.piece.json().get("parts") or [None]:
                match one:
                    case [str(name), None | str() as base, int(size)] if len(parts) < _MOST_PARTS:
                        parts.append(Planned(printable(name), base and printable(base), size))
                    case _:
                        raise StreamError(f"what the other side says makes no sense: the parts at byte {said.offset}")
        fields = said.fields()
        size, objects = fields.number("bytes"), fields.number("objects")
        found = cls(size, objects, fields.number("stored"), fields.number("snapshots"), parts, verdict)
        return found, fields.text("proof", _PROOF)


@dataclass(slots=True)
class Done:
    """What the receiving side did: snapshots that came, stored bytes of their objects, and lines.

    ``warnings``: what was not taken over; ``destroyed``, ``renamed`` and ``kept`` as in a verdict, as it came out.
    """

    snapshots: int = 0
    stored: int = 0
    warnings: list[str] = field(default_factory=list)
    destroyed: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def tell(self, channel: Channel) -> None:
        """Say it, the first lines of each kind."""
        lines = {name: getattr(self, name)[:_MOST_LINES] for name in _LINES}
        channel.say(Say.RESULT, {"snapshots": self.snapshots, "stored": self.stored, **lines})

    @classmethod
    def hear(cls, channel: Channel) -> "Done":
        """Hear it. Raises ``StreamError``, ``ConnectionLost``, ``FarError``."""
        fields = channel.hear(Say.RESULT).fields()
        lines = [[printable(line) for line in fields.words(name)] for name in _LINES]
        return cls(fields.number("snapshots"), fields.number("stored"), *lines)


_LINES = ("warnings", "destroyed", "renamed", "kept")
