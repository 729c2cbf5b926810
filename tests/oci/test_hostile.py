"""Images that are damaged, or made to do harm: one clear line, exit status 1, and no trace in the pool.

Each comes as a layout in a directory, as an archive in a file, and as one on standard input, which is read once and in
order: what is found out before the layers come in one way is found out after them in another.
"""

import gzip
import hashlib
import io
import json
import os
import random
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.oci.building import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    descriptor,
    device,
    digest_of,
    directory,
    docker_archive,
    file,
    hard_link,
    layer,
    symlink,
)
from tests.oci.building import BuiltImage as Built
from tests.oci.taking import Tank
from tests.oci.test_dockerarchive import archive, digits, manifest

RANDOM = random.Random(8)
BASE = layer(directory("etc"), file("etc/hosts", b"127.0.0.1"), file("big", RANDOM.randbytes(200_000)))
TOP = layer(file("etc/motd", b"hello"), file("lib", RANDOM.randbytes(100_000)))
GZIP = f"{OCI_LAYER}+gzip"
ZSTD = f"{OCI_LAYER}+zstd"


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tank:
    found = Tank(tmp_path, monkeypatch, capsys)
    # Something is there already: its data must stay, and must not be what a half import is made of.
    found.take("-", "tank/other@1", stdin=layer(file("other", RANDOM.randbytes(50_000))))
    return found


class Evil:
    """A layout that is put together from parts which need not fit."""

    def __init__(self, *layers: bytes) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tars = list(layers or (BASE, TOP))
        self.config: dict[str, Any] = {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in self.tars]},
        }
        self.layers = [self.add(GZIP, gzip.compress(tar, mtime=0)) for tar in self.tars]
        self.manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        self.entry: dict[str, Any] = {}
        self.index: bytes | None = None

    def add(self, media_type: str, data: bytes) -> dict[str, Any]:
        """A blob that is what its descriptor says."""
        self.blobs[digest_of(data)] = data
        return descriptor(media_type, data)

    def replace(self, number: int, data: bytes, media_type: str = GZIP) -> None:
        """A layer's blob that is not the gzip of its tar, and whose digest and size are right."""
        self.blobs.pop(self.layers[number]["digest"])
        self.layers[number] = self.add(media_type, data)

    def files(self) -> dict[str, bytes]:
        config = (
            {"config": self.add(OCI_CONFIG, json.dumps(self.config).encode())} if "config" not in self.manifest else {}
        )
        raw = json.dumps({**config, "layers": self.layers, **self.manifest}).encode()
        entry = {**self.add(OCI_MANIFEST, raw), **self.entry}
        index = self.index or json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
        files = {f"blobs/sha256/{digest[7:]}": data for digest, data in self.blobs.items()}
        return {**files, "index.json": index, "oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def write(self, place: Path) -> Path:
        for name, data in self.files().items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return place

    def archive(self) -> bytes:
        return archive(self.files())


def refused(tank: Tank, tmp_path: Path, evil: Evil, *options: str) -> list[str]:
    """The messages of the three ways."""
    data = evil.archive()
    (tmp_path / "evil.tar").write_bytes(data)
    return [
        tank.refused(*options, evil.write(tmp_path / "evil"), "tank/images/evil@1"),
        tank.refused(*options, tmp_path / "evil.tar", "tank/images/evil@1"),
        tank.refused(*options, "-", "tank/images/evil@1", stdin=data),
    ]


def wrong_digest(evil: Evil) -> None:
    digest = evil.layers[1]["digest"]
    evil.blobs[digest] = evil.blobs[digest][:-20] + bytes(20)


def wrong_digest_of_whole_data(evil: Evil) -> None:
    """What decompresses well, and is not what was promised."""
    evil.blobs[evil.layers[1]["digest"]] = gzip.compress(layer(file("x")), mtime=0)
    evil.layers[1]["size"] = len(evil.blobs[evil.layers[1]["digest"]])


def too_short(evil: Evil) -> None:
    evil.layers[1]["size"] += 1


def too_long(evil: Evil) -> None:
    evil.layers[1]["size"] -= 1


def cut_gzip(evil: Evil) -> None:
    evil.replace(1, gzip.compress(TOP, mtime=0)[:-10])


def cut_zstd(evil: Evil) -> None:
    evil.replace(1, zstandard.compress(TOP)[:-10], ZSTD)


def garbage_after_gzip(evil: Evil) -> None:
    evil.replace(1, gzip.compress(TOP, mtime=0) + b"garbage")


def garbage_after_zstd(evil: Evil) -> None:
    evil.replace(1, zstandard.compress(TOP) + b"garbage", ZSTD)


def flipped_gzip(evil: Evil) -> None:
    data = bytearray(gzip.compress(TOP, mtime=0))
    data[len(data) // 2] ^= 1
    evil.replace(1, bytes(data))


def flipped_zstd(evil: Evil) -> None:
    data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(TOP))
    data[len(data) // 2] ^= 1
    evil.replace(1, bytes(data), ZSTD)


def unknown_media_type(evil: Evil) -> None:
    evil.layers[1]["mediaType"] = "application/vnd.example.layer\x1b[31m"


def foreign_layer(evil: Evil) -> None:
    evil.layers[1]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


def schema_1(evil: Evil) -> None:
    evil.manifest = {"schemaVersion": 1, "fsLayers": []}
    evil.entry = {"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}
    # Listed as such it is no image that could be chosen, so it has to be a lie.
    evil.entry = {}


def other_platforms(evil: Evil) -> None:
    there = [
        {**evil.add(OCI_MANIFEST, b"{}"), "platform": {"os": "linux", "architecture": a}} for a in ("mips", "ppc64")
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": there}).encode()
    evil.index = json.dumps({"schemaVersion": 2, "manifests": [evil.add(OCI_INDEX, index)]}).encode()


def missing_layer(evil: Evil) -> None:
    evil.blobs.pop(evil.layers[0]["digest"])


def missing_config(evil: Evil) -> None:
    lost = descriptor(OCI_CONFIG, b"lost")
    evil.manifest["config"] = lost


def other_config(evil: Evil) -> None:
    """A config of another image, which the manifest does not name."""
    evil.manifest["config"] = {**evil.add(OCI_CONFIG, b"{}"), "size": 3}


def config_with_other_bytes(evil: Evil) -> None:
    said = descriptor(OCI_CONFIG, json.dumps(evil.config).encode())
    evil.blobs[said["digest"]] = json.dumps(evil.config).replace("amd64", "arm64").encode()
    evil.manifest["config"] = said


def wrong_diff_id(evil: Evil) -> None:
    evil.config["rootfs"]["diff_ids"][1] = digest_of(b"another")


def diff_ids_swapped(evil: Evil) -> None:
    evil.config["rootfs"]["diff_ids"].reverse()


def fewer_diff_ids(evil: Evil) -> None:
    evil.config["rootfs"]["diff_ids"].pop()


def no_diff_ids(evil: Evil) -> None:
    del evil.config["rootfs"]


def deep_config(evil: Evil) -> None:
    raw = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
    evil.manifest["config"] = evil.add(OCI_CONFIG, raw)


def deep_index(evil: Evil) -> None:
    evil.index = b"[" * 50_000 + b"]" * 50_000


def index_of_itself(evil: Evil) -> None:
    """Indexes within indexes; one cannot hold its own digest."""
    entry = evil.add(OCI_MANIFEST, b"{}")
    for _ in range(30):
        entry = evil.add(OCI_INDEX, json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    evil.index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()


def many_manifests(evil: Evil) -> None:
    """As many as an index may have."""
    one = {"mediaType": OCI_MANIFEST, "size": 1, "platform": {"os": "linux", "architecture": "mips"}}
    entries = [{**one, "digest": digest_of(str(number).encode())} for number in range(10_000)]
    evil.index = json.dumps({"schemaVersion": 2, "manifests": entries}, separators=(",", ":")).encode()


def more_manifests(evil: Evil) -> None:
    one = {"mediaType": OCI_MANIFEST, "size": 1, "digest": digest_of(b"")}
    evil.index = json.dumps({"schemaVersion": 2, "manifests": [one] * 10_001}, separators=(",", ":")).encode()


def digest_that_is_a_path(evil: Evil) -> None:
    evil.layers[1]["digest"] = "sha256:../../../../../etc/passwd"


def sha512(evil: Evil) -> None:
    evil.layers[1]["digest"] = "sha512:" + hashlib.sha512(b"").hexdigest()


def helm(evil: Evil) -> None:
    evil.manifest["config"] = evil.add("application/vnd.cncf.helm.config.v1+json", b"{}")


def no_images(evil: Evil) -> None:
    unknown = {"platform": {"os": "unknown", "architecture": "unknown"}}
    entries = [{**evil.add("application/vnd.example+json", b"{}")}, {**evil.add(OCI_MANIFEST, b"{}"), **unknown}]
    evil.index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def two_meanings(evil: Evil) -> None:
    evil.manifest["manifests"] = []


def unknown_layout(evil: Evil) -> None:
    evil.index = b"{}"


def no_tar(evil: Evil) -> None:
    evil.tars[1] = b"this is no tar\n" * 100
    evil.config["rootfs"]["diff_ids"][1] = digest_of(evil.tars[1])
    evil.replace(1, gzip.compress(evil.tars[1], mtime=0))


def compressed_twice(evil: Evil) -> None:
    evil.replace(1, gzip.compress(gzip.compress(TOP, mtime=0), mtime=0))


def tar_that_is_cut(evil: Evil) -> None:
    evil.replace(1, gzip.compress(TOP[:50_000], mtime=0))
    evil.config["rootfs"]["diff_ids"][1] = digest_of(TOP[:50_000])


@pytest.mark.parametrize(
    ("harm", "messages"),
    [
        (wrong_digest, ["", "gzip"]),
        (wrong_digest_of_whole_data, ["is damaged or not what it should be: its digest is sha256:"]),
        (too_short, ["is cut short: it has 100", " bytes, but the manifest says "]),
        (too_long, ["is longer than the ", " bytes, but the manifest says "]),
        (cut_gzip, ["is cut short: its gzip data end too early"]),
        (cut_zstd, ["is cut short: its last zstd frame is not whole"]),
        (garbage_after_gzip, ["goes on with something else after its gzip data"]),
        (garbage_after_zstd, ["goes on with something else after its zstd data"]),
        (flipped_gzip, ["has damaged gzip data"]),
        (flipped_zstd, ["has damaged zstd data"]),
        (unknown_media_type, ["is of the unknown media type 'application/vnd.example.layer\\x1b[31m'"]),
        (foreign_layer, ["is not distributable"]),
        (schema_1, ["is of schema 1, which was given up in 2019"]),
        (other_platforms, ["but for linux/mips, linux/ppc64; choose one with --platform"]),
        (missing_layer, ["has no 'blobs/sha256/"]),
        (missing_config, [f"has no 'blobs/sha256/{digest_of(b'lost')[7:]}'"]),
        (other_config, ["is cut short: it has 2 of 3 bytes"]),
        (config_with_other_bytes, ["is damaged or not what it should be"]),
        (wrong_diff_id, [f", not {digest_of(b'another')}", f"but the config says {digest_of(b'another')}"]),
        (
            diff_ids_swapped,
            [f"its tar is {digest_of(TOP)}, not {digest_of(BASE)}", "but the config says", "its tar is"],
        ),
        (fewer_diff_ids, ["has 2 layers, but its config names 1: they do not match"]),
        (no_diff_ids, ["has no rootfs: it is not that of a container image"]),
        (deep_config, ["nested"]),
        (deep_index, ["nested"]),
        (index_of_itself, ["has indexes within indexes, more than 3 deep"]),
        (many_manifests, ["has images for linux/mips; choose one with --platform"]),
        (more_manifests, ["lists more than 10000 manifests"]),
        (digest_that_is_a_path, ["'sha256:../../../../../etc/passwd' is no digest"]),
        (sha512, ["is of another kind than sha256"]),
        (helm, ["is a Helm chart, not a container image"]),
        (no_images, [f"lists no container image, only application/vnd.example+json, {OCI_MANIFEST}"]),
        (two_meanings, ["it could be read in two ways"]),
        (unknown_layout, ["has no schemaVersion 2"]),
        (no_tar, ["no tar archive, or damaged"]),
        (compressed_twice, ["no tar archive, or damaged"]),
        (tar_that_is_cut, ["tar is cut short"]),
    ],
)
def test_harm(tank: Tank, tmp_path: Path, harm: Callable[[Evil], None], messages: list[str]) -> None:
    evil = Evil()
    harm(evil)
    found = refused(tank, tmp_path, evil)
    for one in found:
        assert one.startswith("cannot import ") and any(message in one for message in messages), one


@pytest.mark.parametrize("compress", [lambda tar: gzip.compress(tar, mtime=0), lambda tar: zstandard.compress(tar, 1)])
def test_bombs(tank: Tank, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """A small blob that becomes large: stopped at the limit, taken where the limit is raised."""
    bomb = layer(file("zeros", bytes(40 << 20)))
    evil = Evil(BASE, bomb)
    evil.replace(1, compress(bomb), ZSTD)
    for message in refused(tank, tmp_path, evil, "--max-layer-size", "8M"):
        assert "decompresses to more than 8M, which looks like a bomb" in message
        assert message.endswith("raise the limit with --max-layer-size")
    tank.take("--max-layer-size", "41M", tmp_path / "evil", "tank/a@1")
    assert tank.tar("tank/a@1", digest_of(bomb)) == bomb


def test_a_bomb_at_the_limit_that_is_there_anyway(tank: Tank, tmp_path: Path) -> None:
    """More than a gigabyte of zeros in 50 KB of zstd."""
    header = layer(file("zeros", b""))[:512]
    compressor = zstandard.ZstdCompressor(1).compressobj()
    block = bytes(16 << 20)
    blob = compressor.compress(header) + b"".join(compressor.compress(block) for _ in range(65)) + compressor.flush()
    evil = Evil()
    evil.replace(1, blob, ZSTD)
    message = tank.refused(evil.write(tmp_path / "evil"), "tank/images/evil@1")
    assert "decompresses to more than 1G, which looks like a bomb" in message


def test_endless_gzip_members(tank: Tank, tmp_path: Path) -> None:
    """Thousands of empty members are slow to read for who begins anew with each."""
    evil = Evil()
    evil.replace(1, gzip.compress(TOP, mtime=0) + gzip.compress(b"", mtime=0) * 20_000)
    tank.take(evil.write(tmp_path / "evil"), "tank/a@1")
    assert tank.tar("tank/a@1", digest_of(TOP)) == TOP


# -- layers that would leave the tree ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([file("../evil", b"x")], ".."),
        ([file("/etc/evil", b"x")], "absolute"),
        ([file("a/../../evil", b"x")], ".."),
        ([hard_link("evil", "../../etc/passwd")], ".."),
        ([hard_link("evil", "nowhere")], "nowhere"),
        ([symlink("out", "../../../../../.."), file("out/evil", b"x")], "out"),
    ],
)
def test_layers_that_lead_out(tank: Tank, tmp_path: Path, items: list[Any], message: str) -> None:
    for found in refused(tank, tmp_path, Evil(BASE, layer(*items))):
        assert found.startswith("cannot import ") and message in found, found


def test_devices_are_data_only(tank: Tank, tmp_path: Path) -> None:
    tank.take(Evil(BASE, layer(device("null", 1, 3))).write(tmp_path / "evil"), "tank/a@1")


# -- archives -----------------------------------------------------------------------------------------------------

CONFIG = Built([BASE]).config
NAME = f"{digits(CONFIG)}.json"


def docker(tank: Tank, tmp_path: Path, data: bytes) -> list[str]:
    (tmp_path / "evil.tar").write_bytes(data)
    options = ("-f", "docker-archive")
    return [
        tank.refused(*options, tmp_path / "evil.tar", "tank/images/evil@1"),
        tank.refused(*options, "-", "tank/images/evil@1", stdin=data),
    ]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"manifest.json": manifest("../../etc/passwd", [])}, "refers to '../../etc/passwd', which does not lie in it"),
        ({"manifest.json": manifest("/etc/passwd", [])}, "refers to '/etc/passwd', which does not lie in it"),
        ({NAME: CONFIG, "manifest.json": manifest(NAME, ["../../x"])}, "refers to '../../x', which does not lie in it"),
        ({NAME: CONFIG, "manifest.json": manifest(NAME, ["no\x1bwhere"])}, "has no 'no\\x1bwhere'"),
        ({NAME: CONFIG, "manifest.json": manifest(NAME, [])}, "has 0 layers, but its config names 1"),
        ({NAME: b"{}", "manifest.json": manifest(NAME, [])}, "is damaged: its digest is"),
        ({"c": b"[" * 5000, "manifest.json": manifest("c", [])}, "nested too deeply"),
        ({"manifest.json": b"{}"}, "is no list of images"),
        ({"manifest.json": b"[1]"}, "image 0 in 'manifest.json'"),
        ({"manifest.json": b"[]"}, "holds no image"),
        ({"manifest.json": b'[{"Config":"a","Config":"b"}]'}, "the member 'Config' twice"),
        ({"../manifest.json": b"[]"}, "refers to '../manifest.json', which does not lie in it"),
        ({"/manifest.json": b"[]"}, "refers to '/manifest.json', which does not lie in it"),
        ({NAME: CONFIG, "l": "../../out", "manifest.json": manifest(NAME, ["l"])}, "is a link that leads out of it"),
        ({NAME: CONFIG, "l": "/etc/passwd", "manifest.json": manifest(NAME, ["l"])}, "has no 'l'"),
        ({NAME: CONFIG, "l": "l", "manifest.json": manifest(NAME, ["l"])}, "is a link that leads nowhere"),
        ({NAME: CONFIG, "a": "b", "b": "a", "manifest.json": manifest(NAME, ["a"])}, "is a link that leads nowhere"),
        ({NAME: CONFIG, "l": "gone", "manifest.json": manifest(NAME, ["l"])}, "has no 'l'"),
        ({"manifest.json": "other", "other": manifest("gone", [])}, "has no 'gone'"),
    ],
)
def test_archives_that_lead_out(tank: Tank, tmp_path: Path, members: dict[str, bytes | str], message: str) -> None:
    for found in docker(tank, tmp_path, archive(members)):
        assert found.startswith("cannot import 'tank/images/evil@1': ") and message in found, found


def test_layers_that_are_not_the_config_s(tank: Tank, tmp_path: Path) -> None:
    data = archive({"l.tar": TOP, NAME: CONFIG, "manifest.json": manifest(NAME, ["l.tar"])})
    first, second = docker(tank, tmp_path, data)
    assert f"its tar is {digest_of(TOP)}, not {digest_of(BASE)}" in first
    assert f"has the diff ID {digest_of(TOP)}, but the config says {digest_of(BASE)}" in second


def test_members_that_come_twice(tank: Tank, tmp_path: Path) -> None:
    """Tar's rule, the last one wins, is not everybody's: two readers would see two images."""
    good = docker_archive({"a:1": Built([BASE])}, old=True)
    for name, data in (("manifest.json", b"[]"), (f"{digest_of(BASE)[7:]}/layer.tar", TOP)):
        stream = io.BytesIO(good)
        with tarfile.open(fileobj=stream, mode="a") as tar:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for found in docker(tank, tmp_path, stream.getvalue()):
            assert f"has '{name}' twice: it could be read in two ways" in found


@pytest.mark.parametrize("length", [100, 512, 1000, 30_000, 150_000])
def test_archives_that_are_cut(tank: Tank, tmp_path: Path, length: int) -> None:
    data = docker_archive({"a:1": Built([BASE])}, old=True)
    for found in docker(tank, tmp_path, data[:length]):
        assert "cut short" in found or "has no 'manifest.json'" in found, found
    packed = zlib.compress(data, 1, 31)
    for found in docker(tank, tmp_path, packed[: length // 2]):
        assert "cut short" in found or "damaged" in found or "cannot read" in found, found


def test_a_stream_that_is_an_endless_archive_of_documents(tank: Tank) -> None:
    document = b"{" + b" " * (15 << 20) + b"}"
    data = archive({**{f"{number}.json": document for number in range(6)}, "manifest.json": b"[]"})
    message = tank.refused("-f", "docker-archive", "-", "tank/a@1", stdin=data)
    assert "has more than 64 MiB of documents" in message


@pytest.mark.parametrize("seed", range(int(os.environ.get("LAMINA_ARCHIVES", "40"))))
def test_archives_with_bytes_changed(tank: Tank, tmp_path: Path, seed: int) -> None:
    """Whatever a flipped, lost or doubled piece makes of an archive: it is taken, or refused in one line."""
    rng = random.Random(seed)
    image = Built([layer(directory("etc"), file("etc/a", b"x" * 3000)), layer(file("b", b"y" * 500))])
    good = [docker_archive({"a:1": image}, old=True), docker_archive({"a:1": image}), Evil().archive()]
    data = bytearray(rng.choice([*good, gzip.compress(good[0])]))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        if rng.random() < 0.6:
            data[at] = rng.choice([0, 0x22, 0x2E, 0x2F, 0x30, 0x7F, 0xFF, rng.randrange(256)])
        elif rng.random() < 0.5:
            del data[at : at + rng.choice([1, 100, 512, 1024])]
        else:
            data[at:at] = data[max(0, at - 512) : at]
    path = tmp_path / "changed.tar"
    path.write_bytes(data)
    for number, (source, more) in enumerate(((str(path), None), ("-", bytes(data)))):
        done = tank.run("image", "import", "-q", "-f", "auto", source, f"tank/a@{number}", stdin=more)
        assert "internal error" not in done.err and (done.status, done.err == "") in ((0, True), (1, False)), done.err
        assert done.err.count("\n") == done.status and done.err.isascii(), done.err
