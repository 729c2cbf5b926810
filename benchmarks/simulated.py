"""Pools of images that were never on a disk: derived metadata, real formats.

One base tree of about 40,000 files is built once; each further image changes some hundred of them with ``tree.apply``.
Chunks hold a few bytes, everything else is what an import leaves: nodes, roots, records, rows, bitmaps, name records.
"""

import os
import random
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import xxhash
from blake3 import blake3
from pyroaring import BitMap64

from lamina.fs import node, tree
from lamina.fs.types import ROOT_INO, Inode, Totals
from lamina.pool.importing.images import commit_image
from lamina.pool.importing.intake import Intake
from lamina.pool.pool import Pool
from lamina.store.codec import DEFAULT
from lamina.store.record import Kind
from lamina.store.writer import Encoded, StoreWriter

DIRECTORIES = 4_000
HUGE, HUGE_CHUNKS = 100, 100
MIDDLE, MIDDLE_CHUNKS = 1_000, 4
SMALL, GROUP = 39_000, 6
"""Files of the base image and how they are cut: large ones into chunks, of small ones several to a chunk."""
CHANGED_HUGE, CHANGED_MIDDLE, CHANGED_GROUPS = 40, 200, 100
"""What one image changes of the one before: about 5,000 chunks of 20,000."""
CHUNK_BYTES = 16_384
SMALL_BYTES = 2_500
"""Smaller than real ones, and all zeros but for a few bytes: how much data there is makes no difference here."""
RANDOM_BYTES = 24
_TIME = 1_700_000_000 * node.NS


@dataclass(frozen=True)
class Made:
    """An image in the pool: what it takes to derive the next one from it."""

    height: int
    top: bytes
    objects: BitMap64
    totals: Totals


class Simulation:
    """Fills one pool. Nodes stay in memory, so that trees can be derived from each other."""

    def __init__(self, pool: Pool, seed: int = 1) -> None:
        self._pool = pool
        self._random = random.Random(seed)
        self._nodes: dict[bytes, bytes] = {}
        self._numbers: dict[bytes, int] = {}
        self._leaves: dict[bytes, BitMap64] = {}
        self._fresh: list[Encoded] = []
        first = 2 + DIRECTORIES
        self._huge = range(first, first + HUGE)
        self._middle = range(self._huge.stop, self._huge.stop + MIDDLE)
        self._small = range(self._middle.stop, self._middle.stop + SMALL)

    def image(self, name: str, like: Made | None) -> Made:
        """Put an image into the pool: the base image, or one derived from another."""
        with ExitStack() as stack:
            writer = stack.enter_context(self._pool._writer())
            if like is None:
                height, top = tree.build(self._items(), lambda data: self._put(writer, data))
            else:
                reader = tree.TreeReader(self._nodes.__getitem__, like.height, like.top, cache_nodes=4096)
                height, top = tree.apply(reader, self._edits(), lambda data: self._put(writer, data))
            size = HUGE * HUGE_CHUNKS * CHUNK_BYTES + MIDDLE * MIDDLE_CHUNKS * CHUNK_BYTES + SMALL * SMALL_BYTES
            inodes = 1 + DIRECTORIES + HUGE + MIDDLE + SMALL
            totals = Totals(inodes, HUGE + MIDDLE + SMALL, 1 + DIRECTORIES, size, self._small.stop)
            root = self._put(writer, node.pack_root(height, top, totals))
            writer.append(self._fresh)
            writer._flush()
            located = self._pool.store.locate([item.key for item in self._fresh])
            self._numbers.update((key, location.id) for key, location in located.items())
            self._fresh = []
            reached = self._reached(height, top)
            reached.add(self._numbers[root])
            writer.reached = reached
            dataset, _, tag = name.partition("@")
            intake = Intake(self._pool._catalogue, dataset, name, 1 << 60)
            commit_image(self._pool, writer, dataset, tag, root, totals, False, intake)
        return Made(height, top, reached, totals)

    def forget(self, keep: Sequence[Made]) -> None:
        """Let go of what only images other than ``keep`` have."""
        used: set[bytes] = set()
        objects = BitMap64()
        for made in keep:
            reader = tree.TreeReader(self._nodes.__getitem__, made.height, made.top, cache_nodes=4096)
            self._walk(reader, made.top, used)
            objects |= made.objects
        self._numbers = {key: number for key, number in self._numbers.items() if number in objects}
        self._nodes = {key: data for key, data in self._nodes.items() if key in used}
        self._leaves = {key: found for key, found in self._leaves.items() if key in used}

    # -- items ----------------------------------------------------------------------------------------------------

    def _items(self) -> Iterator[tuple[bytes, bytes]]:
        """Two levels of directories; files lie in them in turn."""
        tops = range(2, 2 + DIRECTORIES // 100)
        files: dict[int, list[int]] = {}
        for number in range(self._huge.start, self._small.stop):
            files.setdefault(2 + number % DIRECTORIES, []).append(number)
        below: dict[int, list[int]] = {ROOT_INO: list(tops)}
        for number in range(tops.stop, 2 + DIRECTORIES):
            below.setdefault(2 + number % len(tops), []).append(number)
        for number in (ROOT_INO, *range(2, 2 + DIRECTORIES)):
            entries = [(one, stat.S_IFDIR) for one in below.get(number, ())]
            entries += [(one, stat.S_IFREG) for one in files.get(number, ())]
            links = 2 + len(below.get(number, ()))
            yield node.inode_key(number), _inode(number, stat.S_IFDIR | 0o755, 0, links)
            names = [b"%s-%06d" % (b"dir" if kind == stat.S_IFDIR else b"module", one) for one, kind in entries]
            cookies = node.give_cookies(names)
            for cookie, (one, kind), name in sorted(zip(cookies, entries, names, strict=True)):
                yield node.number_key(number, node.DIRENT, cookie), node.pack_dirent(one, kind, name)
        for number in (*self._huge, *self._middle):
            yield from self._large(number)
        for start in range(self._small.start, self._small.stop, GROUP):
            yield from self._group(start)

    def _large(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        count = HUGE_CHUNKS if number in self._huge else MIDDLE_CHUNKS
        yield node.inode_key(number), _inode(number, stat.S_IFREG | 0o644, count * CHUNK_BYTES)
        for at in range(count):
            offset = at * CHUNK_BYTES
            yield (
                node.number_key(number, node.EXTENT, offset),
                node.pack_extent(CHUNK_BYTES, 0, self._chunk(CHUNK_BYTES)),
            )

    def _group(self, start: int) -> Iterator[tuple[bytes, bytes]]:
        chunk = self._chunk(GROUP * SMALL_BYTES)
        for at, number in enumerate(range(start, min(start + GROUP, self._small.stop))):
            yield node.inode_key(number), _inode(number, stat.S_IFREG | 0o644, SMALL_BYTES)
            yield (
                node.number_key(number, node.EXTENT, 0),
                node.pack_extent(SMALL_BYTES, at * SMALL_BYTES, chunk),
            )

    def _edits(self) -> list[tree.Edit]:
        """Other contents for some files."""
        edits: list[tree.Edit] = []
        for number in self._random.sample(self._huge, CHANGED_HUGE):
            edits += self._large(number)
        for number in self._random.sample(self._middle, CHANGED_MIDDLE):
            edits += self._large(number)
        for start in self._random.sample(range(self._small.start, self._small.stop, GROUP), CHANGED_GROUPS):
            edits += self._group(start)
        return sorted(edits)

    # -- objects --------------------------------------------------------------------------------------------------

    def _chunk(self, decoded: int) -> bytes:
        """A new chunk of ``decoded`` bytes; its key."""
        data = self._random.randbytes(RANDOM_BYTES).ljust(decoded, b"\0")
        key = blake3(data).digest()
        codec, payload = self._pool.store.coder.encode(data, DEFAULT)
        self._fresh.append(Encoded(key, Kind.CHUNK, codec, decoded, xxhash.xxh3_64_intdigest(payload), payload))
        return key

    def _put(self, writer: StoreWriter, data: bytes) -> bytes:
        key = blake3(data).digest()
        kind = Kind.ROOT if data[:2] == b"LR" else Kind.NODE
        if key not in self._nodes:
            self._nodes[key] = data
            self._fresh.append(writer.encode(key, data, kind, DEFAULT))
        return key

    def _reached(self, height: int, top: bytes) -> BitMap64:
        reader = tree.TreeReader(self._nodes.__getitem__, height, top, cache_nodes=4096)
        found = BitMap64()
        used: set[bytes] = set()
        self._walk(reader, top, used, found)
        return found

    def _walk(self, reader: tree.TreeReader, key: bytes, used: set[bytes], found: BitMap64 | None = None) -> None:
        """All nodes below one; ``found`` gets the rows of them and of their chunks."""
        used.add(key)
        known = self._leaves.get(key)
        if known is None:
            one = reader.node(key)
            if one.level:
                for child in one.values:
                    self._walk(reader, child, used, found)
                known = BitMap64([self._numbers[key]])
            else:
                chunks = {
                    node.extent_chunk(value) for at, value in zip(one.keys, one.values, strict=True) if at[8] == 4
                }
                known = self._leaves[key] = BitMap64([self._numbers[key], *(self._numbers[chunk] for chunk in chunks)])
        if found is not None:
            found |= known


def _inode(number: int, mode: int, size: int, links: int = 1) -> bytes:
    return node.pack_inode(Inode(number, mode, 0, 0, links, size, _TIME + number, _TIME + number, _TIME + number))


def fill_quickly(pool: Pool) -> None:
    """Let the pool's catalogue lose what a crash would take, and keep more of it in memory, while a pool is filled."""
    pool.store.database.query("PRAGMA synchronous = OFF")
    pool.store.database.query(f"PRAGMA cache_size = -{int(os.sysconf('SC_PHYS_PAGES') * 4 / 16)}")
