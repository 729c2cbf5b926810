"""Writing a stream. What is sent is pinned: it stays in the pool until the stream is written, whatever is destroyed."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.pool.collecting.reading import pin, reading
from lamina.replication.messages import End, SnapshotEnd
from lamina.replication.planning import Part, Plan, Request, plan_resume, plan_send
from lamina.replication.reading import RecordReader
from lamina.replication.stream import Frame, Sink, StreamWriter
from lamina.replication.tokens import Token

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

Progress = Callable[[Part, int, int], None]
"""Gets the snapshot that is being sent, the bytes of its frames so far, and those of the whole stream."""


@dataclass(frozen=True, slots=True)
class SendReport:
    """What was sent: snapshots, objects, and bytes of the stream."""

    snapshots: int
    objects: int
    bytes: int


@contextlib.contextmanager
def planned(pool: "Pool", what: Request | Token | Callable[[], Plan], have: BitMap64 | None = None) -> Iterator[Plan]:
    """The stream that was asked for, or the rest of one; what it holds is pinned as long as the context is entered.

    ``what``: also what makes a plan. ``have``: rows of objects that the receiver has. Whoever may not write to the
    pool sends without pins: what is destroyed meanwhile may then be missing, and the stream ends with an error.
    Raises ``NotFound``, ``LaminaError``.
    """
    database = pool.store.database
    with reading(pool) as lease:
        while True:
            txg = pool._catalogue.meta("txg")
            if callable(what):
                plan = what()
            else:
                plan = plan_send(pool, what) if isinstance(what, Request) else plan_resume(pool, what)
            if have is not None:
                plan = plan.without(pool, have)
            if lease is None:
                if pool._catalogue.meta("txg") == txg:
                    break
                continue
            with database.transaction():
                if pool._catalogue.meta("txg") != txg:
                    continue
                roots = {part.row for part in plan.parts if part.row is not None}
                pin(database, lease.name, roots)
            break
        yield plan


def write_stream(pool: "Pool", plan: Plan, sink: Sink, progress: Progress | None = None) -> SendReport:
    """Write the stream of a plan. Raises ``DamagedData`` where an object cannot be read, and what ``sink`` raises."""
    writer = StreamWriter(sink)
    writer.frame(Frame.BEGIN, plan.begin.payload())
    kept = iter([*plan.kept, None])
    next_kept = next(kept)
    for number, dataset in enumerate(plan.datasets):
        writer.frame(Frame.DATASET, dataset.payload())
        while next_kept is not None and next_kept.dataset == number:
            writer.frame(Frame.KEPT, next_kept.payload())
            next_kept = next(kept)
    reader = RecordReader(pool.store)
    objects = 0
    for part in plan.parts:
        objects += _write_part(writer, reader, part, progress)
    writer.frame(Frame.END, End(writer.frames, writer.digest()).payload())
    return SendReport(len(plan.parts), objects, writer.position)


def _write_part(writer: StreamWriter, reader: RecordReader, part: Part, progress: Progress | None) -> int:
    began = writer.position
    writer.frame(Frame.SNAPSHOT, part.message.payload())
    objects = stored = 0
    with contextlib.closing(reader.records(part.objects)) as records:  # type: ignore[type-var]
        try:
            for record in records:
                writer.frame(Frame.OBJECT, record.head, record.payload)
                objects += 1
                stored += len(record.payload)
                if progress is not None:
                    progress(part, writer.position - began, writer.position)
        except DamagedData as error:
            raise DamagedData(f"cannot send '{part.name}': {error}") from None
    writer.frame(Frame.SNAPSHOT_END, SnapshotEnd(objects, stored, writer.digest()).payload())
    if progress is not None:
        progress(part, writer.position - began, writer.position)
    return objects
