"""Receives that are cut and go on (``receive -s``): noting what has come, and dropping it."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyroaring import BitMap64

from lamina.errors import LaminaError
from lamina.pool.catalogue import Catalogue
from lamina.pool.collecting.freeing import read_reach
from lamina.pool.names import check_dataset_name, parent_of
from lamina.pool.partials import Partial, drop_partial, find_partial, put_partial
from lamina.replication.incoming import Intaking
from lamina.replication.messages import Resume, SentDataset, SentSnapshot
from lamina.replication.tokens import Token, parse_token
from lamina.store.writer import StoreWriter

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_BYTES = 256 << 20
_SECONDS = 10.0
"""What has come is noted after so much: a process that is killed cannot do it at its end."""


@dataclass(slots=True)
class Saving:
    """Notes how far one snapshot has come. ``name``: of the dataset that was sent, at the sender.

    ``fresh``: rows of its objects that are noted; ``resume``: what a stream has to say to go on there.
    """

    pool: "Pool"
    name: str
    sent: SentDataset
    snapshot: SentSnapshot
    partial: Partial | None
    fresh: BitMap64 = field(default_factory=BitMap64)
    resume: Resume | None = None
    _began: float = field(default_factory=time.monotonic)
    _noted: int = 0

    def is_due(self, taking: Intaking) -> bool:
        """Whether it is time to note what has come."""
        return taking.bytes - self._noted >= _BYTES or time.monotonic() - self._began >= _SECONDS

    def put(self, dataset: int, made: bool, taking: Intaking, writer: StoreWriter) -> str:
        """Note it, inside a change of names; the token with which to go on."""
        before = self.partial
        after = taking.last or (before.after if before is not None else b"")
        earlier = parse_token(before.token) if before is not None and self.resume is None else None
        tail = f"/{self.sent.name}" if self.sent.name else ""
        token = Token(
            name=f"{self.name}{tail}@{self.snapshot.name}",
            guid=self.snapshot.guid,
            source=self.snapshot.base.guid if self.snapshot.base is not None else None,
            after=after.hex(),
            objects=taking.kept + (earlier.objects if earlier is not None else self._objects),
            bytes=taking.kept_bytes + (earlier.bytes if earlier is not None else self._bytes),
            properties=self.sent.properties is not None,
            holds=bool(self.snapshot.holds),
        )
        if earlier is not None:
            self._objects, self._bytes = earlier.objects, earlier.bytes
        self.partial = Partial(
            dataset=dataset,
            guid=self.snapshot.guid,
            source=token.source,
            root=self.snapshot.root,
            after=after,
            made=made or (before is not None and before.made),
            token=token.word(),
            objects=(before.objects if before is not None else BitMap64()) | writer.reached | writer.fresh,
        )
        put_partial(self.pool._catalogue, self.partial)
        self.fresh |= writer.fresh
        self.resume = Resume(self.snapshot.guid, after)
        self._noted = taking.bytes
        self._began = time.monotonic()
        return self.partial.token

    _objects: int = 0
    _bytes: int = 0
    """What had come of it in an earlier stream."""


def drop_saved(pool: "Pool", name: str) -> None:
    """Drop what was received of a snapshot that did not come whole, and the dataset that was made for it.

    Raises ``NotFound``, ``LaminaError`` where there is nothing.
    """
    catalogue = pool._catalogue
    check_dataset_name(name, "open")

    def found() -> Partial:
        partial = find_partial(catalogue, catalogue.dataset(name).id)
        if partial is None:
            raise LaminaError(f"'{name}' does not have any resumable receive state to abort")
        return partial

    found()
    with pool._writer() as writer, catalogue.change(writer) as change:
        partial = found()
        drop_partial(catalogue, partial.dataset)
        _condemn(catalogue, partial.objects)
        row = catalogue.dataset_by_id(partial.dataset)
        untouched = row.head is None or (
            row.origin is not None and row.head == catalogue.snapshot_by_id(row.origin).root
        )
        alone = len(catalogue.datasets(name)) == 1 and not catalogue.snapshots(row.id)
        if partial.made and untouched and alone and parent_of(name) is not None:
            catalogue.drop_dataset(change, row.id)


def _condemn(catalogue: Catalogue, objects: BitMap64) -> None:
    """Mark what nothing reaches: gc then knows of it without comparing everything."""
    spare = objects - read_reach(catalogue).live
    epoch = catalogue.epoch() + 1
    changed = catalogue.database.execute_many(
        "UPDATE object SET condemned = ? WHERE id = ? AND condemned IS NULL", ((epoch, row) for row in spare)
    )
    if changed > 0:
        catalogue.set_meta("epoch", epoch)
