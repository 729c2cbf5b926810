"""Keeping images from being freed while they are read: what is destroyed meanwhile is still given out whole."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.fs.view import TreeView
from lamina.pool.collecting.reading import pin, reading

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


@contextlib.contextmanager
def held(pool: "Pool", name: str) -> Iterator[TreeView]:
    """The tree of a snapshot, pinned as long as the context is entered.

    Whoever may not write to the pool reads without a pin: what is freed meanwhile is then found missing. Raises
    ``NotFound``, ``InvalidName``.
    """
    database = pool.store.database
    with reading(pool) as lease:
        while True:
            root = pool.root(name)
            if lease is not None:
                # In the transaction that looks the name up: what it refers to then is still there.
                with database.transaction():
                    root = pool.root(name)
                    if root is not None:
                        pin(database, lease.name, (root,))
            tree = pool.tree(name)
            if pool.root(name) == root:  # a tag may move
                break
        yield tree
