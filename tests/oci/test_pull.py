"""``lamina image pull`` against Debian's ``docker-registry``, with images that ``skopeo`` put there."""

import base64
import contextlib
import fcntl
import io
import json
import os
import pty
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lamina.cli import main
from lamina.oci.registry.client import Registry
from lamina.oci.registry.options import Options
from lamina.oci.registry.reference import parse_reference
from lamina.pool import Pool
from tests.cli.terminal import Terminal
from tests.oci.building import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    BuiltImage,
    descriptor,
    digest_of,
    directory,
    file,
    layer,
    whiteout,
    write_layout,
)
from tests.oci.registry.servers import RunningRegistry, need, running_registry

RANDOM = random.Random(7)
DATA = RANDOM.randbytes(300_000)
BASE = layer(directory("etc"), file("etc/base", DATA), file("etc/gone", b"x" * 5000))
TOP = layer(directory("usr"), file("usr/app", RANDOM.randbytes(200_000)), whiteout("etc/gone"))
NEXT = layer(directory("usr"), file("usr/app", RANDOM.randbytes(250_000)), whiteout("etc/gone"))


@dataclass
class Result:
    """What a command line did."""

    status: int
    out: str
    err: str


@dataclass
class Shop:
    """A registry with images, and what it has sent."""

    registry: RunningRegistry
    scratch: Path
    pushed: int = 0
    options: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.registry.host

    def push(self, image: BuiltImage, name: str, *options: str) -> str:
        """Have skopeo put an image there; returns its reference."""
        self.pushed += 1
        layout = write_layout(self.scratch / f"layout{self.pushed}", {"x": image})
        skopeo("copy", "--preserve-digests", *self.options, *options, f"oci:{layout}:x", f"docker://{self.host}/{name}")
        return f"{self.host}/{name}"

    def put(self, image: BuiltImage, name: str) -> str:
        """The same by the registry's own words, for what skopeo takes from no layout: Docker's media types."""
        reference = parse_reference(f"{self.host}/{name}")
        with Registry(self.host, Options()) as registry:
            for blob in (*map(image.blob, image.layers), image.config):
                registry.push_blob(reference.repository, digest_of(blob), len(blob), partial(io.BytesIO, blob))
            registry.put_manifest(reference, image.manifest, DOCKER_MANIFEST if image.docker else OCI_MANIFEST)
        return str(reference)

    def sent(self) -> list[tuple[str, int]]:
        """Path and bytes of each answer to a GET of a blob, so far."""
        found = []
        for line in self.registry.log.read_text().splitlines():
            if '"response completed"' in line:
                entry = json.loads(line)
                if entry["http.request.method"] == "GET" and "/blobs/" in entry["http.request.uri"]:
                    found.append((entry["http.request.uri"], int(entry["http.response.written"])))
        return found

    def layers_sent_since(self, mark: int, *images: BuiltImage) -> dict[str, int]:
        """Bytes of each layer of the images that was sent since ``sent`` had ``mark`` entries."""
        layers = {digest_of(image.blob(tar)) for image in images for tar in image.layers}
        found: dict[str, int] = {}
        for path, size in self.sent()[mark:]:
            digest = path.rpartition("/")[2]
            if digest in layers:
                found[digest] = found.get(digest, 0) + size
        return found


def skopeo(*words: str) -> str:
    need("skopeo")
    verify = ["--dest-tls-verify=false"] if words[0] == "copy" else ["--tls-verify=false"]
    answer = subprocess.run(
        ["skopeo", words[0], *([] if "--dest-cert-dir" in words else verify), *words[1:]],
        *(),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return answer.stdout


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    need("docker-registry", "skopeo")
    scratch = tmp_path_factory.mktemp("shop")
    with running_registry(scratch) as registry:
        yield Shop(registry, scratch)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A pool, the only one that is known; its directory."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "pools"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "LAMINA_REGISTRY_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    Pool.create("tank", tmp_path / "tank").close()
    yield tmp_path / "tank"


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> Result:
        capsys.readouterr()
        status = main(list(words))
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return call


def lamina(*words: str, **more: Any) -> "subprocess.Popen[bytes]":
    """A lamina of its own, to be interrupted."""
    command = [sys.executable, "-m", "lamina", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def contents(name: str, path: str) -> bytes:
    with Pool.open("tank") as pool:
        tree = pool.tree(name)
        ino = 1
        for part in path.split("/"):
            entry = tree.lookup(ino, part.encode())
            assert entry is not None, path
            ino = entry.ino
        return tree.read(ino, 0, tree.inode(ino).size)


def images() -> list[str]:
    with Pool.open("tank") as pool:
        return [entry.name for entry in pool.images()]


def objects(path: Path) -> int:
    with Pool.open(path) as pool:
        ((count,),) = pool.store.database.query("SELECT count(*) FROM object WHERE kind < 4")
        return int(count)


def no_trace(path: Path) -> None:
    """After a collection the pool holds nothing: no name, no object of data or trees."""
    assert images() == []
    with Pool.open("tank", write=True) as pool:
        pool.gc()
        assert [entry.name for entry in pool.list(recursive=True)] == ["tank"]
    assert objects(path) == 0


# -- pulling ------------------------------------------------------------------------------------------------------


def test_pull_again_and_a_moved_tag(shop: Shop, pool: Path, run: Run) -> None:
    first, second = BuiltImage([BASE, TOP]), BuiltImage([BASE, NEXT])
    reference = shop.push(first, "team/app:v1")
    mark = len(shop.sent())
    result = run("image", "pull", reference)
    assert (result.status, images()) == (0, ["tank/images/team/app@v1"])
    lines = result.out.splitlines()
    assert lines[0] == f"v1: Pulling from {shop.host}/team/app"
    assert lines[1] == f"Digest: {digest_of(first.manifest)}"
    assert lines[2] == f"Status: Downloaded newer image for {reference}"
    assert lines[3] == "tank/images/team/app@v1"
    assert lines[4].split() == ["IMAGE", "FILES", "LOGICAL", "NEW", "STORED", "RATIO", "SECONDS"]
    assert lines[5].split()[:2] == ["tank/images/team/app@v1", "2"]
    blobs = [digest_of(first.blob(tar)) for tar in first.layers]
    for digest in blobs:
        assert f"{digest[7:19]}: Pull complete\n" in result.err
    assert shop.layers_sent_since(mark, first).keys() == set(blobs)
    assert (
        contents("tank/images/team/app@v1", "etc/base")
        == BASE[BASE.index(b"etc/base\0") // 512 * 512 + 512 :][:300_000]
    )
    # The same again: nothing is fetched but manifest and config, and nothing changes.
    mark, before = len(shop.sent()), objects(pool)
    again = run("image", "pull", reference)
    assert (again.status, again.err) == (0, "")
    assert f"Status: Image is up to date for {reference}" in again.out
    assert "LOGICAL" not in again.out
    assert shop.layers_sent_since(mark, first) == {}
    assert objects(pool) == before
    # The tag moves on: only the layer that is new comes.
    shop.push(second, "team/app:v1")
    mark = len(shop.sent())
    moved = run("image", "pull", reference)
    assert moved.status == 0
    assert shop.layers_sent_since(mark, first, second) == {digest_of(second.blob(NEXT)): len(second.blob(NEXT))}
    assert f"{blobs[0][7:19]}: Already exists\n" in moved.err
    assert "The image that was tank/images/team/app@v1 before is gone; its space comes back\n" in moved.out
    assert images() == ["tank/images/team/app@v1"]
    source = f"{reference}@{digest_of(second.manifest)}"
    assert run("get", "-Ho", "value", "lamina:source", "tank/images/team/app@v1").out == f"{source}\n"
    assert run("pool", "history", "tank").out.count("lamina image pull") == 2
    with Pool.open("tank") as opened:
        row = opened.image("tank/images/team/app@v1")
        assert row is not None
        assert (row.manifest, row.config) == (digest_of(second.manifest), second.image_id)


def test_a_tag_that_moves_is_kept_while_it_is_held(shop: Shop, pool: Path, run: Run) -> None:
    first, second = BuiltImage([TOP]), BuiltImage([NEXT])
    reference = shop.push(first, "held:v1")
    assert run("image", "pull", reference).status == 0
    assert run("hold", "keep", "tank/images/held@v1").status == 0
    shop.push(second, "held:v1")
    result = run("image", "pull", "--json", reference)
    assert (result.status, result.err) == (0, "")
    kept = f"tank/images/held@sha256-{digest_of(first.manifest)[7:]}"
    found = json.loads(result.out)["images"]["tank/images/held@v1"]
    assert (found["status"], found["kept"]) == ("moved", kept)
    assert sorted(images()) == sorted([kept, "tank/images/held@v1"])


def test_the_same_layer_packed_otherwise_is_not_downloaded(shop: Shop, pool: Path, run: Run) -> None:
    gzip, zstd = BuiltImage([BASE, TOP]), BuiltImage([BASE, NEXT], compression="zstd")
    assert run("image", "pull", "-q", shop.push(gzip, "packed:gzip")).status == 0
    mark = len(shop.sent())
    reference = shop.push(zstd, "packed:zstd")
    result = run("image", "pull", "--json", reference)
    assert result.status == 0
    found = json.loads(result.out)["images"]["tank/images/packed@zstd"]
    assert [one["downloaded"] for one in found["layers"]] == [False, True]
    assert found["downloaded"] == len(zstd.blob(NEXT))
    assert shop.layers_sent_since(mark, zstd).keys() == {digest_of(zstd.blob(NEXT))}


def test_by_digest(shop: Shop, pool: Path, run: Run) -> None:
    image = BuiltImage([TOP])
    shop.push(image, "digested:v1")
    digest = digest_of(image.manifest)
    result = run("image", "pull", "-q", f"{shop.host}/digested@{digest}")
    assert (result.status, result.out, result.err) == (0, f"tank/images/digested@sha256-{digest[7:]}\n", "")
    # With a tag beside it the digest says what, the tag how it is called.
    assert run("image", "pull", "-q", f"{shop.host}/digested:v9@{digest}").out == "tank/images/digested@v9\n"
    wrong = run("image", "pull", f"{shop.host}/digested@sha256:{'0' * 64}")
    assert wrong.status == 1
    assert "manifest unknown" in wrong.err


def test_dest_names(shop: Shop, pool: Path, run: Run) -> None:
    reference = shop.push(BuiltImage([TOP]), "named:v1")
    assert run("image", "pull", "-q", reference, "tank/a/b").out == "tank/a/b@v1\n"
    assert run("image", "pull", "-q", reference, "tank/a/c@stable").out == "tank/a/c@stable\n"
    assert run("pool", "set", "images=tank/oci", "tank").status == 0
    assert run("image", "pull", "-q", reference).out == "tank/oci/named@v1\n"
    assert run("image", "pull", reference, "nowhere/x").err == f"cannot pull '{reference}': no such pool 'nowhere'\n"
    assert run("image", "pull", reference, "tank/x@").status == 1


def test_which_pool(shop: Shop, pool: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = shop.push(BuiltImage([TOP]), "pools:v1")
    Pool.create("other", tmp_path / "other").close()
    several = run("image", "pull", reference)
    assert several.status == 2
    assert several.err.splitlines()[0] == ("there are several pools (other, tank): say which with --pool, or name DEST")
    assert run("image", "pull", "-q", "--pool", "other", reference).out == "other/images/pools@v1\n"
    assert run("image", "pull", "--pool", "other", reference, "tank/x").status == 2
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "none"))
    assert run("image", "pull", reference).err == (
        "no pool to pull into: make one with 'lamina pool create NAME DIRECTORY'\n"
    )


def test_an_index_and_platforms(shop: Shop, pool: Path, run: Run) -> None:
    amd, arm = BuiltImage([BASE]), BuiltImage([TOP], architecture="arm64", variant="v8")
    shop.push(amd, "multi:amd")
    shop.push(arm, "multi:arm")
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [descriptor(OCI_MANIFEST, image.manifest, platform=image.platform) for image in (amd, arm)],
        }
    ).encode()
    reference = parse_reference(f"{shop.host}/multi:v1")
    with Registry(shop.host, Options()) as registry:
        registry.put_manifest(reference, index, OCI_INDEX)
    for platform, image in (("linux/amd64", amd), ("arm64", arm)):
        result = run("image", "pull", "--json", "--platform", platform, str(reference), f"tank/{image.architecture}@x")
        found = json.loads(result.out)["images"][f"tank/{image.architecture}@x"]
        assert found["digest"] == digest_of(index)
        assert found["manifest"] == digest_of(image.manifest)
        assert found["id"] == image.image_id
    missing = run("image", "pull", "--platform", "linux/s390x", str(reference), "tank/z")
    assert missing.status == 1
    assert "linux/amd64" in missing.err and "linux/arm64" in missing.err
    assert not any(name.startswith("tank/z") for name in images())
    # Another platform under the same tag is another image.
    assert run("image", "pull", "--platform", "linux/arm64", str(reference), "tank/amd64@x").status == 0


def test_all_tags(shop: Shop, pool: Path, run: Run) -> None:
    for tag, top in (("v1", TOP), ("v2", NEXT)):
        shop.push(BuiltImage([BASE, top]), f"every:{tag}")
    result = run("image", "pull", "-aq", f"{shop.host}/every")
    assert (result.status, sorted(result.out.split())) == (0, ["tank/images/every@v1", "tank/images/every@v2"])
    chart = b"a chart"
    config = descriptor("application/vnd.cncf.helm.config.v1+json", b"{}")
    layers = [descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", chart)]
    artifact = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}).encode()
    reference = parse_reference(f"{shop.host}/every:chart")
    with Registry(shop.host, Options()) as registry:
        for blob in (chart, b"{}"):
            registry.push_blob(reference.repository, digest_of(blob), len(blob), partial(io.BytesIO, blob))
        registry.put_manifest(reference, artifact, OCI_MANIFEST)
    assert run("destroy", "-r", "tank/images/every").status == 0
    some = run("image", "pull", "-aq", f"{shop.host}/every")
    assert (some.status, sorted(some.out.split())) == (1, ["tank/images/every@v1", "tank/images/every@v2"])
    assert some.err.count("\n") == 1 and "Helm chart" in some.err
    assert run("image", "pull", "-a", f"{shop.host}/every:v1").status == 2
    assert run("image", "pull", "-a", f"{shop.host}/every", "tank/x@y").status == 2


def test_on_a_small_terminal(shop: Shop, pool: Path) -> None:
    tars = [layer(file(f"f{number}", RANDOM.randbytes(20_000))) for number in range(30)]
    reference = shop.push(BuiltImage(tars), "deep:v1")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
    command = [sys.executable, "-m", "lamina", "image", "pull", reference]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, env=environment) as process:
        os.close(slave)
        output = b""
        with contextlib.suppress(OSError):  # EIO is how a terminal says that nobody writes to it any more
            while data := os.read(master, 1 << 16):
                output += data
    os.close(master)
    assert process.returncode == 0, output
    text = output.decode()
    layers, digest, _ = text.partition("Digest: ")
    assert digest
    terminal = Terminal(60, 10)
    # What comes before and after may be wider than the terminal; what is drawn over must not.
    terminal.write(layers.partition("\n")[2])
    assert terminal.screen[8:] == ["22 more: 22 pull complete", ""]
    assert all(line.endswith(": Pull complete") for line in terminal.screen[:8])
    assert terminal.lost == 0
    assert "Downloading [" in layers


# -- what is in the way -------------------------------------------------------------------------------------------


def test_another_image_is_not_replaced_unasked(shop: Shop, pool: Path, run: Run, tmp_path: Path) -> None:
    one, two = shop.push(BuiltImage([TOP]), "mine/app:v1"), shop.push(BuiltImage([NEXT]), "yours/app:v1")
    assert run("image", "pull", "-q", one, "tank/app").status == 0
    refused = run("image", "pull", two, "tank/app")
    assert (refused.status, refused.err) == (
        1,
        f"cannot pull {two}: 'tank/app@v1' is another image, which came from {shop.host}/mine/app; "
        "name another DEST, or replace it with -f\n",
    )
    assert run("image", "pull", "-qf", two, "tank/app").status == 0
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").write_text("a")
    assert run("image", "import", "-q", str(tmp_path / "root"), "tank/images/mine/app@v1").status == 0
    refused = run("image", "pull", one)
    assert (refused.status, refused.err) == (
        1,
        f"cannot pull {one}: 'tank/images/mine/app@v1' is another image, which was imported; "
        "name another DEST, or replace it with -f\n",
    )
    assert run("snapshot", "tank/app@s").status == 0
    assert run("image", "pull", one, "tank/app@s").err == (
        "cannot pull 'tank/app@s': a snapshot of this name was taken; name another DEST\n"
    )


def test_a_repository_of_another_registry_is_left_alone(shop: Shop, pool: Path, run: Run) -> None:
    reference = shop.push(BuiltImage([TOP]), "same/path:v1")
    assert run("image", "pull", "-q", reference).status == 0
    shop.push(BuiltImage([NEXT]), "same/path:v2")
    # The same repository under another host name is another one, as far as names tell.
    elsewhere = f"localhost:{shop.host.rpartition(':')[2]}/same/path:v2"
    refused = run("image", "pull", elsewhere)
    assert refused.status == 1
    assert refused.err == (
        f"cannot pull {elsewhere}: 'tank/images/same/path' is for the images of {shop.host}/same/path "
        "('tank/images/same/path@v1'); name a DEST\n"
    )


def test_what_is_not_there(shop: Shop, pool: Path, run: Run) -> None:
    shop.push(BuiltImage([TOP]), "debian:bookworm")
    shop.push(BuiltImage([NEXT]), "debian:trixie")
    typo = run("image", "pull", f"{shop.host}/debian:bokworm")
    assert (typo.status, typo.err) == (
        1,
        f"{shop.host}/debian has no tag 'bokworm'; it has bookworm and 1 more\n",
    )
    absent = run("image", "pull", f"{shop.host}/debain:bookworm")
    assert (absent.status, absent.err) == (1, f"{shop.host} has no repository 'debain'\n")
    assert images() == []
    nobody = run("image", "pull", "127.0.0.1:9/x/y:z")
    assert nobody.status == 1
    assert "127.0.0.1:9" in nobody.err and nobody.err.count("\n") == 1


def test_passwords(pool: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("skopeo")
    with running_registry(tmp_path, users={"ann": "secret"}, name="auth") as registry:
        shop = Shop(registry, tmp_path, options=["--dest-creds", "ann:secret"])
        reference = shop.push(BuiltImage([TOP]), "private/app:v1")
        refused = run("image", "pull", reference)
        assert refused.status == 1
        assert refused.err.count("\n") == 1 and "login" in refused.err

        def typed(password: str) -> Result:
            monkeypatch.setattr("sys.stdin", io.StringIO(password))
            return run("image", "pull", "-q", "--username", "ann", "--password-stdin", reference)

        wrong = typed("guess\n")
        assert wrong.status == 1
        assert wrong.err.count("\n") == 1 and "ann" in wrong.err and "guess" not in wrong.err
        assert images() == []
        assert typed("secret\n").out == "tank/images/private/app@v1\n"
        docker = tmp_path / "home" / ".docker"
        docker.mkdir(parents=True)
        auth = base64.b64encode(b"ann:secret").decode()
        (docker / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
        assert run("image", "pull", "-q", reference, "tank/b").out == "tank/b@v1\n"
        (tmp_path / "auth.json").write_text((docker / "config.json").read_text())
        shutil.rmtree(docker)
        authfile = str(tmp_path / "auth.json")
        assert run("image", "pull", "-q", "--authfile", authfile, reference, "tank/c").out == "tank/c@v1\n"


def test_tls_with_an_own_ca(pool: Path, run: Run, tmp_path: Path) -> None:
    need("skopeo")
    with running_registry(tmp_path, tls=True, name="tls") as registry:
        reference = Shop(registry, tmp_path).push(BuiltImage([TOP]), "safe/app:v1")
        refused = run("image", "pull", reference)
        assert refused.status == 1
        assert refused.err.count("\n") == 1 and "--ca-file" in refused.err
        assert run("image", "pull", "-q", "--ca-file", str(registry.ca_file), reference).status == 0
        assert run("image", "pull", "-q", "--tls-verify=false", reference, "tank/b").status == 0
        plain = run("image", "pull", "-q", "--plain-http", reference, "tank/c")
        assert plain.status == 1
        assert plain.err.count("\n") == 1


def test_a_mirror_is_asked_first(shop: Shop, pool: Path, run: Run, tmp_path: Path) -> None:
    image = BuiltImage([TOP])
    shop.push(image, "copies/team/app:v1")
    mark = len(shop.sent())
    mirror = f"registry.invalid=http://{shop.host}/copies"
    result = run("image", "pull", "-q", "--mirror", mirror, "registry.invalid/team/app:v1")
    assert (result.status, result.out) == (0, "tank/images/team/app@v1\n")
    assert shop.layers_sent_since(mark, image).keys() == {digest_of(image.blob(TOP))}


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_damaged_blob_leaves_no_trace(pool: Path, run: Run, tmp_path: Path, damage: str) -> None:
    need("skopeo")
    with running_registry(tmp_path, name="damaged") as registry:
        image = BuiltImage([BASE, TOP])
        reference = Shop(registry, tmp_path).push(image, "bad:v1")
        digest = digest_of(image.blob(TOP))
        blob = registry.blob_file(digest)
        data = blob.read_bytes()
        if damage == "missing":
            blob.unlink()
        elif damage == "cut":
            blob.write_bytes(data[: len(data) // 2])
        else:
            blob.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        result = run("image", "pull", reference)
        assert result.status == 1
        last = result.err.splitlines()[-1]
        assert digest in last or "layer" in last
        assert "Traceback" not in result.err
        no_trace(pool)
        blob.write_bytes(data)
        assert run("image", "pull", "-q", reference).status == 0


def test_a_bomb(shop: Shop, pool: Path, run: Run) -> None:
    image = BuiltImage([layer(file("zeros", bytes(8 << 20)))])
    reference = shop.push(image, "bomb:v1")
    result = run("image", "pull", "--max-layer-size", "1M", reference)
    assert result.status == 1
    assert "--max-layer-size" in result.err.splitlines()[-1]
    no_trace(pool)
    assert run("image", "pull", "-q", "--max-layer-size", "9M", reference).status == 0
    assert run("image", "pull", "--max-layer-size", "many", reference).status == 2


def test_a_quota_stops_a_pull(shop: Shop, pool: Path, run: Run) -> None:
    reference = shop.push(BuiltImage([BASE, TOP]), "large:v1")
    assert run("create", "-o", "quota=100K", "tank/images").status == 0
    result = run("image", "pull", reference)
    assert result.status == 1
    assert "quota" in result.err.splitlines()[-1]
    assert images() == []
    assert run("set", "quota=none", "tank/images").status == 0
    assert run("image", "pull", "-q", reference).status == 0


def test_a_full_disk(shop: Shop, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "pools"))
    mounting = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        Pool.create("tank", disk / "tank").close()
        tar = layer(*(file(f"f{number}", random.Random(number).randbytes(3 << 20)) for number in range(4)))
        reference = shop.push(BuiltImage([BASE, tar], compression="none"), "toolarge:v1")
        result = run("image", "pull", reference)
        assert result.status == 1
        assert "no space left" in result.err.splitlines()[-1]
        no_trace(disk / "tank")
        assert run("image", "pull", "-q", shop.push(BuiltImage([BASE]), "small:v1")).status == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# -- interrupted --------------------------------------------------------------------------------------------------


class Gate:
    """Stands before a registry and lets so many bytes of answers through, then none until it is opened."""

    def __init__(self, host: str, most: int) -> None:
        self._target = host.rpartition(":")
        self._left = most
        self._lock = threading.Lock()
        self._open = threading.Event()
        self.shut = threading.Event()
        """Set when the bytes are used up: somebody waits."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ended = False
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """Break all connections, and let what comes then through."""
        self._left = 1 << 40
        with self._lock:
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self._open.set()

    def close(self) -> None:
        self._ended = True
        self._open.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._target[0], int(self._target[2])))
            with self._lock:
                self._sockets += [client, server]
            threading.Thread(target=self._copy, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(16 << 10):
                if counted:
                    with self._lock:
                        self._left -= len(data)
                        over = self._left < 0
                    if over:
                        self.shut.set()
                        self._open.wait()
                target.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, target):
                one.close()


@pytest.fixture(scope="module")
def big(shop: Shop) -> tuple[str, BuiltImage]:
    """An image whose second layer does not go through a gate whole."""
    tar = layer(*(file(f"big{number}", random.Random(number).randbytes(3 << 20)) for number in range(4)))
    image = BuiltImage([BASE, tar], compression="none")
    shop.push(image, "big/app:v1")
    return "big/app:v1", image


def test_ctrl_c_leaves_no_trace(shop: Shop, pool: Path, run: Run, big: tuple[str, BuiltImage]) -> None:
    gate = Gate(shop.host, 6 << 20)
    process = lamina("image", "pull", f"{gate.host}/{big[0]}")
    try:
        assert gate.shut.wait(60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        gate.close()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == b"interrupted"
    assert b"Traceback" not in errors
    no_trace(pool)


def test_killed_and_begun_again(shop: Shop, pool: Path, run: Run, big: tuple[str, BuiltImage]) -> None:
    gate = Gate(shop.host, 6 << 20)
    process = lamina("image", "pull", f"{gate.host}/{big[0]}")
    try:
        assert gate.shut.wait(60)
    finally:
        process.kill()
        process.communicate(timeout=60)
        gate.close()
    assert images() == []
    assert run("image", "pull", "-q", f"{shop.host}/{big[0]}").status == 0
    assert contents("tank/images/big/app@v1", "big3") == random.Random(3).randbytes(3 << 20)
    assert run("image", "rm", "-q", "tank/images/big/app@v1").status == 0
    assert run("destroy", "-r", "tank/images").status == 0
    no_trace(pool)


def test_a_connection_that_is_cut_is_gone_on_with(
    shop: Shop, pool: Path, run: Run, big: tuple[str, BuiltImage]
) -> None:
    gate = Gate(shop.host, 6 << 20)
    mark = len(shop.sent())
    process = lamina("image", "pull", "-q", f"{gate.host}/{big[0]}")
    try:
        assert gate.shut.wait(60)
        gate.cut()
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        gate.close()
    assert (process.returncode, output) == (0, b"tank/images/big/app@v1\n"), errors
    paths = [path for path, _ in shop.sent()[mark:]]
    assert len(paths) > len(set(paths)), "nothing was asked for twice"


def test_two_pulls_of_one_image(shop: Shop, pool: Path, run: Run, big: tuple[str, BuiltImage]) -> None:
    gate = Gate(shop.host, 6 << 20)
    # Both say the same registry: the gate stands before it as a mirror.
    words = ("--mirror", f"http://{gate.host}", f"{shop.host}/{big[0]}")
    process = lamina("image", "pull", *words)
    try:
        assert gate.shut.wait(60)
        assert run("image", "pull", "-q", f"{shop.host}/{big[0]}").status == 0
        gate.open()
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        gate.close()
    assert process.returncode == 0, errors
    assert b"Status: Image is up to date" in output
    assert images() == ["tank/images/big/app@v1"]


def test_while_it_is_mounted(shop: Shop, pool: Path, run: Run, tmp_path: Path) -> None:
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        pytest.skip("needs FUSE")
    first, second = BuiltImage([BASE]), BuiltImage([BASE, TOP])
    reference = shop.push(first, "shown:v1")
    assert run("image", "pull", "-q", reference).status == 0
    point = tmp_path / "shown"
    point.mkdir()
    assert run("mount", "tank/images/shown@v1", str(point)).status == 0
    try:
        busy = run("image", "rm", "tank/images/shown@v1")
        assert (busy.status, busy.err.count("\n")) == (1, 1)
        assert "is mounted" in busy.err
        shop.push(second, "shown:v1")
        moved = run("image", "pull", reference)
        assert moved.status == 0
        kept = f"tank/images/shown@sha256-{digest_of(first.manifest)[7:]}"
        assert f"The image that was tank/images/shown@v1 before is {kept} now\n" in moved.out
        assert sorted(images()) == sorted([kept, "tank/images/shown@v1"])
        assert (point / "etc" / "gone").read_bytes() == b"x" * 5000
        assert not (point / "usr").exists()
    finally:
        assert run("unmount", str(point)).status == 0


# -- beside skopeo ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("docker", [False, True])
def test_inspect_is_what_skopeo_prints(shop: Shop, pool: Path, run: Run, docker: bool) -> None:
    extra = {
        "created": "2024-05-06T07:08:09.120000000Z",
        "author": "A. <a@b.c> & others",
        "docker_version": "20.10.1",
        "config": {
            "Env": ["PATH=/usr/bin", "X=é\u2028"],
            "Cmd": ["/bin/sh", "-c", "a && b"],
            "Labels": {"z": "1", "a": "<2>"},
            "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
            "WorkingDir": "/",
            "Image": "sha256:of docker's own",
            "Tty": False,
        },
        "history": [
            {"created": "2024-05-06T07:08:09+00:00", "created_by": "one", "comment": "c"},
            {"created": "2024-05-06T09:08:09+02:00", "created_by": "two", "empty_layer": True},
            {"created_by": "three"},
        ],
    }
    name = f"inspected{'-docker' if docker else ''}:v1"
    for image, tag in ((BuiltImage([BASE, TOP], docker=docker, config_extra=extra), ""), (BuiltImage([BASE]), "2")):
        assert run("image", "pull", "-q", shop.put(image, f"{name}{tag}")).status == 0
    reference = f"docker://{shop.host}/{name}"
    snapshot = f"tank/images/{name.replace(':', '@')}"
    theirs, mine = skopeo("inspect", reference), run("image", "inspect", snapshot).out
    expected = json.loads(theirs)
    found = json.loads(mine)
    # Newer ones than Debian's have it.
    data = found.pop("LayersData")
    assert found == {key: value for key, value in expected.items() if key != "LayersData"}
    assert list(found) == [key for key in expected if key != "LayersData"]
    assert [one["Digest"] for one in data] == found["Layers"]
    assert run("image", "inspect", "--config", snapshot).out == skopeo("inspect", "--config", reference)
    for words in (["--raw"], ["--raw", "--config"]):
        raw = subprocess.run(
            [sys.executable, "-m", "lamina", "image", "inspect", *words, snapshot], check=True, capture_output=True
        ).stdout
        theirs = skopeo("inspect", *words, reference)
        assert raw == theirs.encode()


def test_inspect_of_what_says_little(shop: Shop, pool: Path, run: Run) -> None:
    image = BuiltImage([TOP], config_extra={"config": {}, "history": [], "created": "2024-01-01T00:00:00Z"})
    reference = shop.push(image, "little:v1")
    assert run("image", "pull", "-q", reference).status == 0
    found = json.loads(run("image", "inspect", "tank/images/little@v1").out)
    del found["LayersData"]
    assert found == json.loads(skopeo("inspect", f"docker://{reference}"))
    assert run("image", "inspect", "--config", "tank/images/little@v1").out == skopeo(
        "inspect", "--config", f"docker://{reference}"
    )
