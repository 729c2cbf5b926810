"""Importing an image: a tree becomes a snapshot of kind image, and its dataset's head."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pyroaring import BitMap64

from lamina.errors import AlreadyExists, LaminaError, NotFound, SourceError
from lamina.fs.spool import ItemSpool
from lamina.fs.types import Totals
from lamina.fs.view import StoredTree
from lamina.ingest.content import ContentWriter
from lamina.ingest.directory import import_directory
from lamina.ingest.progress import Progress, Tally
from lamina.ingest.tarsource import import_tar
from lamina.ingest.tasks import Workers
from lamina.pool import files
from lamina.pool.figures.accounting import Accounting, Sizes
from lamina.pool.importing.intake import Intake
from lamina.pool.importing.interrupts import CheckedWorkers, Interrupts
from lamina.pool.importing.tags import move_tag
from lamina.pool.names import (
    check_dataset_name,
    check_snapshot_name,
    pool_of_name,
    printable,
    split_snapshot,
)
from lamina.pool.reports import ImportReport
from lamina.pool.values import Values
from lamina.store.codec import parse_compression
from lamina.store.memory import keep_freed_memory
from lamina.store.writer import StoreWriter

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that computes in Python lets another one run: those back from compressing wait for it.
"""

ProgressCallback = Callable[[Progress], None]


def import_image(
    pool: "Pool",
    source: str | Path | BinaryIO,
    name: str,
    *,
    progress: ProgressCallback | None,
    format: str,
    jobs: int | None,
) -> ImportReport:
    """See ``Pool.import_image``."""
    started = time.monotonic()
    keep_freed_memory()
    dataset, tag = check_image_name(pool, name)
    values = Values(pool._catalogue, 0, {})
    compression = parse_compression(values.setting(dataset, "compression")[0])
    recordsize = int(values.setting(dataset, "recordsize")[0])
    copies = int(values.setting(dataset, "copies")[0])
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        intake = Intake(pool._catalogue, dataset, name, pool._free())
        tally = Tally()

        def check() -> None:
            interrupts.check()
            intake.check(pool._free(), None if tally.inexact else writer.reached)

        take = _opened(source, format, stack, interrupts)
        writer = stack.enter_context(pool._writer(copies))
        spool = stack.enter_context(contextlib.closing(ItemSpool(pool.path / files.TEMPORARY)))
        if progress is not None:
            tally.report = Reporter(progress, writer, source if _is_directory(source) else None).report
        stack.enter_context(switching())
        threads = jobs or max(os.cpu_count() or 1, 2)
        workers = stack.enter_context(contextlib.closing(CheckedWorkers(threads, check)))
        content = ContentWriter(writer, spool, workers, tally, compression, recordsize)
        try:
            root, totals = take(writer, content, spool, workers, tally, _pool_identity(pool))
        except SourceError as error:
            prefix = "" if str(error).startswith("cannot import") else f"cannot import '{name}': "
            raise SourceError(prefix + str(error)) from error
        check()
        commit_image(pool, writer, dataset, tag, root, totals, tally.inexact, intake)
        report = ImportReport(
            name=name,
            files=totals.inodes - totals.directories,
            logical_bytes=totals.data_bytes,
            new_logical_bytes=writer.written.new_bytes,
            stored_bytes=writer.written.stored_bytes,
            seconds=time.monotonic() - started,
            warnings=[f"{printable(problem.path)}: {problem.what}" for problem in tally.problems],
        )
        if tally.report is not None:
            tally.report(tally.files, tally.size, True)
    with contextlib.suppress(LaminaError):  # the image is there; whoever asks for the figures computes them
        Accounting(pool._catalogue).refresh()
    return report


def check_image_name(pool: "Pool", name: str, *, move: bool = False) -> tuple[str, str]:
    """Dataset and tag of an image that is to be made; with ``move`` it may be there.

    Raises ``InvalidName``, ``NotFound``, ``AlreadyExists``.
    """
    check_snapshot_name(name, "create")
    dataset, tag = split_snapshot(name)
    assert tag is not None
    check_dataset_name(dataset)
    if pool_of_name(dataset) != pool.name:
        raise NotFound(f"cannot create '{name}': no such pool '{pool_of_name(dataset)}'")
    if not move and pool._catalogue.find_snapshot(name) is not None:
        raise AlreadyExists(f"cannot create snapshot '{name}': dataset already exists")
    return dataset, tag


_Take = Callable[
    [StoreWriter, ContentWriter, ItemSpool, Workers, Tally, frozenset[tuple[int, int]]], tuple[bytes, Totals]
]


def _opened(source: str | Path | BinaryIO, format: str, stack: contextlib.ExitStack, interrupts: Interrupts) -> _Take:
    """The import function for a source, which is opened and closed with ``stack``."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        shown = printable(str(path))
        is_directory = _is_directory(path)
        if format == "tar" and is_directory:
            raise SourceError(f"cannot import '{shown}': it is a directory, not a tar file")
        if format == "dir" and not is_directory:
            raise SourceError(f"cannot import '{shown}': it is not a directory")
        if is_directory:
            return lambda *arguments: import_directory(path, *arguments)
        try:
            stream: BinaryIO = stack.enter_context(path.open("rb", buffering=1 << 20))
        except OSError as error:
            raise SourceError(f"cannot import '{shown}': {error.strerror}") from None
    else:
        stream = source
    waiting: Any = interrupts.stream(stream)
    return lambda writer, content, spool, workers, tally, _: import_tar(waiting, writer, content, spool, workers, tally)


def _is_directory(source: str | Path | BinaryIO) -> bool:
    return isinstance(source, (str, Path)) and Path(source).is_dir()


def _pool_identity(pool: "Pool") -> frozenset[tuple[int, int]]:
    status = pool.path.stat()
    return frozenset([(status.st_dev, status.st_ino)])


def commit_image(
    pool: "Pool",
    writer: StoreWriter,
    dataset: str,
    tag: str,
    root: bytes,
    totals: Totals,
    inexact: bool,
    intake: Intake,
    *,
    reached: Callable[[], BitMap64] | None = None,
    move: bool = False,
    properties: Mapping[str, str] | None = None,
) -> None:
    """Name a new root that ``writer`` has put: missing datasets, the snapshot and the head, in one transaction.

    ``inexact``: what the writer reached may be more than the tree does. ``reached`` gives the rows of what the tree
    reaches, once all of it is stored, where the caller knows them. ``move``: the tag may be there, and moves.
    ``properties``: user properties of the image.
    """
    catalogue = pool._catalogue
    with catalogue.change(writer) as change:
        name = f"{dataset}@{tag}"
        if not move and catalogue.find_snapshot(name) is not None:
            raise AlreadyExists(f"cannot create snapshot '{name}': dataset already exists")
        located = pool.store.locate([root])[root]
        objects = reached() if reached is not None else _walked(pool, root) if inexact else writer.reached.copy()
        objects.run_optimize()
        blob = objects.serialize()
        # A row that is there stays if it says the same: accounting follows rows that are made anew.
        if not pool.store.database.query("SELECT 1 FROM tree WHERE root = ? AND objects = ?", (located.id, blob)):
            stored, decoded = Sizes(pool.store.database).sums(objects)
            pool.store.database.execute(
                "INSERT OR REPLACE INTO tree(root, inodes, files, directories, data_bytes, stored, decoded, objects) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(located.id, totals.inodes, totals.files, totals.directories, totals.data_bytes),
                    *(stored, decoded, blob),
                ),
            )
        snapshot = move_tag(pool, change, name, located.id, totals.data_bytes)
        catalogue.set_snapshot_properties(change, snapshot, dict(properties or {}))
        intake.check_commit(pool._free())


def _walked(pool: "Pool", root: bytes) -> BitMap64:
    """Rows of all objects that a root reaches, from its nodes."""
    objects = BitMap64()
    batch: set[bytes] = set()
    for key in StoredTree(root, pool.store.get).objects():
        batch.add(key)
        if len(batch) >= 4096:
            objects.update(location.id for location in pool.store.locate(batch).values())
            batch.clear()
    objects.update(location.id for location in pool.store.locate(batch).values())
    return objects


@contextlib.contextmanager
def switching() -> Iterator[None]:
    """Have threads take turns quickly."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Reporter:
    """Turns counts into ``Progress``. Of a directory it counts the files beside the import, for the time left."""

    def __init__(self, callback: ProgressCallback, writer: StoreWriter, root: object) -> None:
        self._callback = callback
        self._writer = writer
        self._totals: tuple[int, int] | None = None
        if isinstance(root, (str, Path)):
            threading.Thread(target=self._count, args=(Path(root),), daemon=True).start()

    def report(self, count: int, size: int, done: bool) -> None:
        """As ``Tally.report``."""
        total_files, total_bytes = self._totals or (None, None)
        written = self._writer.written
        self._callback(Progress(count, size, written.new_bytes, written.stored_bytes, total_files, total_bytes, done))

    def _count(self, root: Path) -> None:
        count = size = 0
        stack: list[str] = [os.fspath(root)]
        while stack:
            with contextlib.suppress(OSError), os.scandir(stack.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
                        continue
                    count += 1
                    if entry.is_file(follow_symlinks=False):
                        size += entry.stat(follow_symlinks=False).st_size
        self._totals = (count, size)
