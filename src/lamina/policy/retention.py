"""Which snapshots to keep, and why. Nothing here knows a pool: it is given times and rules.

The rules are independent, as restic's: a snapshot may be kept by several, and each counts what it keeps by itself
(borg instead does not let a later rule count what an earlier one kept). A rule of N periods keeps the newest snapshot
of each of the last N periods **that have one**: days on which nothing was made use up nothing. There is no extra
snapshot "to fill a rule up", which both tools keep in cases.

Two orders meet here. A clock says which day a snapshot belongs to; but clocks jump, so which of two is the newer is
what the pool's transactions say (``createtxg``), which nothing turns back. A snapshot from the future of ``now`` is
kept, and uses up no place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lamina.policy.periods import PERIOD, Zone, before
from lamina.pool.rules import PERIODS, Retention
from lamina.pool.units import format_date


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a decision needs to know of a snapshot. ``creation`` in seconds since 1970, ``number`` orders those of one
    transaction."""

    name: str
    creation: int
    createtxg: int
    number: int
    shields: tuple[str, ...] = ()
    """Why it is kept whatever the rules say: ``held``, ``origin of tank/c``."""

    @property
    def order(self) -> tuple[int, int]:
        """Sorts snapshots of a dataset in the order they were made."""
        return self.createtxg, self.number


@dataclass(frozen=True, slots=True)
class Reason:
    """What one rule says of a snapshot."""

    rule: str
    """``last``, ``hourly`` … ``yearly``, ``within 10d``; ``future`` and ``protected`` hold whatever the rules are."""
    keeps: bool
    note: str = ""
    """The period, or what else is to be said."""
    place: int = 0
    """Which of the ``limit`` snapshots that the rule keeps this is, the newest being 1; 0 where that means nothing."""
    limit: int = 0

    def __str__(self) -> str:
        rule = f"{self.rule} {self.place} of {self.limit}" if self.place else self.rule
        return f"{rule}: {self.note}" if self.note else rule


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to one snapshot; ``reasons`` of those that speak for what happens."""

    snapshot: Snapshot
    keep: bool
    reasons: tuple[Reason, ...]


def decide(snapshots: Iterable[Snapshot], rules: Retention, now: int, zone: Zone) -> list[Decision]:
    """Decide over the snapshots of one dataset, the newest first. Raises ``ValueError`` when there is no rule."""
    if not rules:
        raise ValueError("no rule says what to keep")
    newest_first = sorted(snapshots, key=lambda one: one.order, reverse=True)
    past = [one for one in newest_first if one.creation <= now]
    by_rule = list(_rules(past, rules, now, zone))
    said = iter(zip(*by_rule, strict=True))  # what all rules say of each of the past
    decisions = []
    for one in newest_first:
        reasons = [Reason("protected", True, shield) for shield in one.shields]
        if one.creation > now:
            note = f"made {format_date(one.creation)}, which is still to come; check the clock"
            reasons.insert(0, Reason("future", True, note))
        else:
            reasons += next(said)
        kept = tuple(reason for reason in reasons if reason.keeps)
        decisions.append(Decision(one, bool(kept), kept or tuple(reasons)))
    return decisions


def _rules(past: Sequence[Snapshot], rules: Retention, now: int, zone: Zone) -> Iterable[list[Reason]]:
    """What each rule that is given says of each snapshot of ``past``, which is sorted, the newest first."""
    if rules.last:
        older = Reason("last", False, "older")
        yield [
            Reason("last", True, "", place, rules.last) if place <= rules.last else older
            for place in range(1, len(past) + 1)
        ]
    local = [zone.local(one.creation) for one in past]
    for rule in PERIODS:
        if limit := getattr(rules, rule):
            yield _periodic(rule, limit, past, [PERIOD[rule](when) for when in local])
    if rules.within is not None:
        since = before(now, rules.within, zone)
        younger, older = (Reason(f"within {rules.within}", keeps, "" if keeps else "older") for keeps in (True, False))
        yield [younger if one.creation > since else older for one in past]


def _periodic(rule: str, limit: int, past: Sequence[Snapshot], periods: Sequence[str]) -> list[Reason]:
    """What a rule of periods says; ``periods`` are those in which the snapshots were made."""
    winners: dict[str, Snapshot] = {}
    for one, period in zip(past, periods, strict=True):
        winners.setdefault(period, one)
    # Where a clock has jumped, the order of transactions is not that of days; any snapshot tells when its period was.
    ordered = sorted(winners, key=lambda period: winners[period].creation, reverse=True)
    places = {period: place for place, period in enumerate(ordered, 1)}
    older = Reason(rule, False, "older")
    said: list[Reason] = []
    for one, period in zip(past, periods, strict=True):
        if places[period] > limit:
            said.append(older)
        elif winners[period] is one:
            said.append(Reason(rule, True, period, places[period], limit))
        else:
            said.append(Reason(rule, False, f"{period} has a newer one"))
    return said
