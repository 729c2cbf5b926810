"""OCI image layouts: ``oci-layout``, ``index.json`` and ``blobs/``, in a directory or an archive (image-layout.md)."""

from collections.abc import Sequence
from functools import partial

from lamina.errors import OciError
from lamina.oci.formats.documents import MAX_CONFIG, MAX_DOCUMENT, Fields, parse_json
from lamina.oci.formats.models import (
    Descriptor,
    Index,
    Manifest,
    check_layer_count,
    choose,
    is_image,
    parse_config,
    parse_manifest,
)
from lamina.oci.formats.platforms import Platform
from lamina.oci.incoming.files import Files, read_file
from lamina.oci.incoming.listing import Listed
from lamina.oci.incoming.source import Image, LayerBlob
from lamina.pool.names import printable

LAYOUT, INDEX = "oci-layout", "index.json"
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
"""Annotations with an image's name: the whole reference as containerd and Docker write it, the specification's, which
is mostly a tag alone."""
_SHOWN = 3
_MAX_DEPTH = 3
"""Indexes within indexes that are followed."""


class Layout:
    """The images of a layout. See ``Store``."""

    def __init__(self, files: Files) -> None:
        """Raises ``OciError`` for what is no layout of a known version."""
        self.what = files.what
        self._files = files
        raw = read_file(files, LAYOUT, MAX_DOCUMENT)
        version = Fields(parse_json(raw, f"'{LAYOUT}' of {self.what}"), LAYOUT).text("imageLayoutVersion")
        if not version.startswith("1."):
            raise OciError(f"{self.what} is an OCI layout of the unknown version {printable(version[:40])}")
        what = f"'{INDEX}' of {self.what}"
        index = parse_manifest(read_file(files, INDEX, MAX_DOCUMENT), None, what)
        if not isinstance(index, Index):
            raise OciError(f"{what} is no index")
        self._entries = [entry for entry in index.manifests if is_image(entry)]
        if index.manifests and not self._entries:
            kinds = ", ".join(dict.fromkeys(printable(entry.media_type[:80]) for entry in index.manifests[:_SHOWN]))
            raise OciError(f"{what} lists no container image, only {kinds}")

    def images(self) -> Sequence[Listed]:
        """See ``Store``."""
        return [
            Listed(number, _names(entry), entry.digest, entry.platform) for number, entry in enumerate(self._entries)
        ]

    def image(self, listed: Listed, platform: Platform | None = None) -> Image:
        """See ``Store``."""
        entry = self._entries[listed.number]
        document: Index | Manifest | None = None
        for _ in range(_MAX_DEPTH + 1):
            what = f"manifest {entry.digest} of {self.what}"
            raw = read_file(self._files, blob_path(entry.digest), MAX_DOCUMENT, entry.digest, entry.size)
            document = parse_manifest(raw, entry.media_type, what)
            if isinstance(document, Manifest):
                break
            entry = choose(document, platform, f"the image of {self.what}")
        if not isinstance(document, Manifest):
            raise OciError(f"{self.what} has indexes within indexes, more than {_MAX_DEPTH} deep")
        return self._image(document, platform, listed.names)

    def _image(self, manifest: Manifest, platform: Platform | None, names: tuple[str, ...]) -> Image:
        one = manifest.config
        config = parse_config(
            read_file(self._files, blob_path(one.digest), MAX_CONFIG, one.digest, one.size),
            f"config {one.digest} of {self.what}",
        )
        check_layer_count(len(manifest.layers), config, f"the image of {self.what}")
        check_platform(config.platform, platform, self.what)
        layers = [
            LayerBlob(
                *(diff_id, layer.digest, layer.size, layer.media_type),
                partial(self._files.open, blob_path(layer.digest)),
                blob_path(layer.digest),
            )
            for diff_id, layer in zip(config.diff_ids, manifest.layers, strict=True)
        ]
        return Image(config.raw, manifest.raw, layers, names[0] if names else None)


def blob_path(digest: str) -> str:
    """Where a blob lies in a layout."""
    algorithm, _, digits = digest.partition(":")
    return f"blobs/{algorithm}/{digits}"


def check_platform(there: Platform, wanted: Platform | None, what: str) -> None:
    """Raises ``OciError`` if a platform was asked for and the image is for another one."""
    if wanted is not None and there.os and there.rank(wanted) is None:
        raise OciError(f"the image of {what} is for {there}, not for {wanted}")


def _names(entry: Descriptor) -> tuple[str, ...]:
    found = (entry.annotations.get(key, "") for key in _NAMES)
    return tuple(dict.fromkeys(name for name in found if name))
