"""Two network namespaces joined by a slow link with latency, cut in the middle: both sides end, and it goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from lamina.pool import Pool
from tests.pool.trees import write_tree
from tests.replication.kit import same_datasets, send
from tests.replication.machines import Edge, edge, sshd_missing

RATE = "20mbit"
DELAY = 0.02
"""Seconds, each way."""
NEAR, FAR = "198.18.0.1", "198.18.0.2"
"""Addresses for such tests (RFC 2544); they exist in the two namespaces only."""
PORT = 2222


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True, slots=True)
class Link:
    """A link between two namespaces; the interface is ``wire`` in both."""

    near: str
    far: str

    @property
    def sent(self) -> int:
        """Bytes that went over the wire from here to there, with all headers."""
        words = ["netns", "exec", self.near, "cat", "/sys/class/net/wire/statistics/tx_bytes"]
        return int(ip(*words))

    def set(self, state: str) -> None:
        ip("-n", self.near, "link", "set", "wire", state)


@pytest.fixture
def link() -> Iterator[Link]:
    """Namespaces and link; always taken away again, with whatever still runs inside."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for program, package in (("ip", "iproute2"), ("tc", "iproute2")):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here: apt-get install {package}")
    made = Link(f"lamina-{os.getpid()}-near", f"lamina-{os.getpid()}-far")
    try:
        try:
            for name in (made.near, made.far):
                ip("netns", "add", name)
            ip("-n", made.near, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", made.far)
            for name, address in ((made.near, NEAR), (made.far, FAR)):
                ip("-n", name, "address", "add", f"{address}/30", "dev", "wire")
                for one in ("wire", "lo"):
                    ip("-n", name, "link", "set", one, "up")
                slow = ["tc", "qdisc", "add", "dev", "wire", "root", "tbf", "rate", RATE, "burst", "32kb"]
                ip("netns", "exec", name, *slow, "latency", "100ms")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no slow link can be made here: {error.stderr.strip()}")
        yield made
    finally:
        for name in (made.near, made.far):
            left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout
            for pid in left.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.fixture
def far(link: Link, tmp_path: Path) -> Iterator[Edge]:
    """The host ``edge`` behind the link, with a pool ``backup``."""
    if (reason := sshd_missing()) is not None:
        pytest.skip(reason)
    there = ("ip", "netns", "exec", link.far)
    with edge(tmp_path / "edge", inside=there, client=("ip", "netns", "exec", link.near), reached=(FAR, PORT)) as host:
        script = Path(__file__).with_name("delaying.py")
        words = [*there, sys.executable, script, FAR, str(PORT), str(host.port), str(DELAY)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as proxy:
            assert proxy.stdout is not None and proxy.stdout.readline() == b"ready\n"
            try:
                words = [host.programs / "lamina", "pool", "create", "backup", host.place / "backup"]
                subprocess.run(words, env={**os.environ, "LAMINA_POOLS": str(host.known)}, check=True)
                yield host
            finally:
                proxy.kill()


def test_a_slow_link_that_goes_down(tank: Pool, link: Link, far: Edge, place: Path) -> None:
    files = {f"f{number}": os.urandom(100_000) for number in range(30)}
    tank.import_image(write_tree(place / "source", files).path, "tank/i@1")
    whole = len(send(tank, "tank/i@1"))
    said, status = place / "said", place / "status"
    path = far.place / "backup"
    line = f"lamina receive -s backup/i 2>{said}; echo $? >{status}"
    words = ["bash", "-c", 'set -o pipefail; lamina send tank/i@1 | ssh edge "$1"', "bash", line]
    environment = {**os.environ, "PATH": f"{far.programs}:{os.environ['PATH']}"}
    before = link.sent
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as pipeline:
        assert pipeline.stderr is not None
        wait_for(lambda: link.sent - before > whole // 2)
        link.set("down")
        complaint = pipeline.stderr.read()
        assert pipeline.wait(60) in (1, 255)
    assert f"Timeout, server {FAR} not responding." in complaint and "Traceback" not in complaint
    wait_for(status.exists)
    wait_for(lambda: status.read_text() == "1\n")
    heard = said.read_text()
    assert heard.startswith("cannot receive new filesystem stream: incomplete stream: it ends at byte ")
    assert "Partially received snapshot is saved." in heard and "Traceback" not in heard
    with Pool.open(path) as backup:
        assert not backup.exists("backup/i@1")
        token = backup.get("backup/i", ["receive_resume_token"])["receive_resume_token"].value
    assert heard.rstrip().endswith(f"lamina send -t {token}")
    link.set("up")
    words = ["bash", "-c", f"set -o pipefail; lamina send -t {token} | ssh edge lamina receive -s backup/i"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    with Pool.open(path) as backup:
        same_datasets(tank, "tank/i", backup, "backup/i")
    # Headers of ssh, TCP and Ethernet are 5 %; what was under way when the link went down is sent again.
    assert whole < link.sent - before < whole * 1.07 + 400_000


def wait_for(done: Callable[[], bool], seconds: float = 30.0) -> None:
    ends = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < ends, "it does not come"
        time.sleep(0.02)
