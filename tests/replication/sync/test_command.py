"""``lamina sync`` as a process, with what stands for ssh: words, exit statuses, Ctrl-C, far sides that cannot."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lamina.pool import Pool
from tests.pool.trees import Library, write_tree
from tests.replication.kit import same_datasets, sound

SOURCE = str(Path(__file__).resolve().parents[3] / "src")


class Machine:
    """Runs lamina in a process of its own; a host is a shell here."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ssh = place / "ssh"
        self.ssh.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> '{place}/asked'\n"
            'while [ "${1#-}" != "$1" ]; do shift; done\nshift\nexec sh -c "$*"\n'
        )
        self.ssh.chmod(0o755)
        self.env = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PYTHONPATH": SOURCE,
            "LAMINA_SSH": str(self.ssh),
            "LAMINA_REMOTE": f"{sys.executable} -m lamina",
        }

    def start(self, *words: str, **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "lamina", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env | env,
        )

    def __call__(self, *words: str, **env: str) -> tuple[int, str, str]:
        with self.start(*words, **env) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture
def run(place: Path) -> Machine:
    return Machine(place)


def test_here_and_there(tank: Pool, back: Pool, library: Library, run: Machine, tmp_path: Path) -> None:
    for number in (1, 2):
        tank.import_image(library[number].path, f"tank/i@{number}")
    status, out, err = run("sync", "-nv", "tank/i", "back/i")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].startswith("full send of tank/i@1 estimated size is ")
    assert out.splitlines()[1].startswith("send from @1 to tank/i@2 estimated size is ")
    assert out.splitlines()[2].startswith("total estimated size is ")
    assert not back.exists("back/i")
    status, out, err = run("sync", "tank/i", "back/i")
    assert (status, err) == (0, "")
    assert out.startswith("2 snapshots, ") and " in " in out and out.endswith("/sec)\n")
    same_datasets(tank, "tank/i", back, "back/i")
    assert run("sync", "-q", "tank/i", "me@nas:back/j") == (0, "", "")
    assert (tmp_path / "asked").read_text().splitlines()[0] == "me@nas"
    same_datasets(tank, "tank/i", back, "back/j")
    status, out, err = run("sync", "--json", "nas:tank/i@2", "back/k")
    document = json.loads(out)
    assert (status, err) == (0, "") and document["output_version"]["command"] == "lamina sync"
    figures = document["sync"]
    assert figures["snapshots"] == 1 and figures["objects"] == 0 and figures["round_trips"] <= 4
    assert run("sync", "-q", "-e", f"{run.ssh} -p -v", "tank/i", "nas:back/l")[0] == 0
    assert (tmp_path / "asked").read_text().splitlines()[-5:-2] != [] and "-p" in (tmp_path / "asked").read_text()
    commands = [line.command for line in back.history()]
    assert commands[-1] == f"lamina sync -q -e '{run.ssh} -p -v' tank/i nas:back/l"
    sound(back)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a source and a destination are expected"),
        (["tank/i"], "a source and a destination are expected"),
        (["a", "b", "c"], "too many arguments"),
        (["nas:tank/i", "other:back/i"], "one of the two has to be on this machine"),
        (["tank/i", "back/i@x"], "'back/i@x' is no dataset"),
        (["tank/i#x", "back/i"], "'tank/i#x' is a bookmark"),
        (["tank/i", "-oProxyCommand=x:back/i"], "a source and a destination are expected"),
        (["--", "tank/i", "-oProxyCommand=x:back/i"], "is no place"),
        (["--retries", "x", "tank/i", "back/i"], "invalid number of retries 'x'"),
        (["--rate", "x", "tank/i", "back/i"], "invalid rate"),
        (["-o", "compression=lz4", "-x", "compression", "tank/i", "back/i"], "both with -o and with -x"),
    ],
)
def test_wrong_usage(place: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lamina.cli import main

    assert main(["sync", *words]) == 2
    assert message in capsys.readouterr().err


def test_far_sides_that_cannot(tank: Pool, back: Pool, library: Library, run: Machine, tmp_path: Path) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    words = ("sync", "tank/i", "nas:back/i")
    status, out, err = run(*words, LAMINA_REMOTE="no-such-lamina")
    assert (status, out) == (1, "")
    assert err.startswith("cannot sync with 'nas:back/i': the other side is no lamina that syncs: ")
    assert err.endswith("no-such-lamina: not found\n") and err.count("\n") == 1
    status, out, err = run(*words, LAMINA_REMOTE="echo 'lamina 1.0'; false")
    assert err.startswith("cannot sync with 'nas:back/i': the other side is no lamina that syncs; it said 'lamina 1.0")
    refusing = tmp_path / "refusing"
    refusing.write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n")
    refusing.chmod(0o755)
    began = time.monotonic()
    status, out, err = run(*words, LAMINA_SSH=str(refusing))
    assert (status, err) == (
        1,
        "cannot sync with 'nas:back/i': the other side is no lamina that syncs: Permission denied (publickey).\n",
    )
    assert "trying again" not in err and time.monotonic() - began < 60
    status, out, err = run(*words, LAMINA_SSH="/no/such/ssh")
    assert (status, err) == (1, "cannot run '/no/such/ssh': No such file or directory\n")
    assert run("sync", "tank/i", "nas:nowhere/i")[2] == (
        "nas: cannot open 'nowhere': dataset does not exist\ncannot receive: unable to restore to destination\n"
    )
    assert run("sync", "nas:tank/none", "back/i")[2] == "nas: cannot open 'tank/none': dataset does not exist\n"
    assert run("sync", "tank/none", "nas:back/i")[2] == "cannot open 'tank/none': dataset does not exist\n"
    assert not back.exists("back/i")


def test_permission_denied_there(tank: Pool, library: Library, run: Machine) -> None:
    """Whoever may read the pool there, but not write to it, is told so."""
    other = f"setpriv --reuid=65534 --clear-groups {sys.executable} -m lamina"
    if os.geteuid() != 0 or subprocess.run(["sh", "-c", f"{other} version"], env=run.env, check=False).returncode:
        pytest.skip("root becomes another user, who can run this lamina")
    tank.import_image(library[2].path, "tank/i@1")
    with tempfile.TemporaryDirectory() as place:
        known = Path(place) / "known"
        known.mkdir()
        (known / "tank").symlink_to(tank.path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LAMINA_POOLS", str(known))
            Pool.create("vault", Path(place) / "vault").close()
        for path in (Path(place), *Path(place).rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
        status, _, err = run("sync", "tank/i", "nas:vault/i", LAMINA_REMOTE=other, LAMINA_POOLS=str(known))
        assert status == 1 and err.startswith("nas: cannot ") and "permission denied" in err.lower(), err


def test_words_reach_no_shell_unquoted(tank: Pool, back: Pool, run: Machine, tmp_path: Path) -> None:
    strange = "it's; touch INJECTED; $(touch INJECTED) `touch INJECTED`"
    assert run("sync", "tank", f"nas:back/{strange}")[0] == 1
    assert run("sync", f"nas:tank/{strange}", "back/x")[0] == 1
    assert run("sync", "tank", f"na s$(touch {tmp_path}/INJECTED):back/x")[0] in (1, 2)
    assert not list(tmp_path.rglob("INJECTED")) and not Path("INJECTED").exists()


def test_it_is_not_for_people(run: Machine) -> None:
    assert run("__sync", "x")[0] == 2


def large(tank: Pool, tmp_path: Path) -> None:
    """An image that takes long enough at a low rate to be interrupted."""
    import random

    rng = random.Random(5)
    write_tree(tmp_path / "large", {f"f{number}": rng.randbytes(200_000) for number in range(30)})
    tank.import_image(tmp_path / "large", "tank/large@1")


@pytest.mark.parametrize("words", [("tank/large", "nas:back/large"), ("nas:tank/large", "back/large")])
@pytest.mark.parametrize("whom", ["near", "far"])
def test_interrupted(tank: Pool, back: Pool, run: Machine, tmp_path: Path, words: tuple[str, str], whom: str) -> None:
    """Ctrl-C here, or the far side killed, while it streams: no snapshot; the next one goes on, with less to send."""
    large(tank, tmp_path)
    full = json.loads(run("sync", "-n", "--json", *words)[1])["sync"]["stream_bytes"]
    remote = tmp_path / "remote"
    remote.write_text(f"#!/bin/sh\necho $$ > '{tmp_path}/pid'\nexec {sys.executable} -m lamina \"$@\"\n")
    remote.chmod(0o755)
    process = run.start("sync", "--rate", "2M", "--retries", "0", *words, LAMINA_REMOTE=str(remote))
    while not tank._database.query("SELECT 1 FROM pin"):  # from then on it is negotiated, and sent
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(1.5)
    pid = int((tmp_path / "pid").read_text())
    if whom == "near":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if whom == "near" else 1), err
    assert "Traceback" not in err and "internal error" not in err
    if whom == "far":
        assert "connection" in err
    for _ in range(200):  # the far side may still be keeping what has come
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    assert not back.exists("back/large@1")
    back.gc()
    left = json.loads(run("sync", "-n", "--json", *words)[1])["sync"]["stream_bytes"]
    assert left <= full  # how far it had come is the machine's business; ``test_cuts.py`` knows it
    assert run("sync", "-q", *words)[0] == 0
    same_datasets(tank, "tank/large", back, "back/large")
    back.gc()
    sound(back)


def test_refused_datasets_end_with_status_1(tank: Pool, back: Pool, library: Library, run: Machine) -> None:
    for name in ("a", "b"):
        tank.import_image(library[2].path, f"tank/top/{name}@1")
    assert run("sync", "-rq", "tank/top", "back/top")[0] == 0
    back.import_image(library[3].path, "back/top/b@mine")
    for name in ("a", "b"):
        tank.import_image(library[4].path, f"tank/top/{name}@2")
    status, out, err = run("sync", "-r", "tank/top", "nas:back/top")
    assert status == 1 and out.startswith("1 snapshot, ")
    assert err == (
        "cannot receive incremental stream: destination back/top/b has been modified\nsince most recent snapshot; "
        "-F takes it back to the newest one that both have\n"
    )
    assert back.exists("back/top/a@2") and not back.exists("back/top/b@2")
    status, out, err = run("sync", "-rF", "--prune", "-v", "tank/top", "nas:back/top")
    assert (status, err) == (0, "")
    same_datasets(tank, "tank/top", back, "back/top")
