"""Container images by hand: layers from a few words, OCI layouts and docker-save archives of them.

base = layer(directory("etc"), file("etc/hosts", b"127.0.0.1"), symlink("bin", "usr/bin"))
top = layer(whiteout("etc/hosts"), file("etc/motd", b"hello"))
write_layout(path, {"v1": BuiltImage([base, top])})
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

NS = 10**9

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def digest_of(data: bytes) -> str:
    """The digest of some bytes, as descriptors have it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


# -- layers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One member of a layer, in terms of ``tarfile``."""

    name: str
    type: bytes = tarfile.REGTYPE
    data: bytes = b""
    link: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = 1_700_000_000
    device: tuple[int, int] = (0, 0)
    pax: Mapping[str, str] = field(default_factory=dict)


def file(name: str, data: bytes = b"", **more: Any) -> Item:
    return Item(name, data=data, **more)


def directory(name: str, mode: int = 0o755, **more: Any) -> Item:
    return Item(name, tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, target: str, **more: Any) -> Item:
    return Item(name, tarfile.SYMTYPE, link=target, mode=0o777, **more)


def hard_link(name: str, target: str, **more: Any) -> Item:
    return Item(name, tarfile.LNKTYPE, link=target, **more)


def device(name: str, major: int, minor: int, *, block: bool = False, **more: Any) -> Item:
    return Item(name, tarfile.BLKTYPE if block else tarfile.CHRTYPE, device=(major, minor), **more)


def fifo(name: str, **more: Any) -> Item:
    return Item(name, tarfile.FIFOTYPE, **more)


def whiteout(path: str) -> Item:
    """What hides ``path`` of the layers below."""
    above, _, name = path.rpartition("/")
    return Item(f"{above}/.wh.{name}" if above else f".wh.{name}")


def opaque(path: str) -> Item:
    """What hides all that the layers below have in the directory ``path`` ("" for the root)."""
    return Item(f"{path}/.wh..wh..opq" if path else ".wh..wh..opq")


def layer(*items: Item, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A layer's tar. Names are kept as they are given; lone surrogates stand for bytes that are no UTF-8."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format, errors="surrogateescape") as archive:
        for item in items:
            info = tarfile.TarInfo(item.name)
            info.type, info.mode, info.uid, info.gid, info.mtime = item.type, item.mode, item.uid, item.gid, item.mtime
            info.linkname = item.link
            info.devmajor, info.devminor = item.device
            info.pax_headers = dict(item.pax)
            info.size = len(item.data)
            archive.addfile(info, io.BytesIO(item.data))
    return stream.getvalue()


def xattr(name: str, value: bytes) -> dict[str, str]:
    """PAX records of an extended attribute: ``file(..., pax=xattr("user.a", b"x"))``."""
    return {f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")}


# -- images ---------------------------------------------------------------------------------------------------------


@dataclass
class BuiltImage:
    """An image of these layers (tars). ``compression``: gzip, zstd or none; ``docker``: Docker's media types."""

    layers: Sequence[bytes]
    compression: str = "gzip"
    docker: bool = False
    os: str = "linux"
    architecture: str = "amd64"
    variant: str | None = None
    config_extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields put into the configuration (such as "config", "history", "created")."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    indent: int | None = None
    """Of the JSON texts: what their bytes are is the business of who wrote them."""

    @property
    def diff_ids(self) -> list[str]:
        return [digest_of(tar) for tar in self.layers]

    @property
    def config(self) -> bytes:
        document: dict[str, Any] = {
            "architecture": self.architecture,
            "os": self.os,
            **({"variant": self.variant} if self.variant else {}),
            "created": "2024-05-06T07:08:09.123456789Z",
            "config": {"Env": ["PATH=/usr/bin"], "Cmd": ["/bin/sh"], "Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": [
                {"created": "2024-05-06T07:08:09Z", "created_by": f"layer {n}"} for n in range(len(self.layers))
            ],
            **self.config_extra,
        }
        return json.dumps(document, indent=self.indent).encode()

    @property
    def image_id(self) -> str:
        return digest_of(self.config)

    def blob(self, tar: bytes) -> bytes:
        """A layer as it is sent."""
        if self.compression == "gzip":
            return gzip.compress(tar, 6, mtime=0)
        if self.compression == "zstd":
            return zstandard.compress(tar, 3)
        return tar

    @property
    def layer_type(self) -> str:
        if self.docker:
            return DOCKER_LAYER + {"gzip": ".gzip", "zstd": ".zstd", "none": ""}[self.compression]
        return OCI_LAYER + {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[self.compression]

    @property
    def manifest(self) -> bytes:
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if self.docker else OCI_MANIFEST,
            "config": descriptor(DOCKER_CONFIG if self.docker else OCI_CONFIG, self.config),
            "layers": [descriptor(self.layer_type, self.blob(tar)) for tar in self.layers],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return json.dumps(document, indent=self.indent).encode()

    @property
    def platform(self) -> dict[str, str]:
        found = {"os": self.os, "architecture": self.architecture}
        return {**found, "variant": self.variant} if self.variant else found

    def blobs(self) -> dict[str, bytes]:
        """All blobs of the image, its manifest included, by digest."""
        return {digest_of(blob): blob for blob in (*map(self.blob, self.layers), self.config, self.manifest)}


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def write_layout(path: Path, images: Mapping[str, BuiltImage]) -> Path:
    """An OCI layout directory of images by tag (``org.opencontainers.image.ref.name``)."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    manifests = []
    for tag, image in images.items():
        for digest, blob in image.blobs().items():
            (blobs / digest.removeprefix("sha256:")).write_bytes(blob)
        media_type = DOCKER_MANIFEST if image.docker else OCI_MANIFEST
        names = {"org.opencontainers.image.ref.name": tag}
        manifests.append(descriptor(media_type, image.manifest, annotations=names, platform=image.platform))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    (path / "index.json").write_text(json.dumps(index))
    return path


def layout_archive(directory_: Path, archive: Path) -> Path:
    """The layout as one tar (an "oci-archive")."""
    with tarfile.open(archive, "w") as tar:
        for name in ("oci-layout", "index.json", "blobs"):
            tar.add(directory_ / name, name)
    return archive


def docker_archive(images: Mapping[str, BuiltImage], *, old: bool = False) -> bytes:
    """What ``docker save NAME...`` writes; ``old``: as before Docker 25, without blobs/ and index.json."""
    stream = io.BytesIO()
    entries = []
    written: set[str] = set()
    with tarfile.open(fileobj=stream, mode="w") as archive:

        def add(name: str, data: bytes) -> None:
            if name not in written:
                written.add(name)
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

        for name, image in images.items():
            config = image.image_id.removeprefix("sha256:")
            paths = []
            for tar, diff_id in zip(image.layers, image.diff_ids, strict=True):
                digest = diff_id.removeprefix("sha256:")
                if old:
                    add(f"{digest}/VERSION", b"1.0")
                    add(f"{digest}/json", json.dumps({"id": digest}).encode())
                paths.append(f"{digest}/layer.tar" if old else f"blobs/sha256/{digest}")
                add(paths[-1], tar)
            path = f"{config}.json" if old else f"blobs/sha256/{config}"
            add(path, image.config)
            entries.append({"Config": path, "RepoTags": [name], "Layers": paths})
        add("manifest.json", json.dumps(entries).encode())
        if not old:
            manifests = []
            for name, image in images.items():
                plain = BuiltImage(**{**image.__dict__, "compression": "none"})
                add(f"blobs/sha256/{digest_of(plain.manifest).removeprefix('sha256:')}", plain.manifest)
                names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
                manifests.append(descriptor(OCI_MANIFEST, plain.manifest, annotations=names))
            add("index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
            add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        repositories: dict[str, dict[str, str]] = {}
        for name, image in images.items():
            repository, _, tag = name.rpartition(":")
            repositories.setdefault(repository, {})[tag] = image.diff_ids[-1].removeprefix("sha256:")
        add("repositories", json.dumps(repositories).encode())
    return stream.getvalue()
