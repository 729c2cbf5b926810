"""Taking an image in: its layers at once on several threads, a name only after everything matched.

Every failure, Ctrl-C included, closes all streams, so that threads that wait for bytes give up; nothing of the image
is in the pool then.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from lamina.errors import OciError
from lamina.oci.formats.models import (
    Config,
    Manifest,
    check_layer_count,
    check_layer_type,
    parse_config,
    parse_manifest,
)
from lamina.oci.incoming.ahead import ReadAhead
from lamina.oci.incoming.blobs import BlobReader, layer_limit, open_tar
from lamina.oci.incoming.source import Image, LayerBlob
from lamina.oci.incoming.states import COMPLETE, DOWNLOADING, EXISTS, STORING, WAITING, LayerWatcher, Nobody
from lamina.pool.names import split_snapshot

if TYPE_CHECKING:
    from lamina.ingest.progress import Progress
    from lamina.pool import ImportReport, Pool

JOBS = 3
"""Layers taken in at the same time where nothing else is said: what Docker downloads at once."""

_LOOK_SECONDS = 0.1
"""How often the thread that waits looks for Ctrl-C and limits."""


class Session(Protocol):
    """The part of ``LayeredImport`` that layers are taken in with."""

    def has(self, diff_id: str) -> bool:
        """Whether the pool has a layer, or took it in during this session."""

    def add(self, tar: BinaryIO, diff_id: str | None, label: str) -> str:
        """Take a layer's tar in, to its end; its diff ID."""

    def check(self) -> None:
        """Raise what is a reason to stop."""


class Streams:
    """The streams that are open, to be closed all at once by whoever finds a reason to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[BinaryIO] = []
        self._given_up = False

    def opened(self, stream: BinaryIO) -> BinaryIO:
        """``stream``, noted; it is closed at once, and ``OciError`` raised, where all was given up before."""
        with self._lock:
            if not self._given_up:
                self._open.append(stream)
                return stream
        stream.close()
        raise OciError("given up")

    def close(self, stream: BinaryIO) -> None:
        """Close one that is done with."""
        with self._lock, suppress(ValueError):
            self._open.remove(stream)
        stream.close()

    def give_up(self) -> None:
        """Close all, and those that are still to be opened."""
        with self._lock:
            self._given_up = True
            streams, self._open = self._open, []
        for stream in streams:
            with suppress(OSError, ValueError):
                stream.close()

    @property
    def given_up(self) -> bool:
        """Whether all were closed."""
        return self._given_up


def run_together(tasks: Sequence[Callable[[], None]], jobs: int, streams: Streams, check: Callable[[], None]) -> None:
    """Run tasks on ``jobs`` threads while this one looks for reasons to stop; raises the first failure.

    ``streams`` are closed then, so that the other tasks end too; all have ended when this returns.
    """
    failures: list[BaseException] = []
    ended = threading.Semaphore(0)

    def run(task: Callable[[], None]) -> None:
        try:
            if not streams.given_up:
                task()
        except BaseException as error:
            failures.append(error)
            streams.give_up()
        finally:
            ended.release()

    with ThreadPoolExecutor(max_workers=max(1, min(jobs, len(tasks))), thread_name_prefix="layer") as executor:
        try:
            for task in tasks:
                executor.submit(run, task)
            left = len(tasks)
            while left:
                if ended.acquire(timeout=_LOOK_SECONDS):
                    left -= 1
                check()
        except BaseException:
            streams.give_up()
            raise
    if failures:
        raise failures[0]


class _Given:
    """A watcher of one layer's bytes."""

    def __init__(self, watcher: LayerWatcher, layer: LayerBlob) -> None:
        self._watcher = watcher
        self._key = layer_key(layer)
        self._size = layer.size
        self._done = 0

    def took(self, count: int) -> None:
        """``count`` more bytes of the blob have come."""
        self._done += count
        self.tell(STORING if self._done == self._size else DOWNLOADING)

    def tell(self, state: str) -> None:
        """The layer has reached a state."""
        self._watcher.update(self._key, state, self._done)


def layer_key(layer: LayerBlob) -> str:
    """What a layer is known by to who watches: its blob's digest, or its diff ID where nobody said that."""
    return layer.digest or layer.diff_id


def check_image(image: Image) -> Config:
    """The image's config, if config, manifest and layers say the same of each other. Raises ``OciError``."""
    config = parse_config(image.config)
    check_layer_count(len(image.layers), config)
    for number, (layer, diff_id) in enumerate(zip(image.layers, config.diff_ids, strict=True), 1):
        check_layer_type(layer.media_type, f"layer {number}")
        if layer.diff_id != diff_id:
            raise OciError(f"layer {number} is {layer.diff_id}, but the config names {diff_id}")
    if image.manifest is None:
        return config
    manifest = parse_manifest(image.manifest)
    if not isinstance(manifest, Manifest):
        raise OciError("an index came where an image's manifest was expected")
    if manifest.config.digest != config.digest:
        raise OciError(f"the config is {config.digest}, but the manifest names {manifest.config.digest}")
    if manifest.config.size != len(image.config):
        raise OciError(f"the config has {len(image.config)} bytes, but the manifest says {manifest.config.size}")
    check_layer_count(len(manifest.layers), config)
    for number, (layer, said) in enumerate(zip(image.layers, manifest.layers, strict=True), 1):
        if layer.digest is not None and layer.digest != said.digest:
            raise OciError(f"layer {number} is {layer.digest}, but the manifest names {said.digest}")
        if layer.size is not None and layer.digest is not None and layer.size != said.size:
            raise OciError(f"layer {number} has {layer.size} bytes, but the manifest says {said.size}")
    return config


def take_image(
    pool: "Pool",
    image: Image,
    name: str,
    *,
    move: bool = False,
    properties: Mapping[str, str] | None = None,
    jobs: int = JOBS,
    limit: int | None = None,
    watcher: LayerWatcher | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> "ImportReport":
    """Take an image into the pool as ``name`` (``dataset@tag``); ``move``: a tag that is there moves.

    ``properties``: user properties of the image; ``jobs``: layers at once; ``limit``: bytes that a layer may decompress
    to, None for what its size allows. Raises ``OciError``, ``SourceError``, ``NoSpace``, ``AlreadyExists``; then
    nothing of it is left.
    """
    from lamina.pool.importing.layered import LayeredImport

    config = check_image(image)
    dataset, _ = split_snapshot(name)
    with LayeredImport(pool, dataset, progress=progress) as session:
        take_layers(session, image.layers, jobs=jobs, limit=limit, watcher=watcher)
        return session.commit(*(name, image.config, image.manifest, config.diff_ids), move=move, properties=properties)


def take_layers(
    session: Session,
    layers: Sequence[LayerBlob],
    *,
    jobs: int = JOBS,
    limit: int | None = None,
    watcher: LayerWatcher | None = None,
    streams: Streams | None = None,
) -> None:
    """Take the layers that the pool lacks into a session, each once. See ``take_image``."""
    watcher = watcher or Nobody()
    streams = streams or Streams()
    distinct = {layer.diff_id: layer for layer in reversed(layers)}
    ordered = list(dict.fromkeys(layer.diff_id for layer in layers))
    watcher.begin([(layer_key(distinct[diff_id]), distinct[diff_id].size) for diff_id in ordered])
    wanted: list[LayerBlob] = []
    for diff_id in ordered:
        there = session.has(diff_id)
        watcher.update(layer_key(distinct[diff_id]), EXISTS if there else WAITING, 0)
        if not there:
            wanted.append(distinct[diff_id])
    # The largest first: what is left for the end is small, and no thread is alone with it for long.
    wanted.sort(key=lambda layer: layer.size or 0, reverse=True)
    tasks = [partial(_take_layer, session, layer, limit, watcher, streams) for layer in wanted]
    if tasks:
        run_together(tasks, jobs, streams, session.check)


def _take_layer(session: Session, layer: LayerBlob, limit: int | None, watcher: LayerWatcher, streams: Streams) -> None:
    given = _Given(watcher, layer)
    given.tell(DOWNLOADING)
    name = layer_key(layer)
    what = f"layer {name}"
    stream = streams.opened(layer.open())
    try:
        blob = BlobReader(stream, layer.digest, layer.size, what, given.took)
        most = layer_limit(layer.size) if limit is None else limit
        with ReadAhead(open_tar(blob, layer.media_type, most, what)) as tar:
            try:
                session.add(cast(BinaryIO, tar), layer.diff_id, name)
            except BaseException:
                streams.close(stream)  # so that a read which waits for bytes ends
                raise
    finally:
        streams.close(stream)
    given.tell(COMPLETE)
