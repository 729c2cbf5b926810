"""The scrubber as a process of its own, which goes on when the command that started it has ended."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.errors import LaminaError

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_BEGUN = b"begun\n"


def start_scrubber(pool: "Pool") -> None:
    """Start a process that scrubs the pool; returns once it does. Raises its error where it cannot."""
    # Wherever this package was found, the child finds it too.
    package = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package]))
    try:
        process = subprocess.Popen(
            (sys.executable, "-P", "-m", "lamina", "__scrub", str(pool.path)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
    except OSError as error:
        raise LaminaError(f"cannot scrub {pool.name}: no process could be started: {error.strerror}") from None
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.readline()
        if said != _BEGUN:
            said += process.stdout.read(1 << 16)
            process.wait()
            lines = said.decode("utf-8", "replace").strip().splitlines()
            raise LaminaError(lines[-1] if lines else f"cannot scrub {pool.name}: its process ended at once")
    # It is nobody's child that waits for it: init takes it over when this process ends.
    process.returncode = 0


def scrub_detached(path: Path) -> None:
    """What that process does."""
    from lamina.pool.pool import Pool
    from lamina.pool.scrubbing.scrub import scrub

    os.nice(10)
    with Pool.open(path, write=True) as pool:
        scrub(pool, begun=_tell)


def _tell() -> None:
    """Let the command that waits go, and the terminal with it."""
    os.write(1, _BEGUN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
