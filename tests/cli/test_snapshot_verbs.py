"""Snapshot, rollback, clone, promote, hold, bookmark and destroy on a real pool, next to what OpenZFS 2.3.2 printed."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest

from lamina.errors import LaminaError
from lamina.pool import Pool, registry
from tests.cli.conftest import Run

DATE = r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ 123][0-9] [ 12][0-9]:[0-5][0-9] [0-9]{4}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a pool with the datasets of the transcript, one with a file in it."""
    place = tmp_path_factory.mktemp("made")
    (place / "root").mkdir()
    (place / "root" / "rand").write_bytes(random.Random(1).randbytes(30_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_POOLS", str(place / "known"))
        with Pool.create("tank", place / "tank") as pool:
            pool.import_image(place / "root", "tank/images@s0")
            for name in ("tank/images/base", "tank/images/unm", "tank/a/b"):
                pool.create_dataset(name, parents=True)
    return place / "tank"


@pytest.fixture
def tank(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it, as ``tank``."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    shutil.copytree(made, tmp_path / "tank")
    registry.add("tank", tmp_path / "tank")


def lines(run: Run, *words: str) -> list[str]:
    result = run(*words)
    assert (result.status, result.err) == (0, ""), words
    return result.out.splitlines()


def names(run: Run, *words: str) -> list[str]:
    return lines(run, "list", "-Ho", "name", *words)


USAGE = [
    (["snapshot"], "missing snapshot argument"),
    (["snapshot", "tank/images"], "missing '@' in 'tank/images': a snapshot is named dataset@snapshot"),
    (["snapshot", "-n", "tank/a@x"], "--dry-run is for --auto"),
    (["snapshot", "--auto", "-r", "tank"], "--auto takes all datasets that the property autosnapshot covers, without"),
    (["snapshot", "-o", "x", "tank/a@x"], "missing '=' for property=value argument 'x'"),
    (["rollback"], "missing dataset argument"),
    (["rollback", "tank/a@x", "tank/a@y"], "too many arguments"),
    (["clone"], "missing source dataset argument"),
    (["clone", "tank/images@s0"], "missing target dataset argument"),
    (["clone", "tank/images@s0", "tank/c", "tank/d"], "too many arguments"),
    (["promote"], "missing clone filesystem argument"),
    (["promote", "tank/a", "tank/b"], "too many arguments"),
    (["hold"], "missing tag argument"),
    (["hold", "keep"], "missing snapshot argument"),
    (["hold", ".keep", "tank/images@s0"], "tag may not start with '.'"),
    (["release", "keep"], "missing snapshot argument"),
    (["holds"], "missing snapshot argument"),
    (["bookmark"], "missing source argument"),
    (["bookmark", "tank/images@s0"], "missing bookmark argument"),
    (["bookmark", "tank/images", "tank/images#b"], "'tank/images' is neither a snapshot nor a bookmark"),
    (["destroy", "-d", "tank/a"], "-d is for snapshots: 'tank/a' is a dataset"),
]


@pytest.mark.usefixtures("tank")
@pytest.mark.parametrize(("words", "message"), USAGE, ids=[" ".join(case[0]) for case in USAGE])
def test_usage(run: Run, words: list[str], message: str) -> None:
    result = run(*words)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(message) and f"\tlamina {words[0]} " in result.err


REFUSED = [
    # As in zfs a dataset or source that is missing counts as wrong usage; but there is no page of it.
    (["snapshot", "tank/images/x@y"], 2, "cannot open 'tank/images/x': dataset does not exist"),
    (["snapshot", "nosuch@y"], 2, "cannot open 'nosuch': dataset does not exist"),
    (["bookmark", "tank/images@no", "tank/images#b2"], 2, "cannot open 'tank/images@no': dataset does not exist"),
    (["snapshot", "tank/images@s0"], 1, "cannot create snapshot 'tank/images@s0': dataset already exists"),
    (["snapshot", "tank/images@a/b"], 1, "cannot create snapshot 'tank/images@a/b': trailing slash in name"),
    (
        ["snapshot", "-o", "compression=lz4", "tank/images@s4"],
        1,
        "cannot create snapshots : this property can not be modified for snapshots",
    ),
    (["rollback", "tank/images"], 1, "cannot open 'tank/images': missing '@' delimiter in snapshot name"),
    (["rollback", "tank/nosuch@x"], 1, "cannot open 'tank/nosuch@x': dataset does not exist"),
    (["clone", "tank/images", "tank/c"], 1, "cannot open 'tank/images': missing '@' delimiter in snapshot name"),
    (["clone", "tank/images@no", "tank/c"], 1, "cannot open 'tank/images@no': dataset does not exist"),
    (["clone", "tank/images@s0", "nosuch/c"], 1, "cannot create 'nosuch/c': no such pool 'nosuch'"),
    (["clone", "tank/images@no", "nosuch/c"], 1, "cannot open 'tank/images@no': dataset does not exist"),
    (["clone", "tank/images@s0", "tank/nope/c"], 1, "cannot create 'tank/nope/c': parent does not exist"),
    (["promote", "tank/a"], 1, "cannot promote 'tank/a': not a cloned filesystem"),
    (["promote", "tank/nosuch"], 1, "cannot open 'tank/nosuch': dataset does not exist"),
    (["hold", "keep", "tank/images@no"], 1, "cannot hold snapshot 'tank/images@no': dataset does not exist"),
    (["hold", "keep", "tank/images"], 1, "'tank/images' is not a snapshot"),
    (
        ["release", "no", "tank/images@s0"],
        1,
        "cannot release hold from snapshot 'tank/images@s0': no such tag on this dataset",
    ),
    (["holds", "tank/images@no"], 1, "cannot open 'tank/images@no': dataset does not exist"),
    (["bookmark", "tank/images@s0", "other#b"], 1, "cannot create bookmark 'other#b': bookmark is in a different pool"),
    (["destroy", "tank/images#no"], 1, "bookmark 'tank/images#no' does not exist."),
    (
        ["destroy", "tank/images@no"],
        1,
        "cannot open 'tank/images@no': snapshot does not exist; 'lamina list -t snapshot tank/images' shows those "
        "that do",
    ),
    (["destroy", "tank/images@no%"], 1, "could not find any snapshots to destroy; check snapshot names."),
    (["destroy", "-r", "tank/images@no"], 1, "could not find any snapshots to destroy; check snapshot names."),
    (["snapshot", "tank/a@\x1b"], 1, "cannot create snapshot 'tank/a@\\x1b': invalid character '\\x1b' in name"),
    (["hold", "x", "tank/a\x1b@x"], 1, "cannot open 'tank/a\\x1b@x': invalid character '\\x1b' in name"),
    (["list", "tank/images#no"], 1, "cannot open 'tank/images#no': dataset does not exist"),
]


@pytest.mark.usefixtures("tank")
@pytest.mark.parametrize(("words", "status", "message"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_refusals(run: Run, words: list[str], status: int, message: str) -> None:
    before = names(run, "-t", "all")
    result = run(*words)
    assert (result.status, result.out, result.err) == (status, "", message + "\n")
    assert names(run, "-t", "all") == before


@pytest.mark.usefixtures("tank")
def test_snapshots(run: Run) -> None:
    assert lines(run, "snapshot", "tank/images@s1") == []
    assert lines(run, "snapshot", "-r", "tank/images@s2") == []
    again = run("snapshot", "-r", "tank/images@s2")
    assert (again.status, again.out) == (1, "")
    assert again.err.splitlines() == [
        "cannot create snapshot 'tank/images@s2': dataset already exists",
        "cannot create snapshot 'tank/images/base@s2': dataset already exists",
        "cannot create snapshot 'tank/images/unm@s2': dataset already exists",
        "no snapshots were created",
    ]
    assert lines(run, "snapshot", "-o", "com.example:k=v", "tank/images@s3") == []
    assert lines(run, "get", "-Ho", "value", "com.example:k", "tank/images@s3") == ["v"]
    assert lines(run, "snap", "tank/images@s5", "tank/a@s5") == []
    assert names(run, "-t", "snapshot") == [
        *("tank/a@s5", "tank/images@s0", "tank/images@s1", "tank/images@s2", "tank/images@s3", "tank/images@s5"),
        *("tank/images/base@s2", "tank/images/unm@s2"),
    ]
    newest = names(run, "-t", "snapshot", "-S", "createtxg", "tank/images")
    assert newest == [f"tank/images@s{number}" for number in (5, 3, 2, 1, 0)]


@pytest.mark.usefixtures("tank")
def test_rollback(run: Run) -> None:
    for name in ("s1", "s2"):
        run("snapshot", f"tank/images@{name}")
    refused = run("rollback", "tank/images@s0")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.splitlines() == [
        "cannot rollback to 'tank/images@s0': more recent snapshots or bookmarks exist",
        "use '-r' to force deletion of the following snapshots and bookmarks:",
        "tank/images@s1",
        "tank/images@s2",
    ]
    assert lines(run, "rollback", "tank/images@s2") == []
    run("clone", "tank/images@s1", "tank/c")
    assert run("rollback", "-r", "tank/images@s0").err.splitlines() == [
        "cannot rollback to 'tank/images@s0': clones of previous snapshots exist",
        "use '-R' to force deletion of the following clones and dependents:",
        "tank/c",
    ]
    assert lines(run, "rollback", "-Rf", "tank/images@s0") == []
    assert names(run, "-t", "all", "-r", "tank/images") == [
        *("tank/images", "tank/images@s0", "tank/images/base", "tank/images/unm")
    ]


@pytest.mark.usefixtures("tank")
def test_holds(run: Run) -> None:
    run("snapshot", "-r", "tank/images@h1")
    assert lines(run, "hold", "keep", "tank/images@h1") == []
    again = run("hold", "keep", "tank/images@h1", "tank/images/base@h1")
    assert (again.status, again.err) == (
        1,
        "cannot hold snapshot 'tank/images@h1': tag already exists on this dataset\n",
    )
    table = lines(run, "holds", "-r", "tank/images@h1")
    assert [line.split()[:2] for line in table] == [
        ["NAME", "TAG"],
        ["tank/images@h1", "keep"],
        ["tank/images/base@h1", "keep"],
    ]
    (line,) = lines(run, "holds", "-H", "tank/images@h1")
    name, tag, when = line.split("\t")
    assert (name, tag) == ("tank/images@h1", "keep")
    assert re.fullmatch(DATE, when)
    (line,) = lines(run, "holds", "-Hp", "tank/images@h1")
    seconds = int(line.split("\t")[2])
    document = json.loads(run("holds", "--json-int", "tank/images@h1").out)
    assert document["output_version"]["command"] == "lamina holds"
    assert document["holds"] == {"tank/images@h1": {"keep": seconds}}
    assert lines(run, "get", "-Ho", "value", "userrefs", "tank/images@h1") == ["1"]
    held = (
        "cannot destroy snapshot tank/images@h1: it's being held. Run 'lamina holds -r tank/images@h1' to see holders."
    )
    refused = run("destroy", "tank/images@h1")
    assert (refused.status, refused.out, refused.err) == (1, "", held + "\n")
    assert lines(run, "destroy", "-dnv", "tank/images@h1") == [
        "would destroy tank/images@h1 when nothing holds or clones it any more",
        "would reclaim 0B",
    ]
    assert lines(run, "destroy", "-d", "tank/images@h1") == []
    assert lines(run, "get", "-Ho", "value", "defer_destroy", "tank/images@h1") == ["on"]
    assert lines(run, "release", "-r", "keep", "tank/images@h1") == []
    assert run("list", "tank/images@h1").status == 1
    assert lines(run, "holds", "tank/images/base@h1") == ["NAME  TAG  TIMESTAMP"]
    assert lines(run, "holds", "-H", "tank/images/base@h1") == []


@pytest.mark.usefixtures("tank")
def test_clones(run: Run) -> None:
    assert lines(run, "clone", "tank/images@s0", "tank/clone1") == []
    assert run("clone", "tank/images@s0", "tank/clone1").err == (
        "cannot create 'tank/clone1': dataset already exists\n"
    )
    assert lines(run, "clone", "-p", "tank/images@s0", "tank/x/y/clone2") == []
    assert lines(run, "clone", "-p", "tank/images@s0", "tank/x/y/clone2") == []
    assert lines(run, "clone", "-o", "compression=gzip-9", "tank/images@s0", "tank/clone3") == []
    assert lines(run, "get", "-H", "origin", "tank/clone1") == ["tank/clone1\torigin\ttank/images@s0\t-"]
    assert lines(run, "get", "-Ho", "value", "clones", "tank/images@s0") == ["tank/clone1,tank/clone3,tank/x/y/clone2"]
    clones = ["use '-R' to destroy the following datasets:", "tank/clone1", "tank/clone3", "tank/x/y/clone2"]
    for words in (["tank/images@s0"], ["-r", "tank/images@s0"], ["-nv", "tank/images@s0"]):
        result = run("destroy", *words)
        first = "cannot destroy 'tank/images@s0': snapshot has dependent clones"
        assert (result.status, result.out, result.err.splitlines()) == (1, "", [first, *clones])
    for words in (["-r", "tank/images"], ["-rnvp", "tank/images"]):
        first = "cannot destroy 'tank/images': filesystem has dependent clones"
        assert run("destroy", *words).err.splitlines() == [first, *clones]
    (used,) = lines(run, "list", "-Ho", "used", "tank")
    assert lines(run, "destroy", "-nvR", "tank/images@s0")[-2:] == [
        "would destroy tank/images@s0",
        f"would reclaim {used}",
    ]
    assert lines(run, "promote", "tank/clone1") == []
    assert names(run, "-t", "all", "-r", "tank/clone1") == ["tank/clone1", "tank/clone1@s0"]
    assert lines(run, "get", "-Ho", "value", "origin", "tank/images") == ["tank/clone1@s0"]
    assert run("promote", "tank/clone1").err == "cannot promote 'tank/clone1': not a cloned filesystem\n"
    assert lines(run, "promote", "-f", "tank/images") == []
    run("snapshot", "tank/images@s9", "tank/clone1@s0")
    refused = run("promote", "tank/clone1")
    assert refused.err == "cannot promote 'tank/clone1': conflicting snapshot 's0' from parent 'tank/images@s0'\n"
    assert lines(run, "destroy", "-R", "tank/images@s0") == []
    assert names(run, "-r", "tank") == [
        *("tank", "tank/a", "tank/a/b", "tank/images", "tank/images/base", "tank/images/unm", "tank/x", "tank/x/y")
    ]


@pytest.mark.usefixtures("tank")
def test_bookmarks(run: Run) -> None:
    assert lines(run, "bookmark", "tank/images@s0", "tank/images#b1") == []
    again = run("bookmark", "tank/images@s0", "#b1")
    assert (again.status, again.err) == (1, "cannot create bookmark 'tank/images#b1': bookmark exists\n")
    assert lines(run, "bookmark", "#b1", "tank/images#b2") == []
    assert lines(run, "bookmark", "tank/images#b1", "#b3") == []
    assert names(run, "-t", "bookmark") == [f"tank/images#b{number}" for number in (1, 2, 3)]
    assert names(run, "-t", "bookmark", "tank/images") == [f"tank/images#b{number}" for number in (1, 2, 3)]
    assert names(run, "-rt", "all", "tank/images")[:3] == ["tank/images", "tank/images@s0", "tank/images#b1"]
    assert names(run, "tank/images#b2", "tank/a") == ["tank/a", "tank/images#b2"]
    assert [line.split()[1] for line in lines(run, "get", "all", "tank/images#b1")] == [
        *("PROPERTY", "type", "creation", "createtxg", "guid")
    ]
    assert json.loads(run("list", "-jt", "bookmark").out)["datasets"]["tank/images#b1"]["type"] == "BOOKMARK"
    guids = lines(run, "get", "-rHo", "value", "guid", "tank/images#b1", "tank/images@s0")
    assert len(guids) == 2 and len(set(guids)) == 1
    assert lines(run, "destroy", "-v", "tank/images#b1") == ["will destroy tank/images#b1", "will reclaim 0B"]
    assert names(run, "-t", "bookmark") == ["tank/images#b2", "tank/images#b3"]


@pytest.mark.usefixtures("tank")
def test_destroy_of_ranges(run: Run) -> None:
    for number in range(1, 5):
        run("snapshot", "-r", f"tank/images@r{number}")
    wanted = [f"tank/images@r{number}" for number in (1, 2, 3)]
    assert lines(run, "destroy", "-nv", "tank/images@r1%r3") == [
        *(f"would destroy {name}" for name in wanted),
        "would reclaim 0B",
    ]
    assert lines(run, "destroy", "-nvp", "tank/images@r1%r3") == [
        *(f"destroy\t{name}" for name in wanted),
        "reclaim\t0",
    ]
    assert lines(run, "destroy", "-n", "tank/images@r1%r3") == []
    assert lines(run, "destroy", "-v", "tank/images@r1%r3") == [
        *(f"will destroy {name}" for name in wanted),
        "will reclaim 0B",
    ]
    assert lines(run, "destroy", "-v", "tank/images@r4,nosuch") == ["will destroy tank/images@r4", "will reclaim 0B"]
    assert lines(run, "destroy", "-r", "tank/images@%r3") == []
    assert names(run, "-t", "snapshot") == ["tank/images@s0", "tank/images/base@r4", "tank/images/unm@r4"]
    children = run("destroy", "tank/images")
    assert children.err.splitlines() == [
        *("cannot destroy 'tank/images': filesystem has children", "use '-r' to destroy the following datasets:"),
        *("tank/images/base@r4", "tank/images/base", "tank/images/unm@r4", "tank/images/unm", "tank/images@s0"),
    ]
    assert run("destroy", "tank").err.splitlines() == [
        "cannot destroy 'tank': operation does not apply to pools",
        "use 'lamina destroy -r tank' to destroy all datasets in the pool",
        "use 'lamina pool destroy tank' to destroy the pool itself",
    ]


@pytest.mark.usefixtures("tank")
def test_force_unmounts_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = {"tank/images@s0": "/mnt/x", "tank/a": "/mnt/a"}
    undone: list[str] = []

    class Mount:
        def __init__(self, source: str) -> None:
            self.source, self.mountpoint = source, mounted[source]

    def umount(what: str, *, force: bool = False, lazy: bool = False) -> None:
        assert force
        (source,) = (name for name, place in mounted.items() if place == what)
        undone.append(source)
        del mounted[source]

    monkeypatch.setattr(Pool, "_mounted", lambda self: dict(mounted))
    monkeypatch.setattr("lamina.mount.mounts", lambda: [Mount(source) for source in mounted])
    monkeypatch.setattr("lamina.mount.umount", umount)
    for words in (["destroy", "tank/images@s0"], ["rename", "tank/a", "tank/z"]):
        assert run(*words).err.startswith(f"cannot unmount '/mnt/{'x' if 'destroy' in words else 'a'}': ")
    assert lines(run, "destroy", "-fn", "tank/images@s0") == [] and not undone
    assert lines(run, "destroy", "-f", "tank/images@s0") == []
    assert undone == ["tank/images@s0"]
    assert lines(run, "rename", "-f", "tank/a", "tank/z") == []
    assert undone == ["tank/images@s0", "tank/a"]
    assert "tank/z/b" in names(run)


@pytest.mark.usefixtures("tank")
def test_automatic_snapshots_are_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.policy import automatic

    asked: list[tuple[str, dict[str, object]]] = []

    def fake(pool: Pool, now: int, **options: object) -> automatic.Automatic:
        asked.append((pool.name, options))
        if options["roots"] == ["tank/a"]:
            raise LaminaError("cannot do it")
        return automatic.Automatic(made=["tank/x@1"], ahead=["tank/x@9"], unchanged=["tank/y@1"])

    monkeypatch.setattr(automatic, "run", fake)
    done = run("snapshot", "--auto", "-nv", "--always", "--no-prune", "--timezone", "UTC")
    assert done.status == 0
    assert done.out.splitlines() == ["would create tank/x@1", "tank/y@1 is not needed: nothing has changed"]
    assert "'tank/x@9' is of a time still to come" in done.err
    ((name, options),) = asked
    assert (name, options["roots"], options["always"], options["prune"], options["dry_run"]) == (
        *("tank", [], True, False, True),
    )
    failed = run("snapshot", "--auto", "tank/a")
    assert (failed.status, failed.err) == (1, "cannot do it\n")
    missing = run("snapshot", "--auto", "tank/nosuch")
    assert (missing.status, missing.err) == (1, "cannot open 'tank/nosuch': dataset does not exist\n")


@pytest.mark.usefixtures("tank")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["snaps"], ["snapshot"]),
        (["snapshot", "tank/images/"], ["tank/images/base@", "tank/images/unm@"]),
        (["rollback", "tank/im"], ["tank/images@s0"]),
        (["clone", "tank/"], ["tank/images@s0"]),
        (["clone", "tank/images@s0", "tank/a/"], ["tank/a/b"]),
        (["hold", "ta"], []),
        (["hold", "keep", "tank/"], ["tank/images@s0"]),
        (["release", "-r", "keep", "tank/"], ["tank/images@s0"]),
        (["holds", "tank/"], ["tank/images@s0"]),
        (["promote", "tank/a"], ["tank/a", "tank/a/b"]),
        (["bookmark", "tank/"], ["tank/images@s0"]),
        (["list", "-t", "bo"], ["bookmark"]),
        (["destroy", "tank/images@"], ["tank/images@s0"]),
    ],
)
def test_completion(run: Run, words: list[str], wanted: list[str]) -> None:
    assert lines(run, "__complete", *words) == wanted
