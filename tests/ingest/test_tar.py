"""Tar archives by GNU tar, by Python and by hand, next to what they were made of."""

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from lamina.fs.types import ROOT_INO
from lamina.fs.view import path_of
from lamina.pool.importing.verify import verify_tree
from tests.ingest.archives import END, OldSparse, header, libarchive_xattr, member, number, pax, summed
from tests.ingest.kit import Entry, Shop, Taken, nasty, of_directory, of_tree, take
from tests.store.kit import needs_root

NS = 10**9
needs_gnu_tar = pytest.mark.skipif(
    shutil.which("tar") is None
    or b"GNU tar" not in subprocess.run(["tar", "--version"], capture_output=True, check=False).stdout,
    reason="needs GNU tar",
)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path / "shop")
    yield shop
    shop.close()


@pytest.fixture(scope="module")
def nasty_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("nasty") / "root"
    nasty(path, sockets=False)
    for name in ("dev/fifo", "dev/fifo-too"):  # GNU tar makes two of them
        (path / name).unlink()
    yield path
    shutil.rmtree(path.parent)


def gnu_tar(root: Path, archive: Path, *options: str) -> None:
    subprocess.run(
        ["tar", *options, "-C", root, "-cf", archive, "."],
        check=True,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C"},
    )


def taken_file(shop: Shop, archive: Path) -> Taken:
    with open(archive, "rb") as file:
        return take(shop, file)


# -- by GNU tar -----------------------------------------------------------------------------------------------------

PAX = ("--format=posix", "--sparse", "--xattrs", "--xattrs-include=*")


@needs_root
@needs_gnu_tar
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_pax_keeps_everything(shop: Shop, nasty_path: Path, tmp_path: Path, version: str) -> None:
    gnu_tar(nasty_path, tmp_path / "a.tar", *PAX, f"--sparse-version={version}")
    taken = taken_file(shop, tmp_path / "a.tar")
    assert of_tree(taken.tree) == of_directory(nasty_path)
    assert verify_tree(taken.tree, nasty_path) == []


@needs_root
@needs_gnu_tar
@pytest.mark.parametrize("sparse", [True, False])
def test_the_gnu_format_keeps_all_but_xattrs_and_fractions(
    shop: Shop, nasty_path: Path, tmp_path: Path, sparse: bool
) -> None:
    options = ["--format=gnu", "--sparse"] if sparse else ["--format=gnu", "--exclude=./sparse"]
    gnu_tar(nasty_path, tmp_path / "a.tar", *options)
    wanted = {
        path: replace(entry, mtime_ns=entry.mtime_ns // NS * NS, xattrs=())
        for path, entry in of_directory(nasty_path).items()
        if sparse or path != b"./sparse"
    }
    assert of_tree(taken_file(shop, tmp_path / "a.tar").tree) == wanted


@needs_root
@needs_gnu_tar
@pytest.mark.parametrize("format", ["ustar", "v7", "oldgnu", "gnu", "pax"])
def test_every_format(shop: Shop, tmp_path: Path, format: str) -> None:
    root = tmp_path / "root"
    (root / "usr" / "lib").mkdir(parents=True)
    (root / "usr" / "lib" / "large").write_bytes(random.Random(1).randbytes(300_000))
    (root / "usr" / ("x" * 60)).mkdir()
    (root / "usr" / ("x" * 60) / ("y" * (30 if format == "v7" else 90))).write_text("a name of two parts")
    os.link(root / "usr" / "lib" / "large", root / "linked")
    (root / "symbolic").symlink_to("usr/lib")
    if format != "v7":
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mkfifo(root / "fifo")
    os.chmod(root / "linked", 0o4751)
    os.chown(root / "linked", 1234, 5678)
    for path in (root, *root.rglob("*")):
        os.utime(path, ns=(0, 1_600_000_000 * NS), follow_symlinks=False)
    gnu_tar(root, tmp_path / "a.tar", f"--format={format}")
    assert of_tree(taken_file(shop, tmp_path / "a.tar").tree) == of_directory(root)


@needs_root
@needs_gnu_tar
def test_file_data_is_shared_with_a_directory(shop: Shop, nasty_path: Path, tmp_path: Path) -> None:
    """Chunks do not depend on how the bytes came, nor on who knew of the holes."""
    take(shop, nasty_path)
    for number_, options in enumerate((PAX, ("--format=gnu", "--exclude=./sparse"))):
        gnu_tar(nasty_path, tmp_path / "a.tar", "--sort=name", *options)
        new = taken_file(shop, tmp_path / "a.tar").written.new_bytes
        assert new < 400_000, f"{number_}: only groups of small files may differ, not {new} bytes"


@needs_root
@needs_gnu_tar
def test_the_same_archive_is_the_same_root(shop: Shop, nasty_path: Path, tmp_path: Path) -> None:
    gnu_tar(nasty_path, tmp_path / "a.tar", *PAX)
    with open(tmp_path / "a.tar", "rb") as one, open(tmp_path / "a.tar", "rb") as two:
        first = take(shop, one, threads=1)
        second = take(shop, two, threads=5, memory=2000)
    assert first.root == second.root
    assert second.written.objects == 0


# -- compressed, and in odd pieces ----------------------------------------------------------------------------------

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": lambda data: zstandard.compress(data, 3),
    "zstd without size": lambda data: b"".join(
        (c := zstandard.ZstdCompressor(level=3).compressobj()) and (c.compress(data), c.flush())
    ),
    "zstd --long": lambda data: zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    ).compress(data),
    "two gzip members": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "two zstd frames": lambda data: zstandard.compress(data[:1000]) + zstandard.compress(data[1000:]),
}


class Trickle(io.RawIOBase):
    """A pipe whose writer is slow: a few bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data = io.BytesIO(data)
        self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._data.read(min(self._most, len(view)))
        view[: len(data)] = data
        return len(data)


class OnlyRead:
    """A stream that has nothing but ``read``."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


def small_archive() -> bytes:
    return (
        member(b"d/", kind=b"5", mode=0o755)
        + member(b"d/file", b"contents\n" * 500)
        + member(b"d/large", random.Random(2).randbytes(70_000))
        + member(b"link", link=b"d/file", kind=b"2")
        + END
    )


@pytest.mark.parametrize("how", COMPRESSORS)
def test_compressed_input_is_recognised(shop: Shop, how: str) -> None:
    wanted = take(shop, small_archive()).root
    packed = COMPRESSORS[how](small_archive())
    assert take(shop, packed).root == wanted
    assert take(shop, Trickle(packed, 1)).root == wanted  # type: ignore[arg-type]
    assert take(shop, io.BufferedReader(Trickle(packed, 3), 5)).root == wanted
    assert take(shop, OnlyRead(packed)).root == wanted  # type: ignore[arg-type]


def test_from_a_pipe_whose_writer_is_not_killed(shop: Shop) -> None:
    """Blocks after the end of the archive are read on: tar(1) would else die of SIGPIPE."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as file:
                file.write(small_archive() + bytes(3 << 20))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        taken = take(shop, file)
    assert os.waitpid(pid, 0)[1] == 0
    assert taken.totals.inodes == 5


# -- by Python ------------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_pythons_tarfile(shop: Shop, tmp_path: Path, format: int) -> None:
    root = tmp_path / "root"
    (root / "lib").mkdir(parents=True)
    rng = random.Random(3)
    for number_, size in enumerate((0, 1, 511, 512, 513, 40_000, 200_000)):
        (root / "lib" / f"{number_}").write_bytes(rng.randbytes(size))
    if format != tarfile.USTAR_FORMAT:
        (root / ("long" * 60)).write_text("x")
        (root / "späße").symlink_to("long" * 100)
        os.chown(root / "lib" / "1", 3_000_000_000, 3_000_000_001)
    os.link(root / "lib" / "5", root / "hard")
    os.mknod(root / "tty", stat.S_IFCHR | 0o620, os.makedev(4, 64))
    for path in (root, *root.rglob("*")):
        time = 1_600_000_000 * NS + (123_456_000 if format == tarfile.PAX_FORMAT else 0)
        os.utime(path, ns=(0, time), follow_symlinks=False)
    with tarfile.open(tmp_path / "a.tar", "w", format=format) as archive:
        archive.add(root, arcname=".")
    found = of_tree(taken_file(shop, tmp_path / "a.tar").tree)
    wanted = of_directory(root)
    if format == tarfile.PAX_FORMAT:  # Python writes a float
        for entries in (found, wanted):
            for path, entry in entries.items():
                entries[path] = replace(entry, mtime_ns=round(entry.mtime_ns / 1000))
    assert found == wanted


# -- by hand --------------------------------------------------------------------------------------------------------


def entries(shop: Shop, archive: bytes) -> dict[bytes, Entry]:
    return of_tree(take(shop, archive).tree)


def contents(taken: Taken, path: bytes) -> bytes:
    return taken.tree.read(path_of(taken.tree, path), 0, 1 << 30)


def test_directories_that_no_member_names(shop: Shop) -> None:
    found = entries(shop, member(b"a/b/c", b"x") + END)
    assert {path: (oct(entry.mode), entry.nlink) for path, entry in found.items()} == {
        b".": ("0o40755", 3),
        b"./a": ("0o40755", 3),
        b"./a/b": ("0o40755", 2),
        b"./a/b/c": ("0o100644", 1),
    }


@pytest.mark.parametrize("name", [b"./a/b", b"a//b", b"a/./b", b".//a/b"])
def test_names_in_several_spellings(shop: Shop, name: bytes) -> None:
    assert b"./a/b" in entries(shop, member(name, b"x") + END)


def test_the_root_has_the_metadata_of_its_member(shop: Shop) -> None:
    for name in (b"./", b".", b"././/"):
        found = entries(shop, member(name, kind=b"5", mode=0o1711, uid=5, gid=6, mtime=77) + END)
        root = found[b"."]
        assert (oct(root.mode), root.uid, root.gid, root.mtime_ns) == ("0o41711", 5, 6, 77 * NS)


def test_a_directory_named_after_its_contents(shop: Shop) -> None:
    found = entries(shop, member(b"d/x", b"x") + member(b"d/", kind=b"5", mode=0o700, mtime=9) + END)
    assert (oct(found[b"./d"].mode), found[b"./d"].mtime_ns, found[b"./d/x"].size) == ("0o40700", 9 * NS, 1)


def test_old_archives(shop: Shop) -> None:
    """V7: no magic, type NUL, a slash at the end for directories; blanks in numbers; signed checksums (Sun)."""
    old = header(b"d/", magic=bytes(8), kind=b"\0") + member(b"d/x", b"old", kind=b"\0", magic=bytes(8))
    assert oct(entries(shop, old + END)[b"./d"].mode)[:4] == "0o40"
    blanks = bytearray(header(b"x"))
    blanks[100:108] = b"   644 \0"
    assert oct(entries(shop, summed(bytes(blanks)) + END)[b"./x"].mode) == "0o100644"
    name = b"\xff\xfe"
    signed = bytearray(header(name))
    total = sum(byte - 256 if byte > 127 else byte for byte in (*signed[:148], *b" " * 8, *signed[156:]))
    signed[148:156] = b"%06o\0 " % total
    assert b"./" + name in entries(shop, bytes(signed) + END)


def test_numbers_beyond_octal(shop: Shop) -> None:
    found = entries(shop, member(b"x", b"y", uid=4_000_000_000, gid=3_000_000, mtime=-5) + END)
    assert (found[b"./x"].uid, found[b"./x"].gid, found[b"./x"].mtime_ns) == (4_000_000_000, 3_000_000, -5 * NS)


def test_pax_records(shop: Shop) -> None:
    records = {
        b"path": b"\xff" * 200 + b"/name",
        b"uid": b"4294967295",
        b"gid": b"0",
        b"mtime": b"-1.25",
        b"atime": b"5.123456789123",
        b"ctime": b"7",
        b"SCHILY.xattr.user.a": b"line\nline=\0\xff",
        b"SCHILY.xattr.user.percent%25%3D": b"",
        b"comment": b"ignored",
    }
    taken = take(shop, pax(records) + member(b"short", b"data") + END)
    ino = path_of(taken.tree, b"\xff" * 200 + b"/name")
    inode = taken.tree.inode(ino)
    assert (inode.uid, inode.gid, inode.mtime_ns) == (4294967295, 0, -1_250_000_000)
    assert (inode.atime_ns, inode.ctime_ns) == (5_123_456_789, 7 * NS)
    assert taken.tree.xattrs(ino) == {b"user.a": b"line\nline=\0\xff", b"user.percent%=": b""}
    assert taken.tree.read(ino, 0, 9) == b"data"


def test_pax_records_hold_for_one_member_and_global_ones_for_all(shop: Shop) -> None:
    archive = (
        pax({b"uid": b"7", b"comment": b"c"}, b"g")
        + pax({b"uid": b"8", b"gid": b"9"})
        + member(b"one", b"1", gid=3)
        + member(b"two", b"2", gid=3)
        + pax({b"uid": b""})
        + member(b"three", b"3", uid=4)
        + pax({b"uid": b"70"}, b"g")
        + member(b"four", b"4")
        + pax({b"last": b"one"}, b"g")
        + END
    )
    found = entries(shop, archive)
    assert {path: (entry.uid, entry.gid) for path, entry in found.items() if path != b"."} == {
        b"./one": (8, 9),
        b"./two": (7, 3),
        b"./three": (4, 0),
        b"./four": (70, 0),
    }


def test_a_global_header_between_a_member_and_its_own(shop: Shop) -> None:
    archive = pax({b"path": b"long"}) + pax({b"uid": b"5"}, b"g") + member(b"short", b"x") + END
    assert set(entries(shop, archive)) == {b".", b"./long"}


def test_gnu_long_names(shop: Shop) -> None:
    name, link = b"d/" * 100 + b"n" * 255, b"t" * 4000
    archive = member(b"././@LongLink", link + b"\0", b"K") + member(b"././@LongLink", name + b"\0", b"L")
    taken = take(shop, archive + header(name[:100], kind=b"2", link=link[:100]) + END)
    assert taken.tree.readlink(path_of(taken.tree, name)) == link


def test_xattrs_of_libarchive(shop: Shop) -> None:
    records = [libarchive_xattr(b"user.%e4%3d", b"\0\xff value"), libarchive_xattr(b"user.both", b"one")]
    archive = pax([*records, (b"SCHILY.xattr.user.both", b"two"), (b"RHT.security.selinux", b"system_u\0")])
    taken = take(shop, archive + member(b"x") + END)
    wanted = {b"user.\xe4=": b"\0\xff value", b"user.both": b"two", b"security.selinux": b"system_u\0"}
    assert taken.tree.xattrs(path_of(taken.tree, b"x")) == wanted


@pytest.mark.parametrize("parts", [0, 1, 4, 5, 25, 26, 100])
def test_old_gnu_sparse(shop: Shop, parts: int) -> None:
    rng = random.Random(parts)
    pieces = [(n * 5120, rng.randbytes(rng.choice([512, 1024, 700 if n == parts - 1 else 512]))) for n in range(parts)]
    size = parts * 5120 + 300
    model = bytearray(size)
    for offset, piece in pieces:
        model[offset : offset + len(piece)] = piece
    archive = OldSparse(b"s", size, [*pieces, (size, b"")]).bytes() + member(b"after", b"!") + END
    taken = take(shop, archive)
    assert contents(taken, b"s") == bytes(model)
    assert contents(taken, b"after") == b"!"


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
@pytest.mark.parametrize("parts", [0, 1, 3, 60])
def test_pax_sparse(shop: Shop, version: str, parts: int) -> None:
    rng = random.Random(parts)
    pieces = [(n * 200_000 + 512, rng.randbytes(1000)) for n in range(parts)]
    size = parts * 200_000 + 100_000
    model = bytearray(size)
    for offset, piece in pieces:
        model[offset : offset + len(piece)] = piece
    data = b"".join(piece for _, piece in pieces)
    pairs = [(offset, len(piece)) for offset, piece in pieces]
    if version == "0.0":
        records = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"%d" % parts)]
        for offset, length in pairs:
            records += [(b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % length)]
    elif version == "0.1":
        flat = b",".join(b"%d,%d" % pair for pair in pairs)
        records = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.map", flat), (b"GNU.sparse.name", b"s")]
    else:
        records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s")]
        records.append((b"GNU.sparse.realsize", b"%d" % size))
        text = b"%d\n" % parts + b"".join(b"%d\n%d\n" % pair for pair in pairs)
        data = text + bytes(-len(text) % 512) + data
    name = b"s" if version == "0.0" else b"GNUSparseFile.1/s"
    taken = take(shop, pax(records) + member(name, data) + member(b"after", b"!") + END)
    assert contents(taken, b"s") == bytes(model)
    assert contents(taken, b"after") == b"!"


def test_devices(shop: Shop) -> None:
    archive = (
        member(b"c", kind=b"3", major=1, minor=5, mode=0o666)
        + member(b"b", kind=b"4", major=4095, minor=0xFFFFF)
        + member(b"p", kind=b"6")
        + END
    )
    found = entries(shop, archive)
    assert (oct(found[b"./c"].mode), found[b"./c"].rdev) == ("0o20666", os.makedev(1, 5))
    assert found[b"./b"].rdev == os.makedev(4095, 0xFFFFF)
    assert stat.S_ISFIFO(found[b"./p"].mode)


def test_volume_labels_and_contiguous_files(shop: Shop) -> None:
    archive = member(b"label", kind=b"V") + member(b"x", b"contiguous", kind=b"7") + END
    assert set(entries(shop, archive)) == {b".", b"./x"}


def test_one_block_of_zeros_is_an_end_too(shop: Shop) -> None:
    assert b"./x" in entries(shop, member(b"x", b"1") + bytes(512))


def test_what_follows_the_end_is_ignored(shop: Shop) -> None:
    wanted = take(shop, small_archive()).root
    for more in (b"trailing", bytes(10240), small_archive(), random.Random(1).randbytes(5000)):
        assert take(shop, small_archive() + more).root == wanted


def test_an_archive_of_nothing(shop: Shop) -> None:
    taken = take(shop, bytes(10240))
    assert (taken.totals.inodes, list(taken.tree.readdir(ROOT_INO))) == (1, [])


# -- the last member of a name wins ---------------------------------------------------------------------------------

FILE, FILE2 = member(b"n", b"one" * 20_000), member(b"n", b"two")
FOLDER = member(b"n/", kind=b"5", mode=0o700) + member(b"n/below", b"b" * 50_000) + member(b"n/sub/x", b"x")
SYMLINK = member(b"n", kind=b"2", link=b"target")


@pytest.mark.parametrize("first", [FILE, FOLDER, SYMLINK])
@pytest.mark.parametrize("last", [FILE, FILE2, FOLDER, SYMLINK])
def test_a_name_twice(shop: Shop, first: bytes, last: bytes) -> None:
    found = entries(shop, first + last + member(b"z", b"z") + END)
    if first is last is FOLDER:
        assert found == entries(shop, last + member(b"z", b"z") + END)
        return
    assert found == entries(shop, last + member(b"z", b"z") + END)
    assert found[b"."].nlink == (3 if last is FOLDER else 2)


def test_a_directory_twice_keeps_its_contents(shop: Shop) -> None:
    found = entries(shop, FOLDER + member(b"n/", kind=b"5", mode=0o711) + END)
    assert oct(found[b"./n"].mode) == "0o40711"
    assert b"./n/below" in found


def test_link_counts_after_names_were_replaced(shop: Shop) -> None:
    links = b"".join(member(name, kind=b"1", link=b"a") for name in (b"b", b"c", b"d/e"))
    archive = member(b"a", b"shared" * 9000) + links
    assert entries(shop, archive + END)[b"./a"].nlink == 4
    found = entries(shop, archive + member(b"b", b"own") + END)
    assert (found[b"./a"].nlink, found[b"./b"].nlink, found[b"./c"].same) == (3, 1, b"./a")
    found = entries(shop, archive + member(b"d", b"no directory now") + END)
    assert found[b"./a"].nlink == 3
    # The first name goes; the others keep the file.
    found = entries(shop, archive + member(b"a", b"own") + END)
    assert (found[b"./c"].nlink, found[b"./c"].size, found[b"./a"].size) == (3, 54_000, 3)
    # All go.
    gone = archive + b"".join(member(name, b"own") for name in (b"a", b"b", b"c", b"d/e"))
    assert {entry.size for path, entry in entries(shop, gone + END).items() if stat.S_ISREG(entry.mode)} == {3}


def test_a_link_to_itself_changes_nothing(shop: Shop) -> None:
    found = entries(shop, member(b"a", b"x") + member(b"a", kind=b"1", link=b"./a") + END)
    assert (found[b"./a"].nlink, found[b"./a"].size) == (1, 1)


def test_a_link_in_place_of_the_directory_above_its_target(shop: Shop) -> None:
    found = entries(
        shop, member(b"d/a", b"kept" * 9) + member(b"d/b", b"gone") + member(b"d", kind=b"1", link=b"d/a") + END
    )
    assert set(found) == {b".", b"./d"}
    assert (found[b"./d"].nlink, found[b"./d"].size, oct(found[b"./d"].mode)) == (1, 36, "0o100644")


def test_links_to_links_and_devices(shop: Shop) -> None:
    archive = (
        member(b"s", kind=b"2", link=b"t")
        + member(b"s2", kind=b"1", link=b"s")
        + member(b"n", kind=b"3", major=1, minor=3)
    )
    found = entries(shop, archive + member(b"n2", kind=b"1", link=b"n") + END)
    assert (found[b"./s2"].same, found[b"./s"].nlink, found[b"./n"].nlink) == (b"./s", 2, 2)


def test_a_link_that_repeats_the_data(shop: Shop) -> None:
    """As pax(1) writes them."""
    archive = (
        member(b"a", b"data!")
        + pax({b"size": b"5"})
        + member(b"b", b"data!", kind=b"1", link=b"a")
        + member(b"c", b"c")
    )
    found = entries(shop, archive + END)
    assert (found[b"./b"].same, found[b"./c"].size) == (b"./a", 1)


def test_times_at_the_edge(shop: Shop) -> None:
    for seconds in (0, -1, 2**33, -(2**40), 2**61):
        found = entries(shop, member(b"x", mtime=seconds) + END)
        assert found[b"./x"].mtime_ns == seconds * NS
    assert number(-1, 12)[:1] == b"\xff"
