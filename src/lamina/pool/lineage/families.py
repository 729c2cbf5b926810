"""Who depends on whom: datasets on the datasets above them, snapshots on theirs, clones on their origins."""

from collections.abc import Iterable

from lamina.pool.catalogue import Catalogue, DatasetRow, SnapshotRow

Row = DatasetRow | SnapshotRow


def origin_names(catalogue: Catalogue) -> dict[int, str]:
    """Full names of the origins of all clones, by the clone's row."""
    rows = catalogue.database.query(
        "SELECT c.id, d.name, s.name FROM dataset c JOIN snapshot s ON s.id = c.origin JOIN dataset d "
        "ON d.id = s.dataset WHERE c.origin IS NOT NULL"
    )
    return {number: f"{dataset}@{name}" for number, dataset, name in rows}


class Family:
    """Dependents by what they depend on, read for one decision and as far as it needs them."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._datasets: dict[int, DatasetRow] = {}
        self._children: dict[str, list[DatasetRow]] = {}
        """By the name above; a name that is there has all below it there."""
        self._clones: dict[int, list[int]] = {}
        rows = catalogue.database.query("SELECT origin, id FROM dataset WHERE origin IS NOT NULL ORDER BY name")
        for origin, number in rows:
            self._clones.setdefault(origin, []).append(number)

    def name(self, row: Row) -> str:
        """Full name of a dataset or snapshot."""
        return row.name if isinstance(row, DatasetRow) else f"{self._dataset(row.dataset).name}@{row.name}"

    def clone_ids(self, snapshot: int) -> list[int]:
        """Rows of the datasets whose origin a snapshot is."""
        return self._clones.get(snapshot, [])

    def closure(self, roots: Iterable[Row], *, clones: bool) -> list[Row]:
        """``roots`` and all that depends on them, each after what depends on it; of clones only with ``clones``."""
        found: dict[tuple[type[Row], int], Row] = {}
        seen: set[tuple[type[Row], int]] = set()
        # No recursion: clones of clones of clones may go deeper than Python's stack.
        waiting = [(row, False) for row in reversed(list(roots))]
        while waiting:
            row, done = waiting.pop()
            key = (type(row), row.id)
            if done:
                found[key] = row
            elif key not in seen:
                seen.add(key)
                waiting.append((row, True))
                waiting += [(one, False) for one in reversed(self._depending(row, clones))]
        return list(found.values())

    def dependents(self, rows: Iterable[Row]) -> list[Row]:
        """Clones of the snapshots among ``rows`` with all that depends on those, as far as it is not in ``rows``."""
        rows = list(rows)
        within = {(type(row), row.id) for row in rows}
        cloned = [row for row in rows if isinstance(row, SnapshotRow) and row.id in self._clones]
        return [row for row in self.closure(cloned, clones=True) if (type(row), row.id) not in within]

    def _depending(self, row: Row, clones: bool) -> list[Row]:
        if isinstance(row, SnapshotRow):
            return [self._dataset(number) for number in self.clone_ids(row.id)] if clones else []
        return [*self._below(row), *self._catalogue.snapshots(row.id)]

    def _below(self, dataset: DatasetRow) -> list[DatasetRow]:
        """The children of a dataset."""
        if dataset.name not in self._children:
            for row in self._catalogue.datasets(dataset.name):
                self._datasets[row.id] = row
                self._children[row.name] = []
                if row.id != dataset.id:
                    self._children[row.name.rpartition("/")[0]].append(row)
        return self._children[dataset.name]

    def _dataset(self, number: int) -> DatasetRow:
        if number not in self._datasets:
            self._datasets[number] = self._catalogue.dataset_by_id(number)
        return self._datasets[number]
