"""Where the items of two trees differ: equal nodes are passed over by their keys, unread.

Nodes end where their last key says so, whatever the history (:mod:`lamina.fs.tree`): where a change ends, both trees go
on with the same nodes. So what is read is the nodes around the changes and those above them.
"""

from collections.abc import Iterator

from lamina.fs.imagearea import AREA_KEY
from lamina.fs.node import Node
from lamina.fs.tree import TreeReader

ItemChange = tuple[bytes, bytes | None, bytes | None]
"""A key, its value in the old tree and in the new one; None where the tree does not have it."""


def item_diff(old: TreeReader, new: TreeReader, end: bytes = AREA_KEY) -> Iterator[ItemChange]:
    """Items that are not the same in both trees, by key, up to ``end``: unless told, those of the root file systems.

    Raises ``DamagedData`` where a node is none.
    """
    for change in _differing(_Cursor(old), _Cursor(new), end):
        if change[0] >= end:
            return
        yield change


def _differing(a: "_Cursor", b: "_Cursor", end: bytes) -> Iterator[ItemChange]:
    while a.node is not None and b.node is not None:
        if a.is_behind(end) and b.is_behind(end):
            return
        if a.node.level > b.node.level:
            a.descend()
        elif b.node.level > a.node.level:
            b.descend()
        elif a.node.level == 0:
            yield from _leaves(a, a.node, b, b.node)
        elif a.node.values[a.at] == b.node.values[b.at]:
            a.advance(a.at + 1)
            b.advance(b.at + 1)
        else:
            a.descend()
            b.descend()
    for key, value in a.rest():
        yield key, value, None
    for key, value in b.rest():
        yield key, None, value


class _Cursor:
    """A place in a tree: ``at`` in ``node``, both None and 0 behind the last item; the nodes above wait on a stack."""

    __slots__ = ("_above", "_reader", "at", "node")

    def __init__(self, reader: TreeReader) -> None:
        self._reader = reader
        self._above: list[tuple[Node, int]] = []
        self.node: Node | None = reader.top()
        self.at = 0

    def descend(self) -> None:
        """Go to the first entry of the child here."""
        assert self.node is not None
        self._above.append((self.node, self.at + 1))
        self.node, self.at = self._reader.child(self.node, self.at), 0

    def advance(self, at: int) -> None:
        """Go on to a position in this node; behind its last one, to what follows in those above."""
        self.at = at
        while self.node is not None and self.at == len(self.node.keys):
            self.node, self.at = self._above.pop() if self._above else (None, 0)

    def is_behind(self, key: bytes) -> bool:
        """Whether all items from here come behind a key, as far as this node tells."""
        node = self.node
        if node is None:
            return True
        return node.keys[self.at] >= key if not node.level else self.at > 0 and node.keys[self.at - 1] >= key

    def rest(self) -> Iterator[tuple[bytes, bytes]]:
        """All items from here."""
        while self.node is not None:
            if self.node.level:
                self.descend()
            else:
                yield from zip(self.node.keys[self.at :], self.node.values[self.at :], strict=True)
                self.advance(len(self.node.keys))


def _leaves(a: _Cursor, left: Node, b: _Cursor, right: Node) -> Iterator[ItemChange]:
    """Compare two leaves from where the cursors stand until one of them ends."""
    i, j = a.at, b.at
    keys, values, other_keys, other_values = left.keys, left.values, right.keys, right.values
    while i < len(keys) and j < len(other_keys):
        key, other = keys[i], other_keys[j]
        if key == other:
            if values[i] != other_values[j]:
                yield key, values[i], other_values[j]
            i += 1
            j += 1
        elif key < other:
            yield key, values[i], None
            i += 1
        else:
            yield other, None, other_values[j]
            j += 1
    a.advance(i)
    b.advance(j)
