"""Streams through a real ssh: Debian's server on loopback, with keys of its own."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from lamina.pool import Pool
from tests.pool.damaging import flip_byte, pack_path
from tests.pool.trees import Library, write_tree
from tests.replication.kit import contents, same_datasets, send, sound
from tests.replication.machines import Edge
from tests.replication.test_round_trip import family

Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


def ran(done: "subprocess.CompletedProcess[str]") -> str:
    """What it printed; fails unless it went well without a word of complaint."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_full_incremental_and_package(tank: Pool, there: Edge, shell: Shell, library: Library) -> None:
    family(tank, library)
    for number in range(2, 4):
        tank.import_image(library[number].path, f"tank/i@{number}")
    ran(shell("lamina send tank/i@2 | ssh edge lamina receive backup/i"))
    ran(shell("lamina send -i @2 tank/i@3 | ssh edge lamina receive backup/i"))
    told = ran(shell("lamina send -Rh tank/a@y | ssh edge lamina receive -v backup/a"))
    assert told.count("receiving full stream of tank/a") == 4
    tank.import_image(library[5].path, "tank/a/img@4")
    tank.snapshot(["tank/a@z"], recursive=True)
    ran(shell("lamina send -Rh -I @y tank/a@z | ssh edge lamina receive -F backup/a"))
    ran(shell("ssh edge lamina send backup/i@3 | lamina receive tank/again"))
    with Pool.open(there.place / "backup") as backup:
        same_datasets(tank, "tank/i", backup, "backup/i")
        same_datasets(tank, "tank/a", backup, "backup/a", properties=True)
        sound(backup)
    assert contents(tank, "tank/again@3") == contents(tank, "tank/i@3")


def test_as_the_pages_say(tank: Pool, there: Edge, shell: Shell, library: Library) -> None:
    tank.create_dataset("tank/images")
    tank.import_image(library[2].path, "tank/images/pytorch@1")
    tank.snapshot(["tank/images@before", "tank/images/pytorch@before", "tank/images/pytorch@snap1"])
    page = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (line,) = re.findall(r"`(lamina send [^`]*ssh edge [^`]*)`", page)
    ran(shell(line))
    with Pool.open(there.place / "backup", write=True) as backup:
        assert contents(backup, "backup/tank/pytorch@before") == contents(tank, "tank/images/pytorch@before")
        backup.destroy("backup/tank", recursive=True)
    ran(shell("lamina send -R tank/images/pytorch@snap1 | ssh edge lamina receive backup/tank"))
    with Pool.open(there.place / "backup") as backup:
        same_datasets(tank, "tank/images/pytorch", backup, "backup/tank", properties=True)


def test_refused_there(tank: Pool, there: Edge, shell: Shell, library: Library) -> None:
    """What the other side says comes back through ssh, and the sender is not heard over it."""
    tank.import_image(library[2].path, "tank/i@1")
    ran(shell("lamina send tank/i@1 | ssh edge lamina receive backup/i"))
    there.run("lamina", "rename", "backup/i@1", "backup/i@other")
    tank.snapshot(["tank/i@2"])
    done = shell("lamina send tank/i@2 | ssh edge lamina receive backup/i")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("cannot receive new filesystem stream: destination 'backup/i' exists\n")
    done = shell("lamina send tank/i@1 | ssh edge lamina receive nosuch/i")
    assert (done.returncode, done.stdout) == (1, "") and "cannot open 'nosuch': dataset does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    done = shell("lamina send tank/i@1 | ssh edge nosuchprogram receive backup/j")
    assert done.returncode != 0 and "Traceback" not in done.stderr


def test_cut_and_gone_on_with(tank: Pool, there: Edge, shell: Shell, place: Path) -> None:
    """ssh is killed in the middle; with ``-s`` the token, fetched through ssh, goes on from there."""
    files = {f"f{number}": os.urandom(1_000_000) for number in range(24)}
    tank.import_image(write_tree(place / "source", files).path, "tank/i@1")
    whole = len(send(tank, "tank/i@1"))
    environment = {**os.environ, "PATH": f"{there.programs}:{os.environ['PATH']}"}
    pipe = subprocess.PIPE
    sender = subprocess.Popen(["lamina", "send", "tank/i@1"], env=environment, stdout=pipe, stderr=pipe)
    ssh = subprocess.Popen(there.ssh("lamina", "receive", "-s", "backup/i"), stdin=pipe, stderr=pipe)
    assert sender.stdout is not None and sender.stderr is not None and ssh.stdin is not None and ssh.stderr is not None
    passed = 0
    while passed < whole * 2 // 3:
        ssh.stdin.write(part := sender.stdout.read(1 << 16))
        passed += len(part)
    ssh.stdin.flush()
    # What is under way in pipes and windows is a few MiB: the rest has come there.
    ssh.send_signal(signal.SIGKILL)
    ssh.wait()
    sender.stdout.close()
    assert (sender.wait(20), sender.stderr.read(), ssh.stderr.read()) == (1, b"", b"")
    ssh.stdin.close()
    sender.stderr.close()
    ssh.stderr.close()

    def token() -> str:
        return there.run("lamina", "get", "-Ho", "value", "receive_resume_token", "backup/i").stdout.strip()

    wait_for(lambda: token().startswith("1-"))
    kept = int(ran(shell(f"lamina send -nP -t {token()}")).split()[-1])
    assert 0 < kept < whole * 2 // 3 + 1_000_000
    ran(shell(f"lamina send -t {token()} | ssh edge lamina receive -s backup/i"))
    with Pool.open(there.place / "backup") as backup:
        same_datasets(tank, "tank/i", backup, "backup/i")
        assert not backup.verify("backup/i@1", place / "source")


def test_repaired_from_a_copy(tank: Pool, there: Edge, shell: Shell, library: Library) -> None:
    """What was sent to another machine brings back what is damaged here."""
    tank.import_image(library[4].path, "tank/i@1")
    ran(shell("lamina send tank/i@1 | ssh edge lamina receive backup/i"))
    sql = "SELECT pack, offset FROM object WHERE kind = 1 ORDER BY stored DESC LIMIT 1"
    ((pack, offset),) = tank._database.query(sql)
    flip_byte(pack_path(tank, pack), offset + 5)
    done = shell("lamina pool scrub -w tank")
    assert "Traceback" not in done.stderr
    assert "errors: Permanent errors" in shell("lamina pool status -v tank").stdout
    ran(shell("lamina pool scrub --repair-from edge:backup tank"))
    assert not tank.verify("tank/i@1", library[4].path)
    assert "errors: No known data errors" in shell("lamina pool status tank").stdout


def wait_for(done: Callable[[], bool], seconds: float = 30.0) -> None:
    ends = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < ends, "it does not come"
        time.sleep(0.05)
