"""``lamina image import``, ``list`` and ``verify``."""

import io
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lamina.errors import SourceError
from tests.cli.conftest import Run
from tests.cli.fake import FakePool, Progress, add_snapshots

FIGURES = SimpleNamespace(files=1, bytes=1, stored=1, new=1, total_files=None, total_bytes=None, done=False)


def test_import(tank: FakePool, run: Run) -> None:
    result = run("image", "import", "/srv/a", "tank/images/x@1", "/srv/b.tar", "tank/images/x@2", "-ftar")
    assert (result.status, result.err) == (0, "")
    assert tank.imported == [("/srv/a", "tank/images/x@1", "tar"), ("/srv/b.tar", "tank/images/x@2", "tar")]
    assert (
        result.out
        == """\
IMAGE            FILES  LOGICAL    NEW  STORED  RATIO  SECONDS
tank/images/x@1     10    1000K   500K    250K  4.00x      1.2
tank/images/x@2     10    1000K   500K    250K  4.00x      1.2
total               20    1.95M  1000K    500K  4.00x      1.2
"""
    )
    assert tank.opened == 0


def test_a_pool_that_is_nearly_full_is_one_line_after_an_import(tank: FakePool, run: Run) -> None:
    tank.full = 93
    result = run("image", "import", "-q", "/srv/a", "tank/x@1", "/srv/b", "tank/x@2")
    assert (result.status, result.out) == (0, "")
    assert result.err == "warning: the pool 'tank' is 93% full; 'lamina pool status tank' says what to do\n"


def test_files_left_out_are_warnings_and_a_status(tank: FakePool, run: Run) -> None:
    tank.warnings = ["a\x1bb: vanished while the tree was read"]
    result = run("image", "import", "-q", "/srv/a", "tank/x@1")
    assert (result.status, result.out) == (1, "")
    assert result.err == "warning: tank/x@1: a\\x1bb: vanished while the tree was read\n"
    assert "tank/x@1" in tank.nodes


def test_import_json_and_quiet(tank: FakePool, run: Run) -> None:
    tank.warnings = ["a\x1bb: changed"]
    found = json.loads(run("image", "import", "--json", "/srv/a", "tank/x@1").out)["images"]["tank/x@1"]
    assert {key: found[key] for key in ("files", "logical_bytes", "new_logical_bytes", "stored_bytes", "seconds")} == {
        "files": 10,
        "logical_bytes": 1024000,
        "new_logical_bytes": 512000,
        "stored_bytes": 256000,
        "seconds": 1.25,
    }
    assert found["warnings"] == ["a\\x1bb: changed"]
    assert run("image", "import", "-q", "/srv/a", "tank/x@2").out == ""
    assert "tank/x@2" in tank.nodes


def test_import_from_standard_input(tank: FakePool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(b"tar")))
    assert run("image", "import", "-", "tank/x@1").status == 0
    assert tank.imported == [(b"tar", "tank/x@1", "auto")]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    result = run("image", "import", "-", "tank/x@2")
    assert (result.status, result.err.splitlines()[0]) == (2, "standard input is a terminal: pipe a tar into it")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "missing source argument"),
        (["/a"], 2, "missing image name for source '/a'"),
        (["/a", "tank/x@1", "/b"], 2, "missing image name for source '/b'"),
        (["/a", "tank/x@1", "/b", "tank/x@1"], 2, "image name 'tank/x@1' is given more than once"),
        (["-", "tank/x@1", "-", "tank/x@2"], 2, "standard input ('-') can be one image only"),
        (["-f", "zip", "/a", "tank/x@1"], 2, "invalid format 'zip': auto, dir, tar, oci-dir, "),
        (["-J", "0", "/a", "tank/x@1"], 2, "invalid number of jobs '0': 1 to 64 is expected"),
        (["/a", "tank/x"], 1, "cannot import 'tank/x': missing '@' delimiter in snapshot name; an image is named"),
        (["/a", "tank/x@a%b"], 1, "cannot import 'tank/x@a%b': invalid character % in name"),
        (["/a", "nosuch/x@1"], 1, "cannot import 'nosuch/x@1': no such pool 'nosuch'"),
        (["/a", "tank/ok@1", "/b", "tank/images@s1"], 1, "cannot import 'tank/images@s1': dataset already exists"),
    ],
)
def test_import_refusals(tank: FakePool, run: Run, words: list[str], status: int, message: str) -> None:
    add_snapshots(tank)
    result = run("image", "import", *words)
    assert (result.status, result.out) == (status, "")
    assert result.err.splitlines()[0].startswith(message)
    assert tank.imported == [] and tank.opened == 0


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_failure_ends_it_and_what_was_done_stays(tank: FakePool, run: Run, jobs: str) -> None:
    entered = threading.Event()

    def hook(name: str, progress: Progress) -> None:
        assert progress is not None
        if name == "tank/x@bad":
            entered.wait(5 if jobs != "1" else 0)
            raise SourceError("'/b': not a directory or a tar")
        if name == "tank/x@long":
            entered.set()
            for _ in range(2000):
                progress(FIGURES)
                time.sleep(0.005)
            raise AssertionError("it was not given up")

    tank.import_hook = hook
    words = ["/a", "tank/x@good", "/b", "tank/x@bad", "/c", "tank/x@long"]
    result = run("image", "import", "-J", jobs, *words)
    assert result.status == 1
    assert result.err.splitlines()[-1] == "'/b': not a directory or a tar"
    assert "tank/x@good" in result.out and "tank/x@long" not in result.out
    assert "tank/x@good" in tank.nodes and "tank/x@long" not in tank.nodes
    assert tank.opened == 0


def test_jobs_run_at_the_same_time(tank: FakePool, run: Run) -> None:
    barrier = threading.Barrier(2, timeout=10)

    def hook(name: str, progress: Progress) -> None:
        barrier.wait()

    tank.import_hook = hook
    assert run("image", "import", "-J2", "/a", "tank/x@1", "/b", "tank/x@2").status == 0


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_interrupted(tank: FakePool, run: Run, jobs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(name: str, progress: Progress) -> None:
        raise KeyboardInterrupt

    tank.import_hook = hook
    result = run("image", "import", "-J", jobs, "/a", "tank/x@1", "/b", "tank/x@2")
    assert (result.status, result.out, result.err) == (130, "", "interrupted\n")
    assert tank.opened == 0


def test_list(tank: FakePool, run: Run) -> None:
    assert run("image", "list").err == "no datasets available\n"
    add_snapshots(tank)
    tank.nodes["tank/images/base@2.8.0"].figures.update(logicalreferenced=95351072, creation=1795434782)
    lines = run("image", "list").out.splitlines()
    assert lines[0].split() == ["NAME", "LREFER", "REFER", "UNIQUE", "CREATION"]
    assert lines[1].startswith("tank/images/base@2.8.0   90.9M  29.9M      5B  ")
    assert (
        run("image", "list", "-Hp", "tank/images").out == "tank/images/base@2.8.0\t95351072\t31342592\t5\t1795434782\n"
    )
    assert list(json.loads(run("image", "list", "-j").out)["datasets"]) == ["tank/images/base@2.8.0"]
    missing = run("image", "list", "tank/nosuch")
    assert (missing.status, missing.err) == (1, "cannot open 'tank/nosuch': dataset does not exist\n")


def test_verify(tank: FakePool, run: Run, tmp_path: Path) -> None:
    add_snapshots(tank)
    name = "tank/images@s1"
    same = run("image", "verify", "--against", str(tmp_path), name)
    assert (same.status, same.out) == (0, f"{name} and {tmp_path} are the same\n")
    assert run("image", "verify", "-qa", str(tmp_path), name).out == ""
    tank.differences = [(b"bin/a\x1b\\\xff\n", "mode is 755, not 700"), (b"x", "missing")]
    different = run("image", "verify", name, f"--against={tmp_path}")
    assert different.status == 1
    assert different.out == "bin/a\\x1b\\\\\\xff\\n: mode is 755, not 700\nx: missing\n"
    assert different.err == f"2 differences between {name} and {tmp_path}\n"
    found: dict[str, Any] = json.loads(run("image", "verify", "--json", name, "-a", str(tmp_path)).out)
    assert found["differences"][0] == {"path": "bin/a\\x1b\\\\\\xff\\n", "what": "mode is 755, not 700"}


@pytest.mark.usefixtures("tank")
def test_verify_refusals(run: Run, tmp_path: Path) -> None:
    assert run("image", "verify").err.startswith("missing image argument\n")
    assert run("image", "verify", "tank/x@1").err.startswith("missing --against with the directory")
    result = run("image", "verify", "tank/x@1", "-a", f"{tmp_path}/no")
    assert (result.status, result.err) == (1, f"cannot verify 'tank/x@1': '{tmp_path}/no' is not a directory\n")
    result = run("image", "verify", "tank/x", "-a", str(tmp_path))
    assert result.err.startswith("cannot verify 'tank/x': missing '@' delimiter in snapshot name")
