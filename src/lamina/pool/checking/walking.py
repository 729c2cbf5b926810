"""Walking trees whole: which objects each reaches, whether they are there, whether they make a file system.

Trees that share nodes are walked once: what lies below a node is a function of its key, and is kept.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.fs.node import Node, unpack_root
from lamina.fs.structure import Summary, broken, join, read_leaf, tree_problems
from lamina.fs.tree import TreeReader
from lamina.fs.types import Totals
from lamina.store.objects import ObjectStore
from lamina.store.record import Kind

_BATCH = 400
_MOST_KEPT = 50_000
"""Subtrees whose sums are kept: 1 to 2 KB each."""
_MOST_PLACES = 300_000
"""Objects whose rows are remembered: 60 MB. Up to as many are read at once, which is quicker than one by one."""
_MOST_PROBLEMS = 8

Absent = Callable[[Mapping[bytes, int], Kind], dict[bytes, int]]
"""Gives rows to objects that are missing, from their keys and the bytes that are needed of each."""


@dataclass(slots=True)
class Walked:
    """One tree. ``objects`` are the rows of what it reaches; ``missing`` the keys of what is not in the index.

    ``whole``: all its nodes could be read, so that nothing else can be below it.
    """

    objects: BitMap64
    totals: Totals
    missing: set[bytes]
    whole: bool
    problems: list[str]


@dataclass(slots=True)
class _Below:
    """What one node reaches, itself included; the first and the last key below it."""

    objects: BitMap64
    summary: Summary
    first: bytes = b""
    last: bytes = b""
    missing: frozenset[bytes] = frozenset()
    problems: tuple[str, ...] = ()


class _Place(NamedTuple):
    """A row of the index, as far as trees are concerned."""

    id: int
    decoded: int
    kind: int
    lost: bool
    """It holds the place of an object that is missing."""


@dataclass(slots=True)
class Walker:
    """Walks trees of one pool. ``absent`` may give rows to objects that are missing; without it they get none."""

    store: ObjectStore
    absent: Absent | None = None
    _kept: "OrderedDict[bytes, _Below]" = field(default_factory=OrderedDict)
    _places: dict[bytes, _Place] = field(default_factory=dict)
    _known: set[tuple[int, int]] = field(default_factory=set)

    def walk(self, root: bytes) -> Walked:
        """Walk a tree. Raises ``DamagedData`` where its root object cannot be read."""
        height, top, totals = unpack_root(self._get(root))
        below = self._below(top, height)
        objects = below.objects.copy()
        problems = list(below.problems)
        places = self._find({root: 0})
        if root in places:
            objects.add(places[root].id)
            if places[root].kind != Kind.ROOT:
                problems.append("its root is stored as another kind of object")
        problems += tree_problems(below.summary, totals, TreeReader(self._get, height, top), self._known)
        return Walked(objects, totals, set(below.missing), not below.summary.broken, problems[:_MOST_PROBLEMS])

    def _get(self, key: bytes) -> bytes:
        return self.store.get(key, verify=True)

    def _below(self, key: bytes, level: int) -> _Below:
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        found = self._kept[key] = self._read(key, level)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return found

    def _read(self, key: bytes, level: int) -> _Below:
        place = self._find({key: 0}).get(key)
        try:
            node = Node(self._get(key))
            if node.level != level:
                raise DamagedData("a tree node is not of the level below its parent's")
            found = self._inner(node) if level else self._leaf(node)
            if place is not None and place.kind != Kind.NODE:
                found.problems += ("a tree node is stored as another kind of object",)
        except DamagedData as error:
            found = _Below(BitMap64(), broken(), problems=(f"a tree node cannot be read: {error}",))
        if place is None or place.lost:
            found.missing |= {key}
        if place is None:
            found.objects |= self._given({key: 0}, Kind.NODE)
        else:
            found.objects.add(place.id)
        return found

    def _inner(self, node: Node) -> _Below:
        objects = BitMap64()
        missing: set[bytes] = set()
        problems: list[str] = []
        children = [self._below(key, node.level - 1) for key in node.values]
        before = b""
        for below, last in zip(children, node.keys, strict=True):
            if not below.summary.broken and (below.last != last or below.first <= before):
                problems.append("a tree node does not hold what its parent says")
            objects |= below.objects
            missing |= below.missing
            problems += below.problems
            before = last
        summary = reduce(join, [below.summary for below in children])
        return _Below(
            objects, summary, children[0].first, node.keys[-1], frozenset(missing), tuple(problems[:_MOST_PROBLEMS])
        )

    def _leaf(self, node: Node) -> _Below:
        leaf = read_leaf(node)
        places = self._find(leaf.chunks)
        problems = []
        missing = {key for key in leaf.chunks if key not in places or places[key].lost}
        for key, need in leaf.chunks.items():
            if key in missing:
                continue
            place = places[key]
            if place.kind != Kind.CHUNK:
                problems.append("a piece of a file is stored as another kind of object")
            elif place.decoded < need:
                problems.append(f"a file reaches beyond the end of its chunk {key.hex()}")
        objects = BitMap64([place.id for place in places.values()])
        if missing:
            objects |= self._given({key: leaf.chunks[key] for key in missing - places.keys()}, Kind.CHUNK)
        return _Below(objects, leaf.summary, node.keys[0], node.keys[-1], frozenset(missing), tuple(problems))

    def _given(self, missing: Mapping[bytes, int], kind: Kind) -> BitMap64:
        return BitMap64(self.absent(missing, kind).values() if self.absent is not None else ())

    def _find(self, keys: Mapping[bytes, int]) -> dict[bytes, _Place]:
        """Rows of those of ``keys`` that are in the index."""
        if not self._places:
            self._load()
        found: dict[bytes, _Place] = {}
        ask: list[bytes] = []
        for key in keys:
            place = self._places.get(key)
            if place is None:
                ask.append(key)
            else:
                found[key] = place
        for start in range(0, len(ask), _BATCH):
            some = ask[start : start + _BATCH]
            if len(self._places) > _MOST_PLACES:
                self._places.clear()
            for key, number, decoded, kind, lost in self.store.database.query(
                f"SELECT key, id, decoded, kind, stored = 0 FROM object WHERE key IN ({','.join('?' * len(some))})",
                some,
            ):
                found[key] = self._places[key] = _Place(number, decoded, kind, bool(lost))
        return found

    def _load(self) -> None:
        """Read the whole index, if it is not too large."""
        database = self.store.database
        if (
            database.query("SELECT count(*) FROM (SELECT 1 FROM object LIMIT ?)", (_MOST_PLACES + 1,))[0][0]
            <= _MOST_PLACES
        ):
            rows = database.query("SELECT key, id, decoded, kind, stored = 0 FROM object")
            self._places = {key: _Place(*rest) for key, *rest in rows}
