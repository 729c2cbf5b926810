"""The command line on pools in memory."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import pytest

import lamina.pool
from lamina.cli import main
from lamina.cli.commands import COMMANDS, HIDDEN
from tests.cli.fake import FakeMachine, FakePool, reference_pool


@dataclass
class Result:
    """What a command line did."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    """A machine whose pools are in memory, whichever module asks."""
    found = FakeMachine()

    class Opener:
        open = staticmethod(found.open)
        create = staticmethod(found.create)

    for module, _ in COMMANDS.values():
        import_module(f"lamina.cli.verbs.{module}")
    for module in HIDDEN.values():
        import_module(f"lamina.cli.verbs.{module}")
    modules = [module for name, module in sys.modules.items() if name.startswith("lamina.cli")]
    for holder in [*modules, lamina.pool]:
        for name, value in (("pool_of", found.pool_of), ("pool_names", found.pool_names), ("Pool", Opener)):
            if hasattr(holder, name):
                monkeypatch.setattr(holder, name, value)
    return found


@pytest.fixture
def tank(machine: FakeMachine) -> FakePool:
    """The pool of the OpenZFS transcript."""
    return machine.add(reference_pool())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def call(*words: str) -> Result:
        capsys.readouterr()
        status = main(list(words))
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return call
