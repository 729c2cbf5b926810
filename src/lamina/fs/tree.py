"""The copy-on-write B+tree: built bottom-up from sorted items, changed by rewriting what lies above a change.

Nodes end where a hash of their last key says so, within bounds: the same items give the same nodes whatever the
history, so two trees differ exactly where their nodes do.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock

import xxhash

from lamina.errors import DamagedData
from lamina.fs.node import Node, pack_node

PutNode = Callable[[bytes], bytes]
GetObject = Callable[[bytes], bytes]
Edit = tuple[bytes, bytes | None]
"""A key and its new value, None to remove it."""

_ITEM = 6
_BOUNDS = ((4 << 10, 16 << 10, 32 << 10), (2 << 10, 8 << 10, 16 << 10))
"""(least, target, most) decoded bytes of leaves and of inner nodes: a change stores a path of them."""

_HASH_RANGE = 1 << 64


class TreeBuilder:
    """Writes a tree from items in ascending key order, one open node a level."""

    def __init__(self, put: PutNode) -> None:
        """``put`` stores a node and returns its object key."""
        self._put = put
        self._keys: list[list[bytes]] = []
        self._values: list[list[bytes]] = []
        self._sizes: list[int] = []

    def add(self, key: bytes, value: bytes) -> None:
        """Add the next item."""
        self._add(0, key, value)

    def leaf(self, keys: list[bytes], values: list[bytes]) -> None:
        """Add a whole leaf that ends by the rule, or is the last. Only where ``is_aligned(0)``."""
        self._add(1, keys[-1], self._put(pack_node(0, keys, values)))

    def graft(self, level: int, last_key: bytes, node: bytes) -> None:
        """Add a whole node of ``level`` that ended by the rule. Only where ``is_aligned(level)``."""
        self._add(level + 1, last_key, node)

    def is_aligned(self, level: int) -> bool:
        """Whether no node up to ``level`` is open: what follows is cut as if a tree began here."""
        return not any(self._keys[: level + 1])

    def finish(self) -> tuple[int, bytes]:
        """Close all nodes; (height, key of the top node). A tree has at least one item."""
        level = 0
        while True:
            above = level + 1 < len(self._keys)
            if self._keys[level]:
                if not above and level and len(self._keys[level]) == 1:
                    return level - 1, self._values[level][0]
                self._close(level)
            level += 1

    def _add(self, level: int, key: bytes, value: bytes) -> None:
        while len(self._keys) <= level:
            self._keys.append([])
            self._values.append([])
            self._sizes.append(0)
        self._keys[level].append(key)
        self._values[level].append(value)
        weight = len(key) + len(value) + _ITEM
        size = self._sizes[level] = self._sizes[level] + weight
        least, target, most = _BOUNDS[level > 0]
        if size >= least and (
            size >= most or xxhash.xxh3_64_intdigest(key, seed=level) < weight * _HASH_RANGE // target
        ):
            self._close(level)

    def _close(self, level: int) -> None:
        keys, values = self._keys[level], self._values[level]
        self._keys[level], self._values[level], self._sizes[level] = [], [], 0
        self._add(level + 1, keys[-1], self._put(pack_node(level, keys, values)))


class TreeReader:
    """Reads one tree. Safe to use from several threads; keeps up to ``cache_nodes`` decoded nodes."""

    def __init__(self, get: GetObject, height: int, top: bytes, cache_nodes: int = 512) -> None:
        self._get = get
        self._top = top
        self._cache: OrderedDict[bytes, Node] = OrderedDict()
        self._cache_nodes = cache_nodes
        self._lock = Lock()
        self._last: Node | None = None
        self.height = height

    def node(self, key: bytes) -> Node:
        """A node by its object key."""
        node = self._cache.get(key)
        if node is None:
            node = Node(self._get(key))
            with self._lock:
                self._cache[key] = node
                while len(self._cache) > self._cache_nodes:
                    self._cache.popitem(last=False)
        return node

    def top(self) -> Node:
        """The top node. Raises ``DamagedData`` where it is not of the tree's height."""
        node = self.node(self._top)
        if node.level != self.height:
            raise DamagedData("the top of a tree is not of the height that its root says")
        return node

    def child(self, node: Node, at: int) -> Node:
        """The child at a position of an inner node. Raises ``DamagedData`` where it is not of the level below."""
        child = self.node(node.values[at])
        if child.level != node.level - 1:
            raise DamagedData("a tree node is not of the level below its parent's")
        return child

    def find(self, key: bytes) -> bytes | None:
        """The value of a key."""
        leaf = self._leaf(key)
        if leaf is None:
            return None
        at = bisect_left(leaf.keys, key)
        return leaf.values[at] if leaf.keys[at] == key else None

    def items(self, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Items with start <= key < end, ascending."""
        for leaf in self.leaves(start):
            at = bisect_left(leaf.keys, start) if leaf.keys[0] < start else 0
            stop = len(leaf.keys) if end is None or leaf.keys[-1] < end else bisect_left(leaf.keys, end)
            yield from zip(leaf.keys[at:stop], leaf.values[at:stop], strict=True)
            if stop < len(leaf.keys):
                return

    def leaves(self, start: bytes = b"") -> Iterator[Node]:
        """Leaves from the one that holds the first key >= start."""
        yield from self._leaves(self.top(), start)

    def _leaves(self, node: Node, start: bytes) -> Iterator[Node]:
        if node.level == 0:
            if node.keys[-1] >= start:
                yield node
            return
        for at in range(bisect_left(node.keys, start), len(node.keys)):
            yield from self._leaves(self.child(node, at), start)

    def _leaf(self, key: bytes) -> Node | None:
        # What is asked for next mostly lies beside: a directory's inodes, a file's items.
        last = self._last
        if last is not None and last.keys[0] <= key <= last.keys[-1]:
            return last
        node = self.top()
        while True:
            if node.keys[-1] < key:
                return None
            if node.level == 0:
                self._last = node
                return node
            node = self.child(node, bisect_left(node.keys, key))

    def nodes(self, skip: Callable[[bytes], bool] | None = None) -> Iterator[tuple[bytes, Node]]:
        """All nodes with their object keys, parents first; ``skip`` leaves out a subtree by its key."""
        stack = [self._top]
        while stack:
            key = stack.pop()
            if skip is not None and skip(key):
                continue
            node = self.node(key)
            yield key, node
            if node.level:
                stack.extend(reversed(node.values))


def build(items: Iterable[tuple[bytes, bytes]], put: PutNode) -> tuple[int, bytes]:
    """A tree of ascending items: (height, key of the top node)."""
    builder = TreeBuilder(put)
    # The loop of ``TreeBuilder.add`` for leaves, spelled out: an import passes hundreds of thousands of items here.
    least, target, most = _BOUNDS[0]
    digest = xxhash.xxh3_64_intdigest
    keys: list[bytes] = []
    values: list[bytes] = []
    size = 0
    for key, value in items:
        keys.append(key)
        values.append(value)
        weight = len(key) + len(value) + _ITEM
        size += weight
        if size >= least and (size >= most or digest(key, seed=0) < weight * _HASH_RANGE // target):
            builder.leaf(keys, values)
            keys, values, size = [], [], 0
    if keys:
        builder.leaf(keys, values)
    return builder.finish()


def apply(reader: TreeReader, edits: Sequence[Edit], put: PutNode) -> tuple[int, bytes]:
    """The tree with ``edits`` (ascending, each key once) made: (height, key of the top node).

    Reads and writes only the nodes on the way to the edits; the result is the one that ``build`` gives.
    """
    builder = TreeBuilder(put)
    _apply(reader, reader.top(), edits, builder, True)
    return builder.finish()


def _apply(reader: TreeReader, node: Node, edits: Sequence[Edit], builder: TreeBuilder, last: bool) -> None:
    """Add the subtree ``node`` with its edits; ``last``: nothing follows, so edits behind its last key are its."""
    if node.level == 0:
        _merge(node, edits, builder)
        return
    for at, (last_key, child) in enumerate(zip(node.keys, node.values, strict=True)):
        tail = last and at == len(node.keys) - 1
        here = len(edits) if tail else bisect_left(edits, last_key + b"\0", key=lambda edit: edit[0])
        if here == 0 and builder.is_aligned(node.level - 1):
            builder.graft(node.level - 1, last_key, child)
        else:
            _apply(reader, reader.child(node, at), edits[:here], builder, tail)
        edits = edits[here:]


def _merge(node: Node, edits: Sequence[Edit], builder: TreeBuilder) -> None:
    position = 0
    for key, value in zip(node.keys, node.values, strict=True):
        while position < len(edits) and edits[position][0] < key:
            _add_edit(builder, edits[position])
            position += 1
        if position < len(edits) and edits[position][0] == key:
            _add_edit(builder, edits[position])
            position += 1
        else:
            builder.add(key, value)
    for edit in edits[position:]:
        _add_edit(builder, edit)


def _add_edit(builder: TreeBuilder, edit: Edit) -> None:
    key, value = edit
    if value is not None:
        builder.add(key, value)
