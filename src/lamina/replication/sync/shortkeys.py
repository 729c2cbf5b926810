"""Asking which objects the other side has: the beginnings of their keys, answered by a bit each.

How many bytes of a key are sent follows from how many objects there are on both sides, so that one key in a thousand
questions begins like another's. Nothing depends on that luck: the sender proves by a hash that what it took for there
are the very keys, and the two ask again in full where they are not. Keys are hashes, so they do not compress; with
five or six bytes each, a first question about 60,000 objects takes 360 KB.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from blake3 import blake3
from pyroaring import BitMap64

from lamina.errors import DamagedData, StreamError

if TYPE_CHECKING:
    from lamina.store.database import Database

WHOLE = 32
LEAST = 4
MOST = (1 << 20) // WHOLE
"""Keys in one frame."""
MOST_ASKED = 1 << 28
_SPARE_BITS = 10
_AT_ONCE = 4096
_ANSWERS = 1 << 20
"""Bytes of answers in one frame."""
_MATCH_AT_ONCE = 1024
_ROWS = ",".join(["(?,?,?)"] * _MATCH_AT_ONCE)


def width(asked: int, objects: int) -> int:
    """Bytes of a key that tell ``asked`` objects from the ``objects`` that the other side has."""
    bits = max(asked, 1).bit_length() + max(objects, 1).bit_length() + _SPARE_BITS
    return min(max(-(-bits // 8), LEAST), WHOLE)


class Question:
    """The asking side: whether the other has the objects of these rows, in their order."""

    def __init__(self, database: "Database", rows: BitMap64, width: int) -> None:
        self._database = database
        self._rows = rows
        self._width = width

    def frames(self) -> Iterator[bytes]:
        """Payloads that ask."""
        data = bytearray()
        for _, key in _keys(self._database, self._rows):
            data += key[: self._width]
            if len(data) >= MOST * self._width:
                yield bytes(data)
                data.clear()
        if data:
            yield bytes(data)

    def bytes_of_answer(self) -> int:
        """Bytes that all answers together have."""
        return -(-len(self._rows) // 8)

    def answered(self, answer: bytes) -> BitMap64:
        """The rows that the other side has, by bits, the lowest of each byte first. Raises ``StreamError``."""
        count = len(self._rows)
        if len(answer) != self.bytes_of_answer() or (count % 8 and answer[-1] >> count % 8):
            raise StreamError("what the other side says makes no sense: it answers what it was not asked")
        return BitMap64(row for at, row in enumerate(self._rows) if answer[at >> 3] >> (at & 7) & 1)

    def proof(self, have: BitMap64) -> bytes:
        """The BLAKE3 of the whole keys of what the other side said that it has."""
        found = blake3()
        for _, key in _keys(self._database, have):
            found.update(key)
        return found.digest()


def _keys(database: "Database", rows: BitMap64) -> Iterator[tuple[int, bytes]]:
    """Keys by rows, ascending. Raises ``DamagedData`` where one is gone."""
    numbers = iter(rows)
    while some := list(islice(numbers, _AT_ONCE)):
        marks = ",".join("?" * len(some))
        found = database.query(f"SELECT id, key FROM object WHERE id IN ({marks}) ORDER BY id", some)
        if len(found) < len(some):
            raise DamagedData("objects of the snapshot are not in the index; 'lamina pool check' says more")
        yield from found


class Answers:
    """The answering side. ``rows``: of all objects that are here and may be shared, ``data``: the bits."""

    def __init__(self, database: "Database", width: int) -> None:
        self._database = database
        self._width = width
        self._hash = blake3()
        self._count = 0
        self.rows = BitMap64()
        self.data = bytearray()

    def take(self, payload: bytes) -> int:
        """Answer one frame; how many objects it asks about. Raises ``StreamError``."""
        count, rest = divmod(len(payload), self._width)
        if rest or not count:
            raise StreamError("what the other side says makes no sense: a question is cut short")
        for start in range(0, count, _MATCH_AT_ONCE):
            stop = min(start + _MATCH_AT_ONCE, count)
            self._match([payload[at * self._width : (at + 1) * self._width] for at in range(start, stop)])
        return count

    def _match(self, beginnings: list[bytes]) -> None:
        first = self._count
        self._count += len(beginnings)
        self.data.extend(bytes(-(-self._count // 8) - len(self.data)))
        words: list[object] = []
        for at, beginning in enumerate(beginnings):
            words += (at, beginning, beginning.ljust(WHOLE, b"\xff"))
        rows = _ROWS if len(beginnings) == _MATCH_AT_ONCE else ",".join(["(?,?,?)"] * len(beginnings))
        found: dict[int, list[tuple[int, bytes]]] = {}
        for at, number, key in self._database.query(
            f"WITH asked(at, low, high) AS (VALUES {rows}) SELECT asked.at, object.id, object.key FROM asked "
            "CROSS JOIN object ON object.key BETWEEN asked.low AND asked.high WHERE object.condemned IS NULL",
            words,
        ):
            found.setdefault(at, []).append((number, key))
        for at in sorted(found):
            if len(found[at]) > 1:
                continue  # no telling which is meant: it comes, and is passed by if it is there
            number, key = found[at][0]
            self.rows.add(number)
            self._hash.update(key)
            self.data[(first + at) >> 3] |= 1 << ((first + at) & 7)

    def frames(self) -> Iterator[bytes]:
        """Payloads that answer."""
        for start in range(0, len(self.data), _ANSWERS):
            yield bytes(self.data[start : start + _ANSWERS])

    def proof(self) -> bytes:
        """The BLAKE3 of the whole keys of all that is here, in the order of the question."""
        return self._hash.digest()
