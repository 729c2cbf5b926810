"""An image of the pool on its way out: its config, the tars of its layers, what its manifest said of them."""

import contextlib
import hashlib
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

from lamina.errors import DamagedData, LaminaError, OciError
from lamina.fs.imagearea import ImageArea
from lamina.fs.view import StoredTree, TreeView
from lamina.oci.formats.models import Descriptor, Manifest, parse_config, parse_manifest
from lamina.oci.outgoing.holding import held
from lamina.oci.outgoing.machine import architecture_of
from lamina.oci.outgoing.rootfstar import RootTar
from lamina.oci.outgoing.streams import readable
from lamina.pool.names import check_name, printable

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class OutgoingLayer:
    """A layer. ``diff_id`` and ``size`` of its tar are None for a root file system whose tar was not written yet."""

    position: int
    diff_id: str | None
    size: int | None
    original: Descriptor | None
    """What the original manifest says of it."""


class OutgoingImage:
    """A snapshot as an image: one that was imported as such, or a plain root file system as an image of one layer."""

    def __init__(self, name: str, tree: TreeView, created: int) -> None:
        """``created``: when the snapshot was taken, in seconds since the epoch. Raises ``LaminaError``."""
        self.name = name
        self._tree = tree
        self._created = created
        self._area: ImageArea | None = None
        if isinstance(tree, StoredTree) and (area := ImageArea(tree)).present:
            self._area = area
        self._config: bytes | None = None
        self.original: Manifest | None = None
        self.left_out: list[bytes] = []
        """Paths of a plain root file system that have no form in a tar."""
        with self._naming():
            self.layers = self._known_layers() if self._area is not None else (OutgoingLayer(0, None, None, None),)

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except (DamagedData, OciError) as error:
            raise type(error)(f"cannot read the image '{printable(self.name)}': {error}") from None

    def _known_layers(self) -> tuple[OutgoingLayer, ...]:
        assert self._area is not None
        self._config = self._area.config()
        diff_ids = parse_config(self._config).diff_ids
        sizes = self._area.layers()
        for diff_id in diff_ids:
            if diff_id not in sizes:
                raise DamagedData(f"it lacks its layer {diff_id}")
        raw = self._area.manifest()
        if raw is not None:
            parsed = parse_manifest(raw)
            if not isinstance(parsed, Manifest) or len(parsed.layers) != len(diff_ids):
                raise DamagedData("its manifest does not list the layers that its config does")
            self.original = parsed
        described: list[Descriptor | None] = [None] * len(diff_ids)
        if self.original is not None:
            described = list(self.original.layers)
        return tuple(
            OutgoingLayer(position, diff_id, sizes[diff_id], told)
            for position, (diff_id, told) in enumerate(zip(diff_ids, described, strict=True))
        )

    @property
    def is_plain(self) -> bool:
        """Whether it is a root file system without layers."""
        return self._area is None

    @property
    def size(self) -> int:
        """Bytes of all tars, each layer once; of a plain root file system about as many."""
        known = {layer.diff_id: layer.size or 0 for layer in self.layers}
        return sum(known.values()) if not self.is_plain else self._tree.totals.data_bytes

    def open(self, layer: OutgoingLayer) -> BinaryIO:
        """The tar of a layer, from any thread. Reading raises ``DamagedData``, which names the layer or the file."""
        return readable(self._rootfs() if self._area is None else self._layer(self._area, layer))

    def _layer(self, area: ImageArea, layer: OutgoingLayer) -> Generator[bytes, None, None]:
        assert layer.diff_id is not None
        try:
            with area.open_layer(layer.diff_id) as stream:
                while data := stream.read(_READ):
                    yield data
        except DamagedData as error:
            raise self.damaged(layer, str(error)) from None

    def damaged(self, layer: OutgoingLayer, why: str) -> DamagedData:
        """The error for a layer that cannot be given out."""
        pool = printable(self.name).partition("/")[0].partition("@")[0]
        return DamagedData(
            f"layer {layer.position + 1} ({layer.diff_id}) of '{printable(self.name)}' is damaged: {why}; "
            f"'lamina pool scrub {pool}' says what else is, and mends what it can"
        )

    def check(self, layer: OutgoingLayer, diff_id: str) -> None:
        """Raise ``DamagedData`` unless what was read is the layer."""
        if layer.diff_id is not None and layer.diff_id != diff_id:
            raise self.damaged(layer, f"its tar has the digest {diff_id}")

    def measure(self) -> None:
        """Find out what the layer of a plain root file system is, by reading it all."""
        digest, size = hashlib.sha256(), 0
        with self.open_rootfs() as stream:
            while data := stream.read(_READ):
                digest.update(data)
                size += len(data)
        self.layers = (OutgoingLayer(0, f"sha256:{digest.hexdigest()}", size, None),)

    def _stored(self) -> StoredTree:
        assert isinstance(self._tree, StoredTree)  # every tree of a pool is
        return self._tree

    def open_rootfs(self) -> BinaryIO:
        """The flattened root file system as a tar."""
        return readable(self._rootfs())

    def _rootfs(self) -> Generator[bytes, None, None]:
        tar = RootTar(self._stored())
        with self._naming():
            yield from tar.blocks()
        self.left_out = tar.left_out

    def config(self, diff_ids: list[str]) -> bytes:
        """The config: the original's bytes, or for a plain root file system what can honestly be said of it."""
        if self._config is not None:
            return self._config
        created = datetime.fromtimestamp(self._created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        document = {
            "created": created,
            "architecture": architecture_of(self._stored()),
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": created, "created_by": "lamina image export"}],
        }
        return json.dumps(document, separators=(",", ":")).encode()


@contextlib.contextmanager
def outgoing(pool: "Pool", name: str) -> Iterator[OutgoingImage]:
    """The image of a snapshot, which stays in the pool as long as the context is entered.

    Raises ``NotFound``, ``InvalidName``, and ``LaminaError`` for what is no snapshot.
    """
    check_name(name)
    if "@" not in name:
        pool.entry(name)
        shown = printable(name)
        raise LaminaError(f"'{shown}' is no snapshot; 'lamina list -t snapshot {shown}' shows those it has")
    with held(pool, name) as tree:
        snapshot = pool._catalogue.find_snapshot(name)
        yield OutgoingImage(name, tree, snapshot.creation if snapshot is not None else 0)
