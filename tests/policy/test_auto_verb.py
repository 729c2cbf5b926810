"""``lamina snapshot --auto`` as a timer runs it."""

import os
import subprocess
import sys
from pathlib import Path

from lamina.pool import Pool
from tests.policy.kit import Content, snapshots

LAMINA = [sys.executable, "-m", "lamina"]


def environment(tmp_path: Path) -> dict[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    own = {"PYTHONPATH": paths, "LAMINA_POOLS": str(tmp_path / "known"), "LAMINA_BACKGROUND": "off", "TZ": "UTC"}
    return os.environ | own


def test_timers_that_fire_together(pool: Pool, content: Content, tmp_path: Path) -> None:
    """Whichever is first makes them; monthly, so that no hour ends meanwhile."""
    for name in ("tank/a", "tank/b"):
        if not pool.exists(name):
            pool.create_dataset(name)
        content.change(name)
    pool.set(["tank"], {"autosnapshot": "monthly", "retention": "last=1"})
    pool.snapshot(["tank/a@auto-monthly-2001-01-01"])
    started = [
        subprocess.Popen(
            [*LAMINA, "snapshot", "--auto", "-v", "--always"],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    ended = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0] * 4, ended
    assert all(not error for _, error in ended)
    lines = [line for out, _ in ended for line in out.splitlines()]
    made = [line for line in lines if line.startswith("create ")]
    assert len(made) == len(set(made)) == 3
    for name in ("tank", "tank/a", "tank/b"):
        tags = [tag for tag in snapshots(pool, name) if tag.startswith("auto-")]
        assert len(tags) == 1 and f"create {name}@{tags[0]}" in made
    # Two may both have decided that it goes; it went once.
    assert "destroy tank/a@auto-monthly-2001-01-01" in lines


def test_nothing_to_do_says_nothing(pool: Pool, tmp_path: Path) -> None:
    result = subprocess.run([*LAMINA, "snapshot", "--auto"], env=environment(tmp_path), capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
