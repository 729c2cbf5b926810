"""Every value of the property ``compression``, and payloads that are not what they should be."""

import random
import zlib

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lamina.errors import DamagedData, PropertyError
from lamina.store.codec import MAX_OBJECT, Codec, Coder, Compression, parse_compression

FAST = [*range(1, 11), *range(20, 101, 10), 500, 1000]
VALUES = [
    *("on", "off", "zle", "lz4", "gzip", "zstd", "zstd-fast"),
    *(f"gzip-{level}" for level in range(1, 10)),
    *(f"zstd-{level}" for level in range(1, 20)),
    *(f"zstd-fast-{level}" for level in FAST),
]
CODECS = [Compression(Codec.STORED), Compression(Codec.LZ4), Compression(Codec.DEFLATE, 6), Compression(Codec.ZSTD, 3)]
CODER = Coder()

pieces = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 99), st.integers(0, 40000)),
    st.builds(bytes, st.integers(0, 100000)),
    st.builds(lambda word, count: word * count, st.binary(min_size=1, max_size=40), st.integers(1, 2000)),
)
contents = st.lists(pieces, max_size=4).map(b"".join)


@given(contents, st.sampled_from(VALUES))
@settings(max_examples=250, deadline=None)
def test_round_trip(data: bytes, value: str) -> None:
    codec, payload = CODER.encode(data, parse_compression(value))
    assert len(payload) <= len(data)
    assert codec in (parse_compression(value).codec, Codec.STORED)
    assert CODER.decode(codec, payload, len(data)) == data


@pytest.mark.parametrize("value", VALUES)
def test_every_value_compresses_and_keeps_what_does_not_shrink(value: str) -> None:
    text = b"import torch; print(torch.__version__)\n" * 3000
    noise = random.Random(value).randbytes(100_000)
    compression = parse_compression(value)
    codec, payload = CODER.encode(text, compression)
    assert codec == compression.codec
    assert (len(payload) < len(text) // 10) == (compression.codec is not Codec.STORED)
    assert CODER.decode(codec, payload, len(text)) == text
    assert CODER.encode(noise, compression) == (Codec.STORED, noise)
    for data in (b"", b"x", bytes(70_000)):
        codec, payload = CODER.encode(data, compression)
        assert CODER.decode(codec, payload, len(data)) == data


@pytest.mark.parametrize("value", ["on", "lz4", "gzip-9", "zstd-19", "off"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_largest_object_from_any_buffer(value: str, kind: type) -> None:
    rng = random.Random(1)
    data = b"".join(rng.randbytes(2048) + bytes(2048) for _ in range(MAX_OBJECT // 4096))
    codec, payload = CODER.encode(kind(data), parse_compression(value))
    assert isinstance(payload, bytes)
    assert CODER.decode(codec, payload, MAX_OBJECT) == data


def test_zstd_frames_are_as_the_kernel_wants_them() -> None:
    """One frame with content size and checksum, window at most 1 MiB, no dictionary: design section 4."""
    data = (bytes(range(256)) * 4096)[:MAX_OBJECT]
    for value in VALUES:
        if parse_compression(value).codec is Codec.ZSTD:
            codec, payload = CODER.encode(data, parse_compression(value))
            assert codec == Codec.ZSTD
            frame = zstandard.get_frame_parameters(payload)
            assert (frame.content_size, frame.has_checksum, frame.dict_id) == (len(data), True, 0)
            assert frame.window_size <= 1 << 20


@pytest.mark.parametrize("value", ["zstd-4", "zstd-19", "gzip", "gzip-9"])
def test_slow_levels_are_not_tried_on_noise(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    coder = Coder()
    monkeypatch.setattr(coder, "_compress", lambda data, compression: tried.append(compression) or bytes(data))
    coder.encode(random.Random(2).randbytes(1 << 16), parse_compression(value))
    assert not tried
    coder.encode(b"text " * 20_000, parse_compression(value))
    assert tried


@pytest.mark.parametrize(
    "value",
    [
        *("", "ON", "gzip-0", "gzip-10", "gzip-", "zstd-0", "zstd-20", "zstd-", "zstd-03", "zstd-٣", "zstd-fast-"),
        *("zstd-fast-11", "zstd-fast-0", "lz4-1", "lzjb ", "zstd3", "zstd-3 ", "off-1", "zle-2", "gzip--1"),
    ],
)
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(PropertyError):
        parse_compression(value)


# -- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", CODECS, ids=lambda c: c.codec.name)
def test_wrong_lengths_are_refused(compression: Compression) -> None:
    data = b"some words that repeat, some words that repeat " * 400
    codec, payload = CODER.encode(data, compression)
    assert codec == compression.codec
    for length in (0, 1, len(data) - 1, len(data) + 1, 2 * len(data), MAX_OBJECT):
        with pytest.raises(DamagedData):
            CODER.decode(codec, payload, length)


@pytest.mark.parametrize("compression", CODECS, ids=lambda c: c.codec.name)
def test_cut_and_lengthened_payloads_are_refused(compression: Compression) -> None:
    data = b"some words that repeat, some words that repeat " * 400
    codec, payload = CODER.encode(data, compression)
    for end in {0, 1, 2, len(payload) // 2, len(payload) - 1}:
        with pytest.raises(DamagedData):
            CODER.decode(codec, payload[:end], len(data))
    with pytest.raises(DamagedData):
        CODER.decode(codec, payload + b"\0", len(data))


@given(st.integers(0, 9), st.binary(max_size=400), st.sampled_from([0, 1, 7, 400, 4096, MAX_OBJECT]))
@example(1, zstandard.compress(bytes(1 << 24)), 4096)
@settings(max_examples=400, deadline=None)
def test_garbage_decodes_to_its_length_or_is_damaged(codec: int, payload: bytes, length: int) -> None:
    try:
        assert len(CODER.decode(codec, payload, length)) == length
    except DamagedData:
        pass


def test_a_bomb_is_not_unpacked() -> None:
    """The memory a payload can take is bounded by the length that its record gives, not by what it claims."""
    import resource

    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(400)) + deflate.flush()
    zstd = zstandard.ZstdCompressor(level=1).compressobj(size=400 << 20)
    framed = b"".join(zstd.compress(bytes(1 << 20)) for _ in range(400)) + zstd.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for codec, payload in ((Codec.DEFLATE, deflated), (Codec.ZSTD, framed)):
        with pytest.raises(DamagedData):
            CODER.decode(codec, payload, 4096)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(DamagedData, match="codec 77"):
        CODER.decode(77, b"x", 1)
