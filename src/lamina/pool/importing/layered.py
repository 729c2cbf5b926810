"""Importing images of layers: tars go in, exactly, and come out as one root file system with all of them beside it.

A layer that an image of the pool has is not read again: that image's tree is pinned, so that nothing of it is freed
meanwhile, and what the layer consists of is taken over by reference. Nothing has a name before ``commit``.
"""

import contextlib
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from pyroaring import BitMap64

from lamina.errors import DamagedData, LaminaError, SourceError
from lamina.fs.imagearea import ImageArea, area_items
from lamina.fs.spool import ItemSpool
from lamina.fs.types import Extent
from lamina.fs.view import StoredTree
from lamina.ingest.assemble import write_tree
from lamina.ingest.extentlog import ExtentLog
from lamina.ingest.flatten import Flattening
from lamina.ingest.progress import Progress, Tally
from lamina.ingest.recorded import record_layer
from lamina.ingest.tasks import Stopped
from lamina.pool import files
from lamina.pool.collecting.reading import pin
from lamina.pool.figures.accounting import Accounting
from lamina.pool.importing.gate import Gate, Visit
from lamina.pool.importing.imageindex import find_layer
from lamina.pool.importing.images import Reporter, check_image_name, commit_image, switching
from lamina.pool.importing.intake import Intake
from lamina.pool.importing.interrupts import CheckedWorkers, Interrupts
from lamina.pool.importing.reaching import Reaching
from lamina.pool.names import printable
from lamina.pool.reports import ImportReport
from lamina.pool.values import Values
from lamina.store.codec import MAX_OBJECT, parse_compression
from lamina.store.database import DAMAGED
from lamina.store.memory import keep_freed_memory
from lamina.store.record import Kind

if TYPE_CHECKING:
    from lamina.pool.pool import Pool
    from lamina.store.writer import StoreWriter

_BUFFER = 1 << 20
_SPOOL = 48 << 20
"""Bytes of items held in memory beside the names of all files: 180,000 of them, an image of 48,000 files."""
_ENDED = "the import that the layer belongs to has ended"


class _Layer(Protocol):
    """A layer's tar as it lies in the pool."""

    size: int

    def extents(self) -> Iterator[Extent]:
        """Ascending; may be asked for several times."""
        ...


class _StoredLayer:
    """A layer of an image that is in the pool, and pinned."""

    def __init__(self, area: ImageArea, diff_id: str) -> None:
        self.size = area.size(diff_id)
        self._area = area
        self._diff_id = diff_id

    def extents(self) -> Iterator[Extent]:
        """See ``_Layer``."""
        return self._area.extents(self._diff_id)


class LayeredImport:
    """One session of taking images in. Use as a context manager, and leave it only when no thread adds any more.

    ``add`` and ``has`` are safe from several threads; ``commit`` and ``check`` are for the one that entered. A failure
    inside, or Ctrl-C, leaves no trace of what was not committed.
    """

    def __init__(
        self,
        pool: "Pool",
        dataset_for_limits: str,
        *,
        progress: Callable[[Progress], None] | None = None,
        jobs: int | None = None,
    ) -> None:
        """``dataset_for_limits``: the one that the image goes to, or all images of the session go below. It says how
        data is compressed, too, and need not be there yet. ``jobs``: threads that compress."""
        self._pool = pool
        self._dataset = dataset_for_limits
        self._progress = progress
        self._threads = jobs or max(os.cpu_count() or 1, 2)
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._layers: dict[str, _Layer] = {}
        self._gate = Gate()
        self._tally = Tally()
        self._committed = False
        self._told = (0, 0, 0.0)
        """What reports have told of."""
        self._writer: StoreWriter

    # -- entering and leaving -------------------------------------------------------------------------------------

    def __enter__(self) -> "LayeredImport":
        keep_freed_memory()
        self._told = (0, 0, time.monotonic())
        pool, dataset = self._pool, self._dataset
        values = Values(pool._catalogue, 0, {})
        self._compression = parse_compression(values.setting(dataset, "compression")[0])
        self._recordsize = int(values.setting(dataset, "recordsize")[0])
        copies = int(values.setting(dataset, "copies")[0])
        with contextlib.ExitStack() as stack:
            self._interrupts = stack.enter_context(Interrupts())
            self._intake = Intake(pool._catalogue, dataset, dataset, pool._free())
            self._writer = stack.enter_context(pool._writer(copies))
            if self._progress is not None:
                self._tally.report = Reporter(self._progress, self._writer, None).report
            stack.enter_context(switching())
            stack.callback(self._release)
            stack.callback(self._gate.close)
            self._workers = stack.enter_context(contextlib.closing(CheckedWorkers(self._threads, self._check_all)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if kind is None and self._tally.report is not None:
            self._tally.report(self._tally.files, self._tally.size, True)
        if self._committed:
            with contextlib.suppress(LaminaError):  # all is there; whoever asks for the figures computes them
                Accounting(self._pool._catalogue).refresh()

    def _release(self) -> None:
        for layer in self._layers.values():
            if isinstance(layer, ExtentLog):
                layer.close()
        self._layers = {}

    def check(self) -> None:
        """Raise what is a reason to stop: ``KeyboardInterrupt``, ``NoSpace``, what failed in the background.

        To be called often by whoever waits.
        """
        self._workers.check()

    def _check_all(self) -> None:
        self._interrupts.check()
        certain = not self._committed and not self._tally.inexact
        self._intake.check(self._pool._free(), self._writer.reached if certain else None)

    # -- layers ---------------------------------------------------------------------------------------------------

    def has(self, diff_id: str) -> bool:
        """Whether the layer was added, or an image of the pool has it, which is kept for the session then."""
        if diff_id in self._layers:
            return True
        with self._asking:
            root = find_layer(self._pool, diff_id)
            if root is None:
                return False
            try:
                layer = self._pinned(root, diff_id)
            except LaminaError:
                return False  # it is gone, or broken: then it has to come again
        if layer is None:
            return False
        with self._lock:
            self._layers.setdefault(diff_id, layer)
        return True

    def _pinned(self, root: int, diff_id: str) -> _Layer | None:
        """A layer of an image, once nothing of that can be freed any more; None: some of it may be already."""
        database = self._pool.store.database
        with database.transaction():
            # Nothing that was whole a moment ago has been deleted, this writer's lease sees to that. What has not been
            # condemned by now will not be, while the pin holds.
            rows = database.query("SELECT objects FROM tree WHERE root = ?", (root,))
            gone = database.query("SELECT id FROM object WHERE condemned IS NOT NULL AND condemned <> ?", (DAMAGED,))
            if not rows or not BitMap64(row for (row,) in gone).isdisjoint(BitMap64.deserialize(rows[0][0])):
                return None
            pin(database, self._writer.lease, (root,))
        located = self._pool.store.locate_ids([root])
        return _StoredLayer(ImageArea(StoredTree(located[0].key, self._pool.store.get)), diff_id)

    def add(self, tar: BinaryIO, diff_id: str | None, label: str) -> str:
        """Take a layer's tar in, uncompressed and to its end; its diff ID, which is ``diff_id`` if one is given.

        ``label`` is what messages call the layer. Raises ``SourceError``.
        """
        log = ExtentLog(self._pool.path / files.TEMPORARY)
        try:
            with self._gate.visit() as visit:
                found = self._record(tar, diff_id, printable(label), log, visit)
        except BaseException as error:
            log.close()
            self._tally.inexact = True
            if isinstance(error, Stopped):
                raise LaminaError(_ENDED) from None
            raise
        with self._lock:
            if self._layers.setdefault(found, log) is not log:
                log.close()  # it came twice
        return found

    def _record(self, tar: BinaryIO, diff_id: str | None, label: str, log: ExtentLog, visit: Visit) -> str:
        here = threading.current_thread() is threading.main_thread()
        stream = _Incoming(tar, visit, self._interrupts if here else None)
        try:
            ended = record_layer(
                io.BufferedReader(stream, _BUFFER),
                log,
                self._writer,
                self._workers,
                self._tally,
                self._compression,
                self._recordsize,
            )
        except SourceError as error:
            raise SourceError(f"cannot import layer '{label}': {error}") from error
        found = "sha256:" + stream.digest.hexdigest()
        if diff_id is None and not ended:
            raise SourceError(f"cannot import layer '{label}': tar is cut short: it has no end-of-archive block")
        if diff_id is not None and found != diff_id:
            cut = "" if ended else ", and has no end: it may be cut short"
            raise SourceError(f"cannot import layer '{label}': its tar is {found}, not {diff_id}{cut}")
        return found

    # -- images ---------------------------------------------------------------------------------------------------

    def commit(
        self,
        name: str,
        config: bytes,
        manifest: bytes | None,
        diff_ids: Sequence[str],
        *,
        move: bool = False,
        properties: Mapping[str, str] | None = None,
    ) -> ImportReport:
        """Make the image ``name`` of layers that ``has`` says yes to, the lowest first.

        ``config`` and ``manifest`` are kept as they are; ``move``: the tag may be there, and moves;
        ``properties``: user properties of the image. Raises ``AlreadyExists``, ``SourceError`` where the layers make no
        file system, ``NoSpace``.
        """
        pool = self._pool
        dataset, tag = check_image_name(pool, name, move=move)
        layers = {diff_id: self._layer(name, diff_id) for diff_id in diff_ids}
        intake = Intake(pool._catalogue, dataset, name, pool._free())
        documents = self._put(config), self._put(manifest) if manifest is not None else None
        self._writer.flush()
        reaching = Reaching(self._writer, pool.store, self._compression)
        with contextlib.closing(ItemSpool(pool.path / files.TEMPORARY, _SPOOL)) as spool:
            try:
                flat = self._flat(spool, diff_ids, layers)
                area = area_items({key: (layer.size, layer.extents()) for key, layer in layers.items()}, *documents)
                root, totals = write_tree(reaching.items(chain(flat.items(), area)), flat.next_ino, reaching)
            except SourceError as error:
                raise SourceError(f"cannot import '{name}': {error}") from error
            except DamagedData as error:
                raise DamagedData(f"cannot import '{name}': a layer that the pool has is damaged: {error}") from error
        self.check()
        with self._gate.shut(self.check):
            self._workers.drain()
            commit_image(
                *(pool, self._writer, dataset, tag, root, totals, True, intake),
                reached=reaching.rows,
                move=move,
                properties=properties,
            )
        self._committed = True
        before, self._told = self._told, self._standing()
        return ImportReport(
            name=name,
            files=totals.inodes - totals.directories,
            logical_bytes=totals.data_bytes,
            new_logical_bytes=self._told[0] - before[0],
            stored_bytes=self._told[1] - before[1],
            seconds=self._told[2] - before[2],
        )

    def _flat(self, spool: ItemSpool, diff_ids: Sequence[str], layers: Mapping[str, _Layer]) -> Flattening:
        flat = Flattening(spool, self._pool.store.get, self.check)
        for diff_id in diff_ids:
            try:
                flat.add(layers[diff_id].size, layers[diff_id].extents())
            except SourceError as error:
                raise SourceError(f"layer {diff_id}: {error}") from error
        return flat

    def _standing(self) -> tuple[int, int, float]:
        """New bytes, stored bytes, and the time."""
        return self._writer.written.new_bytes, self._writer.written.stored_bytes, time.monotonic()

    def _layer(self, name: str, diff_id: str) -> _Layer:
        layer = self._layers.get(diff_id)
        if layer is None:
            raise LaminaError(f"cannot import '{name}': layer {printable(diff_id)} was neither added nor asked for")
        return layer

    def _put(self, document: bytes) -> tuple[int, list[Extent]]:
        """Store config or manifest; its size and extents."""
        extents = []
        for offset in range(0, len(document), MAX_OBJECT):
            part = document[offset : offset + MAX_OBJECT]
            extents.append(Extent(offset, len(part), self._writer.put(part, Kind.CHUNK), 0))
        return len(document), extents


class _Incoming(io.RawIOBase):
    """A layer's tar as it comes, hashed; while it waits for bytes, its thread is not in the pool's way."""

    def __init__(self, source: BinaryIO, visit: Visit, interrupts: Interrupts | None) -> None:
        self._read: Callable[[Any], int | None] = getattr(source, "readinto1", None) or source.readinto  # type: ignore[attr-defined]
        self._visit = visit
        self._interrupts = interrupts
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, view: Any) -> int:
        """See ``io.RawIOBase``."""
        with self._visit.outside():
            if self._interrupts is not None:
                count = self._interrupts.waiting(self._read, view)
            else:
                count = self._read(view) or 0
        self.digest.update(memoryview(view)[:count])
        return count
