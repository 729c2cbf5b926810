"""A disk that fills up in the middle of an import: one line, nothing left of it, and the pool goes on."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import LaminaError, NoSpace
from lamina.pool import Pool
from tests.pool.records import compare_with_catalogue
from tests.pool.trees import Source, many_files, write_tree


def can_mount() -> bool:
    if os.geteuid() != 0 or not shutil.which("mount"):
        return False
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(not can_mount(), reason="a small file system can be mounted by root only")


class Disk:
    """A small file system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)

    def mount(self, size: int) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", self.path], check=True)

    def umount(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=False, capture_output=True)

    def free(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize


@pytest.fixture
def disk(place: Path) -> Iterator[Disk]:
    made = Disk(place / "disk")
    try:
        yield made
    finally:
        made.umount()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return many_files(tmp_path_factory.mktemp("full") / "small", 30, 20_000, 1)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return many_files(tmp_path_factory.mktemp("full") / "large", 40, 90_000, 2)


CATALOGUE_GROWTH = 256 << 10
"""SQLite keeps the pages that an import took, to use them again."""


def leave(disk: Disk, room: int) -> None:
    """Take what is free but for ``room`` bytes."""
    with open(disk.path / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.free() - room)


@pytest.mark.parametrize("pack_target", [256 << 20, 200_000])
@pytest.mark.parametrize("room", range(50_000, 3_100_000, 250_000))
def test_the_disk_fills_up_in_an_import(
    disk: Disk, small: Source, large: Source, room: int, pack_target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept free is enough to take back whatever was put, wherever the import stands."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", pack_target)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 5)
    monkeypatch.setattr("lamina.store.writer._BUFFER", 100_000)
    fill_up_and_go_on(disk, small, large, (64 << 20) // 32 + room)


@pytest.mark.parametrize("room", range(800_000, 3_100_000, 400_000))
def test_the_disk_fills_up_to_the_last_byte(
    disk: Disk, small: Source, large: Source, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take what is kept free: the pack that is being written gives the room to take things back."""
    monkeypatch.setattr("lamina.pool.pool.RESERVE", -(1 << 30))
    fill_up_and_go_on(disk, small, large, room)


def fill_up_and_go_on(disk: Disk, small: Source, large: Source, room: int) -> None:
    disk.mount(64 << 20)
    with Pool.create("tank", disk.path / "tank") as pool:
        pool.import_image(small.path, "tank/i@1")
        pool.import_image(small.path, "tank/i@copy")
    leave(disk, room)
    before = disk.free()
    with Pool.open("tank", write=True) as pool:
        rows = pool._database.query("SELECT * FROM object"), pool._database.query("SELECT * FROM pack")
        with pytest.raises(NoSpace) as caught:
            pool.import_image(large.path, "tank/new/i@2")
        assert "\n" not in str(caught.value)
        assert (pool._database.query("SELECT * FROM object"), pool._database.query("SELECT * FROM pack")) == rows
        assert pool._database.query("SELECT * FROM lease") == []
        assert os.listdir(pool.path / "leases") == os.listdir(pool.path / "tmp") == []
        assert not pool.verify("tank/i@1", small.path)
        pool.destroy("tank/i@copy")
        compare_with_catalogue(pool)
    assert disk.free() >= before - CATALOGUE_GROWTH
    with Pool.open("tank", write=True) as pool:
        assert [entry.name for entry in pool.list(types=("filesystem", "snapshot"))] == ["tank", "tank/i", "tank/i@1"]
        (disk.path / "filler").unlink()
        pool.import_image(large.path, "tank/new/i@2")
        assert not pool.verify("tank/new/i@2", large.path)


def test_a_disk_that_others_have_filled(disk: Disk, small: Source) -> None:
    """Nothing is left at all: what is there can be read, and destroyed."""
    disk.mount(8 << 20)
    with Pool.create("tank", disk.path / "tank") as pool:
        pool.import_image(small.path, "tank/i@1")
        pool.import_image(small.path, "tank/i@2")
    fill(disk.path / "filler")
    with Pool.open("tank") as pool:
        assert [entry.name for entry in pool.images()] == ["tank/i@1", "tank/i@2"]
        assert not pool.verify("tank/i@1", small.path)
        assert pool.get("tank", ["available"])["available"].value == 0
    with Pool.open("tank", write=True) as pool:
        pool.destroy("tank/i@2")
    with pytest.raises(NoSpace), Pool.open("tank", write=True) as pool:
        pool.import_image(write_tree(disk.path.parent / "x", {"a": os.urandom(90_000)}).path, "tank/j@1")
    (disk.path / "filler").unlink()
    with Pool.open("tank", write=True) as pool:
        assert not pool.verify("tank/i@1", small.path)
        pool.import_image(small.path, "tank/i@2")
        assert not pool.verify("tank/i@2", small.path)
        compare_with_catalogue(pool)


def test_create_on_a_full_disk_leaves_nothing(disk: Disk) -> None:
    disk.mount(1 << 20)
    fill(disk.path / "filler")
    with pytest.raises(LaminaError) as caught:
        Pool.create("tank", disk.path / "tank")
    assert "\n" not in str(caught.value)
    assert os.listdir(disk.path) == ["filler"]


def fill(path: Path) -> None:
    """Take every byte that is left."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def test_at_the_reserve_imports_stop_and_the_rest_goes_on(disk: Disk, small: Source, large: Source) -> None:
    disk.mount(64 << 20)
    with Pool.create("tank", disk.path / "tank") as pool:
        pool.import_image(small.path, "tank/i@1")
        pool.import_image(small.path, "tank/i@2")
        assert pool.status().capacity < 90
        leave(disk, (64 << 20) // 32 + 20_000)
        assert pool.status().capacity >= 90
        for name in ("tank/i@3", "tank/j@1"):
            with pytest.raises(NoSpace) as caught:
                pool.import_image(large.path, name)
            assert "\n" not in str(caught.value)
        assert not pool.verify("tank/i@1", small.path)
        assert pool.get("tank/i", ["used", "available"])["available"].value < 30_000  # type: ignore[operator]
        pool.snapshot(["tank/i@kept"])
        pool.set(["tank/i"], {"compression": "lz4"})
        pool.destroy("tank/i@kept")
        pool.destroy("tank/i", recursive=True)
        assert pool.gc().stored > 500_000
        (disk.path / "filler").unlink()
        assert pool.status().capacity < 90
        pool.import_image(large.path, "tank/j@1")
        assert not pool.verify("tank/j@1", large.path)
        compare_with_catalogue(pool)


def test_space_that_is_reserved_stays_there(disk: Disk, small: Source, large: Source) -> None:
    """The disk has room for the import, but it is another dataset's."""
    disk.mount(64 << 20)
    with Pool.create("tank", disk.path / "tank") as pool:
        pool.import_image(small.path, "tank/i@1")
        pool.create_dataset("tank/safe")
        available = pool.get("tank", ["available"])["available"].value
        assert isinstance(available, int)
        pool.set(["tank/safe"], {"reservation": str(available - 1_000_000)})
        before = disk.free()
        with pytest.raises(NoSpace) as caught:
            pool.import_image(large.path, "tank/i@2")
        assert "'tank/safe'" in str(caught.value) and "lower a reservation" in str(caught.value)
        assert disk.free() >= before - CATALOGUE_GROWTH
        assert pool._database.query("SELECT * FROM lease") == []
        pool.import_image(large.path, "tank/safe@1")
        assert not pool.verify("tank/safe@1", large.path)
        pool.set(["tank/safe"], {"reservation": "none"})
        pool.import_image(large.path, "tank/i@2")
        compare_with_catalogue(pool)
