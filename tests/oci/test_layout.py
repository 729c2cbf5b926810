"""OCI layouts as directories and archives: taken exactly, and chosen by name, digest and platform."""

import json
import random
import tarfile
from pathlib import Path

import pytest

from lamina.oci.formats.models import digest_of
from lamina.oci.formats.platforms import local_platform
from tests.oci.building import (
    OCI_INDEX,
    OCI_MANIFEST,
    BuiltImage,
    descriptor,
    directory,
    file,
    layer,
    layout_archive,
    symlink,
    whiteout,
    write_layout,
)
from tests.oci.programs import need, run
from tests.oci.taking import Tank

RANDOM = random.Random(5)
BASE = layer(
    directory("etc"), file("etc/hosts", b"127.0.0.1"), file("big", RANDOM.randbytes(300_000)), symlink("s", "b")
)
TOP = layer(whiteout("etc/hosts"), file("etc/motd", b"hello"), file("lib", RANDOM.randbytes(70_000)))
HERE = local_platform().architecture


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tank:
    return Tank(tmp_path, monkeypatch, capsys)


def write_index(layout: Path, *manifests: dict[str, object], **more: object) -> None:
    document = {"schemaVersion": 2, "manifests": manifests, **more}
    (layout / "index.json").write_text(json.dumps(document))


def write_blob(layout: Path, data: bytes) -> None:
    (layout / "blobs" / "sha256" / digest_of(data)[7:]).write_bytes(data)


def stream_archive(layout: Path, archive: Path) -> Path:
    """An archive whose documents come last, after all blobs, the other way round than they are needed."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted((layout / "blobs" / "sha256").iterdir(), key=lambda path: -path.stat().st_size):
            tar.add(path, f"blobs/sha256/{path.name}")
        tar.add(layout / "index.json", "index.json")
        tar.add(layout / "oci-layout", "oci-layout")
    return archive


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("docker", [False, True])
def test_every_way_gives_the_same_image(tank: Tank, tmp_path: Path, compression: str, docker: bool) -> None:
    image = BuiltImage([BASE, TOP], compression, docker, annotations={"a": "b"}, indent=3)
    layout = write_layout(tmp_path / "layout", {"v1": image})
    archive = stream_archive(layout, tmp_path / "archive.tar")
    tank.take(layout, "tank/images/a@dir")
    tank.take(archive, "tank/images/a@file")
    tank.take("-", "tank/images/a@stdin", stdin=archive.read_bytes())
    for name in ("dir", "file", "stdin"):
        tank.holds(f"tank/images/a@{name}", image, image.manifest)


@pytest.mark.parametrize("compression", ["gzip", "xz", "bz2"])
def test_a_stream_into_an_empty_pool(tank: Tank, tmp_path: Path, compression: str) -> None:
    """Nothing is known of the layers when they come."""
    image = BuiltImage([BASE, TOP, BASE], "zstd")
    layout = write_layout(tmp_path / "layout", {"v1": image})
    archive = stream_archive(layout, tmp_path / "archive.tar")
    packed = tmp_path / "packed"
    with tarfile.open(packed, f"w:{compression.replace('gzip', 'gz')}") as tar, tarfile.open(archive) as plain:  # type: ignore[call-overload]
        for member in plain:
            tar.addfile(member, plain.extractfile(member))
    tank.take(packed, "tank/a@1")
    tank.holds("tank/a@1", image, image.manifest)
    tank.take("-", "tank/a@2", stdin=packed.read_bytes())
    tank.holds("tank/a@2", image, image.manifest)


def test_an_image_is_chosen_by_name_digest_or_number(tank: Tank, tmp_path: Path) -> None:
    images = {
        "docker.io/library/one:1": BuiltImage([BASE]),
        "two": BuiltImage([TOP]),
        "docker.io/org/two:2": BuiltImage([BASE, TOP]),
    }
    layout = write_layout(tmp_path / "layout", images)
    one, two, three = images.values()
    for number, (word, image) in enumerate(
        [
            ("docker.io/library/one:1", one),
            ("one:1", one),
            ("two", two),
            ("org/two:2", three),
            ("2", three),
            (digest_of(two.manifest), two),
            (digest_of(two.manifest)[7:17], two),
        ]
    ):
        tank.take("--image", word, layout, f"tank/a@{number}")
        tank.holds(f"tank/a@{number}", image, image.manifest)
    message = tank.refused(layout, "tank/a@x")
    assert message == (
        "cannot import 'tank/a@x': '" + str(layout) + "' holds several images; choose one with --image: "
        "0: docker.io/library/one:1 (linux/amd64), 1: two (linux/amd64), 2: docker.io/org/two:2 (linux/amd64)"
    )
    message = tank.refused("--image", "three", layout, "tank/a@x")
    assert "holds no image 'three', but 0: docker.io/library/one:1" in message


def test_the_platform_is_chosen(tank: Tank, tmp_path: Path) -> None:
    """From an index in the layout, and from a layout whose own index lists platforms."""
    images = [BuiltImage([BASE], architecture=HERE), BuiltImage([TOP], architecture="s390x")]
    layout = write_layout(tmp_path / "layout", {str(number): image for number, image in enumerate(images)})
    listed = [descriptor(OCI_MANIFEST, image.manifest, platform=image.platform) for image in images]
    attestation = descriptor(OCI_MANIFEST, b"{}", platform={"os": "unknown", "architecture": "unknown"})
    nested = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*listed, attestation]}).encode()
    write_blob(layout, nested)
    for number, entries in enumerate(([descriptor(OCI_INDEX, nested)], [*listed, attestation])):
        write_index(layout, *entries)
        tank.take(layout, f"tank/a@here{number}")
        tank.holds(f"tank/a@here{number}", images[0], images[0].manifest)
        tank.take("--platform", "linux/s390x", layout, f"tank/a@other{number}")
        tank.holds(f"tank/a@other{number}", images[1], images[1].manifest)
        assert f"linux/{HERE}, linux/s390x; choose one with --platform" in tank.refused(
            "--platform", "linux/arm/v5", layout, "tank/a@none"
        )
    write_index(layout, descriptor(OCI_MANIFEST, images[1].manifest))
    assert "is for linux/s390x, not for linux/arm64" in tank.refused("--platform", "arm64", layout, "tank/a@x")


def test_the_name_of_the_image_is_its_name_in_the_pool(tank: Tank, tmp_path: Path) -> None:
    image = BuiltImage([BASE])
    for number, (name, wanted) in enumerate(
        [
            ("docker.io/library/app:v2", "tank/images/app@v2"),
            ("registry.example:5000/team/app:v3", "tank/images/team/app@v3"),
            ("org/app:v4", "tank/images/org/app@v4"),
        ]
    ):
        layout = write_layout(tmp_path / str(number), {name: image})
        tank.take(layout)
        tank.holds(wanted, image, image.manifest)
        tank.run("destroy", wanted)
        tank.take("-", stdin=stream_archive(layout, tmp_path / f"{number}.tar").read_bytes())
        tank.holds(wanted, image, image.manifest)
        assert tank.refused(layout) == f"cannot import '{wanted}': dataset already exists"
    done = tank.run("image", "import", str(write_layout(tmp_path / "tagged", {"v1": image})))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("missing image name for source '") and "it says only 'v1'" in done.err


def test_what_the_pool_has_is_not_read(tank: Tank, tmp_path: Path) -> None:
    image = BuiltImage([BASE, TOP])
    layout = write_layout(tmp_path / "layout", {"v1": image})
    tank.take(layout, "tank/a@1")
    for blob in map(image.blob, image.layers):
        (layout / "blobs" / "sha256" / digest_of(blob)[7:]).unlink()
    tank.take(layout, "tank/a@2")
    tank.take(layout_archive(layout, tmp_path / "a.tar"), "tank/a@3")
    tank.take("-", "tank/a@4", stdin=(tmp_path / "a.tar").read_bytes())
    for number in range(1, 5):
        tank.holds(f"tank/a@{number}", image, image.manifest)


def test_a_directory_is_a_layout_or_a_root_file_system(tank: Tank, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"v1": BuiltImage([BASE])})
    tank.take("-f", "dir", layout, "tank/a@files")
    with_tar = tank.run("image", "import", "-q", "-f", "oci-archive", layout, "tank/a@x")
    assert (with_tar.status, with_tar.err) == (1, f"cannot import '{layout}': it is a directory, not an archive\n")
    (layout / "oci-layout").unlink()
    tank.take(layout, "tank/a@too")
    assert "has no 'oci-layout'" in tank.refused("-f", "oci-dir", layout, "tank/a@x")
    tar = layout_archive(write_layout(tmp_path / "two", {"v1": BuiltImage([BASE])}), tmp_path / "two.tar")
    tank.take("-f", "tar", tar, "tank/a@tar")
    for name in ("files", "too", "tar"):
        assert tank.run("image", "layers", f"tank/a@{name}").status == 1, "it is no image of layers"


def test_what_skopeo_and_umoci_write(tank: Tank, tmp_path: Path) -> None:
    need("skopeo", "umoci")
    layout = write_layout(tmp_path / "layout", {"v1": BuiltImage([BASE, TOP])})
    run("skopeo", "copy", "-q", "--insecure-policy", f"oci:{layout}:v1", f"oci-archive:{tmp_path}/a.tar:app:v1")
    tank.take(tmp_path / "a.tar", "tank/a@archive")
    run("umoci", "config", "--image", f"{layout}:v1", "--tag", "v2", "--config.label", "x=y")
    tank.take("--image", "v2", layout, "tank/a@umoci")
    assert tank.tar("tank/a@archive", digest_of(TOP)) == tank.tar("tank/a@umoci", digest_of(TOP)) == TOP


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--platform", "linux", "L", "tank/a@1"], "invalid platform 'linux': os/architecture is expected"),
        (["--max-layer-size", "much", "L", "tank/a@1"], "invalid --max-layer-size: "),
        (["--image", "x", "L", "tank/a@1", "L", "tank/a@2"], "--image chooses one image of one source"),
        (
            ["-f", "oci", "L", "tank/a@1"],
            "invalid format 'oci': auto, dir, tar, oci-dir, oci-archive or docker-archive",
        ),
        (["-f", "oci-dir", "-", "tank/a@1"], "standard input is no directory: leave out --format oci-dir"),
    ],
)
def test_words_that_make_no_sense(tank: Tank, words: list[str], message: str) -> None:
    done = tank.run("image", "import", *words, stdin=b"")
    assert (done.status, done.out) == (2, "") and done.err.startswith(message), done.err


def test_without_a_name_there_has_to_be_one_pool(tank: Tank, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"docker.io/library/app:v2": BuiltImage([BASE])})
    tank.run("pool", "create", "other", str(tmp_path / "other"))
    done = tank.run("image", "import", str(layout))
    assert done.status == 2 and "there are several pools (other, tank)" in done.err
    for name in ("other", "tank"):
        assert tank.run("pool", "destroy", "-f", name).status == 0, name
    done = tank.run("image", "import", str(layout))
    assert (done.status, done.err) == (1, "no pool to import into: make one with 'lamina pool create NAME DIRECTORY'\n")
