"""Damage, bugs and stale nodes: an errno, a log line, and a mount that lives on."""

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lamina.errors import MountError
from lamina.mount import mounts, umount
from lamina.mount.control import wait_for_end
from tests.mount.conftest import Mounter
from tests.mount.fake import FakeTree


def read_errno(path: Path) -> int | None:
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno
    return None


def test_damaged_chunk(mounter: Mounter, log_path: Path) -> None:
    tree = FakeTree()
    bad = tree.file(1, b"bad", b"secret" * 1000)
    tree.file(1, b"good", b"fine")
    key = tree.files[bad][0].key
    tree.damaged.add(key)
    root = mounter(tree)
    for _ in range(3):
        assert read_errno(root / "bad") == errno.EIO
    assert (root / "good").read_bytes() == b"fine"
    log = log_path.read_text()
    assert f"inode {bad} " in log and key.hex() in log and "does not match its checksum" in log
    assert "secret" not in log and "Traceback" not in log


def test_short_chunk(mounter: Mounter, log_path: Path) -> None:
    tree = FakeTree()
    ino = tree.file(1, b"bad", b"x" * 5000)
    tree.chunks[tree.files[ino][0].key] = b"x" * 4000
    root = mounter(tree)
    assert read_errno(root / "bad") == errno.EIO
    assert "shorter" in log_path.read_text()


def test_part_of_a_file_is_damaged(mounter: Mounter) -> None:
    tree = FakeTree()
    data = os.urandom(4 << 20)
    ino = tree.file(1, b"f", data, chunk=1 << 19)
    tree.damaged.add(tree.files[ino][4].key)
    fd = os.open(mounter(tree) / "f", os.O_RDONLY)
    try:
        assert os.pread(fd, 4096, 0) == data[:4096]
        with pytest.raises(OSError) as caught:
            os.pread(fd, 4096, (2 << 20) + 65536)
        assert caught.value.errno == errno.EIO
        assert os.pread(fd, 4096, 3 << 20) == data[3 << 20 : (3 << 20) + 4096]
    finally:
        os.close(fd)


class BuggyTree(FakeTree):
    """Fails as code with a bug does."""

    def readlink(self, ino: int) -> bytes:
        raise ZeroDivisionError("a bug")

    def chunk(self, key: bytes) -> bytes:
        raise KeyError("another bug")


def test_bug_in_a_handler(mounter: Mounter, log_path: Path) -> None:
    tree = BuggyTree()
    tree.symlink(1, b"l", b"x")
    tree.file(1, b"f", b"x")
    root = mounter(tree)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            os.readlink(root / "l")
        assert caught.value.errno == errno.EIO
        assert read_errno(root / "f") == errno.EIO
    assert sorted(os.listdir(root)) == ["f", "l"]
    log = log_path.read_text()
    assert "ZeroDivisionError: a bug" in log and "KeyError" in log and "Traceback" in log


def test_damaged_inode_in_a_listing(mounter: Mounter, log_path: Path) -> None:
    tree = FakeTree()
    lost = tree.file(1, b"lost", b"x")
    tree.file(1, b"kept", b"y")
    del tree.inodes[lost]
    root = mounter(tree)
    assert sorted(os.listdir(root)) == ["kept", "lost"]
    assert (root / "kept").read_bytes() == b"y"
    with pytest.raises(OSError):
        os.stat(root / "lost")


def test_server_killed(mounter: Mounter) -> None:
    """A dead server leaves a mount that umount clears away."""
    tree = FakeTree()
    tree.file(1, b"f", b"x")
    root = mounter(tree)
    (mount,) = [m for m in mounts() if m.mountpoint == str(root)]
    assert mount.pid is not None
    os.kill(mount.pid, signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(OSError) as caught:
        (root / "f").read_bytes()
    assert caught.value.errno == errno.ENOTCONN
    umount(root)
    assert not [m for m in mounts() if m.mountpoint == str(root)]


@pytest.mark.parametrize("busy", [False, True])
def test_sigterm_unmounts(mounter: Mounter, busy: bool) -> None:
    tree = FakeTree()
    tree.file(1, b"f", b"x")
    root = mounter(tree)
    (mount,) = [m for m in mounts() if m.mountpoint == str(root)]
    assert mount.pid is not None
    held = os.open(root / "f", os.O_RDONLY) if busy else -1
    os.kill(mount.pid, signal.SIGTERM)
    assert wait_for_end([mount.pid], 6)
    assert not [m for m in mounts() if m.mountpoint == str(root)]
    if busy:
        with pytest.raises(OSError):  # the close flushes, to nobody
            os.close(held)


def test_reader_killed_in_the_middle(mounter: Mounter, log_path: Path) -> None:
    """A reader that dies while its read is pending leaves no trace and no error."""

    class Slow(FakeTree):
        def chunk(self, key: bytes) -> bytes:
            time.sleep(0.3)
            return super().chunk(key)

    tree = Slow()
    tree.file(1, b"f", b"x" * 3_000_000)
    root = mounter(tree)
    for _ in range(3):
        reader = subprocess.Popen(["cat", root / "f"], stdout=subprocess.DEVNULL)
        time.sleep(0.1)
        reader.kill()
        reader.wait(10)
    assert (root / "f").read_bytes() == b"x" * 3_000_000
    assert not log_path.read_text()


def test_kernel_too_old(mounter: Mounter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lamina.mount.protocol.OLDEST_MINOR", 999)
    with pytest.raises(MountError, match=r"the kernel speaks FUSE 7\.\d+, lamina needs 7\.999"):
        mounter(FakeTree())
    assert not [m for m in mounts() if m.mountpoint.startswith(str(tmp_path))]


def test_overlay_on_top(mounter: Mounter, tmp_path: Path) -> None:
    """What container runtimes do: a writable layer over the mount, copy-up and whiteouts included."""
    tree = FakeTree()
    directory = tree.directory(1, b"d")
    tree.file(directory, b"f", b"below")
    tree.file(directory, b"gone", b"x")
    root = mounter(tree)
    upper = tmp_path / "tmpfs"
    upper.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", upper], check=True)
    try:
        for name in ("up", "work", "merged"):
            (upper / name).mkdir()
        data = f"lowerdir={root},upperdir={upper}/up,workdir={upper}/work"
        done = subprocess.run(["mount", "-t", "overlay", "none", "-o", data, upper / "merged"], check=False)
        if done.returncode:
            pytest.skip("no overlayfs here")
        try:
            merged = upper / "merged"
            with open(merged / "d/f", "ab") as file:
                file.write(b" and above")
            (merged / "d/gone").unlink()
            assert (merged / "d/f").read_bytes() == b"below and above"
            assert os.listdir(merged / "d") == ["f"]
            assert (root / "d/f").read_bytes() == b"below"
        finally:
            subprocess.run(["umount", upper / "merged"], check=True)
    finally:
        subprocess.run(["umount", upper], check=True)
