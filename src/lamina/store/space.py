"""Giving back what no row of the index names: whole packs, stray files, dead ranges of packs that stay.

Whatever is done to a pack is done under a lease on it, so that no writer takes it meanwhile and none that fails sets it
back. A row always goes before the file: a file without a row is dead weight, a row without a file would be a loss.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lamina.errors import AccessDenied, DamagedData, LaminaError, NoSpace
from lamina.store.backend import Backend
from lamina.store.database import Database
from lamina.store.record import PACK_HEADER, RECORD_HEADER, pack_name, pack_number

_PAGE = 4096
"""Whole pages can be given back."""
_SLACK = 2 * _PAGE
_PACKS_AT_ONCE = 500

_UNUSED = """
id = ? AND lease IS NULL AND NOT EXISTS (SELECT 1 FROM object WHERE object.pack = pack.id)
AND NOT EXISTS (SELECT 1 FROM copy WHERE copy.pack = pack.id)
"""

Range = tuple[int, int]
"""First byte and the one after the last."""


@dataclass(frozen=True, slots=True)
class PackUse:
    """A pack that nobody writes to: bytes of the records that rows name, and bytes that its file takes."""

    number: int
    state: str
    size: int
    live: int
    allocated: int


class PackSpace:
    """The packs of a pool as gc sees them. ``lease`` is the name of the lease it works under."""

    def __init__(self, database: Database, backend: Backend, lease: str) -> None:
        self._database = database
        self._backend = backend
        self._lease = lease

    # -- looking --------------------------------------------------------------------------------------------------

    def numbers(self) -> list[int]:
        """All packs that have a row."""
        return [number for (number,) in self._database.query("SELECT id FROM pack ORDER BY id")]

    def uses(self) -> list[PackUse]:
        """What all packs hold that nobody works at; without those whose file is missing, which is scrub's to report."""
        live = live_bytes(self._database)
        found: list[PackUse] = []
        for number, state, size in self._database.query("SELECT id, state, size FROM pack WHERE lease IS NULL"):
            with contextlib.suppress(DamagedData):
                allocated = self._backend.allocated(pack_name(number))
                found.append(PackUse(number, state, size, live.get(number, 0), allocated))
        return found

    # -- whole packs ----------------------------------------------------------------------------------------------

    def drop_unused(self, numbers: Iterable[int]) -> tuple[int, int]:
        """Remove those of the packs that hold nothing and that nobody writes to; how many, and bytes given back."""
        wanted = list(numbers)
        count = given = 0
        for start in range(0, len(wanted), _PACKS_AT_ONCE):
            some = wanted[start : start + _PACKS_AT_ONCE]
            some = [number for number in some if self._database.query(f"SELECT 1 FROM pack WHERE {_UNUSED}", (number,))]
            if not some:
                continue
            gone: list[int] = []
            with self._database.transaction():
                for number in some:
                    if self._database.query(f"SELECT 1 FROM pack WHERE {_UNUSED}", (number,)):
                        self._database.execute("DELETE FROM pack WHERE id = ?", (number,))
                        gone.append(number)
            count += len(gone)
            given += sum(self.remove_file(pack_name(number)) for number in gone)
        return count, given

    def drop_strays(self) -> int:
        """Remove files of packs that have no row any more; bytes given back.

        The files are listed before the rows are read, since a pack's row is there before its file. A pack with a number
        that was never given is none of this catalogue's: perhaps the catalogue is the one that is too old.
        """
        found = {name: number for name in self._backend.list() if (number := pack_number(name)) is not None}
        known = set(self.numbers())
        rows = self._database.query("SELECT seq FROM sqlite_sequence WHERE name = 'pack'")
        last = rows[0][0] if rows else 0
        return sum(self.remove_file(name) for name, number in found.items() if number not in known and number <= last)

    def remove_file(self, name: str) -> int:
        """Remove a pack's file; bytes given back."""
        try:
            given = self._backend.allocated(name)
            # A reader that has the file open would hold its space for as long as it lives.
            self._backend.append_to(name, 0).close()
        except LaminaError:
            given = 0  # not there, or no room for what cutting takes
        self._backend.delete(name)
        return given

    # -- parts of packs -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self, number: int) -> Iterator[bool]:
        """Keep others away from a pack; whether that succeeded."""
        with self._database.transaction():
            free = bool(self._database.query("SELECT 1 FROM pack WHERE id = ? AND lease IS NULL", (number,)))
            if free:
                self._database.execute("UPDATE pack SET lease = ? WHERE id = ?", (self._lease, number))
        try:
            yield free
        finally:
            if free:
                with self._database.transaction():
                    self._database.execute(
                        "UPDATE pack SET lease = NULL WHERE id = ? AND lease = ?", (number, self._lease)
                    )

    def punch(self, use: PackUse) -> PackUse:
        """Give back what is dead in a pack that stays; what it takes afterwards."""
        name = pack_name(use.number)
        if use.allocated <= use.live + _SLACK and self._backend.size(name) <= use.size:
            return use
        with self.held(use.number) as free:
            if not free:
                return use
            size = self._database.query("SELECT size FROM pack WHERE id = ?", (use.number,))[0][0]
            # Without room for what the file system notes of holes, or in another user's file, there are none this time.
            with contextlib.suppress(NoSpace, AccessDenied):
                if self._backend.size(name) > size:
                    self._backend.append_to(name, size).close()
                for start, end in dead_ranges(occupied(self._database, use.number), size):
                    if end - start >= _PAGE:
                        self._backend.punch(name, start, end - start)
        return replace(use, allocated=self._backend.allocated(name))


def live_bytes(database: Database) -> dict[int, int]:
    """Bytes of the records that rows name, their headers included, by pack."""
    found: dict[int, int] = {}
    for rows in (
        database.query("SELECT pack, count(*), sum(stored) FROM object GROUP BY pack"),
        database.query(
            "SELECT c.pack, count(*), sum(o.stored) FROM copy c JOIN object o ON o.id = c.object GROUP BY c.pack"
        ),
    ):
        for pack, count, stored in rows:
            found[pack] = found.get(pack, 0) + stored + count * RECORD_HEADER
    return found


def occupied(database: Database, number: int) -> list[Range]:
    """Where the records lie in a pack that rows name, in order."""
    rows = database.query("SELECT offset, stored FROM object WHERE pack = ?", (number,))
    rows += database.query(
        "SELECT c.offset, o.stored FROM copy c JOIN object o ON o.id = c.object WHERE c.pack = ?", (number,)
    )
    return sorted((offset - RECORD_HEADER, offset + stored) for offset, stored in rows)


def dead_ranges(taken: Sequence[Range], size: int) -> list[Range]:
    """What lies between, behind a pack's header and up to ``size``."""
    found: list[Range] = []
    position = PACK_HEADER.size
    for start, end in taken:
        if start > position:
            found.append((position, start))
        position = max(position, end)
    if size > position:
        found.append((position, size))
    return found
