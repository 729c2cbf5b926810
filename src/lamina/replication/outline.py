"""The outline of a tree: its inner nodes and the order of its leaves, with the ranges of keys that they must hold.

Whoever makes a tree by hand may have it refer to one node many times: walking it would take for ever. Ranges that lie
apart, each in that of the node above, rule that out before anything is walked.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.fs.node import Node
from lamina.store.objects import Location, ObjectStore
from lamina.store.record import Kind

MOST_HEIGHT = 32
"""Of a tree: each level has many times the nodes of the one above, but where somebody made it by hand."""

_NODE = struct.Struct("<2sBBI")


@dataclass(slots=True)
class Outline:
    """``inner``: keys of inner nodes; ``leaves``: those of leaves, in order; ``ends``: the last item key below each."""

    inner: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    ends: list[bytes] = field(default_factory=list)

    @property
    def last(self) -> bytes:
        """The last item key of the tree."""
        return self.ends[-1]

    def ranges(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Of each leaf its key, the item key that it lies behind, and its last one."""
        for key, (low, end) in zip(self.leaves, pairwise([b"", *self.ends]), strict=True):
            yield key, low, end


def key_range(data: bytes) -> tuple[bytes, bytes]:
    """The first and the last item key of a node. Raises ``DamagedData``."""
    try:
        _, _, _, count = _NODE.unpack_from(data)
        lengths = struct.unpack_from(f"<{count}H", data, _NODE.size)
    except struct.error:
        raise DamagedData("tree node is cut short") from None
    if not count:
        raise DamagedData("tree node is empty")
    start = _NODE.size + 6 * count
    end = start + sum(lengths)
    return data[start : start + lengths[0]], data[end - lengths[-1] : end]


class TreeNodes:
    """Reads nodes of trees, those of one level together. Everything that is not as it should be is ``DamagedData``."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._places: dict[bytes, Location] = {}

    def locate(self, keys: Sequence[bytes]) -> dict[bytes, Location]:
        """Places of those of ``keys`` that are there."""
        ask = [key for key in keys if key not in self._places]
        self._places.update(self._store.locate(ask))
        return {key: self._places[key] for key in keys if key in self._places}

    def rows(self, keys: Sequence[bytes]) -> BitMap64:
        """Their rows; all must be there."""
        found = self.locate(keys)
        if len(found) < len(set(keys)):
            raise DamagedData("an object is not in the index")
        return BitMap64(place.id for place in found.values())

    def get(self, key: bytes, kind: Kind) -> bytes:
        """An object of a kind, proved by its key."""
        place = self.locate([key]).get(key)
        if place is None or place.kind != kind or not place.stored:
            raise DamagedData(f"object {key.hex()} is not there, or is another kind of object")
        try:
            return self._store.read(place, verify=True)
        except DamagedData:
            return self._store.get(key, verify=True)  # moved meanwhile, or whole in another copy

    def node(self, key: bytes, level: int) -> Node:
        """A node of a level."""
        node = Node(self.get(key, Kind.NODE))
        if node.level != level:
            raise DamagedData("a tree node is not of the level below its parent's")
        return node

    def outline(self, height: int, top: bytes) -> Outline:
        """The outline of a tree, inner nodes checked."""
        if height > MOST_HEIGHT:
            raise DamagedData(f"a tree of height {height} is none")
        outline = Outline()
        if not height:
            outline.leaves.append(top)
            outline.ends.append(key_range(self.get(top, Kind.NODE))[1])
            return outline
        self._below(outline, top, height, b"", None)
        return outline

    def _below(self, outline: Outline, key: bytes, level: int, low: bytes, end: bytes | None) -> None:
        node = self.node(key, level)
        if node.keys[0] <= low or (end is not None and node.keys[-1] != end):
            raise DamagedData("a tree node does not hold what its parent says")
        outline.inner.append(key)
        self.locate(node.values)
        if level == 1:
            outline.leaves += node.values
            outline.ends += node.keys
            return
        for child, last in zip(node.values, node.keys, strict=True):
            self._below(outline, child, level - 1, low, last)
            low = last
