"""``lamina pool create``, ``list``, ``get`` and ``status``."""

import json
from pathlib import Path

import pytest

from lamina.pool import features
from tests.cli.conftest import Run
from tests.cli.fake import FakeMachine, FakePool


def test_create(machine: FakeMachine, run: Run) -> None:
    result = run("pool", "create", "-O", "compression=lz4", "-g", "ml", "-m", "2750", "tank", "/data/tank")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert machine.created == [
        ("tank", "/data/tank", {"group": "ml", "mode": 0o2750, "properties": {"compression": "lz4"}})
    ]
    assert machine.pools["tank"].opened == 0


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "missing pool name argument"),
        (["tank"], 2, "missing directory argument"),
        (["tank", "/a", "/b"], 2, "too many arguments"),
        (["-m", "9", "tank", "/a"], 2, "invalid mode '9': octal digits are expected, such as 750"),
        (["mirror", "/a"], 1, "cannot create 'mirror': name is reserved"),
        (["1tank", "/a"], 1, "cannot create '1tank': name must begin with a letter"),
        (["tank@x", "/a"], 1, "cannot create 'tank@x': invalid character '@' in pool name"),
        (["-O", "bogus=1", "tank", "/a"], 1, "property 'bogus' is not a valid filesystem property"),
        (["-O", "atime=x", "tank", "/a"], 1, "cannot create 'tank': 'atime' must be one of 'on | off'"),
        (["tank", "/a"], 1, "cannot create 'tank': pool already exists"),
        (["-n", "tank", "/a"], 1, "cannot create 'tank': pool already exists"),
    ],
)
def test_create_refusals(
    tank: FakePool, machine: FakeMachine, run: Run, words: list[str], status: int, message: str
) -> None:
    result = run("pool", "create", *words)
    assert (result.status, result.out, result.err.splitlines()[0]) == (status, "", message)
    assert machine.created == [] and tank.opened == 0


@pytest.mark.usefixtures("machine")
def test_create_dry_run(run: Run, tmp_path: Path) -> None:
    assert run("pool", "create", "-n", "tank", f"{tmp_path}/new").out == f"would create 'tank' in {tmp_path}/new\n"
    assert run("pool", "create", "-n", "tank", f"{tmp_path}").status == 0
    (tmp_path / "file").touch()
    result = run("pool", "create", "-n", "tank", f"{tmp_path}")
    assert (result.status, result.out) == (1, "")
    assert result.err == f"cannot create 'tank': '{tmp_path}' exists and is not an empty directory\n"


@pytest.mark.usefixtures("tank")
def test_list(run: Run) -> None:
    assert run("pool", "list").out == (
        "NAME   SIZE  ALLOC   FREE    CAP  DEDUP    HEALTH\ntank  3.75G   360K  3.75G     0%  1.00x    ONLINE\n"
    )
    assert run("pool", "list", "-H").out == "tank\t3.75G\t360K\t3.75G\t0%\t1.00x\tONLINE\n"
    assert run("pool", "list", "-Hp").out == "tank\t4026531840\t368640\t4026163200\t0\t1.00\tONLINE\n"
    assert run("pool", "list", "-Hp", "-o", "name,size,alloc,free", "tank").out == (
        "tank\t4026531840\t368640\t4026163200\n"
    )
    document = json.loads(run("pool", "list", "-j", "-o", "name,size").out)
    assert document["pools"] == {
        "tank": {"name": "tank", "properties": {"size": {"value": "3.75G", "source": {"type": "NONE", "data": "-"}}}}
    }


def test_list_none_and_missing(machine: FakeMachine, run: Run) -> None:
    result = run("pool", "list")
    assert (result.status, result.out, result.err) == (0, "no pools available\n", "")
    machine.add(FakePool("a"))
    result = run("pool", "list", "-Ho", "name", "nosuch", "a")
    assert (result.status, result.out, result.err) == (1, "a\n", "cannot open 'nosuch': no such pool\n")
    result = run("pool", "list", "-o", "bogus")
    assert result.status == 2 and result.err.startswith("bad property list: invalid property 'bogus'")


@pytest.mark.usefixtures("tank")
def test_get(run: Run) -> None:
    assert (
        run("pool", "get", "size,free,health", "tank").out
        == """\
NAME  PROPERTY  VALUE   SOURCE
tank  size      3.75G   -
tank  free      3.75G   -
tank  health    ONLINE  -
"""
    )
    assert run("pool", "get", "-Hp", "-o", "value", "size", "tank").out == "4026531840\n"
    assert run("pool", "get", "-Hp", "cap,guid").out == "tank\tcapacity\t0\t-\ntank\tguid\t15515664079049034598\t-\n"
    assert len(run("pool", "get", "-H", "all").out.splitlines()) == 11 + len(features.ALL)
    assert run("pool", "get").status == 2
    assert run("pool", "get", "bogus").status == 2


def test_a_pool_that_is_nearly_full_says_so(tank: FakePool, run: Run) -> None:
    tank.full = 89
    assert "status:" not in run("pool", "status", "tank").out
    tank.full = 90
    status, _, action = run("pool", "status", "tank").out.partition("action: ")
    assert "status: The pool is 90% full." in status
    assert action.startswith("Destroy what is not needed")
    document = json.loads(run("pool", "status", "-j", "tank").out)["pools"]["tank"]
    assert document["status"].startswith("The pool is 90% full.")


def test_status(tank: FakePool, run: Run) -> None:
    assert (
        run("pool", "status", "tank").out == "  pool: tank\n state: ONLINE\nconfig:\n\n"
        "\tNAME          STATE     READ WRITE CKSUM\n"
        "\ttank          ONLINE       0     0     0\n"
        "\t  /data/tank  ONLINE       0     0     0\n"
        "\nerrors: No known data errors\n"
    )
    assert "\tobjects    1234\n" in run("pool", "status", "-v").out
    assert run("pool", "status", "-x").out == "all pools are healthy\n"
    assert run("pool", "status", "-x", "tank").out == "pool 'tank' is healthy\n"
    document = json.loads(run("pool", "status", "--json").out)["pools"]["tank"]
    assert (document["state"], document["error_count"]) == ("ONLINE", "0")
    tank.state, tank.errors = "DEGRADED", 3
    sick = run("pool", "status", "-x")
    assert sick.out.startswith("  pool: tank\n state: DEGRADED\nstatus: ") and sick.out.endswith(
        "errors: 3 data errors, use '-v' for a list\n"
    )
    missing = run("pool", "status", "nosuch")
    assert (missing.status, missing.out, missing.err) == (1, "", "cannot open 'nosuch': no such pool\n")
    assert tank.opened == 0


@pytest.mark.usefixtures("machine")
def test_a_group_needs_a_command(run: Run) -> None:
    result = run("pool")
    assert (result.status, result.err.splitlines()[0]) == (2, "missing pool command")
    assert "pool create" in result.err and "image import" not in result.err
    result = run("pool", "bogus")
    assert (result.status, result.err.splitlines()[0]) == (2, "unrecognized command 'pool bogus'")
    assert run("pool", "--help").status == 0
