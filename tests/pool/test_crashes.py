"""kill -9 and Ctrl-C of an import at random moments: nothing earlier is harmed, nothing half-made is seen.

``LAMINA_KILLS=200`` kills two hundred times; without it, forty.
"""

import fcntl
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from lamina.pool import Pool
from tests.pool.processes import Child, run
from tests.pool.records import compare_with_catalogue
from tests.pool.trees import Library, Source, write_tree

KILLS = int(os.environ.get("LAMINA_KILLS", "40"))


@pytest.fixture
def many_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small packs, flushed often: a short import passes every state that a long one does."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 96 << 10)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 4)
    monkeypatch.setattr("lamina.store.writer._BUFFER", 32 << 10)


def fresh_tree(path: Path, seed: int) -> Source:
    """A tree of which the pool has nothing: 0.8 MB in small and larger files."""
    generator = random.Random(seed)
    files = {f"small/f{n}": generator.randbytes(12_000) for n in range(20)}
    return write_tree(path, files | {f"large{n}": generator.randbytes(140_000) for n in range(4)})


def take_in(ready: Callable[[], object], path: Path, name: str) -> None:
    """One import in a process of its own."""
    with Pool.open("tank", write=True) as pool:
        ready()
        pool.import_image(path, name)


def started(path: Path, name: str) -> Child:
    child = run(take_in, path, name, ready=True)
    child.wait_ready()
    return child


def duration(place: Path) -> float:
    """Seconds that an undisturbed import takes here and now."""
    seconds = []
    for number in range(3):
        source = fresh_tree(place / f"probe{number}", 10_000 + number)
        child = started(source.path, f"tank/probe@{number}")
        began = time.monotonic()
        child.result()
        seconds.append(time.monotonic() - began)
    return median(seconds)


def names(pool: Pool) -> list[str]:
    return [entry.name for entry in pool.list(types=("filesystem", "snapshot"))]


def check_all(pool: Pool) -> None:
    """Every object that a row names is there and is what its key says; nobody holds anything."""
    for (key,) in pool._database.query("SELECT key FROM object"):
        pool.store.get(key, verify=True)
    assert pool._database.query("SELECT * FROM lease") == []
    # Killed between making its lease's file and its row, a process leaves the file: nobody holds it.
    for path in (pool.path / "leases").iterdir():
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert os.listdir(pool.path / "tmp") == []
    known = {f"{number:08d}.pack" for (number,) in pool._database.query("SELECT id FROM pack")}
    assert set(os.listdir(pool.path / "packs")) <= known


def test_killed_imports(place: Path, library: Library, many_packs: None) -> None:
    with Pool.create("tank", place / "tank") as pool:
        earlier = {f"tank/old@{number}": library[2 + number] for number in range(3)}
        for name, source in earlier.items():
            pool.import_image(source.path, name)
    span = duration(place) * 1.15
    generator = random.Random(KILLS)
    broken_off = done = 0
    for number in range(KILLS):
        source = fresh_tree(place / f"k{number}", number)
        with Pool.open("tank") as pool:
            before = names(pool)
        child = started(source.path, f"tank/kill/k{number}@1")
        time.sleep(span * (number + generator.random()) / KILLS)
        was_running = child.kill()
        with Pool.open("tank", write=True) as pool:
            after = names(pool)
            if after == before:
                assert was_running
                broken_off += 1
            else:
                new = [f"tank/kill/k{number}", f"tank/kill/k{number}@1"]
                assert [name for name in after if name not in before] in (new, ["tank/kill", *new])
                assert not pool.verify(new[1], source.path)
                pool.destroy(new[0], recursive=True)
                done += 1
                span *= 0.9  # the machine got faster: aim earlier
            for name, old in earlier.items():
                assert not pool.verify(name, old.path)
            # The next import, of the same tree: shares what the killed one left.
            pool.import_image(source.path, "tank/next@1")
            assert not pool.verify("tank/next@1", source.path)
            pool.destroy("tank/next", recursive=True)
            if number % 10 == 0 or number == KILLS - 1:
                compare_with_catalogue(pool, crashed=True)
                check_all(pool)
    # The moments were spread over the whole import, so most fell into it.
    assert broken_off > KILLS / 2, (broken_off, done, span)


def test_a_writer_killed_beside_another(place: Path, library: Library, many_packs: None) -> None:
    """One of two is killed: the other must not notice, nor take over the pack of one that lives."""
    Pool.create("tank", place / "tank").close()
    span = duration(place)
    for number in range(max(KILLS // 5, 5)):
        first, second = (fresh_tree(place / f"{side}{number}", 1000 * side + number) for side in (1, 2))
        doomed = started(first.path, f"tank/a@{number}")
        other = started(second.path, f"tank/b@{number}")
        time.sleep(span * random.Random(number).random())
        doomed.kill()
        other.result()
        with Pool.open("tank", write=True) as pool:
            assert not pool.verify(f"tank/b@{number}", second.path)
            pool.import_image(first.path, f"tank/c@{number}")
            assert not pool.verify(f"tank/c@{number}", first.path)
            compare_with_catalogue(pool, crashed=True)
            check_all(pool)


def test_interrupted_imports(place: Path, library: Library, many_packs: None) -> None:
    """SIGINT as Ctrl-C sends it: no rows, no packs, no lease, no bytes are left."""

    def interrupted(ready: Callable[[], object], path: Path, name: str) -> bool:
        try:
            with Pool.open("tank", write=True) as pool:
                ready()
                pool.import_image(path, name)
        except KeyboardInterrupt:
            return True
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late now
        return False

    with Pool.create("tank", place / "tank") as pool:
        pool.import_image(library[2].path, "tank/old@1")
    span = duration(place)
    stopped = 0
    for number in range(20):
        source = fresh_tree(place / f"i{number}", 5000 + number)
        with Pool.open("tank") as pool:
            before = traces(pool)
        child = run(interrupted, source.path, f"tank/new{number}@1", ready=True)
        child.wait_ready()
        time.sleep(span * (number + 0.5) / 22)
        os.kill(child.pid, signal.SIGINT)
        if child.result():
            stopped += 1
            with Pool.open("tank") as pool:
                if not pool.exists(f"tank/new{number}@1"):
                    assert traces(pool) == before, number
    assert stopped > 10


def traces(pool: Pool) -> list[object]:
    """All that an import might leave."""
    tables = ("object", "pack", "tree", "lease", "dataset", "snapshot")
    files = [(path, path.stat().st_size) for path in sorted(pool.path.rglob("*")) if path.parent != pool.path]
    return [*(pool._database.query(f"SELECT * FROM {table}") for table in tables), files]
