"""``lamina mount`` and ``unmount``: what they ask of :mod:`lamina.mount`."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lamina.mount
from lamina.errors import Busy, NotFound
from tests.cli.conftest import Run
from tests.cli.fake import FakePool, add_snapshots


class FakeMounts:
    def __init__(self, tank: FakePool) -> None:
        self.tank = tank
        self.asked: list[tuple[Any, ...]] = []
        self.undone: list[tuple[str, bool, bool]] = []
        self.now: list[Any] = []

    def mount(self, pool: Path, name: str, mountpoint: Path, **options: Any) -> None:
        # The server forks: no pool may be open here.
        assert self.tank.opened == 0
        self.asked.append((str(pool), name, str(mountpoint), options))

    def umount(self, what: str, *, force: bool = False, lazy: bool = False) -> None:
        if what == "/busy":
            raise Busy("cannot unmount '/busy': pool or dataset is busy")
        if what == "tank/nosuch":
            raise NotFound("cannot unmount 'tank/nosuch': not currently mounted")
        self.undone.append((what, force, lazy))

    def mounts(self) -> list[Any]:
        return self.now


@pytest.fixture
def fuse(tank: FakePool, monkeypatch: pytest.MonkeyPatch) -> FakeMounts:
    add_snapshots(tank)
    found = FakeMounts(tank)
    for name in ("mount", "umount", "mounts"):
        monkeypatch.setattr(lamina.mount, name, getattr(found, name))
    return found


PLAIN = {"options": [], "foreground": False, "whole_pool": False, "log_path": None}


def test_mount_a_snapshot(fuse: FakeMounts, run: Run) -> None:
    assert run("mount", "tank/images@s1", "/mnt/a").status == 0
    assert run("mount", "-o", "allow_other,dev", "-fo", "suid", "-L", "/l", "tank/images@s1", "/mnt/b").status == 0
    assert fuse.asked == [
        ("/data/tank", "tank/images@s1", "/mnt/a", PLAIN),
        (
            "/data/tank",
            "tank/images@s1",
            "/mnt/b",
            {"options": ["allow_other", "dev", "suid"], "foreground": True, "whole_pool": False, "log_path": "/l"},
        ),
    ]


def test_mount_a_dataset_on_its_own_mountpoint(fuse: FakeMounts, tank: FakePool, run: Run, tmp_path: Path) -> None:
    tank.nodes["tank/images"].local["mountpoint"] = f"{tmp_path}/im"
    assert run("mount", "tank/images").status == 0
    assert fuse.asked == [("/data/tank", "tank/images", f"{tmp_path}/im", PLAIN)]
    assert (tmp_path / "im").is_dir()
    fuse.now = [SimpleNamespace(source="tank/images", mountpoint=f"{tmp_path}/im", pid=1)]
    again = run("mount", "tank/images")
    assert (again.status, again.err) == (1, "cannot mount 'tank/images': filesystem already mounted\n")


def test_mount_a_pool(fuse: FakeMounts, run: Run) -> None:
    assert run("mount", "-R", "tank", "/mnt/t").status == 0
    assert fuse.asked == [("/data/tank", "tank", "/mnt/t", PLAIN | {"whole_pool": True})]


def test_mount_all(fuse: FakeMounts, tank: FakePool, run: Run, tmp_path: Path) -> None:
    tank.nodes["tank"].local["mountpoint"] = "none"
    tank.nodes["tank/a"].local["mountpoint"] = f"{tmp_path}/a"
    tank.nodes["tank/a/b"].local["mountpoint"] = "legacy"
    tank.nodes["tank/images/base"].local["mountpoint"] = f"{tmp_path}/base"
    (tmp_path / "file").touch()
    tank.nodes["tank/images/user"].local["mountpoint"] = f"{tmp_path}/file/x"
    fuse.now = [SimpleNamespace(source="tank/images/base", mountpoint=f"{tmp_path}/base", pid=1)]
    result = run("mount", "-a")
    assert [(name, where) for _, name, where, _ in fuse.asked] == [("tank/a", f"{tmp_path}/a")]
    assert result.status == 1
    assert result.err == (
        f"cannot mount 'tank/images/user': failed to create mountpoint '{tmp_path}/file/x': Not a directory\n"
    )


def test_list(fuse: FakeMounts, run: Run) -> None:
    assert run("mount").out == ""
    fuse.now = [SimpleNamespace(source="tank/images@s1", mountpoint="/mnt/a b\x1b", pid=7)]
    assert run("mount").out == "tank/images@s1                  /mnt/a b\\x1b\n"
    assert json.loads(run("mount", "-j").out)["mounts"] == [
        {"filesystem": "tank/images@s1", "mountpoint": "/mnt/a b\x1b", "pid": 7}
    ]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["tank/nosuch", "/mnt"], 1, "cannot open 'tank/nosuch': dataset does not exist"),
        (["nosuch", "/mnt"], 1, "cannot open 'nosuch': dataset does not exist"),
        (["tank//x", "/mnt"], 1, "cannot open 'tank//x': empty component or misplaced '@' or '#' delimiter in name"),
        (["tank/images@s1"], 2, "missing directory to mount 'tank/images@s1' on"),
        (["a", "b", "c"], 2, "too many arguments"),
        (["-a", "tank"], 2, "too many arguments"),
        (["-af"], 2, "-a and -f exclude each other: one process serves one mount"),
        (["-R", "tank"], 2, "-R needs a pool and a directory"),
        (["-R", "tank/a", "/mnt"], 2, "-R mounts a whole pool: 'tank/a' is a dataset or a snapshot"),
    ],
)
def test_refusals(fuse: FakeMounts, run: Run, words: list[str], status: int, message: str) -> None:
    result = run("mount", *words)
    assert (result.status, result.out, result.err.splitlines()[0]) == (status, "", message)
    assert fuse.asked == []


def test_datasets_without_a_mountpoint(fuse: FakeMounts, tank: FakePool, run: Run) -> None:
    tank.nodes["tank"].local["mountpoint"] = "none"
    result = run("mount", "tank/a")
    assert result.status == 1 and result.err.startswith("cannot mount 'tank/a': no mountpoint set; name a directory")
    tank.nodes["tank"].local["mountpoint"] = "legacy"
    assert run("mount", "tank/a").err.startswith("cannot mount 'tank/a': legacy mountpoint; name a directory")
    assert fuse.asked == []


def test_unmount(fuse: FakeMounts, run: Run) -> None:
    assert run("umount", "/mnt/a", "tank/images@s1").status == 0
    assert run("unmount", "-fl", "/mnt/b").status == 0
    assert fuse.undone == [("/mnt/a", False, False), ("tank/images@s1", False, False), ("/mnt/b", True, True)]
    result = run("umount", "/busy", "tank/nosuch", "/mnt/c")
    assert result.status == 1
    assert result.err.splitlines() == [
        "cannot unmount '/busy': pool or dataset is busy",
        "cannot unmount 'tank/nosuch': not currently mounted",
    ]
    assert fuse.undone[-1] == ("/mnt/c", False, False)
    assert run("umount").status == 2
    assert run("umount", "-a", "x").status == 2


def test_unmount_all_the_last_first(fuse: FakeMounts, run: Run) -> None:
    fuse.now = [SimpleNamespace(source="a", mountpoint=f"/m{number}") for number in range(3)]
    assert run("umount", "-a").status == 0
    assert [what for what, _, _ in fuse.undone] == ["/m2", "/m1", "/m0"]


def test_mount_all_leaves_out_what_holds_nothing(fuse: FakeMounts, tank: FakePool, run: Run, tmp_path: Path) -> None:
    tank.nodes["tank"].local["mountpoint"] = f"{tmp_path}/t"
    for name, node in tank.nodes.items():
        node.figures["referenced"] = 7 if name == "tank/images/base" else 0
    assert run("mount", "-a").status == 0
    assert [name for _, name, _, _ in fuse.asked] == ["tank/images/base"]
