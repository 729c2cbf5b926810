"""Images out of the pool into a registry: what the registry has is not sent, what is sent is compressed on its way.

A blob goes up while its layer is read from the pool; nothing is written to a file. What a layer was compressed to is
remembered, so that the same layer is not compressed again for the same registry, or for another one that has it.
"""

import io
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from lamina.errors import LaminaError, OciError, RegistryError
from lamina.oci.formats.models import DOCKER_MANIFEST, digest_of
from lamina.oci.incoming.intake import Streams, run_together
from lamina.oci.incoming.states import COMPLETE, DOWNLOADING, EXISTS, WAITING, LayerWatcher, Nobody
from lamina.oci.inspecting import SOURCE, repository_of
from lamina.oci.outgoing.compressing import CompressedStream
from lamina.oci.outgoing.forms import known_forms
from lamina.oci.outgoing.image import OutgoingImage, OutgoingLayer, outgoing
from lamina.oci.outgoing.manifests import OutgoingBlob, layer_type, make_manifest
from lamina.oci.outgoing.packing import Packing
from lamina.pool.importing.imageindex import Blob, remember_blob
from lamina.pool.names import printable

if TYPE_CHECKING:
    from lamina.oci.registry.client import Registry
    from lamina.oci.registry.reference import Reference
    from lamina.pool.pool import Pool

PUSHED = "lamina:pushed"
"""User property of an image: where it was pushed to, the last place first, separated by blanks."""
_MOST_PLACES = 16

_MOST_SOURCES = 8
"""Repositories that a blob is asked to be mounted from."""


@dataclass(frozen=True, slots=True)
class PushedLayer:
    """A layer in the registry. ``how`` it came there: exists, mounted or pushed."""

    diff_id: str
    digest: str
    size: int
    how: str


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push did. ``sent``: bytes of layers; ``layers``: each distinct one, from the bottom up."""

    name: str
    reference: str
    digest: str
    size: int
    config: str
    layers: list[PushedLayer]
    sent: int
    seconds: float
    warnings: list[str]


def push(
    pool: "Pool",
    registry: "Registry",
    name: str,
    reference: "Reference",
    packing: Packing,
    *,
    anew: bool = False,
    jobs: int | None = None,
    watcher: LayerWatcher | None = None,
) -> PushReport:
    """Bring the snapshot ``name`` to a registry as ``reference``, which has a tag.

    The original's compressed layers are what the registry is asked for first; ``anew``: only those that ``packing``
    makes. ``jobs``: layers at the same time. Raises ``RegistryError``, ``DamagedData``, ``LaminaError``; the tag then
    shows what it showed before.
    """
    began = time.monotonic()
    with outgoing(pool, name) as image:
        work = _Push(pool, registry, image, reference, packing, anew, watcher or Nobody())
        layers = work.layers(jobs or packing.layers_at_once)
        config = image.config([layer.diff_id for layer in layers])
        _push_config(registry, reference, config)
        manifest, media_type = make_manifest(image.original, config, work.blobs(layers))
        digest = registry.put_manifest(reference, manifest, media_type)
        if pool.writable:
            _note(pool, name, f"{reference}@{digest}")
        return PushReport(
            name,
            str(reference),
            digest,
            len(manifest),
            digest_of(config),
            list({layer.diff_id: layer for layer in layers}.values()),
            work.sent,
            time.monotonic() - began,
            [f"{printable(path)}: a socket has no form in a tar, left out" for path in image.left_out],
        )


@dataclass
class _Push:
    pool: "Pool"
    registry: "Registry"
    image: OutgoingImage
    reference: "Reference"
    packing: Packing
    anew: bool
    watcher: LayerWatcher
    sent: int = 0
    _done: dict[int, PushedLayer] = field(default_factory=dict)
    """By the position of the first layer with the diff ID."""
    _made: dict[int, Blob] = field(default_factory=dict)
    _known: dict[str, Blob] = field(default_factory=dict)

    def layers(self, jobs: int) -> list[PushedLayer]:
        """Have every layer in the registry; one for each of the image's."""
        if self.image.is_plain and self.pool.get(self.image.name, [PUSHED])[PUSHED].value is not None:
            self.image.measure()  # it was pushed before: to read it is less than to compress and send it again
        self.pool.image_index.fill()
        distinct = list({layer.diff_id: layer for layer in reversed(self.image.layers)}.values())[::-1]
        # The pool is asked by this thread alone.
        plans = [
            (layer, known_forms(self.pool, layer, self.packing, only=self.anew), self._sources(layer.diff_id))
            for layer in distinct
        ]
        streams = Streams()
        # Uploads that wait for the registry's answer end with its connections.
        streams.opened(self.registry)  # type: ignore[arg-type]  # ``close`` is all that is asked of it
        self.watcher.begin([(_key(layer), layer.size) for layer in distinct])
        # The largest first: what is left for the end is small.
        plans.sort(key=lambda plan: plan[0].size or 0, reverse=True)
        tasks = [partial(self._layer, *plan, streams) for plan in plans]
        try:
            if tasks:
                run_together(tasks, jobs, streams, lambda: None)
        finally:
            for blob in self._made.values():
                with suppress(LaminaError):  # it only saves work the next time
                    remember_blob(self.pool, blob.digest, blob.diff_id, blob.media_type, blob.size)
        first = {layer.diff_id: layer.position for layer in distinct}
        return [self._done[first[layer.diff_id]] for layer in self.image.layers]

    def blobs(self, layers: Sequence[PushedLayer]) -> list[OutgoingBlob]:
        """The layers as the manifest names them."""
        return [OutgoingBlob(layer.digest, layer.size, self._known[layer.digest].media_type) for layer in layers]

    # -- what may be there already --------------------------------------------------------------------------------

    def _sources(self, diff_id: str | None) -> list[str]:
        """Other repositories of the registry that images with a layer came from or went to."""
        rows = self.pool.store.database.query(
            "SELECT DISTINCT p.value FROM snapshot_property p JOIN snapshot s ON s.id = p.snapshot "
            "JOIN image_layer l ON l.root = s.root WHERE p.name IN (?, ?) AND l.diff_id = ?",
            (SOURCE, PUSHED, diff_id),
        )
        found: dict[str, None] = {}
        for (value,) in rows:
            for place in str(value).split():
                host, _, repository = repository_of(place).partition("/")
                if host == self.reference.host and repository not in ("", self.reference.repository):
                    found[repository] = None
        return list(found)[:_MOST_SOURCES]

    # -- sending --------------------------------------------------------------------------------------------------

    def _layer(self, layer: OutgoingLayer, blobs: list[Blob], sources: list[str], streams: Streams) -> None:
        repository, key = self.reference.repository, _key(layer)
        self.watcher.update(key, WAITING, 0)
        for blob in blobs:
            if self.registry.has_blob(repository, blob.digest):
                self._finish(layer, blob, EXISTS, 0)
                return
        for blob in blobs:
            for source in sources:
                if self._lies_in(source, blob) and self.registry.mount_blob(repository, blob.digest, source):
                    self._finish(layer, blob, MOUNTED, 0)
                    return
        upload = _Upload(self, layer, streams)
        pushed = self.registry.push_blob(repository, None, None, upload.open)
        diff_id = upload.diff_id
        blob = Blob(pushed.digest, diff_id, layer_type(self.packing, self._docker), pushed.size)
        self._made[layer.position] = blob
        self._finish(layer, blob, COMPLETE, pushed.size)

    def _lies_in(self, repository: str, blob: Blob) -> bool:
        """Whether a blob can be mounted from there: a mount that fails begins an upload at the registry."""
        try:
            return self.registry.has_blob(repository, blob.digest)
        except RegistryError:
            return False  # whoever pushes may not look there

    @property
    def _docker(self) -> bool:
        original = self.image.original
        return original is not None and original.media_type == DOCKER_MANIFEST and self.packing.compression != "zstd"

    def _finish(self, layer: OutgoingLayer, blob: Blob, state: str, sent: int) -> None:
        self._known[blob.digest] = blob
        self._done[layer.position] = PushedLayer(blob.diff_id, blob.digest, blob.size, _HOW[state])
        self.sent += sent
        self.watcher.update(_key(layer), state, layer.size or 0)

    def progress(self, layer: OutgoingLayer, read: int) -> None:
        """``read`` bytes of the layer's tar are on their way."""
        self.watcher.update(_key(layer), DOWNLOADING, read)


MOUNTED = "mounted"
_HOW = {EXISTS: "exists", MOUNTED: "mounted", COMPLETE: "pushed"}


class _Upload:
    """The blob of one layer, made as often as the upload has to begin again."""

    def __init__(self, push: _Push, layer: OutgoingLayer, streams: Streams) -> None:
        self._push = push
        self._layer = layer
        self._streams = streams
        self.diff_id = ""
        """Of what was read to its end."""

    def open(self) -> BinaryIO:
        """The compressed layer from its beginning."""
        return io.BufferedReader(_Sent(self, self._push.packing.stream(self._push.image.open(self._layer))), 1 << 20)

    def took(self, stream: CompressedStream) -> None:
        """Some bytes were taken."""
        if self._streams.given_up:
            raise OciError("given up")
        self._push.progress(self._layer, stream.tar_size)

    def ended(self, stream: CompressedStream) -> None:
        """All bytes were taken: before the registry is told that this is a blob, it has to be the layer."""
        self._push.image.check(self._layer, stream.diff_id)
        self.diff_id = stream.diff_id


class _Sent(io.RawIOBase):
    def __init__(self, upload: _Upload, stream: CompressedStream) -> None:
        self._upload = upload
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(buffer)
        if count:
            self._upload.took(self._stream)
        else:
            self._upload.ended(self._stream)
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._stream.close()


def _key(layer: OutgoingLayer) -> str:
    """What a layer is called where its progress is shown."""
    return layer.diff_id or "rootfs"


def _push_config(registry: "Registry", reference: "Reference", config: bytes) -> None:
    digest = digest_of(config)
    if not registry.has_blob(reference.repository, digest):
        registry.push_blob(reference.repository, digest, len(config), lambda: io.BytesIO(config))


def _note(pool: "Pool", name: str, place: str) -> None:
    """Remember where an image was pushed to: its layers can be mounted from there."""
    value = pool.get(name, [PUSHED])[PUSHED].value
    others = [one for one in str(value or "").split() if repository_of(one) != repository_of(place)]
    with suppress(LaminaError):  # the image is there, whatever becomes of the note
        pool.set([name], {PUSHED: " ".join([place, *others][:_MOST_PLACES])})
