"""Pins of whoever reads trees for a while: what is destroyed meanwhile stays until the reader has finished."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lamina.errors import AccessDenied, LaminaError, NoSpace
from lamina.pool import files
from lamina.store.database import Database
from lamina.store.lease import Lease

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


def pin(database: Database, lease: str, roots: Iterable[int]) -> None:
    """Keep trees, by the rows of their roots, as long as a lease lives; in the transaction that looked them up."""
    database.execute_many("INSERT OR IGNORE INTO pin(lease, root) VALUES (?, ?)", ((lease, root) for root in roots))


@contextlib.contextmanager
def reading(pool: "Pool") -> Iterator[Lease | None]:
    """A lease for pins; what only they kept is freed in the background afterwards.

    None for whoever may not write to the pool, or finds its disk full: such a reader has to do without.
    """
    lease: Lease | None = None
    if pool.writable:
        with contextlib.suppress(AccessDenied, NoSpace):
            mode = pool._marker.file_mode
            lease = Lease(pool.path / files.LEASES, pool.store.database, pool._catalogue.epoch, mode, kind="read")
    try:
        yield lease
    finally:
        if lease is not None:
            lease.close()
            _collect(pool)


def _collect(pool: "Pool") -> None:
    from lamina.pool.collecting.background import Background

    with contextlib.suppress(LaminaError):  # whoever changes names next starts it
        Background(pool).start()
