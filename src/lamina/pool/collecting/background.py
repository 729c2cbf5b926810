"""Freeing space in the background: a detached ``lamina pool gc --background`` after names have let go of something.

``LAMINA_BACKGROUND=off`` in the environment turns that off; ``lamina pool gc`` then does it.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.pool import files
from lamina.pool.collecting.freeing import has_work

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

SWITCH = "LAMINA_BACKGROUND"
_EVERY_SECONDS = 1.0
"""A process that lets go of things one after the other starts a collection this often at most; each looks once more
after ``LINGER_SECONDS``, so nothing is forgotten."""
LINGER_SECONDS = 1.5
PATIENCE_SECONDS = 600.0
"""How long a collection in the background waits for imports that run; the end of each starts another one."""


class Background:
    """Starts collections for one open pool."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._started = float("-inf")

    def after_change(self) -> None:
        """Start a collection if there is something to free and nobody is at it."""
        if _is_off():
            return
        # What is condemned may have waited for the lease that has just ended.
        marked = self._pool.store.database.query("SELECT 1 FROM object WHERE condemned > 0 LIMIT 1")
        if self._pool._catalogue.let_go or marked:
            self._pool._catalogue.let_go = False
            self.start()

    def start(self) -> None:
        """Start a collection if there is something to free, nobody is at it, and it is not turned off."""
        if _is_off() or time.monotonic() - self._started < _EVERY_SECONDS or not has_work(self._pool._catalogue):
            return
        # One that runs looks for work, in one transaction with its end.
        if not collector(self._pool):
            self._started = time.monotonic()
            _start(self._pool.path)


def _is_off() -> bool:
    return os.environ.get(SWITCH, "").lower() in ("off", "0", "no") or not sys.executable


def collector(pool: "Pool") -> int:
    """The process that collects garbage in a pool; 0 where none does."""
    from lamina.store.lease import running

    return next((row.pid for row in running(pool.path / files.LEASES, pool.store.database) if row.kind == "gc"), 0)


def _start(path: Path) -> None:
    command: Sequence[str] = (sys.executable, "-P", "-m", "lamina", "pool", "gc", "--background", str(path))
    # Wherever this package was found, the child finds it too.
    package = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package]))}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError:
        return  # what is not freed now is freed after the next change
    threading.Thread(target=process.wait, name="gc", daemon=True).start()


def collect_in_background(name_or_path: str | Path) -> None:
    """What the detached process does: free what there is, quietly, at the lowest priority; then look once more."""
    from lamina.errors import Busy
    from lamina.pool.collecting.gc import collect
    from lamina.pool.pool import Pool

    os.nice(10)
    for pause in (0.0, LINGER_SECONDS):
        time.sleep(pause)
        with Pool.open(name_or_path, write=True) as pool:
            if has_work(pool._catalogue):
                try:
                    collect(pool, full=False, wait=PATIENCE_SECONDS, queue=False)
                except Busy:
                    continue  # whoever does it looks for work before it ends
