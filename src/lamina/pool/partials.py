"""Receives that were cut and are to go on: what they have brought, kept from gc by a row until it is named or dropped.

The objects are whole and in the index; no tree reaches them yet. ``receive_resume_token`` is the row's token.
"""

from dataclasses import dataclass

from pyroaring import BitMap64

from lamina.pool.catalogue import Catalogue

_COLUMNS = "dataset, guid, source, root, after, made, token, objects"


@dataclass(frozen=True, slots=True)
class Partial:
    """A receive that was cut. ``guid``, ``source`` and ``root`` are those of the snapshot that was coming.

    ``after``: the key of the last object that has come; ``made``: the dataset was made for it.
    """

    dataset: int
    guid: int
    source: int | None
    root: bytes | None
    after: bytes
    made: bool
    token: str
    objects: BitMap64


def find_partial(catalogue: Catalogue, dataset: int) -> Partial | None:
    """What was received for a dataset and is not named yet."""
    rows = catalogue.database.query(f"SELECT {_COLUMNS} FROM partial WHERE dataset = ?", (dataset,))
    if not rows:
        return None
    number, guid, source, root, after, made, token, objects = rows[0]
    return Partial(number, guid, source, root, after, bool(made), token, BitMap64.deserialize(objects))


def partial_token(catalogue: Catalogue, dataset: int) -> str | None:
    """The token with which a receive into a dataset goes on."""
    rows = catalogue.database.query("SELECT token FROM partial WHERE dataset = ?", (dataset,))
    return rows[0][0] if rows else None


def received_properties(catalogue: Catalogue) -> dict[int, dict[str, str]]:
    """What streams last said of datasets' properties, by row: values that were received, unless others hold now."""
    found: dict[int, dict[str, str]] = {}
    for dataset, name, value in catalogue.database.query("SELECT dataset, name, value FROM received_property"):
        found.setdefault(dataset, {})[name] = value
    return found


def put_partial(catalogue: Catalogue, partial: Partial) -> None:
    """Note it, or how far it has come, inside a change of names: gc looks again after each of these."""
    objects = partial.objects.copy()
    objects.run_optimize()
    catalogue.database.execute(
        f"INSERT OR REPLACE INTO partial({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(partial.dataset, partial.guid, partial.source, partial.root, partial.after, int(partial.made)),
            *(partial.token, objects.serialize()),
        ),
    )


def drop_partial(catalogue: Catalogue, dataset: int) -> None:
    """Forget it, inside a change of names: its objects are named now, or left to gc."""
    catalogue.database.execute("DELETE FROM partial WHERE dataset = ?", (dataset,))
