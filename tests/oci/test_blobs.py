"""Blobs: verified as they are read, decompressed within bounds; and compressed again, always to the same bytes."""

import gzip
import io
import os
import random
import subprocess
import threading
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import OciError, RegistryError, UsageError
from lamina.oci.formats.models import DOCKER_LAYER, OCI_LAYER, digest_of
from lamina.oci.formats.zstdframes import FrameWalker
from lamina.oci.incoming.blobs import BlobReader, layer_limit, open_tar, read_blob
from lamina.oci.outgoing.compressing import CompressedStream

DATA = random.Random(1).randbytes(700_000) + bytes(2_000_000) + b"end" * 1000
GZIP, ZSTD = zlib.compress(DATA, 1, 31), zstandard.compress(DATA, 3)
SKIPPABLE = b"\x53\x2a\x4d\x18" + (300).to_bytes(4, "little") + bytes(300)
FANCY = b"\x1f\x8b\x08\x1c" + bytes(6) + b"\x05\0extra" + b"name\0comment\0" + GZIP[10:]


class Dribble(io.RawIOBase):
    """A stream that gives a few bytes at a time, as networks do."""

    def __init__(self, data: bytes, most: int) -> None:
        self._stream = io.BytesIO(data)
        self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        return self._stream.readinto(view[: self._most])


def unpack(blob: bytes, limit: int = 1 << 30, most: int = 1 << 20, media_type: str | None = None) -> bytes:
    reader = BlobReader(Dribble(blob, most), digest_of(blob), len(blob), "layer x")  # type: ignore[arg-type]
    data = open_tar(reader, media_type, limit, "layer x").read()
    assert reader.count == len(blob)
    return data


@pytest.mark.parametrize(
    ("blob", "wanted"),
    [
        (DATA, DATA),
        (b"", b""),
        (b"x", b"x"),
        (GZIP, DATA),
        (GZIP + GZIP, DATA * 2),
        (GZIP + gzip.compress(b""), DATA),
        (FANCY, DATA),
        (ZSTD, DATA),
        (ZSTD + ZSTD, DATA * 2),
        (SKIPPABLE + ZSTD + SKIPPABLE + ZSTD + SKIPPABLE, DATA * 2),
        (SKIPPABLE, b""),
        (gzip.compress(b""), b""),
        (zstandard.compress(b""), b""),
    ],
)
@pytest.mark.parametrize("most", [1 << 20, 4093])
def test_every_form_of_a_layer(blob: bytes, wanted: bytes, most: int) -> None:
    assert unpack(blob, most=most) == wanted


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 11, 300])
def test_forms_are_told_from_the_first_bytes_however_they_come(at: int) -> None:
    for blob in (gzip.compress(b"abc" * 50), zstandard.compress(b"abc" * 50), b"abc" * 50):
        assert unpack(blob, most=at) == b"abc" * 50


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (GZIP[:-1], "is cut short: its gzip data end too early"),
        (GZIP[:100], "is cut short: its gzip data end too early"),
        (GZIP[:3], "is cut short: its gzip data end too early"),
        (GZIP + b"garbage", "goes on with something else after its gzip data"),
        (GZIP + b"\x1f", "goes on with something else after its gzip data"),
        (GZIP + bytes(512), "goes on with something else after its gzip data"),
        (GZIP + GZIP[:50], "is cut short: its gzip data end too early"),
        (GZIP[:5000] + b"\0\0\0\0" + GZIP[5004:], "has damaged gzip data"),
        (GZIP[:-8] + b"abcd" + GZIP[-4:], "has damaged gzip data: incorrect checksum found"),
        (GZIP[:-4] + b"abcd", "has damaged gzip data: incorrect checksum found"),
        (GZIP[:2] + b"\x07" + GZIP[3:], "has damaged gzip data"),
        (ZSTD[:-1], "is cut short: its last zstd frame is not whole"),
        (ZSTD[:5], "is cut short: its last zstd frame is not whole"),
        (ZSTD + SKIPPABLE[:-1], "is cut short: its last zstd frame is not whole"),
        (ZSTD + b"garbage", "goes on with something else after its zstd data"),
        (ZSTD + b"x", "goes on with something else after its zstd data"),
        (ZSTD[:6] + b"\xff\xff\xff\xff" + ZSTD[10:], "has damaged zstd data"),
        (b"\xfd7zXZ\0" + bytes(100), "is compressed with xz, which layers may not be"),
        (b"BZh91AY" + bytes(100), "is compressed with bzip2"),
    ],
)
def test_what_is_damaged_is_refused(blob: bytes, message: str) -> None:
    for most in (1 << 20, 1000):
        with pytest.raises(OciError) as caught:
            unpack(blob, most=most)
        assert str(caught.value).startswith(f"layer x {message}")


def test_a_window_of_more_than_is_sane() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(OciError, match=r"asks for too much memory: a window of more than 128 MiB"):
        unpack(compressor.compress(DATA) + compressor.flush())


def test_a_layer_that_is_said_to_be_gzip_may_be_plain() -> None:
    for media_type in (OCI_LAYER, f"{OCI_LAYER}+gzip", f"{DOCKER_LAYER}.gzip", f"{OCI_LAYER}+zstd", None):
        assert unpack(DATA, media_type=media_type) == unpack(GZIP, media_type=media_type) == DATA
    with pytest.raises(OciError, match="layer x is of the unknown media type 'application/x'"):
        unpack(DATA, media_type="application/x")


@pytest.mark.parametrize("bomb", [zlib.compress(bytes(30 << 20), 9, 31), zstandard.compress(bytes(300 << 20)), DATA])
def test_bombs_are_cut_off(bomb: bytes) -> None:
    with pytest.raises(OciError, match=r"decompresses to more than 1M, .* raise the limit with --max-layer-size"):
        unpack(bomb, 1 << 20)


def test_the_limit_is_exact() -> None:
    assert unpack(GZIP, len(DATA)) == DATA
    with pytest.raises(OciError, match="bomb"):
        unpack(GZIP, len(DATA) - 1)


def test_the_limit_follows_the_size() -> None:
    assert [layer_limit(size) for size in (None, 0, 100 << 20, 1 << 40)] == [64 << 30, 1 << 30, 25000 << 20, 64 << 30]


# -- verifying ----------------------------------------------------------------------------------------------------


def reading(data: bytes, digest: str | None, size: int | None) -> bytes:
    return read_blob(io.BytesIO(data), digest, size, "blob y", 1 << 30)


def test_digest_and_size_are_verified() -> None:
    assert reading(DATA, digest_of(DATA), len(DATA)) == reading(DATA, None, None) == DATA
    for digest, size, message in (
        (digest_of(b""), len(DATA), f"is damaged or not what it should be: its digest is {digest_of(DATA)}"),
        (digest_of(DATA), len(DATA) - 1, f"is longer than the {len(DATA) - 1} bytes it should have"),
        (digest_of(DATA), len(DATA) + 1, f"is cut short: it has {len(DATA)} of {len(DATA) + 1} bytes"),
        (None, 0, "is longer than the 0 bytes it should have"),
    ):
        with pytest.raises(OciError) as caught:
            reading(DATA, digest, size)
        assert str(caught.value) == f"blob y {message}"
    with pytest.raises(OciError, match="blob y is larger than 1K"):
        read_blob(io.BytesIO(DATA), None, None, "blob y", 1024)


def test_an_endless_blob_ends_at_its_size() -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            return len(memoryview(buffer))  # type: ignore[arg-type]

    with pytest.raises(OciError, match="is longer than the 1000000 bytes"):
        read_blob(Endless(), None, 1_000_000, "it", 1 << 40)  # type: ignore[arg-type]


class Failing(io.RawIOBase):
    def __init__(self, error: Exception) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise self._error


def test_errors_of_the_stream() -> None:
    with pytest.raises(OciError, match="cannot read blob y: Input/output error"):
        read_blob(Failing(OSError(5, "Input/output error")), None, None, "blob y", 9)  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match="as it was"):
        read_blob(Failing(RegistryError("as it was")), None, None, "blob y", 9)  # type: ignore[arg-type]


def test_progress_is_told() -> None:
    seen: list[int] = []
    BlobReader(io.BytesIO(DATA), None, None, "it", seen.append).readall()
    assert sum(seen) == len(DATA) and len(seen) > 1


# -- zstd frames --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=3000), st.integers(1, 19), st.booleans(), st.booleans()), max_size=4),
    st.integers(1, 700),
    st.randoms(use_true_random=False),
)
def test_frames_are_followed(parts: list[tuple[bytes, int, bool, bool]], step: int, rng: random.Random) -> None:
    """Every prefix of a stream ends inside a frame but for those that end with one."""
    blob, ends = b"", {0}
    for data, level, checksum, sized in parts:
        made = zstandard.ZstdCompressor(level=level, write_checksum=checksum, write_content_size=sized)
        blob += made.compress(data)
        ends.add(len(blob))
        blob += SKIPPABLE
        ends.add(len(blob))
    for length in {len(blob), rng.randint(0, len(blob)), rng.choice(sorted(ends))}:
        walker = FrameWalker("it")
        for offset in range(0, length, step):
            walker.feed(memoryview(blob)[offset : min(offset + step, length)])
        if length in ends:
            walker.finish()
        else:
            with pytest.raises(OciError, match="cut short"):
                walker.finish()


# -- compressing --------------------------------------------------------------------------------------------------

BACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": lambda blob: zstandard.ZstdDecompressor().stream_reader(io.BytesIO(blob)).read(),
    "none": bytes,
}


@pytest.mark.parametrize(
    ("compression", "level"), [("gzip", None), ("gzip", 1), ("gzip", 6), ("zstd", None), ("zstd", 7), ("none", None)]
)
@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, len(DATA)])
def test_compressed_and_back_again(compression: str, level: int | None, size: int) -> None:
    data, blobs = DATA[:size], set()
    for jobs in (1, 3):
        stream = CompressedStream(io.BytesIO(data), compression, level=level, jobs=jobs)
        blob = io.BufferedReader(stream, 1000).read() if jobs == 1 else b"".join(stream.blocks())
        assert BACK[compression](blob) == data == unpack(blob)
        assert (stream.digest, stream.size) == (digest_of(blob), len(blob))
        assert (stream.diff_id, stream.tar_size) == (digest_of(data), size)
        blobs.add(blob)
        stream.close()
    assert len(blobs) == 1, "the bytes depend on the number of threads"


def test_gzip_reads_what_was_compressed() -> None:
    blob = b"".join(CompressedStream(io.BytesIO(DATA), "gzip").blocks())
    assert subprocess.run(["gzip", "-dc"], input=blob, capture_output=True, check=True).stdout == DATA
    assert len(blob) < 1.1 * len(GZIP)


def test_levels() -> None:
    for compression, level in (("gzip", 0), ("gzip", 10), ("zstd", 20), ("none", 1), ("xz", 1)):
        with pytest.raises(UsageError):
            CompressedStream(io.BytesIO(), compression, level=level)


def test_a_compression_that_is_given_up_leaves_no_threads() -> None:
    before = threading.active_count()
    stream = CompressedStream(io.BytesIO(os.urandom(8 << 20)), "gzip", jobs=4)
    assert stream.read(100)
    stream.close()
    assert threading.active_count() == before


def test_an_error_of_the_tar_comes_through() -> None:
    for compression in ("gzip", "zstd", "none"):
        stream = CompressedStream(io.BufferedReader(Failing(OSError(5, "broken"))), compression)  # type: ignore[arg-type]
        with pytest.raises(OSError, match="broken"):
            list(stream.blocks())
        stream.close()
