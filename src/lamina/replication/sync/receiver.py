"""The receiving side of a sync: it says what there is, answers, and receives.

What it says is there stays there until the snapshots have their names: it holds a writer's lease from before it looks,
so gc deletes nothing of it, and each commit clears the marks of all that was promised.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyroaring import BitMap64

from lamina.errors import FarError, LaminaError
from lamina.pool.properties import native_name, parse_properties
from lamina.pool.values import Values
from lamina.replication.destination import Destination, ReceiveOptions
from lamina.replication.receiving import receive_stream
from lamina.replication.sync.aligning import Aligning
from lamina.replication.sync.inventory import Inventory
from lamina.replication.sync.proposal import Proposal
from lamina.replication.sync.protocol import Channel, Say
from lamina.replication.sync.report import Done, Outlook
from lamina.replication.sync.shortkeys import Answers
from lamina.replication.sync.terms import Terms
from lamina.replication.sync.verdict import Verdict

if TYPE_CHECKING:
    from lamina.pool.pool import Pool
    from lamina.store.writer import StoreWriter

_REFUSED = "cannot receive: "


def receive_options(terms: Terms) -> ReceiveOptions:
    """How the stream of a sync is received. Raises ``PropertyError``."""
    return ReceiveOptions(
        force=terms.force,
        resumable=True,
        parents=terms.parents,
        negotiated=True,
        alone=False,
        properties=parse_properties(terms.properties, prefix=_REFUSED),
        excluded=frozenset(native_name(word) for word in terms.excluded),
    )


@dataclass(slots=True)
class Receiver:
    """One sync's. ``outlook`` is called once it is known what will come and what becomes of names."""

    pool: "Pool"
    terms: Terms
    channel: Channel
    progress: Callable[[int, int], None] | None = None
    outlook: Callable[[Outlook], None] | None = None
    streamed: int = 0
    _inventory: Inventory = field(default_factory=Inventory, init=False)

    def run(self) -> Done:
        """Do it all. Raises what refuses it here, ``FarError`` what refuses it there, ``ConnectionLost``."""
        options = receive_options(self.terms)
        with self._writing() as writer:
            self._inventory = Inventory.of(self.pool, self.terms.destination, recursive=self.terms.recursive)
            self._inventory.tell(self.channel)
            self.channel.flush()
            proposal = Proposal.hear(self.channel)
            answers = self._answers(proposal)
            destination = Destination(self.pool, self.terms.destination, options, proposal.begin)
            aligning = Aligning(self.pool, destination, proposal)
            verdict = aligning.judge()
            promised = self._known(proposal) | answers.rows
            if len(verdict.refused) == len(proposal.datasets):
                raise LaminaError("\n".join(dict.fromkeys(verdict.refused.values())))
            verdict.tell(self.channel)
            for payload in answers.frames():
                self.channel.say(Say.ANSWER, payload)
            self.channel.flush()
            looks, proof = Outlook.hear(self.channel, verdict)
            if proof != answers.proof().hex():
                # One of our keys begins like another of theirs.
                raise FarError("what is here cannot be told by the beginnings of keys", again=True)
            if self.outlook is not None:
                self.outlook(looks)
            if writer is None:
                return Done()
            writer.reached |= promised
            done = self._receive(writer, options, aligning, looks)
        done.tell(self.channel)
        self.channel.flush()
        return done

    @contextlib.contextmanager
    def _writing(self) -> "Iterator[StoreWriter | None]":
        if self.terms.dry_run:
            yield None
            return
        copies = int(Values(self.pool._catalogue, 0, {}).setting(self.terms.destination, "copies")[0])
        with self.pool._writer(copies) as writer:
            yield writer

    def _answers(self, proposal: Proposal) -> Answers:
        answers = Answers(self.pool.store.database, proposal.width)
        left = proposal.asked
        while left > 0:
            left -= answers.take(self.channel.hear(Say.CANDIDATES).payload)
        if left < 0:
            raise LaminaError("what the other side says makes no sense: it asks more than it said")
        return answers

    def _known(self, proposal: Proposal) -> BitMap64:
        """The objects of trees here that need not come."""
        found = BitMap64()
        for key in proposal.roots:
            number = self._inventory.roots.get(key, 0)
            rows = self.pool.store.database.query("SELECT objects FROM tree WHERE root = ?", (number,))
            if not rows:
                raise FarError("a tree that was here has been destroyed meanwhile", again=True)
            found |= BitMap64.deserialize(rows[0][0])
        return found

    def _receive(self, writer: "StoreWriter", options: ReceiveOptions, aligning: Aligning, looks: Outlook) -> Done:
        done = Done()
        refused = looks.verdict.refused
        command = self.pool.command
        if not aligning.is_idle(looks.verdict):
            self._change(writer, lambda change, found: aligning.make_room(change, refused, found), done)

        def progress(came: int, total: int) -> None:
            self.streamed = came
            if self.progress is not None:
                self.progress(came, max(looks.size, came))

        report = receive_stream(
            self.pool, self.channel, self.terms.destination, options, progress=progress, writer=writer
        )
        self.streamed = report.bytes
        done.snapshots, done.stored, done.warnings = len(report.names), report.stored, report.warnings
        if looks.verdict.destroyed:
            self.pool.command = command
            self._change(writer, lambda change, found: aligning.finish(change, refused, found), done)
        done.kept = done.kept or looks.verdict.kept
        return done

    def _change(self, writer: "StoreWriter", act: "Callable[..., None]", done: Done) -> None:
        """One change of names; what it did is added to ``done``."""
        found = Verdict()
        with self.pool._catalogue.change(writer) as change:
            act(change, found)
        for name in ("destroyed", "renamed", "kept"):
            getattr(done, name).extend(getattr(found, name))
