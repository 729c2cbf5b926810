"""The scrubber as a process of its own: started, watched, paused, killed and gone on with from the command line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.pool import Pool
from lamina.pool.scrubbing.scrub import scrubs_of
from lamina.pool.scrubbing.scrubs import Scan
from tests.pool.damaging import chunk_of, flip, make_source
from tests.pool.trees import Source

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return make_source(tmp_path / "source")


@pytest.fixture
def pool(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """A pool of 0.8 MB in packs of 100 KB: at a low rate a scrub takes as long as a test wants."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 100_000)
    with Pool.create("tank", tmp_path / "tank") as made:
        made.import_image(source.path, "tank/i@1")
        yield made
        for pid in scrubbers(made):
            os.kill(pid, signal.SIGKILL)


def scrubbers(pool: Pool) -> list[int]:
    return [pid for (pid,) in pool.store.database.query("SELECT pid FROM lease WHERE kind = 'scrub'") if alive(pid)]


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent to ask does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def lamina(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "LAMINA_BACKGROUND"}
    return subprocess.run(
        [sys.executable, "-m", "lamina", *words],
        env={**environment, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def wait_for(pool: Pool, what: Callable[[Scan], bool]) -> Scan:
    for _ in range(3000):
        scan = scrubs_of(pool).last()
        if scan is not None and what(scan):
            return scan
        time.sleep(0.01)
    raise AssertionError(scan)


def test_in_the_background(pool: Pool) -> None:
    """Start, look, refuse a second one, pause, go on, kill -9, go on, cancel, and one that runs to its end."""
    flip(pool, chunk_of(pool, "dir/f3"))
    started = lamina("pool", "scrub", "--rate", "60K", "tank")
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
    (first,) = scrubbers(pool)
    assert os.getsid(first) == first  # no terminal's, nobody's child
    scan = wait_for(pool, lambda scan: scan.examined > 0)
    page = lamina("pool", "status", "tank").stdout
    assert "  scan: scrub in progress since " in page and " to go\n" in page
    again = lamina("pool", "scrub", "tank")
    assert (again.returncode, again.stderr) == (
        1,
        "cannot scrub tank: currently scrubbing; use 'lamina pool scrub -s' to cancel scrub\n",
    )
    assert lamina("pool", "scrub", "-p", "tank").returncode == 0
    for _ in range(1000):
        if not scrubbers(pool):
            break
        time.sleep(0.01)
    assert not scrubbers(pool)
    scan = wait_for(pool, lambda scan: scan.state == "paused")
    assert 0 < scan.examined < scan.total and scan.rate == 60 << 10

    assert lamina("pool", "scrub", "tank").returncode == 0
    before = wait_for(pool, lambda now: now.examined > scan.examined)
    (second,) = scrubbers(pool)
    os.kill(second, signal.SIGKILL)
    page = lamina("pool", "status", "tank").stdout
    assert "\tits process has ended; 'lamina pool scrub tank' goes on with it\n" in page

    assert lamina("pool", "scrub", "--rate", "70K", "tank").returncode == 0
    after = wait_for(pool, lambda now: now.lease is not None and now.lease != before.lease)
    assert after.examined >= before.examined and after.rate == 70 << 10
    assert lamina("pool", "scrub", "-s", "tank").returncode == 0
    assert "  scan: scrub canceled on " in lamina("pool", "status", "tank").stdout

    waited = lamina("pool", "scrub", "-w", "tank")
    assert (waited.returncode, waited.stdout, waited.stderr) == (0, "", "")
    done = scrubs_of(pool).last()
    assert done is not None and (done.state, done.errors, done.examined) == ("finished", 1, done.total)
    page = lamina("pool", "status", "-v", "tank").stdout
    assert "  scan: scrub repaired 0B in 00:00:0" in page and " with 1 errors on " in page
    assert page.endswith("\n\n        tank/i:/dir/f3\n        tank/i@1:/dir/f3\n")
    assert " DEGRADED" in lamina("pool", "list").stdout


def test_waiting_for_one_that_is_killed(pool: Pool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LAMINA_BACKGROUND"}
    with subprocess.Popen(
        [sys.executable, "-m", "lamina", "pool", "scrub", "-w", "--rate", "60K", "tank"],
        env={**environment, "PYTHONPATH": str(SOURCE)},
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        wait_for(pool, lambda scan: scan.lease is not None)
        (pid,) = scrubbers(pool)
        os.kill(pid, signal.SIGKILL)
        _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 1
    assert said == "the process that scrubbed tank has ended; 'lamina pool scrub tank' goes on where it was\n"


def test_repairing(pool: Pool, source: Source, tmp_path: Path) -> None:
    flip(pool, chunk_of(pool, "dir/f3"))
    (tmp_path / "empty").mkdir()
    failed = lamina("pool", "scrub", "--repair-from", str(tmp_path / "empty"), "tank")
    assert (failed.returncode, failed.stdout) == (1, f"tank: repaired 0 objects (0B) from {tmp_path}/empty\n")
    assert failed.stderr == ("tank: 1 object still damaged or missing; 'lamina pool status -v tank' names the files\n")
    done = lamina("pool", "scrub", "--repair-from", str(source.path), "tank")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tank: repaired 1 object (") and done.stdout.endswith(f") from {source.path}\n")
    assert lamina("pool", "status", "-x").stdout == "all pools are healthy\n"


def test_a_reader_is_refused(pool: Pool) -> None:
    """One line, whatever stands in the way of the process in the background."""
    missing = lamina("__scrub", str(pool.path / "nowhere"))
    assert missing.returncode == 1 and missing.stderr.startswith("cannot open ") and missing.stderr.count("\n") == 1
    stopped = lamina("__scrub", str(pool.path))
    assert (stopped.returncode, stopped.stderr) == (
        1,
        "another process scrubs the pool, or the scrub was stopped meanwhile\n",
    )
    assert [lamina("__scrub").returncode, lamina("__objects").returncode] == [2, 2]
