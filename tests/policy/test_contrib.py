"""The timer, the service and the cron line in contrib/ are what systemd, cron and lamina take."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from lamina.cli import commands

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
UNITS = CONTRIB / "systemd"


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=True)
    found.optionxform = str  # type: ignore[method-assign,assignment]
    found.read_string((UNITS / name).read_text())
    return found


def check_command(words: list[str]) -> None:
    assert Path(words[0]).name == "lamina"
    found = commands.resolve(words[1:])
    assert found is not None
    arguments = commands.load(found[0]).parse(found[1])
    assert (found[0], list(arguments.options), arguments.operands) == ("snapshot", ["auto"], [])


def test_the_service_runs_what_lamina_takes() -> None:
    service = unit("lamina-auto.service")["Service"]
    assert service["Type"] == "oneshot"
    words = shlex.split(service["ExecStart"])
    assert words[0].startswith("/")  # systemd looks in few places by itself
    check_command(words)


def test_the_timer_makes_up_for_what_was_slept_through() -> None:
    timer = unit("lamina-auto.timer")
    assert timer["Timer"]["Persistent"] == "true"
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert {path.name for path in UNITS.iterdir()} == {"lamina-auto.timer", "lamina-auto.service"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for path in UNITS.iterdir():
        # Whether lamina is installed there is not the question.
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/local/bin/lamina", "/bin/true"))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    when = unit("lamina-auto.timer")["Timer"]["OnCalendar"]
    subprocess.run(["systemd-analyze", "calendar", when], check=True, capture_output=True)


def test_the_cron_line() -> None:
    lines = [line for line in (CONTRIB / "cron" / "lamina-auto").read_text().splitlines() if line[:1] not in ("", "#")]
    assert len(lines) == 2 and lines[0].startswith("PATH=/")
    match = re.fullmatch(r"(\*/\d+) \* \* \* \* root (lamina .*)", lines[1])
    assert match is not None
    check_command(match[2].split())
    # cron takes no file whose name has a dot, and no last line without an end.
    assert "." not in "lamina-auto" and (CONTRIB / "cron" / "lamina-auto").read_text().endswith("\n")
