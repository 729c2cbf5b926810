"""Every call fails in its turn: the command says so in one line, the pool is whole, and a second try works.

``LAMINA_INJECT=1`` takes every call of every command; without it, a sample.
"""

import os
import random
import traceback
from pathlib import Path

import pytest

from tests.faults.injection import WAYS, attempt, subject
from tests.faults.scenarios import Command, commands

EVERY = bool(os.environ.get("LAMINA_INJECT"))
FEW = 6


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_faults(command: Command, place: Path, trees: dict[str, Path], small_packs: None) -> None:
    tried = subject(command, place, trees)
    generator = random.Random(command.name)
    trials = [(way, call.number) for way, how in WAYS.items() for call in tried.calls if how.can(call)]
    if not EVERY:
        trials = generator.sample(trials, FEW)
    outcomes: dict[str, int] = {}
    wrong: dict[str, list[str]] = {}
    for way, number in trials:
        call = tried.calls[number]
        try:
            outcome = attempt(tried, WAYS[way].plan(number), place, trees, random.Random(f"{way} {number}"))
        except Exception as error:
            where = "".join(traceback.format_exception(error))[-6000:]
            told = f"{way} at call {number} of {len(tried.calls)}, {call}:\n{where}"
            wrong.setdefault(f"{type(error).__name__}: {error}".splitlines()[0], []).append(told)
            continue
        if outcome.startswith("failed, but done"):
            outcome += f" ({way} at {call.kind} {call.path})"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f"\n{command.name}: {len(tried.calls)} calls, {len(trials)} trials")
    for outcome, count in sorted(outcomes.items()):
        print(f"  {count} {outcome}")
    for what, cases in wrong.items():
        print(f"  WRONG {len(cases)} times: {what}\n{cases[0]}")
    assert not wrong, f"{sum(map(len, wrong.values()))} of {len(trials)} faults are not borne"


@pytest.mark.parametrize("name", ["import", "scrub", "gc"])
def test_a_commit_that_comes_back(name: str, place: Path, trees: dict[str, Path], small_packs: None) -> None:
    """The catalogue's log was written but not synced, and then nothing has room any more.

    The command has failed, and could not even say so in the catalogue; when it is opened next, the log holds the commit
    after all. What its rows name must still be there.
    """
    command = next(one for one in commands() if one.name == name)
    tried = subject(command, place, trees)
    for call in tried.calls:
        if call.kind == "sync" and call.path.endswith("-wal"):
            attempt(tried, WAYS["full at sync"].plan(call.number), place, trees, random.Random(call.number))
