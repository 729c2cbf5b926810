"""Makes container images of the corpus: an OCI layout, and a registry's storage that shares its blobs.

    python -m benchmarks.layered --corpus CORPUS --output DIR [--images 2.5.1,2.6.0] [--compression gzip|zstd]

Each image has four layers, as a Dockerfile of several steps would make them: Debian with Python, Python packages,
CUDA's libraries, PyTorch. DIR/layout is an OCI layout with a tag for each version; ``skopeo inspect
oci:DIR/layout:2.5.1`` and ``umoci unpack --image DIR/layout:2.5.1`` take it. DIR/registry is what ``docker-registry``
keeps for ``pytorch:VERSION``, its blobs hard links to the layout's.

Tars are GNU tar's, sorted by name, so the same files give the same bytes whenever they are written: the layer of
Debian is the same blob in every image. 3 GB an image; a tag that is there is kept, so a build that broke off goes on.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks import options

REPOSITORY = "pytorch"
SITE = "usr/local/lib/python3.11/dist-packages"
CUDA = ("nvidia", "nvidia_*", "cuda_*")
TORCH = ("torch", "torch-*", "torchgen", "functorch", "torchvision", "torchvision-*", "torchvision.libs", "triton*")
IMAGE_BYTES = 4_000_000_000
CREATED = "2024-01-01T00:00:00Z"
"""Nothing of an image may depend on when it was built."""

_READ = 1 << 20
_LAYER = "application/vnd.oci.image.layer.v1.tar+"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Step:
    """A layer: what the history says of it, and the arguments that make GNU tar write it."""

    words: str
    arguments: Sequence[str]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is written. ``descriptor`` is the manifest's."""

    diff_id: str
    descriptor: dict[str, Any]
    step: Step


def main() -> None:
    """Parse the arguments and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="where img-VERSION directories lie")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where layout and registry are made")
    parser.add_argument("--images", default="2.5.1,2.6.0", metavar="V,V", help="versions (default: %(default)s)")
    parser.add_argument("--compression", default="gzip", choices=("gzip", "zstd"), help="of layers (default: gzip)")
    arguments = parser.parse_args()
    layout = Layout(arguments.output / "layout")
    wanted = [one for one in options.images(arguments.corpus, arguments.images) if one.version not in layout.tags()]
    options.need_space(arguments.output, IMAGE_BYTES * len(wanted))
    for image in wanted:
        started = time.monotonic()
        size = layout.add(image.version, image.path, arguments.compression)
        print(f"{image.version}: {size:,} bytes of layers, {time.monotonic() - started:.0f} s", flush=True)
    for version in layout.tags():
        link_into_registry(layout, arguments.output / "registry", version)


def steps(root: Path) -> list[Step]:
    """The layers of a root file system, from the lowest up."""
    site = root / SITE
    cuda = _names(site, CUDA)
    torch = _names(site, TORCH)
    rest = sorted({path.name for path in site.iterdir()} - {*cuda, *torch})

    def some(names: Sequence[str]) -> list[str]:
        return ["-C", str(root), *(f"{SITE}/{name}" for name in names)]

    # Only what lies in ``site`` differs between versions; directories above it have their times from its making.
    base = root.parent / "base"
    debian = ["-C", str(base if base.is_dir() else root), f"--exclude=./{SITE}", "."]
    return [
        Step("debootstrap bookworm; apt-get install python3 python3-pip git openssh-server", debian),
        Step("pip install jupyterlab pandas numpy", some(rest)),
        Step("pip install nvidia-cublas nvidia-cudnn nvidia-nccl ...", some(cuda)),
        Step("pip install torch torchvision", some(torch)),
    ]


def _names(site: Path, patterns: Sequence[str]) -> list[str]:
    return sorted({path.name for pattern in patterns for path in site.glob(pattern)})


class Layout:
    """An OCI layout directory (image-spec, image-layout.md)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = path / "blobs" / "sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def tags(self) -> dict[str, dict[str, Any]]:
        """Descriptors by tag."""
        index = self.path / "index.json"
        found = json.loads(index.read_text())["manifests"] if index.exists() else []
        return {one["annotations"][_NAME]: one for one in found}

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        return self.blobs / digest.partition(":")[2]

    def document(self, digest: str) -> Any:
        """A blob that is JSON."""
        return json.loads(self.blob(digest).read_bytes())

    def add(self, tag: str, root: Path, compression: str) -> int:
        """Write an image; returns the bytes of its layers as they are sent."""
        layers = [self._layer(step, compression) for step in steps(root)]
        config = {
            "created": CREATED,
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["python3"], "Labels": {"torch": tag}},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": CREATED, "created_by": layer.step.words} for layer in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._put(_CONFIG, config),
            "layers": [layer.descriptor for layer in layers],
        }
        tags = self.tags()
        tags[tag] = {**self._put(_MANIFEST, manifest), "annotations": {_NAME: tag}}
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": list(tags.values())}
        part = self.path / "index.json.part"
        part.write_text(json.dumps(index))
        part.rename(self.path / "index.json")
        return sum(layer.descriptor["size"] for layer in layers)

    def _put(self, media_type: str, document: dict[str, Any]) -> dict[str, Any]:
        raw = json.dumps(document, separators=(",", ":")).encode()
        digest = hashlib.sha256(raw).hexdigest()
        (self.blobs / digest).write_bytes(raw)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(raw)}

    def _layer(self, step: Step, compression: str) -> Layer:
        part = self.blobs / "layer.part"
        command = ["tar", "--create", "--format=pax", "--sort=name", "--numeric-owner", "--xattrs"]
        # Without these GNU tar writes fractions of seconds, which Docker does not, and its own process number.
        command += ["--pax-option=delete=atime,delete=ctime,delete=mtime,exthdr.name=%d/PaxHeaders/%f", *step.arguments]
        tar_hash = hashlib.sha256()
        with part.open("wb") as file, subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
            assert tar.stdout is not None
            hashing = _Hashing(file)
            compressor = _compressor(hashing, compression)
            while block := tar.stdout.read(_READ):
                tar_hash.update(block)
                compressor.write(block)
            compressor.close()
        if tar.returncode:
            sys.exit(f"tar failed: {' '.join(command)}")
        digest = hashing.hash.hexdigest()
        part.rename(self.blobs / digest)
        descriptor = {"mediaType": _LAYER + compression, "digest": f"sha256:{digest}", "size": hashing.count}
        return Layer(f"sha256:{tar_hash.hexdigest()}", descriptor, step)


class _Hashing:
    """A file that knows the digest of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.count = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.count += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _compressor(file: "_Hashing", compression: str) -> Any:
    """Both write the same bytes for the same input: no time and no name in the header, one thread's result."""
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=3, threads=2).stream_writer(file, closefd=False)  # type: ignore[arg-type]
    from isal import igzip

    return igzip.IGzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0)  # type: ignore[no-untyped-call]


def link_into_registry(layout: Layout, storage: Path, tag: str) -> None:
    """Give an image to a registry of distribution's form (``docker-registry``) by hard links to the layout's blobs."""
    root = storage / "docker" / "registry" / "v2"
    repository = root / "repositories" / REPOSITORY
    descriptor = layout.tags()[tag]
    manifest = layout.document(descriptor["digest"])
    parts = [manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
    for digest in (*parts, descriptor["digest"]):
        value = digest.partition(":")[2]
        data = root / "blobs" / "sha256" / value[:2] / value / "data"
        data.parent.mkdir(parents=True, exist_ok=True)
        if not data.exists():
            os.link(layout.blob(digest), data)
    manifests = repository / "_manifests"
    whole = descriptor["digest"].partition(":")[2]
    links = {repository / "_layers" / "sha256" / digest.partition(":")[2]: digest for digest in parts}
    links[manifests / "revisions" / "sha256" / whole] = descriptor["digest"]
    links[manifests / "tags" / tag / "current"] = descriptor["digest"]
    links[manifests / "tags" / tag / "index" / "sha256" / whole] = descriptor["digest"]
    for directory, digest in links.items():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "link").write_text(digest)


if __name__ == "__main__":
    main()
