"""Archives of ``docker save`` in the forms that different writers give them."""

import gzip
import io
import json
import os
import random
import tarfile
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from lamina.oci.formats.models import digest_of
from tests.oci.building import BuiltImage, directory, docker_archive, file, layer, whiteout
from tests.oci.taking import Tank

RANDOM = random.Random(6)
BASE = layer(directory("etc"), file("etc/hosts", b"127.0.0.1"), file("big", RANDOM.randbytes(300_000)))
TOP = layer(whiteout("etc/hosts"), file("etc/motd", b"hello"), file("lib", RANDOM.randbytes(70_000)))
IMAGE = BuiltImage([BASE, TOP])


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tank:
    return Tank(tmp_path, monkeypatch, capsys)


def archive(members: Mapping[str, bytes | str], *, hard: bool = False) -> bytes:
    """A tar of files, and of links where the value is text."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = (tarfile.LNKTYPE if hard else tarfile.SYMTYPE), data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def manifest(config: str, layers: list[str], *names: str) -> bytes:
    return json.dumps([{"Config": config, "RepoTags": list(names) or None, "Layers": layers}]).encode()


def digits(data: bytes) -> str:
    return digest_of(data)[7:]


def taken(tank: Tank, tmp_path: Path, data: bytes, image: BuiltImage = IMAGE, kept: bytes | None = None) -> None:
    """The archive gives the image, from a file and from standard input, into an empty pool and into one that has it."""
    path = tmp_path / "archive.tar"
    path.write_bytes(data)
    for source, name, more in ((str(path), "file", None), ("-", "stdin", data)):
        for number in range(2):
            tank.take(source, f"tank/images/{name}@{number}", stdin=more)
            tank.holds(f"tank/images/{name}@{number}", image, kept)
        for number in range(2):
            assert tank.run("destroy", f"tank/images/{name}@{number}").status == 0
        tank.run("pool", "gc", "tank")


def test_as_docker_wrote_it_before_25(tank: Tank, tmp_path: Path) -> None:
    taken(tank, tmp_path, docker_archive({"app:1": IMAGE}, old=True))


def test_as_docker_writes_it_since_25(tank: Tank, tmp_path: Path) -> None:
    plain = BuiltImage([BASE, TOP], "none")
    taken(tank, tmp_path, docker_archive({"app:1": IMAGE}), kept=plain.manifest)


def test_a_new_one_by_its_manifest_json(tank: Tank, tmp_path: Path) -> None:
    data = docker_archive({"app:1": IMAGE})
    tank.take("-f", "docker-archive", "-", "tank/a@1", stdin=data)
    tank.holds("tank/a@1", IMAGE, None)


@pytest.mark.parametrize("hard", [False, True])
def test_as_old_dockers_and_podman_link_layers(tank: Tank, tmp_path: Path, hard: bool) -> None:
    """A layer that occurs twice is a link to the other one, and podman has links for old readers."""
    image = BuiltImage([BASE, TOP, BASE])
    members: dict[str, bytes | str] = {
        f"{'1' * 64}/layer.tar": BASE,
        f"{'1' * 64}/VERSION": b"1.0",
        f"{'2' * 64}/layer.tar": TOP,
        f"{'3' * 64}/layer.tar": f"{'1' * 64}/layer.tar" if hard else f"../{'1' * 64}/layer.tar",
        f"{digits(image.config)}.json": image.config,
        "manifest.json": manifest(f"{digits(image.config)}.json", [f"{c * 64}/layer.tar" for c in "123"]),
    }
    taken(tank, tmp_path, archive(members, hard=hard), image)


def test_as_skopeo_and_podman_write_it(tank: Tank, tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {
        f"{digits(BASE)}.tar": BASE,
        f"{digits(TOP)}.tar": TOP,
        f"{digits(IMAGE.config)}.json": IMAGE.config,
        f"{'4' * 64}/layer.tar": f"../{digits(BASE)}.tar",
        f"{'4' * 64}/json": b"{}",
        "manifest.json": manifest(f"{digits(IMAGE.config)}.json", [f"{digits(BASE)}.tar", f"{digits(TOP)}.tar"], "a:1"),
        "repositories": b"{}",
    }
    taken(tank, tmp_path, archive(members))


def test_as_crane_and_kaniko_write_it(tank: Tank, tmp_path: Path) -> None:
    """Compressed layers, named by the digest of the blob; the config by ``sha256:...``."""
    blobs = [gzip.compress(BASE, mtime=0), gzip.compress(TOP, mtime=0)]
    names = [f"{digits(blob)}.tar.gz" for blob in blobs]
    members: dict[str, bytes | str] = {
        IMAGE.image_id: IMAGE.config,
        names[0]: blobs[0],
        names[1]: blobs[1],
        "manifest.json": manifest(IMAGE.image_id, names, "a:1"),
    }
    taken(tank, tmp_path, archive(members))


def test_documents_before_the_layers_and_names_with_a_dot(tank: Tank, tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {
        "./manifest.json": manifest("config.json", ["a/layer.tar", "./b/layer.tar"]),
        "./config.json": IMAGE.config,
        "./a/layer.tar": BASE,
        "./b/layer.tar": TOP,
    }
    data = archive(members)
    (tmp_path / "a.tar").write_bytes(data)
    tank.take("-f", "docker-archive", tmp_path / "a.tar", "tank/a@1")
    tank.take("-f", "docker-archive", "-", "tank/a@2", stdin=data)
    tank.holds("tank/a@1", IMAGE, None)
    tank.holds("tank/a@2", IMAGE, None)


def test_an_empty_layer(tank: Tank, tmp_path: Path) -> None:
    for number, empty in enumerate((bytes(1024), bytes(10240))):
        image = BuiltImage([BASE, empty, TOP])
        data = docker_archive({"a:1": image}, old=True)
        tank.take("-", f"tank/a@{number}", stdin=data)
        tank.holds(f"tank/a@{number}", image, None)


def test_several_images(tank: Tank, tmp_path: Path) -> None:
    images = {"docker.io/library/one:a": BuiltImage([BASE]), "two:b": BuiltImage([TOP]), "three:c": IMAGE}
    for form, old in (("old", True), ("new", False)):
        data = docker_archive(images, old=old)
        path = tmp_path / form
        path.write_bytes(data)
        for source, more in ((str(path), None), ("-", data)):
            message = tank.refused(source, "tank/a@x", stdin=more)
            assert "holds several images; choose one with --image: 0: docker.io/library/one:a" in message
            for number, (word, image) in enumerate(
                (("one:a", "docker.io/library/one:a"), ("2", "three:c"), (images["two:b"].image_id, "two:b"))
            ):
                if not old and word.startswith("sha256"):
                    continue  # there an image is known by its manifest's digest
                name = f"tank/{form}/{'file' if more is None else 'stdin'}@{number}"
                tank.take("--image", word, source, name, stdin=more)
                kept = None if old else BuiltImage(images[image].layers, "none").manifest
                tank.holds(name, images[image], kept)


def test_the_name_in_the_archive_is_the_name_in_the_pool(tank: Tank, tmp_path: Path) -> None:
    for old in (True, False):
        tank.take("-", stdin=docker_archive({f"registry.example/team/app:v{int(old)}": IMAGE}, old=old))
    assert tank.names() == ["tank/images/team/app@v1", "tank/images/team/app@v0"]


def test_a_platform_that_it_is_not(tank: Tank) -> None:
    message = tank.refused("--platform", "linux/s390x", "-", "tank/a@x", stdin=docker_archive({"a:1": IMAGE}, old=True))
    assert message == "cannot import 'tank/a@x': the image of standard input is for linux/amd64, not for linux/s390x"


def test_archives_older_than_manifest_json(tank: Tank) -> None:
    data = archive({f"{'1' * 64}/layer.tar": BASE, f"{'1' * 64}/json": b"{}", "repositories": b"{}"})
    assert "was written by a Docker older than 1.10" in tank.refused("-", "tank/a@x", stdin=data)


def test_a_tar_of_a_root_file_system_is_still_one(tank: Tank, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(BASE)
    tank.take(tmp_path / "root.tar", "tank/a@1")
    tank.take("-", "tank/a@2", stdin=BASE)
    tank.take("-", "tank/a@3", stdin=gzip.compress(BASE))
    assert tank.run("image", "layers", "tank/a@3").status == 1
    assert "no 'manifest.json'" in tank.refused("-f", "docker-archive", tmp_path / "root.tar", "tank/a@x")
    done = tank.run("image", "import", "--image", "x", str(tmp_path / "root.tar"), "tank/a@x")
    assert (done.status, done.err.splitlines()[0]) == (
        2,
        f"'{tmp_path / 'root.tar'}' is a root file system: there is no image or platform to choose",
    )


def test_a_pipe_by_its_path(tank: Tank, tmp_path: Path) -> None:
    """As a shell's ``<(docker save app)``: what was looked at cannot be read again."""
    for number, (data, layers) in enumerate(((docker_archive({"a:1": IMAGE}, old=True), 0), (BASE, 1))):
        fifo = tmp_path / f"fifo{number}"
        os.mkfifo(fifo)
        thread = threading.Thread(target=fifo.write_bytes, args=(data,))
        thread.start()
        tank.take(fifo, f"tank/a@{number}")
        thread.join()
        assert tank.run("image", "layers", f"tank/a@{number}").status == layers
    tank.holds("tank/a@0", IMAGE, None)
    (tmp_path / "root.tar").write_bytes(BASE)
    tank.take(tmp_path / "root.tar", "tank/a@root")
    assert tank.run("diff", "tank/a@root", "tank/a@1").out == ""
