"""The chain of name records: which of those found in packs happened, and what names they leave.

Each part names the one before. From the newest part that ends a record, the chain is walked back to the first part of
a full record, or to the pool's first. A record that was synced and never committed is named by nothing and is older
than what came instead of it. Where a part is missing the walk goes on from the newest one that is not younger: rows
are whole in every record, so what is lost is only what the missing ones changed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lamina.errors import DamagedData
from lamina.pool.records import NameRecord

NS = 1_000_000_000
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """One part of a name record, as far as the chain is concerned. ``sure``: it was not found by searching."""

    key: str
    txg: int
    part: int
    parts: int
    after: str | None
    time: int
    full: bool
    sure: bool = True

    @classmethod
    def of(cls, record: NameRecord, sure: bool = True) -> "Link":
        """The link that a record is."""
        return cls(record.key, record.txg, record.part, record.parts, record.after, record.time, record.full, sure)

    @property
    def order(self) -> tuple[int, bool, int, bool]:
        """The newest of several that could be the last."""
        return self.txg, self.sure, self.time, self.full

    @property
    def record(self) -> tuple[int, int, bool, int]:
        """What all parts of one record have in common."""
        return self.txg, self.time, self.full, self.parts

    @property
    def is_last(self) -> bool:
        """Whether it ends its record."""
        return self.part == self.parts - 1


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that are missing: of changes after ``before`` (0: from the beginning) and up to ``after``."""

    before: int
    after: int


@dataclass(slots=True)
class Chain:
    """Parts of records, oldest first, that make up the names."""

    links: list[Link] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)


def find_chain(links: Iterable[Link]) -> Chain:
    """The chain that happened."""
    by_key = {link.key: link for link in links}
    ends = {link.record: link for link in by_key.values() if link.is_last}
    # A record whose end was never written did not happen, so what it names may still be the newest.
    named = {link.after for link in by_key.values() if link.record in ends}
    newest = [end for end in ends.values() if end.key not in named] or list(by_key.values())
    chain = Chain()
    seen: set[str] = set()
    link = max(newest, key=lambda one: one.order, default=None)
    while link is not None:
        seen.add(link.key)
        chain.links.append(link)
        if link.after is None or (link.full and link.part == 0):
            break
        below = by_key.get(link.after)
        if below is None or below.key in seen:
            below = _across(link, by_key.values(), seen)
            chain.gaps.append(Gap(below.txg if below is not None else 0, link.txg))
        link = below
    chain.links.reverse()
    chain.gaps.reverse()
    return chain


def _across(link: Link, links: Iterable[Link], seen: set[str]) -> Link | None:
    """Where the chain goes on behind a part that is missing."""
    left = [one for one in links if one.key not in seen]
    same = [one for one in left if one.record == link.record and one.part < link.part]
    if same:
        return max(same, key=lambda one: one.part)
    ends = [one for one in left if one.is_last and one.txg <= link.txg]
    return max(ends, key=lambda one: one.order, default=None)


@dataclass(frozen=True, slots=True)
class Command:
    """A line of the pool's history; ``time`` in seconds."""

    time: int
    txg: int
    user: str
    host: str
    command: str


@dataclass(slots=True)
class Names:
    """The names that a chain leaves, by row number; rows as name records hold them."""

    datasets: dict[int, Row] = field(default_factory=dict)
    snapshots: dict[int, Row] = field(default_factory=dict)
    bookmarks: dict[int, Row] = field(default_factory=dict)
    pool: Row = field(default_factory=dict)
    """What is the pool's own: properties, and guids that it had before."""
    history: list[Command] = field(default_factory=list)
    txg: int = 0
    highest: dict[str, int] = field(default_factory=dict)
    """The largest row number ever named, by kind."""

    def tables(self) -> Mapping[str, dict[int, Row]]:
        """Rows by the word that a change begins with."""
        return {"dataset": self.datasets, "snapshot": self.snapshots, "bookmark": self.bookmarks}


def apply_records(records: Iterable[NameRecord]) -> Names:
    """The names after all records, given in order. Raises ``DamagedData`` for a change of unknown form."""
    names = Names()
    for record in records:
        try:
            _apply(names, record)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise DamagedData(f"the name record of txg {record.txg} holds a change that makes no sense") from None
    names.history.sort(key=lambda one: one.txg)  # stable: of one txg, in the order found
    return names


def _apply(names: Names, record: NameRecord) -> None:
    if record.part == 0 and record.full:
        for table in names.tables().values():
            table.clear()
        names.pool, names.history = {}, []
    elif record.part == 0 and record.author.command:
        author = record.author
        names.history.append(Command(record.time // NS, record.txg, author.user, author.host, author.command))
    names.txg = max(names.txg, record.txg)
    for change in record.changes:
        for kind, value in change.items():
            if kind == "dropped":
                _drop(names, str(value[0]), int(value[1]))
            elif kind == "pool":
                names.pool = dict(value)
            elif kind == "history":
                names.history += _commands(value)
            else:
                number = int(value["id"])
                names.tables()[kind][number] = dict(value)
                names.highest[kind] = max(names.highest.get(kind, 0), number)


def _commands(rows: list[list[Any]]) -> Iterator[Command]:
    """Lines of history as a full record holds them: the newest first."""
    for time, txg, user, host, command in reversed(rows):
        yield Command(int(time), int(txg), str(user), str(host), str(command))


def _drop(names: Names, kind: str, number: int) -> None:
    names.tables()[kind].pop(number, None)
    names.highest[kind] = max(names.highest.get(kind, 0), number)
    if kind == "dataset":
        # Its bookmarks go with it and are not named one by one.
        for bookmark in [one for one, row in names.bookmarks.items() if row["dataset"] == number]:
            del names.bookmarks[bookmark]
