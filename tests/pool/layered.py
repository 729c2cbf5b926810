"""Images with layers, made by hand: a root file system of flat files, and layers whose data is that of files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from stat import S_IFDIR, S_IFREG

from blake3 import blake3

from lamina.fs.imagearea import area_items
from lamina.fs.node import (
    DIRENT,
    EXTENT,
    inode_key,
    name_cookie,
    number_key,
    pack_dirent,
    pack_extent,
    pack_inode,
)
from lamina.fs.types import Extent, Inode
from lamina.ingest.assemble import write_tree
from lamina.pool import Pool
from lamina.pool.importing.images import commit_image
from lamina.pool.importing.intake import Intake
from lamina.pool.names import split_snapshot
from lamina.store.record import Kind

PIECE = 100_000
"""Bytes of a chunk."""


@dataclass(frozen=True)
class Layer:
    """A layer as pieces in order: bytes that only it holds (a recipe), or the name of a file that is in it whole.

    ``overwritten``: contents of files that later layers replaced.
    """

    parts: Sequence[bytes | str]
    overwritten: Mapping[str, bytes] = field(default_factory=dict)

    def tar(self, files: Mapping[str, bytes]) -> bytes:
        return b"".join(part if isinstance(part, bytes) else self.content(part, files) for part in self.parts)

    def content(self, name: str, files: Mapping[str, bytes]) -> bytes:
        return self.overwritten.get(name, files.get(name, b""))

    def diff_id(self, files: Mapping[str, bytes]) -> str:
        return "sha256:" + sha256(self.tar(files)).hexdigest()


def config_of(diff_ids: Sequence[str], **more: object) -> bytes:
    rootfs = {"type": "layers", "diff_ids": list(diff_ids)}
    return json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs, **more}, indent=1).encode()


def manifest_of(diff_ids: Sequence[str]) -> bytes:
    media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    layers = [
        {"mediaType": media_type, "digest": "sha256:" + sha256(diff_id.encode()).hexdigest(), "size": 1000 + at}
        for at, diff_id in enumerate(diff_ids)
    ]
    return json.dumps({"schemaVersion": 2, "layers": layers}).encode()


def pieces(data: bytes) -> list[bytes]:
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]


def extents_of(data: bytes, at: int = 0) -> list[Extent]:
    return [Extent(at + n * PIECE, len(one), blake3(one).digest(), 0) for n, one in enumerate(pieces(data))]


def root_items(files: Mapping[str, bytes]) -> list[tuple[bytes, bytes]]:
    """Ascending items of a directory of files."""
    items = {inode_key(1): pack_inode(Inode(1, S_IFDIR | 0o755, 0, 0, 2, 0, 0, 0, 0, parent=1))}
    for ino, (name, data) in enumerate(files.items(), 2):
        inode = Inode(ino, S_IFREG | 0o644, 0, 0, 1, len(data), 0, 0, 0, parent=1)
        items[number_key(1, DIRENT, name_cookie(name.encode()))] = pack_dirent(ino, S_IFREG, name.encode())
        items[inode_key(ino)] = pack_inode(inode)
        for extent in extents_of(data):
            items[number_key(ino, EXTENT, extent.offset)] = pack_extent(extent.length, 0, extent.key)
    return sorted(items.items())


def layer_extents(layer: Layer, files: Mapping[str, bytes]) -> tuple[int, list[Extent]]:
    found: list[Extent] = []
    position = 0
    for part in layer.parts:
        data = part if isinstance(part, bytes) else layer.content(part, files)
        found += extents_of(data, position)
        position += len(data)
    return position, found


def put_image(
    pool: Pool,
    name: str,
    files: Mapping[str, bytes],
    layers: Sequence[Layer],
    *,
    config: bytes | None = None,
    manifest: bytes | None = b"",
) -> list[str]:
    """Put an image; its diff IDs. A manifest is made unless one is given."""
    diff_ids = [layer.diff_id(files) for layer in layers]
    config = config_of(diff_ids) if config is None else config
    manifest = manifest_of(diff_ids) if manifest == b"" else manifest
    area = {diff_id: layer_extents(layer, files) for diff_id, layer in zip(diff_ids, layers, strict=True)}
    dataset, tag = split_snapshot(name)
    blobs = [*files.values(), config, *([manifest] if manifest else [])]
    for layer in layers:
        blobs += [part if isinstance(part, bytes) else layer.content(part, files) for part in layer.parts]
    with pool._writer() as writer:
        for piece in chain.from_iterable(map(pieces, blobs)):
            writer.put(piece, Kind.CHUNK)
        told = None if manifest is None else (len(manifest), extents_of(manifest))
        items = chain(root_items(files), area_items(area, (len(config), extents_of(config)), told))
        root, totals = write_tree(items, len(files) + 2, writer)
        intake = Intake(pool._catalogue, dataset, name, pool._free())
        commit_image(pool, writer, dataset, tag or "", root, totals, False, intake)
    return diff_ids
