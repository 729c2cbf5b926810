"""Compressing a layer's tar for export and push: gzip in blocks on several threads, zstd on the library's own.

The same tar gives the same bytes, whatever the number of threads, the time or the machine's load; only another version
of a compression library may give others.
"""

import hashlib
import io
import os
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO

from lamina.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

COMPRESSIONS = ("gzip", "zstd", "none")

GZIP_LEVEL, ZSTD_LEVEL = 3, 3
"""Where no level is given. gzip 3 is ISA-L's: several times faster than zlib's 6, for a few percent more bytes."""

_BLOCK = 1 << 20
_DICTIONARY = 32 << 10
"""Bytes before a block that it may refer to: deflate's window."""
_ISAL_LEVELS = 3
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""RFC 1952: no name, no time, an unknown operating system."""


class CompressedStream(io.RawIOBase):
    """The compressed bytes of a tar; after the end, what they are: ``digest``, ``size`` and the tar's ``diff_id``."""

    def __init__(self, tar: BinaryIO, compression: str, *, level: int | None = None, jobs: int | None = None) -> None:
        """``compression``: gzip (level 1 to 9), zstd (1 to 19) or none; ``jobs``: threads, default one a processor."""
        check_level(compression, level)
        self._tar = tar
        self._hash = hashlib.sha256()
        self._tar_hash = hashlib.sha256()
        self._rest = memoryview(b"")
        self.size = 0
        """Bytes of the compressed form, as far as it was read."""
        self.tar_size = 0
        """Bytes of the tar, as far as it was read."""
        threads = jobs or os.cpu_count() or 1
        if compression == "gzip":
            self._blocks = self._gzip(GZIP_LEVEL if level is None else level, threads)
        elif compression == "zstd":
            self._blocks = self._zstd(ZSTD_LEVEL if level is None else level, threads)
        else:
            self._blocks = self._read()

    @property
    def digest(self) -> str:
        """The digest of what was read so far: the blob's, at the end."""
        return f"sha256:{self._hash.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """The digest of what was compressed so far: the layer's diff ID, at the end."""
        return f"sha256:{self._tar_hash.hexdigest()}"

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """See ``io.RawIOBase``."""
        view = memoryview(buffer).cast("B")
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._hash.update(view[:count])
        self.size += count
        return count

    def blocks(self) -> Iterator[bytes]:
        """All bytes, in blocks of any size."""
        for block in self._blocks:
            self._hash.update(block)
            self.size += len(block)
            if block:
                yield block

    def close(self) -> None:
        """End the threads; the tar is closed too."""
        if not self.closed:
            super().close()
            self._blocks.close()
            self._tar.close()

    # -- the three forms --------------------------------------------------------------------------------------------

    def _read(self) -> "Generator[bytes, None, None]":
        while block := self._tar.read(_BLOCK):
            self._tar_hash.update(block)
            self.tar_size += len(block)
            yield block

    def _zstd(self, level: int, threads: int) -> "Generator[bytes, None, None]":
        import zstandard

        # With one thread as with many: without any, the library cuts the input otherwise.
        compressor = zstandard.ZstdCompressor(
            level=level, threads=max(1, threads), write_checksum=True, write_content_size=False
        ).compressobj()
        for block in self._read():
            yield compressor.compress(block)
        yield compressor.flush()

    def _gzip(self, level: int, threads: int) -> "Generator[bytes, None, None]":
        """Blocks of raw deflate that end at a byte, as pigz(1) makes them: one gzip member in all."""
        from isal.isal_zlib import crc32_combine

        yield _HEADER
        check = 0
        pending: deque[tuple[Future[tuple[bytes, int]], int]] = deque()
        before = b""
        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="gzip") as executor:
            try:
                for block in self._read():
                    pending.append((executor.submit(_deflate, block, before, level), len(block)))
                    before = block[-_DICTIONARY:]
                    if len(pending) > threads + 1:
                        future, length = pending.popleft()
                        data, crc = future.result()
                        check = crc32_combine(check, crc, length)
                        yield data
                while pending:
                    future, length = pending.popleft()
                    data, crc = future.result()
                    check = crc32_combine(check, crc, length)
                    yield data
            finally:
                for future, _ in pending:
                    future.cancel()
        # An empty last block, then the check and the size modulo 2**32.
        yield b"\x03\x00" + check.to_bytes(4, "little") + (self.tar_size & 0xFFFFFFFF).to_bytes(4, "little")


def check_level(compression: str, level: int | None) -> None:
    """Raises ``UsageError`` for a compression that is not known, or a level that it does not have."""
    if compression not in COMPRESSIONS:
        raise UsageError(f"unknown compression '{compression}': {', '.join(COMPRESSIONS)} are known")
    most = {"gzip": 9, "zstd": 19, "none": 0}[compression]
    if level is not None and not most:
        raise UsageError("without compression there is no level")
    if level is not None and not 1 <= level <= most:
        raise UsageError(f"{compression} has no level {level}: 1 to {most} are there")


def _deflate(block: bytes, before: bytes, level: int) -> tuple[bytes, int]:
    """A block as raw deflate up to a byte boundary, and its CRC-32. ``before``: the bytes that precede it."""
    from isal import isal_zlib

    library: Any = isal_zlib if level <= _ISAL_LEVELS else zlib
    dictionary = {"zdict": before} if before else {}
    compressor = library.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, **dictionary)
    data: bytes = compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data, isal_zlib.crc32(block)
