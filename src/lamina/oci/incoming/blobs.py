"""Blobs on their way in: verified while they are read, and decompressed within bounds.

What comes is believed only at its end: a ``BlobReader`` raises there unless size and digest are what was promised, and
the stream of a layer's tar ends only after its blob did.
"""

import hashlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Protocol

from lamina.errors import LaminaError, OciError
from lamina.oci.formats.models import check_layer_type
from lamina.oci.formats.zstdframes import MAGIC as ZSTD_MAGIC
from lamina.oci.formats.zstdframes import MAX_WINDOW, FrameWalker
from lamina.pool.units import format_size

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from isal.igzip_lib import IgzipDecompressor

GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 256 << 10
"""Bytes read from a blob at a time."""
_BUFFER = 1 << 20
_OTHER_MAGIC = {b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}
_LONGEST_MAGIC = 6

_LIMIT_RATIO = 250
_LIMIT_LEAST, _LIMIT_MOST = 1 << 30, 64 << 30


def layer_limit(compressed: int | None) -> int:
    """The most bytes that a layer may decompress to where no option says it: 250 times its size, 1 to 64 GiB.

    Real layers shrink to a twentieth at best; gzip can make a thousandth of zeros, zstd a ten-thousandth.
    """
    if compressed is None:
        return _LIMIT_MOST
    return min(_LIMIT_MOST, max(_LIMIT_LEAST, _LIMIT_RATIO * compressed))


class BlobReader(io.RawIOBase):
    """A blob's bytes, verified: raises ``OciError`` as soon as it is too long, or at its end if it is not the blob.

    ``size`` or ``digest`` is None where nobody said it. ``taken`` is told the number of bytes of each read.
    """

    def __init__(
        self,
        stream: BinaryIO,
        digest: str | None,
        size: int | None,
        what: str,
        taken: Callable[[int], None] | None = None,
    ) -> None:
        self._stream = stream
        self._readinto: Callable[[memoryview], int | None] | None = getattr(stream, "readinto", None)
        self._digest = digest
        self._size = size
        self._what = what
        self._taken = taken
        self._hash = hashlib.sha256() if digest is not None else None
        self._ended = False
        self.count = 0
        """Bytes read so far."""

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """See ``io.RawIOBase``. Raises ``OciError``."""
        view = memoryview(buffer).cast("B")
        if self._ended or not len(view):
            return 0
        count = self._read(view)
        self.count += count
        if self._size is not None and self.count > self._size:
            raise OciError(f"{self._what} is longer than the {self._size} bytes it should have")
        if not count:
            self._finish()
            return 0
        if self._hash is not None:
            self._hash.update(view[:count])
        if self._taken is not None:
            self._taken(count)
        return count

    def _read(self, view: memoryview) -> int:
        try:
            if self._readinto is not None:
                return self._readinto(view) or 0
            data = self._stream.read(len(view))
        except LaminaError:
            raise
        except (OSError, ValueError) as error:  # ValueError: another thread closed it
            reason = getattr(error, "strerror", None) or error
            raise OciError(f"cannot read {self._what}: {reason}") from error
        view[: len(data)] = data
        return len(data)

    def _finish(self) -> None:
        self._ended = True
        if self._size is not None and self.count != self._size:
            raise OciError(f"{self._what} is cut short: it has {self.count} of {self._size} bytes")
        if self._hash is not None and (found := f"sha256:{self._hash.hexdigest()}") != self._digest:
            raise OciError(f"{self._what} is damaged or not what it should be: its digest is {found}")

    def close(self) -> None:
        """Close the stream below too."""
        if not self.closed:
            super().close()
            self._stream.close()


def read_blob(stream: BinaryIO, digest: str | None, size: int | None, what: str, limit: int) -> bytes:
    """A small blob whole, verified; the stream is closed. Raises ``OciError``, also for more than ``limit`` bytes."""
    with BlobReader(stream, digest, size, what) as reader:
        data = io.BytesIO()
        while block := reader.read(_BLOCK):
            if data.tell() + len(block) > limit:
                raise OciError(f"{what} is larger than {format_size(limit)}")
            data.write(block)
        return data.getvalue()


def open_tar(
    blob: BinaryIO | io.RawIOBase, media_type: str | None, limit: int, what: str = "the layer"
) -> io.BufferedReader:
    """The tar of a layer whose blob is given: gzip (any number of members), zstd (any number of frames) or plain.

    Which of them it is, the first bytes tell, as containerd and Docker do it: a layer that is said to be gzip and is
    plain is taken. ``media_type`` has to be a layer's; None where nobody said one. ``limit``: bytes of the tar, at
    most. Raises ``OciError``, now or while it is read; ``what`` names the layer then.
    """
    if media_type is not None:
        check_layer_type(media_type, what)
    head = b""
    while len(head) < _LONGEST_MAGIC and (more := blob.read(_LONGEST_MAGIC - len(head))):
        head += more
    for magic, name in _OTHER_MAGIC.items():
        if head.startswith(magic):
            raise OciError(f"{what} is compressed with {name}, which layers may not be: gzip and zstd are known")
    source = _Source(head, blob)
    opened: _Bytes
    if head.startswith(GZIP_MAGIC):
        opened = _Gzip(source, what)
    elif head.startswith(ZSTD_MAGIC) or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        opened = _Zstd(source, what)
    else:
        opened = source
    return io.BufferedReader(_Bounded(opened, limit, what), _BUFFER)


class _Bytes(Protocol):
    """What gives bytes in order, and none at the end."""

    def readinto(self, view: memoryview, /) -> int: ...


class _Source:
    """A blob's bytes with its first ones, which were looked at, before the others."""

    def __init__(self, head: bytes, blob: BinaryIO | io.RawIOBase) -> None:
        self._head = head
        self._readinto: Callable[[memoryview], int | None] = blob.readinto  # type: ignore[union-attr]

    def readinto(self, view: memoryview) -> int:
        """Bytes of the blob; 0 at its end."""
        if self._head:
            count = min(len(view), len(self._head))
            view[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        return self._readinto(view) or 0


class _Gzip:
    """All members of a gzip file (RFC 1952), each with its check."""

    def __init__(self, source: _Source, what: str) -> None:
        self._source = source
        self._what = what
        self._decompressor = _new_decompressor()
        self._buffer = memoryview(bytearray(_BLOCK))
        self._rest = b""
        """Read from the blob and not yet given to the decompressor."""
        self._ended = False

    def readinto(self, view: memoryview) -> int:
        """Bytes of what was compressed; 0 at the end."""
        while not self._ended:
            if self._decompressor.eof:
                self._next_member()
                continue
            data: bytes | memoryview = b""
            if self._rest:
                data, self._rest = self._rest, b""
            elif self._decompressor.needs_input:
                data = self._buffer[: self._source.readinto(self._buffer)]
                if not data:
                    raise OciError(f"{self._what} is cut short: its gzip data end too early")
            output = self._decompress(data, len(view))
            if output:
                view[: len(output)] = output
                return len(output)
        return 0

    def _decompress(self, data: bytes | memoryview, length: int) -> bytes:
        from isal.igzip_lib import IsalError

        try:
            return self._decompressor.decompress(data, length)
        except IsalError as error:  # type: ignore[misc]  # the stub gives an instance
            raise OciError(f"{self._what} has damaged gzip data: {_gzip_reason(error)}") from None

    def _next_member(self) -> None:
        """At the end of a member: begin the next one, or end with the blob."""
        rest = bytes(self._decompressor.unused_data)
        while len(rest) < len(GZIP_MAGIC):
            count = self._source.readinto(self._buffer)
            if not count:
                break
            rest += self._buffer[:count]
        if not rest:
            self._ended = True
            return
        if not rest.startswith(GZIP_MAGIC):
            raise OciError(f"{self._what} goes on with something else after its gzip data")
        self._decompressor = _new_decompressor()
        self._rest = rest


def _new_decompressor() -> "IgzipDecompressor":
    from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor

    return IgzipDecompressor(flag=DECOMP_GZIP)


def _gzip_reason(error: Exception) -> str:
    text = str(error)
    return text.split(" ", 2)[-1].lower() if text.startswith("Error ") else text


class _Zstd:
    """All frames of a zstd file (RFC 8878); skippable ones are skipped."""

    def __init__(self, source: _Source, what: str) -> None:
        import zstandard

        self._walker = FrameWalker(what)
        self._source = source
        self._what = what
        self._error = zstandard.ZstdError
        self._reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(
            self,  # type: ignore[arg-type]  # ``read`` is all that is asked of it
            read_size=_BLOCK,
            read_across_frames=True,
        )
        self._input_ended = False

    def read(self, length: int) -> bytes:
        """For the library: compressed bytes, watched over."""
        block = bytearray(length)
        view = memoryview(block)
        count = self._source.readinto(view)
        self._walker.feed(view[:count])
        self._input_ended = not count
        return bytes(view[:count])

    def readinto(self, view: memoryview) -> int:
        """Bytes of what was compressed; 0 at the end."""
        while not (count := self._decompress(view)):
            if self._input_ended:
                self._walker.finish()
                break
        return count

    def _decompress(self, view: memoryview) -> int:
        try:
            return int(self._reader.readinto(view))
        except self._error as error:
            reason = str(error).removeprefix("zstd decompress error: ")
            if "too much memory" in reason:
                reason = f"a window of more than {MAX_WINDOW >> 20} MiB; compress it again without --long"
                raise OciError(f"{self._what} asks for too much memory: {reason}") from None
            if self._walker.between_frames and reason.startswith("Unknown frame"):
                raise OciError(f"{self._what} goes on with something else after its zstd data") from None
            raise OciError(f"{self._what} has damaged zstd data: {reason.lower()}") from None


class _Bounded(io.RawIOBase):
    """Bytes up to a limit; more are an error."""

    def __init__(self, source: _Bytes, limit: int, what: str) -> None:
        self._source = source
        self._limit = self._left = limit
        self._what = what

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        count = self._source.readinto(memoryview(buffer).cast("B"))
        self._left -= count
        if self._left < 0:
            raise OciError(
                f"{self._what} decompresses to more than {format_size(self._limit)}, which looks like a bomb; "
                "if it is none, raise the limit with --max-layer-size"
            )
        return count
