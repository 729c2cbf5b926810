"""Images out of the pool into files: OCI archives and layouts, Docker archives, tars of the root file system."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lamina.errors import UsageError
from lamina.oci.archives import ArchiveWriter
from lamina.oci.layoutwriting import INDEX_FILE, LAYOUT, LAYOUT_FILE, LayoutWriter, blob_path, index_entry, make_index
from lamina.oci.manifests import OutgoingBlob, layer_type, make_manifest
from lamina.oci.models import OCI_INDEX, digest_of
from lamina.oci.outgoing import OutgoingImage, OutgoingLayer, outgoing
from lamina.oci.outputs import Output, open_output
from lamina.oci.packing import Packing
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
    reference: "Reference | None" = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a snapshot to ``output``, a path or ``-``; ``reference`` is the name that it gets there.

    Nothing half-written stays. Raises ``NotFound``, ``DamagedData``, ``NoSpace``, ``LaminaError``.
    """
    began = time.monotonic()
    with outgoing(pool, name) as image:
        export = _Export(image, packing, reference, progress)
        if format_ == "oci-dir":
            if output == "-":
                raise UsageError("oci-dir is a directory: name it with -o")
            with LayoutWriter(output) as layout:
                export.layout(layout)
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

    image: OutgoingImage
    packing: Packing
    reference: "Reference | None"
    progress: Progress | None
    config_digest: str | None = None
    manifest_digest: str | None = None
    exported: list[ExportedLayer] = field(default_factory=list)
    _read: int = 0
    _passes: int = 1

    # -- the formats --------------------------------------------------------------------------------------------------

    def rootfs(self, output: Output) -> None:
        with self.packing.stream(self.image.open_rootfs()) as stream:
            for block in stream.blocks():
                output.write(block)
                self._report(stream.tar_size)

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

    def layout(self, layout: LayoutWriter) -> None:
        layout.check(self.reference)
        for layer in self._distinct():
            with layout.blob() as blob, self._compressed(layer) as blocks:
                for block in blocks:
                    blob.write(block)
                blob.named(self.exported[-1].digest)
        config = self._config()
        manifest, media_type = self._manifest(config)
        layout.add(config)
        layout.add(manifest)
        layout.finish(index_entry(media_type, manifest, self.reference))

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
            archive.end(path(self.exported[-1]))

    def _measured(self) -> list[ExportedLayer]:
        """What each layer will be."""
        if self.packing.plain and not self.image.is_plain:
            sizes = [(layer.diff_id or "", layer.size or 0) for layer in self._distinct()]
            return [ExportedLayer(diff_id, diff_id, size, size) for diff_id, size in sizes]
        self._passes = 2
        for layer in self._distinct():
            with self._compressed(layer) as blocks:
                for _ in blocks:
                    pass
        found, self.exported = self.exported, []
        return found

    @contextlib.contextmanager
    def _compressed(self, layer: OutgoingLayer) -> Iterator[Iterator[bytes]]:
        """The blocks of a layer as it is written; at the end it was checked, and is the last of ``exported``."""
        with self.packing.stream(self.image.open(layer)) as stream:
            before = self._read

            def blocks() -> Iterator[bytes]:
                for block in stream.blocks():
                    yield block
                    self._report(stream.tar_size, before)
                self.image.check(layer, stream.diff_id)
                self.exported.append(ExportedLayer(stream.diff_id, stream.digest, stream.tar_size, stream.size))

            yield blocks()

    def _report(self, done: int, before: int = 0) -> None:
        self._read = before + done
        if self.progress is not None:
            self.progress(self._read, self.image.size * self._passes)

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
        media_type = layer_type(self.packing, False)
        blobs = [OutgoingBlob(layer.digest, layer.size, media_type) for layer in self._every_layer()]
        manifest, media_type = make_manifest(self.image.original, config, blobs, docker=False)
        self.manifest_digest = digest_of(manifest)
        return manifest, media_type


def _docker_path(layer: ExportedLayer) -> str:
    return f"{layer.diff_id.removeprefix('sha256:')}.tar"
