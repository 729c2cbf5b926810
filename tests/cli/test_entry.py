"""The way in: help, versions, errors that end a command, start-up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.cli import main
from lamina.cli.commands import ALIASES, COMMANDS, load
from lamina.errors import DamagedData
from tests.cli.conftest import Run
from tests.cli.fake import FakePool

PYTHON = [sys.executable, "-m", "lamina"]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_no_words_and_unknown_words(run: Run) -> None:
    for words, message in (
        ([], "missing command"),
        (["bogus"], "unrecognized command 'bogus'"),
        (["\x1b[2J"], "unrecognized command '\\x1b[2J'"),
        (["image"], "missing image command"),
        (["-x"], "unrecognized command '-x'"),
    ):
        result = run(*words)
        assert (result.status, result.out) == (2, "")
        assert result.err.splitlines()[:2] == [message, "usage: lamina COMMAND ARGUMENT ..."]


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_has_a_manual(run: Run, verb: str) -> None:
    command = load(verb)
    assert command.name == verb and command.summary == COMMANDS[verb][1]
    page = run("help", *verb.split())
    assert (page.status, page.err) == (0, "")
    for title in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS"):
        assert f"\n{title}\n" in f"\n{page.out}"
    assert max(len(line) for line in page.out.splitlines()) <= 100
    for option in command.options:
        assert f"--{option.long}" in page.out and option.help
        # What the synopsis shows and what is taken are the same.
        if option.short:
            assert any(f"-{option.short}" in line or option.short in _flags(line) for line in command.synopsis)
    assert run(*verb.split(), "--help").out == page.out
    if not any(option.short == "h" for option in command.options):
        assert run(*verb.split(), "-h").out == page.out
    assert len({option.long for option in command.options}) == len(command.options)
    shorts = [option.short for option in command.options if option.short]
    assert len(set(shorts)) == len(shorts)
    if verb not in ("version", "mount"):
        assert command.examples or verb == "version"


def _flags(line: str) -> str:
    return "".join(word.strip("[]").lstrip("-") for word in line.split() if word.startswith("[-"))


def test_help(run: Run) -> None:
    overview = run("help")
    assert overview.status == 0
    assert all(verb in overview.out for verb in COMMANDS)
    assert run("--help").out == run("-h").out == overview.out
    assert run("help", "umount").out == run("help", "unmount").out
    assert "image verify" in run("help", "image").out
    page = run("help", "properties").out
    assert "    recordsize             YES      YES   512 to 1M, power of 2" in page and "lrefer" in page
    wrong = run("help", "bogus")
    assert (wrong.status, wrong.err.splitlines()[0]) == (
        2,
        "no help for 'bogus': a command or 'properties' is expected",
    )
    assert all(alias not in COMMANDS for alias in ALIASES)


def test_version(run: Run) -> None:
    plain = run("version").out
    assert plain.startswith("lamina-")
    assert run("--version").out == run("-V").out == plain
    document = json.loads(run("version", "-j").out)
    assert f"lamina-{document['lamina_version']}\n" == plain
    assert run("version", "x").status == 2


def test_words_after_two_dashes_are_operands(tank: FakePool, run: Run) -> None:
    result = run("list", "-Ho", "name", "--", "tank/a")
    assert (result.status, result.out) == (0, "tank/a\n")
    assert run("list", "--", "-h").err == "cannot open '-h': dataset does not exist\n"


def _breaking(tank: FakePool, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tank, "get_many", broken)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DamagedData("object 12 in 'a\x1b' is damaged"), 1, "object 12 in 'a\\x1b' is damaged"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "/p\x07"), 1, "lamina: '/p\\x07': No space left on device"),
        (OSError("odd"), 1, "lamina: odd"),
        (
            ModuleNotFoundError("No module named 'lz4'", name="lz4"),
            1,
            "lamina: the Python module 'lz4' is missing; install lamina again with its dependencies",
        ),
        (MemoryError(), 1, "lamina: out of memory"),
        (BrokenPipeError(), 141, None),
        (
            ZeroDivisionError("di\nvision"),
            1,
            "lamina: internal error: ZeroDivisionError: di\\nvision; "
            "please report it with the traceback that LAMINA_DEBUG=1 shows",
        ),
    ],
)
def test_every_failure_is_one_line(
    tank: FakePool,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    message: str | None,
) -> None:
    monkeypatch.delenv("LAMINA_DEBUG", raising=False)
    monkeypatch.setattr("lamina.cli.entry._quiet_pipe", lambda: 141)
    _breaking(tank, monkeypatch, error)
    result = run("list")
    assert (result.status, result.err) == (status, "" if message is None else message + "\n")
    assert tank.opened == 0


def test_debugging_shows_the_traceback(tank: FakePool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_DEBUG", "1")
    _breaking(tank, monkeypatch, ZeroDivisionError("x"))
    result = run("list")
    assert result.status == 1 and result.err.startswith("Traceback (most recent call last)")


def test_an_installation_without_a_dependency_says_so(tmp_path: Path) -> None:
    (tmp_path / "sqlite3.py").write_text("raise ModuleNotFoundError('No module', name='sqlite3')")
    environment = ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    done = subprocess.run([*PYTHON, "list"], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "lamina: the Python module 'sqlite3' is missing; install lamina again with its dependencies\n"
    )


def test_main_takes_the_process_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["lamina", "version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("lamina-")


def test_as_a_process() -> None:
    done = subprocess.run([*PYTHON, "version"], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("lamina-")
    wrong = subprocess.run([*PYTHON, b"\xff\x1b"], capture_output=True, env=ENVIRONMENT, check=False)
    assert wrong.returncode == 2 and wrong.stderr.startswith(b"unrecognized command '\\xff\\x1b'\n")


def test_a_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*PYTHON, "help"], stdout=write, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*PYTHON, "help"], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    assert done.returncode == 1
    assert done.stderr == b"lamina: No space left on device\n"


@pytest.mark.parametrize("words", [["version"], ["help"], ["help", "version"], ["completion", "bash"]])
def test_what_needs_no_pool_loads_none(words: list[str]) -> None:
    script = (
        "import sys; from lamina.cli import main; main(sys.argv[1:]); "
        "print(*[name for name in ('sqlite3', 'lamina.store', 'lamina.mount', 'lamina.ingest', 'argparse', "
        "'lamina.pool.catalogue', 'lamina.pool.pool') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert done.stderr.splitlines()[-1] == ""
