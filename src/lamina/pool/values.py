"""What a property's value is for a dataset or snapshot, and where it comes from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lamina.errors import NotFound
from lamina.pool.accounting import Accounting, Figures
from lamina.pool.catalogue import Catalogue, DatasetRow, SnapshotRow
from lamina.pool.names import parent_of, printable
from lamina.pool.properties import (
    PROPERTIES,
    Raw,
    default_value,
    inherited_value,
    is_user_property,
    properties_for,
    raw_value,
)

FIGURES = frozenset(
    [
        "used",
        "referenced",
        "usedbydataset",
        "usedbychildren",
        "usedbysnapshots",
        "usedbyrefreservation",
        "unique",
        "compressratio",
        "refcompressratio",
        "dedupratio",
        "reduction",
        "logicalused",
        "logicalreferenced",
        "available",
        "quota",
    ]
)


@dataclass(frozen=True, slots=True)
class PropertyValue:
    """A raw value (bytes, seconds, ratios, words; None prints ``-``) and its source in OpenZFS's words."""

    value: Raw
    source: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A dataset or snapshot. ``kind`` is ``image`` or ``snapshot`` for snapshots, empty for datasets."""

    name: str
    type: str
    id: int
    kind: str = ""


class Values:
    """Answers for many entries from one reading of the rows."""

    def __init__(self, catalogue: Catalogue, free: int, mounted: Mapping[str, str]) -> None:
        """``free``: bytes that the pool can still take; ``mounted``: mount points by dataset or snapshot name."""
        self._catalogue = catalogue
        self._free = free
        self._mounted = mounted
        self._snapshots: dict[int, SnapshotRow] = {}
        self._snapshot_local: dict[int, dict[str, str]] = {}
        self._figures: tuple[dict[int, Figures], dict[int, Figures]] | None = None
        self._read(False, False)

    def get(self, entries: Iterable[Entry], names: Sequence[str] | None) -> list[dict[str, PropertyValue]]:
        """Values by property name for each entry; ``names`` None: all that apply, user properties last.

        Raises ``NotFound`` for an entry that is gone by now.
        """
        entries = list(entries)
        with_snapshots = any(entry.type == "snapshot" for entry in entries)
        with_figures = names is None or not FIGURES.isdisjoint(names)
        if with_snapshots or with_figures:
            self._read(with_snapshots, with_figures)
        return [self._entry(self._current(entry), names) for entry in entries]

    def _read(self, with_snapshots: bool, with_figures: bool) -> None:
        """Rows as of one change of names: those of another process's change in between are read anew, a few times."""
        for _ in range(5):
            txg = self._catalogue.meta("txg")
            self._rows: dict[int, DatasetRow] = {row.id: row for row in self._catalogue.datasets()}
            self._by_name = {row.name: row for row in self._rows.values()}
            self._local = self._catalogue.local_properties()
            if with_snapshots:
                self._snapshots = {row.id: row for row in self._catalogue.snapshots()}
                self._snapshot_local = self._catalogue.snapshot_properties()
            if with_figures:
                self._figures = Accounting(self._catalogue).figures()
            if self._catalogue.meta("txg") == txg:
                return

    def _current(self, entry: Entry) -> Entry:
        """The entry under the name that it has now: another process may have renamed or destroyed it."""
        if entry.type == "snapshot":
            snapshot = self._snapshots.get(entry.id)
            if snapshot is not None and snapshot.dataset in self._rows:
                name = f"{self._rows[snapshot.dataset].name}@{snapshot.name}"
                return Entry(name, entry.type, entry.id, entry.kind)
        elif entry.id in self._rows:
            return Entry(self._rows[entry.id].name, entry.type, entry.id)
        raise NotFound(f"cannot open '{printable(entry.name)}': dataset does not exist")

    def setting(self, dataset: str, name: str) -> tuple[str, str]:
        """(stored value, source) of a settable property of a dataset."""
        found = PROPERTIES.get(name)
        above: str | None = dataset
        while above is not None:
            row = self._by_name.get(above)
            local = self._local.get(row.id, {}) if row is not None else {}
            if name in local:
                value = inherited_value(name, local[name], above, dataset)
                return value, "local" if above == dataset else f"inherited from {above}"
            if found is not None and not found.inheritable:
                break
            above = parent_of(above)
        return default_value(name) or "", "default"

    def _entry(self, entry: Entry, names: Sequence[str] | None) -> dict[str, PropertyValue]:
        if names is None:
            names = [found.name for found in properties_for(entry.type)] + sorted(self._user_properties(entry))
        value = self._snapshot_value if entry.type == "snapshot" else self._dataset_value
        return {name: value(entry, name) for name in names}

    def _user_properties(self, entry: Entry) -> set[str]:
        found: set[str] = set()
        above: str | None = entry.name
        if entry.type == "snapshot":
            found.update(self._snapshot_local.get(entry.id, {}))
            above = parent_of(entry.name)
        while above is not None:
            found.update(name for name in self._local.get(self._by_name[above].id, {}) if is_user_property(name))
            above = parent_of(above)
        return found

    def _user(self, entry: Entry, name: str) -> PropertyValue:
        dataset = entry.name
        if entry.type == "snapshot":
            local = self._snapshot_local.get(entry.id, {})
            if name in local:
                return PropertyValue(local[name], "local")
            dataset = parent_of(entry.name) or ""
            value, source = self.setting(dataset, name)
            if source == "local":
                source = f"inherited from {dataset}"
        else:
            value, source = self.setting(dataset, name)
        return PropertyValue(None, "-") if source == "default" else PropertyValue(value, source)

    def _dataset_value(self, entry: Entry, name: str) -> PropertyValue:
        row = self._rows[entry.id]
        found = PROPERTIES.get(name)
        if found is None:
            return self._user(entry, name)
        if not found.filesystem:
            return PropertyValue(None, "-")
        if found.settable:
            value, source = self.setting(entry.name, name)
            return PropertyValue(raw_value(name, value), source)
        if name == "mounted":
            return PropertyValue("yes" if entry.name in self._mounted else "no", "-")
        if name == "origin":
            return PropertyValue(self._origin(row), "-")
        if name == "available":
            return PropertyValue(self._available(row), "-")
        return PropertyValue(_plain(name, row, "filesystem", self._figure(0, row.id)), "-")

    def _snapshot_value(self, entry: Entry, name: str) -> PropertyValue:
        found = PROPERTIES.get(name)
        if found is None:
            return self._user(entry, name)
        if not found.snapshot:
            return PropertyValue(None, "-")
        if name == "mounted":
            return PropertyValue("yes" if entry.name in self._mounted else "no", "-")
        return PropertyValue(_plain(name, self._snapshots[entry.id], "snapshot", self._figure(1, entry.id)), "-")

    def _figure(self, which: int, number: int) -> Figures:
        return self._figures[which].get(number, Figures()) if self._figures is not None else Figures()

    def _origin(self, row: DatasetRow) -> str | None:
        if row.origin is None:
            return None
        for snapshot in self._catalogue.snapshots():
            if snapshot.id == row.origin:
                return f"{self._rows[snapshot.dataset].name}@{snapshot.name}"
        return None

    def _available(self, row: DatasetRow) -> int:
        """What the pool has free, or the least that a quota here or above leaves."""
        free = self._free
        above: str | None = row.name
        while above is not None:
            quota = int(self.setting(above, "quota")[0])
            if quota:
                free = min(free, quota - self._figure(0, self._by_name[above].id).used)
            above = parent_of(above)
        return max(free, 0)


def _plain(name: str, row: DatasetRow | SnapshotRow, type_name: str, figures: Figures) -> Raw:
    """Values that stand in the row or in its figures."""
    if name == "type":
        return type_name
    if name in ("creation", "guid"):
        value: Raw = getattr(row, name)
        return value
    if name == "createtxg":
        return row.txg
    if name == "usedbyrefreservation":
        return 0
    if name in ("compressratio", "refcompressratio", "dedupratio", "reduction"):
        ratio: float = getattr(figures, name)()
        return ratio
    number: Raw = getattr(figures, name)
    return number
