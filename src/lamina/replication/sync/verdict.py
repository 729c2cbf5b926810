"""What the receiving side says to a proposal: what it refuses, and what becomes of names there."""

from dataclasses import dataclass, field

from lamina.errors import StreamError
from lamina.pool.names import printable
from lamina.replication.sync.inventory import chunks
from lamina.replication.sync.protocol import Channel, Say

_AT_ONCE = 256
_MOST_LINE = 4096


@dataclass(slots=True)
class Verdict:
    """``refused``: why nothing can come, by the number of the dataset. ``destroyed`` and ``renamed`` are lines of names
    of the receiver, ``kept`` says what is gone at the source and stays."""

    refused: dict[int, str] = field(default_factory=dict)
    destroyed: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def tell(self, channel: Channel) -> None:
        """Say it."""
        lines: list[tuple[str, int, str]] = [("refused", number, why) for number, why in self.refused.items()]
        for name in ("destroyed", "renamed", "kept"):
            lines += [(name, 0, line) for line in getattr(self, name)]
        for some in chunks(lines, _AT_ONCE):
            channel.say(Say.VERDICT, {"lines": [[kind, number, line[:_MOST_LINE]] for kind, number, line in some]})
        channel.say(Say.VERDICT, {"lines": []})

    @classmethod
    def hear(cls, channel: Channel) -> "Verdict":
        """Hear it. Raises ``StreamError``, ``ConnectionLost``, ``FarError``."""
        found = cls()
        while True:
            said = channel.hear(Say.VERDICT)
            lines = said.piece.json().get("lines")
            if not isinstance(lines, list):
                raise StreamError(f"what the other side says makes no sense: the verdict at byte {said.offset}")
            if not lines:
                return found
            for line in lines:
                found._add(line)

    def _add(self, line: object) -> None:
        match line:
            case ["refused", int(number), str(text)]:
                self.refused[number] = "\n".join(printable(one) for one in text.split("\n"))
            case ["destroyed" | "renamed" | "kept" as kind, int(), str(text)]:
                getattr(self, kind).append(printable(text))
            case _:
                raise StreamError("what the other side says makes no sense: a line of its verdict")
