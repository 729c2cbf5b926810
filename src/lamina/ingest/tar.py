"""A strict streaming reader of tar archives: ustar, GNU and PAX, with sparse files, xattrs and long names.

Strict where the standard library's is lenient: a bad checksum or a missing end-of-archive marker means that the input
was cut or damaged, and is an error. Formats: POSIX.1-2017 pax(1), GNU tar manual ("Basic Tar Format", "Storing Sparse
Files").
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from lamina.errors import LaminaError, SourceError
from lamina.ingest.tarfields import (
    MAX_SECONDS,
    MAX_SIZE,
    NS,
    bounded,
    check,
    device,
    number,
    override,
    owner,
    pax_int,
    pax_records,
    pax_time,
    string,
    xattrs,
)

BLOCK = 512
_MAX_HEADER = 8 << 20
"""Bytes of extended headers that one member, or all members together, may have."""
_MAX_SPARSE = 1 << 20
_LONGEST_NUMBER = 20
_DRAIN = 1 << 16
_MAX_NAME = 64 << 10

REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR_TYPES = (b"0", b"\0", b"7", b"S")
_KNOWN = (REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO)


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
    """Iterates over the members of a tar stream; after each, ``read_into`` gives its stored bytes in order.

    ``layer``: the archive is a layer of a container image, and means what Go's archive/tar, by which such images are
    made and unpacked, takes it for: it may end without an end-of-archive marker, global headers say nothing about
    members, only files have data, whatever size a header tells. After its end only zeros may come.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        layer: bool = False,
        record: Callable[[bytes], None] | None = None,
        skip: Callable[[int], None] | None = None,
    ) -> None:
        """``record`` gets, in order, all bytes that ``read_into`` does not give. ``skip`` moves the stream on by some
        bytes, so that what nobody asks for is not read."""
        self._stream = stream
        self._layer = layer
        self._record = record
        self._pass = skip
        self.ended = False
        """Whether an end-of-archive marker came."""
        self._left = 0
        self._padding = 0
        self._position = 0
        self._defaults: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Member]:
        """Members in order. Raises ``SourceError`` for an archive that is damaged, cut short or of an unknown kind."""
        empty = True
        while True:
            self._skip()
            header = self._block("tar is cut short" if not empty else "input is empty", may_end=self._layer)
            if not header:
                return
            if header.count(0) == BLOCK:
                if empty and not self._layer and self._at_end():
                    raise SourceError("input is no tar archive: it is empty")
                self.ended = True
                if self._pass is None:
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

    @property
    def left(self) -> int:
        """Stored bytes of the member that ``read_into`` has not given yet."""
        return self._left

    @property
    def position(self) -> int:
        """Bytes of the archive that have been read, or passed over."""
        return self._position

    def pass_over(self) -> None:
        """The caller has moved the stream behind the member's stored bytes, all of them."""
        self._position += self._left
        self._left = 0

    # -- bytes ----------------------------------------------------------------------------------------------------

    def _read_some(self, view: memoryview) -> int:
        try:
            count: int = self._stream.readinto(view)  # type: ignore[attr-defined]
        except LaminaError:
            raise
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
        return self._kept(data)

    def _kept(self, data: bytearray) -> bytes:
        kept = bytes(data)
        if self._record is not None:
            self._record(kept)
        return kept

    def _block(self, message: str = "tar is cut short", may_end: bool = False) -> bytes:
        """The next block; nothing where the input ends and ``may_end``."""
        data = bytearray(BLOCK)
        view = memoryview(data)
        filled = 0
        while filled < BLOCK:
            count = self._read_some(view[filled:])
            if count == 0:
                if may_end and not filled:
                    return b""
                message = "tar is cut short" if filled else message
                raise SourceError(f"{message}: it ends at byte {self._position} without an end-of-archive block")
            filled += count
        return self._kept(data)

    def _skip(self) -> None:
        left = self._left + self._padding
        if self._pass is not None and left:
            self._pass(left)
            self._position += left
            left = 0
        scratch = memoryview(bytearray(min(left, 1 << 20)))
        while left:
            count = self._read_some(scratch[: min(left, len(scratch))])
            if count == 0:
                raise SourceError(f"tar is cut short: it ends inside a member at byte {self._position}")
            if self._record is not None:
                self._record(bytes(scratch[:count]))
            left -= count
        self._left = self._padding = 0

    def _at_end(self) -> bool:
        return self._read_some(memoryview(bytearray(1))) == 0

    def _drain(self) -> None:
        """Read on to the end of the input, so that whoever writes into the pipe is not killed."""
        buffer = bytearray(_DRAIN)
        scratch = memoryview(buffer)
        while count := self._read_some(scratch):
            if self._layer and buffer[:count].count(0) != count:
                raise SourceError(f"tar is damaged: it goes on after its end, before byte {self._position}")
            if self._record is not None:
                self._record(bytes(scratch[:count]))

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
            check(header, self._position)
            kind = header[156:157]
            size = bounded(number(header[124:136], "size"), 0, MAX_SIZE, "size")
            if kind in (b"x", b"X", b"g", b"L", b"K"):
                room -= size
                if room < 0:
                    raise SourceError(f"tar is damaged: an extended header of {size} bytes at byte {self._position}")
            if kind == b"g":
                records = pax_records(self._extended(size))
                if not self._layer:
                    self._global(records)
                if name is None and link is None and not sparse_pairs and pax == before:
                    return None
            elif kind in (b"x", b"X"):
                records = pax_records(self._extended(size))
                override(pax, records)
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
            header = self._block()
        if b"size" in pax:
            size = pax_int(pax[b"size"], "size", MAX_SIZE)
        return self._describe(header, kind, size, name, link, pax, sparse_pairs)

    def _global(self, records: list[tuple[bytes, bytes]]) -> None:
        override(self._defaults, records)
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
            name = string(header[0:100])
            if header[257:262] == b"ustar" and header[257:265] != b"ustar  \0" and header[345]:
                name = string(header[345:500]) + b"/" + name
        name = pax.get(b"GNU.sparse.name", pax.get(b"path", name))
        link = pax.get(b"linkpath", link if link is not None else string(header[157:257]))
        if len(name) > _MAX_NAME or len(link) > _MAX_NAME:
            raise SourceError(f"tar member {name[:100]!r}... has a name of {max(len(name), len(link))} bytes")
        mtime = pax_time(pax[b"mtime"]) if b"mtime" in pax else number(header[136:148], "mtime") * NS
        data_follows = True
        if name.endswith(b"/") and kind in ((b"\0",) if self._layer else (b"\0", b"0", b"7")):
            kind = DIRECTORY
            data_follows = not self._layer
        elif kind in _REGULAR_TYPES:
            pass
        elif kind == b"D":
            kind = DIRECTORY
        elif kind in _KNOWN:
            data_follows = not self._layer
        else:
            raise SourceError(f"tar member of type {kind!r} is not supported (at byte {self._position})")
        segments: list[tuple[int, int]] = []
        logical = 0
        if kind in _REGULAR_TYPES:
            segments, logical, size = self._contents(header, kind, size, pax, sparse_pairs)
            kind = REGULAR
            self._begin(size)
        elif kind == DIRECTORY and data_follows:
            self._begin(size)
        elif kind == HARD_LINK and size and b"size" in pax and data_follows:
            self._begin(size)  # pax archives may repeat the data with a link; it is the same data
        return Member(
            name=name,
            type=kind,
            mode=number(header[100:108], "mode") & 0o7777,
            uid=owner(header[108:116], pax.get(b"uid"), "uid"),
            gid=owner(header[116:124], pax.get(b"gid"), "gid"),
            size=logical,
            mtime_ns=bounded(mtime, -MAX_SECONDS * NS, MAX_SECONDS * NS, "mtime"),
            atime_ns=pax_time(pax[b"atime"]) if b"atime" in pax else None,
            ctime_ns=pax_time(pax[b"ctime"]) if b"ctime" in pax else None,
            link=link,
            rdev=device(header) if kind in (CHAR, BLOCK_DEVICE) else 0,
            segments=segments,
            xattrs=xattrs(pax),
        )

    # -- sparse files ---------------------------------------------------------------------------------------------

    def _contents(
        self, header: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], pairs: list[tuple[bytes, bytes]]
    ) -> tuple[list[tuple[int, int]], int, int]:
        """(segments, file size, bytes that follow in the archive)."""
        if kind == b"S":
            segments, logical = self._old_sparse(header)
        elif pax.get(b"GNU.sparse.major") == b"1":
            logical = pax_int(pax.get(b"GNU.sparse.realsize", b""), "sparse size", MAX_SIZE)
            segments, used = self._sparse_map_in_data(size)
            size -= used
        elif b"GNU.sparse.map" in pax or b"GNU.sparse.numblocks" in pax:
            text = pax.get(b"GNU.sparse.size", pax.get(b"GNU.sparse.realsize", b""))
            logical = pax_int(text, "sparse size", MAX_SIZE)
            if b"GNU.sparse.map" in pax:
                texts = pax[b"GNU.sparse.map"].split(b",")
                numbers = [pax_int(text, "sparse map", MAX_SIZE) for text in texts if text]
            else:
                wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
                numbers = [pax_int(value, "sparse map", MAX_SIZE) for key, value in pairs if key in wanted]
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
        logical = bounded(number(header[483:495], "sparse size"), 0, MAX_SIZE, "sparse size")
        part, more = header[386:482], header[482]
        while True:
            for at in range(0, len(part) - 23, 24):
                if part[at]:
                    segments.append((number(part[at : at + 12], "sparse"), number(part[at + 12 : at + 24], "sparse")))
            if not more:
                return segments, logical
            if len(segments) > _MAX_SPARSE:
                raise SourceError("tar is damaged: the map of a sparse file does not end")
            block = self._block()
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
            numbers += [pax_int(line, "sparse map", MAX_SIZE) for line in lines if line.strip(b"\0")]
            text = text.rstrip(b"\0")
            if len(text) > _LONGEST_NUMBER or (numbers and numbers[0] > _MAX_SPARSE):
                raise SourceError("tar is damaged: the map of a sparse file is none")
            if numbers:
                need = 1 + 2 * numbers[0]
        pairs = numbers[1:need]
        return list(zip(pairs[::2], pairs[1::2], strict=True)), used
