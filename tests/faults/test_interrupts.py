"""Ctrl-C twice and more, at any moment of an import: it ends, nothing is damaged, and the next import works.

``LAMINA_INTERRUPTS=300`` interrupts so many imports; without it, a few.
"""

import os
import random
import signal
import time
from pathlib import Path

from lamina.pool import Pool
from tests.faults.oracle import check_leases, check_pool, contents

COUNT = int(os.environ.get("LAMINA_INTERRUPTS", "8"))
HANGS = 60.0


def importing(path: Path, tree: Path, name: str) -> int:
    """A process that imports; its number. It ends by SIGINT as a command does."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what is interrupted while it is thrown away is told there
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with Pool.open(path, write=True) as pool:
                pool.import_image(tree, name, jobs=2)
            status = 0
        except BaseException:
            status = 130
        finally:
            os._exit(status)
    return pid


def end(pid: int) -> int:
    """Wait for a process, but not for ever; its status."""
    deadline = time.monotonic() + HANGS
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError("the import hangs after being interrupted")


def test_again_and_again(place: Path, trees: dict[str, Path], small_packs: None) -> None:
    path = place / "tank"
    with Pool.create("tank", path) as pool:
        pool.import_image(trees["a"], "tank/i@1")
        first = contents(pool.tree("tank/i@1"))
    began = time.monotonic()
    end(importing(path, trees["c"], "tank/probe@1"))
    span = time.monotonic() - began
    generator = random.Random(COUNT)
    stopped = 0
    for number in range(COUNT):
        pid = importing(path, trees["b"], f"tank/n{number}@1")
        time.sleep(span * generator.random())
        for _ in range(generator.randint(2, 4)):
            os.kill(pid, signal.SIGINT)
            time.sleep(generator.choice((0, 0.0002, 0.001, 0.005)))
        stopped += end(pid) != 0
        with Pool.open(path, write=True) as pool:
            check_pool(pool)
            assert contents(pool.tree("tank/i@1")) == first
            if pool.exists(f"tank/n{number}@1"):
                assert not pool.verify(f"tank/n{number}@1", trees["b"])
                pool.destroy(f"tank/n{number}", recursive=True)
            elif number % 4 == 0:
                pool.import_image(trees["b"], f"tank/n{number}@1", jobs=2)
                assert not pool.verify(f"tank/n{number}@1", trees["b"])
                pool.destroy(f"tank/n{number}", recursive=True)
                check_pool(pool)
                check_leases(pool)
            pool.gc()
    assert stopped > COUNT // 3
