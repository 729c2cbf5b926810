"""The session of a ZFS user, replayed: ``alias zfs=lamina; alias zpool='lamina pool'``."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.cli import main
from tests.replay.session import SESSION, Step

ALIASES = {"zfs": [], "zpool": ["pool"]}


def words_of(command: str, places: dict[str, str]) -> list[str]:
    """What the shell makes of a command, the aliases expanded."""
    first, *rest = [places.get(word, word) for word in shlex.split(command)]
    return [*ALIASES.get(first, [first]), *rest]


def differences(step: Step, status: int, out: str, err: str) -> list[str]:
    """How an answer differs from what the step says."""
    found: list[str] = []
    if status != step.status:
        found.append(f"exit status {status}, not {step.status}")
    if "Traceback" in err:
        found.append("a traceback")
    if step.status and len(err.strip().splitlines()) == 0:
        found.append("no message")
    lines = out.splitlines()
    if step.columns is not None and (
        not lines or lines[0].split()[: len(step.columns.split())] != step.columns.split()
    ):
        found.append(f"columns {lines[:1]}, not {step.columns}")
    if step.rows is not None and [line.split()[0] for line in lines[1:]] != list(step.rows):
        found.append(f"rows {[line.split()[0] for line in lines[1:]]}, not {list(step.rows)}")
    for name, pattern, text in (("out", step.out, out), ("err", step.err, err)):
        if pattern == "" and text:
            found.append(f"{name} is {text!r}, not empty")
        elif pattern and not re.search(pattern, text):
            found.append(f"{name} is {text!r}, without {pattern!r}")
    return found


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    monkeypatch.setenv("LAMINA_BACKGROUND", "off")
    for name in ("root", "changed"):
        root = tmp_path / name
        root.mkdir()
        (root / "rand").write_bytes(bytes(range(256)) * 40)
        (root / "bin").mkdir()
        for number in range(40):
            (root / "bin" / f"tool{number}").write_bytes(b"%d" % number * 3000)
    (tmp_path / "root" / "text").write_text("hello\n" * 20000)
    changed = tmp_path / "changed"
    (changed / "newfile").write_text("new\n")
    (changed / "d").mkdir()
    (changed / "d" / "f").write_text("x\n")
    for path in (*tmp_path.rglob("*"),):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    os.utime(changed, (1_700_000_100, 1_700_000_100))
    names = {"POOL": "pool", "OTHER": "other", "ROOT": "root", "CHANGED": "changed", "PLACE": ""}
    return {key: str(tmp_path / name) for key, name in names.items()}


def test_the_session(places: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SESSION) >= 150
    wrong: list[str] = []
    for step in SESSION:
        capsys.readouterr()
        status = main(words_of(step.command, places))
        captured = capsys.readouterr()
        found = differences(step, status, captured.out, captured.err)
        if found:
            wrong.append(f"$ {step.command}\n    " + "\n    ".join(found))
    assert not wrong, f"{len(wrong)} of {len(SESSION)} differ:\n" + "\n".join(wrong)


def test_what_is_compared_can_differ() -> None:
    step = Step("x", 0, columns="NAME USED", rows=["tank"], out="tank", err="")
    assert differences(step, 0, "NAME  USED\ntank  0B\n", "") == []
    assert differences(step, 1, "NAME  USED\ntank  0B\n", "")
    assert differences(step, 0, "NAME  AVAIL\ntank  0B\n", "")
    assert differences(step, 0, "NAME  USED\nother  0B tank\n", "")
    assert differences(step, 0, "NAME  USED\ntank  0B\n", "a warning")


SCRIPT = """
shopt -s expand_aliases
alias zfs=lamina
alias zpool='lamina pool'
zfs create tank/images && zfs set compression=lz4 tank/images && zfs get used,compressratio,logicalused tank/images
zfs create tank/containers && zfs create tank/datasets && zfs set compression=off tank/datasets
zfs create tank/images/pytorch-cuda-v2.7 && zfs snapshot tank/images/pytorch-cuda-v2.7@daily-$(date +%F)
zfs destroy tank/images/pytorch-cuda-v2.7@daily-$(date -d '7 days ago' +%F) 2>/dev/null
zfs list -t snapshot -r tank
"""


def test_the_script_of_a_team_as_it_stands(tmp_path: Path) -> None:
    """In a real shell, with real aliases, on a fresh pool."""
    environment = {
        **os.environ,
        "LAMINA_POOLS": str(tmp_path / "known"),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    command = tmp_path / "lamina"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m lamina "$@"\n')
    command.chmod(0o755)
    subprocess.run(["lamina", "pool", "create", "tank", str(tmp_path / "tank")], env=environment, check=True)
    done = subprocess.run(["bash", "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["NAME", "PROPERTY", "VALUE", "SOURCE"]
    assert [line[:2] for line in lines[1:4]] == [
        ["tank/images", name] for name in ("used", "compressratio", "logicalused")
    ]
    assert lines[4] == ["NAME", "USED", "AVAIL", "REFER", "MOUNTPOINT"]
    (snapshot,) = lines[5:]
    assert re.fullmatch(r"tank/images/pytorch-cuda-v2\.7@daily-\d{4}-\d\d-\d\d", snapshot[0])
