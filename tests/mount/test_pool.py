"""The public face on a real pool: import, mount, read back, watch snapshots come, damage a pack."""

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import NotFound
from lamina.mount import mount, mounts, umount
from lamina.pool import Pool
from tests.mount.conftest import fuse_missing


@pytest.fixture
def pool_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    reason = fuse_missing()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "pools"))
    yield tmp_path / "pool"
    for one in reversed(mounts()):
        if one.mountpoint.startswith(str(tmp_path)):
            umount(one.mountpoint, force=True)


def fill(root: Path) -> None:
    root.mkdir()
    (root / "big").write_bytes(os.urandom(3 << 20) + b"text " * 100_000)
    for d in range(3):
        (root / f"d{d}").mkdir()
        for i in range(80):
            (root / f"d{d}" / f"f{i}").write_bytes(os.urandom(i * 97))
    os.link(root / "big", root / "d0/link")
    os.symlink("../big", root / "d1/sym")
    os.mkfifo(root / "fifo", 0o600)
    os.setxattr(root / "big", "user.note", b"kept")
    with open(root / "sparse", "wb") as file:
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"island" * 1000)


def same(a: Path, b: Path) -> None:
    subprocess.run(["diff", "-r", "--no-dereference", "-x", "fifo", a, b], check=True)


def test_whole_way(pool_path: Path, tmp_path: Path) -> None:
    fill(tmp_path / "in")
    log = tmp_path / "log"
    where = tmp_path / "mnt"
    where.mkdir()
    with Pool.create("mtank", pool_path) as pool:
        pool.import_image(tmp_path / "in", "mtank/a/img@1")
    before = time.monotonic()
    mount(pool_path, "mtank/a/img@1", where, log_path=log)
    os.listdir(where)
    assert time.monotonic() - before < 5  # 300 ms where nothing else runs: a benchmark, not a test
    same(tmp_path / "in", where)
    assert os.getxattr(where / "big", "user.note") == b"kept"
    assert os.stat(where / "d0/link").st_ino == os.stat(where / "big").st_ino
    with open(where / "sparse", "rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) <= 20 << 20
        assert os.stat(where / "sparse").st_blocks * 512 < 30 << 20
    umount("mtank/a/img@1")

    # The dataset: the head is the import's tree, and what is imported later shows under .zfs.
    mount(str(pool_path), "mtank/a/img", where, log_path=log)
    same(tmp_path / "in", where)
    assert os.listdir(where / ".zfs/snapshot") == ["1"]
    (tmp_path / "in/new").write_text("new")
    with Pool.open(pool_path, write=True) as pool:
        pool.import_image(tmp_path / "in", "mtank/a/img@2")
    until = time.monotonic() + 5
    while not (where / ".zfs/snapshot/2/new").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    umount(where)

    # The pool.
    mount(pool_path, "mtank", where, whole_pool=True, log_path=log)
    assert os.listdir(where) == ["a"] and sorted(os.listdir(where / "a")) == ["img@1", "img@2"]
    same(tmp_path / "in", where / "a/img@2")
    umount(where)
    assert log.read_text() == ""

    with pytest.raises(NotFound):
        mount(pool_path, "mtank/none", where, log_path=log)
    with pytest.raises(NotFound):
        mount(tmp_path / "nowhere", "mtank/a", where, log_path=log)


def test_flipped_bytes_in_a_pack(pool_path: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i in range(40):
        (source / f"f{i}").write_bytes(os.urandom(200_000))
    with Pool.create("mtank", pool_path) as pool:
        pool.import_image(source, "mtank/img@1")
    (pack,) = [p for p in pool_path.rglob("*") if p.is_file() and p.stat().st_size > 7 << 20]
    data = bytearray(pack.read_bytes())
    for at in range(1 << 20, 6 << 20, 1 << 20):
        data[at] ^= 1
    pack.write_bytes(data)
    where = tmp_path / "mnt"
    where.mkdir()
    mount(pool_path, "mtank/img@1", where, log_path=tmp_path / "log")
    failed = 0
    for path in source.iterdir():
        try:
            assert (where / path.name).read_bytes() == path.read_bytes()
        except OSError as error:
            assert error.errno == errno.EIO
            failed += 1
    assert 1 <= failed <= 5
    assert "EIO: inode" in (tmp_path / "log").read_text()
    umount(where)
    shutil.rmtree(pool_path)
