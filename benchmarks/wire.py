"""Runs a command as ssh would run it on another machine, and counts the bytes that go there and come back.

    python benchmarks/wire.py FILE -- COMMAND…

What goes there is handed on by splice(2): nothing is copied, so that what is measured is not slowed down.
With ``--here`` or ``--there`` the command has them itself, and only its memory is noted, as that of one side. One line
of JSON is added to FILE.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

_PART = 1 << 20


@dataclass(slots=True)
class Wire:
    """What went over the wire in one step; ``peak`` is the memory of the largest process, here and there, in bytes."""

    there: int = 0
    back: int = 0
    peak_here: int = 0
    peak_there: int = 0

    @property
    def bytes(self) -> int:
        """In both directions."""
        return self.there + self.back


def words(file: Path, mode: str = "--") -> list[str]:
    """Words to put before a command line: ``--`` counts, ``--here`` and ``--there`` only look at memory."""
    return [sys.executable, str(Path(__file__).resolve()), str(file), mode]


def read(file: Path) -> Wire:
    """All that was noted in a file, which is then emptied."""
    found = Wire()
    for line in file.read_text().splitlines():
        noted = json.loads(line)
        found.there += noted["there"]
        found.back += noted["back"]
        if noted["here"]:
            found.peak_here = max(found.peak_here, noted["peak"])
        else:
            found.peak_there = max(found.peak_there, noted["peak"])
    file.write_text("")
    return found


def main() -> int:
    """Run the command; its exit status."""
    file, mode, *command = sys.argv[1:]
    counts = [0, 0]
    if mode == "--":
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        counts = _relay(process)
    else:
        process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    noted = {"there": counts[0], "back": counts[1], "here": mode == "--here", "peak": usage.ru_maxrss * 1024}
    with open(file, "a") as out:
        out.write(json.dumps(noted) + "\n")
    return os.waitstatus_to_exitcode(status) & 0xFF


def _relay(process: "subprocess.Popen[bytes]") -> list[int]:
    """Hand on both directions until the command closes its output."""
    assert process.stdin is not None and process.stdout is not None
    counts = [0, 0]

    def inward(target: int) -> None:
        with contextlib.suppress(OSError):  # the other side has enough
            while part := os.splice(0, target, _PART):
                counts[0] += part
        os.close(target)

    thread = threading.Thread(target=inward, args=(os.dup(process.stdin.fileno()),), daemon=True)
    process.stdin.close()
    thread.start()
    while data := os.read(process.stdout.fileno(), _PART):
        counts[1] += len(data)
        while data:
            data = data[os.write(1, data) :]
    return counts


if __name__ == "__main__":
    sys.exit(main())
