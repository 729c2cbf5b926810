"""A pack that somebody appends to, and where such packs come from."""

from collections.abc import Container

from lamina.errors import DamagedData
from lamina.store.backend import Appender, Backend
from lamina.store.database import Database
from lamina.store.record import PACK_HEADER, pack_name, parse_pack_header

_BUFFER = 4 << 20


class OpenPack:
    """A pack that its holder appends to; ``size`` counts what is still in the buffer."""

    def __init__(self, number: int, size: int, appender: Appender, buffer: int = _BUFFER) -> None:
        self.number = number
        self.size = size
        self.appender = appender
        self._most = buffer
        self._buffer: list[bytes] = []
        self._buffered = 0

    def add(self, *parts: bytes) -> None:
        """Append, later."""
        self._buffer += parts
        length = sum(map(len, parts))
        self._buffered += length
        self.size += length
        if self._buffered >= self._most:
            self.drain()

    def drain(self) -> None:
        """Hand the file what was added."""
        if self._buffer:
            self.appender.append(self._buffer)
            self._buffer, self._buffered = [], 0


def take_pack(
    database: Database, backend: Backend, lease: str, *, largest: bool, but: Container[int] = ()
) -> tuple[int, int]:
    """Inside a transaction: (number, size) of a pack that a finished process left open, or a new one, now ``lease``'s.

    One that lost bytes, or does not begin as a pack does, is never written to again; those in ``but`` are left
    alone.
    """
    number, size = _free_pack(database, backend, largest, but)
    database.execute("UPDATE pack SET lease = ? WHERE id = ?", (lease, number))
    return number, size


def _free_pack(database: Database, backend: Backend, largest: bool, but: Container[int]) -> tuple[int, int]:
    order = "DESC" if largest else "ASC"
    for pack, size in database.query(
        f"SELECT id, size FROM pack WHERE state = 'open' AND lease IS NULL ORDER BY size {order}"
    ):
        if pack in but:
            continue
        if _is_sound(backend, pack, size):
            return pack, size
        database.execute("UPDATE pack SET state = 'sealed' WHERE id = ?", (pack,))
    return database.execute("INSERT INTO pack(state, size) VALUES ('open', 0)"), 0


def _is_sound(backend: Backend, pack: int, size: int) -> bool:
    if not size:
        return True  # its row was committed, its file perhaps not yet made
    try:
        header = parse_pack_header(backend.read(pack_name(pack), 0, PACK_HEADER.size))
        return header.number == pack and backend.size(pack_name(pack)) >= size
    except DamagedData:
        return False
