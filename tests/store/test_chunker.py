"""Chunks and holes: the same bytes give the same, however they arrive."""

import random
import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lamina.store.chunker import BUFFER, HOLE_ALIGN, HOLE_MIN, ReadInto, chunks_of, data_parts, make_chunker, zero_runs
from lamina.store.codec import MAX_OBJECT

RECORD = 8192
LEAST_BUFFER = 8 * RECORD + HOLE_MIN + 4 * HOLE_ALIGN
"""As small as a buffer may be for this record size, so that what falls across its end is met often."""

Chunks = list[tuple[int, bytes]]


def reader(data: bytes, start: int, end: int, most: int) -> ReadInto:
    """Gives ``data[start:end]`` in reads of at most ``most`` bytes."""
    position = start

    def read_into(view: memoryview) -> int:
        nonlocal position
        count = min(len(view), end - position, most)
        view[:count] = data[position : position + count]
        position += count
        return count

    return read_into


def chunked(
    data: bytes,
    segments: list[tuple[int, int]] | None = None,
    *,
    buffer: int = BUFFER,
    most: int = 1 << 30,
    record: int = RECORD,
) -> Chunks:
    """As ``ContentWriter.stream`` cuts a file whose data lies in ``segments``, by default all of it."""
    found: Chunks = []
    chunker = make_chunker(record)
    store = bytearray(buffer)
    for start, end in data_parts([(0, len(data))] if segments is None else segments, len(data)):
        parts = chunks_of(
            reader(data, start, end, most), chunker, store, start, hole_before=start > 0, hole_after=end < len(data)
        )
        for part in parts:
            found += [(offset, bytes(view)) for offset, view in part]
    return found


def holes_by_the_rule(data: bytes) -> list[tuple[int, int]]:
    """The rule as the module states it, byte by byte: runs of zeros, cut to whole blocks, of at least ``HOLE_MIN``."""
    holes = []
    start = 0
    while start < len(data):
        if data[start]:
            start += 1
            continue
        rest = data[start:].lstrip(b"\0")
        end = len(data) - len(rest)
        first = -(-start // HOLE_ALIGN) * HOLE_ALIGN
        last = end if end == len(data) else end // HOLE_ALIGN * HOLE_ALIGN
        if last - first >= HOLE_MIN:
            holes.append((first, last))
        start = end
    return holes


def rebuilt(chunks: Chunks, size: int) -> bytes:
    data = bytearray(size)
    position = 0
    for offset, chunk in chunks:
        assert offset >= position and 0 < len(chunk) <= MAX_OBJECT
        data[offset : offset + len(chunk)] = chunk
        position = offset + len(chunk)
    assert len(data) == size
    return bytes(data)


def gaps(chunks: Chunks, size: int) -> list[tuple[int, int]]:
    found = []
    position = 0
    for offset, chunk in (*chunks, (size, b"")):
        if offset > position:
            found.append((position, offset))
        position = offset + len(chunk)
    return found


BLOCKS = (1, 511, 4095, 4096, 4097, 40_000)
zero_lengths = st.one_of(
    st.sampled_from(
        [1, 4096, HOLE_MIN - 1, HOLE_MIN, HOLE_MIN + 1, HOLE_MIN + 4095, HOLE_MIN + 4096, HOLE_MIN + 8191, 300_000]
    ),
    st.integers(0, 150_000),
)
noise = st.builds(
    lambda seed, size: random.Random(seed).randbytes(size),
    st.integers(0, 5),
    st.sampled_from(BLOCKS) | st.integers(0, 90_000),
)
files = st.lists(noise | zero_lengths.map(bytes), max_size=7).map(b"".join)


@given(
    files, st.sampled_from([LEAST_BUFFER, LEAST_BUFFER + 1, 200_001, BUFFER]), st.sampled_from([1 << 30, 65536, 30_011])
)
@example(b"x" + bytes(HOLE_MIN - 1) + b"x", BUFFER, 1 << 30)
@example(bytes(HOLE_MIN), BUFFER, 1 << 30)
@example(bytes(LEAST_BUFFER * 3), LEAST_BUFFER, 1 << 30)
@example(bytes(LEAST_BUFFER * 3 + 5) + b"x", LEAST_BUFFER, 1 << 30)
@settings(max_examples=200, deadline=None)
def test_chunks_and_holes_are_the_file_whatever_the_buffer(data: bytes, buffer: int, most: int) -> None:
    chunks = chunked(data, buffer=buffer, most=most)
    assert rebuilt(chunks, len(data)) == data
    assert gaps(chunks, len(data)) == holes_by_the_rule(data)
    assert chunks == chunked(data)


@given(
    files, st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=9), st.sampled_from([1, 512, 4096])
)
@example(b"x" * 5000 + bytes(200_000) + b"y", [(50, 80)], 4096)
@example(bytes(200_000) + b"y", [(0, 50)], 512)
@example(b"x" + bytes(200_000), [(30, 100)], 1)
@settings(max_examples=200, deadline=None)
def test_a_sparse_file_gives_what_a_dense_one_gives(data: bytes, known: list[tuple[int, int]], block: int) -> None:
    """Whatever part of its zeros a source knows for holes, and in whatever blocks."""
    segments: list[tuple[int, int]] = []
    position = 0
    for number, (start, end) in enumerate(runs_of_zeros(data)):
        if number < len(known):
            first, last = sorted(start + (end - start) * percent // 100 for percent in known[number])
            first, last = -(-first // block) * block, last if last == len(data) else last // block * block
            if last > first:
                if first > position:
                    segments.append((position, first))
                position = last
    if len(data) > position:
        segments.append((position, len(data)))
    assert chunked(data, segments) == chunked(data)
    assert chunked(data, known_holes(data, block)) == chunked(data)


def runs_of_zeros(data: bytes) -> list[tuple[int, int]]:
    return [found.span() for found in re.finditer(rb"\0+", data)]


def known_holes(data: bytes, block: int) -> list[tuple[int, int]]:
    """Segments of a file whose every all-zero block is a hole."""
    segments: list[tuple[int, int]] = []
    zeros = bytes(block)
    if block < 512:
        return [(0, len(data))] if data else []
    for start in range(0, len(data), block):
        piece = data[start : start + block]
        if piece != zeros[: len(piece)]:
            if segments and segments[-1][1] == start:
                segments[-1] = (segments[-1][0], start + len(piece))
            else:
                segments.append((start, start + len(piece)))
    return segments


@pytest.mark.parametrize("zeros", [50_000, 67_000, 140_000])
def test_a_run_of_zeros_across_the_end_of_a_buffer(zeros: int) -> None:
    """Wherever it is cut: chunks of the largest size could end within it before it is known for a hole."""
    buffer = 150_000
    for before in range(buffer - 75_000, buffer, 3001):
        data = noise_of(before) + bytes(zeros) + noise_of(20_000)
        chunks = chunked(data, buffer=buffer, record=4096)
        assert chunks == chunked(data, record=4096)
        assert gaps(chunks, len(data)) == holes_by_the_rule(data)


def noise_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_cut_points_are_golden() -> None:
    """Where chunks end decides what old and new images share: it may change only with the format's version."""
    data = random.Random(2024).randbytes(300_000)
    assert [offset for offset, _ in chunked(data)] == GOLDEN_CUTS


GOLDEN_CUTS = [
    0,
    17206,
    27066,
    38319,
    45332,
    49800,
    62043,
    70522,
    76226,
    88933,
    97666,
    102026,
    114678,
    119191,
    127140,
    133284,
    137677,
    142158,
    159536,
    168701,
    177443,
    184990,
    199420,
    212486,
    225537,
    233377,
    243918,
    266788,
    279996,
    291404,
]


@pytest.mark.parametrize("average", [4096, 8192, 1 << 17, 1 << 20])
def test_sizes(average: int) -> None:
    data = random.Random(5).randbytes(12 << 20)
    chunker = make_chunker(average)
    effective = min(average, 1 << 19)
    sizes = [
        len(v) for part in chunks_of(reader(data, 0, len(data), 1 << 20), chunker, bytearray(BUFFER)) for _, v in part
    ]
    assert sum(sizes) == len(data)
    assert min(sizes[:-1]) >= effective // 2
    assert max(sizes) <= min(8 * effective, MAX_OBJECT)
    assert 0.6 * effective < len(data) / len(sizes) < 1.7 * effective


def test_an_insertion_near_the_start_changes_few_chunks() -> None:
    rng = random.Random(6)
    data = rng.randbytes(2 << 20) + bytes(100_000) + rng.randbytes(1 << 20)
    before = {chunk for _, chunk in chunked(data)}
    for inserted in (b"x", b"some bytes", rng.randbytes(5000)):
        after = {chunk for _, chunk in chunked(data[:1000] + inserted + data[1000:])}
        # Those around the insertion, and one on either side of the hole: its blocks lie elsewhere now.
        assert len(after - before) <= 6
        assert len(after) > 200


def test_what_is_cut_depends_on_nothing_before_it() -> None:
    """A chunk that begins at a cut point of another file goes on as there."""
    data = random.Random(7).randbytes(500_000)
    chunks = chunked(data)
    offset = chunks[10][0]
    assert [chunk for _, chunk in chunked(data[offset:])] == [chunk for _, chunk in chunks[10:]]


def test_the_views_of_a_huge_hole_cost_nothing() -> None:
    size = 200 << 30
    parts = data_parts([(0, 5000), (100 << 30, (100 << 30) + 4096)], size)
    assert parts == [(0, 8192), (100 << 30, (100 << 30) + 4096)]
    assert data_parts([], size) == []
    assert data_parts([], 1000) == [(0, 1000)]


@given(st.lists(st.tuples(st.integers(1, 200_000), st.integers(1, 200_000)), max_size=8), st.integers(0, 200_000))
def test_parts_cover_the_segments(steps: list[tuple[int, int]], after: int) -> None:
    segments: list[tuple[int, int]] = []
    position = 0
    for gap, length in steps:
        segments.append((position + gap, position + gap + length))
        position += gap + length
    size = position + after
    parts = data_parts(segments, size)
    for start, end in segments:
        assert any(first <= start and end <= last for first, last in parts)
    for (_, before), (first, _) in pairwise(parts):
        assert first - before >= HOLE_MIN
    for first, last in parts:
        assert first % HOLE_ALIGN == 0 and (last % HOLE_ALIGN == 0 or last == size)
    if parts:
        assert size - parts[-1][1] == 0 or size - parts[-1][1] >= HOLE_MIN


@given(files)
@settings(max_examples=60, deadline=None)
def test_zero_runs_are_the_longest(data: bytes) -> None:
    for start, end in (runs := zero_runs(bytearray(data), 0, len(data))):
        assert end - start >= HOLE_MIN and not data[start:end].strip(b"\0")
        assert start == 0 or data[start - 1]
        assert end == len(data) or data[end]
    covered = sum(end - start for start, end in runs)
    longest = sum(len(run) for run in data.translate(_ONES).split(b"\1") if len(run) >= HOLE_MIN)
    assert covered == longest


_ONES = bytes([0]) + b"\1" * 255
