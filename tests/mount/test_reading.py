"""What is mounted is what the tree holds: contents and all metadata, through the kernel."""

import errno
import mmap
import os
import random
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tests.mount.conftest import Mounter
from tests.mount.fake import CHUNK, MTIME, FakeTree

RANDOM = random.Random(7)


def bits(count: int) -> bytes:
    return RANDOM.randbytes(count)


def test_contents_of_every_size(mounter: Mounter) -> None:
    tree = FakeTree()
    sizes = [0, 1, 4095, 4096, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 77, 5 << 20]
    data = {n: bits(n) for n in sizes}
    for n in sizes:
        tree.file(1, b"f%d" % n, data[n], chunk=CHUNK if n % 2 else 100_003)
    root = mounter(tree)
    for n in sizes:
        assert (root / f"f{n}").read_bytes() == data[n]
        assert (root / f"f{n}").stat().st_size == n


def test_random_reads(mounter: Mounter) -> None:
    tree = FakeTree()
    data = bits(9 << 20)
    tree.file(1, b"f", data, chunk=70_001)
    fd = os.open(mounter(tree) / "f", os.O_RDONLY)
    try:
        for _ in range(500):
            at = RANDOM.randrange(len(data) + 1000)
            size = RANDOM.choice((1, 10, 4096, 5000, 70_000, 1 << 20))
            assert os.pread(fd, size, at) == data[at : at + size]
    finally:
        os.close(fd)


def test_small_files_that_share_chunks(mounter: Mounter) -> None:
    tree = FakeTree()
    want = {}
    for d in range(3):
        parent = tree.directory(1, b"d%d" % d)
        for i in range(150):
            data = bits(RANDOM.choice((0, 1, 700, 4096, 6000, 20_000)))
            tree.small(parent, b"f%d" % i, data)
            want[f"d{d}/f{i}"] = data
    tree.flush()
    root = mounter(tree)
    for _ in range(2):
        for directory in ("d0", "d1", "d2"):
            for entry in os.scandir(root / directory):
                entry.stat()
                assert Path(entry.path).read_bytes() == want[f"{directory}/{entry.name}"]
        # With the kernel's caches gone, the same again: also what was pushed must be pushed anew.
        Path("/proc/sys/vm/drop_caches").write_text("2")
    for name, data in want.items():
        fd = os.open(root / name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.read(fd, 1 << 20) == data
        os.close(fd)


def test_metadata(mounter: Mounter) -> None:
    tree = FakeTree()
    ino = tree.file(1, b"f", b"x", 0o4751, uid=1000, gid=2000, mtime_ns=-1_500_000_000, atime_ns=5, ctime_ns=2**34)
    directory = tree.directory(1, b"d", 0o1777)
    tree.link(directory, b"again", ino)
    tree.symlink(1, b"l", b"d/again")
    tree.symlink(1, b"long", b"y" * 4000)
    got = os.lstat(mounter(tree) / "f")
    root = Path(os.path.dirname(os.path.realpath(mounter(tree) / "f")))
    assert (got.st_mode, got.st_uid, got.st_gid, got.st_nlink) == (stat.S_IFREG | 0o4751, 1000, 2000, 2)
    assert (got.st_mtime_ns, got.st_atime_ns, got.st_ctime_ns) == (-1_500_000_000, 5, 2**34)
    assert got.st_ino == ino == os.stat(root / "d/again").st_ino
    assert os.stat(root).st_ino == 1
    assert os.stat(root / "d").st_mode == stat.S_IFDIR | 0o1777
    assert os.stat(root / "d").st_mtime_ns == MTIME
    assert os.readlink(root / "l") == "d/again"
    assert os.readlink(root / "long") == "y" * 4000
    assert (root / "l").read_bytes() == b"x"


def test_special_files(mounter: Mounter) -> None:
    tree = FakeTree()
    big = os.makedev(300, 70_000)
    tree.special(1, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    tree.special(1, b"block", stat.S_IFBLK | 0o600, big)
    tree.special(1, b"fifo", stat.S_IFIFO | 0o644)
    tree.special(1, b"socket", stat.S_IFSOCK | 0o755)
    root = mounter(tree)
    null = os.stat(root / "null")
    assert stat.S_ISCHR(null.st_mode) and null.st_rdev == os.makedev(1, 3)
    with open(root / "null", "wb", buffering=0) as device:
        assert device.write(b"gone") == 4  # the device works: root's mounts have dev
    assert os.stat(root / "block").st_rdev == big
    assert stat.S_ISFIFO(os.stat(root / "fifo").st_mode)
    assert stat.S_ISSOCK(os.stat(root / "socket").st_mode)
    kinds = {e.name: e.stat(follow_symlinks=False).st_mode for e in os.scandir(root)}
    assert stat.S_ISBLK(kinds["block"])


def test_names_of_any_bytes(mounter: Mounter) -> None:
    tree = FakeTree()
    names = [b"a" * 255, b"\xff\xfe\x01", "é".encode() * 127, b"new\nline", b" ", b"\x1b[31m"]
    for name in names:
        tree.file(1, name, name)
    root = os.fsencode(mounter(tree))
    assert sorted(os.listdir(root)) == sorted(names)
    for name in names:
        with open(os.path.join(root, name), "rb") as file:
            assert file.read() == name
    with pytest.raises(OSError) as caught:
        os.stat(os.path.join(root, b"b" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG
    for _ in range(2):  # the second time the kernel remembers
        with pytest.raises(FileNotFoundError):
            os.stat(os.path.join(root, b"none"))


def test_extended_attributes(mounter: Mounter, log_path: Path) -> None:
    tree = FakeTree()
    ino = tree.file(1, b"f", b"x")
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    values = {b"user.a": b"1", b"user.empty": b"", b"user.big": b"v" * 3000, b"security.capability": capability}
    tree.attributes[ino] = values
    tree.file(1, b"none", b"")
    root = mounter(tree)
    assert {n.encode() for n in os.listxattr(root / "f")} == set(values)
    for name, value in values.items():
        assert os.getxattr(root / "f", name) == value
    assert os.listxattr(root / "none") == []
    with pytest.raises(OSError) as caught:
        os.getxattr(root / "f", "user.none")
    assert caught.value.errno == errno.ENODATA
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    small = ctypes.create_string_buffer(10)
    path = os.fsencode(root / "f")
    assert libc.getxattr(path, b"user.big", None, 0) == 3000
    assert libc.getxattr(path, b"user.big", small, 10) == -1 and ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(path, small, 10) == -1 and ctypes.get_errno() == errno.ERANGE
    assert not log_path.read_text()


def test_holes(mounter: Mounter) -> None:
    tree = FakeTree()
    size = 200 << 30
    # Two adjacent extents of 1 MiB and one alone, far off; then a hole to the end.
    tree.sparse(1, b"f", [(1 << 20, b"a" * (2 << 20)), (100 << 30, b"b" * 4096)], size)
    tree.sparse(1, b"zero", [], 5000)
    tree.file(1, b"full", b"c" * 300_000)
    root = mounter(tree)
    assert os.stat(root / "f").st_size == size
    assert os.stat(root / "f").st_blocks * 512 == (2 << 20) + 4096
    assert os.stat(root / "full").st_blocks * 512 >= 300_000
    fd = os.open(root / "f", os.O_RDONLY)
    seek = os.lseek
    assert seek(fd, 0, os.SEEK_DATA) == 1 << 20
    assert seek(fd, 0, os.SEEK_HOLE) == 0
    assert seek(fd, 1 << 20, os.SEEK_HOLE) == 3 << 20
    assert seek(fd, (1 << 20) + 5, os.SEEK_DATA) == (1 << 20) + 5
    assert seek(fd, 3 << 20, os.SEEK_DATA) == 100 << 30
    assert seek(fd, 100 << 30, os.SEEK_HOLE) == (100 << 30) + 4096
    for at, whence in (((100 << 30) + 4096, os.SEEK_DATA), (size, os.SEEK_HOLE), (size, os.SEEK_DATA)):
        with pytest.raises(OSError) as caught:
            seek(fd, at, whence)
        assert caught.value.errno == errno.ENXIO
    assert os.pread(fd, 10, (1 << 20) - 5) == b"\0" * 5 + b"a" * 5
    assert os.pread(fd, 3 << 20, 50 << 30) == bytes(3 << 20)
    assert os.pread(fd, 100, size - 50) == bytes(50)
    os.close(fd)
    full = os.open(root / "full", os.O_RDONLY)
    assert seek(full, 0, os.SEEK_HOLE) == 300_000
    os.close(full)
    assert (root / "zero").read_bytes() == bytes(5000)


def test_large_directory(mounter: Mounter) -> None:
    tree = FakeTree()
    directory = tree.directory(1, b"d")
    for i in range(100_000):
        tree.file(directory, b"name-%06d" % i, b"")
    root = mounter(tree)
    for _ in range(2):
        assert len({e.name for e in os.scandir(root / "d")}) == 100_000
    assert (root / "d/name-099999").exists() and not (root / "d/name-100000").exists()


def test_seekdir(mounter: Mounter) -> None:
    """A position told by telldir leads back to the same entry, also in a directory of several buffers."""
    import ctypes

    tree = FakeTree()
    for i in range(3000):
        tree.file(1, b"n%d" % i, b"")
    root = mounter(tree)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    for name in ("readdir", "telldir", "closedir", "rewinddir"):
        getattr(libc, name).argtypes = [ctypes.c_void_p]
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    handle = libc.opendir(os.fsencode(root))

    def step() -> bytes | None:
        entry = libc.readdir(handle)
        return ctypes.string_at(entry + 19) if entry else None

    seen: list[tuple[int, bytes]] = []
    while True:
        at = libc.telldir(handle)
        name = step()
        if name is None:
            break
        seen.append((at, name))
    assert {n for _, n in seen} == {b".", b".."} | {b"n%d" % i for i in range(3000)}
    for at, name in RANDOM.sample(seen, 100):
        libc.seekdir(handle, at)
        assert step() == name
    libc.rewinddir(handle)
    assert step() == seen[0][1]
    libc.closedir(handle)


def test_mmap_and_exec(mounter: Mounter) -> None:
    tree = FakeTree()
    data = bits(3 << 20)
    tree.file(1, b"data", data, chunk=99_999)
    tree.file(1, b"script", b"#!/bin/sh\necho ran $1\n", 0o755)
    true = Path(shutil.which("true") or "/bin/true")
    tree.file(1, b"true", true.read_bytes(), 0o755)
    tree.file(1, b"not-x", b"#!/bin/sh\n", 0o644)
    root = mounter(tree)
    with open(root / "data", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        for _ in range(200):
            at = RANDOM.randrange(len(data))
            assert view[at : at + 5000] == data[at : at + 5000]
        assert view[:] == data
    assert subprocess.run([root / "script", "it"], capture_output=True, check=True).stdout == b"ran it\n"
    assert subprocess.run([root / "true"], check=False).returncode == 0
    with pytest.raises(PermissionError):
        subprocess.run([root / "not-x"], check=False)


def test_suid_dev_exec_options(mounter: Mounter) -> None:
    tree = FakeTree()
    tree.file(1, b"script", b"#!/bin/sh\necho ran\n", 0o755)
    tree.special(1, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    root = mounter(tree, options=["noexec,nodev", "nosuid"])
    with pytest.raises(PermissionError):
        subprocess.run([root / "script"], check=False)
    with pytest.raises(PermissionError):
        os.open(root / "null", os.O_RDONLY)
    flags = os.statvfs(root).f_flag
    assert flags & os.ST_NOSUID and flags & os.ST_RDONLY


def test_permissions_are_checked(mounter: Mounter) -> None:
    """allow_other is root's default, and the kernel checks modes."""
    tree = FakeTree()
    tree.file(1, b"open", b"yes", 0o644)
    tree.file(1, b"closed", b"no", 0o600)
    root = mounter(tree)
    os.chmod(root.parent, 0o755)
    code = f"""
import os
os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.chdir({str(root)!r}) if False else None
print(open("open").read())
try: open("closed"); print("bad")
except PermissionError: print("refused")
print(os.access("open", os.R_OK), os.access("closed", os.R_OK), os.access("open", os.W_OK))
"""
    done = subprocess.run(["python3", "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "yes\nrefused\nTrue False False\n"


def test_concurrent_readers(mounter: Mounter) -> None:
    tree = FakeTree()
    big = [bits(6 << 20) for _ in range(2)]
    for i, data in enumerate(big):
        tree.file(1, b"big%d" % i, data, chunk=60_000)
    small = {}
    for i in range(300):
        small[i] = bits(RANDOM.randrange(1, 9000))
        tree.small(1, b"s%d" % i, small[i])
    tree.flush()
    root = mounter(tree, options=["cache_mb=1"])
    wrong: list[str] = []

    def sequential(i: int) -> None:
        if (root / f"big{i}").read_bytes() != big[i]:
            wrong.append(f"big{i}")

    def scattered(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(150):
            i = rng.randrange(2)
            at = rng.randrange(len(big[i]))
            with open(root / f"big{i}", "rb", buffering=0) as file:
                if os.pread(file.fileno(), 3000, at) != big[i][at : at + 3000]:
                    wrong.append(f"big{i} at {at}")

    def walker() -> None:
        for entry in os.scandir(root):
            if entry.name.startswith("s") and Path(entry.path).read_bytes() != small[int(entry.name[1:])]:
                wrong.append(entry.name)

    for _ in range(3):
        work = [
            (sequential, (0,)),
            (sequential, (1,)),
            (scattered, (1,)),
            (scattered, (2,)),
            (walker, ()),
            (walker, ()),
        ]
        threads = [threading.Thread(target=f, args=a) for f, a in work]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
        for path in root.iterdir():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
    assert not wrong


def test_nothing_can_be_written(mounter: Mounter) -> None:
    tree = FakeTree()
    tree.file(1, b"f", b"x")
    tree.directory(1, b"d")
    root = mounter(tree)
    f = root / "f"
    attempts = [
        lambda: os.open(f, os.O_RDWR),
        lambda: os.open(root / "new", os.O_WRONLY | os.O_CREAT),
        lambda: os.mkdir(root / "e"),
        lambda: os.rmdir(root / "d"),
        lambda: os.unlink(f),
        lambda: os.rename(f, root / "g"),
        lambda: os.link(f, root / "g"),
        lambda: os.symlink("x", root / "g"),
        lambda: os.mkfifo(root / "g"),
        lambda: os.chmod(f, 0o600),
        lambda: os.chown(f, 1, 1),
        lambda: os.utime(f),
        lambda: os.truncate(f, 0),
        lambda: os.setxattr(f, "user.a", b"1"),
        lambda: os.removexattr(f, "user.a"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS


def test_statfs(mounter: Mounter) -> None:
    tree = FakeTree()
    tree.file(1, b"f", bits(1 << 20))
    got = os.statvfs(mounter(tree))
    assert got.f_blocks * got.f_frsize == 1 << 20
    assert (got.f_bavail, got.f_files, got.f_namemax) == (0, 2, 255)


def test_tar_and_find(mounter: Mounter, tmp_path: Path) -> None:
    """Ordinary programs, end to end."""
    tree = FakeTree()
    a = tree.directory(1, b"a")
    b = tree.directory(a, b"b")
    one = tree.file(b, b"one", bits(200_000))
    tree.link(a, b"two", one)
    tree.symlink(1, b"s", b"a/b/one")
    tree.special(1, b"p", stat.S_IFIFO | 0o600)
    root = mounter(tree)
    packed = tmp_path / "t.tar"
    subprocess.run(["tar", "-C", root, "-cf", packed, "."], check=True)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-C", out, "-xf", packed], check=True)
    assert (out / "a/two").read_bytes() == tree.read(one, 0, 1 << 20)
    assert os.stat(out / "a/two").st_ino == os.stat(out / "a/b/one").st_ino
    found = subprocess.run(["find", ".", "-printf", "%p %y %n\n"], cwd=root, capture_output=True, text=True, check=True)
    assert sorted(found.stdout.splitlines()) == sorted(
        [". d 1", "./a d 2", "./a/b d 2", "./a/b/one f 2", "./a/two f 2", "./s l 1", "./p p 1"]
    )
