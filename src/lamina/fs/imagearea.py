"""The image area of a tree: what a container image is beside its root file system.

A layer's tar is a file in the image's own tree, whose extents lie in *recipe* chunks (headers, padding, the end of the
archive) and in the very chunks that the files of the root file system consist of: it is read back bit for bit, and
nothing is stored twice. Config and manifest are files beside the layers. All of them hang below one directory that has
no name, ``IMAGE_INO``, above every inode number that a file system has. No total of the tree counts them.

A layer's inode number is a function of its diff ID (https://github.com/opencontainers/image-spec/blob/main/config.md):
the same layer gives the same items, and so the same nodes, in every image.
"""

import io
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from stat import S_IFDIR, S_IFREG, S_ISREG
from typing import TYPE_CHECKING, BinaryIO, cast

from lamina.errors import DamagedData, NotFound, SourceError
from lamina.fs.node import (
    DIRENT,
    EXTENT,
    give_cookies,
    inode_key,
    number_key,
    pack_dirent,
    pack_extent,
    pack_inode,
    unpack_extent,
)
from lamina.fs.types import Extent, Inode
from lamina.fs.view import StoredTree

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

IMAGE_INO = 1 << 62
"""The area's directory, its own parent. Inode numbers below it are those of the root file system."""
CONFIG_INO, MANIFEST_INO = IMAGE_INO + 1, IMAGE_INO + 2
AREA_KEY = inode_key(IMAGE_INO)
"""Keys from here on are the area's."""
MOST_CONFIG = 8 << 20
"""Bytes of a config that are read. Registries take manifests of 4 MiB (distribution-spec); real configs have 10 KB."""
MOST_MANIFEST = 4 << 20

_CONFIG, _MANIFEST = b"config", b"manifest"
_LAYER_BITS = 61
_DIFF_ID = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_MOST_EXTENT = 1 << 20
_FAR = 64 << 20
"""Bytes: a seek as far as this looks its place up in the tree, a shorter one passes over the extents between."""
_KEPT = 16
"""Decoded chunks kept, 1 MiB each at most: recipe chunks and those of small files are met again and again."""
_AHEAD = 4
_THREADS = 2
_STEADY = 256 << 10
"""Bytes read without a seek from which on chunks are read ahead: who only looks for headers wants no data."""

FileExtents = tuple[int, Iterable[Extent]]
"""Size of a file in bytes, and its extents, ascending."""


def is_diff_id(text: str) -> bool:
    """Whether this is a digest that names a layer: ``sha256:`` and 64 hexadecimal digits."""
    return _DIFF_ID.fullmatch(text) is not None


def layer_ino(diff_id: str) -> int:
    """Inode number of a layer's tar. Raises ``SourceError`` for what is no diff ID."""
    if not is_diff_id(diff_id):
        raise SourceError(f"{diff_id!r} is no diff ID: lamina knows layers by 'sha256:' and 64 hexadecimal digits")
    return IMAGE_INO | 1 << _LAYER_BITS | int(diff_id[7:], 16) >> 256 - _LAYER_BITS


def named_ino(name: bytes) -> int:
    """Inode number of what has a name in the area; 0 where nothing can have it."""
    if name in (_CONFIG, _MANIFEST):
        return CONFIG_INO if name == _CONFIG else MANIFEST_INO
    text = name.decode("ascii", "replace")
    return layer_ino(text) if is_diff_id(text) else 0


def area_items(
    layers: Mapping[str, FileExtents], config: FileExtents, manifest: FileExtents | None
) -> Iterator[tuple[bytes, bytes]]:
    """Ascending items of a whole area; ``layers`` by diff ID.

    Raises ``SourceError`` for what is no diff ID, and for two layers that would have one inode number: somebody has
    made them for that.
    """
    files: dict[int, tuple[bytes, FileExtents]] = {CONFIG_INO: (_CONFIG, config)}
    if manifest is not None:
        files[MANIFEST_INO] = (_MANIFEST, manifest)
    for diff_id, layer in layers.items():
        ino = layer_ino(diff_id)
        if ino in files:
            raise SourceError(f"layers {files[ino][0].decode()} and {diff_id} begin alike: they cannot be in one image")
        files[ino] = (diff_id.encode(), layer)
    return _area_items(files)


def _area_items(files: dict[int, tuple[bytes, FileExtents]]) -> Iterator[tuple[bytes, bytes]]:
    yield AREA_KEY, pack_inode(Inode(IMAGE_INO, S_IFDIR | 0o500, 0, 0, 2, 0, 0, 0, 0, parent=IMAGE_INO))
    inodes = list(files)
    cookies = give_cookies([files[ino][0] for ino in inodes])
    for cookie, ino in sorted(zip(cookies, inodes, strict=True)):
        yield number_key(IMAGE_INO, DIRENT, cookie), pack_dirent(ino, S_IFREG, files[ino][0])
    for ino in sorted(inodes):
        size, extents = files[ino][1]
        yield inode_key(ino), pack_inode(Inode(ino, S_IFREG | 0o400, 0, 0, 1, size, 0, 0, 0, parent=IMAGE_INO))
        end = 0
        for extent in extents:
            if extent.offset < end or extent.length <= 0 or extent.offset + extent.length > size:
                raise ValueError(f"extent at {extent.offset} of {files[ino][0]!r} does not fit where it stands")
            end = extent.offset + extent.length
            yield number_key(ino, EXTENT, extent.offset), pack_extent(extent.length, extent.chunk_offset, extent.key)


class ImageArea:
    """The area of one tree. What it says may come from outside: sizes are bounded, and nothing of it is believed.

    Raises ``DamagedData`` where it is not as it should be, ``NotFound`` for a layer that it does not have.
    """

    def __init__(self, tree: StoredTree) -> None:
        self.tree = tree

    @property
    def present(self) -> bool:
        """Whether the tree is an image with layers, and not a plain root file system."""
        return self.tree.reader.find(AREA_KEY) is not None

    def config(self) -> bytes:
        """The config's bytes, as they came."""
        found = self._small(CONFIG_INO, "config", MOST_CONFIG)
        if found is None:
            raise DamagedData("the image has no config")
        return found

    def manifest(self) -> bytes | None:
        """The manifest's bytes, as they came; None where the image came without one."""
        return self._small(MANIFEST_INO, "manifest", MOST_MANIFEST)

    def layers(self) -> dict[str, int]:
        """Size of each layer's tar in bytes, by diff ID, in no order."""
        found: dict[str, int] = {}
        for entry in self.tree.readdir(IMAGE_INO):
            if entry.ino != named_ino(entry.name):
                raise DamagedData(f"the image has a layer that is not the one it is said to be: {entry.name!r:.90}")
            if entry.name not in (_CONFIG, _MANIFEST):
                diff_id = entry.name.decode("ascii")
                found[diff_id] = self._size(entry.ino, f"layer {diff_id}")
        return found

    def size(self, diff_id: str) -> int:
        """Size of one layer's tar in bytes."""
        return self._size(self._find(diff_id), f"layer {diff_id}")

    def extents(self, diff_id: str) -> Iterator[Extent]:
        """Extents of a layer's tar, ascending."""
        return _extents(self.tree, self._find(diff_id), 0)

    def open_layer(self, diff_id: str) -> BinaryIO:
        """A layer's tar, to be read and closed. Seeking costs nothing; what is read steadily is read ahead."""
        ino = self._find(diff_id)
        size = self._size(ino, f"layer {diff_id}")
        return cast(BinaryIO, _LayerFile(self.tree, ino, size))

    def _find(self, diff_id: str) -> int:
        ino = layer_ino(diff_id)
        entry = self.tree.lookup(IMAGE_INO, diff_id.encode())
        if entry is None:
            raise NotFound(f"the image has no layer {diff_id}")
        if entry.ino != ino:
            raise DamagedData(f"the image has a layer that is not the one it is said to be: {diff_id!r}")
        return ino

    def _size(self, ino: int, what: str) -> int:
        try:
            inode = self.tree.inode(ino)
        except NotFound:
            raise DamagedData(f"the image lacks its {what}") from None
        if not S_ISREG(inode.mode):
            raise DamagedData(f"the {what} of the image is no file")
        return inode.size

    def _small(self, ino: int, what: str, most: int) -> bytes | None:
        if self.tree.lookup(IMAGE_INO, what.encode()) is None:
            return None
        size = self._size(ino, what)
        if size > most:
            raise DamagedData(f"the {what} of the image is longer than {most >> 20} MiB")
        return self.tree.read(ino, 0, size)


def _extents(tree: StoredTree, ino: int, start: int) -> Iterator[Extent]:
    """Extents of a file from those on that may reach beyond ``start``."""
    for key, value in tree.reader.items(number_key(ino, EXTENT, max(start - _MOST_EXTENT, 0)), inode_key(ino + 1)):
        yield unpack_extent(key, value)


class _LayerFile(io.RawIOBase):
    """A file of a tree as a stream. For one thread; it reads ahead with threads of its own."""

    def __init__(self, tree: StoredTree, ino: int, size: int) -> None:
        super().__init__()
        self._tree = tree
        self._ino = ino
        self._size = size
        self._position = 0
        self._steady = 0
        """Bytes read since the last seek."""
        self._coming: Iterator[Extent] = iter(())
        """Extents behind those in ``_window``."""
        self._window: list[Extent] = []
        """The next extents, the first one ends behind the position."""
        self._looked = -1
        """Where the next extents were looked up for; -1: not yet, or from elsewhere."""
        self._chunks: OrderedDict[bytes, Future[bytes] | bytes] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None

    # -- io.RawIOBase ---------------------------------------------------------------------------------------------

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        target = base + offset
        if target < 0:
            raise ValueError(f"cannot seek to {target}")
        if target != self._position:
            if target < self._position or target - self._position > _FAR:
                self._looked = -1
            self._steady = 0
            self._position = target
        return target

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes from here; short only at the end."""
        left = max(self._size - self._position, 0)
        data = bytearray(left if size is None or size < 0 else min(size, left))
        self.readinto(data)
        return bytes(data)

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: object, /) -> int:
        """Fill the buffer; less only at the end."""
        if self.closed:
            raise ValueError("the layer is closed")
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        wanted = min(len(view), max(self._size - self._position, 0))
        done = 0
        while done < wanted:
            done += self._some(view[done:wanted])
        self._steady += wanted
        return wanted

    def close(self) -> None:
        if not self.closed:
            threads, self._threads = self._threads, None
            if threads is not None:
                threads.shutdown(wait=True, cancel_futures=True)
            self._chunks.clear()
        super().close()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _some(self, view: memoryview) -> int:
        """Bytes up to the end of a hole or an extent; at least one."""
        extent = self._next()
        if extent is None or extent.offset > self._position:
            end = self._size if extent is None else extent.offset
            count = min(len(view), end - self._position)
            view[:count] = bytes(count)
        else:
            inside = self._position - extent.offset
            count = min(len(view), extent.length - inside)
            start = extent.chunk_offset + inside
            data = self._chunk(extent.key)
            if len(data) < start + count:
                raise DamagedData(f"an extent reaches beyond its chunk {extent.key.hex()}")
            view[:count] = memoryview(data)[start : start + count]
        self._position += count
        return count

    def _next(self) -> Extent | None:
        """The first extent that ends behind the position."""
        if self._looked < 0:
            self._looked = self._position
            self._coming = _extents(self._tree, self._ino, self._position)
            self._window = []
        while True:
            passed = 0
            for extent in self._window:
                if extent.offset + extent.length > self._position:
                    break
                passed += 1
            del self._window[:passed]
            if len(self._window) > _AHEAD:
                break
            more = list(islice(self._coming, 4 * _AHEAD))
            if not more:
                break
            self._window += more
        return self._window[0] if self._window else None

    def _chunk(self, key: bytes) -> bytes:
        if self._steady >= _STEADY:
            self._read_ahead()
        found = self._chunks.get(key)
        if found is None:
            found = self._tree.chunk(key)
            self._keep(key, found)
        elif not isinstance(found, bytes):
            found = self._chunks[key] = found.result()
        self._chunks.move_to_end(key)
        return found

    def _keep(self, key: bytes, data: "Future[bytes] | bytes") -> None:
        self._chunks[key] = data
        if len(self._chunks) > _KEPT:
            self._chunks.popitem(last=False)

    def _read_ahead(self) -> None:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(_THREADS, "layer")
        for extent in self._window[: _AHEAD + 1]:
            if extent.key not in self._chunks:
                self._keep(extent.key, self._threads.submit(self._tree.chunk, extent.key))
