"""Commands that meet a fault: which calls may fail how, and what has to come of it."""

import contextlib
import errno
import gc
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from lamina.errors import NoSpace
from lamina.pool import Pool
from lamina.store.disk import DISK
from tests.faults.crashes import State, judge
from tests.faults.oracle import check_leases, check_pool, copy_of, one_line, summary
from tests.faults.scenarios import Bench, Command
from tests.faults.sqlite_vfs import TappedSqlite, installed
from tests.faults.survival import Chance, Nothing, Op
from tests.faults.tap import Call, Fault, Plan, Tap

HANGS = 60
"""Seconds after which a command that should have failed is said to hang."""

TAKES_SPACE = frozenset({"create", "write", "allocate", "mkdir", "map", "replace"})

Summary = dict[str, Any] | None


def _once(number: int, code: int) -> Plan:
    """One call fails."""
    return lambda call: Fault(code) if call.number == number else None


def _from_on(number: int, code: int, kinds: frozenset[str] | None = None) -> Plan:
    """All calls fail from one on, or all of some kinds."""
    return lambda call: Fault(code) if call.number >= number and (kinds is None or call.kind in kinds) else None


def _short(number: int) -> Plan:
    """One read or write does half of its work."""

    def plan(call: Call) -> Fault | None:
        return Fault(part=0.5) if call.number == number and call.kind in ("read", "write") else None

    return plan


def _nearly_full(number: int) -> Plan:
    """A write takes a part, and from then on nothing has room."""

    def plan(call: Call) -> Fault | None:
        if call.number == number and call.kind == "write":
            return Fault(errno.ENOSPC, 0.5)
        return Fault(errno.ENOSPC) if call.number > number and call.kind in TAKES_SPACE else None

    return plan


@dataclass(frozen=True)
class Way:
    """How a call may fail, and which calls can."""

    plan: Callable[[int], Plan]
    can: Callable[[Call], bool]


WAYS = {
    "error": Way(lambda n: _once(n, errno.EIO), lambda call: True),
    "dies": Way(lambda n: _from_on(n, errno.EIO), lambda call: True),
    "full": Way(lambda n: _from_on(n, errno.ENOSPC, TAKES_SPACE), lambda call: call.kind in TAKES_SPACE),
    "full once": Way(lambda n: _once(n, errno.ENOSPC), lambda call: call.kind in TAKES_SPACE | {"sync"}),
    "full at sync": Way(lambda n: _from_on(n, errno.ENOSPC, TAKES_SPACE | {"sync"}), lambda call: call.kind == "sync"),
    "nearly full": Way(_nearly_full, lambda call: call.kind == "write"),
    "short": Way(_short, lambda call: call.kind in ("read", "write") and not call.sqlite),
    "no holes": Way(lambda n: _from_on(n, errno.EOPNOTSUPP, frozenset({"punch"})), lambda call: call.kind == "punch"),
}


@dataclass(frozen=True)
class Subject:
    """A command on a pool that is ready for it, and what users see before and after."""

    command: Command
    start: Path
    before: Summary
    after: Summary
    calls: list[Call]


def look(root: Path, *, checked: bool = True) -> Summary:
    """The summary of the pool below ``root``, which is checked; None where there is none. Looks at a copy."""
    if not (root / "tank" / "pool.json").exists():
        return None
    copy = root.with_name(f"{root.name}-looked-at")
    copy_of(root, copy)
    try:
        with Pool.open(copy / "tank", write=True) as pool:
            if checked:
                check_pool(pool)
            return summary(pool)
    finally:
        shutil.rmtree(copy)


@contextlib.contextmanager
def _not_for_ever() -> Iterator[None]:
    """Raise where the block hangs."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("the command hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def subject(command: Command, place: Path, trees: dict[str, Path]) -> Subject:
    """Make the pool, and watch the command once without faults."""
    start, run = place / f"start-{command.name}", place / "run"
    start.mkdir()
    for step in command.prepared:
        step(Bench(start / "tank", DISK, trees))
    before = look(start)
    _forget(place)
    if command.harm is not None:
        command.harm(start / "tank")
    copy_of(start, run)
    tap = Tap(run)
    with installed(tap):
        command.run(Bench(run / "tank", tap.disk, trees))
    after = look(run)
    assert after is not None
    shutil.rmtree(run)
    return Subject(command, start, before, after, tap.calls)


def _forget(place: Path) -> None:
    """Nobody knows of pools made before."""
    shutil.rmtree(place / "known", ignore_errors=True)


def attempt(tried: Subject, plan: Plan, place: Path, trees: dict[str, Path], generator: random.Random) -> str:
    """Run a command that meets a fault; what came of it. Fails unless that was borne."""
    run = place / "run"
    _forget(place)
    copy_of(tried.start, run)
    try:
        tap = Tap(run, plan)
        trial = _Trial(tried, tap, Bench(run / "tank", tap.disk, trees))
        with installed(tap) as vfs:
            if tried.command.work is not None and generator.random() < 0.5:
                trial.with_one_pool(tried.command.work)
            else:
                trial.anew()
            trial.nothing_open(vfs)
            if trial.error is not None and trial.outcome == "failed":
                if tried.before is None:
                    shutil.rmtree(run / "tank", ignore_errors=True)
                    return str(trial)
                tried.command.run(trial.bench)
            if tried.command.harm is not None:
                tried.command.run(trial.bench)  # what could not be read for a moment is taken for damaged
            assert look(run) == tried.after
            with trial.bench.open() as pool:
                pool.set(["tank"], {"user:next": "one"})  # whoever comes next takes away what others had to leave
                check_leases(pool)
                after = summary(pool)
        _lose_power(tried.start, tap.log, after, place, generator)
        return str(trial)
    finally:
        shutil.rmtree(run, ignore_errors=True)


class _Trial:
    def __init__(self, tried: Subject, tap: Tap, bench: Bench) -> None:
        self._tried = tried
        self._tap = tap
        self.bench = bench
        self.error: Exception | None = None
        self.outcome = "done"

    def anew(self) -> None:
        """The command opens the pool and closes it again."""
        try:
            with _not_for_ever():
                self._tried.command.run(self.bench)
        except Exception as error:
            self._note(error)
        self._tap.plan = None
        self._judge(look(self.bench.path.parent, checked=self._tried.command.harm is None))

    def with_one_pool(self, work: Callable[[Pool, Bench], object]) -> None:
        """The same pool goes on after the fault: it looks, and tries again."""
        try:
            with _not_for_ever(), self.bench.open() as pool:
                try:
                    work(pool, self.bench)
                except Exception as error:
                    self._note(error)
                self._tap.plan = None
                self._judge(summary(pool))
                if self.outcome == "failed":
                    work(pool, self.bench)
                    assert summary(pool) == self._tried.after
                    self.outcome = "failed, then done"
        except Exception as error:
            if self._tap.plan is None:
                raise
            self._note(error)  # in opening it
            self._tap.plan = None
            self._judge(look(self.bench.path.parent, checked=self._tried.command.harm is None))

    def _note(self, error: Exception) -> None:
        one_line(error)
        self.error = error.with_traceback(None)
        self.error.__context__ = self.error.__cause__ = None  # frames in it keep files open

    def _judge(self, found: Summary) -> None:
        assert found in (self._tried.before, self._tried.after), "something half-made is left"
        if self.error is None:
            assert found == self._tried.after
        else:
            self.outcome = "failed, but done" if found != self._tried.before else "failed"
            full = "no space left" in str(self.error).lower()
            assert not full or isinstance(self.error, NoSpace), repr(self.error)

    def nothing_open(self, vfs: TappedSqlite) -> None:
        """Fail if files were left open."""
        gc.collect()
        assert not vfs.open_files(), f"left open: {vfs.open_files()}"
        assert not self._tap.disk.open_files(), f"left open: {self._tap.disk.open_files()}"

    def __str__(self) -> str:
        if self.error is None:
            return self.outcome
        text = str(self.error).replace(str(self.bench.path.parent), "")
        return f"{self.outcome}: {type(self.error).__name__}: {text}"


def _lose_power(start: Path, log: list[Op], after: dict[str, Any], place: Path, generator: random.Random) -> None:
    """What was said to be done after a fault is there after a power loss too: a failed sync has left nothing behind."""
    machine = Tap(start).machine
    for op in log:
        machine.apply(op)
    for choice in (Nothing(), Chance(generator)):
        judge(State(len(log), machine.left(choice), [after], True), place, generator, see=summary)
