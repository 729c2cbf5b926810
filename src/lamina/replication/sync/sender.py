"""The sending side of a sync: it hears what there is, proposes, asks, and sends what is not there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyroaring import BitMap64

from lamina.errors import StreamError
from lamina.replication.planning import Part, Plan
from lamina.replication.sending import planned, write_stream
from lamina.replication.stream import Sink
from lamina.replication.sync.choosing import Chooser, Chosen, known_trees
from lamina.replication.sync.inventory import Inventory
from lamina.replication.sync.pacing import Paced
from lamina.replication.sync.proposal import propose
from lamina.replication.sync.protocol import Channel, Say
from lamina.replication.sync.report import Done, Outlook
from lamina.replication.sync.shortkeys import WHOLE, Question, width
from lamina.replication.sync.terms import Terms
from lamina.replication.sync.verdict import Verdict

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Sender:
    """One sync's. ``outlook`` is called once it is known what will be sent and what becomes of names."""

    pool: "Pool"
    terms: Terms
    channel: Channel
    progress: Progress | None = None
    outlook: Callable[[Outlook], None] | None = None
    streamed: int = 0
    _chosen: Chosen | None = field(default=None, init=False)

    def run(self) -> Done:
        """Do it all. Raises what refuses it here, ``FarError`` what refuses it there, ``ConnectionLost``."""
        there = Inventory.hear(self.channel)

        def choose() -> Plan:
            self._chosen = Chooser(self.pool, self.terms, there).choose()
            return self._chosen.plan

        with planned(self.pool, choose):
            chosen = self._chosen
            assert chosen is not None
            verdict, question, have = self._negotiate(chosen, there)
            if verdict.refused:
                names = [chosen.names[number] for number in verdict.refused if 0 <= number < len(chosen.names)]
                chosen = Chooser(self.pool, self.terms, there, names).choose()
            plan = chosen.plan.without(self.pool, have)
            looks = Outlook.of(plan, verdict)
            if self.outlook is not None:
                self.outlook(looks)
            self._go(looks, question)
            if self.terms.dry_run:
                return Done()
            self._write(plan)
            return Done.hear(self.channel)

    def _negotiate(self, chosen: Chosen, there: Inventory) -> tuple[Verdict, str, BitMap64]:
        """Propose and ask; the verdict, a proof in hexadecimal, and the rows of what the other side has."""
        objects = chosen.objects()
        thorough = self.terms.thorough
        roots, have = ([], BitMap64()) if thorough else known_trees(self.pool, there, objects)
        asked = objects - have if there.objects else BitMap64()
        bytes_of_key = WHOLE if thorough else width(len(asked), there.objects)
        propose(self.channel, chosen, roots, len(asked), bytes_of_key)
        question = Question(self.pool.store.database, asked, bytes_of_key)
        for payload in question.frames():
            self.channel.say(Say.CANDIDATES, payload)
        self.channel.flush()
        verdict = Verdict.hear(self.channel)
        answer = bytearray()
        while len(answer) < question.bytes_of_answer():
            answer += self.channel.hear(Say.ANSWER).payload
        found = question.answered(bytes(answer))
        return verdict, question.proof(found).hex(), have | found

    def _go(self, looks: Outlook, proof: str) -> None:
        if self.terms.dry_run or self.terms.verbose:
            looks.tell_parts(self.channel)
        looks.tell(self.channel, proof)
        self.channel.flush()

    def _write(self, plan: Plan) -> None:
        total = plan.size
        self.channel.streaming = True
        sink: Sink = Paced(self.channel, self.terms.rate) if self.terms.rate else self.channel

        def report(part: Part, sent: int, all_sent: int) -> None:
            self.streamed = all_sent
            if self.progress is not None:
                self.progress(all_sent, total)

        written = write_stream(self.pool, plan, sink, report)
        self.streamed = written.bytes
        if written.bytes != total:
            raise StreamError(f"cannot sync: {written.bytes} bytes were sent where {total} were announced")
        self.channel.flush()
        self.channel.streaming = False
