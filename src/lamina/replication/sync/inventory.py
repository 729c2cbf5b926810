"""What the receiving side has: snapshots where the sync goes, and the roots of all trees in its pool."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from lamina.errors import StreamError
from lamina.pool.names import check_dataset_name
from lamina.replication.messages import KEPT_AT_ONCE, MOST_DATASETS, Kept
from lamina.replication.sync.protocol import Channel, Said, Say
from lamina.store.record import Kind

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_T = TypeVar("_T")

MOST_HERE = 400_000
"""Snapshots that one side may name: 100 MB of memory."""
SHORT_ROOT = 8
"""Bytes of a root's key that stand for it."""
_ROOTS_AT_ONCE = 1 << 16
_MOST_ROOTS = 1 << 17
"""Roots that are told, the newest: a megabyte."""
_NAMED_ROOTS = (
    "SELECT id, key FROM object WHERE condemned IS NULL AND id IN "
    "(SELECT root FROM snapshot UNION SELECT head FROM dataset) ORDER BY id DESC LIMIT ?"
)


@dataclass(slots=True)
class Inventory:
    """``datasets``: names of snapshots by guid, by the name of the dataset relative to the destination.

    ``objects``: about how many its pool has, 0 where it has none; ``roots``: beginnings of keys of roots, with their
    rows at the receiver.
    """

    pool: str = ""
    guid: int = 0
    objects: int = 0
    datasets: dict[str, dict[int, str]] = field(default_factory=dict)
    roots: dict[bytes, int] = field(default_factory=dict)

    @classmethod
    def of(cls, pool: "Pool", destination: str, *, recursive: bool) -> "Inventory":
        """What a pool has. Raises ``InvalidName``."""
        check_dataset_name(destination, "open")
        catalogue, database = pool._catalogue, pool.store.database
        found = cls(pool.name, pool.guid, _objects(pool))
        for row in catalogue.datasets(destination):
            if recursive or row.name == destination:
                name = row.name[len(destination) + 1 :]
                found.datasets[name] = {one.guid: one.name for one in catalogue.snapshots(row.id)}
        found.roots = {key[:SHORT_ROOT]: number for number, key in database.query(_NAMED_ROOTS, (_MOST_ROOTS,))}
        return found

    def tell(self, channel: Channel) -> None:
        """Say it."""
        roots = list(self.roots)
        head = {"pool": self.pool, "guid": self.guid, "objects": self.objects}
        channel.say(Say.INVENTORY, {**head, "datasets": len(self.datasets), "roots": len(roots)})
        for number, (name, snapshots) in enumerate(self.datasets.items()):
            channel.say(Say.HERE, {"name": name, "snapshots": len(snapshots)})
            for some in chunks([(tag, guid) for guid, tag in snapshots.items()], KEPT_AT_ONCE):
                channel.say(Say.KEPT, Kept(number, some).payload())
        for keys in chunks(roots, _ROOTS_AT_ONCE):
            channel.say(Say.ROOTS, b"".join(keys))

    @classmethod
    def hear(cls, channel: Channel) -> "Inventory":
        """Hear it. Raises ``StreamError``, ``ConnectionLost``, ``FarError``."""
        fields = channel.hear(Say.INVENTORY).fields()
        datasets = fields.number("datasets", most=MOST_DATASETS)
        roots = fields.number("roots", most=_MOST_ROOTS)
        found = cls(fields.text("pool"), fields.number("guid"), fields.number("objects"))
        snapshots = 0
        for number in range(datasets):
            here = channel.hear(Say.HERE).fields()
            name, count = here.text("name"), here.number("snapshots")
            snapshots += count
            if snapshots > MOST_HERE or name in found.datasets:
                raise here.refuse("snapshots")
            found.datasets[name] = _heard(channel, number, count)
        while len(found.roots) < roots:
            said = channel.hear(Say.ROOTS)
            keys = short_roots(said)
            found.roots.update(dict.fromkeys(keys, 0))
            if not keys or len(found.roots) > roots:
                raise StreamError(f"what the other side says makes no sense: the roots at byte {said.offset}")
        return found


def _heard(channel: Channel, number: int, count: int) -> dict[int, str]:
    found: dict[int, str] = {}
    while len(found) < count:
        said = channel.hear(Say.KEPT)
        kept = Kept.parse(said.piece)
        before = len(found)
        found.update({guid: name for name, guid in kept.snapshots})
        if kept.dataset != number or not before < len(found) <= count:
            raise StreamError(f"what the other side says makes no sense: the snapshots at byte {said.offset}")
    return found


def short_roots(said: Said) -> list[bytes]:
    """The roots in a frame of them. Raises ``StreamError``."""
    data = said.payload
    if len(data) % SHORT_ROOT:
        raise StreamError(f"what the other side says makes no sense: the roots at byte {said.offset}")
    return [data[at : at + SHORT_ROOT] for at in range(0, len(data), SHORT_ROOT)]


def _objects(pool: "Pool") -> int:
    """How many objects of trees and files there are."""
    ((everything, names),) = pool.store.database.query(
        "SELECT (SELECT count(*) FROM object), (SELECT count(*) FROM object WHERE kind = ?)", (int(Kind.NAMES),)
    )
    return int(everything - names)


def chunks(items: list[_T], size: int) -> Iterator[list[_T]]:
    """``items``, ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
