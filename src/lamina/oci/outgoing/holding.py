"""Keeping images from being freed while they are read: what is destroyed meanwhile is still given out whole."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.errors import AccessDenied, LaminaError, NoSpace
from lamina.fs.view import TreeView
from lamina.pool import files
from lamina.store.lease import Lease

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


@contextlib.contextmanager
def held(pool: "Pool", name: str) -> Iterator[TreeView]:
    """The tree of a snapshot, pinned as long as the context is entered.

    Whoever may not write to the pool reads without a pin: what is freed meanwhile is then found missing. Raises
    ``NotFound``, ``InvalidName``.
    """
    if not pool.writable:
        yield pool.tree(name)
        return
    pool.root(name)
    database = pool.store.database
    lease: Lease | None = None
    with contextlib.suppress(AccessDenied, NoSpace):
        lease = Lease(pool.path / files.LEASES, database, pool._catalogue.epoch, pool._marker.file_mode, kind="read")
    try:
        while True:
            root = pool.root(name)
            if lease is not None:
                # In the transaction that looks the name up: what it refers to then is still there.
                with database.transaction():
                    root = pool.root(name)
                    if root is not None:
                        database.execute("INSERT OR IGNORE INTO pin(lease, root) VALUES (?, ?)", (lease.name, root))
            tree = pool.tree(name)
            if pool.root(name) == root:  # a tag may move
                break
        yield tree
    finally:
        if lease is not None:
            lease.close()
            _collect(pool)


def _collect(pool: "Pool") -> None:
    """What only the pin kept is freed in the background."""
    from lamina.pool.collecting.background import Background

    with contextlib.suppress(LaminaError):
        Background(pool).start()
