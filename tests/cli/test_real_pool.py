"""The command line on a real pool: the session of the README, and imports that are broken off."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tool").write_bytes(b"#!/bin/sh\necho hello\n" * 5000)
    (root / "bin" / "link").hardlink_to(root / "bin" / "tool")
    (root / "etc").symlink_to("bin")
    (root / "zeros").write_bytes(bytes(1 << 20))
    _settle(root)
    return tmp_path


def _settle(root: Path) -> None:
    """Whole seconds: Python's tarfile writes times as floats, which cannot hold nanoseconds."""
    for path in (*root.rglob("*"), root):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


def test_what_a_user_does(home: Path, run: Run) -> None:
    root, pool = home / "rootfs", home / "tank"
    assert run("pool", "create", "tank", str(pool)).status == 0
    assert run("pool", "create", "tank", str(home / "other")).err == "cannot create 'tank': pool already exists\n"
    assert run("create", "tank/images").status == 0
    assert run("set", "compression=lz4", "com.example:team=vision", "tank/images").status == 0
    first = run("image", "import", str(root), "tank/images/pytorch@2.8.0")
    assert (first.status, first.err) == (0, "")
    assert first.out.splitlines()[1].split()[:2] == ["tank/images/pytorch@2.8.0", "3"]
    (root / "new").write_bytes(os.urandom(10000))
    _settle(root)
    with tarfile.open(home / "root.tar", "w") as tar:
        tar.add(root, ".")
    second = json.loads(run("image", "import", "--json", str(home / "root.tar"), "tank/images/pytorch@2.7.1").out)
    assert second["images"]["tank/images/pytorch@2.7.1"]["new_logical_bytes"] < 200000
    again = run("image", "import", str(root), "tank/images/pytorch@2.8.0")
    assert (again.status, again.err) == (1, "cannot import 'tank/images/pytorch@2.8.0': dataset already exists\n")

    assert run("list", "-rHo", "name", "-t", "all", "tank").out.split() == [
        "tank",
        "tank/images",
        "tank/images/pytorch",
        "tank/images/pytorch@2.8.0",
        "tank/images/pytorch@2.7.1",
    ]
    assert run("get", "-Ho", "value,source", "compression,com.example:team", "tank/images/pytorch").out == (
        "lz4\tinherited from tank/images\nvision\tinherited from tank/images\n"
    )
    assert len(run("get", "all", "tank/images/pytorch@2.8.0").out.splitlines()) > 8
    used = int(run("get", "-Hpo", "value", "used", "tank").out)
    parts = run("list", "-Hpo", "usedbydataset,usedbychildren,usedbysnapshots", "tank").out.split()
    assert used == sum(int(part) for part in parts) > 0
    assert run("image", "list", "-H").out.count("\n") == 2
    assert run("pool", "list", "-H").out.startswith("tank\t")
    assert "errors: No known data errors" in run("pool", "status", "tank").out

    assert run("image", "verify", "tank/images/pytorch@2.7.1", "--against", str(root)).status == 0
    (root / "bin" / "tool").chmod(0o700)
    assert run("image", "verify", "tank/images/pytorch@2.7.1", "--against", str(root)).status == 1

    assert run("rename", "tank/images/pytorch@2.7.1", "old").status == 0
    refused = run("destroy", "tank/images")
    assert refused.status == 1 and "use '-r' to destroy the following datasets:\n" in refused.err
    assert run("destroy", "-v", "tank/images/pytorch@old").out.startswith("will destroy tank/images/pytorch@old\n")
    assert run("destroy", "-r", "tank/images").status == 0
    assert run("list", "-Ho", "name").out == "tank\n"


def test_several_imports_at_once(home: Path, run: Run) -> None:
    run("pool", "create", "tank", str(home / "tank"))
    words = [word for number in range(4) for word in (str(home / "rootfs"), f"tank/x@{number}")]
    assert run("image", "import", "-J", "2", *words).status == 0
    assert len(run("image", "list", "-H").out.splitlines()) == 4
    for number in range(4):
        assert run("image", "verify", "-qa", str(home / "rootfs"), f"tank/x@{number}").status == 0


def test_interrupting_an_import_leaves_no_trace(home: Path, run: Run) -> None:
    run("pool", "create", "tank", str(home / "tank"))
    with tarfile.open(home / "root.tar", "w") as tar:
        tar.add(home / "rootfs", ".")
    whole = (home / "root.tar").read_bytes()
    command = [sys.executable, "-m", "lamina", "image", "import", "-", "tank/x/y@1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdin is not None and process.stderr is not None
        # The end of the tar never comes: the import waits for more.
        process.stdin.write(whole[: len(whole) // 2])
        process.stdin.flush()
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b"interrupted\n"
    assert run("list", "-rHo", "name", "-t", "all", "tank").out == "tank\n"
