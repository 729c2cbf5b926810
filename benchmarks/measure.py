"""Run one command and say what it cost: seconds, processor time, peak memory, exit."""

import contextlib
import os
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

READ_ALL = 'tar -C "$1" --one-file-system -cf - . | wc -c'
"""Shell words that read every file below $1 and print the bytes of the archive.

GNU tar reads no file when it sees that its archive is /dev/null, hence the pipe; the count shows that two trees gave
the same.
"""

_SAMPLE_SECONDS = 0.2


class CommandFailed(Exception):
    """A measured command ended with an error: the figure would be of nothing."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command cost.

    ``cpu_seconds`` is user plus system time of it and its children. ``peak_rss_bytes`` is the peak of the largest
    single process among them (``wait4``); ``peak_tree_bytes`` is the peak of the sum over all of them of the
    proportional set size, sampled five times a second, 0 where it ended before the first sample.
    """

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    peak_tree_bytes: int
    stdout: str


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Cost:
    """Run ``command`` to its end and measure it. Its standard output is kept (1 MiB at most is expected).

    ``wait4`` of a child starts from the memory of this process at the fork, so the harness itself stays small: it
    imports nothing large.
    """
    words = [str(word) for word in command]
    # A user's shell has none of Python's switches, and PYTHONDONTWRITEBYTECODE would add half to lamina's start.
    full_env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | dict(env or {})
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=full_env, cwd=cwd
        ) as process:
            sampler = _TreeSampler(process.pid)
            sampler.start()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            sampler.stop()
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            tail = err.read().decode(errors="backslashreplace").strip()[-2000:]
            raise CommandFailed(f"{' '.join(words)}: exit {process.returncode}: {tail}")
        return Cost(
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_rss_bytes=usage.ru_maxrss * 1024,  # getrusage(2): kibibytes
            peak_tree_bytes=sampler.peak_bytes,
            stdout=out.read().decode(errors="backslashreplace"),
        )


class _TreeSampler(threading.Thread):
    """Adds up the memory of a process and its descendants while it runs."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._root = root
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, sum(_pss_bytes(pid) for pid in _tree(self._root)))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:  # grows while it is walked: breadth first
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
    return found


def _pss_bytes(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it ended meanwhile
        return 0
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def drop_caches() -> None:
    """Write back and forget the page cache, dentries and inodes (proc_sys_vm(5)), so that the next read is cold."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def read_everything(root: Path) -> None:
    """Read every file below ``root`` once, so that the page cache holds what fits of it."""
    subprocess.run(["sh", "-c", READ_ALL, "sh", str(root)], check=True, stdout=subprocess.DEVNULL)


def data_bytes(root: Path) -> int:
    """Sum of the sizes of the regular files below ``root``, a hard-linked one once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for folder, _, names in os.walk(root):
        for name in names:
            found = os.lstat(os.path.join(folder, name))
            if not stat.S_ISREG(found.st_mode):
                continue
            if found.st_nlink > 1:
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_size
    return total


def allocated_bytes(path: Path) -> int:
    """Bytes of disk that a file or directory takes, hard links once, as ``du`` counts."""
    return _du(path, apparent=False)


def apparent_bytes(path: Path) -> int:
    """Sum of the sizes of the files in a directory, hard links once, as ``du --apparent-size`` counts."""
    return _du(path, apparent=True)


def _du(path: Path, *, apparent: bool) -> int:
    command = ["du", "-s", "--block-size=1", *(["--apparent-size"] if apparent else []), str(path)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0])
