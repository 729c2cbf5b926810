"""Image manifests, indexes and configs: OCI image-spec 1.1, and Docker's image manifest version 2, schema 2.

Documents come from outside: each is read strictly and within bounds, and its bytes are kept as they came, since their
digest is the image's identity. What is no image that lamina can hold is refused in words that say what it is.
"""

import hashlib
import re
from dataclasses import dataclass, field

from lamina.errors import OciError
from lamina.oci.formats.documents import MAX_CONFIG, Fields, parse_json
from lamina.oci.formats.platforms import Platform, local_platform
from lamina.pool.names import printable

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
"""Uncompressed; ``.gzip`` and ``.zstd`` are appended."""
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)
CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG)

LAYER_TYPES: dict[str, str] = {
    OCI_LAYER: "",
    f"{OCI_LAYER}+gzip": "gzip",
    f"{OCI_LAYER}+zstd": "zstd",
    DOCKER_LAYER: "",
    f"{DOCKER_LAYER}.gzip": "gzip",
    f"{DOCKER_LAYER}.zstd": "zstd",
}
"""Layer media type → how the tar is compressed."""

_FOREIGN = (
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_VAGUE = ("application/json", "application/octet-stream", "text/plain", "text/json")
"""What registries and files say of a manifest that know no better; the document's own word counts then."""

_ARTIFACTS = {
    "application/vnd.cncf.helm.": "a Helm chart",
    "application/vnd.dev.cosign.": "a cosign signature",
    "application/vnd.dev.sigstore.": "a Sigstore bundle",
    "application/vnd.in-toto": "an attestation",
    "application/vnd.cncf.notary.": "a Notary signature",
    "application/vnd.sylabs.sif.": "a Singularity image file",
    "application/vnd.wasm.": "a WebAssembly module",
    "application/vnd.docker.ai.": "a model package",
    "application/vnd.ollama.": "a model package",
    "application/vnd.docker.plugin.": "a Docker plug-in",
    "application/vnd.cyclonedx": "a bill of materials",
    "application/spdx": "a bill of materials",
    "text/spdx": "a bill of materials",
}
_REFERENCE = "vnd.docker.reference.type"
"""Annotation of what BuildKit adds to an index beside the images: attestations."""

_MAX_MANIFESTS = 10_000
_MAX_LAYERS = 1_000
_SHOWN = 8
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_OTHER_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[A-Za-z0-9=_-]+\Z")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a document says of a blob: ``size`` in bytes. ``urls`` are kept, and never followed."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform; ``raw`` is its bytes as they came, layers are from the lowest up."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The manifest's own digest."""
        return digest_of(self.raw)


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests, mostly of one image for several platforms: an OCI index or a Docker manifest list."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The index's own digest."""
        return digest_of(self.raw)


@dataclass(frozen=True, slots=True)
class History:
    """How a layer came to be; an empty one has no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """An image's config (image-spec, config.md): platform, diff IDs of the layers from the lowest up, what to run."""

    raw: bytes
    diff_ids: tuple[str, ...]
    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    created: str | None = None
    author: str = ""
    history: tuple[History, ...] = ()
    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    docker_version: str = ""

    @property
    def digest(self) -> str:
        """The image ID."""
        return digest_of(self.raw)

    @property
    def platform(self) -> Platform:
        """What the image runs on."""
        return Platform(self.os, self.architecture, self.variant, self.os_version)


def digest_of(data: bytes) -> str:
    """The digest of some bytes, ``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def check_digest(text: str, what: str = "digest") -> str:
    """``text``, if it is a digest that lamina can verify. ``what`` names it in the ``OciError``."""
    if _DIGEST.match(text):
        return text
    shown = printable(text[:100])
    if _OTHER_DIGEST.match(text) and not text.startswith("sha256:"):
        raise OciError(f"{what} '{shown}' is of another kind than sha256, which is the only one lamina verifies")
    raise OciError(f"{what} '{shown}' is no digest: sha256: and 64 hexadecimal digits are expected")


def parse_manifest(raw: bytes, media_type: str | None = None, what: str = "the manifest") -> Manifest | Index:
    """Read a manifest or an index; ``media_type`` is what it was said to be, if that is known.

    Raises ``OciError``, also for what is no container image: schema 1, artifacts, layers that lie elsewhere.
    """
    fields = Fields(parse_json(raw, what), what)
    stated = fields.text("mediaType", "")
    given = (media_type or "").split(";")[0].strip().lower()
    if given in _VAGUE:
        given = ""
    if DOCKER_SCHEMA1 in (stated, given) or DOCKER_SCHEMA1_SIGNED in (stated, given) or _is_schema1(fields):
        raise OciError(
            f"{what} is of schema 1, which was given up in 2019 and names no diff IDs; "
            "pull the image with an old Docker and push it again, or ask for a newer tag"
        )
    if stated and given and stated != given:
        raise OciError(f"{what} says it is {printable(stated)}, but came as {printable(given)}")
    if fields.value("schemaVersion") != 2:
        raise OciError(f"{what} has no schemaVersion 2")
    kind = stated or given or _guessed(fields)
    if kind in INDEX_TYPES:
        return _index(raw, kind, fields, what)
    if kind in MANIFEST_TYPES:
        return _manifest(raw, kind, fields, what)
    known = _artifact(kind)
    raise OciError(f"{what} is {known or f'of the unknown media type {printable(kind[:100])}'}, not a container image")


def _is_schema1(fields: Fields) -> bool:
    return fields.value("schemaVersion") == 1 or "fsLayers" in fields


def _guessed(fields: Fields) -> str:
    """The media type of a document that does not say it (OCI's may be left out)."""
    return OCI_INDEX if "manifests" in fields else OCI_MANIFEST


def _index(raw: bytes, kind: str, fields: Fields, what: str) -> Index:
    for member in ("config", "layers"):
        if member in fields:
            raise OciError(f"{what} is an index and has {member} too: it could be read in two ways")
    manifests: list[Descriptor] = []
    for number, entry in enumerate(fields.objects("manifests"), 1):
        if number > _MAX_MANIFESTS:
            raise OciError(f"{what} lists more than {_MAX_MANIFESTS} manifests")
        manifests.append(_descriptor(entry))
    return Index(raw, kind, tuple(manifests), fields.mapping("annotations"))


def _manifest(raw: bytes, kind: str, fields: Fields, what: str) -> Manifest:
    if "manifests" in fields:
        raise OciError(f"{what} is a manifest and lists manifests too: it could be read in two ways")
    entry = fields.object("config")
    if entry is None:
        raise OciError(f"{what} has no config")
    config = _descriptor(entry)
    layers: list[Descriptor] = []
    for number, one in enumerate(fields.objects("layers"), 1):
        if number > _MAX_LAYERS:
            raise OciError(f"{what} has more than {_MAX_LAYERS} layers")
        layers.append(_descriptor(one))
    _check_image(what, config, layers, fields.text("artifactType", ""))
    if config.size > MAX_CONFIG:
        raise OciError(f"{what} has a config of {config.size} bytes; {MAX_CONFIG} are the most that is taken")
    return Manifest(raw, kind, config, tuple(layers), fields.mapping("annotations"))


def _check_image(what: str, config: Descriptor, layers: list[Descriptor], artifact_type: str) -> None:
    """Refuse what is no container image, by the media types of its parts."""
    types = [config.media_type, artifact_type, *(layer.media_type for layer in layers)]
    known = next((name for name in map(_artifact, types) if name), None)
    if known is not None:
        raise OciError(f"{what} is {known}, not a container image")
    if config.media_type not in CONFIG_TYPES:
        kind = config.media_type if config.media_type != OCI_EMPTY else artifact_type or config.media_type
        raise OciError(f"{what} is an artifact of type {printable(kind[:100])}, not a container image")
    for number, layer in enumerate(layers, 1):
        check_layer_type(layer.media_type, f"layer {number} of {what}")


def check_layer_type(media_type: str, what: str = "a layer") -> str:
    """How a layer of this media type is compressed: ``gzip``, ``zstd`` or an empty string. Raises ``OciError``."""
    compression = LAYER_TYPES.get(media_type)
    if compression is not None:
        return compression
    if media_type.startswith(_FOREIGN):
        raise OciError(
            f"{what} is not distributable: it lies outside the registry, as Windows' base layers do; "
            "lamina holds Linux images that are whole"
        )
    if media_type.endswith("+encrypted"):
        raise OciError(f"{what} is encrypted: decrypt the image first, such as with 'skopeo copy --decryption-key'")
    raise OciError(f"{what} is of the unknown media type '{printable(media_type[:100])}'")


def _artifact(media_type: str) -> str | None:
    return next((name for prefix, name in _ARTIFACTS.items() if media_type.startswith(prefix)), None)


def _descriptor(fields: Fields) -> Descriptor:
    platform = fields.object("platform")
    return Descriptor(
        fields.text("mediaType"),
        check_digest(fields.text("digest"), f"{fields.what}: the digest"),
        fields.size("size"),
        fields.mapping("annotations"),
        None if platform is None else _platform(platform),
        fields.texts("urls"),
    )


def _platform(fields: Fields) -> Platform:
    return Platform(
        fields.text("os", ""),
        fields.text("architecture", ""),
        fields.text("variant", ""),
        fields.text("os.version", ""),
    )


def parse_config(raw: bytes, what: str = "the config") -> Config:
    """Read an image's config. Raises ``OciError``."""
    fields = Fields(parse_json(raw, what, MAX_CONFIG), what)
    rootfs = fields.object("rootfs")
    if rootfs is None:
        raise OciError(f"{what} has no rootfs: it is not that of a container image")
    if rootfs.text("type", "layers") != "layers":
        raise OciError(f"{what} has a rootfs of the unknown type '{printable(rootfs.text('type')[:40])}'")
    diff_ids = rootfs.texts("diff_ids")
    if len(diff_ids) > _MAX_LAYERS:
        raise OciError(f"{what} has more than {_MAX_LAYERS} layers")
    execution = fields.object("config") or Fields({}, what)
    return Config(
        raw=raw,
        diff_ids=tuple(check_digest(one, f"diff ID {number} of {what}") for number, one in enumerate(diff_ids, 1)),
        os=fields.text("os", ""),
        architecture=fields.text("architecture", ""),
        variant=fields.text("variant", ""),
        os_version=fields.text("os.version", ""),
        created=fields.text("created", "") or None,
        author=fields.text("author", ""),
        history=tuple(_history(one) for one in fields.objects("history")),
        user=execution.text("User", ""),
        exposed_ports=execution.names("ExposedPorts"),
        env=execution.texts("Env"),
        entrypoint=execution.texts("Entrypoint"),
        cmd=execution.texts("Cmd"),
        volumes=execution.names("Volumes"),
        working_dir=execution.text("WorkingDir", ""),
        labels=execution.mapping("Labels"),
        stop_signal=execution.text("StopSignal", ""),
        docker_version=fields.text("docker_version", ""),
    )


def _history(fields: Fields) -> History:
    return History(
        fields.text("created", ""),
        fields.text("created_by", ""),
        fields.text("author", ""),
        fields.text("comment", ""),
        fields.flag("empty_layer"),
    )


def check_layer_count(layers: int, config: Config, what: str = "the image") -> None:
    """A manifest has to name as many layers as the config has diff IDs. Raises ``OciError``."""
    if layers != len(config.diff_ids):
        raise OciError(f"{what} has {layers} layers, but its config names {len(config.diff_ids)}: they do not match")


def choose(index: Index, platform: Platform | None = None, what: str = "the image") -> Descriptor:
    """The entry of an index for a platform (default: this machine's): a manifest, or an index below it.

    Attestations and other things that no machine runs are passed over. An entry that says no platform is taken if it
    is the only one. Raises ``OciError``, which lists what there is.
    """
    wanted = platform or local_platform()
    images = [entry for entry in index.manifests if is_image(entry)]
    best: tuple[int, Descriptor] | None = None
    for entry in images:
        rank = None if entry.platform is None else entry.platform.rank(wanted)
        if rank is not None and (best is None or rank < best[0]):
            best = rank, entry
    if best is not None:
        return best[1]
    if not images:
        raise OciError(f"{what} is an index without a container image")
    silent = [entry for entry in images if entry.platform is None]
    if len(silent) == 1 and len(images) == 1:
        return silent[0]
    names = dict.fromkeys(str(entry.platform) if entry.platform else "(none said)" for entry in images)
    listed = ", ".join(list(names)[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    raise OciError(f"{what} is not there for {wanted}, but for {listed}; choose one with --platform")


def is_image(entry: Descriptor) -> bool:
    """Whether an entry may be an image that some machine runs."""
    if entry.media_type not in MANIFEST_TYPES + INDEX_TYPES or _REFERENCE in entry.annotations:
        return False
    return entry.platform is None or not entry.platform.unknown
