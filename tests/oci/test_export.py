"""``lamina image export``: what is written comes back, other programs read it, and nothing half-written stays."""

import gzip
import hashlib
import io
import json
import os
import pty
import random
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import Busy, DamagedData, NoSpace, OciError
from lamina.ingest.tar import TarReader
from lamina.oci.outgoing.export import FORMATS, Format, default_packing, export_image
from lamina.oci.outgoing.machine import architecture_of
from lamina.oci.outgoing.packing import Packing
from lamina.oci.outgoing.tarwriting import Header, ending
from lamina.oci.registry.reference import parse_reference
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
    whiteout,
    write_layout,
)
from tests.oci.outgoing import area, call, listing, podman_store, put, random_stack, rootfs_items, stored

BASE = layer(directory("etc"), file("etc/old", b"1" * 5000), file("etc/gone", b"2" * 90_000))
TOP = layer(file("etc/old", b"3" * 70_000), whiteout("etc/gone"), file("new", random.Random(1).randbytes(400_000)))
IMAGE = BuiltImage([BASE, TOP, BASE], annotations={"org.example.note": "ä"}, indent=3)
REFERENCE = parse_reference("team/app:v1")


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "pools"))
    with Pool.create("tank", tmp_path / "pool") as pool:
        yield pool


def export(tank: Pool, name: str, path: Path, format_: Format, compression: str | None = None, **more: Any) -> Any:
    packing = Packing(compression or default_packing(format_), jobs=more.pop("jobs", None))
    reference = None if format_ == "rootfs-tar" else REFERENCE
    return export_image(tank, name, str(path), format_, packing, **{"reference": reference, **more})


def manifest_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """(the only entry of a layout's index, its manifest)."""
    index = json.loads(_member(path, "index.json"))
    entry = index["manifests"][-1]
    return entry, _member(path, f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}")


def _member(path: Path, name: str) -> bytes:
    if path.is_dir():
        return (path / name).read_bytes()
    with tarfile.open(path, "r:") as tar:
        found = tar.extractfile(name)
        assert found is not None
        return found.read()


# -- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(int(os.environ.get("LAMINA_STACKS", "4"))))
def test_what_is_exported_comes_back_the_same(tank: Pool, tmp_path: Path, seed: int) -> None:
    image = put(tank, BuiltImage(random_stack(seed), docker=seed % 2 == 1), "tank/i/a@1", tmp_path)
    want = rootfs_items(tank, "tank/i/a@1")
    for number, format_ in enumerate(FORMATS):
        path = tmp_path / format_
        export(tank, "tank/i/a@1", path, format_, ("gzip", "zstd", "none")[(seed + number) % 3])
        name = f"tank/i/{format_}@1"
        assert call("image", "import", path, name) == 0
        if format_ == "rootfs-tar":
            assert listing(stored(tank, name)) == listing(stored(tank, "tank/i/a@1"))
            continue
        assert area(tank, name).config() == image.config
        assert set(area(tank, name).layers()) == set(image.diff_ids)
        assert rootfs_items(tank, name) == want


def test_the_same_image_gives_the_same_bytes(tank: Pool, tmp_path: Path) -> None:
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    for format_ in ("oci-archive", "docker-archive", "rootfs-tar"):
        for compression in ("gzip", "zstd", "none"):
            digests = set()
            for jobs in (1, 4):
                export(tank, "tank/i/a@1", tmp_path / "out", format_, compression, jobs=jobs)
                digests.add(hashlib.sha256((tmp_path / "out").read_bytes()).digest())
            assert len(digests) == 1, (format_, compression)


@pytest.mark.parametrize("format_", ["oci-archive", "docker-archive", "rootfs-tar"])
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_pipe_gets_what_a_file_gets(tank: Pool, tmp_path: Path, format_: str, compression: str) -> None:
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    words = ["image", "export", "-f", format_, "--compression", compression, "tank/i/a@1"]
    assert call(*words[:-1], "-o", tmp_path / "file", words[-1]) == 0
    done = subprocess.run([sys.executable, "-m", "lamina", *words], capture_output=True, check=True)
    assert done.stdout == (tmp_path / "file").read_bytes()


def test_layers_are_the_originals(tank: Pool, tmp_path: Path) -> None:
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    unpack = {"gzip": gzip.decompress, "zstd": _unzstd, "none": bytes}
    for compression, opened in unpack.items():
        report = export(tank, "tank/i/a@1", tmp_path / compression, "oci-archive", compression)
        entry, raw = manifest_of(tmp_path / compression)
        manifest = json.loads(raw)
        assert report.manifest == entry["digest"] == digest_of(raw)
        assert manifest["config"]["digest"] == report.config == IMAGE.image_id
        assert _member(tmp_path / compression, f"blobs/sha256/{IMAGE.image_id[7:]}") == IMAGE.config
        blobs = [_member(tmp_path / compression, f"blobs/sha256/{one['digest'][7:]}") for one in manifest["layers"]]
        assert [opened(blob) for blob in blobs] == [BASE, TOP, BASE]
        assert [len(blob) for blob in blobs] == [one["size"] for one in manifest["layers"]]
        assert manifest["annotations"] == {"org.example.note": "ä"}
    with tarfile.open(tmp_path / "gzip") as tar:
        names = tar.getnames()
    assert len(names) == len(set(names)), "a layer that occurs twice is written once"


def _unzstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        return reader.read()


@pytest.mark.parametrize("docker", [False, True])
def test_the_original_manifest_is_kept_where_it_holds(tank: Pool, tmp_path: Path, docker: bool) -> None:
    plain = BuiltImage([BASE, TOP], compression="none", docker=docker, annotations={"a": "b"}, indent=1)
    put(tank, plain, "tank/i/a@1", tmp_path)
    export(tank, "tank/i/a@1", tmp_path / "same", "oci-archive", "none")
    entry, raw = manifest_of(tmp_path / "same")
    assert raw == plain.manifest
    assert entry["mediaType"] == (DOCKER_MANIFEST if docker else OCI_MANIFEST)
    export(tank, "tank/i/a@1", tmp_path / "other", "oci-archive", "gzip")
    entry, raw = manifest_of(tmp_path / "other")
    assert raw != plain.manifest
    assert entry["mediaType"] == json.loads(raw)["mediaType"] == OCI_MANIFEST
    assert json.loads(raw)["annotations"] == {"a": "b"}
    assert {one["mediaType"] for one in json.loads(raw)["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}


def test_a_layout_gets_one_image_after_the_other(tank: Pool, tmp_path: Path) -> None:
    first, second = BuiltImage([BASE]), BuiltImage([BASE, TOP])
    put(tank, first, "tank/i/a@1", tmp_path)
    put(tank, second, "tank/i/a@2", tmp_path)
    layout = tmp_path / "layout"
    assert call("image", "export", "-f", "oci-dir", "-o", layout, "--tag", "app:one", "tank/i/a@1") == 0
    (layout / "index.json").write_text(
        json.dumps({**json.loads((layout / "index.json").read_text()), "annotations": {"kept": "yes"}})
    )
    blobs = {path.name: path.stat().st_mtime_ns for path in (layout / "blobs/sha256").iterdir()}
    assert call("image", "export", "-f", "oci-dir", "-o", layout, "--tag", "app:two", "tank/i/a@2") == 0
    index = json.loads((layout / "index.json").read_text())
    assert index["annotations"] == {"kept": "yes"}
    assert [one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]] == ["one", "two"]
    after = {path.name: path.stat().st_mtime_ns for path in (layout / "blobs/sha256").iterdir()}
    assert blobs.items() <= after.items(), "blobs are shared, not written again"
    # The same name again: the entry is replaced, the other stays.
    assert call("image", "export", "-f", "oci-dir", "-o", layout, "--tag", "app:one", "tank/i/a@2") == 0
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    assert [one["annotations"]["org.opencontainers.image.ref.name"] for one in entries] == ["two", "one"]
    assert entries[0]["digest"] == entries[1]["digest"]
    for path in (layout / "blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    with pytest.raises(OciError, match="another name with --tag"):
        export(tank, "tank/i/a@1", layout, "oci-dir", reference=parse_reference("other/app:one"))


def test_a_layout_that_has_the_layers_gets_the_original_manifest(tank: Pool, tmp_path: Path) -> None:
    image = BuiltImage([BASE, TOP], compression="zstd", annotations={"a": "b"}, indent=2)
    put(tank, image, "tank/i/a@1", tmp_path)
    layout = write_layout(tmp_path / "layout", {"one": image})
    report = export(tank, "tank/i/a@1", layout, "oci-dir")
    assert report.manifest == digest_of(image.manifest)
    assert report.bytes == 0, "nothing was written that was there"
    anew = export(tank, "tank/i/a@1", layout, "oci-dir", "gzip", anew=True)
    assert anew.manifest != report.manifest and anew.config == report.config


def test_a_layer_is_compressed_once_for_a_layout(tank: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tank, BuiltImage([BASE, TOP], compression="none"), "tank/i/a@1", tmp_path)
    put(tank, BuiltImage([BASE], compression="none"), "tank/i/a@2", tmp_path)
    export(tank, "tank/i/a@1", tmp_path / "layout", "oci-dir")
    monkeypatch.setattr(Packing, "stream", None)
    export(tank, "tank/i/a@2", tmp_path / "layout", "oci-dir", reference=parse_reference("app:v2"))
    root = json.loads((tmp_path / "layout/index.json").read_text())
    assert len(root["manifests"]) == 2


def test_ctrl_c(tank: Pool, tmp_path: Path) -> None:
    """Whatever it is doing: the file is not there, and the command ends."""
    big = layer(file("big", random.Random(2).randbytes(40 << 20)))
    put(tank, BuiltImage([big]), "tank/i/a@1", tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    for format_ in ("oci-archive", "oci-dir"):
        words = ["image", "export", "-f", format_, "--level", "9", "-o", str(out / "x"), "tank/i/a@1"]
        process = subprocess.Popen([sys.executable, "-m", "lamina", *words], stderr=subprocess.PIPE, text=True)
        while not list(out.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (130, "interrupted\n")
        assert list(out.iterdir()) == []


def test_a_damaged_blob_of_a_layout_is_written_anew(tank: Pool, tmp_path: Path) -> None:
    put(tank, BuiltImage([BASE]), "tank/i/a@1", tmp_path)
    report = export(tank, "tank/i/a@1", tmp_path / "layout", "oci-dir")
    blob = tmp_path / "layout/blobs/sha256" / report.layers[0].digest[7:]
    good = blob.read_bytes()
    blob.write_bytes(b"x" * len(good))
    export(tank, "tank/i/a@1", tmp_path / "layout", "oci-dir")
    assert blob.read_bytes() == good


# -- root file systems ----------------------------------------------------------------------------------------------


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A directory with all kinds of files."""
    programs.need("tar")
    root = tmp_path / "everything"
    deep = root / ("d" * 90) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / ("f" * 140)).write_bytes(b"deep")
    (root / "g").mkdir()
    (root / "a").write_bytes(b"hello")
    os.link(root / "a", root / "z")
    os.symlink("nowhere/" + "x" * 150, root / "link")
    os.link(root / "link", root / "link2", follow_symlinks=False)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, (1 << 20) - 1))
    os.mkfifo(root / "fifo")
    (root / os.fsdecode(b"odd\n\xff name")).write_bytes(b"odd")
    (root / "-o").write_bytes(b"")
    (root / "suid").write_bytes(b"s" * 100_000)
    os.chown(root / "suid", 3_000_000, 4_000_000_000)
    (root / "suid").chmod(0o6755)
    (root / "old").write_bytes(b"old")
    os.utime(root / "old", ns=(1, -999_999_999_750_000_000))
    os.utime(root / "a", ns=(1_600_000_000_123_456_789, 1_600_000_001_000_000_001))
    with open(root / "sparse", "wb") as sparse:
        sparse.truncate(9 << 30)
        sparse.seek(5 << 30)
        sparse.write(os.urandom(70_000))
    with open(root / "tail", "wb") as tail:
        tail.write(b"t" * 80_000)
        tail.truncate(1 << 20)
    with open(root / "hole", "wb") as hole:
        hole.truncate(3 << 20)
    os.setxattr(root / "a", b"user.name", b"v\0=\n")
    os.setxattr(root / "g", b"trusted.overlay.x%=y", b"1")
    return root


def test_a_root_file_system_goes_through_gnu_tar(tank: Pool, tmp_path: Path, everything: Path) -> None:
    tank.import_image(everything, "tank/i/a@1")
    export(tank, "tank/i/a@1", tmp_path / "out.tar", "rootfs-tar")
    assert (tmp_path / "out.tar").stat().st_size < 2 << 20, "holes are not written"
    (tmp_path / "unpacked").mkdir()
    xattrs = ["--xattrs", "--xattrs-include=*"]
    programs.run("tar", *xattrs, "-xpf", tmp_path / "out.tar", "-C", tmp_path / "unpacked")
    assert tank.verify("tank/i/a@1", tmp_path / "unpacked") == []
    tank.import_image(tmp_path / "out.tar", "tank/i/b@1")
    left, right = listing_without_data(tank, "tank/i/a@1"), listing_without_data(tank, "tank/i/b@1")
    assert left == right


def listing_without_data(tank: Pool, name: str) -> dict[bytes, Any]:
    """As ``listing``, for trees with files of gigabytes."""
    import tests.oci.outgoing as shared

    tree = stored(tank, name)
    whole = tree.read
    tree.read = lambda ino, offset, size: whole(ino, offset, min(size, 1 << 20))  # type: ignore[method-assign]
    return shared.listing(tree)


def test_a_plain_root_file_system_becomes_an_image(tank: Pool, tmp_path: Path, everything: Path) -> None:
    (everything / "bin").mkdir()
    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 183) + bytes(40)
    (everything / "bin/busybox").write_bytes(elf)
    os.symlink("busybox", everything / "bin/sh")
    tank.import_image(everything, "tank/i/a@1")
    assert architecture_of(stored(tank, "tank/i/a@1")) == "arm64"
    report = export(tank, "tank/i/a@1", tmp_path / "layout", "oci-dir")
    config = json.loads((tmp_path / "layout/blobs/sha256" / report.config[7:]).read_bytes())
    assert (config["os"], config["architecture"]) == ("linux", "arm64")
    assert config["rootfs"]["diff_ids"] == [report.layers[0].diff_id]
    assert config["config"] == {}
    again = export(tank, "tank/i/a@1", tmp_path / "again.tar", "docker-archive")
    assert again.config == report.config, "the same snapshot is the same image"
    assert call("image", "import", tmp_path / "again.tar", "tank/i/b@1") == 0
    assert area(tank, "tank/i/b@1").layers().keys() == {report.layers[0].diff_id}
    assert tank.verify("tank/i/b@1", everything) == []


def test_sockets_are_left_out_and_told(tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "src").mkdir()
    os.mknod(tmp_path / "src/sock", stat.S_IFSOCK | 0o600)
    (tmp_path / "src/file").write_bytes(b"x")
    tank.import_image(tmp_path / "src", "tank/i/a@1")
    if b"sock" not in {entry.name for entry in tank.tree("tank/i/a@1").readdir(1)}:
        pytest.skip("sockets are not imported")
    assert call("image", "export", "-f", "rootfs-tar", "-o", tmp_path / "out", "tank/i/a@1") == 1
    assert "sock: a socket has no form in a tar" in capsys.readouterr().err
    with tarfile.open(tmp_path / "out") as tar:
        assert tar.getnames() == [".", "./file"]


names = st.lists(st.binary(min_size=1, max_size=120).map(lambda b: b.translate(None, b"/\0")), min_size=1, max_size=4)
numbers = st.integers(0, (1 << 32) - 1)
times = st.integers(-(1 << 40) * 10**9, (1 << 40) * 10**9)


@settings(max_examples=150, deadline=None)
@given(
    parts=names,
    mode=st.integers(0, 0o7777),
    uid=numbers,
    gid=numbers,
    mtime=times,
    atime=st.none() | times,
    link=st.binary(max_size=300).map(lambda b: b.translate(None, b"\0")),
    xattrs=st.dictionaries(
        st.binary(min_size=1, max_size=30).map(lambda b: b"user." + b.translate(None, b"\0")), st.binary(max_size=60)
    ),
)
def test_headers_say_what_they_were_told(
    parts: list[bytes],
    mode: int,
    uid: int,
    gid: int,
    mtime: int,
    atime: int | None,
    link: bytes,
    xattrs: dict[bytes, bytes],
) -> None:
    name = b"./" + b"/".join(parts)
    header = Header(name, b"2", mode, uid, gid, 0, mtime, atime, None, link, (0, 0), None, xattrs)
    data = header.pack()
    assert len(data) % 512 == 0
    (member,) = TarReader(io.BytesIO(data + ending(len(data))))
    assert (member.name, member.mode, member.uid, member.gid) == (name, mode, uid, gid)
    assert (member.mtime_ns, member.atime_ns, member.link, member.xattrs) == (mtime, atime, link, xattrs)


@pytest.mark.parametrize("size", [0, 1 << 20, (1 << 33) - 1, 1 << 33, 1 << 40])
def test_sizes_are_read_by_others(size: int) -> None:
    for binary in (False, True):
        data = Header(b"name", size=size, binary_size=binary).pack()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found = tar.next()
        assert found is not None and found.size == size
        assert not binary or len(data) == 512


# -- other programs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[programs.Containerd]:
    programs.need("containerd", "ctr")
    with programs.containerd(tmp_path_factory.mktemp("c")) as found:
        yield found


def test_umoci_unpacks_it(tank: Pool, tmp_path: Path) -> None:
    programs.need("umoci")
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    for compression in ("gzip", "none"):
        export(tank, "tank/i/a@1", tmp_path / compression, "oci-dir", compression)
        root = programs.umoci_unpack(tmp_path / compression, "v1", tmp_path / f"bundle-{compression}")
        assert tank.verify("tank/i/a@1", root) == []


def test_skopeo_copies_it_both_ways(tank: Pool, tmp_path: Path) -> None:
    programs.need("skopeo")
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    export(tank, "tank/i/a@1", tmp_path / "oci.tar", "oci-archive")
    export(tank, "tank/i/a@1", tmp_path / "docker.tar", "docker-archive")
    ours = [f"oci-archive:{tmp_path}/oci.tar", f"docker-archive:{tmp_path}/docker.tar"]
    theirs = [f"docker-archive:{tmp_path}/{{}}.tar:x/y:1", f"oci:{tmp_path}/{{}}:1"]
    for number, (source, target) in enumerate(product(ours, theirs)):
        raw = programs.run("skopeo", "inspect", "--config", "--raw", source)
        assert digest_of(raw.encode()) == IMAGE.image_id
        target = target.format(number)
        programs.run("skopeo", "copy", "-q", source, target)
        assert call("image", "import", target.split(":")[1], f"tank/i/b@{number}") == 0
        copied = area(tank, f"tank/i/b@{number}").config()
        if "docker.tar" in source and target.startswith("oci:"):
            assert (
                json.loads(copied)["rootfs"] == json.loads(IMAGE.config)["rootfs"]
            )  # skopeo writes it in its own words
        else:
            assert copied == IMAGE.config
        assert rootfs_items(tank, f"tank/i/b@{number}") == rootfs_items(tank, "tank/i/a@1")


def test_containerd_imports_it(tank: Pool, tmp_path: Path, engine: programs.Containerd) -> None:
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    for number, (format_, compression) in enumerate(
        [("oci-archive", "gzip"), ("oci-archive", "zstd"), ("docker-archive", "none"), ("docker-archive", "gzip")]
    ):
        reference = parse_reference(f"example.org/app:{number}")
        export(tank, "tank/i/a@1", tmp_path / "out", format_, compression, reference=reference)  # type: ignore[arg-type]
        assert engine.load(tmp_path / "out") == [str(reference)]
        found = tank.verify("tank/i/a@1", engine.unpacked(IMAGE.diff_ids))
        # No layer says anything of the root itself.
        assert [one.path for one in found] in ([], [b"."])


def test_podman_loads_it(tank: Pool, tmp_path: Path) -> None:
    programs.need("podman")
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    with podman_store() as (root, runroot):
        store = ["podman", "--root", root, "--runroot", runroot, "--storage-driver", "vfs"]
        _loads(tank, tmp_path, store)


def _loads(tank: Pool, tmp_path: Path, store: list[str]) -> None:
    for format_ in ("oci-archive", "docker-archive"):
        export(tank, "tank/i/a@1", tmp_path / "out", format_)
        assert "docker.io/team/app:v1" in programs.run(*store, "load", "-i", tmp_path / "out")
        listed = json.loads(programs.run(*store, "images", "--format", "json"))
        assert [(one["Id"], one["Names"]) for one in listed] == [(IMAGE.image_id[7:], ["docker.io/team/app:v1"])]
        programs.run(*store, "rmi", "docker.io/team/app:v1")


# -- what goes wrong ------------------------------------------------------------------------------------------------


def test_nothing_half_written_stays(tank: Pool, tmp_path: Path) -> None:
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_bytes(b"before")
    (out / "layout").mkdir()

    def stop(done: int, total: int) -> None:
        assert total == len(BASE) + len(TOP)
        raise KeyboardInterrupt

    for format_ in FORMATS:
        path = out / ("layout" if format_ == "oci-dir" else "file")
        with pytest.raises(KeyboardInterrupt):
            export(tank, "tank/i/a@1", path, format_, progress=stop)
        assert sorted(one.name for one in out.rglob("*")) == ["file", "layout"]
        assert (out / "file").read_bytes() == b"before"
    with pytest.raises(KeyboardInterrupt):
        export(tank, "tank/i/a@1", out / "new", "oci-dir", progress=stop)
    assert not (out / "new").exists()


def test_a_full_disk(tank: Pool, tmp_path: Path) -> None:
    programs.need("mount")
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        for format_ in FORMATS:
            with pytest.raises(NoSpace, match=r"cannot write '.*small/out': no space left on device"):
                export(tank, "tank/i/a@1", small / "out", format_, "none")
            assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_damage_in_the_pool_names_the_layer(tank: Pool, tmp_path: Path, everything: Path) -> None:
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    tree = stored(tank, "tank/i/a@1")
    new = tree.lookup(1, b"new")
    assert new is not None
    _flip(tank, tree.extents(new.ino)[0].key)
    for format_ in ("oci-archive", "docker-archive", "oci-dir"):
        want = rf"layer 2 \({IMAGE.diff_ids[1]}\) of 'tank/i/a@1' is damaged: .*'lamina pool scrub tank'"
        with pytest.raises(DamagedData, match=want):
            export(tank, "tank/i/a@1", tmp_path / "out", format_)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()
    with pytest.raises(DamagedData, match=r"'tank/i/a@1': '\./new' cannot be read"):
        export(tank, "tank/i/a@1", tmp_path / "out", "rootfs-tar")
    assert not (tmp_path / "out").exists()


def _flip(tank: Pool, key: bytes) -> None:
    """Damage an object where it lies."""
    location = tank.store.locate([key])[key]
    (pack,) = [path for path in (tank.path / "packs").iterdir() if int(path.stem) == location.pack]
    with pack.open("r+b") as raw:
        raw.seek(location.offset)
        byte = raw.read(1)
        raw.seek(location.offset)
        raw.write(bytes([byte[0] ^ 1]))


def test_a_layer_whose_bytes_are_others_is_refused(tank: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the pool ever give other bytes than it took, without noticing: the diff ID does."""
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    from lamina.fs.imagearea import ImageArea

    real = ImageArea.open_layer
    monkeypatch.setattr(
        ImageArea,
        "open_layer",
        lambda self, diff_id: (
            real(self, diff_id) if diff_id != IMAGE.diff_ids[1] else io.BytesIO(TOP.replace(b"3", b"4", 1))
        ),
    )
    with pytest.raises(DamagedData, match=r"layer 2 .*its tar has the digest sha256:"):
        export(tank, "tank/i/a@1", tmp_path / "out", "oci-archive")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-o", "{tmp}/missing/out", "tank/i/a@1"], 1, "there is no directory '{tmp}/missing'"),
        (["-f", "oci-dir", "-o", "{tmp}/missing/out", "tank/i/a@1"], 1, "there is no directory '{tmp}/missing'"),
        (["-o", "{tmp}", "tank/i/a@1"], 1, "it is a directory; name a file in it"),
        (["-f", "oci-dir", "-o", "{tmp}", "tank/i/a@1"], 1, "it is not empty and no OCI layout"),
        (
            ["-f", "oci-dir", "-o", "{tmp}/pool/pool.json", "tank/i/a@1"],
            1,
            "it is a file; an OCI layout is a directory",
        ),
        (["-f", "tarball", "-o", "{tmp}/out", "tank/i/a@1"], 2, "invalid format 'tarball': oci-archive, oci-dir"),
        (["--compression", "xz", "-o", "{tmp}/out", "tank/i/a@1"], 2, "unknown compression 'xz'"),
        (["--level", "10", "-o", "{tmp}/out", "tank/i/a@1"], 2, "gzip has no level 10"),
        (["-f", "oci-dir", "tank/i/a@1"], 2, "oci-dir is a directory: name it with -o"),
        (["-j", "tank/i/a@1"], 2, "standard output is the archive: -j needs -o FILE"),
        (["-f", "rootfs-tar", "--tag", "a:b", "-o", "{tmp}/out", "tank/i/a@1"], 2, "--tag is for the other formats"),
        (["--tag", "A B", "-o", "{tmp}/out", "tank/i/a@1"], 1, "invalid reference 'A B'"),
        (["-o", "{tmp}/out", "tank/i/a@none"], 1, "dataset does not exist"),
        (["-o", "{tmp}/out", "tank/i/a"], 1, "missing '@' delimiter"),
        (["-o", "{tmp}/out"], 2, "missing image argument"),
    ],
)
def test_what_is_refused(
    tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    put(tank, BuiltImage([BASE]), "tank/i/a@1", tmp_path)
    assert call("image", "export", *(word.format(tmp=tmp_path) for word in words)) == status
    first = capsys.readouterr().err.splitlines()[0]
    assert said.format(tmp=tmp_path) in first
    assert not (tmp_path / "out").exists()


def test_a_terminal_is_not_written_to(tank: Pool, tmp_path: Path) -> None:
    put(tank, BuiltImage([BASE]), "tank/i/a@1", tmp_path)
    ours, theirs = pty.openpty()
    try:
        words = [sys.executable, "-m", "lamina", "image", "export", "tank/i/a@1"]
        done = subprocess.run(words, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 1
    assert done.stderr == "standard output is a terminal: redirect it, or name a file with -o\n"


def test_a_reader_that_goes_away(tank: Pool, tmp_path: Path) -> None:
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    words = [sys.executable, "-m", "lamina", "image", "export", "-f", "rootfs-tar", "tank/i/a@1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_two_at_one_layout(tank: Pool, tmp_path: Path) -> None:
    from lamina.oci.outgoing.layoutwriting import LayoutWriter

    put(tank, BuiltImage([BASE]), "tank/i/a@1", tmp_path)
    with LayoutWriter(str(tmp_path / "layout")), pytest.raises(Busy, match="another process adds to it"):
        export(tank, "tank/i/a@1", tmp_path / "layout", "oci-dir")


def test_an_image_that_is_destroyed_meanwhile_is_written_whole(tank: Pool, tmp_path: Path) -> None:
    put(tank, IMAGE, "tank/i/a@1", tmp_path)
    done = False

    def destroy(_: int, total: int) -> None:
        nonlocal done
        if not done:
            done = True
            with Pool.open("tank", write=True) as other:
                other.destroy("tank/i/a@1")
                other.gc()

    export(tank, "tank/i/a@1", tmp_path / "out", "docker-archive", progress=destroy)
    assert done
    assert not tank.exists("tank/i/a@1")
    assert call("image", "import", tmp_path / "out", "tank/i/b@1") == 0


def test_names_that_no_engine_takes(tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tank, BuiltImage([BASE]), "tank/images/Odd@1", tmp_path)
    assert call("image", "export", "-f", "docker-archive", "-o", tmp_path / "out", "tank/images/Odd@1") == 0
    assert "--tag gives the image one" in capsys.readouterr().err
    assert json.loads(_member(tmp_path / "out", "manifest.json"))[0]["RepoTags"] is None
    put(tank, BuiltImage([BASE]), "tank/images/team/app@v2", tmp_path)
    assert call("image", "export", "-f", "docker-archive", "-o", tmp_path / "out", "tank/images/team/app@v2") == 0
    assert json.loads(_member(tmp_path / "out", "manifest.json"))[0]["RepoTags"] == ["docker.io/team/app:v2"]
