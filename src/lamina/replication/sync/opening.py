"""Opening the pools of a sync."""

from lamina.errors import AccessDenied, NoSpace, NotFound, UsageError
from lamina.pool.names import pool_of_name, printable
from lamina.pool.pool import Pool, pool_names, pool_of
from lamina.replication.sync.terms import Terms


def open_source(terms: Terms) -> Pool:
    """The pool that is sent from: writable where that is possible, so that what is sent can be pinned."""
    absent = f"cannot open '{printable(terms.source)}': dataset does not exist"
    try:
        return _opened(terms.source, absent, write=True)
    except (AccessDenied, NoSpace):
        return _opened(terms.source, absent, write=False)


def open_destination(terms: Terms) -> Pool:
    """The pool that is received into."""
    if "@" in terms.destination or "#" in terms.destination:
        raise UsageError(f"'{printable(terms.destination)}' is no dataset: snapshots keep the names that they have")
    shown = printable(pool_of_name(terms.destination))
    pool = _opened(
        terms.destination,
        f"cannot open '{shown}': dataset does not exist\ncannot receive: unable to restore to destination",
        write=True,
    )
    pool.command = terms.command
    return pool


def _opened(name: str, absent: str, *, write: bool) -> Pool:
    try:
        return pool_of(name, write=write)
    except NotFound:
        # A pool that is known but whose directory is gone has a message of its own, which says more.
        if pool_of_name(name) in pool_names():
            raise
        raise NotFound(absent) from None
