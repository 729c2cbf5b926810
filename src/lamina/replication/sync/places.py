"""Where a sync goes from and to: a name here, or ``[user@]host:name``."""

import re
from dataclasses import dataclass

from lamina.errors import UsageError
from lamina.pool.names import printable

_FAR = re.compile(r"(?P<user>[^/:@\[\]]+@)?(?:\[(?P<address>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>[^/:@\[\]]*)):(?P<name>.*)")


@dataclass(frozen=True, slots=True)
class Place:
    """``host`` is as ssh takes it, None: here. ``name``: of a dataset or snapshot."""

    host: str | None
    name: str

    @property
    def shown(self) -> str:
        """As it is typed."""
        return printable(self.name if self.host is None else f"{self.host}:{self.name}")


def parse_place(word: str) -> Place:
    """What a word names. A colon behind the first slash is part of a name. Raises ``UsageError``."""
    match = _FAR.fullmatch(word)
    if match is None:
        if not word:
            raise UsageError("a dataset is expected, not an empty word")
        return Place(None, word)
    host = (match["user"] or "") + (match["address"] or match["host"] or "")
    if not (match["address"] or match["host"]) or host.startswith("-") or not match["name"]:
        raise UsageError(f"'{printable(word)}' is no place: DATASET or [user@]host:DATASET is expected")
    return Place(host, match["name"])
