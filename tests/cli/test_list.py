"""``lamina list`` next to what OpenZFS 2.3.2 printed."""

import json

import pytest

from tests.cli.conftest import Run
from tests.cli.fake import FakeMachine, FakePool, add_snapshots

LIST = """\
NAME                  USED  AVAIL  REFER  MOUNTPOINT
tank                  107M  3.52G   104K  /tank
tank/UPPER-ok_1.2:3    96K  3.52G    96K  /tank/UPPER-ok_1.2:3
tank/a                288K  3.52G    96K  /tank/a
tank/a/b              192K  3.52G    96K  /tank/a/b
tank/a/b/c             96K  3.52G    96K  /tank/a/b/c
tank/images          38.4M  3.52G  8.36M  /tank/images
tank/images/base     29.9M  3.52G  29.9M  /tank/images/base
tank/images/unm        96K  3.52G    96K  /tank/images/unm
tank/images/user       96K  3.52G    96K  /tank/images/user
"""


@pytest.mark.usefixtures("tank")
def test_default_table(run: Run) -> None:
    result = run("list")
    assert (result.status, result.out, result.err) == (0, LIST, "")


@pytest.mark.usefixtures("tank")
def test_one_dataset_and_recursion(run: Run) -> None:
    assert run("list", "tank/images").out == (
        "NAME          USED  AVAIL  REFER  MOUNTPOINT\ntank/images  38.4M  3.52G  8.36M  /tank/images\n"
    )
    assert run("list", "-r", "tank/images", "-Ho", "name").out.split() == [
        "tank/images",
        "tank/images/base",
        "tank/images/unm",
        "tank/images/user",
    ]
    assert run("list", "-d", "1", "-Ho", "name", "tank/a").out == "tank/a\ntank/a/b\n"
    assert run("list", "-d0", "-Ho", "name", "tank/a").out == "tank/a\n"


@pytest.mark.usefixtures("tank")
def test_scripted_and_parsable(run: Run) -> None:
    assert run("list", "-Hp", "tank/images").out == "tank/images\t40304640\t3780542464\t8765440\t/tank/images\n"
    assert run("list", "-H", "tank/a").out == "tank/a\t288K\t3.52G\t96K\t/tank/a\n"


@pytest.mark.usefixtures("tank")
def test_columns_by_short_names(run: Run) -> None:
    wanted = "name,used,usedbydataset,usedbysnapshots,lrefer,lused,ratio,refratio"
    assert (
        run("list", "-r", "-o", wanted, "tank/images").out
        == """\
NAME               USED  USEDDS  USEDSNAP  LREFER  LUSED  RATIO  REFRATIO
tank/images       38.4M   8.36M        0B   16.0M   107M  2.81x     1.93x
tank/images/base  29.9M   29.9M        0B   90.9M  90.9M  3.06x     3.06x
tank/images/unm     96K     96K        0B     42K    42K  1.00x     1.00x
tank/images/user    96K     96K        0B     42K    42K  1.00x     1.00x
"""
    )


@pytest.mark.usefixtures("tank")
def test_columns_of_every_kind(run: Run) -> None:
    out = run("list", "-o", "name,type,quota,recsize,compress,snapdir,guid,com.example:tag", "tank/images/user").out
    assert out == (
        "NAME              TYPE        QUOTA  RECSIZE  COMPRESS        SNAPDIR                  GUID  "
        "COM.EXAMPLE:TAG\n"
        "tank/images/user  filesystem   none     128K  lz4             hidden   12794081414436370584  prod\n"
    )


@pytest.mark.usefixtures("tank")
def test_space(run: Run) -> None:
    assert (
        run("list", "-o", "space", "tank/images").out
        == """\
NAME         AVAIL   USED  USEDSNAP  USEDDS  USEDREFRESERV  USEDCHILD
tank/images  3.52G  38.4M        0B   8.36M             0B      30.1M
"""
    )


@pytest.mark.usefixtures("tank")
def test_all_columns(run: Run) -> None:
    header = run("list", "-o", "all", "tank").out.split("\n")[0].split()
    assert header[:6] == ["NAME", "TYPE", "CREATION", "USED", "AVAIL", "REFER"]
    assert {"UNIQUE", "DEDUP", "REDUCTION", "LUSED"} <= set(header)


@pytest.mark.usefixtures("tank")
def test_sorting(run: Run) -> None:
    assert run("list", "-S", "used", "-Ho", "name").out.split("\n")[:4] == [
        "tank",
        "tank/images",
        "tank/images/base",
        "tank/a",
    ]
    assert run("list", "-s", "used", "-S", "name", "-Ho", "name").out.split("\n")[:2] == [
        "tank/images/user",
        "tank/images/unm",
    ]
    # Sorted by what is not shown; rows without the property come last both ways.
    assert run("list", "-S", "com.example:tag", "-Ho", "name").out.startswith("tank/images/user\n")
    assert run("list", "-s", "com.example:tag", "-Ho", "name").out.startswith("tank/images/user\n")


def test_snapshots_and_images(tank: FakePool, run: Run) -> None:
    none = run("list", "-t", "snapshot")
    assert (none.status, none.out, none.err) == (0, "", "no datasets available\n")
    add_snapshots(tank)
    assert (
        run("list", "-t", "snapshot", "tank/images").out
        == """\
NAME             USED  AVAIL  REFER  MOUNTPOINT
tank/images@s1     0B      -  8.37M  -
tank/images@s2     0B      -  8.37M  -
"""
    )
    assert run("list", "-t", "all", "-r", "tank/images", "-Ho", "name").out.split() == [
        "tank/images",
        "tank/images@s1",
        "tank/images@s2",
        "tank/images/base",
        "tank/images/base@s2",
        "tank/images/base@2.8.0",
        "tank/images/unm",
        "tank/images/user",
    ]
    assert run("list", "-t", "image", "-Ho", "name").out == "tank/images/base@2.8.0\n"
    assert run("list", "-H", "tank/images@s1").out == "tank/images@s1\t0B\t-\t8.37M\t-\n"
    assert run("list", "-rHo", "name", "tank/images/base", "tank/images@s1").out.split() == [
        "tank/images@s1",
        "tank/images/base",
    ]
    assert "@" not in run("list", "-r", "tank").out


@pytest.mark.usefixtures("tank")
def test_json_as_openzfs(run: Run) -> None:
    document = json.loads(run("list", "-j", "tank/images").out)
    assert document["output_version"] == {"command": "lamina list", "vers_major": 0, "vers_minor": 1}
    found = document["datasets"]["tank/images"]
    assert (found["type"], found["pool"]) == ("FILESYSTEM", "tank")
    assert found["properties"] == {
        "used": {"value": "38.4M", "source": {"type": "NONE", "data": "-"}},
        "available": {"value": "3.52G", "source": {"type": "NONE", "data": "-"}},
        "referenced": {"value": "8.36M", "source": {"type": "NONE", "data": "-"}},
        "mountpoint": {"value": "/tank/images", "source": {"type": "INHERITED", "data": "tank"}},
    }
    exact = json.loads(run("list", "--json-int", "tank/images").out)
    assert exact["datasets"]["tank/images"]["properties"]["used"]["value"] == 40304640
    parsable = json.loads(run("list", "--json", "-p", "tank/images").out)
    assert parsable["datasets"]["tank/images"]["properties"]["used"]["value"] == "40304640"


@pytest.mark.usefixtures("tank")
def test_missing_operands_do_not_hide_the_others(run: Run) -> None:
    result = run("list", "-Ho", "name", "tank/nosuch", "tank/a", "nosuch", "tank/a%b", "/tank")
    assert (result.status, result.out) == (1, "tank/a\n")
    assert result.err.splitlines() == [
        "cannot open 'tank/nosuch': dataset does not exist",
        "cannot open 'nosuch': dataset does not exist",
        "cannot open 'tank/a%b': invalid character % in name",
        "cannot open '/tank': leading slash in name",
    ]
    alone = run("list", "tank/nosuch")
    assert (alone.status, alone.out, alone.err) == (1, "", "cannot open 'tank/nosuch': dataset does not exist\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "name,bogus"], "bad property list: invalid property 'bogus'"),
        (["-t", "bogus"], "invalid type 'bogus'"),
        (["-s", "bogus"], "invalid property 'bogus'"),
        (["-d", "x"], "invalid depth 'x': a number of levels, 0 or more, is expected"),
        (["-d", "-1"], "invalid depth '-1': a number of levels, 0 or more, is expected"),
        (["-Z"], "invalid option 'Z'"),
        (["--bogus"], "invalid option '--bogus'"),
        (["--json=yes"], "option '--json' takes no value"),
        (["-o"], "missing argument for 'o' option"),
        (["-Hx\x1b"], "invalid option 'x'"),
        (["-\x1b[31m"], "invalid option '\\x1b'"),
    ],
)
@pytest.mark.usefixtures("tank")
def test_wrong_usage(run: Run, words: list[str], message: str) -> None:
    result = run("list", *words)
    assert (result.status, result.out) == (2, "")
    lines = result.err.splitlines()
    assert lines[:3] == [
        message,
        "usage:",
        "\tlamina list [-Hp] [-j [--json-int]] [-r|-d max] [-o property[,...]] [-s property] ...",
    ]


def test_no_pools_at_all(machine: FakeMachine, run: Run) -> None:
    result = run("list")
    assert (result.status, result.out, result.err) == (0, "", "no datasets available\n")
    assert json.loads(run("list", "-j").out)["datasets"] == {}


def test_every_pool_is_closed(tank: FakePool, run: Run) -> None:
    run("list", "-r", "tank/a")
    run("list", "tank/nosuch")
    assert tank.opened == 0
