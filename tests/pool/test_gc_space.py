"""What the disk gets back from a garbage collection: whole packs, holes, what is moved, and how on a full disk."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import lamina.pool.collecting.gc as gc
from lamina.errors import AccessDenied, LaminaError, NoSpace
from lamina.pool import Pool
from lamina.store.backend import LocalBackend
from lamina.store.record import pack_name
from tests.pool.garbage import ROOM, allocated, check_clean, check_whole, live_bytes, reachable, rows, scanned, stored
from tests.pool.test_full_disk import Disk, can_mount, fill, leave
from tests.pool.trees import Library, many_files, write_tree

# -- space ----------------------------------------------------------------------------------------------------------


def test_dead_ranges_become_holes(pool: Pool, tmp_path: Path, library: Library) -> None:
    keep = many_files(tmp_path / "keep", 60, 40_000, 1)
    drop = many_files(tmp_path / "drop", 60, 40_000, 2)
    with pool._writer(), pool._writer():  # two packs are taken: the next are begun
        pool.import_image(drop.path, "tank/a@drop")
    pool.import_image(keep.path, "tank/b@keep")
    pool.import_image(library[3].path, "tank/c@1")
    pool.destroy("tank/a", recursive=True)
    report = pool.gc()
    assert report.given >= 60 * 40_000 - ROOM
    live = live_bytes(pool)
    for path in (pool.path / "packs").iterdir():
        assert path.stat().st_blocks * 512 <= live[path.name] + 2 * ROOM
    check_clean(pool)
    check_whole(pool)
    assert scanned(pool) >= {key for (key,) in rows(pool, "SELECT key FROM object")}
    assert not pool.verify("tank/b@keep", keep.path)
    size = allocated(pool)
    assert pool.gc().given == 0 and allocated(pool) == size  # nothing is punched twice
    pool.import_image(drop.path, "tank/a@again")  # packs with holes are gone on with
    assert not pool.verify("tank/a@again", drop.path)


@pytest.mark.parametrize("copies", ["1", "3"])
def test_mostly_dead_packs_are_emptied(
    pool: Pool, tmp_path: Path, small_packs: None, no_holes: None, copies: str
) -> None:
    """Where there are no holes the rest is moved; never two copies of an object into one pack."""
    pool.set(["tank"], {"copies": copies})
    sources = [many_files(tmp_path / f"s{n}", 30, 12_000, n) for n in range(6)]
    for number, source in enumerate(sources):
        pool.import_image(source.path, f"tank/i@{number}")
    for number in (0, 2, 3, 5):
        pool.destroy(f"tank/i@{number}")
    before = allocated(pool)
    report = pool.gc()
    assert report.packs > 5 and report.given > before / 3
    check_clean(pool)
    check_whole(pool)
    live = live_bytes(pool)
    for use in [path for path in (pool.path / "packs").iterdir() if live[path.name]]:
        size = use.stat().st_blocks * 512
        assert size < 2 * live[use.name] or size - live[use.name] < 2 * 8192
    for number in (1, 4):
        assert not pool.verify(f"tank/i@{number}", sources[number].path)
    assert pool.gc().moved == 0


def test_what_is_moved_is_checked(pool: Pool, tmp_path: Path, small_packs: None, no_holes: None) -> None:
    """A damaged payload stays where it is, and keeps its pack; it must not become a good one."""
    keep, drop = (many_files(tmp_path / name, 40, 9_000, n) for n, name in enumerate(("keep", "drop")))
    mixed = write_tree(
        tmp_path / "mixed",
        {
            f"{side}{n}": (side_path / f"d{n % 7}/f{n}").read_bytes()
            for n in range(40)
            for side, side_path in (("k", keep.path), ("d", drop.path))
        },
    )
    pool.import_image(mixed.path, "tank/m@1")
    pool.import_image(keep.path, "tank/k@1")
    key = sorted(reachable(pool) & {k for (k,) in rows(pool, "SELECT key FROM object WHERE kind = 1")})[0]
    location = pool.store.locate([key])[key]
    path = pool.path / "packs" / pack_name(location.pack)
    with open(path, "r+b") as file:
        file.seek(location.offset + 10)
        byte = file.read(1)
        file.seek(location.offset + 10)
        file.write(bytes([byte[0] ^ 1]))
    pool.destroy("tank/m", recursive=True)
    pool.gc()
    if key in stored(pool):
        after = pool.store.locate([key])[key]
        assert (after.pack, after.offset) == (location.pack, location.offset)
    pool.gc()
    assert not [d for d in pool.verify("tank/k@1", keep.path) if "damaged" not in d.what]


def test_no_room_to_move(
    pool: Pool, tmp_path: Path, small_packs: None, no_holes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is moved without room for it; a disk that fills up while it is moved harms nothing."""
    sources = [many_files(tmp_path / f"s{n}", 30, 12_000, n) for n in range(4)]
    for number, source in enumerate(sources):
        pool.import_image(source.path, f"tank/i@{number}")
    for number in range(3):
        pool.destroy(f"tank/i@{number}")
    free = pool._free
    monkeypatch.setattr(Pool, "_free", lambda _: 0)
    assert pool.gc().moved == 0
    check_clean(pool)
    monkeypatch.setattr(Pool, "_free", lambda _: free())
    real = LocalBackend.append_to
    taken = 0

    def full(self: LocalBackend, name: str, size: int) -> object:
        appender = real(self, name, size)
        append = appender.append

        def limited(parts: object) -> None:
            nonlocal taken
            taken += 1
            if taken > 2:
                raise NoSpace("full")
            append(parts)  # type: ignore[arg-type]

        appender.append = limited  # type: ignore[method-assign, assignment]
        return appender

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, "append_to", full)
        pool.gc()
    assert taken
    check_whole(pool)
    pool.gc()
    check_clean(pool)
    assert not pool.verify("tank/i@3", sources[3].path)


@pytest.mark.parametrize("error", [NoSpace, AccessDenied])
def test_where_no_hole_can_be_made(
    pool: Pool, tmp_path: Path, small_packs: None, monkeypatch: pytest.MonkeyPatch, error: type[LaminaError]
) -> None:
    """A file system too full to note it, a pack of another user's: the rest is freed, what is live is moved."""
    keep, drop = (many_files(tmp_path / name, 8, 40_000, n) for n, name in enumerate(("keep", "drop")))
    files = {
        f"{source.path.name}{n}": (source.path / f"d{n % 7}/f{n}").read_bytes()
        for n in range(8)
        for source in (keep, drop)
    }
    pool.import_image(write_tree(tmp_path / "both", files).path, "tank/both@1")
    pool.import_image(keep.path, "tank/keep@1")
    pool.destroy("tank/both", recursive=True)

    def refused(*_: object) -> bool:
        raise error("no")

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, "punch", refused)
        assert pool.gc().objects >= 8
    check_clean(pool)
    check_whole(pool)
    assert not pool.verify("tank/keep@1", keep.path)


def test_many_small_packs_are_merged(pool: Pool, tmp_path: Path, small_packs: None) -> None:
    sources = [write_tree(tmp_path / f"s{n}", {"f": os.urandom(3000)}) for n in range(19)]
    with contextlib.ExitStack() as stack:
        for number, source in enumerate(sources):
            for _ in range(2):
                writer = stack.enter_context(pool._writer())
                writer._take_packs([0, 1])  # they keep theirs: the import begins others
            pool.import_image(source.path, f"tank/i{number}@1")
    pool.gc()
    count = len(rows(pool, "SELECT id FROM pack"))
    assert count <= gc._MOST_SMALL + 2
    check_clean(pool)
    check_whole(pool)
    for number, source in enumerate(sources):
        assert not pool.verify(f"tank/i{number}@1", source.path)


def test_room_set_aside_is_no_waste(
    pool: Pool, library: Library, small_packs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As XFS does for files that grow: a pack must not be moved again and again for it."""
    pool.import_image(library[2].path, "tank/i@1")
    real = LocalBackend.allocated
    monkeypatch.setattr(LocalBackend, "allocated", lambda self, name: real(self, name) + (1 << 20))
    assert pool.gc().moved == 0


def test_stray_files(pool: Pool, library: Library) -> None:
    """A file that a crash left goes; one whose number was never given may be another, newer catalogue's."""
    pool.import_image(library[2].path, "tank/i@1")
    packs = pool.path / "packs"
    with pool._database.transaction():
        gone = pool._database.execute("INSERT INTO pack(state, size) VALUES ('open', 0)")
        pool._database.execute("DELETE FROM pack WHERE id = ?", (gone,))
    (packs / pack_name(gone)).write_bytes(b"x" * 50_000)
    (packs / pack_name(gone + 100)).write_bytes(b"x" * 50_000)
    (packs / "notes.txt").write_bytes(b"x")
    assert pool.gc().given >= 50_000
    assert not (packs / pack_name(gone)).exists()
    assert (packs / pack_name(gone + 100)).exists() and (packs / "notes.txt").exists()


def test_a_lost_pack_stops_nothing(pool: Pool, tmp_path: Path, small_packs: None) -> None:
    keep = many_files(tmp_path / "keep", 30, 12_000, 1)
    drop = many_files(tmp_path / "drop", 30, 12_000, 2)
    pool.import_image(keep.path, "tank/k@1")
    pool.import_image(drop.path, "tank/d@1")
    (pack,) = rows(pool, "SELECT min(id) FROM pack WHERE state = 'sealed'")[0]
    (pool.path / "packs" / pack_name(pack)).unlink()
    pool.destroy("tank/d", recursive=True)
    assert pool.gc().objects > 3
    assert rows(pool, f"SELECT 1 FROM object WHERE pack = {pack}")  # scrub reports them


# -- a full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(place: Path) -> Iterator[Disk]:
    """A small file system."""
    if not can_mount():
        pytest.skip("a small file system can be mounted by root only")
    made = Disk(place / "disk")
    try:
        yield made
    finally:
        made.umount()


@pytest.mark.parametrize("count", [300, 2000])
def test_on_a_full_disk(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Not a byte is left: an image is destroyed, its space comes back, and the next one fits."""
    monkeypatch.setattr("lamina.ingest.content._GROUP_MOST", 1024)
    disk.mount(64 << 20)
    sources = [many_files(tmp_path / f"s{n}", count, 20_000_000 // count, n) for n in range(2)]
    with Pool.create("tank", disk.path / "tank") as pool:
        for number, source in enumerate(sources):
            pool.import_image(source.path, f"tank/i@{number}")
    leave(disk, 16 << 10)  # for the record of names
    with Pool.open("tank", write=True) as pool:
        pool.destroy("tank/i@0")
    fill(disk.path / "filler2")
    assert disk.free() == 0
    with Pool.open("tank", write=True) as pool:
        report = pool.gc()
        assert (report.freeing, report.waiting_for) == (0, [])
        assert report.given >= 20_000_000
        check_clean(pool)
        assert not pool.verify("tank/i@1", sources[1].path)
        assert disk.free() >= 19_000_000
        other = many_files(tmp_path / "other", 100, 100_000, 9)
        pool.import_image(other.path, "tank/i@2")
        check_whole(pool)
