"""Archives as ``docker save`` writes them, and with it podman, skopeo, crane, kaniko and others.

``manifest.json`` lists the images: the path of the config, names, paths of the layers' tars from the lowest up. The
paths are the writer's own business: ``<id>/layer.tar`` before Docker 25, ``blobs/sha256/<hex>`` since, ``<hex>.tar``
of podman and skopeo, ``<hex>.tar.gz`` of crane; a layer that occurs twice may be a link. So a layer is what its diff ID
says, wherever it lies and however it is compressed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lamina.errors import OciError
from lamina.oci.formats.documents import MAX_CONFIG, MAX_DOCUMENT, Fields, parse_json
from lamina.oci.formats.models import OCI_LAYER, Config, check_layer_count, digest_of, parse_config
from lamina.oci.formats.platforms import Platform
from lamina.oci.incoming.files import Files, named_by_content, read_file
from lamina.oci.incoming.layout import check_platform
from lamina.oci.incoming.listing import Listed
from lamina.oci.incoming.source import Image, LayerBlob
from lamina.pool.names import printable

MANIFEST = "manifest.json"
_REPOSITORIES = "repositories"
_MAX_IMAGES = 10_000


@dataclass(frozen=True, slots=True)
class _Entry:
    config: str
    names: tuple[str, ...]
    layers: tuple[str, ...]


class DockerArchive:
    """The images of such an archive. See ``Store``."""

    def __init__(self, files: Files) -> None:
        """Raises ``OciError``."""
        self.what = files.what
        self._files = files
        if not files.has(MANIFEST):
            if files.has(_REPOSITORIES):
                raise OciError(
                    f"{self.what} was written by a Docker older than 1.10 and names no diff IDs: "
                    "load it into a newer one and save it again"
                )
            raise OciError(f"{self.what} has no '{MANIFEST}': it is no archive of 'docker save'")
        what = f"'{MANIFEST}' of {self.what}"
        entries = parse_json(read_file(files, MANIFEST, MAX_DOCUMENT), what)
        if not isinstance(entries, list):
            raise OciError(f"{what} is no list of images")
        if len(entries) > _MAX_IMAGES:
            raise OciError(f"{what} lists more than {_MAX_IMAGES} images")
        self._entries = [_entry(Fields(one, f"image {number} in {what}")) for number, one in enumerate(entries)]
        self._configs: dict[str, Config] = {}

    def images(self) -> Sequence[Listed]:
        """See ``Store``."""
        return [
            Listed(number, entry.names, (config := self._config(entry.config)).digest, config.platform)
            for number, entry in enumerate(self._entries)
        ]

    def image(self, listed: Listed, platform: Platform | None = None) -> Image:
        """See ``Store``."""
        entry = self._entries[listed.number]
        config = self._config(entry.config)
        check_layer_count(len(entry.layers), config, f"the image of {self.what}")
        check_platform(config.platform, platform, self.what)
        layers = [
            LayerBlob(diff_id, None, self._size(path), OCI_LAYER, partial(self._files.open, path), path)
            for diff_id, path in zip(config.diff_ids, entry.layers, strict=True)
        ]
        return Image(config.raw, None, layers, entry.names[0] if entry.names else None)

    def _size(self, path: str) -> int | None:
        """The bytes of a layer; None where it is missing, which is no fault if the pool has it."""
        return self._files.size(path) if self._files.has(path) else None

    def _config(self, path: str) -> Config:
        config = self._configs.get(path)
        if config is None:
            raw = read_file(self._files, path, MAX_CONFIG)
            said = named_by_content(path.removesuffix(".json"))
            if said is not None and said != digest_of(raw):
                raise OciError(f"'{printable(path)}' of {self.what} is damaged: its digest is {digest_of(raw)}")
            config = self._configs[path] = parse_config(raw, f"'{printable(path)}' of {self.what}")
        return config


def _entry(fields: Fields) -> _Entry:
    return _Entry(fields.text("Config"), fields.texts("RepoTags"), fields.texts("Layers"))
