"""Reading a stream into a pool. Whatever comes is hostile until it is checked.

Frames have to come in their order (``grammar.py``). Objects are proved before they are kept (``incoming.py``); a
snapshot gets its name when its tree was found whole (``completeness.py``), once the frame after it has come. Of a
stream that is cut the snapshots before the last one stay, and of that nothing, or with ``-s`` what has come, to go on
with.
"""

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyroaring import BitMap64

from lamina.errors import LaminaError, MissingObjects, StreamError
from lamina.pool.catalogue import Catalogue, Change
from lamina.pool.checking.walking import Walked
from lamina.pool.figures.accounting import Accounting
from lamina.pool.importing.intake import Intake
from lamina.pool.importing.interrupts import CheckedWorkers, Interrupts
from lamina.pool.names import printable
from lamina.pool.units import format_size
from lamina.pool.values import Values
from lamina.replication.completeness import TreeCheck
from lamina.replication.destination import Arrival, Destination, ReceiveOptions, what
from lamina.replication.grammar import Contents, Grammar, Incoming
from lamina.replication.incoming import Intaking
from lamina.replication.landing import Landing
from lamina.replication.messages import Begin, End, Resume, SentDataset, SentSnapshot, SnapshotEnd
from lamina.replication.nearby import KnownTree
from lamina.replication.reconciling import must_reconcile, reconcile
from lamina.replication.saving import Saving
from lamina.replication.stream import Source, StreamReader
from lamina.store.memory import keep_freed_memory

if TYPE_CHECKING:
    from lamina.pool.pool import Pool
    from lamina.store.writer import StoreWriter

_BUFFER = 1 << 20
_MANY = 4
"""Snapshots in one stream above which walking trees whole, and remembering them, is quicker."""

Progress = Callable[[int, int], None]
"""Gets the bytes that have come, and about how many there will be."""
Tell = Callable[[str], None]


@dataclass(slots=True)
class ReceiveReport:
    """What was received: full names of snapshots in the order they came, bytes of the stream, stored bytes of objects.

    ``there``: snapshots that were there already; ``warnings``: what was not taken over; ``left``: lines about what is
    gone at the sender and had to stay.
    """

    names: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    bytes: int = 0
    stored: int = 0
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def receive_stream(
    pool: "Pool",
    source: Source,
    destination: str,
    options: ReceiveOptions | None = None,
    *,
    progress: Progress | None = None,
    tell: Tell | None = None,
    writer: "StoreWriter | None" = None,
) -> ReceiveReport:
    """Receive a stream into ``destination``, a dataset or snapshot of ``pool``.

    ``tell`` gets a line for each thing done; ``writer`` is one that is open, and stays so. Raises ``StreamError`` where
    the stream is not what was sent, and what refuses it: ``NotFound``, ``AlreadyExists``, ``Busy``, ``NoSpace``,
    ``InvalidName``.
    """
    keep_freed_memory()
    began = time.monotonic()
    command = pool._catalogue.command
    try:
        with Interrupts() as interrupts:
            receiver = _Receiver(pool, destination, options or ReceiveOptions(), interrupts, progress, tell, writer)
            report = receiver.run(_buffered(source, interrupts))
    finally:
        pool._catalogue.command = command
    report.seconds = time.monotonic() - began
    return report


def _buffered(source: Source, interrupts: Interrupts) -> Source:
    """A source of large reads, of which a wait for bytes can be interrupted."""
    stream: Any = source
    if hasattr(source, "readinto"):
        return io.BufferedReader(interrupts.stream(stream), _BUFFER)
    return source


@dataclass(slots=True)
class _Coming:
    """The snapshot that is coming, or has come and waits for its name. ``walked`` None: it is empty, or was there."""

    sent: SentDataset
    snapshot: SentSnapshot
    arrival: Arrival
    taking: Intaking
    intake: Intake | None
    began: float
    start: int
    """Where it begins in the stream."""
    resume: Resume | None
    saving: Saving
    walked: Walked | None = None
    can_go_on: bool = True
    """Whether the rest of a stream could still complete it."""


class _Receiver:
    def __init__(
        self,
        pool: "Pool",
        destination: str,
        options: ReceiveOptions,
        interrupts: Interrupts,
        progress: Progress | None,
        tell: Tell | None,
        writer: "StoreWriter | None",
    ) -> None:
        self._pool = pool
        self._catalogue: Catalogue = pool._catalogue
        self._word = destination
        self._options = options
        self._interrupts = interrupts
        self._progress = progress
        self._tell: Tell = tell or (lambda line: None)
        self._given = writer
        self._report = ReceiveReport()
        self._landing = Landing(pool, options)
        self._contents = Contents()
        self._coming: _Coming | None = None
        self._settled = False
        """Whether names have been changed."""
        self._would = False
        """With ``-n``: whether a snapshot would be there by now."""

    # -- the stream -----------------------------------------------------------------------------------------------

    def run(self, source: Source) -> ReceiveReport:
        grammar: Grammar | None = None
        try:
            self._reader = StreamReader(source)
            grammar = Grammar(self._reader)
            messages = grammar.messages()
            begin = next(messages)
            assert isinstance(begin, Begin)
            self._begin = begin
            self._destination = Destination(self._pool, self._word, self._options, begin)
            self._total = begin.size + (begin.objects + 2 * begin.snapshots) * 128
            with self._taking_in():
                for message in messages:
                    self._take(message)
        except StreamError as error:
            prefix = "" if str(error).startswith("cannot receive") else what(grammar.snapshot if grammar else None)
            raise type(error)("\n".join([prefix + str(error), *getattr(error, "__notes__", ())])) from None
        self._report.bytes = self._reader.position
        self._report.warnings = self._landing.warnings
        if not self._options.dry_run:
            with contextlib.suppress(LaminaError):  # all is there; whoever asks for the figures computes them
                Accounting(self._catalogue).refresh()
        return self._report

    @contextlib.contextmanager
    def _taking_in(self) -> Iterator[None]:
        """Have a writer, and threads that prove objects. What has no name goes with it, but for what ``-s`` keeps."""
        self._writer: StoreWriter | None = None
        with contextlib.ExitStack() as stack:
            if not self._options.dry_run:
                self._writer = self._given or stack.enter_context(self._pool._writer(self._copies()))
                self._trees = TreeCheck(self._pool.store, many=self._begin.snapshots > _MANY)
            threads = max(os.cpu_count() or 1, 2)
            self._workers = stack.enter_context(contextlib.closing(CheckedWorkers(threads, self._interrupts.check)))
            try:
                yield
            except (StreamError, KeyboardInterrupt) as error:
                self._save(error)
                raise

    def _copies(self) -> int:
        """How many copies of data are kept where the stream goes."""
        return int(Values(self._catalogue, 0, {}).setting(self._destination.top, "copies")[0])

    def _take(self, message: object) -> None:
        if isinstance(message, Incoming):
            assert self._coming is not None
            self._coming.taking.add(message.piece)
            if self._progress is not None:
                self._progress(self._reader.position, max(self._total, self._reader.position))
            self._checkpoint()
        elif isinstance(message, SentSnapshot):
            self._finish()
            self._begin_snapshot(message)
        elif isinstance(message, SnapshotEnd):
            self._complete()
        elif isinstance(message, Contents):
            self._contents = message
            for sent in message.datasets:
                self._destination.dataset_name(sent)
        elif isinstance(message, End):
            if self._options.alone:
                self._reader.check_end()
            self._finish()
            self._finish_datasets()

    # -- one snapshot ---------------------------------------------------------------------------------------------

    def _begin_snapshot(self, snapshot: SentSnapshot) -> None:
        sent = self._contents.datasets[snapshot.dataset]
        arrival = self._look(sent, snapshot, self._begin.resume)
        kind = "full" if snapshot.base is None else "incremental"
        name = f"{self._begin.name}/{sent.name}".rstrip("/") + f"@{snapshot.name}"
        verb = "would receive" if self._options.dry_run else "receiving"
        self._tell(f"{verb} {kind} stream of {printable(name)} into {arrival.name}")
        writer = None if arrival.there else self._writer
        self._coming = _Coming(
            sent=sent,
            snapshot=snapshot,
            arrival=arrival,
            taking=Intaking(writer, self._workers, self._check),
            intake=self._intake(arrival) if writer is not None else None,
            began=time.monotonic(),
            start=self._reader.position,
            resume=self._begin.resume,
            saving=Saving(self._pool, self._begin.name, sent, snapshot, arrival.partial),
        )

    def _intake(self, arrival: Arrival) -> Intake:
        return Intake(self._catalogue, arrival.dataset, arrival.name, self._pool._free(), verb="receive")

    def _look(self, sent: SentDataset, snapshot: SentSnapshot, resume: Resume | None) -> Arrival:
        """What a snapshot becomes, as things are; with ``-n``, as they would be by now."""
        if self._options.dry_run:
            expected = bool(self._would)
            self._would = True
            if expected:  # what it needs may be what would have been received before it
                return Arrival(self._destination.dataset_name(sent), snapshot.name)
        with self._reconciled():
            return self._destination.arrival(sent, snapshot, resume)

    @contextlib.contextmanager
    def _reconciled(self) -> Iterator[None]:
        """Have names as they will be once those of a package are brought in line, and undo that at the end."""
        if self._settled or not must_reconcile(self._begin, self._options):
            yield
            return
        with contextlib.suppress(_Undone), self._pool.store.database.transaction():
            self._reconcile(Change(int(self._catalogue.meta("txg") or 0) + 1, int(time.time())), tell=False)
            yield
            raise _Undone

    def _check(self) -> None:
        """Called while objects come."""
        self._interrupts.check()
        coming = self._coming
        if coming is not None and coming.intake is not None and self._writer is not None:
            coming.intake.check(self._pool._free(), self._writer.fresh)

    def _complete(self) -> None:
        """All objects of the snapshot have come."""
        coming = self._coming
        assert coming is not None
        coming.taking.finish()
        if self._writer is None or coming.arrival.there or coming.snapshot.root is None:
            return
        coming.can_go_on = False  # if it is not whole now, it never will be
        try:
            known = self._known_tree(coming.arrival)
            coming.walked = self._trees.walk(coming.snapshot.root, coming.arrival.name, known)
        except MissingObjects:
            coming.can_go_on = self._options.negotiated  # the sender may send what it thought was here
            raise
        spare = (self._writer.fresh | coming.saving.fresh) - coming.walked.objects
        if spare:
            raise StreamError(f"invalid stream: {len(spare)} of its objects are no part of '{coming.arrival.name}'")
        coming.can_go_on = True

    def _known_tree(self, arrival: Arrival) -> KnownTree | None:
        """The tree that one that comes is likely to be close to."""
        if arrival.base is None or arrival.base.root is None:
            return None
        rows = self._pool.store.database.query(
            "SELECT o.key, t.objects FROM tree t JOIN object o ON o.id = t.root WHERE t.root = ?", (arrival.base.root,)
        )
        return KnownTree(rows[0][0], BitMap64.deserialize(rows[0][1])) if rows else None

    def _finish(self) -> None:
        """Name the snapshot that has come whole: what follows it has come, too."""
        coming, self._coming = self._coming, None
        if coming is None:
            return
        size, seconds = self._reader.position - coming.start, time.monotonic() - coming.began
        if coming.arrival.there:
            size = 0
            self._report.there.append(coming.arrival.name)
            self._tell(f"snap {coming.arrival.name} already exists; ignoring")
        elif self._writer is not None:
            self._commit(coming, self._writer)
            self._report.stored += coming.taking.bytes
        if not coming.arrival.there:
            self._report.names.append(coming.arrival.name)
        if not self._options.dry_run:
            rate = format_size(int(size / seconds)) if seconds else "0B"
            self._tell(f"received {format_size(size)} stream in {seconds:.2f} seconds ({rate}/sec)")

    def _commit(self, coming: "_Coming", writer: "StoreWriter") -> None:
        if coming.walked is not None:
            writer.reached |= coming.walked.objects  # whatever gc thinks of them, they are reached from now on
        with self._changing(writer) as change:
            # Names may have changed since the snapshot began to come.
            arrival = self._destination.arrival(coming.sent, coming.snapshot, coming.saving.resume or coming.resume)
            if not arrival.there:
                self._landing.land(change, arrival, coming.sent, coming.snapshot, coming.walked)
                if coming.intake is not None:
                    coming.intake.check_commit(self._pool._free())

    @contextlib.contextmanager
    def _changing(self, writer: "StoreWriter") -> Iterator[Change]:
        """A change of names; the first of a package brings them in line, the first of all stands in the history."""
        with self._catalogue.change(writer) as change:
            if not self._settled and must_reconcile(self._begin, self._options):
                self._reconcile(change, tell=True)
            yield change
        self._settled = True
        self._catalogue.command = None

    def _reconcile(self, change: Change, *, tell: bool) -> None:
        names = [self._destination.dataset_name(sent) for sent in self._contents.datasets]
        left = reconcile(self._pool, change, names, self._contents, self._tell if tell else None)
        if tell:
            self._report.left = left

    def _finish_datasets(self) -> None:
        """What a package says of datasets without new snapshots, and of names, where no snapshot came."""
        writer = self._writer
        if writer is None:
            return
        negotiated = self._options.negotiated
        told = [sent for sent in self._contents.datasets if sent.properties is not None or negotiated]
        names = [(self._destination.dataset_name(sent), sent) for sent in told]
        left = [(name, sent) for name, sent in names if not self._landing.is_settled(name)]
        if negotiated:
            left = [(name, sent) for name, sent in left if not self._landing.is_even(name, sent)]
        if not left and (self._settled or not must_reconcile(self._begin, self._options)):
            return
        with self._changing(writer) as change:
            for name, sent in left:
                if negotiated and self._catalogue.find_dataset(name) is None:  # it has no snapshots
                    for one in (*self._destination.missing(name, what(None)), name):
                        self._catalogue.add_dataset(change, one, {})
                if self._catalogue.find_dataset(name) is not None:
                    self._landing.set_properties(change, name, sent)

    # -- going on another time ------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """With ``-s``, note what has come from time to time: a process that is killed cannot."""
        coming, writer = self._coming, self._writer
        if coming is None or writer is None or not self._options.resumable or coming.arrival.there:
            return
        if coming.saving.is_due(coming.taking):
            coming.taking.drain()
            self._save_now(coming, writer)

    def _save(self, error: BaseException) -> None:
        """With ``-s``, keep what has come of a snapshot that will not be complete, and say how to go on."""
        coming, writer = self._coming, self._writer
        if coming is None or writer is None or not (self._options.resumable and coming.can_go_on):
            return
        if coming.arrival.there:
            return
        try:
            coming.taking.settle()
            token = self._save_now(coming, writer)
        except LaminaError:
            return  # the disk is full, say: then nothing is kept
        if token is not None and self._options.negotiated:
            error.add_note("What has come of it is kept: the same command goes on from there.")
        elif token is not None:
            error.add_note(
                "Partially received snapshot is saved.\n"
                "A resuming stream can be generated on the sending system by running:\n"
                f"    lamina send -t {token}"
            )

    def _save_now(self, coming: "_Coming", writer: "StoreWriter") -> str | None:
        before = coming.arrival.partial
        if coming.taking.last is None and (before is None or before.guid != coming.snapshot.guid):
            return None
        with self._changing(writer) as change:
            arrival = self._destination.arrival(coming.sent, coming.snapshot, coming.saving.resume or coming.resume)
            number = self._landing.make_dataset(change, arrival)
            self._landing.set_properties(change, arrival.dataset, coming.sent)
            return coming.saving.put(number, arrival.row is None, coming.taking, writer)


class _Undone(Exception):
    """Ends a transaction that was only to see what would be."""
