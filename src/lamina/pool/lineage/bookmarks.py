"""Bookmarks, ``dataset#name``: they remember which snapshot there was, and keep nothing of what it held."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyroaring import BitMap64

from lamina.errors import AlreadyExists, InvalidName, LaminaError, NotFound
from lamina.pool.catalogue import Catalogue, Change, SnapshotRow
from lamina.pool.lineage.snapshots import open_snapshot, snapshot_by_id
from lamina.pool.names import dataset_name_error, printable, snapshot_name_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.pool.pool import Pool


@dataclass(frozen=True, slots=True)
class BookmarkRow:
    """A bookmark: guid, creation and txg are those of its snapshot; ``name`` is the part after the ``#``."""

    id: int
    dataset: int
    name: str
    guid: int
    creation: int
    txg: int


_COLUMNS = "id, dataset, name, guid, creation, txg"


def check_bookmark_name(name: str, verb: str) -> None:
    """Raise ``InvalidName`` unless ``name`` is ``dataset#bookmark``."""
    dataset, delimiter, bookmark = name.partition("#")
    if not delimiter:
        reason: str | None = "missing '#' delimiter in bookmark name"
    elif "#" in bookmark or "@" in bookmark:
        reason = "multiple '@' and/or '#' delimiters in name"
    else:
        # What a snapshot may be called, a bookmark may.
        reason = dataset_name_error(dataset) or snapshot_name_error(f"{dataset}@{bookmark}")
    if reason is not None:
        raise InvalidName(f"cannot {verb} '{printable(name)}': {reason}")


def find_bookmark(catalogue: Catalogue, name: str) -> BookmarkRow | None:
    """The bookmark of this full name."""
    dataset, _, bookmark = name.partition("#")
    columns = ", ".join(f"b.{column}" for column in _COLUMNS.split(", "))
    rows = catalogue.database.query(
        f"SELECT {columns} FROM bookmark b JOIN dataset d ON d.id = b.dataset WHERE d.name = ? AND b.name = ?",
        (dataset, bookmark),
    )
    return BookmarkRow(*rows[0]) if rows else None


def open_bookmark(catalogue: Catalogue, name: str) -> BookmarkRow:
    """The bookmark of this full name. Raises ``NotFound``, ``InvalidName``."""
    check_bookmark_name(name, "open")
    row = find_bookmark(catalogue, name)
    if row is None:
        raise NotFound(f"cannot open '{name}': dataset does not exist")
    return row


def bookmarks_of(catalogue: Catalogue, dataset: int | None = None) -> list[BookmarkRow]:
    """Bookmarks of a dataset, or of all, by name."""
    where, parameters = ("", ()) if dataset is None else ("WHERE dataset = ?", (dataset,))
    rows = catalogue.database.query(f"SELECT {_COLUMNS} FROM bookmark {where} ORDER BY name", parameters)
    return [BookmarkRow(*row) for row in rows]


def drop_bookmarks(catalogue: Catalogue, change: Change, bookmarks: "Sequence[BookmarkRow]") -> None:
    """Remove bookmarks inside a change."""
    for row in bookmarks:
        catalogue.database.execute("DELETE FROM bookmark WHERE id = ?", (row.id,))
        change.bookmarks.discard(row.id)
        change.dropped.append(("bookmark", row.id))


def bookmark(pool: "Pool", source: str, name: str) -> None:
    """See ``Pool.bookmark``."""
    catalogue = pool._catalogue

    def found() -> SnapshotRow | BookmarkRow:
        row = open_bookmark(catalogue, source) if "#" in source else open_snapshot(catalogue, source)
        check_bookmark_name(name, "create bookmark")
        refused = f"cannot create bookmark '{name}': "
        dataset = catalogue.find_dataset(name.partition("#")[0])
        if dataset is None:
            raise NotFound(refused + "dataset does not exist")
        if find_bookmark(catalogue, name) is not None:
            raise AlreadyExists(refused + "bookmark exists")
        if not _descends(catalogue, dataset.id, row):
            raise LaminaError(refused + "source is not an ancestor of the new bookmark's dataset")
        return row

    found()
    with pool._writer() as writer, catalogue.change(writer) as change:
        row = found()
        number = catalogue.database.execute(
            "INSERT INTO bookmark(dataset, name, guid, creation, txg) VALUES (?, ?, ?, ?, ?)",
            (catalogue.dataset(name.partition("#")[0]).id, name.partition("#")[2], row.guid, row.creation, row.txg),
        )
        change.bookmarks.add(number)
        _keep_objects(catalogue, number, row)


def _keep_objects(catalogue: Catalogue, bookmark: int, source: SnapshotRow | BookmarkRow) -> None:
    """Note what the snapshot held: row numbers mean the same for ever, so a stream can leave out just that."""
    if isinstance(source, SnapshotRow):
        rows = catalogue.database.query("SELECT objects FROM tree WHERE root = ?", (source.root,))
        blob: bytes | None = rows[0][0] if rows else BitMap64().serialize() if source.root is None else None
    else:
        rows = catalogue.database.query("SELECT objects FROM bookmark_objects WHERE bookmark = ?", (source.id,))
        blob = rows[0][0] if rows else None
    if blob is not None:
        catalogue.database.execute("INSERT INTO bookmark_objects(bookmark, objects) VALUES (?, ?)", (bookmark, blob))


def _descends(catalogue: Catalogue, dataset: int, source: SnapshotRow | BookmarkRow) -> bool:
    """Whether a dataset has come out of the source's: is the same, or by way of clones of it or of a later snapshot."""
    seen: set[int] = set()
    while dataset != source.dataset and dataset not in seen:
        seen.add(dataset)
        origin = catalogue.dataset_by_id(dataset).origin
        if origin is None:
            return False
        row = snapshot_by_id(catalogue, origin)
        if row.dataset == source.dataset and row.txg < source.txg:
            return False
        dataset = row.dataset
    return dataset == source.dataset
