"""The verbs that look at images, tag and remove them, on a real pool of images made by hand."""

import json
import random
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from lamina.cli import main
from lamina.cli.verbs.image_history import ago
from lamina.oci.inspecting import normalised_time, repository_of, seconds_of
from lamina.pool import Pool
from tests.cli.conftest import Result
from tests.pool.layered import Layer, config_of, put_image

RANDOM = random.Random(11)
BIG, SMALL, OTHER = RANDOM.randbytes(400_000), RANDOM.randbytes(60_000), RANDOM.randbytes(90_000)
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"

Run = Callable[..., Result]


def manifest_of(config: bytes, diff_ids: list[str], sizes: list[int]) -> bytes:
    layers = [
        {"mediaType": GZIP, "digest": digest(diff_id.encode()), "size": size}
        for diff_id, size in zip(diff_ids, sizes, strict=True)
    ]
    kind = "application/vnd.oci.image.config.v1+json"
    top = {"mediaType": kind, "digest": digest(config), "size": len(config)}
    return json.dumps({"schemaVersion": 2, "config": top, "layers": layers}).encode()


def digest(data: bytes) -> str:
    return "sha256:" + sha256(data).hexdigest()


HISTORY = [
    {"created": "2020-01-01T00:00:00Z", "created_by": "ADD   base\tin /", "comment": "buildkit"},
    {"created": "2020-01-02T00:00:00Z", "created_by": "ENV A=b", "empty_layer": True},
    {"created": "2020-01-03T00:00:00.5Z", "created_by": "RUN " + "x" * 60 + "\x1b[31m"},
]
FILES = {"big": BIG, "small": SMALL}
BASE = Layer([b"h1", "big", b"end of the base"])
TOP = Layer([b"h2", "small", b"end"])
DIFF_IDS = [BASE.diff_id(FILES), TOP.diff_id(FILES)]
CONFIG = config_of(DIFF_IDS, created="2020-01-03T00:00:00.5Z", history=HISTORY, config={"Env": ["A=b"]})
MANIFEST = manifest_of(CONFIG, DIFF_IDS, [1000, 2000])
FILES_2 = {"big": BIG, "other": OTHER}
TOP_2 = Layer([b"h2", "other", b"end"])
DIFF_IDS_2 = [BASE.diff_id(FILES_2), TOP_2.diff_id(FILES_2)]
CONFIG_2 = config_of(DIFF_IDS_2, history=[{"created_by": "only one"}])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> Result:
        capsys.readouterr()
        status = main(list(words))
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return call


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A pool with app@1 and app@2, which share their base, a plain root file system, and one without a manifest."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "pools"))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    with Pool.create("tank", tmp_path / "tank") as pool:
        put_image(pool, "tank/images/app@1", FILES, [BASE, TOP], config=CONFIG, manifest=MANIFEST)
        put_image(pool, "tank/images/app@2", FILES_2, [BASE, TOP_2], config=CONFIG_2, manifest=None)
        (tmp_path / "plain").mkdir()
        (tmp_path / "plain" / "f").write_bytes(SMALL + b"1")
        pool.import_image(tmp_path / "plain", "tank/images/plain@x")
        pool.snapshot(["tank/images/app@taken"])
    yield tmp_path / "tank"
    monkeypatch.undo()
    time.tzset()


def rows(result: Result) -> list[list[str]]:
    assert (result.status, result.err) == (0, "")
    return [line.split("\t") for line in result.out.splitlines()]


# -- list ---------------------------------------------------------------------------------------------------------


def test_list_columns_of_images(tank: Path, run: Run) -> None:
    found = rows(run("image", "list", "-Hp", "-o", "name,id,digest,platform,layers,created"))
    assert found == [
        ["tank/images/app@1", digest(CONFIG), digest(MANIFEST), "linux/amd64", "2", "1578009600"],
        ["tank/images/app@2", digest(CONFIG_2), "-", "linux/amd64", "2", "-"],
        ["tank/images/plain@x", "-", "-", "-", "-", "-"],
    ]
    shown = run("image", "list", "-o", "name,id,created", "tank/images/app").out.splitlines()
    assert shown[0].split() == ["NAME", "ID", "CREATED"]
    assert shown[1].split(None, 2) == ["tank/images/app@1", digest(CONFIG)[7:19], "Fri Jan  3  0:00 2020"]


def test_list_sizes(tank: Path, run: Run) -> None:
    columns = "name,logicalreferenced,referenced,unique,shared,dedup,reduction,refratio"
    found = {row[0]: row[1:] for row in rows(run("image", "list", "-Hp", "-o", columns))}
    logical, referenced, unique, shared = (int(value) for value in found["tank/images/app@1"][:4])
    assert logical == len(BIG) + len(SMALL)
    assert shared == referenced - unique
    assert len(BIG) <= shared < len(BIG) + 20_000
    assert len(SMALL) <= unique < len(SMALL) + 20_000
    assert all(float(value) >= 1 for value in found["tank/images/app@1"][4:])
    assert run("image", "list", "-o", "all").status == 0


def test_list_sorts_by_any_column(tank: Path, run: Run) -> None:
    assert [row[0] for row in rows(run("image", "list", "-H", "-o", "name", "-S", "lrefer"))] == [
        "tank/images/app@2",
        "tank/images/app@1",
        "tank/images/plain@x",
    ]
    # What has no ID comes last, whichever the direction.
    for option in ("-s", "-S"):
        assert rows(run("image", "list", "-H", "-o", "name", option, "id"))[-1] == ["tank/images/plain@x"]
    assert run("image", "list", "-s", "nonsense").status == 2
    assert run("image", "list", "-o", "nonsense").status == 2


def test_list_json(tank: Path, run: Run) -> None:
    words = ("image", "list", "-o", "name,id,layers,shared,unique", "tank/images/app")
    found = json.loads(run(*words, "--json").out)["datasets"]["tank/images/app@1"]
    assert found["name"] == "tank/images/app@1"
    assert list(found["properties"]) == ["id", "layers", "shared", "unique"]
    assert found["properties"]["id"]["value"] == digest(CONFIG)
    assert found["properties"]["layers"]["value"] == "2"
    exact = json.loads(run(*words, "--json-int").out)["datasets"]["tank/images/app@1"]["properties"]
    assert exact["layers"]["value"] == 2
    assert isinstance(exact["shared"]["value"], int) and isinstance(exact["unique"]["value"], int)


# -- inspect, history, layers -------------------------------------------------------------------------------------


def test_inspect(tank: Path, run: Run) -> None:
    found = json.loads(run("image", "inspect", "tank/images/app@1").out)
    assert found == {
        "Name": "tank/images/app",
        "Digest": digest(MANIFEST),
        "RepoTags": ["1", "2"],
        "Created": "2020-01-03T00:00:00.5Z",
        "DockerVersion": "",
        "Labels": None,
        "Architecture": "amd64",
        "Os": "linux",
        "Layers": [digest(diff_id.encode()) for diff_id in DIFF_IDS],
        "LayersData": [
            {"MIMEType": GZIP, "Digest": digest(diff_id.encode()), "Size": size, "Annotations": None}
            for diff_id, size in zip(DIFF_IDS, (1000, 2000), strict=True)
        ],
        "Env": ["A=b"],
    }
    bare = json.loads(run("image", "inspect", "tank/images/app@2").out)
    assert (bare["Digest"], bare["Layers"], bare["LayersData"], bare["Created"]) == ("", DIFF_IDS_2, [], None)
    plain = json.loads(run("image", "inspect", "tank/images/plain@x").out)
    assert (plain["Name"], plain["RepoTags"], plain["Layers"]) == ("tank/images/plain", ["x"], [])


def test_inspect_the_bytes_as_they_came(tank: Path, run: Run) -> None:
    for words, expected in (((), MANIFEST), (("--config",), CONFIG)):
        assert run("image", "inspect", "--raw", *words, "tank/images/app@1") == Result(0, expected.decode(), "")


def test_inspect_refusals(tank: Path, run: Run) -> None:
    plain = "'tank/images/plain@x' is a plain root file system: it has no layers\n"
    for words, message in (
        (("--raw", "tank/images/plain@x"), plain),
        (("--config", "tank/images/plain@x"), plain),
        (("--raw", "tank/images/app@2"), "'tank/images/app@2' has no manifest: what it was imported from has none\n"),
        (
            ("tank/images/app",),
            "cannot open 'tank/images/app': it is a dataset: name an image in it, tank/images/app@TAG, "
            "such as 'tank/images/app@2'\n",
        ),
        (
            ("tank/images/app@9",),
            "cannot open 'tank/images/app@9': no such image; 'lamina image list' shows those that there are\n",
        ),
        (
            ("none/app@9",),
            "cannot open 'none/app@9': no such image; 'lamina image list' shows those that there are\n",
        ),
        (
            ("tank/images/app@taken",),
            "cannot open 'tank/images/app@taken': it is a snapshot that was taken, not an image\n",
        ),
    ):
        assert run("image", "inspect", *words) == Result(1, "", message)
    assert run("image", "inspect").status == 2
    assert run("image", "inspect", "a@b", "c@d").status == 2


def test_history(tank: Path, run: Run) -> None:
    result = run("image", "history", "tank/images/app@1")
    lines = result.out.splitlines()
    assert lines[0].split() == ["CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert ["years ago" in line for line in lines[1:]] == [True, True, True]
    assert f"RUN {'x' * 40}…" in lines[1]
    assert lines[2].split()[-3:] == ["ENV", "A=b", "0B"]
    assert "ADD base in /" in lines[3] and lines[3].endswith("buildkit")
    sizes = [len(TOP.tar(FILES)), 0, len(BASE.tar(FILES))]
    exact = rows(run("image", "history", "-Hp", "--no-trunc", "tank/images/app@1"))
    assert [int(row[2]) for row in exact] == sizes
    assert exact[0][:2] == ["2020-01-03T00:00:00.5Z", "RUN " + "x" * 60 + "\\x1b[31m"]
    steps = json.loads(run("image", "history", "--json", "tank/images/app@1").out)["history"]
    assert [step["diff_id"] for step in steps] == [DIFF_IDS[1], None, DIFF_IDS[0]]
    assert [step["size"] for step in steps] == sizes
    assert steps[0]["created_by"].endswith("\x1b[31m")


def test_history_that_does_not_tell_all(tank: Path, run: Run) -> None:
    exact = rows(run("image", "history", "-Hp", "tank/images/app@2"))
    assert [row[:3] for row in exact] == [
        ["-", "-", str(len(TOP_2.tar(FILES_2)))],
        ["-", "only one", str(len(BASE.tar(FILES_2)))],
    ]
    plain = run("image", "history", "tank/images/plain@x")
    assert (plain.status, len(plain.out.splitlines())) == (0, 1)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (3600 * 47, "47 hours"),
        (3600 * 48, "2 days"),
        (86400 * 13, "13 days"),
        (86400 * 14, "2 weeks"),
        (86400 * 59, "8 weeks"),
        (86400 * 60, "2 months"),
        (86400 * 729, "24 months"),
        (86400 * 730, "2 years"),
    ],
)
def test_ago(seconds: int, words: str) -> None:
    assert ago(seconds) == words


def test_layers(tank: Path, run: Run) -> None:
    first, second = rows(run("image", "layers", "-Hp", "tank/images/app@1"))
    assert first[:5] == [DIFF_IDS[0], digest(DIFF_IDS[0].encode()), GZIP, str(len(BASE.tar(FILES))), "1000"]
    assert second[0] == DIFF_IDS[1]
    assert (first[7], second[7]) == ("2", "1")
    # The base is in both images: only what is of the top is this image's own.
    assert first[6] == "0" and int(first[5]) >= len(BIG)
    assert (int(second[5]), int(second[6])) == (len(SMALL) + len(b"h2end"), len(SMALL))
    shown = run("image", "layers", "tank/images/app@1").out.splitlines()
    assert shown[0].split() == ["DIFF", "ID", "DIGEST", "TYPE", "TAR", "COMPRESSED", "STORED", "UNIQUE", "IMAGES"]
    assert shown[1].split()[0] == DIFF_IDS[0][7:19]
    assert shown[1].split()[2] == "tar+gzip"
    found = json.loads(run("image", "layers", "--json", "tank/images/app@2").out)["layers"]
    assert [(one["diff_id"], one["digest"], one["size"]) for one in found] == [(one, None, None) for one in DIFF_IDS_2]
    assert run("image", "layers", "tank/images/plain@x").err == (
        "'tank/images/plain@x' is a plain root file system: it has no layers\n"
    )


def test_a_layer_that_two_tags_of_one_tree_have(tank: Path, run: Run) -> None:
    assert run("image", "tag", "tank/images/app@1", "@also").status == 0
    first, second = rows(run("image", "layers", "-Hp", "tank/images/app@1"))
    assert (first[7], second[7]) == ("3", "2")
    assert second[6] == "0"


# -- du -----------------------------------------------------------------------------------------------------------


def test_du(tank: Path, run: Run) -> None:
    assert run("destroy", "tank/images/app@taken").status == 0
    found = {row[0]: [float(value) for value in row[1:]] for row in rows(run("image", "du", "-aHp"))}
    assert found.keys() == {
        *("tank/images/app@1", "tank/images/app@2", "tank/images/app", "tank/images/plain@x", "tank/images/plain")
    }
    one, two, app = (found[f"tank/images/app{tag}"] for tag in ("@1", "@2", ""))
    # IMAGES LOGICAL ALONE STORED SHARED UNIQUE
    assert app[0] == 2
    assert app[1] == one[1] + two[1]
    assert app[2] == one[3] + two[3]
    assert app[3] == app[2] - one[4] == app[2] - two[4]
    assert app[4] == 0 and app[5] == app[3]
    assert one[4] >= len(BIG)
    total = json.loads(run("image", "du", "--json").out)["pools"]["tank"]["total"]
    assert total["stored"] == app[3] + found["tank/images/plain"][3]
    assert total["unique"] == total["stored"]
    shown = run("image", "du").out.splitlines()
    header = ["NAME", "IMAGES", "LOGICAL", "ALONE", "STORED", "SHARED", "UNIQUE", "COMPRESS", "DEDUP"]
    assert shown[0].split() == header
    assert [line.split()[0] for line in shown[1:]] == ["tank/images/app", "tank/images/plain", "total"]


def test_du_tells_what_destroying_gives_back(tank: Path, run: Run) -> None:
    # The head of the clone, and the snapshot that was taken, keep what the images have.
    assert run("clone", "tank/images/app@1", "tank/box").status == 0
    (row,) = rows(run("image", "du", "-Hp", "tank/images/app"))
    with Pool.open("tank") as pool:
        kept = pool.destroy_snapshots(["tank/images/app@2"], dry_run=True).reclaim
    assert int(row[6]) == kept
    assert int(row[5]) == int(row[4]) - kept
    (alone,) = rows(run("image", "du", "-Hp", "tank/images/plain@x"))
    assert alone[:2] == ["tank/images/plain", "1"]


def test_du_of_nothing(tank: Path, run: Run) -> None:
    assert run("image", "du", "tank/none").status == 1
    assert run("create", "tank/empty").status == 0
    assert run("image", "du", "tank/empty") == Result(0, "", "no images available\n")


# -- tag and rm ---------------------------------------------------------------------------------------------------


def test_tag(tank: Path, run: Run) -> None:
    assert run("image", "tag", "tank/images/app@1", "@stable") == Result(0, "", "")
    assert run("image", "tag", "tank/images/app@1", "tank/other/app") == Result(0, "", "")
    ids = dict(rows(run("image", "list", "-Hp", "-o", "name,id", "tank")))
    assert ids["tank/images/app@stable"] == ids["tank/other/app@1"] == digest(CONFIG)
    assert run("image", "tag", "tank/images/app@2", "@stable") == Result(
        1, "", "cannot create 'tank/images/app@stable': it is another image; -f moves the tag\n"
    )
    assert run("image", "tag", "-f", "tank/images/app@2", "@stable").status == 0
    assert dict(rows(run("image", "list", "-Hp", "-o", "name,id")))["tank/images/app@stable"] == digest(CONFIG_2)
    assert run("image", "tag", "tank/images/app", "@x").status == 1
    assert run("image", "tag", "tank/images/app@taken", "@x").status == 1
    assert run("image", "tag", "tank/images/app@1", "other/a@x").status == 1
    for words in ((), ("a@b",), ("a@b", "c@d", "e@f")):
        assert run("image", "tag", *words).status == 2


def test_rm(tank: Path, run: Run) -> None:
    with Pool.open("tank") as pool:
        reclaim = pool.destroy_snapshots(["tank/images/plain@x"], dry_run=True).reclaim
    dry = run("image", "rm", "-n", "tank/images/plain@x")
    assert dry.status == 0
    assert dry.out.splitlines()[0] == "would remove tank/images/plain@x"
    assert dry.out.splitlines()[1].startswith("would give back ")
    found = json.loads(run("image", "rm", "--json", "tank/images/plain@x").out)
    assert (found["removed"], found["reclaim"], found["dry_run"]) == (["tank/images/plain@x"], reclaim, False)
    assert run("list", "tank/images/plain").status == 0
    gone = run("image", "rm", "tank/images/plain@x")
    assert gone == Result(
        1, "", "cannot remove 'tank/images/plain@x': no such image; 'lamina image list' shows those that there are\n"
    )
    assert run("image", "rm", "-f", "tank/images/plain@x", "none/x@y") == Result(0, "", "")
    result = run("image", "rm", "tank/images/app@1", "tank/images/app@2")
    assert result.status == 0
    assert result.out.splitlines()[:2] == ["removed tank/images/app@1", "removed tank/images/app@2"]
    assert run("image", "list").err == "no datasets available\n"


def test_rm_is_all_or_nothing(tank: Path, run: Run) -> None:
    name = "tank/images/app@2"
    held = f"cannot destroy snapshot {name}: it's being held. Run 'lamina holds -r {name}' to see holders.\n"
    assert run("hold", "keep", "tank/images/app@2").status == 0
    assert run("image", "rm", "tank/images/app@1", "tank/images/app@2") == Result(1, "", held)
    assert run("release", "keep", "tank/images/app@2").status == 0
    assert run("clone", "tank/images/app@2", "tank/box").status == 0
    cloned = run("image", "rm", "tank/images/app@1", "tank/images/app@2")
    assert cloned.status == 1
    assert cloned.err == (
        "cannot destroy 'tank/images/app@2': snapshot has dependent clones\n"
        "'lamina destroy -R' would also destroy the following datasets:\ntank/box\n"
    )
    for name in ("tank/images/app", "tank/images/app@taken", "tank/images/app@"):
        assert run("image", "rm", "tank/images/app@1", name).status == 1
    assert run("image", "rm").status == 2
    assert len(rows(run("image", "list", "-H", "tank/images"))) == 3


# -- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "repository"),
    [
        ("docker.io/library/debian:12@sha256:ab", "docker.io/library/debian"),
        ("docker.io/library/debian@sha256:ab", "docker.io/library/debian"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b"),
        ("localhost:5000/a/b", "localhost:5000/a/b"),
    ],
)
def test_repository_of(source: str, repository: str) -> None:
    assert repository_of(source) == repository


@pytest.mark.parametrize(
    ("text", "normalised", "seconds"),
    [
        ("2024-05-06T07:08:09.120000000Z", "2024-05-06T07:08:09.12Z", 1714979289),
        ("2024-05-06T07:08:09.000Z", "2024-05-06T07:08:09Z", 1714979289),
        ("2024-05-06T07:08:09+00:00", "2024-05-06T07:08:09Z", 1714979289),
        ("2024-05-06T09:08:09.123456789+02:00", "2024-05-06T09:08:09.123456789+02:00", 1714979289),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", -62135596800),
        ("yesterday", "yesterday", None),
    ],
)
def test_times(text: str, normalised: str, seconds: int | None) -> None:
    assert normalised_time(text) == normalised
    assert seconds_of(text) == seconds


def test_completion(tank: Path, run: Run) -> None:
    def offered(*words: str) -> list[str]:
        return run("__complete", *words).out.split()

    assert offered("image", "inspect", "tank/images/a") == ["tank/images/app@1", "tank/images/app@2"]
    assert offered("image", "rm", "tank/images/app@1", "tank/images/p") == ["tank/images/plain@x"]
    assert offered("image", "tag", "tank/images/app@1", "tank/images/p") == ["tank/images/plain@"]
    assert offered("image", "list", "-o", "name,sha") == ["name,shared"]
    assert "id" in offered("image", "list", "-o", "")
    assert offered("image", "pull", "x:1", "tank/images/a") == ["tank/images/app@"]
    assert offered("image", "pull", "--pool", "t") == ["tank"]
    assert offered("image", "pull", "--ca-file", "") == [":path"]
    assert offered("image", "pull", "--tls-verify", "f") == ["false"]
