"""Items and nodes as bytes."""

import stat

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lamina.errors import DamagedData, SourceError
from lamina.fs import node
from lamina.fs.node import (
    DIRENT,
    EXTENT,
    INODE,
    MAX_ORDINAL,
    NS,
    SYMLINK,
    XATTR,
    Node,
    give_cookies,
    inode_key,
    key_ino,
    key_number,
    kind_key,
    name_cookie,
    number_key,
    pack_dirent,
    pack_extent,
    pack_inode,
    pack_node,
    pack_root,
    unpack_dirent,
    unpack_extent,
    unpack_inode,
    unpack_root,
)
from lamina.fs.types import Extent, Inode, Totals

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
times = st.integers(-(2**62) * NS, 2**62 * NS)
names = st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name)


@given(u64, u32, u32, u32, u32, u64, times, times, times, u64, u32)
@example(1, 0o100644, 0, 0, 1, 5, -1, -NS, -NS - 1, 0, 0)
def test_inode_round_trip(
    ino: int, mode: int, uid: int, gid: int, nlink: int, size: int, m: int, c: int, a: int, rdev: int, flags: int
) -> None:
    inode = Inode(ino, mode, uid, gid, nlink, size, m, c, a, rdev, flags)
    assert unpack_inode(ino, pack_inode(inode)) == inode


@given(u64, names, st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFSOCK, stat.S_IFIFO]))
def test_dirent_round_trip(ino: int, name: bytes, mode_type: int) -> None:
    cookie = name_cookie(name)
    entry = unpack_dirent(number_key(7, DIRENT, cookie), pack_dirent(ino, mode_type, name))
    assert (entry.name, entry.ino, entry.mode_type, entry.cookie) == (name, ino, mode_type, cookie)


@given(u64, u32, u32, st.binary(min_size=32, max_size=32))
def test_extent_round_trip(offset: int, length: int, chunk_offset: int, key: bytes) -> None:
    packed = pack_extent(length, chunk_offset, key)
    assert unpack_extent(number_key(3, EXTENT, offset), packed) == Extent(offset, length, key, chunk_offset)
    assert node.extent_chunk(packed) == key


@given(st.integers(0, 255), st.binary(min_size=32, max_size=32), u64, u64, u64, u64, u64)
def test_root_round_trip(height: int, key: bytes, a: int, b: int, c: int, d: int, e: int) -> None:
    totals = Totals(a, b, c, d, e)
    assert unpack_root(pack_root(height, key, totals)) == (height, key, totals)


def test_golden_bytes() -> None:
    """What these are may change only together with the format's version."""
    inode = Inode(5, 0o100644, 1000, 100, 2, 1 << 33, 1_700_000_000_123456789, -1, 0, 0x801, 0)
    assert pack_inode(inode).hex() == (
        "a4810000" "e8030000" "64000000" "02000000" "0000000002000000"
        "00f1536500000000" "15cd5b07" "ffffffffffffffff" "ffc99a3b" "0000000000000000" "00000000"
        "0108000000000000" "00000000"
    )  # fmt: skip
    assert inode_key(5).hex() == "000000000000000500"
    assert kind_key(5, XATTR, b"user.a").hex() == "000000000000000501757365722e61"
    assert kind_key(5, SYMLINK).hex() == "000000000000000502"
    assert number_key(5, DIRENT, 0x1234).hex() == "0000000000000005030000000000001234"
    assert number_key(5, EXTENT, 4096).hex() == "0000000000000005040000000000001000"
    assert pack_dirent(9, stat.S_IFDIR, b"lib").hex() == "0900000000000000046c6962"
    assert pack_extent(4096, 16, bytes(range(32))).hex() == "0010000010000000" + bytes(range(32)).hex()
    assert pack_node(0, [b"k" * 9, b"l" * 10], [b"", b"xyz"]).hex() == (
        "4c5401000200000009000a000000000003000000" + (b"k" * 9 + b"l" * 10 + b"xyz").hex()
    )
    assert pack_root(1, bytes(32), Totals(1, 2, 3, 4, 5)).hex() == (
        "4c520101" + bytes(32).hex() + "".join(f"{n:02x}00000000000000" for n in (1, 2, 3, 4, 5))
    )
    assert name_cookie(b"libtorch.so") == 0x4E5D98148C670000
    assert (INODE, XATTR, SYMLINK, DIRENT, EXTENT) == (0, 1, 2, 3, 4)


def test_keys_sort_by_inode_then_kind_then_rest() -> None:
    keys = [
        *(inode_key(1), kind_key(1, XATTR, b"a"), kind_key(1, XATTR, b"b"), kind_key(1, SYMLINK)),
        *(
            number_key(1, DIRENT, 5),
            number_key(1, DIRENT, 256),
            number_key(1, EXTENT, 0),
            number_key(1, EXTENT, 1 << 40),
        ),
        *(inode_key(2), inode_key(255), inode_key(256), inode_key(1 << 40)),
    ]
    assert keys == sorted(keys)
    assert [key_ino(key) for key in keys] == [1] * 8 + [2, 255, 256, 1 << 40]
    assert key_number(keys[5]) == 256


# -- nodes ----------------------------------------------------------------------------------------------------------

items = st.dictionaries(st.binary(min_size=9, max_size=280), st.binary(max_size=400), min_size=1, max_size=40).map(
    lambda found: sorted(found.items())
)


@given(items)
def test_leaf_round_trip(found: list[tuple[bytes, bytes]]) -> None:
    keys, values = [key for key, _ in found], [value for _, value in found]
    decoded = Node(pack_node(0, keys, values))
    assert (decoded.level, decoded.keys, decoded.values) == (0, keys, values)


@given(items, st.integers(1, 255))
def test_inner_round_trip(found: list[tuple[bytes, bytes]], level: int) -> None:
    keys = [key for key, _ in found]
    values = [(key * 4)[:32] for key in keys]
    decoded = Node(pack_node(level, keys, values))
    assert (decoded.level, decoded.keys, decoded.values) == (level, keys, values)


@given(items, st.integers(0, 10**6))
def test_a_node_cut_or_lengthened_is_damaged(found: list[tuple[bytes, bytes]], where: int) -> None:
    data = pack_node(0, [key for key, _ in found], [value for _, value in found])
    for wrong in (data[: where % len(data)], data + b"\0", data[1:]):
        with pytest.raises(DamagedData):
            Node(wrong)


@given(st.binary(max_size=300))
@example(b"LT\1\0\xff\xff\xff\xff" + bytes(200))
@example(b"LT\1\0\0\0\0\0")
@example(b"LT\2\0\1\0\0\0\1\0\1\0\0\0kv")
@settings(max_examples=300)
def test_garbage_is_damaged_and_nothing_else(data: bytes) -> None:
    for attempt in (data, b"LT\1\0" + data, b"LT\1\1\2\0\0\0" + data, b"LR\1" + data):
        for decode in (
            Node,
            unpack_root,
            lambda value: unpack_inode(1, value),
            lambda value: unpack_dirent(number_key(1, DIRENT, 0), value),
            lambda value: unpack_extent(number_key(1, EXTENT, 0), value),
        ):
            try:
                decode(attempt)
            except DamagedData:
                pass


def test_what_no_writer_would_write_is_damaged() -> None:
    a, b = inode_key(1), inode_key(2)
    good = pack_node(0, [a, b], [b"", b""])
    assert Node(good).keys == [a, b]
    for data, why in (
        (pack_node(0, [b, a], [b"", b""]), "order"),
        (pack_node(0, [a, a], [b"", b""]), "order"),
        (pack_node(0, [b"short"], [b""]), "order"),
        (pack_node(1, [a, b], [bytes(32), bytes(31)]), "object keys"),
        (pack_node(0, [], []), "not a tree node"),
        (b"LT\2" + good[3:], "version"),
    ):
        with pytest.raises(DamagedData, match=why):
            Node(data)


# -- cookies --------------------------------------------------------------------------------------------------------


@given(st.lists(names, unique=True, max_size=50))
def test_cookies_are_distinct_positive_and_leave_room(found: list[bytes]) -> None:
    cookies = give_cookies(found)
    assert len(set(cookies)) == len(found)
    assert all(1 << 15 <= cookie < 1 << 63 for cookie in cookies)
    assert [cookie >> 15 for cookie in cookies] == [name_cookie(name) >> 15 for name in found]


@given(st.sets(names, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_names_of_one_hash_get_ordinals_by_name(found: set[bytes], rng: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node, "name_cookie", lambda name: (len(name) % 3 + 1) << 15)
        shuffled = sorted(found)
        rng.shuffle(shuffled)  # type: ignore[attr-defined]
        cookies = dict(zip(shuffled, give_cookies(shuffled), strict=True))
    assert len(set(cookies.values())) == len(found)
    for length in range(3):
        same = sorted(name for name in found if len(name) % 3 == length)
        assert [cookies[name] for name in same] == [((length + 1) << 15) + n for n in range(len(same))]


def test_too_many_names_of_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "name_cookie", lambda name: 1 << 15)
    most = [b"%d" % number for number in range(MAX_ORDINAL + 1)]
    assert max(give_cookies(most)) == (2 << 15) - 1
    with pytest.raises(SourceError, match="too many names"):
        give_cookies([*most, b"one more"])
