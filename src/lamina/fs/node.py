"""Tree nodes and their items, as bytes.

A node is an object of kind NODE: magic ``LT``, version u8, level u8 (0 for leaves), count u32, the key lengths (u16
each), the value lengths (u32 each), all keys, all values; numbers little-endian. In an inner node an item's key is the
last key below the child and its value the child's object key.

Item keys sort as bytes: inode number (u64 big-endian), kind (u8), rest:

    0 INODE                      mode, uid, gid, nlink (u32), size (u64), mtime, ctime, atime (s64 s and u32 ns each),
                                 rdev (u64), flags (u32), then, if it is known, the inode number of the directory that
                                 holds it (u64)
    1 XATTR    name              value
    2 SYMLINK                    target
    3 DIRENT   cookie u64 BE     inode number (u64), type (u8, S_IFMT >> 12), name
    4 EXTENT   offset u64 BE     length (u32), offset in the chunk (u32), chunk key (32 bytes)

A dirent's cookie is a 48-bit hash of its name (high bits of XXH3-64, at least 1), then a 15-bit ordinal among equal
hashes: positive as a loff_t, and stable while other names come and go.
"""

import os
import struct
from itertools import accumulate, islice, pairwise
from operator import lt

import xxhash

from lamina.errors import DamagedData, SourceError
from lamina.fs.types import Dirent, Extent, Inode, Totals

INODE, XATTR, SYMLINK, DIRENT, EXTENT = range(5)
COOKIE_SHIFT = 15
MAX_ORDINAL = (1 << COOKIE_SHIFT) - 1
NS = 1_000_000_000

_NODE = struct.Struct("<2sBBI")
_KEY = struct.Struct(">QB")
_KEY_U64 = struct.Struct(">QBQ")
unpack_key = _KEY.unpack_from
"""(inode number, kind) of any key; for those who look at all items of a tree."""
unpack_number_key = _KEY_U64.unpack
"""(inode number, kind, number) of a key made by ``number_key``."""
_INODE = struct.Struct("<IIIIQqIqIqIQI")
_PARENT = struct.Struct("<Q")
_U32 = struct.Struct("<I")
_NLINK = 12
_TIMES, _RDEV = 24, 60
"""Where the link count, the times and the device number stand in an INODE item."""
_INODE_HEAD = struct.Struct("<I8xIQ")
_DIRENT = struct.Struct("<QB")
_EXTENT = struct.Struct("<II32s")
unpack_dirent_value = _DIRENT.unpack_from
"""(inode number, type as ``S_IFMT >> 12``) of a DIRENT item; its name is what follows."""
unpack_extent_value = _EXTENT.unpack
"""(length, offset in the chunk, chunk key) of an EXTENT item."""
_ROOT = struct.Struct("<2sBB32sQQQQQ")
_VERSION = 1
_LEAST_KEY = _KEY.size
_CHILD = 32
"""Length of an inner node's values: object keys."""


def inode_key(ino: int) -> bytes:
    """Key of an inode's item; also the smallest key of the inode."""
    return _KEY.pack(ino, INODE)


def kind_key(ino: int, kind: int, rest: bytes = b"") -> bytes:
    """Key of an item of an inode."""
    return _KEY.pack(ino, kind) + rest


def number_key(ino: int, kind: int, number: int) -> bytes:
    """Key of a dirent (by cookie) or an extent (by file offset in bytes)."""
    return _KEY_U64.pack(ino, kind, number)


def key_number(key: bytes) -> int:
    """The cookie or file offset in a key made by ``number_key``."""
    return int.from_bytes(key[9:17], "big")


def key_ino(key: bytes) -> int:
    """The inode number in any key."""
    return int.from_bytes(key[:8], "big")


def name_cookie(name: bytes) -> int:
    """The first cookie that the name can have."""
    return max(xxhash.xxh3_64_intdigest(name) >> 16, 1) << COOKIE_SHIFT


def give_cookies(names: list[bytes]) -> list[int]:
    """A cookie for each name of a directory: names of equal hash get ordinals in their sorted order.

    Raises ``SourceError`` where more names share a hash than there are ordinals.
    """
    cookies = [name_cookie(name) for name in names]
    if len(set(cookies)) < len(cookies):
        used: dict[int, int] = {}
        for at in sorted(range(len(names)), key=names.__getitem__):
            ordinal = used.get(cookies[at], 0)
            used[cookies[at]] = ordinal + 1
            if ordinal > MAX_ORDINAL:
                raise SourceError("a directory has too many names with one hash")
            cookies[at] += ordinal
    return cookies


def pack_inode(inode: Inode) -> bytes:
    """Value of an INODE item."""
    mtime, ctime, atime = divmod(inode.mtime_ns, NS), divmod(inode.ctime_ns, NS), divmod(inode.atime_ns, NS)
    value = _INODE.pack(
        inode.mode, inode.uid, inode.gid, inode.nlink, inode.size, *mtime, *ctime, *atime, inode.rdev, inode.flags
    )
    return value + _PARENT.pack(inode.parent) if inode.parent else value


def pack_status(status: os.stat_result, nlink: int, parent: int) -> bytes:
    """Value of an INODE item straight from stat(2): what importing a directory does for every file."""
    mtime, ctime, atime = divmod(status.st_mtime_ns, NS), divmod(status.st_ctime_ns, NS), divmod(status.st_atime_ns, NS)
    return _INODE.pack(
        status.st_mode, status.st_uid, status.st_gid, nlink, status.st_size, *mtime, *ctime, *atime, status.st_rdev, 0
    ) + _PARENT.pack(parent)


def pack_fields(
    mode: int, uid: int, gid: int, nlink: int, size: int, times: tuple[int, int, int], rdev: int, parent: int
) -> bytes:
    """Value of an INODE item, ``times`` being mtime, ctime and atime in ns: what a tar import does for each file."""
    mtime, ctime, atime = times
    return _INODE.pack(
        *(mode, uid, gid, nlink, size, mtime // NS, mtime % NS, ctime // NS, ctime % NS, atime // NS, atime % NS),
        *(rdev, 0),
    ) + _PARENT.pack(parent)


def set_links(value: bytes, nlink: int, parent: int) -> bytes:
    """Value of an INODE item that ``pack_fields`` made, with another link count and parent."""
    return value[:_NLINK] + _U32.pack(nlink) + value[_NLINK + _U32.size : _INODE.size] + _PARENT.pack(parent)


def set_status(value: bytes, other: bytes) -> bytes:
    """Value of an INODE item with the mode, owner and times of ``other``."""
    return other[:_NLINK] + value[_NLINK:_TIMES] + other[_TIMES:_RDEV] + value[_RDEV:]


def unpack_inode(ino: int, value: bytes) -> Inode:
    """The inode in an INODE item."""
    try:
        parent = 0
        if len(value) > _INODE.size:
            (parent,) = _PARENT.unpack(value[_INODE.size :])
        mode, uid, gid, nlink, size, ms, mn, cs, cn, as_, an, rdev, flags = _INODE.unpack(value[: _INODE.size])
    except struct.error:
        raise DamagedData(f"inode {ino} is damaged") from None
    return Inode(ino, mode, uid, gid, nlink, size, ms * NS + mn, cs * NS + cn, as_ * NS + an, rdev, flags, parent)


def inode_head(value: bytes) -> tuple[int, int, int, int]:
    """(mode, nlink, size, parent) of an INODE item, for those who look at all of them. Raises ``DamagedData``."""
    if len(value) == _INODE.size + _PARENT.size:
        return *_INODE_HEAD.unpack_from(value), _PARENT.unpack_from(value, _INODE.size)[0]
    if len(value) != _INODE.size:
        raise DamagedData("an inode is damaged")
    return *_INODE_HEAD.unpack_from(value), 0


def pack_dirent(ino: int, mode_type: int, name: bytes) -> bytes:
    """Value of a DIRENT item; ``mode_type`` is the S_IFMT bits of the mode."""
    return _DIRENT.pack(ino, mode_type >> 12) + name


def unpack_dirent(key: bytes, value: bytes) -> Dirent:
    """The directory entry in a DIRENT item."""
    try:
        ino, kind = _DIRENT.unpack_from(value)
    except struct.error:
        raise DamagedData(f"a directory entry of inode {key_ino(key)} is damaged") from None
    return Dirent(value[9:], ino, kind << 12, key_number(key))


def pack_extent(length: int, chunk_offset: int, key: bytes) -> bytes:
    """Value of an EXTENT item."""
    return _EXTENT.pack(length, chunk_offset, key)


def unpack_extent(key: bytes, value: bytes) -> Extent:
    """The extent in an EXTENT item."""
    try:
        length, chunk_offset, chunk = _EXTENT.unpack(value)
    except struct.error:
        raise DamagedData(f"an extent of inode {key_ino(key)} is damaged") from None
    return Extent(key_number(key), length, chunk, chunk_offset)


def extent_chunk(value: bytes) -> bytes:
    """The chunk key in an EXTENT item."""
    return value[8:40]


def pack_node(level: int, keys: list[bytes], values: list[bytes]) -> bytes:
    """A node as bytes."""
    count = len(keys)
    return b"".join(
        (
            _NODE.pack(b"LT", _VERSION, level, count),
            struct.pack(f"<{count}H", *map(len, keys)),
            struct.pack(f"<{count}I", *map(len, values)),
            *keys,
            *values,
        )
    )


class Node:
    """A decoded node: parallel lists of keys and values, keys ascending."""

    __slots__ = ("keys", "level", "values")

    def __init__(self, data: bytes) -> None:
        """Decode. Raises ``DamagedData`` where the bytes are no node."""
        try:
            magic, version, level, count = _NODE.unpack_from(data)
            if magic != b"LT" or version != _VERSION or count == 0:
                raise DamagedData("object is not a tree node of this version")
            position = _NODE.size
            key_lengths = struct.unpack_from(f"<{count}H", data, position)
            value_lengths = struct.unpack_from(f"<{count}I", data, position + 2 * count)
        except struct.error:
            raise DamagedData("tree node is cut short") from None
        ends = list(accumulate(key_lengths + value_lengths, initial=position + 6 * count))
        if ends[-1] != len(data):
            raise DamagedData("tree node has the wrong length")
        parts = [data[start:end] for start, end in pairwise(ends)]
        self.level: int = level
        self.keys: list[bytes] = parts[:count]
        self.values: list[bytes] = parts[count:]
        if min(key_lengths) < _LEAST_KEY or not all(map(lt, self.keys, islice(self.keys, 1, None))):
            raise DamagedData("tree node has keys that are not in order")
        if level and (min(value_lengths) != _CHILD or max(value_lengths) != _CHILD):
            raise DamagedData("tree node has values that are no object keys")


def pack_root(height: int, node: bytes, totals: Totals) -> bytes:
    """A root object: magic ``LR``, version, height, top node's key, then the totals as u64 each."""
    return _ROOT.pack(
        b"LR",
        _VERSION,
        height,
        node,
        totals.inodes,
        totals.files,
        totals.directories,
        totals.data_bytes,
        totals.next_ino,
    )


def unpack_root(data: bytes) -> tuple[int, bytes, Totals]:
    """(height, key of the top node, totals) of a root object. Raises ``DamagedData``."""
    if len(data) != _ROOT.size or data[:2] != b"LR" or data[2] != _VERSION:
        raise DamagedData("object is not a tree root of this version")
    _, _, height, node, *sums = _ROOT.unpack(data)
    return height, node, Totals(*sums)
