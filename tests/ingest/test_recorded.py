"""Layers' tars in the store: bit for bit, shared with whatever has the same files, compact."""

import contextlib
import io
import os
import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import LaminaError, SourceError
from lamina.ingest.extentlog import ExtentLog
from lamina.ingest.progress import Tally
from lamina.ingest.recorded import record_layer
from lamina.ingest.tasks import Workers
from lamina.store.codec import DEFAULT, parse_compression
from tests.ingest.archives import END, member, pax
from tests.ingest.kit import Shop, take
from tests.ingest.layers import LAYERS, LayerTar, Op
from tests.ingest.recording import flatten, record, written_again

EXAMPLES = int(os.environ.get("LAMINA_STACKS", "50"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("recorded") / "shop")
    yield shop
    shop.close()


# -- exactly --------------------------------------------------------------------------------------------------------


@given(LAYERS, st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_is_damaged_is_refused_or_kept_as_it_is(shop: Shop, layer: LayerTar, data: st.DataObject) -> None:
    """Never something else than what came."""
    tar = bytearray(layer.bytes())
    if tar and data.draw(st.booleans()):
        del tar[data.draw(st.integers(0, len(tar) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if tar:
            tar[data.draw(st.integers(0, len(tar) - 1))] = data.draw(st.integers(0, 255))
    try:
        with record(shop, [bytes(tar)]) as (stored,):
            assert written_again(shop, stored) == bytes(tar)
            with contextlib.suppress(SourceError):
                flatten(shop, [stored])
    except SourceError:
        pass


@pytest.mark.parametrize("cut", [1, 511, 513, 1000, 1024 + 300_000, 1024 + 300_000 + 100])
def test_a_cut(shop: Shop, cut: int) -> None:
    tar = member(b"a", b"x") + member(b"b", b"x" * 300_000) + END
    with pytest.raises(SourceError, match="cut short"), record(shop, [tar[:cut]]):
        pass


@contextlib.contextmanager
def streamed(shop: Shop, stream: Any, compression: str = "on") -> Iterator[ExtentLog]:
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(shop.writer()))
        workers = stack.enter_context(contextlib.closing(Workers(2)))
        log = stack.enter_context(contextlib.closing(ExtentLog(shop.path)))
        record_layer(stream, log, writer, workers, Tally(), parse_compression(compression), 1 << 17)
        writer.flush()
        yield log


class Pieces(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data = io.BytesIO(data)
        self._random = random.Random(seed)

    def readable(self) -> bool:
        return True

    def readinto(self, view: object) -> int:
        buffer = memoryview(view)  # type: ignore[arg-type]
        return self._data.readinto(buffer[: self._random.choice([1, 100, 511, 512, 70_000])])


def test_how_it_comes_makes_no_difference(shop: Shop) -> None:
    noise = random.Random(5).randbytes(3_000_000)
    tar = member(b"a", noise) + member(b"b", noise[:5000]) + member(b"c", noise[7:900_000]) + END
    with record(shop, [tar]) as (whole,), streamed(shop, Pieces(tar, 1)) as pieces:
        assert list(pieces.extents()) == list(whole.extents())


def test_an_error_of_the_stream_comes_through(shop: Shop) -> None:
    class Broken(io.RawIOBase):
        def readinto(self, view: object) -> int:
            raise LaminaError("the registry went away")

    with pytest.raises(LaminaError, match=r"^the registry went"), streamed(shop, Broken()):
        pass


# -- compactly ------------------------------------------------------------------------------------------------------


def stored_bytes(shop: Shop, log: ExtentLog) -> dict[bytes, int]:
    located = shop.store.locate({extent.key for extent in log.extents()})
    return {key: location.stored for key, location in located.items()}


def test_zeros_are_holes(shop: Shop) -> None:
    data = b"x" * 100_000 + bytes(500_000) + b"y" * 100_000
    tar = member(b"a", data) + END + bytes(1_000_000)
    with record(shop, [tar]) as (stored,):
        assert written_again(shop, stored) == tar
        assert sum(extent.length for extent in stored.extents()) < 220_000
        tree = flatten(shop, [stored])
        assert tree.totals.data_bytes < 210_000, "what is a hole in the tar is one in the file"


def test_files_share_chunks_with_a_directory(shop: Shop, tmp_path: Path) -> None:
    noise = random.Random(11)
    root = tmp_path / "root"
    (root / "lib").mkdir(parents=True)
    for number in range(40):
        (root / "lib" / f"large-{number}").write_bytes(noise.randbytes(60_000 + 1000 * number))
        (root / f"small-{number}").write_bytes(noise.randbytes(500))
    take(shop, root)
    ops = [Op("dir", b"lib")]
    ops += [Op("file", f"lib/{path.name}".encode(), path.read_bytes()) for path in sorted((root / "lib").iterdir())]
    ops += [Op("file", path.name.encode(), path.read_bytes()) for path in sorted(root.glob("small-*"))]
    before = set(shop.rows())
    tar = LayerTar(tuple(ops)).bytes()
    with record(shop, [tar]) as (stored,):
        assert written_again(shop, stored) == tar
        new = {key: size for key, size in stored_bytes(shop, stored).items() if key not in before}
    assert sum(new.values()) < 40_000, "only headers, and small files that have other neighbours"


def headers_only(changed: int) -> bytes:
    """A layer of empty files; one has another time than the others."""
    parts = [member(b"usr/lib/python/file-%d" % n, mtime=1_700_000_000 + (n == changed)) for n in range(5000)]
    return b"".join(parts) + END


def test_similar_layers_share_their_recipe(shop: Shop) -> None:
    with record(shop, [headers_only(-1), headers_only(2500)]) as stored:
        first, second = (stored_bytes(shop, log) for log in stored)
    assert len(second) > 10
    assert len(second.keys() - first.keys()) <= 2
    assert sum(first.values()) < 0.1 * len(headers_only(-1)), "headers shrink well"


def test_a_recipe_is_compressed_whatever_the_data_is(shop: Shop) -> None:
    tar = headers_only(7)
    with streamed(shop, io.BytesIO(tar), "off") as log:
        assert sum(stored_bytes(shop, log).values()) < 0.1 * len(tar)


def test_a_long_header(shop: Shop) -> None:
    """Extended headers longer than a recipe chunk."""
    tar = pax({b"comment": b"y" * 700_000, b"path": b"a"}) + member(b"b", b"data") + END
    with record(shop, [tar]) as (stored,):
        assert written_again(shop, stored) == tar
        assert len(list(stored.extents())) >= 4


# -- several at once ------------------------------------------------------------------------------------------------


def test_layers_at_once(shop: Shop) -> None:
    """Threads that share writer and workers make the same extents as one alone."""
    noise = random.Random(3)
    tars = []
    for number in range(6):
        parts = [member(b"f%d" % n, noise.randbytes(noise.choice([10, 3000, 40_000, 300_000]))) for n in range(60)]
        tars.append(b"".join(parts) + END + bytes(number * 512))
    with record(shop, tars) as alone:
        wanted = [list(log.extents()) for log in alone]
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(shop.writer()))
        workers = stack.enter_context(contextlib.closing(Workers(2)))
        logs = [stack.enter_context(contextlib.closing(ExtentLog(shop.path))) for _ in tars]
        failed: list[BaseException] = []

        def take_in(tar: bytes, log: ExtentLog) -> None:
            try:
                record_layer(io.BytesIO(tar), log, writer, workers, Tally(), DEFAULT, 1 << 17)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=take_in, args=pair) for pair in zip(tars, logs, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert [list(log.extents()) for log in logs] == wanted


# -- the log --------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 1000), st.integers(0, 2), st.booleans()), max_size=60),
    st.sampled_from([1, 50, 1000, 1 << 20]),
)
@settings(max_examples=50, deadline=None)
def test_the_log_gives_back_what_was_added(
    tmp_path_factory: pytest.TempPathFactory, added: list[tuple[int, int, int, bool]], memory: int
) -> None:
    with contextlib.closing(ExtentLog(tmp_path_factory.getbasetemp(), memory)) as log:
        numbers = [log.chunk() for _ in range(3)]
        wanted: dict[int, tuple[int, int]] = {}  # each byte: chunk and place in it
        place = 0
        for gap, length, chunk, going_on in added:
            log.size += gap
            place = place if going_on else place + 10_000
            log.add(log.size, length, place, numbers[chunk])
            wanted |= {log.size + n: (chunk, place + n) for n in range(length)}
            log.size += length
            place += length
        for number in reversed(numbers):
            log.name(number, struct.pack("<Q", number) * 4)
        found: dict[int, tuple[int, int]] = {}
        for extent in log.extents():
            chunk = struct.unpack("<Q", extent.key[:8])[0]
            found |= {extent.offset + n: (chunk, extent.chunk_offset + n) for n in range(extent.length)}
        assert found == wanted
        assert list(log.extents()) == list(log.extents()), "it can be read again"
