"""``lamina image push`` against Debian's ``docker-registry``: what is sent, what is not, and what goes wrong."""

import http.client
import json
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lamina.oci.outgoing.push import PUSHED
from lamina.pool import Pool
from tests.oci import programs
from tests.oci.building import (
    DOCKER_MANIFEST,
    OCI_MANIFEST,
    BuiltImage,
    digest_of,
    directory,
    file,
    layer,
    write_layout,
)
from tests.oci.outgoing import area, call, put, rootfs_items, stored
from tests.oci.registry.scripted import Exchange, Scripted, scripted
from tests.oci.registry.servers import RunningRegistry, need, running_registry

CHANCE = random.Random(11)
BASE = layer(directory("etc"), file("etc/base", CHANCE.randbytes(300_000)))
ONE = layer(file("app", CHANCE.randbytes(200_000)))
TWO = layer(file("app", CHANCE.randbytes(210_000)))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "pools"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    with Pool.create("tank", tmp_path / "pool") as pool:
        yield pool


Answer = Callable[[Exchange], bool]


@dataclass
class Watched:
    """A registry behind a server that writes down what is asked, and answers what a test wants."""

    server: Scripted
    instead: list[Answer] = field(default_factory=list)
    """Asked in turn for each request; True: it has answered."""

    @property
    def host(self) -> str:
        return self.server.host

    def uploads(self) -> list[int]:
        """Bytes of each blob that was sent, documents left out."""
        return [len(seen.body) for seen in self.server.requests if seen.method == "PATCH"]

    def clear(self) -> None:
        self.server.requests.clear()


@contextmanager
def watched(registry: RunningRegistry) -> Iterator[Watched]:
    def handle(exchange: Exchange) -> None:
        if any(answer(exchange) for answer in found.instead):
            return
        seen = exchange.seen
        connection = http.client.HTTPConnection(registry.host, timeout=30)
        # The host stays: places that the registry names lead here again.
        connection.putrequest(exchange.method, seen.target, skip_host=True, skip_accept_encoding=True)
        for key, value in seen.headers.items():
            if key.lower() not in ("connection", "transfer-encoding", "content-length"):
                connection.putheader(key, value)
        connection.putheader("Content-Length", str(len(seen.body)))
        connection.endheaders(seen.body)
        answer = connection.getresponse()
        data = answer.read()
        kept = {key: value for key, value in answer.getheaders() if key.lower() not in ("connection", "date")}
        exchange.head(answer.status, {**kept, "Content-Length": kept.get("Content-Length", str(len(data)))})
        exchange.write(data)
        connection.close()

    with scripted(handle) as server:
        found = Watched(server)
        yield found


@pytest.fixture
def shop(registry: RunningRegistry) -> Iterator[Watched]:
    with watched(registry) as found:
        yield found


_COUNT = iter(range(1_000_000))


@pytest.fixture
def repository() -> str:
    """A repository that no other test has."""
    return f"team/app-{next(_COUNT)}"


def pushed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """Push; what ``--json`` says."""
    capsys.readouterr()
    assert call("image", "push", "-j", *words) == 0, capsys.readouterr().err
    (found,) = json.loads(capsys.readouterr().out)["images"].values()
    return dict(found)


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_others_read_what_was_pushed(
    tank: Pool,
    shop: Watched,
    repository: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    docker: bool,
    compression: str,
) -> None:
    need("skopeo")
    image = put(tank, BuiltImage([BASE, ONE], docker=docker, indent=2, annotations={"a": "b"}), "tank/i/a@1", tmp_path)
    report = pushed(capsys, "--compression", compression, "tank/i/a@1", f"{shop.host}/{repository}:1")
    source = f"docker://{shop.host}/{repository}:1"
    raw = programs.run("skopeo", "inspect", "--tls-verify=false", "--raw", source)
    manifest = json.loads(raw)
    assert digest_of(raw.encode()) == report["digest"]
    assert manifest["mediaType"] == (DOCKER_MANIFEST if docker and compression != "zstd" else OCI_MANIFEST)
    assert manifest["config"]["digest"] == report["id"] == image.image_id
    assert manifest["annotations"] == {"a": "b"}
    if docker and compression == "none":
        return  # skopeo 1.9 does not know Docker's media type of a plain tar
    programs.run("skopeo", "copy", "-q", "--src-tls-verify=false", source, f"dir:{tmp_path}/copy")
    assert (tmp_path / "copy" / image.image_id[7:]).read_bytes() == image.config
    assert call("image", "pull", "-q", f"{shop.host}/{repository}:1", "tank/i/b@1") == 0
    assert area(tank, "tank/i/b@1").config() == image.config
    assert rootfs_items(tank, "tank/i/b@1") == rootfs_items(tank, "tank/i/a@1")


def test_nothing_is_sent_twice(
    tank: Pool, shop: Watched, repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tank, BuiltImage([BASE, ONE, BASE]), "tank/i/a@1", tmp_path)
    put(tank, BuiltImage([BASE, TWO, BASE]), "tank/i/a@2", tmp_path)
    first = pushed(capsys, "tank/i/a@1", f"{shop.host}/{repository}:1")
    assert len(shop.uploads()) == 2, "a layer that occurs twice is sent once"
    assert [one["status"] for one in first["layers"]] == ["pushed", "pushed"]
    assert sum(shop.uploads()) == first["sent"] == sum(one["size"] for one in first["layers"])
    shop.clear()
    again = pushed(capsys, "tank/i/a@1", f"{shop.host}/{repository}:1")
    assert shop.uploads() == [] and again["digest"] == first["digest"] and again["sent"] == 0
    assert not [seen for seen in shop.server.requests if seen.method == "POST"]
    shop.clear()
    second = pushed(capsys, "tank/i/a@2", f"{shop.host}/{repository}:2")
    assert [one["status"] for one in second["layers"]] == ["exists", "pushed"]
    assert len(shop.uploads()) == 1
    # The next one is told by what was made before, not by compressing it again.
    shop.clear()
    third = pushed(capsys, "tank/i/a@2", f"{shop.host}/{repository}:3")
    assert shop.uploads() == [] and third["digest"] == second["digest"]


def test_blobs_are_mounted_from_other_repositories(
    tank: Pool, shop: Watched, repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tank, BuiltImage([BASE, ONE]), "tank/i/a@1", tmp_path)
    put(tank, BuiltImage([BASE, TWO]), "tank/i/a@2", tmp_path)
    pushed(capsys, "tank/i/a@1", f"{shop.host}/{repository}:1")
    assert tank.get("tank/i/a@1", [PUSHED])[PUSHED].value.startswith(f"{shop.host}/{repository}:1@sha256:")
    shop.clear()
    report = pushed(capsys, "tank/i/a@2", f"{shop.host}/other/{repository}:2")
    assert [one["status"] for one in report["layers"]] == ["mounted", "pushed"]
    assert len(shop.uploads()) == 1
    asked = [seen.query for seen in shop.server.requests if "mount" in seen.query]
    assert asked == [{"mount": [report["layers"][0]["digest"]], "from": [repository]}]


def test_a_pulled_image_goes_elsewhere_unchanged(
    tank: Pool, shop: Watched, repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need("skopeo")
    image = BuiltImage([BASE, ONE], indent=4)
    layout = write_layout(tmp_path / "layout", {"one": image})
    target = f"docker://{shop.host}/{repository}:1"
    programs.run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:one", target)
    raw = programs.run("skopeo", "inspect", "--tls-verify=false", "--raw", target).encode()
    assert call("image", "pull", "-q", f"{shop.host}/{repository}:1", "tank/i/a@1") == 0
    shop.clear()
    report = pushed(capsys, "tank/i/a@1", f"{shop.host}/{repository}-copy:1")
    assert report["digest"] == digest_of(raw)
    assert {one["status"] for one in report["layers"]} == {"mounted"}
    assert shop.uploads() == []
    # Compressed as somebody asks for, it is another manifest of the same image.
    other = pushed(capsys, "--compression", "zstd", "tank/i/a@1", f"{shop.host}/{repository}-copy:2")
    assert other["digest"] != report["digest"] and other["id"] == report["id"]
    assert {one["status"] for one in other["layers"]} == {"pushed"}


def test_a_plain_root_file_system(
    tank: Pool, shop: Watched, repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "src/etc").mkdir(parents=True)
    (tmp_path / "src/etc/file").write_bytes(b"x" * 100_000)
    tank.import_image(tmp_path / "src", "tank/i/a@1")
    first = pushed(capsys, "tank/i/a@1", f"{shop.host}/{repository}:1")
    shop.clear()
    again = pushed(capsys, "tank/i/a@1", f"{shop.host}/{repository}:1")
    assert again["digest"] == first["digest"]
    assert shop.uploads() == []
    assert call("image", "pull", "-q", f"{shop.host}/{repository}:1", "tank/i/b@1") == 0
    assert tank.verify("tank/i/b@1", tmp_path / "src") == []


def test_what_people_see(
    tank: Pool, shop: Watched, repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = put(tank, BuiltImage([BASE, ONE]), "tank/i/a@1", tmp_path)
    capsys.readouterr()
    assert call("image", "push", "tank/i/a@1", f"{shop.host}/{repository}:1") == 0
    seen = capsys.readouterr()
    first, last = seen.out.splitlines()
    assert first == f"The push refers to repository [{shop.host}/{repository}]"
    assert re.fullmatch(r"1: digest: sha256:[0-9a-f]{64} size: \d+ \(\d+K sent\)", last)
    lines = [f"{diff_id[7:19]}: {word}" for diff_id in image.diff_ids for word in ("Pushing", "Pushed")]
    assert sorted(seen.err.splitlines()) == sorted(lines)
    assert call("image", "push", "-q", "tank/i/a@1", f"{shop.host}/{repository}:1") == 0
    assert capsys.readouterr().out == re.search(r"sha256:[0-9a-f]{64}", last)[0] + "\n"  # type: ignore[index]
    assert call("image", "push", "tank/i/a@1", f"{shop.host}/{repository}:1") == 0
    seen = capsys.readouterr()
    assert seen.out.endswith("(nothing sent)\n")
    assert {line.partition(": ")[2] for line in seen.err.splitlines()} == {"Layer already exists"}


def test_passwords_and_an_own_ca(tank: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    need("openssl", "htpasswd")
    put(tank, BuiltImage([BASE]), "tank/i/a@1", tmp_path)
    with running_registry(tmp_path, users={"ann": "secret"}, tls=True) as registry:
        place = f"{registry.host}/team/app:1"
        assert call("image", "push", "tank/i/a@1", place) == 1
        assert "cannot trust" in capsys.readouterr().err
        ca = ["--ca-file", registry.ca_file]
        assert call("image", "push", *ca, "tank/i/a@1", place) == 1
        assert "--username" in capsys.readouterr().err
        import io

        monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
        assert call("image", "push", *ca, "--username", "ann", "--password-stdin", "tank/i/a@1", place) == 0


# -- what goes wrong ------------------------------------------------------------------------------------------------


def once(matches: Callable[[Exchange], bool], answer: Callable[[Exchange], None]) -> Answer:
    """Answer the first request that matches, and leave the others to the registry."""
    lock, left = threading.Lock(), [True]

    def maybe(exchange: Exchange) -> bool:
        if not matches(exchange):
            return False
        with lock:
            mine, left[0] = left[0], False
        if mine:
            answer(exchange)
        return mine

    return maybe


@pytest.mark.parametrize("answer", ["500", "cut"])
def test_an_upload_that_breaks_begins_again(
    tank: Pool, shop: Watched, repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    image = put(tank, BuiltImage([BASE, ONE]), "tank/i/a@1", tmp_path)
    broken = once(
        lambda exchange: exchange.method == "PATCH",
        (lambda exchange: exchange.error(500)) if answer == "500" else Exchange.cut,
    )
    shop.instead.append(broken)
    report = pushed(capsys, "tank/i/a@1", f"{shop.host}/{repository}:1")
    assert len(shop.uploads()) == 3, "one of two layers was sent again, from its beginning"
    assert report["id"] == image.image_id
    sizes = sorted(one["size"] for one in report["layers"])
    assert sorted(set(shop.uploads())) == sizes


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("POST", "uploads", 401, ""),
        ("POST", "uploads", 403, "denied"),
        ("PUT", "manifests", 400, "cannot push"),
        ("PATCH", "uploads", 413, "413"),
    ],
)
def test_a_registry_that_refuses(
    tank: Pool,
    shop: Watched,
    repository: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    path: str,
    status: int,
    said: str,
) -> None:
    put(tank, BuiltImage([BASE, ONE]), "tank/i/a@1", tmp_path)

    def refuse(exchange: Exchange) -> bool:
        if exchange.method != method or path not in exchange.path:
            return False
        exchange.error(status, "DENIED", "denied by a test")
        return True

    shop.instead.append(refuse)
    capsys.readouterr()
    assert call("image", "push", "-q", "tank/i/a@1", f"{shop.host}/{repository}:1") == 1
    seen = capsys.readouterr()
    assert seen.out == ""
    assert len(seen.err.splitlines()) == 1 and said in seen.err
    shop.instead.clear()
    assert call("image", "pull", "-q", f"{shop.host}/{repository}:1", "tank/i/b@1") == 1, "the tag is not there"


def test_ctrl_c_while_the_registry_thinks(tank: Pool, shop: Watched, repository: str, tmp_path: Path) -> None:
    put(tank, BuiltImage([BASE, ONE]), "tank/i/a@1", tmp_path)
    thinking = threading.Event()

    def think(exchange: Exchange) -> bool:
        if exchange.method == "PATCH":
            thinking.set()
            exchange.hang()
        return exchange.method == "PATCH"

    shop.instead.append(think)
    words = [sys.executable, "-m", "lamina", "image", "push", "-q", "tank/i/a@1", f"{shop.host}/{repository}:1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert thinking.wait(60)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=25)  # the server thinks for 30 seconds
    assert (process.returncode, said, complained) == (130, "", "interrupted\n")


def test_a_damaged_layer_is_not_made_a_blob(
    tank: Pool, shop: Watched, repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = put(tank, BuiltImage([BASE, ONE]), "tank/i/a@1", tmp_path)
    tree = stored(tank, "tank/i/a@1")
    app = tree.lookup(1, b"app")
    assert app is not None
    location = tank.store.locate([tree.extents(app.ino)[0].key])[tree.extents(app.ino)[0].key]
    (pack,) = [path for path in (tank.path / "packs").iterdir() if int(path.stem) == location.pack]
    with pack.open("r+b") as raw:
        raw.seek(location.offset + 5)
        byte = raw.read(1)[0]
        raw.seek(location.offset + 5)
        raw.write(bytes([byte ^ 1]))
    capsys.readouterr()
    assert call("image", "push", "-q", "tank/i/a@1", f"{shop.host}/{repository}:1") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"layer 2 ({image.diff_ids[1]}) of 'tank/i/a@1' is damaged")
    finished = [seen.query["digest"][0] for seen in shop.server.requests if seen.method == "PUT" and seen.query]
    assert len(finished) <= 1, "of the two layers only the whole one may have become a blob"
    assert not any("/manifests/" in seen.path for seen in shop.server.requests)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["tank/i/a@1"], 2, "missing reference argument"),
        ([], 2, "missing image argument"),
        (["tank/i/a@1", "host.example/a:1", "b"], 2, "too many arguments"),
        (["tank/i/a@1", "host.example/A:1"], 1, "no capital letters"),
        (["tank/i/a@1", "host.example/a@sha256:" + "0" * 64], 2, "name a tag"),
        (["--compression", "lzma", "tank/i/a@1", "host.example/a:1"], 2, "unknown compression 'lzma'"),
        (["-J", "0", "tank/i/a@1", "host.example/a:1"], 2, "invalid number of jobs '0'"),
        (["tank/i/none@1", "host.example/a:1"], 1, "dataset does not exist"),
    ],
)
def test_what_is_refused(
    tank: Pool, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    assert call("image", "push", "-q", *words) == status
    assert said in capsys.readouterr().err.splitlines()[0]
