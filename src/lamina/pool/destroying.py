"""What a destroy takes away, and OpenZFS's refusals."""

from collections.abc import Sequence

from lamina.errors import Busy, NotFound
from lamina.pool.catalogue import Catalogue
from lamina.pool.listing import list_entries
from lamina.pool.names import split_snapshot


def doomed(catalogue: Catalogue, pool: str, name: str, recursive: bool) -> list[str]:
    """What a destroy takes, children and snapshots before their dataset."""
    dataset, snapshot = split_snapshot(name)
    if snapshot is not None:
        rows = catalogue.datasets(dataset) if recursive else [catalogue.dataset(dataset, "open")]
        names = [f"{row.name}@{snapshot}" for row in rows]
        names = [one for one in names if catalogue.find_snapshot(one) is not None]
        if not names:
            raise NotFound("could not find any snapshots to destroy; check snapshot names.")
        _check_clones(catalogue, name, names)
        return names
    catalogue.dataset(name)
    entries = list_entries(catalogue, pool, [name], True, None, ("filesystem", "snapshot"))
    if not recursive and name == pool:
        raise Busy(
            f"cannot destroy '{name}': operation does not apply to pools\n"
            f"use 'lamina destroy -r {name}' to destroy all datasets in the pool"
        )
    if not recursive and len(entries) > 1:
        below = "\n".join(entry.name for entry in entries[1:])
        raise Busy(
            f"cannot destroy '{name}': filesystem has children\nuse '-r' to destroy the following datasets:\n{below}"
        )
    # The pool's root dataset stays: it is the pool.
    names = [entry.name for entry in reversed(entries) if entry.name != pool]
    _check_clones(catalogue, name, names)
    return names


def _check_clones(catalogue: Catalogue, name: str, names: Sequence[str]) -> None:
    doomed = {catalogue.find_snapshot(one).id for one in names if "@" in one}  # type: ignore[union-attr]
    clones = [row.name for row in catalogue.datasets() if row.origin in doomed and row.name not in names]
    if clones:
        below = "\n".join(clones)
        raise Busy(
            f"cannot destroy '{name}': filesystem has dependent clones\n"
            f"destroy or promote the following datasets first:\n{below}"
        )
