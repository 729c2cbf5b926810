"""Images out of the pool into files: OCI archives and layouts, Docker archives, tars of the root file system."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from lamina.errors import LaminaError, OciError, UsageError
from lamina.oci.formats.models import OCI_INDEX, digest_of
from lamina.oci.incoming.intake import Streams, run_together
from lamina.oci.outgoing.archives import ArchiveWriter
from lamina.oci.outgoing.forms import known_forms
from lamina.oci.outgoing.image import OutgoingImage, OutgoingLayer, outgoing
from lamina.oci.outgoing.layoutwriting import (
    INDEX_FILE,
    LAYOUT,
    LAYOUT_FILE,
    LayoutWriter,
    blob_path,
    index_entry,
    make_index,
)
from lamina.oci.outgoing.manifests import OutgoingBlob, layer_type, make_manifest
from lamina.oci.outgoing.outputs import Output, open_output
from lamina.oci.outgoing.packing import Packing
from lamina.pool.importing.imageindex import Blob, remember_blob
from lamina.pool.names import printable

if TYPE_CHECKING:
    from lamina.oci.registry.reference import Reference
    from lamina.pool.pool import Pool

Format = Literal["oci-archive", "oci-dir", "docker-archive", "rootfs-tar"]
FORMATS: tuple[Format, ...] = ("oci-archive", "oci-dir", "docker-archive", "rootfs-tar")

Progress = Callable[[int, int], None]
"""Gets the bytes of tars read so far, and how many they will be."""


@dataclass(frozen=True, slots=True)
class ExportedLayer:
    """A layer as it was written: bytes of its tar, and of what it was compressed to."""

    diff_id: str
    digest: str
    tar_size: int
    size: int


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. ``config`` is the image ID; both digests are None where the format has none."""

    name: str
    format: str
    config: str | None
    manifest: str | None
    layers: list[ExportedLayer]
    bytes: int
    seconds: float
    warnings: list[str]


def default_packing(format_: Format) -> str:
    """How layers are compressed where nothing is said: as each format's own program does it."""
    return "gzip" if format_ in ("oci-archive", "oci-dir") else "none"


def export_image(
    pool: "Pool",
    name: str,
    output: str,
    format_: Format,
    packing: Packing,
    *,
    anew: bool = False,
    reference: "Reference | None" = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a snapshot to ``output``, a path or ``-``; ``reference`` is the name that it gets there.

    A layout's own blobs of a layer are taken for it; ``anew``: only if they are compressed as ``packing`` does it.
    Nothing half-written stays. Raises ``NotFound``, ``DamagedData``, ``NoSpace``, ``LaminaError``.
    """
    began = time.monotonic()
    with outgoing(pool, name) as image:
        export = _Export(pool, image, packing, reference, progress)
        if format_ == "oci-dir":
            if output == "-":
                raise UsageError("oci-dir is a directory: name it with -o")
            with LayoutWriter(output) as layout:
                export.layout(layout, anew)
            written = layout.written
        else:
            with open_output(output) as opened:
                if format_ == "rootfs-tar":
                    export.rootfs(opened)
                elif format_ == "oci-archive":
                    export.oci_archive(ArchiveWriter(opened))
                else:
                    export.docker_archive(ArchiveWriter(opened))
            written = opened.position
        return ExportReport(
            name,
            format_,
            export.config_digest,
            export.manifest_digest,
            export.exported,
            written,
            time.monotonic() - began,
            [f"{printable(path)}: a socket has no form in a tar, left out" for path in image.left_out],
        )


@dataclass
class _Export:
    """One export; ``exported`` has each distinct layer once, in their order."""

    pool: "Pool"
    image: OutgoingImage
    packing: Packing
    reference: "Reference | None"
    progress: Progress | None
    config_digest: str | None = None
    manifest_digest: str | None = None
    exported: list[ExportedLayer] = field(default_factory=list)
    _types: dict[str, str] = field(default_factory=dict)
    """Media types of blobs that a layout had, by digest."""
    _read: dict[int, int] = field(default_factory=dict)
    """Bytes of the layers' tars that were read, by position, and in the pass before."""
    _passed: int = 0
    _passes: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # -- the formats --------------------------------------------------------------------------------------------------

    def rootfs(self, output: Output) -> None:
        with self.packing.stream(self.image.open_rootfs()) as stream:
            for block in stream.blocks():
                output.write(block)
                self._report(0, stream.tar_size)

    def oci_archive(self, archive: ArchiveWriter) -> None:
        archive.add(LAYOUT_FILE, LAYOUT)
        self._layers_into(archive, lambda layer: blob_path(layer.digest))
        config = self._config()
        manifest, media_type = self._manifest(config)
        archive.add(blob_path(digest_of(config)), config)
        archive.add(blob_path(digest_of(manifest)), manifest)
        entry = index_entry(media_type, manifest, self.reference)
        archive.add(INDEX_FILE, make_index({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}))
        archive.finish()

    def docker_archive(self, archive: ArchiveWriter) -> None:
        """The form that every reader knows: ``manifest.json``, a config and tars (Docker's image spec 1.2)."""
        self._layers_into(archive, _docker_path)
        config = self._config()
        path = f"{digest_of(config).removeprefix('sha256:')}.json"
        archive.add(path, config)
        layers = [_docker_path(layer) for layer in self._every_layer()]
        tags = [str(self.reference)] if self.reference is not None else None
        manifest = [{"Config": path, "RepoTags": tags, "Layers": layers}]
        archive.add("manifest.json", json.dumps(manifest, separators=(",", ":")).encode())
        archive.finish()

    def layout(self, layout: LayoutWriter, anew: bool) -> None:
        layout.check(self.reference)
        layers = self._distinct()
        # The pool is asked by this thread alone.
        forms = [known_forms(self.pool, layer, self.packing, only=anew) for layer in layers]
        found: dict[int, tuple[ExportedLayer, str]] = {}
        streams = Streams()
        tasks = [
            partial(self._into_layout, layout, layer, known, found, streams)
            for layer, known in zip(layers, forms, strict=True)
        ]
        # The largest first: what is left for the end is small.
        order = sorted(range(len(tasks)), key=lambda number: layers[number].size or 0, reverse=True)
        if tasks:
            run_together([tasks[number] for number in order], self.packing.layers_at_once, streams, lambda: None)
        for layer in layers:
            one, media_type = found[layer.position]
            self.exported.append(one)
            self._types[one.digest] = media_type
            if one.digest != one.diff_id:
                with suppress(LaminaError):  # it only saves work the next time
                    remember_blob(self.pool, one.digest, one.diff_id, media_type, one.size)
        config = self._config()
        manifest, media_type = self._manifest(config)
        layout.add(config)
        layout.add(manifest)
        layout.finish(index_entry(media_type, manifest, self.reference))

    def _into_layout(
        self,
        layout: LayoutWriter,
        layer: OutgoingLayer,
        known: list[Blob],
        found: dict[int, tuple[ExportedLayer, str]],
        streams: Streams,
    ) -> None:
        """Have one layer in a layout; any thread."""
        for blob in known:
            if layout.has(blob.digest, blob.size):
                one = ExportedLayer(blob.diff_id, blob.digest, layer.size or 0, blob.size)
                found[layer.position] = one, blob.media_type
                self._report(layer.position, layer.size or 0)
                return
        with layout.blob() as written, self._compressed(layer) as blocks:
            for block in blocks:
                if streams.given_up:
                    raise OciError("given up")
                written.write(block)
            written.named(blocks.layer.digest)
        found[layer.position] = blocks.layer, layer_type(self.packing, False)

    # -- layers -------------------------------------------------------------------------------------------------------

    def _distinct(self) -> list[OutgoingLayer]:
        return list({layer.diff_id: layer for layer in reversed(self.image.layers)}.values())[::-1]

    def _layers_into(self, archive: ArchiveWriter, path: Callable[[ExportedLayer], str]) -> None:
        """Every layer as a member; where name and size cannot be filled in later they are found out first."""
        first: list[ExportedLayer] = []
        if not archive.patient:
            first = self._measured()
        for number, layer in enumerate(self._distinct()):
            known = first[number] if first else None
            archive.begin(path(known) if known else "", known.size if known else None)
            with self._compressed(layer) as blocks:
                for block in blocks:
                    archive.write(block)
            self.exported.append(blocks.layer)
            archive.end(path(blocks.layer))

    def _measured(self) -> list[ExportedLayer]:
        """What each layer will be."""
        if self.packing.plain and not self.image.is_plain:
            sizes = [(layer.diff_id or "", layer.size or 0) for layer in self._distinct()]
            return [ExportedLayer(diff_id, diff_id, size, size) for diff_id, size in sizes]
        self._passes = 2
        found = []
        for layer in self._distinct():
            with self._compressed(layer) as blocks:
                for _ in blocks:
                    pass
            found.append(blocks.layer)
        self._passed, self._read = sum(self._read.values()), {}
        return found

    def _compressed(self, layer: OutgoingLayer) -> "_Compressed":
        return _Compressed(self.image, layer, self.packing, partial(self._report, layer.position))

    def _report(self, position: int, done: int) -> None:
        with self._lock:
            self._read[position] = done
            read = sum(self._read.values()) + self._passed
        if self.progress is not None:
            self.progress(read, self.image.size * self._passes)

    # -- documents ----------------------------------------------------------------------------------------------------

    def _every_layer(self) -> list[ExportedLayer]:
        """As often as the config names them."""
        found = {layer.diff_id: layer for layer in self.exported}
        return [found[layer.diff_id] if layer.diff_id is not None else self.exported[0] for layer in self.image.layers]

    def _config(self) -> bytes:
        config = self.image.config([layer.diff_id for layer in self._every_layer()])
        self.config_digest = digest_of(config)
        return config

    def _manifest(self, config: bytes) -> tuple[bytes, str]:
        # What reads layouts may know OCI's media types alone.
        made = layer_type(self.packing, False)
        layers = self._every_layer()
        blobs = [OutgoingBlob(one.digest, one.size, self._types.get(one.digest, made)) for one in layers]
        manifest, media_type = make_manifest(self.image.original, config, blobs, docker=False)
        self.manifest_digest = digest_of(manifest)
        return manifest, media_type


class _Compressed:
    """The blocks of a layer as it is written. At their end it was checked, and ``layer`` is known."""

    def __init__(
        self, image: OutgoingImage, layer: OutgoingLayer, packing: Packing, report: Callable[[int], None]
    ) -> None:
        self._image = image
        self._layer = layer
        self._stream = packing.stream(image.open(layer))
        self._report = report
        self.layer: ExportedLayer

    def __enter__(self) -> "_Compressed":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[bytes]:
        stream = self._stream
        for block in stream.blocks():
            yield block
            self._report(stream.tar_size)
        self._image.check(self._layer, stream.diff_id)
        self.layer = ExportedLayer(stream.diff_id, stream.digest, stream.tar_size, stream.size)


def _docker_path(layer: ExportedLayer) -> str:
    return f"{layer.diff_id.removeprefix('sha256:')}.tar"
