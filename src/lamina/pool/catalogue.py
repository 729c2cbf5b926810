"""The names of a pool: datasets, snapshots, properties and roots, as rows.

Every change is one transaction that also appends a name record to a pack (``pool/records.py``): packs alone bring the
names back. When the records since the last full one outweigh it, a full one is written, and gc lets the older ones go.
"""

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lamina.errors import NotFound
from lamina.pool.names import printable, split_snapshot
from lamina.pool.recording import add_history, put_change
from lamina.pool.records import Author
from lamina.store.database import Database

if TYPE_CHECKING:
    from lamina.store.writer import StoreWriter


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A dataset. ``head`` is the row of its root object, None for an empty file system; ``taken`` bytes."""

    id: int
    name: str
    guid: int
    creation: int
    txg: int
    head: int | None
    follows: int | None
    taken: int
    origin: int | None


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A snapshot; ``name`` is the part after the ``@``. ``defer``: it goes with its last hold or clone."""

    id: int
    dataset: int
    name: str
    guid: int
    creation: int
    txg: int
    kind: str
    root: int | None
    taken: int
    defer: int = 0


_DATASET = "id, name, guid, creation, txg, head, follows, taken, origin"
_SNAPSHOT = "id, dataset, name, guid, creation, txg, kind, root, taken, defer"


@dataclass
class Change:
    """A change of names that is being made: what it has touched is written to its name record."""

    txg: int
    time: int
    datasets: set[int] = field(default_factory=set)
    snapshots: set[int] = field(default_factory=set)
    bookmarks: set[int] = field(default_factory=set)
    dropped: list[tuple[str, int]] = field(default_factory=list)
    accounting: bool = False
    pool: bool = False
    """Properties of the pool itself, which are rows of ``meta``."""
    full: bool = False
    """All names are to be recorded, not only what changed."""


class Catalogue:
    """Rows of names by name. Changes are made inside ``change``."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.command: str | None = None
        """What the history says of changes made through this object; None: nothing."""
        self.let_go = False
        """Whether a change made through this object took a name from something: gc may have work."""

    # -- meta -----------------------------------------------------------------------------------------------------

    def meta(self, name: str) -> Any:
        """A value of the pool's own.

        ``guid``, ``txg``, ``generation``, ``epoch`` (the clock of gc), ``record`` (key of the last name record),
        ``names_from`` (row of the last full one), ``names_full`` and ``names_since`` (bytes of it, and of those after),
        ``comment``, ``formerly`` (guids that the pool had before, as JSON), ``next_guid`` (one that it is to get).
        """
        rows = self.database.query("SELECT value FROM meta WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def set_meta(self, name: str, value: Any) -> None:
        """Set one, inside a transaction."""
        self.database.execute("INSERT OR REPLACE INTO meta(name, value) VALUES (?, ?)", (name, value))

    def generation(self) -> int:
        """How often what names reach has changed: figures of accounting hold for one generation."""
        return int(self.meta("generation") or 0)

    def epoch(self) -> int:
        """How often gc has condemned objects."""
        return int(self.meta("epoch") or 0)

    # -- finding --------------------------------------------------------------------------------------------------

    def find_dataset(self, name: str) -> DatasetRow | None:
        """The dataset of this name."""
        rows = self.database.query(f"SELECT {_DATASET} FROM dataset WHERE name = ?", (name,))
        return DatasetRow(*rows[0]) if rows else None

    def dataset(self, name: str, verb: str = "open") -> DatasetRow:
        """The dataset of this name. Raises ``NotFound`` in OpenZFS's words."""
        row = self.find_dataset(name)
        if row is None:
            raise NotFound(f"cannot {verb} '{printable(name)}': dataset does not exist")
        return row

    def dataset_by_id(self, number: int) -> DatasetRow:
        """A dataset by its row."""
        return DatasetRow(*self.database.query(f"SELECT {_DATASET} FROM dataset WHERE id = ?", (number,))[0])

    def snapshot_by_id(self, number: int) -> SnapshotRow:
        """A snapshot by its row."""
        return SnapshotRow(*self.database.query(f"SELECT {_SNAPSHOT} FROM snapshot WHERE id = ?", (number,))[0])

    def datasets(self, below: str | None = None) -> list[DatasetRow]:
        """All datasets, or ``below`` and those under it, parents before children, in order of name components."""
        if below is None:
            rows = self.database.query(f"SELECT {_DATASET} FROM dataset")
        else:
            rows = self.database.query(
                f"SELECT {_DATASET} FROM dataset WHERE name = ? OR (name >= ? AND name < ?)",
                (below, below + "/", below + "0"),  # "0" follows "/" in ASCII
            )
        return sorted((DatasetRow(*row) for row in rows), key=lambda row: row.name.split("/"))

    def find_snapshot(self, name: str) -> SnapshotRow | None:
        """The snapshot of this full name."""
        dataset, snapshot = split_snapshot(name)
        rows = self.database.query(
            f"SELECT {', '.join('s.' + column for column in _SNAPSHOT.split(', '))} FROM snapshot s "
            "JOIN dataset d ON d.id = s.dataset WHERE d.name = ? AND s.name = ?",
            (dataset, snapshot),
        )
        return SnapshotRow(*rows[0]) if rows else None

    def snapshots(self, dataset: int | None = None, *, numbers: Collection[int] | None = None) -> list[SnapshotRow]:
        """Snapshots of a dataset, or of all, in the order they were made; ``numbers``: some by row instead."""
        if numbers is not None:
            marks = ",".join("?" * len(numbers))
            rows = self.database.query(f"SELECT {_SNAPSHOT} FROM snapshot WHERE id IN ({marks})", tuple(numbers))
        elif dataset is None:
            rows = self.database.query(f"SELECT {_SNAPSHOT} FROM snapshot ORDER BY txg, id")
        else:
            rows = self.database.query(
                f"SELECT {_SNAPSHOT} FROM snapshot WHERE dataset = ? ORDER BY txg, id", (dataset,)
            )
        return [SnapshotRow(*row) for row in rows]

    def local_properties(self) -> dict[int, dict[str, str]]:
        """Properties set on datasets, by row."""
        found: dict[int, dict[str, str]] = {}
        for dataset, name, value in self.database.query("SELECT dataset, name, value FROM dataset_property"):
            found.setdefault(dataset, {})[name] = value
        return found

    def snapshot_properties(self) -> dict[int, dict[str, str]]:
        """Properties set on snapshots, by row."""
        found: dict[int, dict[str, str]] = {}
        for snapshot, name, value in self.database.query("SELECT snapshot, name, value FROM snapshot_property"):
            found.setdefault(snapshot, {})[name] = value
        return found

    # -- changing -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def change(self, writer: "StoreWriter") -> Iterator[Change]:
        """One transaction of changes of names, with its record in a pack."""
        with writer.commit() as put_names:
            change = Change(txg=int(self.meta("txg") or 0) + 1, time=int(time.time()))
            yield change
            self.set_meta("txg", change.txg)
            if change.accounting:
                self.set_meta("generation", self.generation() + 1)
            put_change(self, put_names, change)

    def write_full(self, writer: "StoreWriter") -> None:
        """Write a record of all names: what is older than it may go, and it is the backup of this catalogue."""
        with self.change(writer) as change:
            change.full = True

    def log_event(self, text: str) -> None:
        """A line of history that no command made, inside a transaction: shown by ``pool history -i``."""
        add_history(self, int(time.time()), int(self.meta("txg") or 0), Author(command=f"[{text}]"))

    def add_dataset(self, change: Change, name: str, properties: dict[str, str]) -> int:
        """A new, empty dataset; its row. Kept figures still hold: it reaches nothing, and what has none kept is 0."""
        number = self.database.execute(
            "INSERT INTO dataset(name, guid, creation, txg) VALUES (?, ?, ?, ?)",
            (name, _new_guid(), change.time, change.txg),
        )
        self.set_dataset_properties(change, number, properties)
        change.datasets.add(number)
        return number

    def add_snapshot(self, change: Change, dataset: int, name: str, kind: str, root: int | None, taken: int) -> int:
        """A new snapshot; its row."""
        number = self.database.execute(
            "INSERT INTO snapshot(dataset, name, guid, creation, txg, kind, root, taken) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (dataset, name, _new_guid(), change.time, change.txg, kind, root, taken),
        )
        change.snapshots.add(number)
        change.accounting = True
        return number

    def set_head(self, change: Change, dataset: int, head: int | None, follows: int | None, taken: int) -> None:
        """Move the head of a dataset."""
        if self.database.query(
            "SELECT 1 FROM dataset WHERE id = ? AND head IS NOT NULL AND head IS NOT ?", (dataset, head)
        ):
            self.let_go = True
        self.database.execute(
            "UPDATE dataset SET head = ?, follows = ?, taken = ? WHERE id = ?", (head, follows, taken, dataset)
        )
        change.datasets.add(dataset)
        change.accounting = True

    def set_dataset_properties(self, change: Change, dataset: int, properties: dict[str, str]) -> None:
        """Set properties locally."""
        self.database.execute_many(
            "INSERT OR REPLACE INTO dataset_property(dataset, name, value) VALUES (?, ?, ?)",
            [(dataset, name, value) for name, value in properties.items()],
        )
        change.datasets.add(dataset)

    def set_snapshot_properties(self, change: Change, snapshot: int, properties: dict[str, str]) -> None:
        """Set user properties of a snapshot."""
        self.database.execute_many(
            "INSERT OR REPLACE INTO snapshot_property(snapshot, name, value) VALUES (?, ?, ?)",
            [(snapshot, name, value) for name, value in properties.items()],
        )
        change.snapshots.add(snapshot)

    def clear_property(self, change: Change, dataset: int | None, snapshot: int | None, name: str) -> None:
        """Forget a local property of a dataset or a snapshot."""
        if dataset is not None:
            self.database.execute("DELETE FROM dataset_property WHERE dataset = ? AND name = ?", (dataset, name))
            change.datasets.add(dataset)
        if snapshot is not None:
            self.database.execute("DELETE FROM snapshot_property WHERE snapshot = ? AND name = ?", (snapshot, name))
            change.snapshots.add(snapshot)

    def rename_dataset(self, change: Change, old: str, new: str) -> None:
        """Rename a dataset and all below it."""
        for row in self.datasets(old):
            self.database.execute("UPDATE dataset SET name = ? WHERE id = ?", (new + row.name[len(old) :], row.id))
            change.datasets.add(row.id)
        change.accounting = True

    def rename_snapshot(self, change: Change, snapshot: int, name: str) -> None:
        """Rename a snapshot within its dataset."""
        self.database.execute("UPDATE snapshot SET name = ? WHERE id = ?", (name, snapshot))
        change.snapshots.add(snapshot)

    def drop_snapshots(self, change: Change, snapshots: Sequence[int]) -> None:
        """Remove snapshots' rows.

        A head that followed one goes back to the image imported before; where there is none, to its origin's tree, or
        is empty.
        """
        gone = set(snapshots)
        followed = self.database.query("SELECT id, follows FROM dataset WHERE follows IS NOT NULL")
        self.database.execute_many("DELETE FROM snapshot WHERE id = ?", [(number,) for number in snapshots])
        for dataset, follows in followed:
            if follows in gone:
                images = self.database.query(
                    "SELECT root, id, taken FROM snapshot WHERE dataset = ? AND kind = 'image' "
                    "ORDER BY txg DESC, id DESC LIMIT 1",
                    (dataset,),
                )
                self.set_head(change, dataset, *(images[0] if images else (self._origin_root(dataset), None, 0)))
        self.let_go = self.let_go or bool(gone)
        change.snapshots -= gone
        change.dropped += [("snapshot", number) for number in snapshots]
        change.accounting = change.accounting or bool(gone)

    def _origin_root(self, dataset: int) -> int | None:
        rows = self.database.query(
            "SELECT s.root FROM dataset d JOIN snapshot s ON s.id = d.origin WHERE d.id = ?", (dataset,)
        )
        return rows[0][0] if rows else None

    def drop_dataset(self, change: Change, dataset: int) -> None:
        """Remove a dataset's row; its snapshots are gone before."""
        self.database.execute("DELETE FROM dataset WHERE id = ?", (dataset,))
        self.let_go = True
        change.datasets.discard(dataset)
        change.dropped.append(("dataset", dataset))
        change.accounting = True

    def sweep_trees(self) -> None:
        """Forget totals and bitmaps of roots that no name refers to, inside a transaction."""
        self.database.execute(
            "DELETE FROM tree WHERE root NOT IN (SELECT head FROM dataset WHERE head IS NOT NULL "
            "UNION SELECT root FROM snapshot WHERE root IS NOT NULL)"
        )


def _new_guid() -> int:
    return int.from_bytes(os.urandom(8), "big") >> 1
