"""``lamina create``, ``destroy`` and ``rename``."""

import pytest

from tests.cli.conftest import Run
from tests.cli.fake import FakePool, add_snapshots


def test_create(tank: FakePool, run: Run) -> None:
    result = run("create", "-o", "compression=zstd-19", "-orecordsize=1M", "tank/new")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert tank.nodes["tank/new"].local == {"compression": "zstd-19", "recordsize": "1048576"}
    assert run("create", "-p", "tank/x/y/z").status == 0
    assert {"tank/x", "tank/x/y", "tank/x/y/z"} <= set(tank.nodes)
    assert run("create", "-pu", "tank/x/y/z").status == 0
    assert tank.opened == 0


def test_create_says_what_it_does(tank: FakePool, run: Run) -> None:
    assert run("create", "-n", "-v", "-o", "compression=gzip-9", "tank/dry").out == (
        "would create tank/dry\n\tcompression=gzip-9\n"
    )
    assert "tank/dry" not in tank.nodes
    assert run("create", "-nvp", "tank/p/q").out == "would create tank/p\nwould create tank/p/q\n"
    assert run("create", "-P", "tank/parsable").out == "create\ttank/parsable\n"
    assert run("create", "-vP", "-o", "a:b=c", "tank/parsable2").out == ("create\ttank/parsable2\nproperty\ta:b\tc\n")
    assert run("create", "-v", "tank/said").out == "create tank/said\n"


@pytest.mark.parametrize("dry_run", [[], ["-n"]])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tank/images"], "cannot create 'tank/images': dataset already exists"),
        (["tank/x/y"], "cannot create 'tank/x/y': parent does not exist"),
        (["-o", "bogus=1", "tank/bad"], "cannot create 'tank/bad': invalid property 'bogus'"),
        (["-o", "used=1", "tank/bad"], "cannot create 'tank/bad': 'used' is readonly"),
        (
            ["-o", "recordsize=100K", "tank/bad"],
            "cannot create 'tank/bad': 'recordsize' must be power of 2 from 512B to 1M",
        ),
        (["nosuch/x"], "cannot create 'nosuch/x': no such pool 'nosuch'"),
        (["tank/bad%name"], "cannot create 'tank/bad%name': invalid character % in name"),
        (["tank/bad@name"], "cannot create 'tank/bad@name': snapshot delimiter '@' is not expected here"),
        (["tank/a\x1b]0;x\x07"], "cannot create 'tank/a\\x1b]0;x\\x07': invalid character '\\x1b' in name"),
        ([""], "cannot create '': empty component or misplaced '@' or '#' delimiter in name"),
        (["-o", "a:b=1", "-o", "a:b=2", "tank/x"], "property 'a:b' specified multiple times"),
    ],
)
def test_create_refusals(tank: FakePool, run: Run, dry_run: list[str], words: list[str], message: str) -> None:
    before = set(tank.nodes)
    result = run("create", *dry_run, *words)
    assert (result.status, result.out, result.err) == (1, "", message + "\n")
    assert set(tank.nodes) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create"], "missing filesystem argument"),
        (["create", "tank/a", "tank/b"], "too many arguments"),
        (["create", "-o", "x", "tank/b"], "missing '=' for property=value argument 'x'"),
        (["destroy"], "missing dataset argument"),
        (["destroy", "tank/a", "tank/b"], "too many arguments"),
        (["rename"], "missing source dataset argument"),
        (["rename", "tank/a"], "missing target dataset argument"),
        (["rename", "-r", "tank/a", "tank/b"], "source dataset must be a snapshot when -r is given"),
        (["rename", "-p", "tank/a@x", "y"], "-p is not for snapshots: a snapshot stays in its dataset"),
    ],
)
def test_usage(tank: FakePool, run: Run, words: list[str], message: str) -> None:
    before = set(tank.nodes)
    result = run(*words)
    assert (result.status, result.out, result.err.splitlines()[0]) == (2, "", message)
    assert result.err.splitlines()[1] == "usage:" and result.err.splitlines()[2].startswith(f"\tlamina {words[0]} ")
    assert set(tank.nodes) == before


def test_destroy(tank: FakePool, run: Run) -> None:
    add_snapshots(tank)
    assert run("destroy", "tank/images@s1").status == 0
    assert "tank/images@s1" not in tank.nodes
    assert run("destroy", "-nv", "tank/images@s2").out == "would destroy tank/images@s2\nwould reclaim 72K\n"
    assert run("destroy", "-nvp", "tank/images@s2").out == "destroy\ttank/images@s2\nreclaim\t73728\n"
    assert "tank/images@s2" in tank.nodes
    assert run("destroy", "-v", "tank/images@s2").out == "will destroy tank/images@s2\nwill reclaim 72K\n"
    assert "tank/images@s2" not in tank.nodes
    assert run("destroy", "-n", "tank/images/user").out == ""
    assert "tank/images/user" in tank.nodes
    assert run("destroy", "-r", "tank/a").status == 0
    assert not any(name.startswith("tank/a") for name in tank.nodes)
    assert tank.opened == 0


@pytest.mark.parametrize("flags", [[], ["-n"], ["-nv"], ["-v"]])
def test_destroy_names_what_is_in_the_way(tank: FakePool, run: Run, flags: list[str]) -> None:
    result = run("destroy", *flags, "tank/a")
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines() == [
        "cannot destroy 'tank/a': filesystem has children",
        "use '-r' to destroy the following datasets:",
        "tank/a/b/c",
        "tank/a/b",
    ]
    assert "tank/a" in tank.nodes


@pytest.mark.usefixtures("tank")
def test_destroy_of_what_is_not_there(run: Run) -> None:
    assert run("destroy", "tank/nosuch").err == "cannot open 'tank/nosuch': dataset does not exist\n"
    assert run("destroy", "nosuch").err == "cannot open 'nosuch': dataset does not exist\n"
    missing = run("destroy", "tank/images@nosuch")
    assert missing.status == 1 and missing.err.startswith("cannot open 'tank/images@nosuch': snapshot does not exist;")
    assert run("destroy", "tank//a").err.startswith("cannot destroy 'tank//a': empty component")


def test_rename(tank: FakePool, run: Run) -> None:
    add_snapshots(tank)
    assert run("rename", "tank/a", "tank/z").status == 0
    assert "tank/z/b/c" in tank.nodes and "tank/a" not in tank.nodes
    assert run("rename", "-r", "tank/images@s1", "tank/images@s1r").status == 0
    assert run("rename", "tank/images@s1r", "short").status == 0
    assert run("rename", "tank/images@short", "@at").status == 0
    assert "tank/images@at" in tank.nodes
    assert tank.opened == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tank/nosuch", "tank/y"], "cannot open 'tank/nosuch': dataset does not exist"),
        (["tank/a", "tank/images"], "cannot rename 'tank/a': dataset already exists"),
        (["tank/a", "other/y"], "cannot create 'other/y': no such pool 'other'"),
        (["tank/a", "tank/b%c"], "cannot create 'tank/b%c': invalid character % in name"),
        (["tank/a@x", "tank/images@x"], "cannot rename to 'tank/images@x': snapshots must be part of same dataset"),
        (
            ["tank/a", "tank/a/sub"],
            "cannot rename to 'tank/a/sub': New dataset name cannot be a descendant of current dataset name",
        ),
    ],
)
@pytest.mark.usefixtures("tank")
def test_rename_refusals(run: Run, words: list[str], message: str) -> None:
    result = run("rename", *words)
    assert (result.status, result.out, result.err) == (1, "", message + "\n")
