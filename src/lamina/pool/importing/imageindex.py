"""What the image areas of trees say, kept in the catalogue: config, layers, and what each layer is in a registry.

All of it follows from the trees, so no name record tells it and nothing has to be done where a tree comes by a stream
or a recovery: a root that has no row yet is read when somebody asks, once. Rows go with the tree's. A tree may come
from elsewhere, so config and manifest are read with care: an image that makes no sense is refused by name when it is
asked for, and passed over where all are.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pyroaring import BitMap64

from lamina.errors import AccessDenied, DamagedData, LaminaError, NoSpace
from lamina.fs.imagearea import ImageArea, is_diff_id
from lamina.fs.view import StoredTree
from lamina.pool.names import printable
from lamina.store.database import DAMAGED, Database

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_FEW_NODES = 16
_MOST_TEXT = 256
"""Characters of what a config calls its system, or a manifest a media type."""
_MOST_LAYERS = 4096
"""Docker allows 127."""
_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]{32,128}", re.ASCII)
"""https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests"""
_AT_ONCE = 100
"""Trees that are read between two transactions."""
_KEYS = 4096


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of an image. ``tar_size``: bytes of its tar; what it is compressed is None where no manifest tells."""

    position: int
    diff_id: str
    digest: str | None
    media_type: str | None
    size: int | None
    tar_size: int


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image. ``root`` is the row of its tree; ``config`` the digest of its config, which is the image's ID."""

    root: int
    config: str
    manifest: str | None
    os: str | None
    architecture: str | None
    created: str | None
    layers: tuple[LayerRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Blob:
    """A compressed form of a layer; ``size`` in bytes."""

    digest: str
    diff_id: str
    media_type: str
    size: int


@dataclass(slots=True)
class ImageIndex:
    """The index of one open pool. Where the pool cannot be written what was read is kept here."""

    pool: "Pool"
    _own: dict[int, ImageRow | None] = field(default_factory=dict)
    _blobs: dict[str, Blob] = field(default_factory=dict)

    # -- images ---------------------------------------------------------------------------------------------------

    def row(self, root: int) -> ImageRow | None:
        """The image that a root is; None: a plain root file system. Raises ``LaminaError`` where it makes no sense."""
        if root in self._own:
            return self._own[root]
        known = self._known(root)
        if known is not None:
            return known[0]
        found = self._read(root)
        self._keep({root: found})
        return found

    def _known(self, root: int) -> tuple[ImageRow | None] | None:
        """What the catalogue says of a root; None where it does not know it."""
        database = self.pool._database
        rows = database.query("SELECT config, manifest, os, architecture, created FROM image WHERE root = ?", (root,))
        if not rows:
            return None
        config, manifest, system, architecture, created = rows[0]
        if config is None:
            return (None,)
        layers = database.query(
            "SELECT position, diff_id, digest, media_type, size, tar_size FROM image_layer WHERE root = ? "
            "ORDER BY position",
            (root,),
        )
        told = tuple(LayerRow(*layer) for layer in layers)
        return (ImageRow(root, config, manifest, system, architecture, created, told),)

    def fill(self) -> None:
        """Read the areas of all trees with names that the index does not know."""
        todo = [
            root
            for (root,) in self.pool._database.query(
                "SELECT root FROM (SELECT root FROM snapshot WHERE root IS NOT NULL "
                "UNION SELECT head FROM dataset WHERE head IS NOT NULL) WHERE root NOT IN (SELECT root FROM image)"
            )
            if root not in self._own
        ]
        for start in range(0, len(todo), _AT_ONCE):
            found: dict[int, ImageRow | None] = {}
            for root in todo[start : start + _AT_ONCE]:
                try:
                    found[root] = self._read(root)
                except LaminaError:
                    continue  # told to whoever asks for this one
            self._keep(found)

    def _read(self, root: int) -> ImageRow | None:
        located = self.pool.store.locate_ids([root])
        if not located:
            raise DamagedData("its root is not in the index")
        return read_image(root, StoredTree(located[0].key, self.pool.store.get, _FEW_NODES))

    def _keep(self, found: dict[int, ImageRow | None]) -> None:
        if not self.pool.writable:
            if not self._leave(found):
                self._own |= found
            return
        try:
            _keep_in(self.pool._database, found)
        except (NoSpace, AccessDenied):
            self._own |= found

    def _leave(self, found: dict[int, ImageRow | None]) -> bool:
        """Keep it for the next one, where this reader might write and nobody else is writing just now."""
        database = self.pool._database
        if not found or not os.access(database.path, os.W_OK):
            return False
        try:
            with contextlib.closing(Database(database.path, write=True, disk=database.disk)) as writing:
                # What a crash takes is read again.
                writing.query("PRAGMA busy_timeout = 0")
                writing.query("PRAGMA synchronous = NORMAL")
                _keep_in(writing, found)
        except LaminaError:
            return False  # a full disk must not make reading fail
        return True

    def is_right(self, root: int) -> bool:
        """Whether what the catalogue says of a root, if anything, is what its tree says."""
        known = self._known(root)
        try:
            return known is None or known[0] == self._read(root)
        except LaminaError:
            return True  # scrub says what cannot be read

    def rows(self) -> Iterator[ImageRow]:
        """All images that the index knows, after ``fill``."""
        for (root,) in self.pool._database.query("SELECT root FROM image WHERE config IS NOT NULL"):
            known = self._known(root)
            if known is not None and known[0] is not None:
                yield known[0]
        yield from (row for row in list(self._own.values()) if row is not None)

    # -- layers and blobs -----------------------------------------------------------------------------------------

    def roots_with(self, diff_id: str) -> list[int]:
        """Roots whose images have a layer, the newest first."""
        self.fill()
        rows = self.pool._database.query(
            "SELECT DISTINCT root FROM image_layer WHERE diff_id = ? ORDER BY root DESC", (diff_id,)
        )
        own = [row.root for row in self._own.values() if row and any(one.diff_id == diff_id for one in row.layers)]
        return sorted({*own, *(root for (root,) in rows)}, reverse=True)

    def diff_id_of(self, digest: str) -> str | None:
        """The diff ID of a compressed layer, as far as anything here tells."""
        if digest in self._blobs:
            return self._blobs[digest].diff_id
        self.fill()
        for table in ("blob", "image_layer"):
            rows = self.pool._database.query(f"SELECT diff_id FROM {table} WHERE digest = ? LIMIT 1", (digest,))
            if rows:
                return str(rows[0][0])
        for row in self._own.values():
            for layer in row.layers if row else ():
                if layer.digest == digest:
                    return layer.diff_id
        return None

    def remember(self, blob: Blob) -> None:
        """Note a compressed form whose digest and diff ID were both found right."""
        if not self.pool.writable:
            self._blobs[blob.digest] = blob
            return
        with contextlib.suppress(NoSpace), self.pool._database.transaction():  # only a cache
            self.pool._database.execute(
                "INSERT OR REPLACE INTO blob(digest, diff_id, media_type, size) VALUES (?, ?, ?, ?)",
                (blob.digest, blob.diff_id, blob.media_type, blob.size),
            )

    def blobs_of(self, diff_id: str) -> list[Blob]:
        """Compressed forms of a layer, by digest: those remembered, and those that manifests tell of."""
        self.fill()
        found: dict[str, Blob] = {}
        told = (
            "SELECT digest, diff_id, media_type, size FROM image_layer "
            "WHERE diff_id = ? AND digest IS NOT NULL AND media_type IS NOT NULL AND size IS NOT NULL"
        )
        for query in (told, "SELECT digest, diff_id, media_type, size FROM blob WHERE diff_id = ?"):
            for row in self.pool._database.query(query, (diff_id,)):
                found[row[0]] = Blob(*row)
        for image in self._own.values():
            for layer in image.layers if image else ():
                if layer.diff_id == diff_id and layer.digest and layer.media_type and layer.size is not None:
                    found[layer.digest] = Blob(layer.digest, diff_id, layer.media_type, layer.size)
        found |= {blob.digest: blob for blob in self._blobs.values() if blob.diff_id == diff_id}
        return [found[digest] for digest in sorted(found)]


def _keep_in(database: Database, found: dict[int, ImageRow | None]) -> None:
    with database.transaction():
        for root, row in found.items():
            if database.query("SELECT 1 FROM tree WHERE root = ?", (root,)):  # else its names went meanwhile
                _insert(database, root, row)


def _insert(database: Database, root: int, row: ImageRow | None) -> None:
    if row is None:
        database.execute("INSERT OR IGNORE INTO image(root) VALUES (?)", (root,))
        return
    database.execute("DELETE FROM image WHERE root = ?", (root,))
    database.execute(
        "INSERT INTO image(root, config, manifest, os, architecture, created) VALUES (?, ?, ?, ?, ?, ?)",
        (root, row.config, row.manifest, row.os, row.architecture, row.created),
    )
    database.execute_many(
        "INSERT INTO image_layer(root, position, diff_id, digest, media_type, size, tar_size) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(root, *_values(layer)) for layer in row.layers],
    )


def _values(layer: LayerRow) -> tuple[Any, ...]:
    return layer.position, layer.diff_id, layer.digest, layer.media_type, layer.size, layer.tar_size


# -- what others call ---------------------------------------------------------------------------------------------


def image_of(pool: "Pool", name: str) -> ImageRow | None:
    """The image that a snapshot, or a dataset's head, is; None where it is a plain root file system.

    Raises ``NotFound``, ``InvalidName``, and ``LaminaError`` where its config or manifest makes no sense.
    """
    root = pool.root(name)
    if root is None:
        return None
    try:
        return pool.image_index.row(root)
    except LaminaError as error:
        raise type(error)(f"cannot read the image '{printable(name)}': {error}") from None


def image_area(pool: "Pool", name: str) -> ImageArea:
    """The image area of a snapshot or a dataset's head. Raises ``LaminaError`` where it has none."""
    tree = pool.tree(name)
    area = ImageArea(tree) if isinstance(tree, StoredTree) else None
    if area is None or not area.present:
        raise LaminaError(f"'{printable(name)}' is a plain root file system: it has no layers")
    return area


def find_layer(pool: "Pool", diff_id: str) -> int | None:
    """Row of a root that has the layer whole: all that its tar consists of may be shared; None where none has.

    Whoever builds on it pins the root first, and asks again.
    """
    if not is_diff_id(diff_id):
        return None
    condemned: BitMap64 | None = None
    for root in pool.image_index.roots_with(diff_id):
        if condemned is None:
            condemned = BitMap64(
                row
                for (row,) in pool._database.query(
                    "SELECT id FROM object WHERE condemned IS NOT NULL AND condemned <> ?", (DAMAGED,)
                )
            )
        rows = pool._database.query("SELECT objects FROM tree WHERE root = ?", (root,))
        located = pool.store.locate_ids([root])
        # A tree of which gc has taken anything has lost its names: its nodes go too.
        if not rows or not located or not condemned.isdisjoint(BitMap64.deserialize(rows[0][0])):
            continue
        try:
            area = ImageArea(StoredTree(located[0].key, pool.store.get, _FEW_NODES))
            if _is_whole(pool, (extent.key for extent in area.extents(diff_id))):
                return root
        except LaminaError:
            continue
    return None


def _is_whole(pool: "Pool", keys: Iterable[bytes]) -> bool:
    """Whether all objects are there, and neither condemned nor damaged."""
    batch: set[bytes] = set()
    for key in keys:
        batch.add(key)
        if len(batch) >= _KEYS:
            if len(pool.store.ids(list(batch))) < len(batch):
                return False
            batch.clear()
    return len(pool.store.ids(list(batch))) == len(batch)


def diff_id_of(pool: "Pool", digest: str) -> str | None:
    """The diff ID of a compressed layer that an image of the pool has, or that was seen."""
    return pool.image_index.diff_id_of(digest)


def remember_blob(pool: "Pool", digest: str, diff_id: str, media_type: str, size: int) -> None:
    """Note a compressed form of a layer, both of whose digests were found right; ``size`` in bytes."""
    pool.image_index.remember(Blob(digest, diff_id, media_type, size))


def blobs_of(pool: "Pool", diff_id: str) -> list[Blob]:
    """Compressed forms of a layer that are known, by digest."""
    return pool.image_index.blobs_of(diff_id)


# -- reading ------------------------------------------------------------------------------------------------------


def read_image(root: int, tree: StoredTree) -> ImageRow | None:
    """What a tree's image area says. Raises ``LaminaError`` where it makes no sense or cannot be read."""
    area = ImageArea(tree)
    if not area.present:
        return None
    data, manifest = area.config(), area.manifest()
    config = _json(data, "config")
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) > _MOST_LAYERS:
        raise DamagedData("its config does not list the layers")
    sizes = area.layers()
    layers: list[LayerRow] = []
    for position, diff_id in enumerate(diff_ids):
        if not isinstance(diff_id, str) or diff_id not in sizes:
            raise DamagedData(f"its config names a layer that it does not have: {diff_id!r:.90}")
        layers.append(LayerRow(position, diff_id, None, None, None, sizes[diff_id]))
    if manifest is not None:
        layers = list(_described(layers, _json(manifest, "manifest")))
    return ImageRow(
        root,
        _digest(data),
        _digest(manifest) if manifest is not None else None,
        _text(config.get("os")),
        _text(config.get("architecture")),
        _text(config.get("created")),
        tuple(layers),
    )


def _described(layers: Sequence[LayerRow], manifest: dict[str, Any]) -> Iterator[LayerRow]:
    """The layers with what the manifest says of their compressed forms."""
    told = manifest.get("layers")
    if not isinstance(told, list) or len(told) != len(layers):
        raise DamagedData("its manifest does not list the layers that its config does")
    for layer, one in zip(layers, told, strict=True):
        digest, media_type, size = (one.get(key) if isinstance(one, dict) else None for key in _DESCRIPTOR)
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise DamagedData("its manifest has a layer without a digest")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            raise DamagedData("its manifest has a layer without a size")
        yield LayerRow(layer.position, layer.diff_id, digest, _text(media_type), size, layer.tar_size)


_DESCRIPTOR = ("digest", "mediaType", "size")


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise DamagedData(f"its {what} is no JSON") from None
    if not isinstance(found, dict):
        raise DamagedData(f"its {what} is no JSON object")
    return found


def _text(value: object) -> str | None:
    """A string as a column takes it; None for what is none."""
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_TEXT:
        return None
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


def _digest(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"
