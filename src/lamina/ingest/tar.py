"""A strict streaming reader of tar archives: ustar, GNU and PAX, with sparse files, xattrs and long names.

Strict where the standard library's is lenient: a bad checksum or a missing end-of-archive marker means that the input
was cut or damaged, and is an error. Formats: POSIX.1-2017 pax(1), GNU tar manual ("Basic Tar Format", "Storing Sparse
Files").
"""

import base64
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from lamina.errors import SourceError

BLOCK = 512
_MAX_HEADER = 8 << 20
"""Bytes of extended headers that one member, or all members together, may have."""
_MAX_SPARSE = 1 << 20
_LONGEST_NUMBER = 20
_MAX_NAME = 64 << 10
_MAX_SIZE = (1 << 63) - 1
_MAX_SECONDS = (1 << 62) - 1
_MAX_XATTR_NAME, _MAX_XATTR = 255, 64 << 10
"""linux/limits.h: XATTR_NAME_MAX, XATTR_SIZE_MAX."""
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
"""linux/kdev_t.h: MINORBITS."""
NS = 1_000_000_000

REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR_TYPES = (b"0", b"\0", b"7", b"S")
_KNOWN = (REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO)
_OCTAL = re.compile(rb"[0-7]+\Z")
_PAX_NUMBER = re.compile(rb"[0-9]{1,20}\Z")
_PAX_TIME = re.compile(rb"-?[0-9]{1,20}(\.[0-9]*)?\Z")
_PAX_FIELDS = frozenset([b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"atime", b"ctime"])


@dataclass(slots=True)
class Member:
    """One archive member. ``name`` and ``link`` are as they stand in the archive; ``size`` is the file's, in bytes.

    ``segments`` are the (offset, length) parts of the file whose bytes follow in the archive, in order.
    """

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    atime_ns: int | None
    ctime_ns: int | None
    link: bytes
    rdev: int
    segments: list[tuple[int, int]]
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class TarReader:
    """Iterates over the members of a tar stream; after each, ``read_into`` gives its stored bytes in order."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = 0
        self._padding = 0
        self._position = 0
        self._defaults: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Member]:
        """Members in order. Raises ``SourceError`` for an archive that is damaged, cut short or of an unknown kind."""
        empty = True
        while True:
            self._skip()
            header = self._block(b"tar is cut short" if not empty else b"input is empty")
            if header.count(0) == BLOCK:
                if empty and self._at_end():
                    raise SourceError("input is no tar archive: it is empty")
                self._drain()
                return
            empty = False
            member = self._member(header)
            if member is not None:
                yield member

    def read_into(self, view: memoryview) -> int:
        """Fill ``view`` with the member's next bytes; 0 when there are no more."""
        want = min(len(view), self._left)
        if want == 0:
            return 0
        filled = 0
        while filled < want:
            count = self._read_some(view[filled:want])
            if count == 0:
                raise SourceError(f"tar is cut short: it ends inside a member at byte {self._position}")
            filled += count
        self._left -= filled
        return filled

    # -- bytes ----------------------------------------------------------------------------------------------------

    def _read_some(self, view: memoryview) -> int:
        try:
            count: int = self._stream.readinto(view)  # type: ignore[attr-defined]
        except (OSError, EOFError, ValueError) as error:
            raise SourceError(f"cannot read the archive at byte {self._position}: {error}") from error
        except Exception as error:  # zlib.error, lzma.LZMAError, ZstdError: each library has its own class
            raise SourceError(f"the compressed archive is damaged at byte {self._position}: {error}") from error
        self._position += count or 0
        return count or 0

    def _read(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        filled = 0
        while filled < size:
            count = self._read_some(view[filled:])
            if count == 0:
                raise SourceError(f"tar is cut short: it ends at byte {self._position}")
            filled += count
        return bytes(data)

    def _block(self, message: bytes) -> bytes:
        data = bytearray(BLOCK)
        view = memoryview(data)
        filled = 0
        while filled < BLOCK:
            count = self._read_some(view[filled:])
            if count == 0:
                raise SourceError(
                    f"{message.decode()}: it ends at byte {self._position} without an end-of-archive block"
                )
            filled += count
        return bytes(data)

    def _skip(self) -> None:
        left = self._left + self._padding
        scratch = memoryview(bytearray(min(left, 1 << 20)))
        while left:
            count = self._read_some(scratch[: min(left, len(scratch))])
            if count == 0:
                raise SourceError(f"tar is cut short: it ends inside a member at byte {self._position}")
            left -= count
        self._left = self._padding = 0

    def _at_end(self) -> bool:
        return self._read_some(memoryview(bytearray(1))) == 0

    def _drain(self) -> None:
        """Read on to the end of the input, so that whoever writes into the pipe is not killed."""
        scratch = memoryview(bytearray(1 << 16))
        while self._read_some(scratch):
            pass

    def _begin(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK

    # -- headers --------------------------------------------------------------------------------------------------

    def _member(self, header: bytes) -> Member | None:
        """The member that begins with ``header``, with the extended headers before it; None for what is none."""
        pax: dict[bytes, bytes] = dict(self._defaults)
        sparse_pairs: list[tuple[bytes, bytes]] = []
        before = dict(pax)
        name: bytes | None = None
        link: bytes | None = None
        room = _MAX_HEADER
        while True:
            _check(header, self._position)
            kind = header[156:157]
            size = _bounded(_number(header[124:136], "size"), 0, _MAX_SIZE, "size")
            if kind in (b"x", b"X", b"g", b"L", b"K"):
                room -= size
                if room < 0:
                    raise SourceError(f"tar is damaged: an extended header of {size} bytes at byte {self._position}")
            if kind == b"g":
                self._global(_pax_records(self._extended(size)))
                if name is None and link is None and not sparse_pairs and pax == before:
                    return None
            elif kind in (b"x", b"X"):
                records = _pax_records(self._extended(size))
                _override(pax, records)
                sparse_pairs += [(k, v) for k, v in records if k.startswith(b"GNU.sparse.")]
            elif kind == b"L":
                name = self._extended(size).rstrip(b"\0")
            elif kind == b"K":
                link = self._extended(size).rstrip(b"\0")
            elif kind == b"V":
                self._begin(size)
                return None
            else:
                break
            header = self._block(b"tar is cut short")
        if b"size" in pax:
            size = _pax_int(pax[b"size"], "size", _MAX_SIZE)
        return self._describe(header, kind, size, name, link, pax, sparse_pairs)

    def _global(self, records: list[tuple[bytes, bytes]]) -> None:
        _override(self._defaults, records)
        if sum(len(key) + len(value) for key, value in self._defaults.items()) > _MAX_HEADER:
            raise SourceError(f"tar is damaged: too many global headers at byte {self._position}")

    def _extended(self, size: int) -> bytes:
        data = self._read(size)
        self._read(-size % BLOCK)
        return data

    def _describe(
        self,
        header: bytes,
        kind: bytes,
        size: int,
        name: bytes | None,
        link: bytes | None,
        pax: dict[bytes, bytes],
        sparse_pairs: list[tuple[bytes, bytes]],
    ) -> Member:
        if name is None:
            name = _string(header[0:100])
            if header[257:262] == b"ustar" and header[257:265] != b"ustar  \0" and header[345]:
                name = _string(header[345:500]) + b"/" + name
        name = pax.get(b"GNU.sparse.name", pax.get(b"path", name))
        link = pax.get(b"linkpath", link if link is not None else _string(header[157:257]))
        if len(name) > _MAX_NAME or len(link) > _MAX_NAME:
            raise SourceError(f"tar member {name[:100]!r}... has a name of {max(len(name), len(link))} bytes")
        mtime = _pax_time(pax[b"mtime"]) if b"mtime" in pax else _number(header[136:148], "mtime") * NS
        if kind in _REGULAR_TYPES and name.endswith(b"/") and kind != b"S":
            kind = DIRECTORY
        elif kind in _REGULAR_TYPES:
            pass
        elif kind == b"D":
            kind = DIRECTORY
        elif kind not in _KNOWN:
            raise SourceError(f"tar member of type {kind!r} is not supported (at byte {self._position})")
        segments: list[tuple[int, int]] = []
        logical = 0
        if kind in _REGULAR_TYPES:
            segments, logical, size = self._contents(header, kind, size, pax, sparse_pairs)
            kind = REGULAR
            self._begin(size)
        elif kind == DIRECTORY:
            self._begin(size)
        elif kind == HARD_LINK and size and b"size" in pax:
            self._begin(size)  # pax archives may repeat the data with a link; it is the same data
        return Member(
            name=name,
            type=kind,
            mode=_number(header[100:108], "mode") & 0o7777,
            uid=_owner(header[108:116], pax.get(b"uid"), "uid"),
            gid=_owner(header[116:124], pax.get(b"gid"), "gid"),
            size=logical,
            mtime_ns=_bounded(mtime, -_MAX_SECONDS * NS, _MAX_SECONDS * NS, "mtime"),
            atime_ns=_pax_time(pax[b"atime"]) if b"atime" in pax else None,
            ctime_ns=_pax_time(pax[b"ctime"]) if b"ctime" in pax else None,
            link=link,
            rdev=_device(header) if kind in (CHAR, BLOCK_DEVICE) else 0,
            segments=segments,
            xattrs=_xattrs(pax),
        )

    # -- sparse files ---------------------------------------------------------------------------------------------

    def _contents(
        self, header: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], pairs: list[tuple[bytes, bytes]]
    ) -> tuple[list[tuple[int, int]], int, int]:
        """(segments, file size, bytes that follow in the archive)."""
        if kind == b"S":
            segments, logical = self._old_sparse(header)
        elif pax.get(b"GNU.sparse.major") == b"1":
            logical = _pax_int(pax.get(b"GNU.sparse.realsize", b""), "sparse size", _MAX_SIZE)
            segments, used = self._sparse_map_in_data(size)
            size -= used
        elif b"GNU.sparse.map" in pax or b"GNU.sparse.numblocks" in pax:
            text = pax.get(b"GNU.sparse.size", pax.get(b"GNU.sparse.realsize", b""))
            logical = _pax_int(text, "sparse size", _MAX_SIZE)
            if b"GNU.sparse.map" in pax:
                texts = pax[b"GNU.sparse.map"].split(b",")
                numbers = [_pax_int(text, "sparse map", _MAX_SIZE) for text in texts if text]
            else:
                wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
                numbers = [_pax_int(value, "sparse map", _MAX_SIZE) for key, value in pairs if key in wanted]
            if len(numbers) % 2:
                raise SourceError("tar is damaged: the map of a sparse file has an odd length")
            segments = list(zip(numbers[::2], numbers[1::2], strict=True))
        else:
            return ([(0, size)] if size else []), size, size
        position = 0
        for offset, length in segments:
            if offset < position or length < 0 or offset + length > logical:
                raise SourceError("tar is damaged: the map of a sparse file is not in order")
            position = offset + length
        if sum(length for _, length in segments) != size:
            raise SourceError("tar is damaged: the map of a sparse file does not match its data")
        return [segment for segment in segments if segment[1]], logical, size

    def _old_sparse(self, header: bytes) -> tuple[list[tuple[int, int]], int]:
        segments: list[tuple[int, int]] = []
        logical = _bounded(_number(header[483:495], "sparse size"), 0, _MAX_SIZE, "sparse size")
        part, more = header[386:482], header[482]
        while True:
            for at in range(0, len(part) - 23, 24):
                if part[at]:
                    segments.append((_number(part[at : at + 12], "sparse"), _number(part[at + 12 : at + 24], "sparse")))
            if not more:
                return segments, logical
            if len(segments) > _MAX_SPARSE:
                raise SourceError("tar is damaged: the map of a sparse file does not end")
            block = self._block(b"tar is cut short")
            part, more = block[:504], block[504]

    def _sparse_map_in_data(self, size: int) -> tuple[list[tuple[int, int]], int]:
        """GNU format 1.0: the map is text before the data, padded to a block."""
        text = b""
        used = 0
        need = 1
        numbers: list[int] = []
        while len(numbers) < need:
            if used + BLOCK > size + -size % BLOCK or len(numbers) > 2 * _MAX_SPARSE:
                raise SourceError("tar is damaged: the map of a sparse file does not end")
            text += self._read(BLOCK)
            used += BLOCK
            *lines, text = text.split(b"\n")
            numbers += [_pax_int(line, "sparse map", _MAX_SIZE) for line in lines if line.strip(b"\0")]
            text = text.rstrip(b"\0")
            if len(text) > _LONGEST_NUMBER or (numbers and numbers[0] > _MAX_SPARSE):
                raise SourceError("tar is damaged: the map of a sparse file is none")
            if numbers:
                need = 1 + 2 * numbers[0]
        pairs = numbers[1:need]
        return list(zip(pairs[::2], pairs[1::2], strict=True)), used


def _check(header: bytes, position: int) -> None:
    stored = _number(header[148:156], "checksum")
    plain = sum(header[:148]) + 256 + sum(header[156:])
    if stored == plain:
        return
    numbers = struct.unpack("512b", header)
    if stored != sum(numbers[:148]) + 256 + sum(numbers[156:]):
        raise SourceError(f"input is no tar archive, or damaged: bad header checksum before byte {position}")


def _string(data: bytes) -> bytes:
    return data.split(b"\0", 1)[0]


def _number(data: bytes, what: str) -> int:
    if data[0] & 0x80:  # GNU base-256, two's complement over the remaining bits
        value = int.from_bytes(data, "big") & ((1 << (8 * len(data) - 1)) - 1)
        return value - (1 << (8 * len(data) - 1)) if data[0] & 0x40 else value
    text = data.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    if not _OCTAL.match(text):
        raise SourceError(f"input is no tar archive, or damaged: bad {what} in a header")
    return int(text, 8)


def _bounded(value: int, low: int, high: int, what: str) -> int:
    if not low <= value <= high:
        raise SourceError(f"tar is damaged: a {what} of {value} in a header")
    return value


def _owner(field: bytes, text: bytes | None, what: str) -> int:
    """A user or group number; negative ones stand for the highest, as chown(2) takes them."""
    value = _pax_int(text, what, (1 << 32) - 1) if text is not None else _number(field, what)
    return _bounded(value, -(1 << 31), (1 << 32) - 1, what) & 0xFFFFFFFF


def _pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    records: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(data) and data[position]:
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise SourceError("tar is damaged: bad record in an extended header")
        end = position + int(digits)
        equals = data.find(b"=", space, end)
        if end > len(data) or equals < 0 or data[end - 1 : end] != b"\n":
            raise SourceError("tar is damaged: bad record in an extended header")
        records.append((data[space + 1 : equals], data[equals + 1 : end - 1]))
        position = end
    return records


def _override(pax: dict[bytes, bytes], records: list[tuple[bytes, bytes]]) -> None:
    """Later records replace earlier ones; an empty value gives the header's own field back (pax(1))."""
    for key, value in records:
        if value or key not in _PAX_FIELDS:
            pax[key] = value
        else:
            pax.pop(key, None)


def _pax_int(text: bytes, what: str, most: int) -> int:
    if not _PAX_NUMBER.match(text) or int(text) > most:
        raise SourceError(f"tar is damaged: bad {what} in an extended header")
    return int(text)


def _pax_time(text: bytes) -> int:
    if not _PAX_TIME.match(text):
        raise SourceError("tar is damaged: bad time in an extended header")
    whole, _, fraction = text.partition(b".")
    nanoseconds = int((fraction + b"0" * 9)[:9])
    time = int(whole) * NS + (-nanoseconds if whole.startswith(b"-") else nanoseconds)
    return _bounded(time, -_MAX_SECONDS * NS, _MAX_SECONDS * NS, "time")


def _device(header: bytes) -> int:
    major = _bounded(_number(header[329:337], "device"), 0, _MAX_MAJOR, "device number")
    return os.makedev(major, _bounded(_number(header[337:345], "device"), 0, _MAX_MINOR, "device number"))


def _xattrs(pax: dict[bytes, bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for key, value in pax.items():
        if key.startswith(b"LIBARCHIVE.xattr."):
            name = unquote_to_bytes(key[17:])
            try:
                found[name] = base64.b64decode(value + b"=" * (-len(value) % 4))
            except ValueError:
                raise SourceError("tar is damaged: an extended attribute is not base64") from None
        elif key == b"RHT.security.selinux":
            found[b"security.selinux"] = value
    for key, value in pax.items():
        if key.startswith(b"SCHILY.xattr."):
            # As xattr_encode_keyword of GNU tar writes what may not stand in a keyword.
            found[key[13:].replace(b"%3D", b"=").replace(b"%25", b"%")] = value
    for key, value in found.items():
        if not 0 < len(key) <= _MAX_XATTR_NAME or b"\0" in key or len(value) > _MAX_XATTR:
            raise SourceError("tar is damaged: an extended attribute that no file can have")
    return found
