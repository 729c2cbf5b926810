"""Compressed input, recognised by how it begins, given back as plain bytes."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from lamina.errors import SourceError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MAGIC_LENGTH = 6


class _Rejoined(io.RawIOBase):
    """A stream with the bytes put back that were read from its beginning."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head = head
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        if self._head:
            count = min(len(view), len(self._head))
            view[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        read_into: Callable[[memoryview], int | None] | None = getattr(self._stream, "readinto", None)
        if read_into is not None:
            return read_into(view) or 0
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)


def open_stream(stream: BinaryIO) -> BinaryIO:
    """``stream``, decompressed if it begins as gzip, zstd, xz or bzip2 does."""
    head = b""
    try:
        while len(head) < _MAGIC_LENGTH and (more := stream.read(_MAGIC_LENGTH - len(head))):
            head += more
    except OSError as error:
        raise SourceError(f"cannot read the archive: {error.strerror or error}") from error
    reader = io.BufferedReader(_Rejoined(head, stream), 1 << 20)
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
