"""Garbage collection beside imports, destroys and a mount, and killed at any moment.

``LAMINA_GC_SECONDS=120`` goes on for two minutes, without it for three seconds. ``LAMINA_KILLS=200`` kills two hundred
times, without it thirty.
"""

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lamina.pool.collecting.gc as gc
from lamina.errors import AlreadyExists, LaminaError, NotFound
from lamina.fs.view import StoredTree, path_of
from lamina.mount import mount, mounts, umount
from lamina.pool import Pool
from lamina.pool.collecting.pinning import PinnedPool
from lamina.store.backend import LocalBackend
from tests.mount.conftest import fuse_missing
from tests.pool.garbage import ROOM, allocated, check_clean, check_whole, live_bytes, rows
from tests.pool.processes import Child, run
from tests.pool.trees import Source, blob, many_files, write_tree

SECONDS = float(os.environ.get("LAMINA_GC_SECONDS", "3"))
KILLS = int(os.environ.get("LAMINA_KILLS", "30"))


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small packs, flushes and transactions: a short run passes every state that a long one does."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 300_000)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 4)
    monkeypatch.setattr("lamina.store.compaction.Compactor.__init__.__defaults__", ((), 300_000))
    monkeypatch.setattr(gc, "_ROWS_AT_ONCE", 5)
    monkeypatch.setattr(gc, "_LEAST_WASTE", 8192)
    monkeypatch.setattr(gc, "_SMALL", 40_000)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory for pools; in memory where there is some, since waiting for a disk is not what is tested."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        monkeypatch.setenv("LAMINA_POOLS", f"{made}/known")
        yield Path(made)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Trees that share files two by two, and all of them some."""
    made = []
    parent = tmp_path_factory.mktemp("sources")
    for number in range(6):
        files = {f"shared/{n}": blob(100 + 2 * n, 50_000) for n in range(3)}
        files |= {f"pair/{n}": blob(200 + 2 * n + 20 * (number // 2), 70_000) for n in range(3)}
        files |= {f"own/{n}": blob(1000 + 2 * n + 100 * number, 15_000 + 40_000 * (n % 2)) for n in range(6)}
        made.append(write_tree(parent / f"s{number}", files))
    return made


# -- all at once ----------------------------------------------------------------------------------------------------


def importing(side: str, sources: list[Source], ends: float) -> tuple[int, dict[str, int]]:
    """Import, verify, destroy; how often, and what is there at the end, by the number of its source."""
    generator = random.Random(side)
    kept: dict[str, int] = {}
    number = 0
    with Pool.open("tank", write=True) as pool:
        while time.monotonic() < ends:
            number += 1
            source = generator.randrange(len(sources))
            name = f"tank/{side}/i{generator.randrange(3)}@{number}"
            if generator.random() < 0.15:
                with pytest.raises(LaminaError):  # it gives up half-way
                    pool.import_image(sources[source].path, name, progress=lambda _: _stop(generator))
            else:
                pool.import_image(sources[source].path, name)
                kept[name] = source
                assert not pool.verify(name, sources[source].path)
            while len(kept) > 4 or (kept and generator.random() < 0.4):
                gone = generator.choice(sorted(kept))
                pool.destroy(gone)
                del kept[gone]
    return number, kept


def _stop(generator: random.Random) -> None:
    raise NotFound("stopped")


def collecting(ends: float) -> int:
    """Collect, again and again; how often something was freed, or moved."""
    generator = random.Random(3)
    counts = 0
    with Pool.open("tank", write=True) as pool:
        while time.monotonic() < ends:
            if generator.random() < 0.5:
                LocalBackend.punch, punch = (lambda *_: False), LocalBackend.punch  # type: ignore[method-assign, assignment]
            else:
                punch = LocalBackend.punch
            try:
                report = gc.collect(pool, full=generator.random() < 0.3, wait=generator.choice([0, 0, 0.2]))
            finally:
                LocalBackend.punch = punch  # type: ignore[method-assign]
            counts += bool(report.objects or report.moved)
    return counts


def reading(sources: list[Source], ends: float) -> int:
    """Read whole trees while what they are made of is destroyed and moved; how many."""
    generator = random.Random(4)
    count = 0
    mounted = PinnedPool(Pool.open("tank", write=True))
    while time.monotonic() < ends:
        names = [entry.name for entry in mounted.list(types=("snapshot",), recursive=True)]
        if not names:
            continue
        try:
            tree = mounted.tree(generator.choice(names))
        except NotFound:
            continue
        assert isinstance(tree, StoredTree)
        keys = [*tree.objects()]
        generator.shuffle(keys)
        for key in keys:
            tree.chunk(key)  # DamagedData is what must not be
        assert tree.read(path_of(tree, b"shared/0"), 0, 1 << 20) == blob(100, 50_000)
        count += 1
    mounted.close()
    return count


def looking_through_a_mount(where: Path, source: Source, ends: float) -> int:
    """Compare what is mounted with its source, from the server each time; how often."""
    count = 0
    files = [path.relative_to(source.path) for path in source.path.rglob("*") if path.is_file()]
    while time.monotonic() < ends:
        for name in files:
            with open(where / name, "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert file.read() == (source.path / name).read_bytes()
        count += 1
        time.sleep(0.02)
    return count


@pytest.fixture
def mounted(place: Path, sources: list[Source]) -> Iterator[Path | None]:
    """The head of a dataset whose image is destroyed: only the mount keeps its tree. None where none can be made."""
    Pool.create("tank", place / "tank").close()
    if fuse_missing():
        yield None
        return
    where = place / "mnt"
    where.mkdir()
    with Pool.open("tank", write=True) as pool:
        pool.import_image(sources[0].path, "tank/mounted@1")
    mount("tank", "tank/mounted", where, log_path=place / "log")
    with Pool.open("tank", write=True) as pool:
        pool.destroy("tank/mounted@1")
    yield where
    if any(one.mountpoint == str(where) for one in mounts()):
        umount(where, force=True)


def test_all_at_once(place: Path, sources: list[Source], mounted: Path | None) -> None:
    ends = time.monotonic() + SECONDS
    importers = [run(importing, side, sources, ends) for side in "ab"]
    others = [run(collecting, ends), run(reading, sources, ends)]
    if mounted is not None:
        others.append(run(looking_through_a_mount, mounted, sources[0], ends))
    kept: dict[str, int] = {}
    counts: list[int] = []
    for child in importers:
        number, some = child.result(SECONDS + 60)
        kept |= some
        counts.append(number)
    counts += [child.result(SECONDS + 60) for child in others]
    print(
        f"imports, collections that freed or moved, trees read, passes over the mount: {counts}; {len(kept)} are left"
    )
    assert min(counts) > 0
    with Pool.open("tank", write=True) as pool:
        pool.gc()
        check_whole(pool)
        if mounted is not None:
            assert rows(pool, "SELECT count(*) FROM pin") == [(1,)]
            assert looking_through_a_mount(mounted, sources[0], time.monotonic() + 0.1)
            umount(mounted)
            assert (place / "log").read_text() == ""
            pool.gc()
        check_clean(pool)
        assert {entry.name for entry in pool.images()} == set(kept)
        for name, source in kept.items():
            assert not pool.verify(name, sources[source].path)
        live = live_bytes(pool)
        assert allocated(pool) <= sum(live.values()) + (ROOM + 8192) * len(live) + sum(live.values()) / 2
        pool.destroy("tank", recursive=True)
        pool.gc()
        check_clean(pool)


# -- killed ---------------------------------------------------------------------------------------------------------


def collect_once(ready: Callable[[], object], holes: bool) -> None:
    if not holes:
        LocalBackend.punch = lambda *_: False  # type: ignore[method-assign, assignment]
    with Pool.open("tank", write=True) as pool:
        ready()
        pool.gc()


def destroy_all(ready: Callable[[], object], names: list[str]) -> None:
    with Pool.open("tank", write=True) as pool:
        ready()
        for name in names:
            pool.destroy(name)


def begun(function: Callable[..., None], *arguments: object) -> Child:
    child = run(function, *arguments, ready=True)
    child.wait_ready()
    return child


def test_killed_collections(place: Path, tmp_path: Path) -> None:
    """Whatever it was at: what has a name is whole, and the next one leaves nothing else."""
    generator = random.Random(KILLS)
    Pool.create("tank", place / "tank").close()
    keep = many_files(tmp_path / "keep", 12, 40_000, 1)
    with Pool.open("tank", write=True) as pool:
        pool.import_image(keep.path, "tank/keep@1")
    span, cut = 0.1, 0
    for number in range(KILLS):
        mixed = write_tree(
            tmp_path / f"m{number}",
            {f"k{n}": (keep.path / f"d{n % 7}/f{n}").read_bytes() for n in range(0, 12, 2)}
            | {f"n{n}": generator.randbytes(40_000) for n in range(12)},
        )
        with Pool.open("tank", write=True) as pool:
            if not pool.exists("tank/keep@1"):
                pool.import_image(keep.path, "tank/keep@1")
            pool.import_image(mixed.path, "tank/drop@1")
            pool.destroy("tank/drop", recursive=True)
        child = begun(collect_once, number % 3 > 0)
        began = time.monotonic()
        time.sleep(span * generator.random())
        if child.kill():
            cut += 1
            span *= 1.02
        else:
            span = min(span, time.monotonic() - began) * 0.8  # it was done: aim earlier
        with Pool.open("tank", write=True) as pool:
            assert not pool.verify("tank/keep@1", keep.path)
            if number % 5 == 0 or number == KILLS - 1:
                check_whole(pool)
                pool.gc()
                check_clean(pool)
                assert not pool.verify("tank/keep@1", keep.path)
    assert cut > KILLS / 2, (cut, span)


def test_killed_destroys(place: Path, sources: list[Source]) -> None:
    """A name is there or it is not; what is freed follows."""
    generator = random.Random(KILLS)
    Pool.create("tank", place / "tank").close()
    span, cut = 0.03, 0
    for _ in range(KILLS):
        with Pool.open("tank", write=True) as pool:
            for at in range(4):
                try:
                    pool.import_image(sources[at].path, f"tank/i@{at}")
                except AlreadyExists:
                    continue
        child = begun(destroy_all, [f"tank/i@{at}" for at in generator.sample(range(4), 3)])
        time.sleep(span * generator.random())
        if child.kill():
            cut += 1
        else:
            span *= 0.9
        with Pool.open("tank", write=True) as pool:
            left = {entry.name for entry in pool.images()}
            pool.gc()
            check_clean(pool)
            assert {entry.name for entry in pool.images()} == left
            for name in left:
                assert not pool.verify(name, sources[int(name[-1])].path)
    assert cut > KILLS / 2, (cut, span)
