"""Other machines, as far as one test needs them: a real sshd with keys of its own, and command lines that reach it."""

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"


def sshd_missing() -> str | None:
    """Why no server can be started here, or None."""
    for program in ("sshd", "ssh", "ssh-keygen"):
        if _find(program) is None:
            return f"no {program} here: apt-get install openssh-server openssh-client"
    return None


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def make_programs(place: Path) -> Path:
    """A directory with ``lamina`` as it is in this tree, to be put on a PATH."""
    where = place / "bin"
    where.mkdir(exist_ok=True)
    script = where / "lamina"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(SOURCE))} exec {sys.executable} -m lamina "$@"\n')
    script.chmod(0o755)
    return where


@dataclass(frozen=True, slots=True)
class Edge:
    """The host ``edge``: its own known pools are in ``known``; ``config`` is for ``ssh -F``."""

    place: Path
    known: Path
    config: Path
    programs: Path
    port: int
    """Of the server itself."""

    def ssh(self, *words: str | Path) -> list[str]:
        """A command line that runs ``words`` there."""
        return [str(self.programs / "ssh"), "edge", *map(str, words)]

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run ``words`` there to their end."""
        return subprocess.run(self.ssh(*words), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


@contextmanager
def edge(
    place: Path, *, inside: Sequence[str] = (), client: Sequence[str] = (), reached: tuple[str, int] | None = None
) -> Iterator[Edge]:
    """Start the server on loopback.

    ``inside``: words before its command line, as of ``ip netns exec``, and ``client`` before that of ssh; ``reached``:
    the address and port that ssh connects to, where it is not the server itself.
    """
    place.mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    programs, known = make_programs(place), place / "known"
    server = _find("sshd")
    assert server is not None
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # where Debian's sshd separates privileges
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server_config, log = place / "sshd_config", place / "sshd.log"
    server_config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nAuthorizedKeysFile {place}/user.pub\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nStrictModes no\nPidFile none\n"
        "ClientAliveInterval 1\nClientAliveCountMax 2\n"
        f"SetEnv PATH={programs}:/usr/bin:/bin LAMINA_POOLS={known} LAMINA_BACKGROUND=off\n"
    )
    config = place / "ssh_config"
    address, reached_port = reached or ("127.0.0.1", port)
    config.write_text(
        f"Host edge\n HostName {address}\n Port {reached_port}\n User {getpass.getuser()}\n IdentityFile {place}/user\n"
        f" IdentitiesOnly yes\n BatchMode yes\n HostKeyAlias edge\n StrictHostKeyChecking yes\n"
        f" UserKnownHostsFile {place}/known_hosts\n ServerAliveInterval 1\n ServerAliveCountMax 2\n"
    )
    (place / "known_hosts").write_text(f"edge {(place / 'host.pub').read_text()}")
    script = programs / "ssh"  # ``ssh edge`` as on a machine whose own configuration knows the host
    script.write_text(f'#!/bin/sh\nexec {shlex.join(client)} {_find("ssh")} -F {shlex.quote(str(config))} "$@"\n')
    script.chmod(0o755)
    with open(log, "wb") as said:
        process = subprocess.Popen([*inside, server, "-D", "-e", "-f", server_config], stderr=said, stdout=said)
    try:
        _wait(log, process)
        yield Edge(place, known, config, programs, port)
    finally:
        process.terminate()
        process.wait(10)


def _wait(log: Path, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(1000):
        said = log.read_text(errors="replace")
        if "Server listening on" in said:
            return
        assert process.poll() is None, f"sshd does not start: {said}"
        time.sleep(0.01)
    raise AssertionError(f"sshd does not come up: {log.read_text(errors='replace')}")
