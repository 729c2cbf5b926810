"""What the sending side proposes: snapshots to come, what names say, and which trees it takes for there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lamina.errors import StreamError
from lamina.replication.messages import KEPT_AT_ONCE, Begin, Kept, SentDataset, SentSnapshot
from lamina.replication.sync.choosing import Chosen
from lamina.replication.sync.inventory import MOST_HERE, SHORT_ROOT, chunks, short_roots
from lamina.replication.sync.protocol import Channel, Said, Say
from lamina.replication.sync.shortkeys import LEAST, MOST_ASKED, WHOLE

_MOST_ROOTS = (1 << 20) // SHORT_ROOT


@dataclass(slots=True)
class Proposal:
    """``snapshots`` are as in a stream, in its order; ``gone`` and ``renamed`` by the number of the dataset.

    ``roots``: beginnings of the roots of trees of the receiver that need not come; ``asked`` objects are asked about by
    the first ``width`` bytes of their keys.
    """

    begin: Begin
    datasets: list[SentDataset] = field(default_factory=list)
    snapshots: list[SentSnapshot] = field(default_factory=list)
    gone: dict[int, set[int]] = field(default_factory=dict)
    renamed: dict[int, dict[int, str]] = field(default_factory=dict)
    roots: list[bytes] = field(default_factory=list)
    asked: int = 0
    width: int = WHOLE

    @classmethod
    def hear(cls, channel: Channel) -> "Proposal":
        """Hear it, up to the first key. Raises ``StreamError``, ``ConnectionLost``, ``FarError``."""
        found = cls(Begin.parse(channel.hear(Say.BEGIN).piece))
        count = 0
        for _ in range(found.begin.datasets):
            found.datasets.append(SentDataset.parse(channel.hear(Say.DATASET).piece))
        names = {sent.name for sent in found.datasets}
        if len(names) < len(found.datasets) or found.datasets[0].name:
            raise StreamError("what the other side says makes no sense: a dataset comes twice, or out of place")
        for _ in range(found.begin.snapshots):
            found.snapshots.append(SentSnapshot.parse(channel.hear(Say.SNAPSHOT).piece))
        if any(one.dataset >= len(found.datasets) for one in found.snapshots):
            raise StreamError("what the other side says makes no sense: a snapshot is of no dataset")
        while True:
            said = channel.hear(Say.GONE, Say.RENAMED, Say.ROOTS, Say.QUESTION)
            if said.kind is Say.QUESTION:
                fields = said.fields()
                found.asked, found.width = (
                    fields.number("objects", most=MOST_ASKED),
                    fields.number("width", LEAST, WHOLE),
                )
                return found
            count += found._add(said)
            if count > MOST_HERE or len(found.roots) > _MOST_ROOTS:
                raise StreamError("what the other side says makes no sense: more names than there can be")

    def _add(self, said: Said) -> int:
        """Take a frame of names or roots; how many names it has."""
        if said.kind is Say.ROOTS:
            self.roots += short_roots(said)
            return 0
        kept = Kept.parse(said.piece)
        if kept.dataset >= len(self.datasets) or not kept.snapshots:
            raise StreamError(f"what the other side says makes no sense: the names at byte {said.offset}")
        if said.kind is Say.GONE:
            self.gone.setdefault(kept.dataset, set()).update(guid for _, guid in kept.snapshots)
        else:
            self.renamed.setdefault(kept.dataset, {}).update({guid: name for name, guid in kept.snapshots})
        return len(kept.snapshots)


def propose(channel: Channel, chosen: Chosen, roots: list[bytes], asked: int, width: int) -> None:
    """Say it; the keys that are asked about follow."""
    plan = chosen.plan
    channel.say(Say.BEGIN, plan.begin.payload())
    for dataset in plan.datasets:
        channel.say(Say.DATASET, dataset.payload())
    for part in plan.parts:
        channel.say(Say.SNAPSHOT, part.message.payload())
    _names(channel, Say.GONE, {number: [("", guid) for guid in guids] for number, guids in chosen.gone.items()})
    _names(channel, Say.RENAMED, chosen.renamed)
    for some in chunks(roots, KEPT_AT_ONCE):
        channel.say(Say.ROOTS, b"".join(some))
    channel.say(Say.QUESTION, {"objects": asked, "width": width})


def _names(channel: Channel, kind: Say, names: Mapping[int, list[tuple[str, int]]]) -> None:
    for number, pairs in names.items():
        for some in chunks(pairs, KEPT_AT_ONCE):
            channel.say(kind, Kept(number, some).payload())
