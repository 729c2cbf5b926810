"""``lamina prune`` on real pools."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lamina.cli import main
from lamina.errors import Busy
from lamina.pool import Pool
from tests.policy.kit import DAY, Content, date, snapshots


@dataclass
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], local_time: Callable[[str], None]) -> Run:
    local_time("UTC")

    def call(*words: str) -> Result:
        capsys.readouterr()
        status = main(list(words))
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return call


@pytest.fixture
def week(pool: Pool, content: Content) -> list[str]:
    """Tags of seven daily snapshots of ``tank/a``, the last of today; contents differ."""
    today = int(time.time()) // DAY * DAY
    tags = []
    for day in range(6, -1, -1):
        content.change("tank/a")
        tag = f"daily-{time.strftime('%F', time.gmtime(today - DAY * day))}"
        pool.snapshot([f"tank/a@{tag}"])
        date(pool, f"tank/a@{tag}", today - DAY * day)
        tags.append(tag)
    for entry in pool.images():
        pool.destroy(entry.name)
    return tags


def test_a_dry_run_explains_itself(pool: Pool, run: Run, week: list[str]) -> None:
    result = run("prune", "-n", "--keep-last", "2", "--keep-daily", "3", "tank/a")
    lines = result.out.splitlines()
    assert (result.status, result.err) == (0, "")
    assert lines[0].split() == ["NAME", "USED", "ACTION", "REASON"]
    day = week[6].removeprefix("daily-")
    assert lines[1].split(None, 3)[::2] == [f"tank/a@{week[6]}", "keep"]
    assert lines[1].endswith(f"  keep    last 1 of 2, daily 1 of 3: {day}")
    assert lines[3].endswith(f"  keep    daily 3 of 3: {week[4].removeprefix('daily-')}")
    assert lines[4].split(None, 3)[2:] == ["remove", "last: older, daily: older"]
    reclaim = pool.destroy_snapshots([f"tank/a@{tag}" for tag in week[:4]], dry_run=True).reclaim
    assert reclaim > 0
    assert lines[8] == "would destroy 4 of 7 snapshots"
    assert run("prune", "-np", "--keep-daily", "3", "tank/a").out.splitlines()[-1] == f"would reclaim {reclaim}"
    assert snapshots(pool, "tank/a") == week


def test_scripted(run: Run, week: list[str], pool: Pool) -> None:
    result = run("prune", "-nHp", "--keep-last", "6", "tank/a")
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert [row[0] for row in rows] == [f"tank/a@{tag}" for tag in reversed(week)]
    assert rows[-1] == [f"tank/a@{week[0]}", str(pool.get(f"tank/a@{week[0]}")["used"].value), "remove", "last: older"]


def test_json(run: Run, week: list[str], pool: Pool) -> None:
    document = json.loads(run("prune", "-n", "--json-int", "--keep-daily", "1", "tank/a").out)
    assert document["output_version"]["command"] == "lamina prune"
    assert document["dry_run"] is True
    name, other = f"tank/a@{week[6]}", f"tank/a@{week[0]}"
    values = pool.get(name)
    assert document["snapshots"][name] == {
        "action": "keep",
        "used": values["used"].value,
        "creation": values["creation"].value,
        "reasons": [{"rule": "daily", "note": week[6].removeprefix("daily-"), "place": 1, "limit": 1}],
    }
    assert document["snapshots"][other]["action"] == "remove"
    doomed = [f"tank/a@{tag}" for tag in week[:6]]
    assert document["reclaim"] == pool.destroy_snapshots(doomed, dry_run=True).reclaim
    words = json.loads(run("prune", "-j", "--keep-daily", "1", "tank/a").out)
    assert words["dry_run"] is False and isinstance(words["reclaim"], str)
    assert snapshots(pool, "tank/a") == week[6:]


def test_pruning(run: Run, week: list[str], pool: Pool) -> None:
    assert run("prune", "--keep-last", "5", "--prefix", "daily-", "tank/a") == Result(0, "", "")
    assert snapshots(pool, "tank/a") == week[2:]
    assert run("prune", "--keep-last", "1", "--match", "x*", "tank/a") == Result(0, "", "")
    told = run("prune", "-v", "--keep-within", "47h", "tank/a").out.splitlines()
    assert told[-2] == "destroyed 3 of 5 snapshots" and told[-1].startswith("reclaimed ")
    assert told[1].endswith("keep    within 47h") and told[5].endswith("remove  within 47h: older")
    assert snapshots(pool, "tank/a") == week[5:]


def test_recursion(run: Run, pool: Pool) -> None:
    pool.create_dataset("tank/a/b")
    for dataset in ("tank/a", "tank/a/b"):
        for tag in ("x", "y"):
            pool.snapshot([f"{dataset}@{tag}"])
    run("prune", "--keep-last", "1", "tank/a")
    assert (snapshots(pool, "tank/a"), snapshots(pool, "tank/a/b")) == (["y"], ["x", "y"])
    run("prune", "-r", "--keep-last", "1", "tank")
    assert (snapshots(pool, "tank/a"), snapshots(pool, "tank/a/b")) == (["y"], ["y"])


def test_images(run: Run, pool: Pool, content: Content) -> None:
    content.change("tank/a")
    content.change("tank/a")
    assert "protected: an image" in run("prune", "-n", "--keep-last", "1", "tank/a").out
    run("prune", "--keep-last", "1", "tank/a")
    assert len(pool.images()) == 2
    run("prune", "--keep-last", "1", "--images", "tank/a")
    assert snapshots(pool, "tank/a") == ["image2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tank/a"], "no rule says what to keep"),
        (["--keep-last", "0", "--keep-daily", "0", "tank/a"], "no rule says what to keep"),
        (["--keep-last", "1"], "missing dataset argument"),
        (["--keep-last", "x", "tank/a"], "bad value for '--keep-last': 'x' is no number"),
        (["--keep-last", "-1", "tank/a"], "bad value for '--keep-last': '-1' is no number"),
        (["--keep-within", "9", "tank/a"], "bad value for '--keep-within': '9' is no duration"),
        (["--keep-last", "1", "--prefix", "a@", "tank/a"], "bad value for '--prefix'"),
        (["--keep-last", "1", "--timezone", "Mars/Base", "tank/a"], "unknown time zone 'Mars/Base'"),
        (["--all", "--keep-daily", "1"], "--all and --keep-daily exclude each other"),
        (["--all", "--prefix", "x"], "--all and --prefix exclude each other"),
        (["--keep-decadely", "1", "tank/a"], "invalid option '--keep-decadely'"),
    ],
)
def test_wrong_words_remove_nothing(run: Run, pool: Pool, words: list[str], message: str) -> None:
    pool.snapshot(["tank/a@x"])
    result = run("prune", *words)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(message) and "usage:" in result.err
    assert snapshots(pool, "tank/a") == ["x"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tank/none", "cannot open 'tank/none': dataset does not exist"),
        ("nowhere/x", "cannot open 'nowhere/x': dataset does not exist"),
        ("tank/a@x", "cannot prune 'tank/a@x': snapshot delimiter '@' is not expected here"),
        ("tank/\x1b", "cannot prune 'tank/\\x1b': invalid character '\\x1b' in name"),
    ],
)
def test_wrong_names_remove_nothing(run: Run, pool: Pool, name: str, message: str) -> None:
    pool.snapshot(["tank/a@x"])
    pool.snapshot(["tank/a@y"])
    for words in (["--keep-last", "1", "tank/a", name], ["--all", "tank/a", name]):
        result = run("prune", *words)
        assert (result.status, result.out, result.err) == (1, "", message + "\n")
    assert snapshots(pool, "tank/a") == ["x", "y"]


def test_all_by_the_property(run: Run, pool: Pool, tmp_path: Path) -> None:
    assert run("prune", "--all") == Result(0, "", "")
    assert run("prune", "--all", "-n", "tank").out.splitlines() == [
        "would destroy 0 of 0 snapshots",
        "would reclaim 0B",
        "no snapshot in tank is covered by the property retention; see 'lamina help prune'",
    ]
    tags = [f"auto-daily-2026-11-0{day}" for day in range(1, 5)]
    for dataset in ("tank", "tank/a"):
        for tag in ("mine", *tags):
            pool.snapshot([f"{dataset}@{tag}"])
    assert run("set", "retention=last=2", "tank/a").status == 0
    with Pool.create("dozer", tmp_path / "dozer") as dozer:
        dozer.set(["dozer"], {"retention": "last=1,prefix="})
        dozer.snapshot(["dozer@x"])
        dozer.snapshot(["dozer@y"])
        assert "dozer@x" in run("prune", "--all", "--dry-run").out
        assert run("prune", "--all", "tank") == Result(0, "", "")
        assert snapshots(pool, "tank/a") == ["mine", *tags[2:]]
        assert len(snapshots(pool, "tank")) == 5 and len(snapshots(dozer, "dozer")) == 2
        assert run("prune", "--all", "--match", "z*") == Result(0, "", "")
        assert run("prune", "--all") == Result(0, "", "")
        assert snapshots(dozer, "dozer") == ["y"]


def test_one_broken_pool_does_not_stop_the_others(run: Run, pool: Pool, tmp_path: Path) -> None:
    with Pool.create("broken", tmp_path / "broken"):
        pass
    (tmp_path / "broken" / "pool.json").write_text("{")
    pool.set(["tank/a"], {"retention": "last=1,prefix="})
    pool.snapshot(["tank/a@x"])
    pool.snapshot(["tank/a@y"])
    result = run("prune", "--all")
    assert result.status == 1 and "broken" in result.err and result.err.count("\n") == 1
    assert snapshots(pool, "tank/a") == ["y"]


def test_what_one_pool_refuses_does_not_stop_the_others(
    run: Run, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destroy = Pool.destroy_snapshots

    def refusing(self: Pool, *words: Any, **options: Any) -> Any:
        if self.name == "dozer":
            raise Busy("cannot destroy:\nin use")
        return destroy(self, *words, **options)

    monkeypatch.setattr(Pool, "destroy_snapshots", refusing)
    with Pool.create("dozer", tmp_path / "dozer") as dozer:
        for one, name in ((dozer, "dozer"), (pool, "tank/a")):
            one.snapshot([f"{name}@x"])
            one.snapshot([f"{name}@y"])
        # A name that is not there stops all of it, also in another pool.
        result = run("prune", "--keep-last", "1", "tank/a", "dozer/none")
        assert (result.status, snapshots(pool, "tank/a")) == (1, ["x", "y"])
        result = run("prune", "--keep-last", "1", "dozer", "tank/a")
        assert result == Result(1, "", "cannot destroy:\nin use\n")
        assert (snapshots(dozer, "dozer"), snapshots(pool, "tank/a")) == (["x", "y"], ["y"])


def test_days_are_those_of_the_zone(run: Run, pool: Pool, local_time: Callable[[str], None]) -> None:
    # 22:30 and 23:30 UTC are one day in UTC and two in Berlin.
    for tag, hour in (("x", 22), ("y", 23)):
        pool.snapshot([f"tank/a@{tag}"])
        date(pool, f"tank/a@{tag}", 1_767_139_200 + hour * 3600 + 1800)
    words = ["prune", "-nH", "--keep-daily", "9", "tank/a"]
    assert run(*words).out.count("remove") == 1
    assert run(*words, "--timezone", "Europe/Berlin").out.count("remove") == 0
    local_time("Europe/Berlin")
    assert run(*words).out.count("remove") == 0
    assert run(*words, "--timezone", "UTC").out.count("remove") == 1
