"""The sorting spool next to ``sorted``."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import LaminaError, NoSpace
from lamina.fs.spool import ItemSpool
from tests.store.kit import needs_root

contents = st.dictionaries(st.binary(min_size=1, max_size=300), st.binary(max_size=2000), max_size=60)


@given(contents, st.sampled_from([1, 1000, 5000, 64 << 20]), st.integers(1, 7))
@settings(max_examples=80, deadline=None)
def test_sorted(model: dict[bytes, bytes], memory: int, step: int) -> None:
    items = list(model.items())
    spool = ItemSpool(Path("/tmp"), memory)
    for start in range(0, len(items), step):
        if step == 1:
            spool.add(*items[start])
        else:
            spool.add_many(items[start : start + step])
    assert list(spool.sorted()) == sorted(items)
    spool.close()


def test_it_spills_and_cleans_up(tmp_path: Path) -> None:
    rng = random.Random(1)
    items = [(rng.randbytes(20), rng.randbytes(rng.randrange(200))) for _ in range(20_000)]
    before = len(os.listdir("/proc/self/fd"))
    spool = ItemSpool(tmp_path, 500_000)
    for item in items:
        spool.add(*item)
    assert len(spool._runs) > 5
    assert list(tmp_path.iterdir()) == [], "its files have no names: a crash leaves nothing"
    assert list(spool.sorted()) == sorted(items)
    spool.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads(tmp_path: Path) -> None:
    spool = ItemSpool(tmp_path, 100_000)
    parts = [[(b"%d-%d" % (thread, n), b"v" * (n % 90)) for n in range(3000)] for thread in range(4)]

    def work(part: list[tuple[bytes, bytes]]) -> None:
        for start in range(0, len(part), 10):
            spool.add_many(part[start : start + 9])
            spool.add(*part[start + 9])

    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(spool.sorted()) == sorted(item for part in parts for item in part)
    spool.close()


def test_memory_is_bounded(tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    spool = ItemSpool(tmp_path, 1 << 20)
    for number in range(60_000):
        spool.add(b"%08d" % (number * 7919 % 60_000), b"v" * 60)
    last = b""
    for key, _ in spool.sorted():
        assert key > last
        last = key
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    spool.close()
    assert peak < 8 << 20, "all items together would take three times that"


@needs_root
def test_a_full_disk(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(1)
    before = len(os.listdir("/proc/self/fd"))
    spool = ItemSpool(disk, 100_000)
    with pytest.raises(NoSpace, match="No space left"):
        for number in range(100_000):
            spool.add(b"%08d" % number, b"v" * 90)
    spool.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    spool = ItemSpool(tmp_path / "gone", 1)
    with pytest.raises(LaminaError, match="cannot write to"):
        spool.add(b"k", b"v")
