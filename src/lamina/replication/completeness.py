"""Whether a tree that was received is whole, and exactly which objects it reaches."""

from lamina.errors import DamagedData, MissingObjects, StreamError
from lamina.fs.node import unpack_root
from lamina.pool.checking.walking import Walked, Walker
from lamina.replication.nearby import KnownTree, compare
from lamina.replication.outline import TreeNodes, key_range
from lamina.store.objects import ObjectStore
from lamina.store.record import Kind

_MOST_KNOWN = 200_000
"""Leaves whose place in a tree is remembered as right: 30 MB."""


class TreeCheck:
    """Checks the trees of one stream."""

    def __init__(self, store: ObjectStore, *, many: bool) -> None:
        """``many``: a walk that remembers what it saw is better than comparing each tree with the one before."""
        self._store = store
        self._many = many
        self._walker: Walker | None = None
        self._known: set[tuple[bytes, bytes, bytes]] = set()
        """Leaves with the keys that they lie between."""

    def walk(self, root: bytes, name: str, base: KnownTree | None) -> Walked:
        """What a tree reaches. Raises ``StreamError`` unless all of it is there and makes a file system."""
        if base is not None and not self._many and self._walker is None:
            found = compare(self._store, root, base)
            if found is not None:
                return found
        try:
            self._check_outline(root)
            walked = self._walked(root)
            if walked.missing or walked.problems or not walked.whole:
                # What was remembered may have been mended by this very stream.
                self._walker = None
                walked = self._walked(root)
        except DamagedData as error:
            raise StreamError(f"invalid stream: the tree of '{name}' is not whole: {error}") from None
        if walked.missing:
            raise MissingObjects(
                f"invalid stream: it lacks {len(walked.missing)} objects that '{name}' needs, such as "
                f"{min(walked.missing).hex()}"
            )
        if walked.problems or not walked.whole:
            raise StreamError(
                f"invalid stream: the tree of '{name}' makes no file system: {'; '.join(walked.problems[:3])}"
            )
        return walked

    def _walked(self, root: bytes) -> Walked:
        if self._walker is None:
            self._walker = Walker(self._store)
        return self._walker.walk(root)

    def _check_outline(self, root: bytes) -> None:
        """Raise ``DamagedData`` unless the nodes' ranges of keys lie one in the other: then each is there once."""
        nodes = TreeNodes(self._store)
        height, top, _ = unpack_root(nodes.get(root, Kind.ROOT))
        for key, low, end in nodes.outline(height, top).ranges():
            if (key, low, end) in self._known:
                continue
            first, last = key_range(nodes.get(key, Kind.NODE))
            if first <= low or last != end:
                raise DamagedData("a tree node does not hold what its parent says")
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known.add((key, low, end))
