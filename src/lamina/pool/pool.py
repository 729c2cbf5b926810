"""A pool: what the command line does, ``Pool`` does."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from lamina.errors import (
    AccessDenied,
    AlreadyExists,
    Busy,
    LaminaError,
    NotFound,
    PropertyError,
)
from lamina.fs.view import StoredTree, TreeView
from lamina.pool import files, registry
from lamina.pool.catalogue import Catalogue
from lamina.pool.empty import empty_tree
from lamina.pool.figures import limits
from lamina.pool.figures.accounting import Accounting
from lamina.pool.importing.methods import Images
from lamina.pool.lineage.methods import Lineage
from lamina.pool.lineage.renaming import missing_above
from lamina.pool.listing import find_entry, list_entries
from lamina.pool.names import check_dataset_name, check_name, pool_of_name, printable
from lamina.pool.properties import check_inherit, parse_properties
from lamina.pool.reports import GcReport, ImportReport, PoolSpace, PoolStatus, ScanStatus
from lamina.pool.values import Entry, PropertyValue, Values
from lamina.store.backend import LocalBackend
from lamina.store.database import Database
from lamina.store.disk import DISK, Disk, translated
from lamina.store.objects import ObjectStore

if TYPE_CHECKING:
    from lamina.fs.diff import Change
    from lamina.pool.checking.check import CheckReport
    from lamina.pool.collecting.background import Background
    from lamina.pool.collecting.gc import GcProgress
    from lamina.pool.history import HistoryLine
    from lamina.pool.scrubbing.damage import Damage
    from lamina.pool.scrubbing.repair import RepairReport
    from lamina.store.writer import StoreWriter

RESERVE = 32 << 20
"""Bytes of the disk, or a 32nd of it if that is less, that stay free so that destroying can always finish."""


MOST_COPIES = 3
"""Of one object, as in OpenZFS: tree nodes get one more than the data has, up to this."""

# ``Pool.list`` hides the type's name inside the class.
Names = list[str]
Entries = list[Entry]
Answers = list[dict[str, PropertyValue]]


class Pool(Lineage, Images):
    """An open pool. Use as a context manager, or ``close`` it. For one thread, but for the trees it gives out."""

    def __init__(self, path: Path, marker: files.PoolMarker, database: Database) -> None:
        self.path = path
        self.name = marker.name
        self.guid = marker.guid
        self.writable = database.writable
        self._marker = marker
        self._database = database
        self._catalogue = Catalogue(database)
        self._backend = LocalBackend(path / files.PACKS, marker.file_mode, database.disk)
        self.store = ObjectStore(database, self._backend)
        self._background: Background | None = None

    # -- making and opening ---------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        name: str,
        path: str | Path,
        *,
        group: str | None = None,
        mode: int | None = None,
        properties: Mapping[str, str] | None = None,
        own_properties: Mapping[str, str] | None = None,
        command: str | None = None,
        disk: Disk = DISK,
    ) -> "Pool":
        """Make the directory ``path`` a pool and make it known as ``name``.

        ``group`` and ``mode`` (of directories, such as 0o750) say who else may read or write it; ``properties`` are set
        on its root dataset, ``own_properties`` on the pool; ``command`` is what its history begins with. Raises
        ``AlreadyExists``, ``InvalidName``, ``PropertyError``, ``AccessDenied``.
        """
        from lamina.pool.opening import create_pool

        return create_pool(cls, name, path, group, mode, properties or {}, own_properties or {}, command, disk)

    @classmethod
    def open(cls, name_or_path: str | Path, *, write: bool = False, disk: Disk = DISK) -> "Pool":
        """Open a pool by its name or its directory; its files are reached through ``disk``.

        Raises ``NotFound``, ``AccessDenied``, ``UnsupportedPool`` (a newer version, unknown features, no pool).
        """
        from lamina.pool.opening import open_pool

        return open_pool(cls, name_or_path, write, disk)

    def close(self) -> None:
        """Release the pool."""
        self._backend.close()
        self._database.close()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the pool itself ------------------------------------------------------------------------------------------

    def space(self) -> PoolSpace:
        """Size, allocated and free bytes of the pool; its size is what it has and what the disk still gives."""
        from lamina.pool.scrubbing.health import space

        return space(self)

    def capacity(self) -> int:
        """Percent of the pool's size that is taken, CAP; quicker than ``space``."""
        from lamina.pool.scrubbing.health import capacity

        return capacity(self)

    def status(self) -> PoolStatus:
        """What the pool holds and how it is. ``errors`` is what scrub found; without a scrub none are known."""
        from lamina.pool.scrubbing.health import pool_status

        return pool_status(self)

    def damage(self) -> Iterator["Damage"]:
        """Files that are damaged, by dataset or snapshot and path, as far as scrubs have found them."""
        from lamina.pool.scrubbing.damage import DamageFinder, lost_objects

        return DamageFinder(self._catalogue, self.store, lost_objects(self._catalogue)).everything()

    def scrub(self, *, rate: int | None = None, progress: "Callable[..., None] | None" = None) -> ScanStatus:
        """Read and prove every object, mend what can be mended; goes on with a scrub that was paused or broken off.

        ``rate`` bounds it, in bytes a second. Raises ``Busy`` where another process scrubs.
        """
        from lamina.pool.scrubbing.health import scan_status
        from lamina.pool.scrubbing.scrub import scrub, scrubs_of

        scrubs_of(self).begin(self.name, rate)
        scrub(self, progress)
        status = scan_status(self)
        assert status is not None
        return status

    def clear_errors(self) -> None:
        """Forget the counts of errors; what is damaged stays known."""
        from lamina.pool.scrubbing.scrub import scrubs_of

        scrubs_of(self).clear()

    def repair(
        self, source: str, *, ssh: str | None = None, progress: "Callable[..., None] | None" = None
    ) -> "RepairReport":
        """Repair what is damaged from another pool, ``[user@]host:POOL``, or a directory or archive of the files.

        Raises ``SourceError``.
        """
        from lamina.pool.scrubbing.repair import repair_from

        return repair_from(self, source, ssh=ssh, progress=progress)

    def _free(self) -> int:
        try:
            status = self._database.disk.statvfs(self.path)
        except OSError as error:
            raise translated(error, f"cannot look at '{self.path}'") from error
        reserve = min(RESERVE, status.f_blocks * status.f_frsize // 32)
        return max(status.f_bavail * status.f_frsize - reserve, 0)

    @property
    def command(self) -> str | None:
        """What the history says of changes made through this object; None: nothing."""
        return self._catalogue.command

    @command.setter
    def command(self, words: str | None) -> None:
        self._catalogue.command = words

    def history(self, *, internal: bool = False) -> "Iterator[HistoryLine]":
        """Commands that changed the pool, oldest first; ``internal``: also events that no command made."""
        from lamina.pool.history import read_history

        return read_history(self, internal=internal)

    def check(self, *, headers: bool = False, progress: "Callable[..., None] | None" = None) -> "CheckReport":
        """Compare catalogue, packs, trees and names with each other, without reading the data."""
        from lamina.pool.checking.check import check_pool

        return check_pool(self, headers=headers, progress=progress)

    def save_names(self) -> None:
        """Write a record of all names into the packs: the backup from which ``pool recover`` brings them back."""
        with self._writer() as writer:
            self._catalogue.write_full(writer)

    def own_properties(self) -> dict[str, tuple[str, str]]:
        """(value, source) of the pool's own properties and features, by name."""
        from lamina.pool.ownproperties import own_properties

        return own_properties(self)

    def set_own_properties(self, properties: Mapping[str, str]) -> None:
        """Set properties of the pool itself, such as ``comment``. Raises ``PropertyError``."""
        from lamina.pool.ownproperties import set_properties

        set_properties(self, properties)

    # -- names ----------------------------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        """Whether a dataset, snapshot or bookmark of this name is there."""
        if "#" in name:
            from lamina.pool.lineage.bookmarks import find_bookmark

            return find_bookmark(self._catalogue, name) is not None
        if "@" in name:
            return self._catalogue.find_snapshot(name) is not None
        return self._catalogue.find_dataset(name) is not None

    def list(
        self,
        roots: Sequence[str] = (),
        *,
        recursive: bool = False,
        depth: int | None = None,
        types: Collection[str] = ("filesystem",),
    ) -> Entries:
        """Datasets and snapshots, in OpenZFS's order: a dataset, its snapshots by age, its children by name.

        No ``roots``: the whole pool. ``depth`` bounds how far below a root, a snapshot being one below its dataset.
        Asked for snapshots alone, a root gives its own. Raises ``NotFound``.
        """
        return list_entries(self._catalogue, self.name, roots, recursive, depth, types)

    def entry(self, name: str) -> Entry:
        """The dataset, snapshot or bookmark of this name. Raises ``NotFound``, ``InvalidName``."""
        return find_entry(self._catalogue, name)

    def images(self, root: str | None = None) -> Entries:
        """Snapshots of kind image, below ``root`` or in the whole pool."""
        return self.list([root] if root else [], recursive=True, types=("image",))

    def create_dataset(
        self, name: str, properties: Mapping[str, str] | None = None, *, parents: bool = False, dry_run: bool = False
    ) -> Names:
        """Make a dataset; with ``parents`` also the missing ones above it. Returns the names made.

        Raises ``AlreadyExists``, ``InvalidName``, ``NotFound`` (no parent), ``PropertyError``.
        """
        check_dataset_name(name)
        stored = parse_properties(properties or {}, prefix=f"cannot create '{name}': ")
        self._own(name)
        missing = self._missing(name, parents)
        if dry_run or not missing:
            return missing
        with self._writer() as writer, self._catalogue.change(writer) as change:
            missing = self._missing(name, parents)
            for one in missing:
                self._catalogue.add_dataset(change, one, stored if one == name else {})
            limits.check_new(self._catalogue, self._free(), name)
        return missing

    def _missing(self, name: str, parents: bool) -> Names:
        """What has to be made for the dataset ``name`` to be there, from the top."""
        if self._catalogue.find_dataset(name) is not None:
            if parents:
                return []
            raise AlreadyExists(f"cannot create '{name}': dataset already exists")
        missing = missing_above(self._catalogue, name)
        if missing and not parents:
            raise NotFound(f"cannot create '{name}': parent does not exist")
        return [*missing, name]

    def _own(self, name: str) -> None:
        if pool_of_name(name) != self.name:
            raise NotFound(f"cannot create '{name}': no such pool '{pool_of_name(name)}'")

    def _check_idle(self, names: Sequence[str]) -> None:
        mounted = self._mounted()
        for name in names:
            if name in mounted:
                raise Busy(f"cannot unmount '{mounted[name]}': '{name}' is mounted; 'lamina umount {name}' first")

    def _reclaim(self, names: Sequence[str]) -> int:
        """Bytes that nothing reaches once ``names`` are gone, each counted once."""
        return Accounting(self._catalogue).reclaim(set(names))

    # -- properties -----------------------------------------------------------------------------------------------

    def get(self, entry: str | Entry, props: Sequence[str] | None = None) -> dict[str, PropertyValue]:
        """Values of properties by full name; None: all that apply, user properties included."""
        return self.get_many([self.entry(entry) if isinstance(entry, str) else entry], props)[0]

    def get_many(self, entries: Sequence[Entry], props: Sequence[str] | None) -> Answers:
        """The same for many entries at once."""
        return self._values(props is None or "mounted" in props).get(entries, props)

    def _values(self, with_mounts: bool = False) -> Values:
        return Values(self._catalogue, self._free(), self._mounted() if with_mounts else {})

    def set(self, names: Sequence[str], properties: Mapping[str, str]) -> None:
        """Set properties, as typed, on datasets and snapshots: all or none. Raises ``PropertyError``, ``NotFound``."""
        prefix = "cannot set property for '{}': "

        def parsed() -> "list[tuple[Entry, dict[str, str]]]":
            entries = [self.entry(name) for name in names]
            return [
                (entry, parse_properties(properties, entry_type=entry.type, prefix=prefix.format(entry.name)))
                for entry in entries
            ]

        limits.check_set(self._catalogue, self._free(), [(entry.name, stored) for entry, stored in parsed()], prefix)
        with self._writer() as writer, self._catalogue.change(writer) as change:
            for entry, stored in parsed():
                if entry.type == "snapshot":
                    self._catalogue.set_snapshot_properties(change, entry.id, stored)
                else:
                    self._catalogue.set_dataset_properties(change, entry.id, stored)

    def inherit(self, name: str, prop: str, *, recursive: bool = False) -> None:
        """Clear a property so that it is inherited; ``recursive`` below too. Raises ``PropertyError``, ``NotFound``."""
        full = check_inherit(prop)
        self.entry(name)
        with self._writer() as writer, self._catalogue.change(writer) as change:
            entry = self.entry(name)
            if entry.type == "bookmark":
                raise PropertyError(f"cannot inherit '{full}' for '{name}': bookmarks have no properties of their own")
            if entry.type == "snapshot":
                self._catalogue.clear_property(change, None, entry.id, full)
                return
            rows = self._catalogue.datasets(name) if recursive else [self._catalogue.dataset(name)]
            for row in rows:
                self._catalogue.clear_property(change, row.id, None, full)

    # -- trees ----------------------------------------------------------------------------------------------------

    def tree(self, name: str, cache_nodes: int = 512) -> TreeView:
        """The tree of a snapshot, or of a dataset's head. Safe to read from several threads while the pool is open."""
        check_name(name)
        if "@" in name:
            snapshot = self._catalogue.find_snapshot(name)
            if snapshot is None:
                raise NotFound(f"cannot open '{printable(name)}': dataset does not exist")
            root, creation = snapshot.root, snapshot.creation
        else:
            dataset = self._catalogue.dataset(name)
            root, creation = dataset.head, dataset.creation
        if root is None:
            return empty_tree(creation)
        located = self.store.locate_ids([root])
        if not located:
            raise LaminaError(f"cannot open '{printable(name)}': its root is not in the index")
        return StoredTree(located[0].key, self.store.get, cache_nodes)

    def root(self, name: str) -> int | None:
        """A number that stands for the tree of a snapshot or of a dataset's head: equal numbers are equal trees.

        None is the empty tree. Raises ``NotFound``, ``InvalidName``.
        """
        check_name(name)
        if "@" not in name:
            return self._catalogue.dataset(name).head
        snapshot = self._catalogue.find_snapshot(name)
        if snapshot is None:
            raise NotFound(f"cannot open '{printable(name)}': dataset does not exist")
        return snapshot.root

    def import_image(
        self,
        source: str | Path | BinaryIO,
        name: str,
        *,
        progress: "Callable[..., None] | None" = None,
        format: str = "auto",
        jobs: int | None = None,
    ) -> ImportReport:
        """Import a directory, a tar file or a tar stream as the image ``name`` (``dataset@tag``).

        Missing datasets are made; the dataset's head becomes the tree. Raises ``AlreadyExists``, ``SourceError``,
        ``NoSpace``; then nothing of it is left.
        """
        from lamina.pool.importing.images import import_image

        return import_image(self, source, name, progress=progress, format=format, jobs=jobs)

    def gc(
        self,
        *,
        dry_run: bool = False,
        wait: float | None = None,
        progress: "Callable[[GcProgress], None] | None" = None,
    ) -> GcReport:
        """Free what no name refers to and no mount shows, and give its space back.

        What running imports may share is freed once they have finished: ``wait`` seconds are given to them, and to
        another collection that runs; None: as long as they take. Raises ``Busy`` where another one is still at it.
        """
        from lamina.pool.collecting.gc import collect

        return collect(self, dry_run=dry_run, wait=wait, progress=progress)

    def diff(self, old: str, new: str | None = None, *, times: bool = True) -> "Iterator[Change]":
        """What differs between a snapshot and another one or a dataset (default: its own), as the walk finds it.

        Without ``times`` a file whose modification time alone differs is the same. Raises ``NotFound``,
        ``InvalidName``, and ``LaminaError`` where ``old`` is the later one of two states of one history.
        """
        from lamina.pool.lineage.differences import Comparison, endpoints

        before, after = endpoints(old, new)
        return Comparison(self, before, self, after).changes(times=times)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _writer(self, copies: int = 1) -> "_Writing":
        from lamina.store.writer import StoreWriter

        files.check_writable(self.path, self.name)
        if not self.writable:
            raise AccessDenied(
                f"cannot write to pool '{self.name}': it was opened for reading; open it with write=True"
            )
        if self._background is None:
            from lamina.pool.collecting.background import Background

            self._background = Background(self)
        return _Writing(
            StoreWriter(
                self.store,
                self.path / files.LEASES,
                self.guid,
                self._catalogue.generation,
                self._catalogue.epoch,
                self._marker.file_mode,
                copies,
                min(copies + 1, MOST_COPIES),
            ),
            self._background,
        )

    def _mounted(self) -> dict[str, str]:
        """Mount points by name, from the kernel's list: what is mounted is asked, not remembered."""
        from lamina.pool.mounted import mounted

        return mounted(self.name)


class _Writing:
    """A store writer that is closed on success and takes back what it put on failure."""

    def __init__(self, writer: "StoreWriter", background: "Background") -> None:
        self._writer = writer
        self._background = background

    def __enter__(self) -> "StoreWriter":
        return self._writer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._writer.close()
        else:
            self._writer.abort()
        with contextlib.suppress(LaminaError):
            self._background.after_change()


def pool_names() -> list[str]:
    """Names of the pools that this machine knows."""
    return registry.names()


def pool_of(name: str, *, write: bool = False) -> Pool:
    """Open the pool that a dataset or snapshot name belongs to."""
    return Pool.open(pool_of_name(name), write=write)
