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
_MAX_SPARSE = 1 << 20
NS = 1_000_000_000

REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR_TYPES = (b"0", b"\0", b"7", b"S")
_KNOWN = (REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO)
_PAX_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]*)?\Z")


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
        name: bytes | None = None
        link: bytes | None = None
        while True:
            _check(header, self._position)
            kind = header[156:157]
            size = _number(header[124:136], "size")
            if kind in (b"x", b"X", b"g"):
                records = _pax_records(self._extended(size))
                if kind == b"g":
                    self._defaults.update(records)
                    return None
                pax.update(records)
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
            size = _pax_int(pax[b"size"], "size")
        return self._describe(header, kind, size, name, link, pax, sparse_pairs)

    def _extended(self, size: int) -> bytes:
        if size > _MAX_HEADER:
            raise SourceError(f"tar is damaged: an extended header of {size} bytes at byte {self._position}")
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
            uid=_pax_int(pax[b"uid"], "uid") if b"uid" in pax else _number(header[108:116], "uid"),
            gid=_pax_int(pax[b"gid"], "gid") if b"gid" in pax else _number(header[116:124], "gid"),
            size=logical,
            mtime_ns=mtime,
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
            logical = _pax_int(pax.get(b"GNU.sparse.realsize", b""), "sparse size")
            segments, used = self._sparse_map_in_data(size)
            size -= used
        elif b"GNU.sparse.map" in pax or b"GNU.sparse.numblocks" in pax:
            logical = _pax_int(pax.get(b"GNU.sparse.size", pax.get(b"GNU.sparse.realsize", b"")), "sparse size")
            if b"GNU.sparse.map" in pax:
                numbers = [_pax_int(text, "sparse map") for text in pax[b"GNU.sparse.map"].split(b",") if text]
            else:
                wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
                numbers = [_pax_int(value, "sparse map") for key, value in pairs if key in wanted]
            segments = list(zip(numbers[::2], numbers[1::2], strict=len(numbers) % 2 == 0))
        else:
            return ([(0, size)] if size else []), size, size
        position = 0
        for offset, length in segments:
            if offset < position or offset + length > logical:
                raise SourceError("tar is damaged: the map of a sparse file is not in order")
            position = offset + length
        if sum(length for _, length in segments) != size:
            raise SourceError("tar is damaged: the map of a sparse file does not match its data")
        return [segment for segment in segments if segment[1]], logical, size

    def _old_sparse(self, header: bytes) -> tuple[list[tuple[int, int]], int]:
        segments: list[tuple[int, int]] = []
        logical = _number(header[483:495], "sparse size")
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
            numbers += [_pax_int(line, "sparse map") for line in lines if line.strip(b"\0")]
            if numbers:
                need = 1 + 2 * numbers[0]
        pairs = numbers[1:need]
        return list(zip(pairs[::2], pairs[1::2], strict=True)), used


def open_stream(stream: BinaryIO) -> BinaryIO:
    """``stream``, decompressed if it begins as gzip, zstd, xz or bzip2 does."""
    import io

    reader = io.BufferedReader(stream, 1 << 20) if isinstance(stream, io.RawIOBase) else stream
    peek = getattr(reader, "peek", None)
    if peek is None:
        reader = io.BufferedReader(stream, 1 << 20)  # type: ignore[type-var]
        peek = reader.peek
    head = peek(6)[:6]
    opened: BinaryIO = reader
    if head.startswith(b"\x1f\x8b"):
        import gzip

        opened = gzip.GzipFile(fileobj=reader)  # type: ignore[assignment]
    elif head.startswith(b"\xfd7zXZ\0"):
        import lzma

        opened = lzma.LZMAFile(reader)  # type: ignore[assignment]  # noqa: SIM115
    elif head.startswith(b"BZh"):
        import bz2

        opened = bz2.BZ2File(reader)  # type: ignore[assignment]
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        opened = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(reader, read_across_frames=True)
    return opened


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
    try:
        return int(text, 8)
    except ValueError:
        raise SourceError(f"input is no tar archive, or damaged: bad {what} in a header") from None


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


def _pax_int(text: bytes, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SourceError(f"tar is damaged: bad {what} in an extended header") from None


def _pax_time(text: bytes) -> int:
    if not _PAX_NUMBER.match(text):
        raise SourceError("tar is damaged: bad time in an extended header")
    whole, _, fraction = text.partition(b".")
    nanoseconds = int((fraction + b"0" * 9)[:9])
    return int(whole) * NS + (-nanoseconds if whole.startswith(b"-") else nanoseconds)


def _device(header: bytes) -> int:
    return os.makedev(_number(header[329:337], "device"), _number(header[337:345], "device"))


def _xattrs(pax: dict[bytes, bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for key, value in pax.items():
        if key.startswith(b"LIBARCHIVE.xattr."):
            name = unquote_to_bytes(key[17:])
            found.setdefault(name, base64.b64decode(value + b"=" * (-len(value) % 4)))
        elif key == b"RHT.security.selinux":
            found[b"security.selinux"] = value
    for key, value in pax.items():
        if key.startswith(b"SCHILY.xattr."):
            found[key[13:]] = value
    return found
