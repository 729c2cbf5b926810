"""What is to be synced, and how: the words of the command, as they go to the other side."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamina.replication.sync.protocol import Said

_MOST_RATE = 1 << 50


@dataclass(frozen=True, slots=True)
class Terms:
    """``source``: a dataset or snapshot, ``destination``: a dataset, each where it is.

    ``properties`` (as typed) are set, ``excluded`` ones left as they are; ``rate`` bounds the stream, in bytes a
    second, 0: it does not. ``thorough``: every object is asked about by its whole key. ``command`` is what the history
    of the destination says.
    """

    source: str
    destination: str
    recursive: bool = False
    prune: bool = False
    force: bool = False
    parents: bool = False
    holds: bool = False
    dry_run: bool = False
    verbose: bool = False
    thorough: bool = False
    rate: int = 0
    properties: Mapping[str, str] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    command: str | None = None

    def message(self, role: str) -> dict[str, Any]:
        """As the other side is told, which is to ``send`` or to ``receive``."""
        return {
            "role": role,
            "source": self.source,
            "destination": self.destination,
            "flags": [name for name in _FLAGS if getattr(self, name)],
            "rate": self.rate,
            "properties": dict(self.properties),
            "excluded": list(self.excluded),
            "command": self.command or "",
        }

    @classmethod
    def parse(cls, said: Said) -> "tuple[str, Terms]":
        """The role that is asked for, and the terms. Raises ``StreamError``."""
        fields = said.fields()
        role = fields.text("role")
        if role not in ("send", "receive"):
            raise fields.refuse("role")
        flags = set(fields.words("flags"))
        if flags - set(_FLAGS):
            raise fields.refuse("flags")
        return role, cls(
            source=fields.text("source"),
            destination=fields.text("destination"),
            rate=fields.number("rate", most=_MOST_RATE),
            properties=fields.properties("properties"),
            excluded=fields.words("excluded"),
            command=fields.text("command", 1 << 16) or None,
            **{name: name in flags for name in _FLAGS},
        )


_FLAGS = ("recursive", "prune", "force", "parents", "holds", "dry_run", "verbose", "thorough")
