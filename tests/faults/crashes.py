"""From a scenario to the states that a power loss may leave, and from such a state to a verdict."""

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.errors import NotFound
from lamina.pool import Pool
from tests.faults.oracle import check_leases, check_pool, copy_of, names_and_contents
from tests.faults.scenarios import Bench, Scenario
from tests.faults.sqlite_vfs import installed
from tests.faults.survival import Image, Machine, Mark, Nothing, Op, choices
from tests.faults.tap import Tap

Seen = dict[str, Any] | None
"""What users see of a pool; None where there is none."""


@dataclass(frozen=True)
class Recording:
    """What a scenario did: ``seen`` before its first step and after each."""

    scenario: Scenario
    start: Path
    log: list[Op]
    seen: list[Seen]


@dataclass(frozen=True)
class State:
    """What may be left after ``at`` changes; users have to see one of ``allowed``. ``plain``: a command has just
    returned, and nothing is there but what was synced."""

    at: int
    image: Image
    allowed: list[Seen]
    plain: bool


def prepared(scenario: Scenario, place: Path, trees: dict[str, Path]) -> Path:
    """The directory that holds the pool on which a scenario starts."""
    root = place / f"start-{scenario.name}"
    root.mkdir()
    from lamina.store.disk import DISK

    for step in scenario.prepared:
        step(Bench(root / "tank", DISK, trees))
    return root


def record(scenario: Scenario, place: Path, trees: dict[str, Path]) -> Recording:
    """Run a scenario under a tap."""
    start = prepared(scenario, place, trees)
    live = place / f"live-{scenario.name}"
    copy_of(start, live)
    tap = Tap(live)
    seen = [_seen(live, place, scenario)]
    with installed(tap):
        for number, step in enumerate(scenario.steps, 1):
            step(Bench(live / "tank", tap.disk, trees))
            tap.mark(number)
            seen.append(_seen(live, place, scenario))
    return Recording(scenario, start, tap.log, seen)


def _seen(live: Path, place: Path, scenario: Scenario) -> Seen:
    if not (live / "tank" / "pool.json").exists():
        return None
    with contextlib.ExitStack() as stack:
        copy = place / "looked-at"
        copy_of(live, copy)
        stack.callback(shutil.rmtree, copy)
        return scenario.see(stack.enter_context(Pool.open(copy / "tank", write=True)))


def states(recording: Recording, generator: random.Random, each: int) -> Iterator[State]:
    """States after every change of the log, all different; at most ``each`` by chance for each of its changes."""
    tap = Tap(recording.start)
    machine: Machine = tap.machine
    known: set[tuple[int, int]] = set()
    done = 0
    for at in range(len(recording.log) + 1):
        if at:
            op = recording.log[at - 1]
            machine.apply(op)
            if isinstance(op, Mark):
                done = op.step
        allowed = recording.seen[done : done + 2]
        for choice in choices(generator, each if machine.unsafe() else 0):
            image = machine.left(choice)
            if (digest := (image.digest(), done)) not in known:
                known.add(digest)
                plain = isinstance(choice, Nothing) and at > 0 and isinstance(recording.log[at - 1], Mark)
                yield State(at, image, allowed, plain)


def judge(
    state: State,
    place: Path,
    generator: random.Random,
    *,
    go_on: Path | None = None,
    see: Callable[[Pool], dict[str, Any]] = names_and_contents,
    after: Callable[[Path], None] | None = None,
) -> None:
    """Fail unless the pool in ``state`` is what it has to be; ``go_on``: a tree that it then has to take in.

    ``see`` and ``after`` are as those of a ``Scenario``.
    """
    root = place / "state"
    root.mkdir()
    try:
        state.image.write(root)
        _leave_memory(root / "tank", generator)
        try:
            if after is not None:
                after(root / "tank")
            pool = Pool.open(root / "tank", write=True)
        except NotFound:
            assert None in state.allowed
            return
        with pool:
            check_pool(pool)
            seen = see(pool)
            assert seen in state.allowed, _difference(seen, state.allowed)
            if go_on is not None:
                pool.import_image(go_on, "tank/after/all@1")
                assert not pool.verify("tank/after/all@1", go_on)
                check_pool(pool)
                check_leases(pool)
                found = pool.scrub()
                # What a recovery found in one pack alone gets its second copy back.
                assert found.errors == 0 and (after is not None or found.repaired == 0), found
    finally:
        shutil.rmtree(root)


def _leave_memory(pool: Path, generator: random.Random) -> None:
    """What SQLite shares between processes is never synced: anything may be left of it."""
    if (pool / "catalogue.db").exists():
        left = generator.choice((None, b"", bytes(32 << 10), generator.randbytes(32 << 10)))
        if left is not None:
            (pool / "catalogue.db-shm").write_bytes(left)


def _difference(seen: dict[str, Any], allowed: list[Seen]) -> str:
    lines = ["users see what was never there:"]
    for number, one in enumerate(allowed):
        if one is None:
            lines.append(f"allowed {number} is no pool at all")
            continue
        lines += [f"{key} is {seen[key]!r}, allowed {number} {one[key]!r}" for key in seen if seen[key] != one[key]]
    return "\n".join(line[:2000] for line in lines)
