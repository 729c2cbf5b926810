"""``lamina get``, ``set`` and ``inherit`` next to what OpenZFS 2.3.2 printed."""

import json

import pytest

from tests.cli.conftest import Run
from tests.cli.fake import FakePool, add_snapshots

GET = """\
NAME         PROPERTY       VALUE  SOURCE
tank/images  used           38.4M  -
tank/images  compressratio  2.81x  -
tank/images  logicalused    107M   -
"""

LOCAL = """\
NAME              PROPERTY              VALUE                  SOURCE
tank/images/base  recordsize            1M                     local
tank/images/base  compression           zstd-19                local
"""


@pytest.mark.usefixtures("tank")
def test_get(run: Run) -> None:
    result = run("get", "used,compressratio,logicalused", "tank/images")
    assert (result.status, result.out, result.err) == (0, GET, "")


@pytest.mark.usefixtures("tank")
def test_get_sources_and_widths(run: Run) -> None:
    assert (
        run("get", "-r", "compression", "tank/images").out
        == """\
NAME              PROPERTY     VALUE           SOURCE
tank/images       compression  lz4             inherited from tank
tank/images/base  compression  zstd-19         local
tank/images/unm   compression  lz4             inherited from tank
tank/images/user  compression  lz4             inherited from tank
"""
    )
    assert run("get", "-o", "all", "compression", "tank/images/base").out == (
        "NAME              PROPERTY     VALUE           RECEIVED  SOURCE\n"
        "tank/images/base  compression  zstd-19         -         local\n"
    )
    assert run("get", "com.example:tag", "tank/images/user").out == (
        "NAME              PROPERTY         VALUE            SOURCE\n"
        "tank/images/user  com.example:tag  prod             local\n"
    )
    assert run("get", "com.example:tag", "tank/images").out == (
        "NAME         PROPERTY         VALUE            SOURCE\ntank/images  com.example:tag  -                -\n"
    )


@pytest.mark.usefixtures("tank")
def test_get_filters_by_source(run: Run) -> None:
    # Widths of `get all`: the longest property name, and a date for the value.
    words = run("get", "-s", "local", "all", "tank/images/base").out.split()
    assert words == LOCAL.split()
    assert run("get", "-Hs", "inherited", "all", "tank/images/base").out == (
        "tank/images/base\tmountpoint\t/tank/images/base\tinherited from tank\n"
        "tank/images/base\tatime\toff\tinherited from tank\n"
    )
    assert run("get", "-rHo", "name,value", "-s", "none,default", "compression", "tank/images").out == ""
    assert run("get", "-H", "-s", "local,received", "all").out.splitlines() == [
        "tank\tmountpoint\t/tank\tlocal",
        "tank\tcompression\tlz4\tlocal",
        "tank\tatime\toff\tlocal",
        "tank/images/base\trecordsize\t1M\tlocal",
        "tank/images/base\tcompression\tzstd-19\tlocal",
        "tank/images/user\tcom.example:tag\tprod\tlocal",
    ]


@pytest.mark.usefixtures("tank")
def test_get_scripted_and_parsable(run: Run) -> None:
    wanted = "used,logicalused,compressratio,refcompressratio,lrefer,refer"
    assert (
        run("get", "-Hp", wanted, "tank/images").out
        == """\
tank/images\tused\t40304640\t-
tank/images\tlogicalused\t112248320\t-
tank/images\tcompressratio\t2.81\t-
tank/images\trefcompressratio\t1.93\t-
tank/images\tlogicalreferenced\t16828416\t-
tank/images\treferenced\t8765440\t-
"""
    )
    assert run("get", "-Hp", "-o", "value", "used", "tank/images").out == "40304640\n"
    assert run("get", "-Hpovalue", "creation", "tank/images").out == "1795434701\n"
    assert run("get", "name", "tank/a", "-H").out == "tank/a\tname\ttank/a\t-\n"


@pytest.mark.usefixtures("tank")
def test_get_all_leaves_out_what_there_is_not(run: Run) -> None:
    names = [line.split("\t")[1] for line in run("get", "-H", "all", "tank/images/user").out.splitlines()]
    assert "origin" not in names and names[-1] == "com.example:tag" and names[0] == "type"
    assert run("get", "-H", "origin", "tank/images").out == "tank/images\torigin\t-\t-\n"


def test_get_recursion_takes_snapshots(tank: FakePool, run: Run) -> None:
    add_snapshots(tank)
    assert run("get", "-rHo", "name", "used", "tank/images/base").out.split() == [
        "tank/images/base",
        "tank/images/base@s2",
        "tank/images/base@2.8.0",
    ]
    assert run("get", "-Ho", "name", "-t", "snapshot", "used", "tank/images").out.split() == [
        "tank/images@s1",
        "tank/images@s2",
    ]
    assert run("get", "-Ho", "name", "-t", "filesystem", "-r", "used", "tank/images/base").out.split() == [
        "tank/images/base"
    ]
    assert run("get", "-Ho", "name", "-t", "image", "used").out.split() == ["tank/images/base@2.8.0"]
    assert (
        run("get", "used,compressratio,logicalused", "tank/images@s1").out
        == """\
NAME            PROPERTY       VALUE  SOURCE
tank/images@s1  used           0B     -
tank/images@s1  compressratio  1.93x  -
tank/images@s1  logicalused    -      -
"""
    )


@pytest.mark.usefixtures("tank")
def test_get_json(run: Run) -> None:
    found = json.loads(run("get", "-j", "compressratio,compression", "tank/images").out)["datasets"]["tank/images"]
    assert found["properties"] == {
        "compressratio": {"value": "2.81x", "source": {"type": "NONE", "data": "-"}},
        "compression": {"value": "lz4", "source": {"type": "INHERITED", "data": "tank"}},
    }
    exact = json.loads(run("get", "--json-int", "compressratio,used,quota", "tank/images").out)
    assert {name: one["value"] for name, one in exact["datasets"]["tank/images"]["properties"].items()} == {
        "compressratio": 2.81,
        "used": 40304640,
        "quota": 0,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing property argument"),
        (["bogus", "tank"], "bad property list: invalid property 'bogus'"),
        (["used,", "tank"], "bad property list: invalid property ''"),
        (["-o", "x", "used"], "invalid column name 'x'"),
        (["-s", "x", "used"], "invalid source 'x'"),
        (["-t", "x", "used"], "invalid type 'x'"),
    ],
)
@pytest.mark.usefixtures("tank")
def test_get_usage(run: Run, words: list[str], message: str) -> None:
    result = run("get", *words)
    assert (result.status, result.out, result.err.splitlines()[0]) == (2, "", message)


def test_get_of_what_is_not_there(tank: FakePool, run: Run) -> None:
    result = run("get", "used", "tank/nosuch", "tank/a")
    assert (result.status, result.err) == (1, "cannot open 'tank/nosuch': dataset does not exist\n")
    assert result.out.splitlines()[1].split() == ["tank/a", "used", "288K", "-"]
    assert tank.opened == 0


def test_set_several_on_several(tank: FakePool, run: Run) -> None:
    result = run("set", "compression=zstd-9", "recsize=64K", "a:b=x=y", "tank/images", "tank/a")
    assert (result.status, result.out, result.err) == (0, "", "")
    for name in ("tank/images", "tank/a"):
        assert tank.nodes[name].local == {"compression": "zstd-9", "recordsize": "65536", "a:b": "x=y"}
    assert tank.opened == 0


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("bogus=1", "invalid property 'bogus'"),
        ("used=1", "'used' is readonly"),
        ("readonly=yes", "'readonly' must be one of 'on | off'"),
        ("recordsize=abc", "bad numeric value 'abc'"),
        ("mountpoint=relative", "'mountpoint' must be an absolute path, 'none', or 'legacy'"),
    ],
)
def test_set_refusals(tank: FakePool, run: Run, word: str, reason: str) -> None:
    result = run("set", "atime=on", word, "tank/images")
    assert (result.status, result.out) == (1, "")
    assert result.err == f"cannot set property for 'tank/images': {reason}\n"
    assert "atime" not in tank.nodes["tank/images"].local


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing arguments"),
        (["compression=lz4"], "missing dataset name(s)"),
        (["tank", "tank/images"], "missing property=value argument before 'tank'"),
        (
            ["compression=lz4", "tank", "atime=on"],
            "invalid argument order: every property=value comes before the first dataset",
        ),
    ],
)
@pytest.mark.usefixtures("tank")
def test_set_usage(run: Run, words: list[str], message: str) -> None:
    result = run("set", *words)
    assert (result.status, result.err.splitlines()[0]) == (2, message)


def test_set_on_what_is_not_there(tank: FakePool, run: Run) -> None:
    result = run("set", "compression=lz4", "tank/nosuch", "tank/a")
    assert (result.status, result.err) == (1, "cannot open 'tank/nosuch': dataset does not exist\n")
    assert tank.nodes["tank/a"].local == {"compression": "lz4"}
    twice = run("set", "compression=lz4", "compression=on", "tank/a")
    assert (twice.status, twice.err) == (1, "property 'compression' specified multiple times\n")


def test_inherit(tank: FakePool, run: Run) -> None:
    tank.nodes["tank/images"].local["compression"] = "off"
    result = run("inherit", "compress", "tank/images")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert "compression" not in tank.nodes["tank/images"].local
    assert tank.nodes["tank/images/base"].local["compression"] == "zstd-19"
    assert run("inherit", "-rS", "compression", "tank/images").status == 0
    assert "compression" not in tank.nodes["tank/images/base"].local
    assert run("inherit", "com.example:tag", "tank/images/user").status == 0
    assert tank.nodes["tank/images/user"].local == {}


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "missing property argument"),
        (["compression"], 2, "missing dataset argument"),
        (["bogus", "tank"], 2, "invalid property 'bogus'"),
        (["used", "tank"], 1, "used property is read-only"),
        (["quota", "tank"], 1, "'quota' property cannot be inherited; use 'lamina set quota=none' to clear"),
        (["compression", "tank/nosuch"], 1, "cannot open 'tank/nosuch': dataset does not exist"),
        (["compression", "nosuch"], 1, "cannot open 'nosuch': dataset does not exist"),
    ],
)
@pytest.mark.usefixtures("tank")
def test_inherit_refusals(run: Run, words: list[str], status: int, message: str) -> None:
    result = run("inherit", *words)
    assert (result.status, result.err.splitlines()[0]) == (status, message)
