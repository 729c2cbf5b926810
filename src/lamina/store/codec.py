"""Codecs: how the bytes of one object are encoded. The table is open: new numbers are added, none is reused."""

import threading
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from lamina.errors import DamagedData, PropertyError

if TYPE_CHECKING:
    import zstandard

Buffer = bytes | bytearray | memoryview

MAX_OBJECT = (1 << 20) - 4096
"""Largest decoded object in bytes: one EROFS physical cluster holds it (kernel: Z_EROFS_PCLUSTER_MAX_SIZE 1 MiB)."""

_PROBE_SLICE = 8192
_PROBE_GAIN = 0.97


class Codec(IntEnum):
    """How a payload is encoded; the number stands in every record."""

    STORED = 0
    ZSTD = 1
    """One zstd frame with content size and content checksum, window at most 1 MiB, no dictionary."""
    LZ4 = 2
    """One LZ4 block; the decoded length is the record's."""
    DEFLATE = 3
    """Raw deflate, RFC 1951."""


@dataclass(frozen=True, slots=True)
class Compression:
    """A codec with its level, as the property ``compression`` names it."""

    codec: Codec
    level: int = 0

    @property
    def slow(self) -> bool:
        """Whether a probe pays before this level is tried. Up to zstd-3, giving up early is as cheap as the probe."""
        return self.codec is Codec.DEFLATE or (self.codec is Codec.ZSTD and self.level > 3)


DEFAULT = Compression(Codec.ZSTD, 3)
_FAST_LEVELS = (*range(1, 11), *range(20, 101, 10), 500, 1000)
_VALUES = {
    "on": DEFAULT,
    "off": Compression(Codec.STORED),
    "zle": Compression(Codec.STORED),
    "lz4": Compression(Codec.LZ4),
    "gzip": Compression(Codec.DEFLATE, 6),
    "zstd": DEFAULT,
    "zstd-fast": Compression(Codec.ZSTD, -1),
    **{f"gzip-{level}": Compression(Codec.DEFLATE, level) for level in range(1, 10)},
    **{f"zstd-{level}": Compression(Codec.ZSTD, level) for level in range(1, 20)},
    **{f"zstd-fast-{level}": Compression(Codec.ZSTD, -level) for level in _FAST_LEVELS},
}
"""The property ``compression`` (zfsprops(7)). ``zle`` stores: runs of zeros are holes here whatever the codec."""


def parse_compression(value: str) -> Compression:
    """The codec and level of a value of the property ``compression``. Raises ``PropertyError``."""
    compression = _VALUES.get(value)
    if compression is None:
        raise PropertyError(f"unknown compression '{value}'")
    return compression


class Coder(threading.local):
    """Encodes and decodes; holds one zstd context a level and thread, since making one costs more than a chunk."""

    def __init__(self) -> None:
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self._decompressor: zstandard.ZstdDecompressor | None = None

    def encode(self, data: Buffer, compression: Compression) -> tuple[Codec, bytes]:
        """The codec used and the payload: compressed if that is smaller, else the bytes as they are."""
        if compression.codec is not Codec.STORED and len(data) > 0:
            if compression.slow and len(data) >= 4 * _PROBE_SLICE and not self._probe(data):
                return Codec.STORED, bytes(data)
            payload = self._compress(data, compression)
            if len(payload) < len(data):
                return compression.codec, payload
        return Codec.STORED, bytes(data)

    def decode(self, codec: int, payload: Buffer, length: int) -> bytes:
        """The ``length`` decoded bytes of a payload. Raises ``DamagedData`` where it does not decode to that."""
        try:
            if codec == Codec.STORED:
                data = bytes(payload)  # no copy where it is bytes
            elif codec == Codec.ZSTD:
                data = self._zstd(payload, length)
            elif codec == Codec.LZ4:
                import lz4.block

                data = lz4.block.decompress(payload, uncompressed_size=length)
            elif codec == Codec.DEFLATE:
                inflate = zlib.decompressobj(-15)
                data = inflate.decompress(payload, length + 1)  # one more: what goes on beyond the length is wrong
                if not inflate.eof or inflate.unused_data:
                    raise DamagedData("payload is not one deflate stream of the right length")
            else:
                raise DamagedData(f"codec {codec} is not known to this version of lamina")
        except DamagedData:
            raise
        except Exception as error:  # each codec has its own class of error; all mean the same here
            raise DamagedData(f"payload does not decode: {error}") from error
        if len(data) != length:
            raise DamagedData(f"payload decodes to {len(data)} bytes, not {length}")
        return data

    def _zstd(self, payload: Buffer, length: int) -> bytes:
        import zstandard

        # Before anything is allocated: a damaged frame may claim any size.
        if zstandard.frame_content_size(payload) != length:
            raise DamagedData("payload is not a zstd frame of the right length")
        return self._zstd_decompressor().decompress(payload, allow_extra_data=False)

    def _compress(self, data: Buffer, compression: Compression) -> bytes:
        if compression.codec is Codec.ZSTD:
            return self._zstd_compressor(compression.level).compress(data)
        if compression.codec is Codec.LZ4:
            import lz4.block

            block: bytes = lz4.block.compress(data, store_size=False)
            return block
        deflate = zlib.compressobj(compression.level, zlib.DEFLATED, -15)
        return deflate.compress(data) + deflate.flush()

    def _probe(self, data: Buffer) -> bool:
        """Whether a fast level gains something on three slices: what it finds incompressible skips the slow level."""
        view = memoryview(data)
        middle = len(view) // 2
        sample = b"".join((view[:_PROBE_SLICE], view[middle : middle + _PROBE_SLICE], view[-_PROBE_SLICE:]))
        return len(self._zstd_compressor(1).compress(sample)) < _PROBE_GAIN * len(sample)

    def _zstd_compressor(self, level: int) -> "zstandard.ZstdCompressor":
        compressor = self._compressors.get(level)
        if compressor is None:
            import zstandard

            if level == DEFAULT.level:
                # What zstd takes at this level for large inputs: a quarter faster on GPU code, which is most of what
                # barely compresses, for 1.3 % more space, than what it would choose for each chunk's length.
                parameters = zstandard.ZstdCompressionParameters.from_level(
                    level, window_log=20, write_content_size=True, write_checksum=True
                )
                compressor = zstandard.ZstdCompressor(compression_params=parameters)
            else:
                compressor = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=True)
            self._compressors[level] = compressor
        return compressor

    def _zstd_decompressor(self) -> "zstandard.ZstdDecompressor":
        if self._decompressor is None:
            import zstandard

            self._decompressor = zstandard.ZstdDecompressor()
        return self._decompressor
