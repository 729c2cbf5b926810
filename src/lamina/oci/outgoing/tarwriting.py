"""Headers of tar archives as lamina writes them: ustar, with PAX records for what does not fit there.

POSIX.1-2017 pax(1) has the formats; sparse files are GNU's format 1.0 (GNU tar manual, "Storing Sparse Files").
Extended attributes are ``SCHILY.xattr.`` records as GNU tar, libarchive and the container tools write them. Nothing
depends on who writes, when or where: the same members give the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

BLOCK = 512
RECORD = 20 * BLOCK
"""What GNU tar writes at a time: archives end at a multiple of it."""

NS = 1_000_000_000
_MOST_NAME = 100
_MOST_PREFIX = 155
_MOST_ID = (1 << 21) - 1
"""Seven octal digits."""
_MOST_NUMBER = (1 << 33) - 1
"""Eleven octal digits."""

REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO, _PAX = b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"x"


@dataclass(slots=True)
class Header:
    """One member. ``size`` is what follows in the archive, bytes, without padding; times are None where not written."""

    name: bytes
    type: bytes = REGULAR
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    atime_ns: int | None = None
    ctime_ns: int | None = None
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    sparse_size: int | None = None
    """Of a sparse file, whose map comes before its data: its real size, bytes."""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    binary_size: bool = False
    """Whether a size of more than 8 GiB is written as GNU's binary number, so that one block is enough."""

    def pack(self) -> bytes:
        """The header's blocks, the extended one first where one is needed."""
        records: list[tuple[bytes, bytes]] = []
        name, prefix = self.name, b""
        if self.sparse_size is not None:
            records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", self.name)]
            records.append((b"GNU.sparse.realsize", b"%d" % self.sparse_size))
            above, slash, last = self.name.rpartition(b"/")
            name = (above + slash + b"GNUSparseFile.0/" + last)[:_MOST_NAME]
        elif len(name) > _MOST_NAME:
            split = _split(name)
            if split is None:
                records.append((b"path", name))
                name = name[:_MOST_NAME]
            else:
                prefix, name = split
        if len(self.link) > _MOST_NAME:
            records.append((b"linkpath", self.link))
        seconds = self.mtime_ns // NS
        if self.mtime_ns % NS or not 0 <= seconds <= _MOST_NUMBER:
            records.append((b"mtime", _time(self.mtime_ns)))
        for key, time in ((b"atime", self.atime_ns), (b"ctime", self.ctime_ns)):
            if time is not None:
                records.append((key, _time(time)))
        for key, number, most in ((b"uid", self.uid, _MOST_ID), (b"gid", self.gid, _MOST_ID)):
            if number > most:
                records.append((key, b"%d" % number))
        if self.size > _MOST_NUMBER and not self.binary_size:
            records.append((b"size", b"%d" % self.size))
        for key in sorted(self.xattrs):
            # As xattr_encode_keyword of GNU tar: "=" ends a keyword.
            keyword = key.replace(b"%", b"%25").replace(b"=", b"%3D")
            records.append((b"SCHILY.xattr." + keyword, self.xattrs[key]))
        block = _block(
            *(name, prefix, self.type, self.mode & 0o7777, _fitting(self.uid, _MOST_ID), _fitting(self.gid, _MOST_ID)),
            *(_fitting(self.size, _MOST_NUMBER), min(max(seconds, 0), _MOST_NUMBER), self.link[:_MOST_NAME]),
            self.device,
        )
        if self.size > _MOST_NUMBER and self.binary_size:
            block = _summed(block[:124] + b"\x80" + self.size.to_bytes(11, "big") + block[136:])
        return self._extended(records) + block if records else block

    def _extended(self, records: list[tuple[bytes, bytes]]) -> bytes:
        data = b"".join(_record(key, value) for key, value in records)
        name = (b"./PaxHeaders/" + self.name.rstrip(b"/").rpartition(b"/")[2])[:_MOST_NAME]
        return _block(name, b"", _PAX, 0o644, 0, 0, len(data), 0, b"", (0, 0)) + data + padding(len(data))


def padding(size: int) -> bytes:
    """Zeros up to the next block behind ``size`` bytes."""
    return bytes(-size % BLOCK)


def ending(written: int) -> bytes:
    """The end of an archive of ``written`` bytes."""
    return bytes(2 * BLOCK + -(written + 2 * BLOCK) % RECORD)


def sparse_map(segments: list[tuple[int, int]]) -> bytes:
    """The map of a sparse file, (offset, length) each, as it stands before its data."""
    text = b"%d\n" % len(segments) + b"".join(b"%d\n%d\n" % segment for segment in segments)
    return text + padding(len(text))


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """A long name as ustar's prefix and name; None where it does not fit."""
    at = name.rfind(b"/", 0, min(_MOST_PREFIX + 1, len(name) - 1))
    if at > 0 and len(name) - at - 1 <= _MOST_NAME:
        return name[:at], name[at + 1 :]
    return None


def _fitting(number: int, most: int) -> int:
    return number if number <= most else 0


def _time(time_ns: int) -> bytes:
    sign = b"-" if time_ns < 0 else b""
    seconds, fraction = divmod(abs(time_ns), NS)
    return sign + b"%d" % seconds + (b".%09d" % fraction).rstrip(b"0") if fraction else sign + b"%d" % seconds


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``; the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(
    name: bytes,
    prefix: bytes,
    type: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    major, minor = device
    return _summed(
        b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(_MOST_NAME, b"\0"), mode, uid, gid, size, mtime)
        + bytes(8)
        + b"%s%sustar\00000%s" % (type, link.ljust(_MOST_NAME, b"\0"), bytes(64))
        + b"%07o\0%07o\0%s" % (major, minor, prefix.ljust(_MOST_PREFIX + 12, b"\0"))
    )


def _summed(block: bytes) -> bytes:
    """A header with its checksum."""
    head, tail = block[:148], block[156:]
    return b"%s%06o\0 %s" % (head, sum(head) + 256 + sum(tail), tail)
