"""A pool as a mount sees it: the trees that it gives out stay, whatever is destroyed, as long as somebody holds them.

The process has a lease of kind ``read``, and a row in ``pin`` for each root, made in the transaction in which the name
was looked up: what a name refers to then is still there, and gc takes what is pinned for named. Whoever may not write
to the pool, or finds its disk full, reads without pins: what is destroyed under such a reader fails with EIO once it
is freed.
"""

import weakref
from collections import Counter, deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lamina.errors import AccessDenied, InvalidName, LaminaError, NoSpace, NotFound
from lamina.fs.view import TreeView
from lamina.pool import files
from lamina.pool.collecting.background import Background
from lamina.pool.collecting.reading import pin
from lamina.pool.pool import Pool
from lamina.pool.values import Entry, PropertyValue
from lamina.store.lease import Lease


class PinnedPool:
    """A pool opened for writing, of which only pins are written. For one thread, but for the trees it gives out."""

    def __init__(self, pool: Pool) -> None:
        """Takes the pool over. Raises ``NoSpace``, ``AccessDenied``."""
        self._pool = pool
        self.name = pool.name
        self._lease = Lease(
            pool.path / files.LEASES,
            pool.store.database,
            pool._catalogue.epoch,
            pool._marker.file_mode,
            kind="read",
        )
        self._held: Counter[int] = Counter()
        """How many trees are held of each root."""
        self._let_go: deque[int] = deque()

    def tree(self, name: str) -> TreeView:
        """The tree of a snapshot, or of a dataset's head; pinned until it is collected as garbage by Python."""
        self._unpin()
        while True:
            try:
                root = self._pin(name)
            except (NotFound, InvalidName):
                raise
            except LaminaError:
                return self._pool.tree(name)
            view = self._pool.tree(name)
            if root is not None:
                self._held[root] += 1
                # It may run at any moment, in any thread: it only takes a note.
                weakref.finalize(view, self._let_go.append, root)
            if self._pool.root(name) == root:
                return view

    def list(
        self,
        roots: Sequence[str] = (),
        *,
        recursive: bool = False,
        depth: int | None = None,
        types: Collection[str] = ("filesystem",),
    ) -> Sequence[Entry]:
        """See ``Pool.list``."""
        self._unpin()
        return self._pool.list(roots, recursive=recursive, depth=depth, types=types)

    def get(self, entry: Any, props: Sequence[str] | None = None) -> dict[str, PropertyValue]:
        """See ``Pool.get``."""
        return self._pool.get(entry, props)

    def close(self) -> None:
        """Let go of all trees and of the pool; what only they kept is freed in the background."""
        self._lease.close()
        try:
            Background(self._pool).start()
        except LaminaError:
            pass  # whoever changes names next starts it
        self._pool.close()

    def _pin(self, name: str) -> int | None:
        """Keep what a name refers to at this moment; its root."""
        with self._pool.store.database.transaction():
            root = self._pool.root(name)
            if root is not None:
                pin(self._pool.store.database, self._lease.name, (root,))
        return root

    def _unpin(self) -> None:
        """Remove the pins of trees that nobody holds any more."""
        gone: list[int] = []
        while self._let_go:
            root = self._let_go.popleft()
            self._held[root] -= 1
            if not self._held[root]:
                del self._held[root]
                gone.append(root)
        if gone:
            try:
                with self._pool.store.database.transaction():
                    self._pool.store.database.execute_many(
                        "DELETE FROM pin WHERE lease = ? AND root = ?", ((self._lease.name, root) for root in gone)
                    )
            except LaminaError:
                pass  # they go with the lease


def open_pinned(name_or_path: str | Path) -> PinnedPool | Pool:
    """A pool to be mounted: one that pins what it shows, where that can be."""
    try:
        pool = Pool.open(name_or_path, write=True)
    except (AccessDenied, NoSpace):
        return Pool.open(name_or_path)
    try:
        return PinnedPool(pool)
    except (AccessDenied, NoSpace):
        pool.close()
        return Pool.open(name_or_path)
