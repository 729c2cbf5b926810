"""What a property's value is for a dataset or snapshot, and where it comes from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lamina.errors import NotFound
from lamina.pool.catalogue import Catalogue, DatasetRow, SnapshotRow
from lamina.pool.figures.accounting import Accounting, Figures
from lamina.pool.figures.limits import Space, read_limits, spaces
from lamina.pool.lineage.bookmarks import BookmarkRow, bookmarks_of
from lamina.pool.lineage.families import origin_names
from lamina.pool.lineage.holds import hold_counts
from lamina.pool.names import parent_of, printable
from lamina.pool.partials import partial_token, received_properties
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
    ]
)
_SPACE = frozenset(["used", "available", "usedbychildren", "usedbyrefreservation"])
"""Those of datasets that limits have a part in."""
_FEW = 200
"""Up to so many snapshots are read one by one."""


_NOTHING = Figures()


@dataclass(frozen=True, slots=True)
class PropertyValue:
    """A raw value (bytes, seconds, ratios, words; None prints ``-``) and its source in OpenZFS's words."""

    value: Raw
    source: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A dataset, snapshot or bookmark. ``kind`` is ``image`` or ``snapshot`` for snapshots, empty for others."""

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
        self._holds: dict[int, int] = {}
        self._clones: dict[int, list[str]] = {}
        self._bookmarks: dict[int, BookmarkRow] = {}
        self._accounting = Accounting(catalogue)
        self._figures: tuple[dict[int, Figures], dict[int, Figures]] = ({}, {})
        self._spaces: dict[int, Space] = {}
        self._read((), ())

    def get(self, entries: Iterable[Entry], names: Sequence[str] | None) -> list[dict[str, PropertyValue]]:
        """Values by property name for each entry; ``names`` None: all that apply, user properties last.

        Raises ``NotFound`` for an entry that is gone by now.
        """
        entries = list(entries)
        if any(entry.type == "bookmark" for entry in entries):
            self._bookmarks = {row.id: row for row in bookmarks_of(self._catalogue)}
        if any(entry.type == "snapshot" for entry in entries) or names is None or not FIGURES.isdisjoint(names):
            self._read(entries, names)
        return [self._entry(self._current(entry), names) for entry in entries]

    def _read(self, entries: Sequence[Entry], names: Sequence[str] | None) -> None:
        """Rows as of one change of names: those of another process's change in between are read anew, a few times."""
        snapshots = {entry.id for entry in entries if entry.type == "snapshot"}
        for _ in range(5):
            txg = self._catalogue.meta("txg")
            self._rows: dict[int, DatasetRow] = {row.id: row for row in self._catalogue.datasets()}
            self._by_name = {row.name: row for row in self._rows.values()}
            self._local = self._catalogue.local_properties()
            self._received = received_properties(self._catalogue)
            self._origins = origin_names(self._catalogue)
            if snapshots:
                rows = self._catalogue.snapshots(numbers=snapshots if len(snapshots) <= _FEW else None)
                self._snapshots = {row.id: row for row in rows}
                self._snapshot_local = self._catalogue.snapshot_properties()
                self._holds = hold_counts(self._catalogue)
                self._clones = {}
                for row in self._rows.values():
                    if row.origin is not None:
                        self._clones.setdefault(row.origin, []).append(row.name)
            if entries and (names is None or not FIGURES.isdisjoint(names)):
                self._read_figures({entry.id for entry in entries if entry.type == "filesystem"}, snapshots, names)
            if self._catalogue.meta("txg") == txg:
                return

    def _read_figures(self, datasets: set[int], snapshots: set[int], names: Sequence[str] | None) -> None:
        """Figures of these entries only; where limits are set, those of all datasets."""
        unique = names is None or "unique" in names
        of_datasets = self._accounting.datasets(datasets, unique=unique) if datasets else {}
        of_snapshots = self._accounting.snapshots(snapshots, unique=unique) if snapshots else {}
        self._figures = (of_datasets, of_snapshots)
        self._spaces = {}
        if datasets and (names is None or not _SPACE.isdisjoint(names)):
            limits = read_limits(self._catalogue)
            if limits:
                everything = self._accounting.datasets()
                self._spaces = spaces(list(self._rows.values()), limits, everything, self._free)

    def _current(self, entry: Entry) -> Entry:
        """The entry under the name that it has now: another process may have renamed or destroyed it."""
        if entry.type == "snapshot":
            snapshot = self._snapshots.get(entry.id)
            if snapshot is not None and snapshot.dataset in self._rows:
                name = f"{self._rows[snapshot.dataset].name}@{snapshot.name}"
                return Entry(name, entry.type, entry.id, entry.kind)
        elif entry.type == "bookmark":
            bookmark = self._bookmarks.get(entry.id)
            if bookmark is not None and bookmark.dataset in self._rows:
                return Entry(f"{self._rows[bookmark.dataset].name}#{bookmark.name}", entry.type, entry.id)
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
            names = [found.name for found in properties_for(entry.type)]
            names += sorted(self._user_properties(entry)) if entry.type != "bookmark" else []
        values = {"snapshot": self._snapshot_value, "bookmark": self._bookmark_value}
        value = values.get(entry.type, self._dataset_value)
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

    def _source(self, entry: Entry, name: str, value: str, source: str) -> str:
        """``received`` rather than ``local`` for what a stream said and nobody has set otherwise since."""
        if source == "local":
            row = self._by_name[entry.name]
            if self._received.get(row.id, {}).get(name) == value:
                return "received"
        return source

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
            source = self._source(entry, name, value, source)
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
            return PropertyValue(raw_value(name, value), self._source(entry, name, value, source))
        if name == "mounted":
            return PropertyValue("yes" if entry.name in self._mounted else "no", "-")
        if name == "origin":
            return PropertyValue(self._origins.get(row.id), "-")
        if name == "receive_resume_token":
            return PropertyValue(partial_token(self._catalogue, row.id), "-")
        if name in _SPACE:
            return PropertyValue(self._space(row.id, name), "-")
        return PropertyValue(_plain(name, row, "filesystem", self._figure(0, row.id)), "-")

    def _snapshot_value(self, entry: Entry, name: str) -> PropertyValue:
        found = PROPERTIES.get(name)
        if found is None:
            return self._user(entry, name)
        if not found.snapshot:
            return PropertyValue(None, "-")
        if name == "mounted":
            return PropertyValue("yes" if entry.name in self._mounted else "no", "-")
        if name == "userrefs":
            return PropertyValue(self._holds.get(entry.id, 0), "-")
        if name == "defer_destroy":
            return PropertyValue("on" if self._snapshots[entry.id].defer else "off", "-")
        if name == "clones":
            return PropertyValue(",".join(self._clones.get(entry.id, ())) or None, "-")
        return PropertyValue(_plain(name, self._snapshots[entry.id], "snapshot", self._figure(1, entry.id)), "-")

    def _bookmark_value(self, entry: Entry, name: str) -> PropertyValue:
        found = PROPERTIES.get(name)
        if found is None or not found.applies_to("bookmark"):
            return PropertyValue(None, "-")
        return PropertyValue(_plain(name, self._bookmarks[entry.id], "bookmark", Figures()), "-")

    def _figure(self, which: int, number: int) -> Figures:
        return self._figures[which].get(number, _NOTHING)

    def _space(self, number: int, name: str) -> int:
        """A figure that limits have a part in; where none are set, what is stored and what the pool has free."""
        found = self._spaces.get(number)
        if found is not None:
            limited: int = getattr(found, name)
            return limited
        figure = self._figure(0, number)
        return {"used": figure.used, "usedbychildren": figure.usedbychildren, "available": self._free}.get(name, 0)


def _plain(name: str, row: DatasetRow | SnapshotRow | BookmarkRow, type_name: str, figures: Figures) -> Raw:
    """Values that stand in the row or in its figures."""
    if name == "type":
        return type_name
    if name in ("creation", "guid"):
        value: Raw = getattr(row, name)
        return value
    if name == "createtxg":
        return row.txg
    if name in ("compressratio", "refcompressratio", "dedupratio", "reduction"):
        ratio: float = getattr(figures, name)()
        return ratio
    number: Raw = getattr(figures, name)
    return number
