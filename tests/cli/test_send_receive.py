"""``lamina send`` and ``lamina receive`` on pools of their own, in OpenZFS's words."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.cli import main
from lamina.pool import Pool
from tests.pool.trees import Library, make_library
from tests.replication.forging import borders


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return make_library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Library) -> Iterator[Path]:
    """Pools ``tank``, with the datasets of the transcript, and ``b``, which is empty."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    with Pool.create("tank", tmp_path / "tank") as pool:
        pool.create_dataset("tank/images")
        pool.create_dataset("tank/images/base")
        for number in (1, 2, 3):
            pool.import_image(library[1 + number].path, f"tank/images@i{number}")
            pool.snapshot([f"tank/images@r{number}"], recursive=True)
        pool.bookmark("tank/images@r1", "tank/images#b1")
    Pool.create("b", tmp_path / "b").close()
    yield tmp_path


class Runner:
    """Runs command lines with bytes on standard input."""

    def __init__(self, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        self._capture, self._patch, self._place = capfdbinary, monkeypatch, place

    def __call__(self, line: str, data: bytes = b"") -> tuple[int, bytes, str]:
        self._capture.readouterr()
        (self._place / "input").write_bytes(data)
        with open(self._place / "input", "rb") as source, open(1, "wb", closefd=False) as sink:
            self._patch.setattr("sys.stdin", type("In", (), {"buffer": source, "isatty": lambda self: False})())
            import io

            out = io.TextIOWrapper(sink, write_through=True)
            self._patch.setattr("sys.stdout", out)
            status = main(line.split(" "))
            out.flush()
            out.detach()
        found = self._capture.readouterr()
        return status, found.out, found.err.decode()


@pytest.fixture
def run(home: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(capfdbinary, monkeypatch, home)


def sizes(run: Runner, line: str) -> list[list[str]]:
    status, out, err = run(line)
    assert (status, err) == (0, "")
    return [row.split("\t") for row in out.decode().splitlines()]


def test_sizes_beforehand_are_exact(run: Runner) -> None:
    for words in (
        "tank/images@r1",
        "-i @r1 tank/images@r3",
        "-I @r1 tank/images@r3",
        "-R tank/images@r3",
        "-i #b1 tank/images@r3",
    ):
        rows = sizes(run, f"send -nvP {words}")
        status, out, err = run(f"send {words}")
        assert (status, err) == (0, "")
        assert rows[-1] == ["size", str(len(out))]
    assert [row[:-1] for row in sizes(run, "send -nP tank/images@r1")] == [["full", "tank/images@r1"], ["size"]]
    assert sizes(run, "send -nvP -i @r1 tank/images@r3")[0][:-1] == ["incremental", "tank/images@r1", "tank/images@r3"]
    assert sizes(run, "send -nvP -i #b1 tank/images@r3")[0][:-1] == ["incremental", "tank/images#b1", "tank/images@r3"]
    assert [row[:-1] for row in sizes(run, "send -nvP -I @r1 tank/images@r3")][:2] == [
        ["incremental", "r1", "tank/images@i2"],
        ["incremental", "i2", "tank/images@r2"],
    ]
    assert [row[:-1] for row in sizes(run, "send -nvP -R tank/images@r2")] == [
        ["full", "tank/images@i1"],
        ["incremental", "i1", "tank/images@r1"],
        ["incremental", "r1", "tank/images@i2"],
        ["incremental", "i2", "tank/images@r2"],
        ["full", "tank/images/base@r1"],
        ["incremental", "r1", "tank/images/base@r2"],
        ["size"],
    ]


def test_estimates_in_words(run: Runner) -> None:
    size = r"[0-9.]+[BKM]"
    for words, lines in (
        ("-nv tank/images@r1", ["full send of tank/images@r1 estimated size is"]),
        ("-nv -i @r1 tank/images@r2", ["send from tank/images@r1 to tank/images@r2 estimated size is"]),
        (
            "-nv -I @r1 tank/images@r2",
            [
                "send from @r1 to tank/images@i2 estimated size is",
                "send from @i2 to tank/images@r2 estimated size is",
            ],
        ),
    ):
        status, out, _ = run(f"send {words}")
        pattern = "".join(f"{line} {size}\n" for line in lines) + f"total estimated size is {size}\n"
        assert status == 0 and re.fullmatch(pattern, out.decode()), out
    status, out, err = run("send -v tank/images@r1")
    assert (status, out[:8]) == (0, b"LAMINAZS")
    assert re.fullmatch(
        rf"full send of tank/images@r1 estimated size is {size}\ntotal estimated size is {size}\n"
        r"TIME        SENT   SNAPSHOT tank/images@r1\n(\d\d:\d\d:\d\d .*\n)*",
        err,
    )
    assert run("send -n tank/images@r1") == (0, b"", "")


SEND = [
    ("send", 2, "missing snapshot argument\nusage:"),
    ("send tank/images@nosuch", 1, "cannot open 'tank/images@nosuch': dataset does not exist"),
    ("send tank/nosuch@r1", 1, "cannot open 'tank/nosuch@r1': dataset does not exist"),
    ("send nosuch@r1", 1, "cannot open 'nosuch@r1': dataset does not exist"),
    (
        "send -i @r3 tank/images@r1",
        1,
        "warning: cannot send 'tank/images@r1': not an earlier snapshot from the same fs",
    ),
    ("send -i @nosuch tank/images@r1", 1, "cannot open 'tank/images@nosuch': dataset does not exist"),
    ("send tank/images", 1, "cannot send 'tank/images': it is no snapshot; 'lamina snapshot tank/images@NAME' takes"),
    ("send -nvP tank/images", 1, "cannot send 'tank/images': it is no snapshot"),
    ("send tank/nosuch", 1, "cannot open 'tank/nosuch': dataset does not exist"),
    ("send -i @r1 -I @r2 tank/images@r3", 2, "-i and -I name one snapshot to start from"),
    ("send -s tank/images@r3", 2, "-s is for -R"),
    ("send -t x -R", 2, "a resume token says all"),
    ("send -t x", 1, "cannot resume send: resume token is corrupt (invalid format)"),
    ("send -I #b1 tank/images@r3", 1, "cannot send 'tank/images@r3': -I takes a snapshot"),
    ("send -z tank/images@r3", 2, "invalid option 'z'"),
]


@pytest.mark.parametrize(("line", "status", "words"), SEND)
def test_refusals_of_send(run: Runner, line: str, status: int, words: str) -> None:
    found, out, err = run(line)
    assert (found, out) == (status, b"") and err.startswith(words)


def test_flags_of_zfs_are_taken(run: Runner) -> None:
    plain = sizes(run, "send -nvP tank/images@r1")
    for flags in ("-L", "-e", "-c", "-w", "-Lec"):
        assert sizes(run, f"send -nvP {flags} tank/images@r1") == plain
    _, out, _ = run("send tank/images@r1")
    assert run("receive -u b/x", out) == (0, b"", "") and run("recv -A b/x")[0] == 1


def test_receiving_says_what_it_does(run: Runner) -> None:
    _, full, _ = run("send tank/images@r1")
    _, more, _ = run("send -I @r1 tank/images@r3")
    done = r"received [0-9.]+[BKMG] stream in \d+\.\d\d seconds \([0-9.]+[BKMG]/sec\)\n"
    assert run("receive -nv b/rx", full)[1] == b"would receive full stream of tank/images@r1 into b/rx@r1\n"
    assert run("receive -n b/rx", full) == (0, b"", "")
    status, out, err = run("receive -v b/rx", full)
    assert (status, err) == (0, "")
    assert re.fullmatch("receiving full stream of tank/images@r1 into b/rx@r1\n" + done, out.decode())
    status, out, _ = run("receive -v b/rx", more)
    lines = [f"receiving incremental stream of tank/images@{tag} into b/rx@{tag}\n" for tag in ("i2", "r2", "i3", "r3")]
    assert status == 0 and re.fullmatch("".join(line + done for line in lines), out.decode())
    status, out, _ = run("receive -v b/rx", run("send -i @r2 tank/images@r3")[1])
    assert out.decode().splitlines()[1] == "snap b/rx@r3 already exists; ignoring"
    assert out.decode().splitlines()[2].startswith("received 0B stream in 0.0")
    assert status == 0
    with Pool.open("b") as pool:
        assert [one.name for one in pool.list(["b/rx"], types=("snapshot",))][-1] == "b/rx@r3"


RECEIVE = [
    ("receive", "full", 2, "missing snapshot argument\nusage:"),
    ("receive b/rx", "empty", 1, "cannot receive: failed to read from stream: it is empty\n"),
    ("receive b/rx", "garbage", 1, "cannot receive: failed to read from stream: it is none of lamina's\n"),
    ("receive b/rx", "cut", 1, "cannot receive new filesystem stream: incomplete stream: it ends at byte "),
    ("receive b/rx", "flipped", 1, "cannot receive new filesystem stream: checksum mismatch: frame 4 at byte "),
    (
        "receive b",
        "full",
        1,
        "cannot receive new filesystem stream: destination 'b' exists\nmust specify -F to overwrite it\n",
    ),
    (
        "receive b/nopar/rx2",
        "full",
        1,
        "cannot open 'b/nopar': dataset does not exist\n"
        "cannot receive new filesystem stream: unable to restore to destination\n",
    ),
    (
        "receive nosuch/rx2",
        "full",
        1,
        "cannot open 'nosuch': dataset does not exist\ncannot receive: unable to restore to destination\n",
    ),
    ("receive b/bad%name", "full", 1, "cannot receive: invalid name 'b/bad%name': invalid character % in name\n"),
    ("receive -e b/b", "full", 1, "cannot receive: specified fs (b/b) does not exist\n"),
    ("receive -de b", "full", 2, "-d and -e exclude each other"),
    ("receive -o bogus=1 b/rx", "full", 1, "cannot receive: invalid property 'bogus'\n"),
    ("receive -x bogus b/rx", "full", 1, "cannot receive: invalid property 'bogus'\n"),
    ("receive -o atime=off -x atime b/rx", "full", 2, "property 'atime' is given both with -o and with -x"),
    ("receive -o nonsense b/rx", "full", 2, "missing '=' for property=value argument"),
    ("receive b/rx", "more", 1, "cannot receive incremental stream: destination 'b/rx' does not exist\n"),
    ("receive -A b/none", "empty", 1, "cannot open 'b/none': dataset does not exist\n"),
    ("receive -A b", "empty", 1, "'b' does not have any resumable receive state to abort\n"),
    ("receive -A -v b", "empty", 2, "-A takes no other options"),
]


@pytest.mark.parametrize(("line", "source", "status", "words"), RECEIVE)
def test_refusals_of_receive(run: Runner, line: str, source: str, status: int, words: str) -> None:
    _, full, _ = run("send tank/images@r1")
    data = {
        "full": full,
        "empty": b"",
        "garbage": b"garbage\n",
        "cut": full[:5000],
        "flipped": full[: borders(full)[5] + 100] + b"XXXX" + full[borders(full)[5] + 104 :],
        "more": run("send -i @r1 tank/images@r2")[1],
    }[source]
    found, out, err = run(line, data)
    assert (found, out) == (status, b"") and err.startswith(words), err
    assert run("list -Ho name")[1] == b"b\ntank\ntank/images\ntank/images/base\n"


def test_properties_and_names(run: Runner) -> None:
    assert run("set compression=lz4 com.example:role=prod tank/images")[0] == 0
    _, package, _ = run("send -R tank/images@r3")
    assert run("receive -d -o com.example:x=1 -x compression b", package)[0] == 0
    rows = run("get -Ho property,value,source compression,com.example:role,com.example:x b/images")[1].decode()
    assert rows == ("compression\ton\tdefault\ncom.example:role\tprod\treceived\ncom.example:x\t1\tlocal\n")
    assert run("receive -e b", run("send tank/images/base@r1")[1])[0] == 0
    assert run("receive b/one@renamed", run("send tank/images/base@r1")[1])[0] == 0
    names = run("list -Ho name -t snapshot -r b")[1].decode().split()
    assert names[0] == "b/base@r1" and names[-2:] == ["b/images/base@r3", "b/one@renamed"]
    history = run("pool history b")[1].decode()
    assert history.count("lamina receive -d -o com.example:x=1 -x compression b") == 1


def test_going_on(run: Runner) -> None:
    _, full, _ = run("send tank/images@r1")
    status, out, err = run("receive -s b/x", full[:-700])
    assert (status, out) == (1, b"")
    lines = err.splitlines()
    assert lines[0].startswith("cannot receive new filesystem stream: incomplete stream: it ends at byte")
    assert lines[1:3] == [
        "Partially received snapshot is saved.",
        "A resuming stream can be generated on the sending system by running:",
    ]
    word = run("get -Ho value receive_resume_token b/x")[1].decode().strip()
    assert lines[3] == f"    lamina send -t {word}"
    said = run(f"send -nv -t {word}")[1].decode()
    assert said.startswith("resume token contents:\n\tobjects = ") and "\ttoname = tank/images@r1\n" in said
    status, rest, _ = run(f"send -t {word}")
    assert status == 0 and len(rest) < len(full) / 2
    assert run("receive -s b/x", rest) == (0, b"", "")
    assert run("get -Ho value receive_resume_token b/x")[1] == b"-\n"
    assert run("receive -s b/y", full[:-700])[0] == 1
    assert run("receive -A b/y") == (0, b"", "")
    assert json.loads(run("list -j b/x")[1])["datasets"].keys() == {"b/x"}


def test_terminals_are_refused(home: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for verb, lines in (
        ("send", "Error: Stream can not be written to a terminal.\r\nYou must redirect standard output.\r\n"),
        ("receive", "Error: Backup stream can not be read from a terminal.\r\nYou must redirect standard input.\r\n"),
    ):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "lamina", verb, "tank/images@r1"]
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
            assert process.wait(30) == 1
        os.close(theirs)
        assert os.read(ours, 1000).decode() == lines
        os.close(ours)


def test_a_reader_that_goes_away(home: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "lamina", "send", "-R", "tank/images@r3"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(100)[:8] == b"LAMINAZS"
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr.read() == b""


def test_through_a_pipe(home: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    lamina = f"{sys.executable} -m lamina"
    line = f"set -o pipefail; {lamina} send -R tank/images@r3 | {lamina} receive b/copy"
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with Pool.open("b") as pool:
        assert pool.exists("b/copy/base@r3")
