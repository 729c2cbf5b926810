"""Completion: what is offered, and bash's script in a real bash."""

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from lamina.cli.completion import SCRIPTS
from tests.cli.conftest import Run
from tests.cli.fake import FakeMachine, FakePool, add_snapshots


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["cr"], ["create"]),
        (["pool", "l"], ["list"]),
        (["image", "ver"], ["verify"]),
        (["um"], ["umount"]),
        (["help", "prop"], ["properties"]),
        (["help", "image", "im"], ["import"]),
        (["bogus", ""], []),
        (["list", "--rec"], ["--recursive"]),
        (["list", "--", "-"], []),
        (["list", "-o", "name,usedbyd"], ["name,usedbydataset"]),
        (["list", "-Ho", "uni"], ["unique"]),
        (["list", "-t", "im"], ["image"]),
        (["list", "-S", "uniq"], ["unique"]),
        (["list", "tank/im"], ["tank/images", "tank/images/base", "tank/images/unm", "tank/images/user"]),
        (["list", "tank/images@s"], ["tank/images@s1", "tank/images@s2"]),
        (["list", "tank/a", "tank/a/b/"], ["tank/a/b/c"]),
        (["list", "other/"], []),
        (["get", "lref"], ["lrefer"]),
        (["get", "used,lref"], ["used,lrefer"]),
        (["get", "-r", "used", "tank/a/b/"], ["tank/a/b/c"]),
        (["get", "-s", "local,inh"], ["local,inherited"]),
        (["set", "recor"], ["recordsize="]),
        (["set", "atime=o"], ["atime=on", "atime=off"]),
        (["set", "atime=on", "tank/images/us"], ["tank/images/user"]),
        (["set", "atime=on", "compression=lz"], ["compression=lz4"]),
        (["inherit", "snap"], ["snapdir"]),
        (["inherit", "snapdir", "tank/a/b/"], ["tank/a/b/c"]),
        (["create", "-o", "snapdir=h"], ["snapdir=hidden"]),
        (["create", "-p", "tank/images/u"], ["tank/images/unm", "tank/images/user"]),
        (["image", "import", ""], [":path"]),
        (["image", "import", "/a", "tank/images/us"], ["tank/images/user@"]),
        (["image", "verify", "--against", ""], [":path"]),
        (["image", "verify", "tank/images/base@2"], ["tank/images/base@2.8.0"]),
        (["pool", "create", "x", ""], [":path"]),
        (["pool", "list", "t"], ["tank"]),
        (["pool", "list", "-o", "name,fr"], ["name,free", "name,freeing"]),
        (["pool", "get", "fr"], ["free", "freeing"]),
        (["pool", "get", "free", "t"], ["tank"]),
        (["mount", "tank/images/us"], ["tank/images/user"]),
        (["mount", "tank/images/user", "/mn"], [":path"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_candidates(tank: FakePool, run: Run, words: list[str], wanted: list[str]) -> None:
    add_snapshots(tank)
    result = run("__complete", *words)
    assert (result.status, result.err) == (0, "")
    assert sorted(line for line in result.out.splitlines()) == sorted(wanted)
    assert tank.opened == 0


def test_a_short_option_offers_its_values(tank: FakePool, run: Run) -> None:
    assert "space" in run("__complete", "list", "-o", "").out.split()
    assert run("__complete", "list", "-Z", "").out == ""
    # -Ho waits for columns; after -oH the value is there already.
    assert "tank/a" in run("__complete", "list", "-oH", "").out.split()


def test_no_pools_and_no_words(machine: FakeMachine, run: Run) -> None:
    assert run("__complete", "list", "").out == ""
    assert "create" in run("__complete").out.split()


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts_are_printed(run: Run, shell: str) -> None:
    script = run("completion", shell)
    assert (script.status, script.out) == (0, SCRIPTS[shell])
    if shutil.which(shell):
        subprocess.run([shell, "-n", "/dev/stdin"], input=script.out, text=True, check=True)


def test_completion_usage(run: Run) -> None:
    assert run("completion").err.startswith("missing shell argument\n")
    assert run("completion", "tcsh").err.startswith("no completion for 'tcsh': bash, zsh or fish is expected\n")


STUB = """#!/bin/bash
last="${@: -1}"
for word in tank/images@2.8.0 tank/images@2.9.0 compression=lz4 com.example:tag= "tank/b c"; do
    [[ $word == "$last"* ]] && echo "$word"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        # '@', '=' and ':' break words in bash, and must not here.
        ("lamina list tank/im", "lamina list tank/images@2."),
        ("lamina list tank/images@2.9", "lamina list tank/images@2.9.0 "),
        ("lamina set compression=l", "lamina set compression=lz4 "),
        ("lamina set com.example:t", "lamina set com.example:tag="),
        ("lamina list tank/b", "lamina list tank/b\\ c "),
    ],
)
def test_bash(tmp_path: Path, typed: str, line: str) -> None:
    (tmp_path / "lamina").write_text(STUB)
    (tmp_path / "lamina").chmod(0o755)
    (tmp_path / "rc").write_text(f"PS1='$ '\n{SCRIPTS['bash']}\nbind 'set enable-bracketed-paste off'\necho ready\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(PATH=f"{tmp_path}:{os.environ['PATH']}", TERM="dumb", INPUTRC="/dev/null")
        os.execvp("bash", ["bash", "--noprofile", "--rcfile", f"{tmp_path}/rc", "-i"])
    try:
        _read_until(terminal, b"ready")
        os.write(terminal, typed.encode() + b"\t")
        assert line.encode() in _read_until(terminal, line.encode())
    finally:
        os.write(terminal, b"\x15exit\n")
        os.close(terminal)
        os.waitpid(pid, 0)


def _read_until(terminal: int, wanted: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + 10
    while wanted not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096).replace(b"\a", b"")
    return seen
