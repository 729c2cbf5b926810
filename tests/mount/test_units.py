"""The parts that need no kernel: structures, the chunk cache, decoding threads, where bytes of a file lie."""

import os
import random
import stat
import struct
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import DamagedData
from lamina.fs.types import Extent, Inode
from lamina.mount import protocol
from lamina.mount.data import ChunkCache, Decoder, Wanted
from lamina.mount.log import printable
from lamina.mount.namespace import Place
from lamina.mount.reading import FileState, seek
from tests.mount.fake import FakeTree


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        ("ENTRY_REPLY", 16 + 128),
        ("ATTR_REPLY", 16 + 104),
        ("OPEN_REPLY", 16 + 16),
        ("STATFS_REPLY", 16 + 80),
        ("GETXATTR_REPLY", 16 + 8),
        ("LSEEK_REPLY", 16 + 8),
        ("INIT_OUT", 64),
        ("OUT_HEADER", 16),
        ("NOTIFY_STORE_OUT", 16 + 24),
        ("DIRENT", 24),
        ("DIRENTPLUS", 128 + 24),
        ("FORGET_ONE", 16),
    ],
)
def test_sizes_of_the_kernel_structures(layout: str, size: int) -> None:
    assert getattr(protocol, layout).size == size


@given(
    st.integers(-(2**40), 2**40),
    st.integers(0, 999_999_999),
    st.integers(0, 4095),
    st.integers(0, (1 << 20) - 1),
    st.integers(0, 2**63 - 1),
)
def test_attributes(seconds: int, ns: int, major: int, minor: int, size: int) -> None:
    when = seconds * 1_000_000_000 + ns
    inode = Inode(5, stat.S_IFCHR | 0o644, 1, 2, 3, size, when, when, when, os.makedev(major, minor))
    fields = protocol.attr_fields(inode, 77, 8)
    raw = struct.pack("=QQQqqqIIIIIIIIII", *fields)
    number, got_size, blocks, atime = struct.unpack_from("=QQQq", raw)
    assert (number, got_size, blocks, atime) == (77, size, 8, seconds)
    assert fields[6:9] == (ns, ns, ns)
    rdev = fields[13]
    # new_decode_dev of linux/kdev_t.h
    assert ((rdev & 0xFFF00) >> 8, (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00)) == (major, minor)


def init(major: int, minor: int, flags: int = 0xFFFFFFFF) -> bytes:
    return protocol.INIT_IN.pack(major, minor, 131072, flags) + bytes(48)


def test_init_takes_what_both_have() -> None:
    options = {"max_write": 4096, "max_pages": 256, "background": 64}
    both = protocol.MAX_PAGES | protocol.ASYNC_READ
    reply = protocol.init_reply(9, init(7, 45, both), wanted=both | protocol.PARALLEL_DIROPS, **options)
    assert protocol.OUT_HEADER.unpack_from(reply) == (80, 0, 9)
    major, minor, readahead, flags, _, _, max_write, gran, pages, _, _ = protocol.INIT_OUT.unpack_from(reply, 16)
    assert (major, minor, readahead, flags) == (7, protocol.KERNEL_MINOR, 131072, both)
    assert (max_write, gran, pages) == (4096, 1, 256)
    assert protocol.INIT_OUT.unpack_from(protocol.init_reply(9, init(7, 33), wanted=0, **options), 16)[1] == 33
    newer = protocol.init_reply(9, init(8, 1), wanted=both, **options)
    assert protocol.INIT_OUT.unpack_from(newer, 16)[:4] == (7, protocol.KERNEL_MINOR, 0, 0)
    with pytest.raises(protocol.TooOld, match=r"7\.12"):
        protocol.init_reply(9, init(7, 12), wanted=both, **options)


def test_printable() -> None:
    assert printable("a\x1b[31m\nb\udcff") == "a\\x1b[31m\\nb\\udcff"
    assert printable("plain é") == "plain é"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), max_size=80))
def test_cache_is_bounded_and_keeps_the_newest(puts: list[tuple[int, int]]) -> None:
    cache = ChunkCache(100)
    model: dict[bytes, bytes] = {}
    for number, size in puts:
        key, data = b"%d" % number, bytes(size)
        model.pop(key, None)
        model[key] = data
        cache.put(key, data)
        while sum(map(len, model.values())) > 100:
            del model[next(iter(model))]
        if number % 3 == 0:
            other = b"%d" % (number + 1)
            assert cache.get(other) == model.get(other)
            if other in model:
                model[other] = model.pop(other)
        assert cache.size == sum(map(len, model.values())) <= 100
    assert {k for k in (b"%d" % n for n in range(32)) if k in cache} == set(model)


def test_a_chunk_too_large_for_the_cache_is_not_kept() -> None:
    cache = ChunkCache(10)
    cache.put(b"a", b"12345")
    cache.put(b"b", bytes(11))
    assert b"a" in cache and b"b" not in cache and cache.size == 5


class CountingTree(FakeTree):
    """Counts decodes; keys in ``slow`` take a while."""

    def __init__(self) -> None:
        super().__init__()
        self.decoded: list[bytes] = []
        self.gate = threading.Event()
        self.slow: set[bytes] = set()

    def chunk(self, key: bytes) -> bytes:
        self.decoded.append(key)
        if key in self.slow:
            self.gate.wait(5)
        return super().chunk(key)


def decoder_for(limit: int = 1 << 20, threads: int = 2) -> tuple[Decoder, ChunkCache, list[str]]:
    cache = ChunkCache(limit)
    errors: list[str] = []
    return Decoder(cache, threads, lambda text, error: errors.append(f"{text}: {error}")), cache, errors


def test_each_chunk_is_decoded_once_for_many_readers() -> None:
    tree = CountingTree()
    keys = [tree._keep(b"%d" % n) for n in range(20)]
    tree.slow = {keys[0]}
    decoder, cache, errors = decoder_for()
    done = threading.Semaphore(0)
    results: list[dict[bytes, bytes | None]] = []

    def finished(wanted: Wanted) -> None:
        results.append(wanted.chunks)
        done.release()

    for _ in range(10):
        decoder.want(tree, Wanted(dict.fromkeys(keys), finished))
    decoder.ahead(tree, keys)
    tree.gate.set()
    for _ in range(10):
        assert done.acquire(timeout=5)
    assert sorted(tree.decoded) == sorted(keys)
    assert all(r == {k: b"%d" % n for n, k in enumerate(keys)} for r in results)
    assert not errors and cache.size == sum(len(b"%d" % n) for n in range(20))
    decoder.close()


def test_wanted_chunks_pass_read_ahead() -> None:
    tree = CountingTree()
    keys = [tree._keep(b"chunk %d" % n) for n in range(50)]
    tree.slow = {keys[0]}
    decoder, _, _ = decoder_for(threads=1)
    decoder.ahead(tree, keys)
    while not tree.decoded:
        time.sleep(0.001)
    done = threading.Event()
    decoder.want(tree, Wanted({keys[40]: None}, lambda _: done.set()))
    tree.gate.set()
    assert done.wait(5)
    assert tree.decoded[:2] == [keys[0], keys[40]]
    decoder.close()


def test_a_failed_chunk_ends_every_read_that_waits() -> None:
    tree = CountingTree()
    good, bad = tree._keep(b"good"), tree._keep(b"bad")
    tree.damaged.add(bad)
    decoder, _, errors = decoder_for()
    done = threading.Semaphore(0)
    failed: list[Wanted] = []

    def finished(wanted: Wanted) -> None:
        failed.append(wanted)
        done.release()

    for _ in range(3):
        decoder.want(tree, Wanted({good: None, bad: None}, finished))
        assert done.acquire(timeout=5)
    assert all(isinstance(w.error, DamagedData) and w.error_key == bad for w in failed) and not errors

    def bug(wanted: Wanted) -> None:
        done.release()
        raise ZeroDivisionError("a bug")

    decoder.want(tree, Wanted({good: None, bad: None}, bug))
    assert done.acquire(timeout=5)
    decoder.want(tree, Wanted({bad: None}, finished))  # the thread lives on
    assert done.acquire(timeout=5)
    assert errors == ["answering a read failed: a bug"]
    decoder.close()


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Extent], int]:
    extents, at = [], 0
    for number in range(draw(st.integers(0, 12))):
        at += draw(st.sampled_from((0, 0, 1, 7, 100)))
        length = draw(st.integers(1, 50))
        extents.append(Extent(at, length, b"%d" % number, draw(st.integers(0, 9))))
        at += length
    return extents, at + draw(st.integers(0, 40))


@given(layouts(), st.integers(0, 500), st.integers(1, 300))
def test_parts_of_a_range(layout: tuple[list[Extent], int], start: int, length: int) -> None:
    """Every byte comes from where the extents say, and holes are zeros."""
    extents, size = layout
    tree = FakeTree()
    ino = tree.new_inode(stat.S_IFREG, size=size)
    tree.files[ino] = extents
    rng = random.Random(1)
    for extent in extents:
        tree.chunks[extent.key] = rng.randbytes(extent.chunk_offset + extent.length)
    start = min(start, max(size - 1, 0))
    end = min(start + length, size)
    state = FileState(Place(tree, 0), ino, size)
    state.load(start, end)
    built = b"".join(bytes(b) if key is None else tree.chunks[key][a:b] for key, a, b in state.parts(start, end))
    assert built == tree.read(ino, start, end - start)
    state.load(0, size)
    assert state.parts(start, end) == state.parts(start, end)
    touched = [e for e in extents if e.offset < end and e.offset + e.length > start]
    assert start >= end or state.touching(start, end) == touched


@given(layouts(), st.integers(0, 700))
def test_seek(layout: tuple[list[Extent], int], offset: int) -> None:
    extents, size = layout
    tree = FakeTree()
    ino = tree.new_inode(stat.S_IFREG, size=size)
    tree.files[ino] = extents
    data = [False] * size
    for extent in extents:
        data[extent.offset : extent.offset + extent.length] = [True] * extent.length
    place = Place(tree, 0)
    want_data = next((at for at in range(offset, size) if data[at]), None)
    want_hole = next((at for at in range(offset, size) if not data[at]), size) if offset < size else None
    assert seek(place, ino, size, offset, data=True) == want_data
    assert seek(place, ino, size, offset, data=False) == want_hole


def test_inode_fields_are_the_kernels() -> None:
    """One attribute as bytes, by hand."""
    inode = Inode(1, 0o100644, 10, 20, 2, 100, -1, 1_500_000_000, 7)
    one, two = protocol.attr_fields(inode, 1, 8), protocol.attr_fields(replace(inode, mtime_ns=0), 1, 8)
    assert one[4] == -1 and one[7] == 999_999_999 and two[4] == two[7] == 0
