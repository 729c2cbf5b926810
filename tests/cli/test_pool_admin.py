"""Check, recover, export, import, upgrade, history, set and destroy of real pools, in OpenZFS's words."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from lamina.pool import Pool, features
from tests.cli.conftest import Run

OLD = Path(__file__).parents[1] / "pool" / "data" / "pool-v1.tar.gz"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for pools that nobody else knows."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    monkeypatch.setattr("lamina.pool.recovery.alone._PATIENCE", 0.05)
    return tmp_path


@pytest.fixture
def tank(home: Path, run: Run) -> Path:
    """A pool with a few names."""
    (home / "rootfs").mkdir()
    (home / "rootfs" / "file").write_bytes(b"hello " * 5000)
    assert run("pool", "create", "-o", "comment=a_pool", "-O", "compression=lz4", "tank", f"{home}/tank").status == 0
    assert run("create", "tank/images").status == 0
    assert run("image", "import", f"{home}/rootfs", "tank/images/a@1").status == 0
    assert run("snapshot", "tank/images@with blank").status == 0
    return home / "tank"


def ok(run: Run, *words: str) -> str:
    result = run(*words)
    assert (result.status, result.err) == (0, "")
    return result.out


def test_check(run: Run, tank: Path) -> None:
    assert ok(run, "pool", "check") == "tank: no problems found\n"
    verbose = ok(run, "pool", "check", "-v", "--headers", "tank")
    assert "backup of all names in the packs" in verbose and "checked 1 trees" in verbose
    assert "and 0 changes since" in ok(run, "pool", "check", "-v", "--save-names", "tank")
    with Pool.open("tank", write=True) as pool:
        pool._database.execute("UPDATE dataset_property SET value = 'zstd'")
    told = run("pool", "check")
    assert told.status == 1 and "'lamina pool check --save-names tank' writes all names anew" in told.out
    assert ok(run, "pool", "check", "--save-names") == "tank: no problems found\n"
    os.truncate(tank / "packs" / "00000002.pack", 40)
    result = run("pool", "check", "tank")
    assert result.status == 1 and result.out.startswith("tank: pack '00000002.pack' is cut short")
    assert all(line.startswith("tank: ") and "; " in line for line in result.out.splitlines())
    document = json.loads(run("pool", "check", "--json").out)["pools"]["tank"]
    assert len(document["problems"]) == len(result.out.splitlines()) and document["packs"] == 2
    assert run("pool", "check", "nosuch").err == "cannot open 'nosuch': no such pool\n"


def test_recover(run: Run, tank: Path) -> None:
    refused = run("pool", "recover", "tank")
    assert refused.status == 1 and "nothing is wrong with its catalogue" in refused.err
    before = ok(run, "list", "-rHp", "-t", "all", "-o", "name,used,refer,creation")
    (tank / "catalogue.db").unlink()
    lost = run("list", "tank")
    assert lost.status == 1 and lost.err == (
        "cannot open 'tank': its catalogue 'catalogue.db' is missing; 'lamina pool recover tank' rebuilds it from the "
        "packs\n"
    )
    assert "tank: would restore 3 datasets, 2 snapshots" in ok(run, "pool", "recover", "-n", "tank")
    assert not (tank / "catalogue.db").exists()
    out = ok(run, "pool", "recover", "tank")
    assert re.match(
        r"tank: restored 3 datasets, 2 snapshots and 0 bookmarks up to txg 4, \d+ objects and \d+ copies", out
    )
    assert ok(run, "list", "-rHp", "-t", "all", "-o", "name,used,refer,creation") == before
    assert ok(run, "pool", "check") == "tank: no problems found\n"
    assert ok(run, "pool", "history").splitlines()[-2].endswith(" lamina pool recover tank")
    document = json.loads(ok(run, "pool", "recover", "-f", "--json", "tank"))["pools"]["tank"]
    assert document["kept"].startswith(f"{tank}/catalogue.db.damaged-") and document["lines"] == []


def test_recover_says_what_is_lost(run: Run, tank: Path) -> None:
    data = bytearray((tank / "packs" / "00000001.pack").read_bytes())
    data[100] ^= 1  # the payload of the first record is a chunk's, or a name record's: both are looked for
    (tank / "packs" / "00000001.pack").write_bytes(data)
    (tank / "packs" / "00000002.pack").unlink()
    (tank / "catalogue.db").unlink()
    result = run("pool", "recover", f"{tank}/")
    assert result.status == 1 and result.err.startswith("tank: ") and "lost" in result.err
    assert run("pool", "check", "tank").out == "tank: no problems found\n"


def test_export_and_import(run: Run, tank: Path, home: Path) -> None:
    ok(run, "pool", "export", "tank")
    assert ok(run, "pool", "list") == "no pools available\n"
    page = ok(run, "pool", "import").splitlines()
    identity = page[1].split()[1]
    assert page == [
        "   pool: tank",
        f"     id: {identity}",
        "  state: ONLINE",
        " action: The pool can be imported using its name or numeric identifier.",
        "comment: a_pool",
        " config:",
        "",
        f"\ttank        ONLINE    {tank}",
    ]
    missing = run("pool", "import", "nosuch")
    assert missing.status == 1 and missing.err.startswith("cannot import 'nosuch': no such pool available")
    ok(run, "pool", "import", "tank")
    again = run("pool", "import", "tank")
    assert (again.status, again.out) == (1, "")
    assert again.err == (
        "cannot import 'tank': a pool with that name already exists; use the form "
        "'lamina pool import <pool | id> <newpool>' to give it a new name\n"
    )
    ok(run, "pool", "export", "-a")
    (home / "far").mkdir()
    shutil.move(tank, home / "far" / "moved")
    none = run("pool", "import")
    assert (none.status, none.out, none.err) == (0, "", "no pools available to import\n")
    assert json.loads(ok(run, "pool", "import", "-j", "-d", f"{home}/far"))["pools"][0]["pool_guid"] == identity
    ok(run, "pool", "import", "-fN", "-d", f"{home}/far", identity, "archive")
    assert "archive/images/a@1" in ok(run, "list", "-rHo", "name", "-t", "all")
    ok(run, "pool", "export", "archive")
    ok(run, "pool", "import", "-a")
    assert ok(run, "pool", "list", "-Ho", "name") == "archive\n"
    shutil.copytree(home / "far" / "moved", home / "far" / "copy")
    assert "is a copy of the pool 'archive'" in run("pool", "import").out
    refused = run("pool", "import", f"{home}/far/copy", "twin")
    assert refused.status == 1 and "--new-guid makes it a pool of its own" in refused.err
    ok(run, "pool", "import", "--new-guid", f"{home}/far/copy", "twin")
    guids = ok(run, "pool", "get", "-Ho", "value", "guid").split()
    assert len(set(guids)) == 2 and identity in guids
    assert ok(run, "pool", "check") == "archive: no problems found\ntwin: no problems found\n"
    for words, message in (
        (("export",), "missing pool argument"),
        (("export", "-a", "x"), "too many arguments"),
        (("import", "a", "b", "c"), "too many arguments"),
        (("import", "-a", "b"), "too many arguments"),
        (("import", "--new-guid"), "missing pool argument"),
    ):
        result = run("pool", *words)
        assert (result.status, result.err.splitlines()[0]) == (2, message)


def test_upgrade(run: Run, home: Path) -> None:
    with tarfile.open(OLD) as tar:
        tar.extractall(home, filter="data")
    ok(run, "pool", "import", f"{home}/tank")
    refused = run("list", "tank")
    assert refused.status == 1 and "'lamina pool upgrade tank' brings it up to date" in refused.err
    assert "\n 1   tank\n" in ok(run, "pool", "upgrade")
    everything = ok(run, "pool", "upgrade", "-v")
    assert all(f"\n{one.name}\n     {one.description}\n" in everything for one in features.ALL)
    done = ok(run, "pool", "upgrade", "-a")
    assert "Successfully upgraded 'tank' from version 1 to feature flags.\n" in done
    assert all(f"\n  {one.name}\n" in done for one in features.ALL)
    assert ok(run, "pool", "upgrade", "tank").splitlines()[-1] == (
        "Pool 'tank' already has all supported features enabled."
    )
    assert ok(run, "pool", "upgrade").splitlines()[-1] == "Every pool has all supported features enabled."
    assert ok(run, "pool", "check") == "tank: no problems found\n"
    assert ok(run, "pool", "get", "-Ho", "property,value", "all").count("enabled\n") == len(features.ALL)
    assert run("pool", "upgrade", "nosuch").err == "cannot open 'nosuch': no such pool\n"
    assert run("pool", "upgrade", "-v", "tank").status == 2


def test_history(run: Run, tank: Path, home: Path) -> None:
    lines = ok(run, "pool", "history", "tank").splitlines()
    assert lines[0] == "History for 'tank':" and lines[-1] == ""
    stamp = r"\d{4}-\d\d-\d\d\.\d\d:\d\d:\d\d"
    assert [re.sub(f"^{stamp} ", "", line) for line in lines[1:-1]] == [
        f"lamina pool create -o comment=a_pool -O compression=lz4 tank {home}/tank",
        "lamina create tank/images",
        f"lamina image import {home}/rootfs tank/images/a@1",
        "lamina snapshot 'tank/images@with blank'",
    ]
    assert run("destroy", "-n", "tank/images/a@1").status == 0  # changes nothing
    assert run("destroy", "tank/nosuch").status == 1
    ok(run, "set", "compression=off", "tank/images")
    long = ok(run, "pool", "history", "-l").splitlines()
    assert re.fullmatch(
        rf"{stamp} lamina set compression=off tank/images \[user {os.geteuid()}( \(\S+\))? on \S+:linux\]", long[-2]
    )
    assert re.search(r" \[txg:5\] lamina set compression=off tank/images$", ok(run, "pool", "history", "-i"), re.M)
    document = json.loads(ok(run, "pool", "history", "-j"))["pools"]["tank"]["history"]
    assert [line["txg"] for line in document] == [1, 2, 3, 4, 5]
    assert run("pool", "history", "nosuch").err == "cannot open 'nosuch': no such pool\n"


@pytest.mark.usefixtures("tank")
def test_set_and_get(run: Run) -> None:
    assert ok(run, "pool", "get", "comment", "tank") == (
        "NAME  PROPERTY  VALUE   SOURCE\ntank  comment   a_pool  local\n"
    )
    ok(run, "pool", "set", "comment=another one", "tank")
    assert ok(run, "pool", "list", "-Ho", "name,comment") == "tank\tanother one\n"
    source = json.loads(ok(run, "pool", "get", "-j", "comment"))["pools"]["tank"]["properties"]["comment"]["source"]
    assert source == {"type": "LOCAL", "data": "-"}
    ok(run, "pool", "set", "comment=", "tank")
    assert ok(run, "pool", "get", "-Ho", "value,source", "comment") == "-\tdefault\n"
    for words, status, message in (
        (["bogus=1", "tank"], 1, "cannot set property for 'tank': invalid property 'bogus'"),
        (["size=10", "tank"], 1, "cannot set property for 'tank': 'size' is readonly"),
        (["comment=" + "x" * 33, "tank"], 1, "cannot set property for 'tank': comment must not exceed 32 characters"),
        (["comment=x", "nosuch"], 1, "cannot open 'nosuch': no such pool"),
        (["comment=x"], 2, "missing pool name"),
        ([], 2, "missing property=value argument"),
        (["x", "tank"], 2, "missing '=' for property=value argument 'x'"),
        (["comment=x", "tank", "tank"], 2, "too many pool names"),
    ):
        result = run("pool", "set", *words)
        assert (result.status, result.err.splitlines()[0]) == (status, message)


def test_destroy(run: Run, tank: Path, home: Path) -> None:
    (tank / "note").write_text("mine")
    result = run("pool", "destroy", "tank")
    assert (result.status, result.err) == (0, f"'{tank}' stays: 'note' in it is none of lamina's\n")
    assert os.listdir(tank) == ["note"]
    gone = run("pool", "destroy", "tank")
    assert (gone.status, gone.err) == (1, "cannot open 'tank': no such pool\n")
    assert run("pool", "destroy").status == 2 and run("pool", "destroy", "a", "b").status == 2
    ok(run, "pool", "create", "tank", f"{home}/second")
    ok(run, "pool", "destroy", "-f", "tank")
    assert not (home / "second").exists()


@pytest.mark.parametrize(("typed", "status"), [("tank", 0), ("yes", 1), ("", 1)])
def test_a_terminal_is_asked_for_the_name(tank: Path, typed: str, status: int) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-m", "lamina", "pool", "destroy", "tank"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        shown = b""
        while b"Type the pool's name to go on: " not in shown:
            shown += os.read(ours, 4096)
        assert b"3 datasets, 2 snapshots. There is no way back." in shown
        os.write(ours, typed.encode() + b"\n")
        assert process.wait(30) == status
    os.close(ours)
    assert tank.exists() == bool(status)


def test_mounts_are_in_the_way(run: Run, tank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"tank/images/a@1": "/mnt/\x1bimg"}
    monkeypatch.setattr("lamina.pool.recovery.alone.mounted", lambda pool: where if pool == "tank" else {})
    with Pool.open("tank"):
        for verb, flags in (("export", ()), ("destroy", ()), ("recover", ("-f",))):
            result = run("pool", verb, *flags, "tank")
            assert (result.status, result.err) == (
                1,
                f"cannot {verb} 'tank': 'tank/images/a@1' is mounted on '/mnt/\\x1bimg'; "
                "'lamina umount /mnt/\\x1bimg' first\n",
            )
    # A mount of that name that nobody serves from here is another pool's.
    ok(run, "pool", "destroy", "tank")
    assert not tank.exists()


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="mounts as root")
def test_a_mounted_pool(run: Run, tank: Path, home: Path) -> None:
    (home / "mnt").mkdir()
    result = run("mount", "tank/images/a@1", f"{home}/mnt")
    if result.status:
        pytest.skip(f"cannot mount here: {result.err}")
    try:
        for verb in ("export", "destroy"):
            refused = run("pool", verb, "tank")
            assert refused.status == 1 and "is mounted on '" in refused.err, refused.err
        assert (home / "mnt" / "file").read_bytes()[:5] == b"hello"
        ok(run, "pool", "export", "-f", "tank")
        assert os.listdir(home / "mnt") == []
    finally:
        subprocess.run(["umount", "-l", f"{home}/mnt"], check=False, stderr=subprocess.DEVNULL)


def test_what_runs_in_the_background_makes_way(run: Run, tank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrub that was started, and what frees space after a destroy, do not keep a pool from being exported."""
    monkeypatch.setattr("lamina.pool.recovery.alone._PATIENCE", 20.0)
    monkeypatch.delenv("LAMINA_BACKGROUND")
    ok(run, "pool", "scrub", "--rate", "1", "tank")  # would take a day
    assert os.listdir(tank / "leases")
    ok(run, "pool", "export", "tank")
    ok(run, "pool", "import", "tank")
    ok(run, "pool", "scrub", "--rate", "1", "tank")  # goes on where it was
    ok(run, "pool", "destroy", "tank")
    assert not tank.exists()
