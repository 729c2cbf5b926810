"""Taking an image from a registry into the pool."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, cast

from lamina.errors import AlreadyExists, OciError, RegistryError
from lamina.oci.formats.documents import MAX_CONFIG
from lamina.oci.formats.models import Config, Manifest, check_layer_count, choose, parse_config, parse_manifest
from lamina.oci.incoming.blobs import read_blob
from lamina.oci.incoming.intake import JOBS, take_image
from lamina.oci.incoming.source import Image, LayerBlob
from lamina.oci.incoming.states import EXISTS, WAITING, LayerWatcher, Nobody
from lamina.oci.inspecting import SOURCE, repository_of
from lamina.oci.registry.reference import Reference
from lamina.pool.names import check_dataset_name, check_snapshot_name, printable, split_snapshot

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from lamina.oci.formats.models import Descriptor
    from lamina.oci.formats.platforms import Platform
    from lamina.oci.registry.client import Registry
    from lamina.pool import ImportReport, Pool

_MAX_DEPTH = 3
"""Indexes within indexes that are followed."""
_SIMILAR = 3
"""Tags that are offered instead of one that is not there."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference is in its registry at one moment. ``digest``: of what it names, which may be an index."""

    reference: Reference
    digest: str
    manifest: Manifest
    config: Config

    @property
    def source(self) -> str:
        """The reference with what it was: ``docker.io/library/debian:12@sha256:…``."""
        tag = f":{self.reference.tag}" if self.reference.tag else ""
        return f"{self.reference.name}{tag}@{self.digest}"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did.

    ``report`` is None where the image was there already. ``moved``: there was another image of this name; ``kept``: the
    name it has now, None where it is gone. ``downloaded``: bytes of layers; ``fetched``: their digests.
    """

    name: str
    resolved: Resolved
    report: "ImportReport | None" = None
    moved: bool = False
    kept: str | None = None
    downloaded: int = 0
    fetched: Sequence[str] = ()


@dataclass
class _Counting:
    """A watcher that also notes what was downloaded."""

    watcher: LayerWatcher
    bytes: dict[str, int] = field(default_factory=dict)

    def begin(self, layers: Sequence[tuple[str, int | None]]) -> None:
        self.watcher.begin(layers)

    def update(self, digest: str, state: str, done: int) -> None:
        if state not in (WAITING, EXISTS):
            self.bytes[digest] = done
        self.watcher.update(digest, state, done)


class _Download(io.RawIOBase):
    """A blob that can be closed while another thread waits for its next bytes: the registry's connections are cut."""

    def __init__(self, registry: "Registry", stream: BinaryIO) -> None:
        super().__init__()
        self._registry = registry
        self._stream = stream
        self._readinto: Callable[[memoryview], int | None] = stream.readinto  # type: ignore[attr-defined]
        self._reading = False
        self._over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        # Each side says what it is about to do before it looks at what the other one does.
        self._reading = True
        try:
            if self._over:
                raise ValueError("read of a closed blob")
            return self._readinto(memoryview(buffer).cast("B")) or 0
        finally:
            self._reading = False

    def close(self) -> None:
        if not self._over:
            self._over = True
            if self._reading:
                self._registry.close()
            self._stream.close()
        super().close()


# -- names --------------------------------------------------------------------------------------------------------


def target(reference: Reference, dest: str | None, images: Callable[[], str]) -> str:
    """The image's name in the pool. ``dest``: ``dataset`` or ``dataset@tag``; ``images`` gives the images dataset."""
    dataset, tag = split_snapshot(dest if dest is not None else f"{images()}/{reference.dataset_path}")
    name = f"{dataset}@{tag if tag is not None else reference.snapshot_name}"
    check_dataset_name(dataset, "pull")
    check_snapshot_name(name, "pull")
    return name


def check_repository(pool: "Pool", dataset: str, reference: Reference) -> None:
    """Refuse a dataset that nobody named and that holds another repository's images. Raises ``AlreadyExists``."""
    if not pool.exists(dataset):
        return
    images = pool.list([dataset], depth=1, types=("image",))
    for entry, values in zip(images, pool.get_many(images, [SOURCE]), strict=True):
        source = values[SOURCE].value
        if source is not None and repository_of(str(source)) != reference.name:
            raise AlreadyExists(
                f"cannot pull {reference}: '{dataset}' is for the images of {printable(repository_of(str(source)))} "
                f"('{printable(entry.name)}'); name a DEST"
            )


# -- resolving ----------------------------------------------------------------------------------------------------


def resolve(registry: "Registry", reference: Reference, platform: "Platform | None" = None) -> Resolved:
    """Ask the registry what a reference is, and take manifest and config of the image for a platform.

    Raises ``OciError``, ``RegistryError``; where there is no such tag with tags that are alike.
    """
    try:
        fetched = registry.manifest(reference)
    except RegistryError as error:
        if error.status == 404 and reference.digest is None:
            raise _missing(registry, reference, error) from None
        raise
    digest = fetched.digest
    found = parse_manifest(fetched.raw, fetched.media_type, f"the manifest of {reference}")
    for _ in range(_MAX_DEPTH):
        if isinstance(found, Manifest):
            config = _config(registry, reference, found)
            check_layer_count(len(found.layers), config, str(reference))
            return Resolved(reference, digest, found, config)
        entry = choose(found, platform, str(reference))
        fetched = registry.manifest(reference.at(entry.digest))
        what = f"the manifest {entry.digest} of {reference}"
        if len(fetched.raw) != entry.size:
            raise OciError(f"{what} has {len(fetched.raw)} bytes where the index says {entry.size}")
        found = parse_manifest(fetched.raw, fetched.media_type, what)
    raise OciError(f"{reference} is an index of indexes, more than {_MAX_DEPTH} deep")


def _config(registry: "Registry", reference: Reference, manifest: Manifest) -> Config:
    one = manifest.config
    what = f"the config {one.digest} of {reference}"
    raw = read_blob(registry.blob(reference.repository, one), one.digest, one.size, what, MAX_CONFIG)
    return parse_config(raw, what)


def _missing(registry: "Registry", reference: Reference, error: RegistryError) -> RegistryError:
    """A 404 with what the repository has instead, if it says that."""
    try:
        tags = registry.tags(reference.repository)
    except RegistryError as other:
        if other.status == 404:
            return RegistryError(f"{reference.host} has no repository '{reference.repository}'", 404)
        return error
    alike = get_close_matches(reference.tag or "", tags, _SIMILAR, 0.5) or sorted(tags, reverse=True)[:_SIMILAR]
    has = ", ".join(map(printable, alike)) or "no tags"
    if len(tags) > len(alike):
        has += f" and {len(tags) - len(alike)} more"
    return RegistryError(f"{reference.name} has no tag '{reference.tag}'; it has {has}", error.status)


# -- pulling ------------------------------------------------------------------------------------------------------


def pull(
    pool: "Pool",
    registry: "Registry",
    resolved: Resolved,
    name: str,
    *,
    force: bool = False,
    jobs: int = JOBS,
    limit: int | None = None,
    watcher: LayerWatcher | None = None,
) -> Pulled:
    """Take the image into the pool as ``name`` (``dataset@tag``); a tag that is there moves.

    A failure closes the registry.

    Nothing happens where it is that image already. ``force``: replace an image that came from elsewhere. ``jobs``:
    layers at once; ``limit``: bytes that a layer may decompress to. Raises ``OciError``, ``AlreadyExists``,
    ``NoSpace``, ``Busy``; then nothing of it is left.
    """
    before = pool._catalogue.find_snapshot(name)
    if before is not None and _is_there(pool, name, resolved, force):
        return Pulled(name, resolved)
    reference, manifest = resolved.reference, resolved.manifest
    counting = _Counting(watcher or Nobody())

    def opened(layer: "Descriptor") -> BinaryIO:
        return cast(BinaryIO, _Download(registry, registry.blob(reference.repository, layer)))

    layers = [
        LayerBlob(diff_id, layer.digest, layer.size, layer.media_type, partial(opened, layer))
        for diff_id, layer in zip(resolved.config.diff_ids, manifest.layers, strict=True)
    ]
    image = Image(resolved.config.raw, manifest.raw, layers, str(reference))
    try:
        report = take_image(
            *(pool, image, name),
            move=before is not None,
            properties={SOURCE: resolved.source},
            jobs=jobs,
            limit=limit,
            watcher=counting,
        )
    except AlreadyExists:
        if before is None and pool.exists(name) and _is_there(pool, name, resolved, force):
            return Pulled(name, resolved)  # somebody else has pulled it meanwhile
        raise
    after = _name_of(pool, before.id) if before is not None else None
    moved = before is not None and after != name
    return Pulled(
        name, resolved, report, moved, after if moved else None, sum(counting.bytes.values()), tuple(counting.bytes)
    )


def _is_there(pool: "Pool", name: str, resolved: Resolved, force: bool) -> bool:
    """Whether ``name`` is the image already. Raises ``AlreadyExists`` for what is not to be replaced unasked."""
    from lamina.pool.importing.imageindex import image_of

    entry = pool.entry(name)
    if entry.kind != "image":
        raise AlreadyExists(f"cannot pull '{name}': a snapshot of this name was taken; name another DEST")
    source = pool.get(entry, [SOURCE])[SOURCE].value
    row = image_of(pool, name)
    if row is not None and row.manifest == resolved.manifest.digest:
        return True
    if not force and (source is None or repository_of(str(source)) != resolved.reference.name):
        where = f"came from {printable(repository_of(str(source)))}" if source is not None else "was imported"
        raise AlreadyExists(
            f"cannot pull {resolved.reference}: '{name}' is another image, which {where}; "
            "name another DEST, or replace it with -f"
        )
    return False


def _name_of(pool: "Pool", snapshot: int) -> str | None:
    rows = pool.store.database.query(
        "SELECT d.name, s.name FROM snapshot s JOIN dataset d ON d.id = s.dataset WHERE s.id = ?", (snapshot,)
    )
    return f"{rows[0][0]}@{rows[0][1]}" if rows else None
