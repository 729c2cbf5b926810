"""Reading objects: find the key in the index, read the record's payload, check it, decode it."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import xxhash

from lamina.errors import DamagedData
from lamina.store.backend import Backend
from lamina.store.codec import Coder
from lamina.store.database import Database
from lamina.store.record import pack_name

_BATCH = 400
_LOOK_AHEAD = 64
_MOST_AHEAD = 16384
"""Rows remembered of what was stored beside objects that were read: 5 MB."""
_COLUMNS = "id, key, pack, offset, stored, decoded, kind, codec, checksum"


@dataclass(frozen=True, slots=True)
class Location:
    """Where an object lies; ``id`` is its row, ``offset`` that of the payload in the pack, sizes in bytes."""

    id: int
    key: bytes
    pack: int
    offset: int
    stored: int
    decoded: int
    kind: int
    codec: int
    checksum: int


def signed(checksum: int) -> int:
    """An unsigned 64-bit number as SQLite holds it."""
    return checksum - (1 << 64) if checksum >= 1 << 63 else checksum


class ObjectStore:
    """Objects by key. Safe to use from several threads."""

    def __init__(self, database: Database, backend: Backend) -> None:
        self.database = database
        self.backend = backend
        self.coder = Coder()
        self._ahead: dict[bytes, Any] = {}

    def locate(self, keys: Iterable[bytes]) -> dict[bytes, Location]:
        """Locations of those of ``keys`` that are in the index."""
        wanted = list(keys)
        found: dict[bytes, Location] = {}
        for start in range(0, len(wanted), _BATCH):
            some: Sequence[bytes] = wanted[start : start + _BATCH]
            marks = ",".join("?" * len(some))
            for row in self.database.query(f"SELECT {_COLUMNS} FROM object WHERE key IN ({marks})", some):
                location = Location(*row)
                found[location.key] = location
        return found

    def ids(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Row numbers of those of ``keys`` that may be shared: in the index and not condemned."""
        found: dict[bytes, int] = {}
        for start in range(0, len(keys), _BATCH):
            some = keys[start : start + _BATCH]
            marks = ",".join("?" * len(some))
            found.update(
                self.database.query(f"SELECT key, id FROM object WHERE key IN ({marks}) AND condemned IS NULL", some)
            )
        return found

    def locate_ids(self, ids: Sequence[int]) -> list[Location]:
        """Locations by row number; rows that are gone are left out."""
        found: list[Location] = []
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            marks = ",".join("?" * len(some))
            found += [
                Location(*row)
                for row in self.database.query(f"SELECT {_COLUMNS} FROM object WHERE id IN ({marks})", some)
            ]
        return found

    def get(self, key: bytes, *, verify: bool = False) -> bytes:
        """The bytes of an object, its payload's checksum checked; ``verify`` checks the key too.

        Raises ``DamagedData`` where they are not what was stored, or the object is not there.
        """
        location = self._find(key)
        while location is not None:
            try:
                return self.read(location, verify=verify)
            except DamagedData as error:
                failed = error
            # gc may have moved it since: looked up until it stays, so that only what lies there is called damaged.
            self._ahead.pop(key, None)
            before, location = location, self.locate((key,)).get(key)
            if location is None:
                raise failed
            if (location.pack, location.offset) == (before.pack, before.offset):
                return self._read_copy(location, failed, verify)
        raise DamagedData(f"object {key.hex()} is not in the index")

    def copies(self, location: Location) -> list[Location]:
        """Where else the payload of an object lies."""
        rows = self.database.query("SELECT pack, offset FROM copy WHERE object = ? ORDER BY number", (location.id,))
        return [replace(location, pack=pack, offset=offset) for pack, offset in rows]

    def _read_copy(self, location: Location, error: DamagedData, verify: bool) -> bytes:
        tried: set[tuple[int, int]] = set()
        while fresh := [copy for copy in self.copies(location) if (copy.pack, copy.offset) not in tried]:
            for copy in fresh:
                tried.add((copy.pack, copy.offset))
                with contextlib.suppress(DamagedData):
                    return self.read(copy, verify=verify)
        raise error

    def _find(self, key: bytes) -> Location | None:
        """Like ``locate``; also learns where the objects stored next lie, which a reader mostly wants next.

        What was learned may have moved since: ``get`` looks again before it calls an object damaged.
        """
        row = self._ahead.get(key)
        if row is not None:
            return Location(*row)
        found = self.locate((key,)).get(key)
        if found is not None:
            if len(self._ahead) > _MOST_AHEAD:
                self._ahead = {}
            ahead = self._ahead
            for row in self.database.query(
                f"SELECT {_COLUMNS} FROM object WHERE id > ? AND id <= ?", (found.id, found.id + _LOOK_AHEAD)
            ):
                ahead[row[1]] = row
        return found

    def read(self, location: Location, *, verify: bool = False) -> bytes:
        """Like ``get``, for an object whose location is known."""
        payload = self.backend.read(pack_name(location.pack), location.offset, location.stored)
        if signed(xxhash.xxh3_64_intdigest(payload)) != location.checksum:
            raise DamagedData(
                f"object {location.key.hex()} is damaged: pack {pack_name(location.pack)} at {location.offset}"
            )
        data = self.coder.decode(location.codec, payload, location.decoded)
        if verify:
            from blake3 import blake3

            if blake3(data).digest() != location.key:
                raise DamagedData(f"object {location.key.hex()} does not match its key")
        return data
