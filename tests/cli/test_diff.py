"""``lamina diff`` beside the transcript of ``zfs diff``."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.cli.verbs.diff import escaped
from lamina.fs.types import ROOT_INO
from lamina.pool import Pool
from tests.cli.conftest import Run
from tests.fs.diff_model import DEV, DIR, LNK, REG, Model
from tests.pool.heads import take


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """The session of the transcript: two snapshots and what was done between."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    with Pool.create("tank", tmp_path / "tank") as pool:
        model = Model(seed=2)
        rand = model.make(REG, ROOT_INO, b"rand")
        model.make(REG, ROOT_INO, b"text")
        take(pool, "tank/images", "s1", model)
        model.make(REG, ROOT_INO, b"newfile")
        model.unlink(ROOT_INO, b"text")
        names = model.files[ROOT_INO].names
        names[b"rand2"] = names.pop(b"rand")
        model.touch(rand, ctime_ns=1795434812_499097627)
        folder = model.make(DIR, ROOT_INO, b"d")
        model.make(REG, folder, b"f")
        model.touch(ROOT_INO, ctime_ns=1795434812_519097883)
        take(pool, "tank/images", "s2", model)
        yield pool


def lines(text: str) -> list[str]:
    return sorted(text.splitlines())


def test_what_zfs_prints(tank: Pool, run: Run) -> None:
    wanted = lines("R\t/rand -> /rand2\n-\t/text\n+\t/newfile\n+\t/d\n+\t/d/f\nM\t/\n")
    for words in (["tank/images@s1"], ["tank/images@s1", "tank/images"], ["@s1", "tank/images@s2"]):
        found = run("diff", *words)
        assert (found.status, found.err, lines(found.out)) == (0, "", wanted)
    found = run("diff", "-H", "tank/images@s1", "@s2")
    assert lines(found.out) == [line.replace(" -> ", "\t") for line in wanted]
    classified = "R\tF\t/rand -> /rand2\n-\tF\t/text\n+\tF\t/newfile\n+\t/\t/d\n+\tF\t/d/f\nM\t/\t/\n"
    assert lines(run("diff", "-F", "tank/images@s1").out) == lines(classified)
    timed = run("diff", "-FHt", "tank/images@s1").out.splitlines()
    assert "1795434812.499097627\tR\tF\t/rand\t/rand2" in timed
    assert "1795434812.519097883\tM\t/\t/" in timed
    assert all(re.match(r" *\d+\.\d{9}\t[-+MR]\t[F/]\t/", line) for line in timed) and len(timed) == 6
    assert run("diff", "tank/images@s1", "tank/images@s1").out == ""


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["tank/images@nosuch", "tank/images"], 1, "Unable to obtain diffs: No such file or directory"),
        (["tank/images@s1", "@nosuch"], 1, "Unable to obtain diffs: No such file or directory: 'tank/images@nosuch'"),
        (["tank/images"], 1, "Badly formed snapshot name tank/images: missing '@' delimiter in snapshot name"),
        (["tank/images@s2", "tank/images@s1"], 1, "Unable to obtain diffs: Not an earlier snapshot from the same fs"),
        (["tank/images", "tank/images"], 1, "Unable to determine which snapshots to compare: invalid name"),
        (["tank/none@s1"], 1, "cannot open 'tank/none': dataset does not exist"),
        (["dozer/none@s1"], 1, "cannot open 'dozer/none@s1': dataset does not exist"),
        ([], 2, "must provide at least one snapshot name"),
        (["a@b", "c", "d"], 2, "too many arguments"),
        (["-d", "2", "tank/images@s1"], 2, "-d says how deep"),
        (["--stat", "-d", "x", "tank/images@s1"], 2, "invalid depth 'x'"),
        (["-q", "tank/images@s1"], 2, "invalid option 'q'"),
    ],
)
def test_refusals(tank: Pool, run: Run, words: list[str], status: int, message: str) -> None:
    found = run("diff", *words)
    assert (found.status, found.out) == (status, "")
    assert found.err.startswith(message)
    assert status == 2 or found.err.count("\n") == 1


def test_datasets_that_are_not_related(tank: Pool, run: Run) -> None:
    model = Model(seed=2)
    model.make(REG, ROOT_INO, b"rand2")
    take(tank, "tank/a", "s", model)
    found = run("diff", "tank/images@s1", "tank/a")
    assert (found.status, lines(found.out)) == (0, lines("M\t/\n-\t/rand\n-\t/text\n+\t/rand2\n"))


def test_names_of_any_bytes(tank: Pool, run: Run) -> None:
    before, model = Model(), Model()
    name = b"a b\\\n\x1b\xff\xc3\xa9"
    model.make(LNK, ROOT_INO, name)
    model.make(DEV, ROOT_INO, b"c")
    model.touch(ROOT_INO, mtime_ns=0)
    before.touch(ROOT_INO, mtime_ns=1)
    take(tank, "tank/odd", "s1", before)
    take(tank, "tank/odd", "s2", model)
    out = run("diff", "-F", "tank/odd@s1", "@s2").out
    assert out == "M\t/\t/\n+\t@\t/a\\0040b\\0134\\0012\\0033\\0377\\0303\\0251\n+\tC\t/c\n"
    assert run("diff", "-Fh", "tank/odd@s1").out == "M\t/\t/\n+\t@\t/a b\\\\\\n\\x1b\\xffé\n+\tC\t/c\n"
    document = json.loads(run("diff", "-j", "tank/odd@s1").out)
    assert document["output_version"]["command"] == "lamina diff"
    assert (document["old"], document["new"]) == ("tank/odd@s1", "tank/odd")
    assert [one["change"] + one["type"] for one in document["changes"]] == ["M/", "+@", "+C"]
    assert document["changes"][1]["path"] == "/a b\\\n\x1b�é"
    assert base64.b64decode(document["changes"][1]["path_base64"]) == b"/" + name
    assert "path_base64" not in document["changes"][2]


def test_every_byte_is_escaped_as_zfs_does() -> None:
    for byte in range(1, 256):
        text = escaped(bytes([byte]))
        graphic = 33 <= byte <= 126 and byte != ord("\\")
        assert text == (chr(byte) if graphic else f"\\0{byte:03o}")


def test_names_that_come_are_counted(tank: Pool, run: Run) -> None:
    model = Model()
    file = model.make(REG, ROOT_INO, b"one")
    take(tank, "tank/links", "s1", model)
    model.files[ROOT_INO].names[b"two"] = file
    model.settle(file)
    take(tank, "tank/links", "s2", model)
    assert run("diff", "tank/links@s1").out == "M\t/\nM\t/one\t(+1)\n+\t/two\n"
    assert json.loads(run("diff", "-j", "tank/links@s1").out)["changes"][1]["links"] == 1


def test_paths_begin_at_the_mount_point(tank: Pool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import lamina.pool.lineage.differences

    monkeypatch.setattr(lamina.pool.lineage.differences, "mounted", lambda _: {"tank/images": "/mnt/im ages"})
    out = run("diff", "tank/images@s1").out
    assert lines(out)[1] == "+\t/mnt/im\\0040ages/d/f"
    assert "R\t/mnt/im\\0040ages/rand -> /mnt/im\\0040ages/rand2\n" in out
    assert "M\t/mnt/im\\0040ages/\n" in out


def test_bytes_by_folder(tank: Pool, run: Run, tmp_path: Path) -> None:
    for name, size in (("old", 100_000), ("new", 200_000)):
        (tmp_path / name / "usr" / "lib").mkdir(parents=True)
        (tmp_path / name / "usr" / "lib" / name).write_bytes(os.urandom(size))
        tank.import_image(tmp_path / name, f"tank/i@{name}")
    out = run("diff", "--stat", "tank/i@old", "@new").out.splitlines()
    assert out[0].split() == ["ADDED", "REMOVED", "CHANGED", "NEW", "FILES", "FOLDER"]
    assert [row.split()[0:3] + row.split()[4:] for row in out[1:]] == [
        ["195K", "97.7K", "0B", "2", folder] for folder in ("/", "/usr", "/usr/lib")
    ]
    exact = run("diff", "--stat", "-Hpd", "1", "tank/i@old", "@new").out.splitlines()
    assert [row.split("\t")[0:3] for row in exact] == [["200000", "100000", "0"]] * 2
    assert 200_000 <= int(exact[0].split("\t")[3]) < 201_000
    document = json.loads(run("diff", "--stat", "-j", "-d0", "tank/i@old", "@new").out)
    (folder,) = document["folders"]
    assert folder == {
        "folder": "/",
        "files": 2,
        "added": 200000,
        "removed": 100000,
        "changed": 0,
        "new": int(exact[0].split("\t")[3]),
    }


def test_a_reader_that_goes_away_is_no_error(tank: Pool, tmp_path: Path) -> None:
    model = Model()
    take(tank, "tank/many", "s1", model)
    for number in range(3000):
        model.make(REG, ROOT_INO, b"%d" % number * 60)
    take(tank, "tank/many", "s2", model)
    code = "import sys; from lamina.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, "diff", "tank/many@s1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"M\t/\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_times_can_be_ignored(tank: Pool, run: Run) -> None:
    model = Model()
    file = model.make(REG, ROOT_INO, b"one")
    take(tank, "tank/t", "s1", model)
    model.touch(file, mtime_ns=1)
    take(tank, "tank/t", "s2", model)
    assert run("diff", "tank/t@s1").out == "M\t/one\n"
    found = run("diff", "--ignore-times", "tank/t@s1")
    assert (found.status, found.out) == (0, "")
    assert json.loads(run("diff", "-j", "--ignore-times", "tank/t@s1").out)["changes"] == []
    assert run("diff", "--stat", "-Hp", "tank/t@s1").out == "0\t0\t0\t0\t1\t/\n"
    assert run("diff", "--stat", "-Hp", "--ignore-times", "tank/t@s1").out == "0\t0\t0\t0\t0\t/\n"
