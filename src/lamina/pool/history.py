"""The history of a pool: each command that changed it, with when, who and where.

The command line says what its words are; a program that uses ``Pool`` may say so too (``Pool.command``), or leaves no
line. Lines live in the catalogue and in the name records of the changes, so that recovery brings them back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One command or event; ``time`` in seconds since 1970, ``user`` as ``0 (root)``."""

    time: int
    txg: int
    user: str
    host: str
    command: str

    @property
    def internal(self) -> bool:
        """Whether it is an event that no command line made."""
        return self.command.startswith("[")


def read_history(pool: "Pool", *, internal: bool = False) -> Iterator[HistoryLine]:
    """The lines, oldest first; ``internal``: also events."""
    for row in pool._database.query("SELECT time, txg, user, host, command FROM history ORDER BY id"):
        line = HistoryLine(*row)
        if internal or not line.internal:
            yield line
