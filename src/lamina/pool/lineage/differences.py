"""Comparing two states by their names: which may be compared, whether they are of one history, bytes by folder."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, cast

from lamina.errors import InvalidName, LaminaError, NotFound
from lamina.fs.contents import Contents
from lamina.fs.diff import Change, Kind, diff
from lamina.fs.types import Inode
from lamina.fs.view import StoredTree
from lamina.ingest.progress import Progress
from lamina.pool.catalogue import DatasetRow, SnapshotRow
from lamina.pool.mounted import mounted
from lamina.pool.names import check_name, printable, snapshot_name_error, split_snapshot

if TYPE_CHECKING:
    from pyroaring import BitMap64

    from lamina.pool.pool import Pool

_BATCH = 400
"""Chunks looked up in the index at once."""
_UNABLE = "Unable to obtain diffs"


@dataclass(slots=True)
class FolderSums:
    """What differs in a folder and below it.

    ``files`` that differ; logical bytes that were ``added`` with new files, ``removed`` with old ones, and ``changed``:
    of files on both sides, those in chunks that the other side of the file does not have, the greater of the two;
    ``new``: stored bytes of the chunks that the old tree does not have anywhere.
    """

    path: bytes
    files: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    new: int = 0


def endpoints(old: str, new: str | None) -> tuple[str, str]:
    """The full names of what is compared, as ``zfs diff`` reads its operands.

    ``old`` is a snapshot, ``new`` one of its dataset (``@name`` is enough), another dataset's, or a dataset; none: the
    head of ``old``'s dataset. ``@old`` is the snapshot of ``new``'s dataset. Raises ``InvalidName``.
    """
    dataset, snapshot = split_snapshot(old)
    if new is None:
        if snapshot_name_error(old) is not None:
            raise InvalidName(f"Badly formed snapshot name {printable(old)}: {snapshot_name_error(old)}")
        return old, dataset
    other = split_snapshot(new)[0]
    if not snapshot or new == "@" or not (dataset or other):
        raise InvalidName(
            "Unable to determine which snapshots to compare: invalid name; the first is a snapshot, the second another "
            "or a dataset"
        )
    return (old if dataset else other + old), (new if other else dataset + new)


class Comparison:
    """Two states of datasets, perhaps of two pools, that stay open as long as this is used."""

    def __init__(self, old_pool: "Pool", old: str, new_pool: "Pool", new: str) -> None:
        """Of full names. Raises ``NotFound``, and ``LaminaError`` where ``old`` is the later state of one history."""
        self.old_name, self.new_name = old, new
        before, after = _State(old_pool, old), _State(new_pool, new)
        same_pool = old_pool.guid == new_pool.guid
        self.related = same_pool and before.leads_to(after)
        if same_pool and not self.related and after.leads_to(before):
            raise LaminaError(f"{_UNABLE}: Not an earlier snapshot from the same fs: name the earlier one first")
        self._pools = (old_pool, new_pool)
        self._states = (before, after)
        self.old, self.new = (
            cast(StoredTree, pool.tree(name)) for pool, name in zip(self._pools, (old, new), strict=True)
        )
        self.mountpoint: bytes = b""
        """Where the dataset is mounted, if both are states of it."""
        if same_pool and before.dataset.id == after.dataset.id:
            self.mountpoint = os.fsencode(mounted(new_pool.name).get(after.dataset.name, ""))

    def changes(self, *, times: bool = True) -> Iterator[Change]:
        """See :func:`lamina.fs.diff.diff`."""
        return diff(self.old, self.new, related=self.related, times=times)

    def sums(
        self, depth: int = 1, *, times: bool = True, progress: Callable[[Progress], None] | None = None
    ) -> list[FolderSums]:
        """Bytes by folder, down to ``depth`` levels below the root, the largest first.

        A folder has what lies below it too, so the first is the root, with the sums of all.
        """
        counter = _Counter(self, depth)
        for change in diff(self.old, self.new, related=self.related, times=times, repacked=True):
            counter.take(change)
            if progress is not None:
                progress(counter.progress())
        return counter.finish()


class _State:
    """A name, found: a snapshot, or a dataset's head."""

    def __init__(self, pool: "Pool", name: str) -> None:
        check_name(name)
        catalogue = pool._catalogue
        dataset = split_snapshot(name)[0]
        self._database = catalogue.database
        self.dataset: DatasetRow = catalogue.dataset(dataset)
        self.snapshot: SnapshotRow | None = catalogue.find_snapshot(name) if "@" in name else None
        if "@" in name and self.snapshot is None:
            raise NotFound(
                f"{_UNABLE}: No such file or directory: '{printable(name)}'; 'lamina list -t snapshot "
                f"{printable(dataset)}' shows those that exist"
            )

    @property
    def root(self) -> int | None:
        """The row of the root object; None for a file system that nothing was put in."""
        return self.dataset.head if self.snapshot is None else self.snapshot.root

    def leads_to(self, later: "_State") -> bool:
        """Whether ``later`` came from this state by changes alone, so that an inode number means one file in both.

        Back along the dataset and the origins of clones, as far as an image: an import begins a new tree.
        """
        if self.snapshot is None:
            return later.snapshot is None and later.dataset.id == self.dataset.id
        own = (self.snapshot.txg, self.snapshot.id)
        dataset, origin = later.dataset.id, later.dataset.origin
        end = None if later.snapshot is None else (later.snapshot.txg, later.snapshot.id)
        while True:
            images = [age for age in self._images(dataset) if end is None or age <= end]
            if dataset == self.dataset.id:
                return (end is None or own <= end) and not any(age > own for age in images)
            if images or origin is None:
                return False
            ((dataset, *age),) = self._database.query("SELECT dataset, txg, id FROM snapshot WHERE id = ?", (origin,))
            end = (age[0], age[1])
            ((origin,),) = self._database.query("SELECT origin FROM dataset WHERE id = ?", (dataset,))

    def _images(self, dataset: int) -> list[tuple[int, int]]:
        """(txg, row) of a dataset's images: the order in which they were made."""
        return self._database.query("SELECT txg, id FROM snapshot WHERE dataset = ? AND kind = 'image'", (dataset,))


class _Counter:
    """Adds changes up by folder."""

    def __init__(self, comparison: Comparison, depth: int) -> None:
        self._depth = depth
        self._comparison = comparison
        self._contents = Contents(comparison.old, comparison.new)
        self._folders: dict[bytes, FolderSums] = {b"/": FolderSums(b"/")}
        self._linked: tuple[set[int], set[int]] = (set(), set())
        self._chunks = _NewChunks(comparison)

    def take(self, change: Change) -> None:
        old, new = change.old, change.new
        if S_ISDIR(change.inode.mode):
            return
        folders = self._above(change.path)
        if change.kind != Kind.REPACKED:
            for folder in folders:
                folder.files += 1
        if old is not None and new is not None:
            if S_ISREG(new.mode) and self._first(1, new) and not self._contents.stored_alike(old, new):
                changed = max(self._contents.unshared(old, new))
                for folder in folders:
                    folder.changed += changed
                self._chunks.take(self._contents.by_chunk(1, new.ino), folders)
        elif new is not None:
            if S_ISREG(new.mode) and self._first(1, new):
                chunks = self._contents.by_chunk(1, new.ino)
                for folder in folders:
                    folder.added += sum(chunks.values())
                self._chunks.take(chunks, folders)
        elif old is not None and S_ISREG(old.mode) and self._first(0, old):
            removed = sum(self._contents.by_chunk(0, old.ino).values())
            for folder in folders:
                folder.removed += removed

    def progress(self) -> Progress:
        """How far it is; nobody knows how much differs before it is done."""
        whole = self._folders[b"/"]
        return Progress(whole.files, whole.added + whole.removed + whole.changed, 0, 0, None, None, False)

    def finish(self) -> list[FolderSums]:
        self._chunks.flush()
        return sorted(self._folders.values(), key=lambda sums: (-(sums.added + sums.removed + sums.changed), sums.path))

    def _above(self, path: bytes) -> list[FolderSums]:
        """The folders that a path lies in, as deep as asked for."""
        parts = path.split(b"/")[1:-1][: self._depth]
        paths = [b"/", *(b"/" + b"/".join(parts[: at + 1]) for at in range(len(parts)))]
        return [self._folders.setdefault(folder, FolderSums(folder)) for folder in paths]

    def _first(self, side: int, inode: Inode) -> bool:
        """Whether the bytes of a file are to be counted: once, however many names it has."""
        if inode.nlink < 2:
            return True
        if inode.ino in self._linked[side]:
            return False
        self._linked[side].add(inode.ino)
        return True


class _NewChunks:
    """Counts stored bytes of chunks that the old tree does not reach, each once, for the first that comes."""

    def __init__(self, comparison: Comparison) -> None:
        from pyroaring import BitMap64

        self._old_pool, self._new_pool = comparison._pools
        self._reached: BitMap64 = _reached(self._old_pool, comparison._states[0].root)
        self._counted: BitMap64 = BitMap64()
        self._waiting: dict[bytes, list[FolderSums]] = {}

    def take(self, chunks: Iterable[bytes], folders: list[FolderSums]) -> None:
        """Note the chunks of a file in these folders."""
        for key in chunks:
            self._waiting.setdefault(key, folders)
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Count what was noted."""
        located = self._new_pool.store.locate(self._waiting)
        there = located if self._old_pool is self._new_pool else self._old_pool.store.locate(self._waiting)
        for key, folders in self._waiting.items():
            found, known = located.get(key), there.get(key)
            if found is None or found.id in self._counted or (known is not None and known.id in self._reached):
                continue
            self._counted.add(found.id)
            for folder in folders:
                folder.new += found.stored
        self._waiting = {}


def _reached(pool: "Pool", root: int | None) -> "BitMap64":
    """The rows of all objects that a root reaches."""
    from pyroaring import BitMap64

    rows = pool.store.database.query("SELECT objects FROM tree WHERE root = ?", (root,)) if root is not None else []
    return BitMap64.deserialize(rows[0][0]) if rows else BitMap64()
