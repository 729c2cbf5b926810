"""Imports into a store without a pool, nasty trees, and descriptions of trees to compare."""

import contextlib
import hashlib
import io
import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lamina.fs.spool import ItemSpool
from lamina.fs.types import ROOT_INO, Totals
from lamina.fs.view import StoredTree
from lamina.ingest.content import ContentWriter
from lamina.ingest.directory import import_directory
from lamina.ingest.progress import Tally
from lamina.ingest.tarsource import import_tar
from lamina.ingest.tasks import Workers
from lamina.store.codec import parse_compression
from lamina.store.writer import Written
from tests.store.kit import Shop

__all__ = ["Shop"]


@dataclass
class Taken:
    """An import that succeeded."""

    tree: StoredTree
    root: bytes
    totals: Totals
    tally: Tally
    written: Written

    @property
    def problems(self) -> dict[bytes, str]:
        return {problem.path: problem.what for problem in self.tally.problems}


def take(
    shop: Shop,
    source: Path | bytes | BinaryIO,
    *,
    threads: int = 2,
    compression: str = "on",
    recordsize: int = 1 << 17,
    exclude: frozenset[tuple[int, int]] = frozenset(),
    memory: int = 64 << 20,
) -> Taken:
    """Import a directory or a tar as the pool does. After a failure nothing of it may be left."""
    before = (set(shop.rows()), shop.packs())
    tally = Tally()
    writer = shop.writer()
    try:
        with contextlib.ExitStack() as stack:
            spool = stack.enter_context(contextlib.closing(ItemSpool(shop.path, memory)))
            workers = stack.enter_context(contextlib.closing(Workers(threads)))
            content = ContentWriter(writer, spool, workers, tally, parse_compression(compression), recordsize)
            if isinstance(source, Path):
                root, totals = import_directory(source, writer, content, spool, workers, tally, exclude)
            else:
                stream = io.BytesIO(source) if isinstance(source, bytes) else source
                root, totals = import_tar(stream, writer, content, spool, workers, tally)
            with writer.commit():
                pass
    except BaseException:
        writer.abort()
        assert (set(shop.rows()), shop.packs()) == before, "a failed import left something behind"
        assert shop.leases() == []
        raise
    writer.close()
    tree = StoredTree(root, shop.store.get)
    reached = {row.id for row in shop.store.locate(set(tree.objects())).values()}
    assert reached <= set(writer.reached)
    assert tally.inexact or reached == set(writer.reached), "the bitmap of what a root reaches would be wrong"
    return Taken(tree, root, totals, tally, writer.written)


# -- descriptions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """All that is kept of a file, but for inode numbers. ``same`` is the first of its names."""

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    mtime_ns: int
    rdev: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    content: bytes
    same: bytes


def of_tree(tree: StoredTree) -> dict[bytes, Entry]:
    """Everything in a tree, by path."""
    found: dict[bytes, Entry] = {}
    first: dict[int, bytes] = {}
    stack = [(b".", ROOT_INO, stat.S_IFDIR)]
    while stack:
        path, ino, mode_type = stack.pop()
        inode = tree.inode(ino)
        assert inode.ino == ino and stat.S_IFMT(inode.mode) == mode_type, "the type in a directory is not the file's"
        content = b""
        if stat.S_ISLNK(inode.mode):
            content = tree.readlink(ino)
        elif stat.S_ISREG(inode.mode):
            content = _digest_tree(tree, ino, inode.size)
        elif stat.S_ISDIR(inode.mode):
            for entry in tree.readdir(ino):
                stack.append((path + b"/" + entry.name, entry.ino, entry.mode_type))
        size = inode.size if not stat.S_ISDIR(inode.mode) else 0
        found[path] = Entry(
            *(inode.mode, inode.uid, inode.gid, inode.nlink, size, inode.mtime_ns, inode.rdev),
            tuple(sorted(tree.xattrs(ino).items())),
            content,
            first.setdefault(ino, path),
        )
    return _settled(found)


def of_directory(root: Path) -> dict[bytes, Entry]:
    """The same, of a directory. Link counts are those of the names in it."""
    found: dict[bytes, Entry] = {}
    first: dict[tuple[int, int], bytes] = {}
    stack = [(b".", os.open(root, os.O_RDONLY | os.O_DIRECTORY))]
    counts: dict[tuple[int, int], int] = {}
    identities: dict[bytes, tuple[int, int]] = {}
    while stack:
        path, fd = stack.pop()
        if path == b".":
            found[path] = _entry(path, os.fstat(fd), b"/proc/self/fd/%d/." % fd, first)
        for text in os.listdir(fd):
            name = os.fsencode(text)
            where = path + b"/" + name
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            reach = b"/proc/self/fd/%d/%s" % (fd, name)
            found[where] = _entry(where, status, reach, first)
            if stat.S_ISDIR(status.st_mode):
                stack.append((where, os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)))
            else:
                identities[where] = (status.st_dev, status.st_ino)
                counts[identities[where]] = counts.get(identities[where], 0) + 1
        os.close(fd)
    found = {
        path: Entry(**{**entry.__dict__, "nlink": counts[identities[path]]}) if path in identities else entry
        for path, entry in found.items()
    }
    return _settled(found)


def _settled(found: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """Names of one file all refer to the smallest of them."""
    groups: dict[bytes, list[bytes]] = {}
    for path, entry in found.items():
        groups.setdefault(entry.same, []).append(path)
    return {path: Entry(**{**entry.__dict__, "same": min(groups[entry.same])}) for path, entry in found.items()}


def _entry(path: bytes, status: os.stat_result, reach: bytes, first: dict[tuple[int, int], bytes]) -> Entry:
    content = b""
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(reach)
    elif stat.S_ISREG(status.st_mode):
        content = _digest_file(reach, status.st_size)
    names = os.listxattr(reach, follow_symlinks=False)
    xattrs = {os.fsencode(name): os.getxattr(reach, name, follow_symlinks=False) for name in names}
    rdev = status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else 0
    size = status.st_size if not stat.S_ISDIR(status.st_mode) else 0
    return Entry(
        *(status.st_mode, status.st_uid, status.st_gid, status.st_nlink, size, status.st_mtime_ns, rdev),
        tuple(sorted(xattrs.items())),
        content,
        first.setdefault((status.st_dev, status.st_ino), path),
    )


_PIECE = 1 << 20


def _digest_file(path: bytes, size: int) -> bytes:
    """A digest of the non-zero MiB of a file and of where they lie: a huge sparse file takes no time."""
    digest = hashlib.blake2b(b"%d" % size, digest_size=16)
    with open(path, "rb") as file:
        position = 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            position = start - start % _PIECE
            _add(digest, position, os.pread(file.fileno(), min(_PIECE, size - position), position))
            position += _PIECE
    return digest.digest()


def _digest_tree(tree: StoredTree, ino: int, size: int) -> bytes:
    digest = hashlib.blake2b(b"%d" % size, digest_size=16)
    wanted: set[int] = set()
    for extent in tree.extents(ino):
        assert extent.length > 0
        wanted.update(range(extent.offset // _PIECE, (extent.offset + extent.length - 1) // _PIECE + 1))
    for number in sorted(wanted):
        _add(digest, number * _PIECE, tree.read(ino, number * _PIECE, _PIECE))
    return digest.digest()


def _add(digest: "hashlib.blake2b", position: int, data: bytes) -> None:
    if data.strip(b"\0"):
        digest.update(b"%d:" % position + data)


# -- a nasty tree ---------------------------------------------------------------------------------------------------

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, who)
    for tag, permissions, who in (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 7, 1234),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 7, 0xFFFFFFFF),
        (0x20, 4, 0xFFFFFFFF),
    )
)
"""user::rw-, user:1234:rwx, group::r--, mask::rwx, other::r-- (linux/posix_acl_xattr.h)."""

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""cap_net_raw=ep (linux/capability.h, VFS_CAP_REVISION_2)."""


def nasty(root: Path, *, huge: int = 200 << 30, sockets: bool = True) -> None:
    """What real images hold and what only an adversary would put there. Needs root."""
    base = os.fsencode(root)
    os.makedirs(base, exist_ok=True)
    noise = bytes(range(256)) * 700

    def write(name: bytes, data: bytes, mode: int = 0o644) -> bytes:
        with open(base + b"/" + name, "wb") as file:
            file.write(data)
        os.chmod(base + b"/" + name, mode)
        return base + b"/" + name

    for directory in (b"usr", b"usr/lib", b"empty", b"links", b"dev"):
        os.mkdir(base + b"/" + directory)
    write(b"usr/small", b"small\n")
    write(b"usr/lib/large.so", noise * 5, 0o755)
    write(b"usr/lib/exact", bytes(range(255)) * 128 + b"x" * 128)
    write(b"usr/lib/zeros", bytes(200_000))
    write(b"usr/lib/inner-zeros", noise + bytes(300_000) + noise)
    write(b"nothing", b"")
    for mode in (0o4755, 0o2755, 0o1777, 0o6711, 0o000, 0o444):
        write(b"mode-%o" % mode, b"%o" % mode, mode)
    os.chmod(base + b"/empty", 0o1777)
    os.chown(write(b"owned", b"x"), 65534, 4_000_000_000)
    # Names.
    for name in (
        b"n" * 255,
        b"\xff\xfe\x80",
        "späße.txt".encode(),
        b"a\nb",
        b"\x1b[31mred\x1b[0m",
        b"\x01\x7f",
        b" ",
        b"-rf",
        b"\\x",
        b"*?[",
        b"...",
    ):
        write(name, name)
    # Links.
    for name in (b"links/one", b"links/two", b"usr/three"):
        os.link(base + b"/usr/lib/large.so", base + b"/" + name)
    write(b"links/alone", b"also outside")
    os.link(base + b"/links/alone", base + b"/../outside-" + os.path.basename(base))
    os.symlink(b"usr/lib", base + b"/lib")
    os.symlink(b"/nowhere/at all", base + b"/dangling")
    os.symlink(b"t/" * 2047 + b"e", base + b"/long-target")
    os.symlink(b"\xff\x1b[0m", base + b"/links/symbolic")
    os.link(base + b"/links/symbolic", base + b"/links/symbolic-too", follow_symlinks=False)
    # Special files.
    os.mknod(base + b"/dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(base + b"/dev/large", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    os.mkfifo(base + b"/dev/fifo")
    os.link(base + b"/dev/fifo", base + b"/dev/fifo-too")
    if sockets:
        listener = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(base)
        listener.bind(b"dev/socket")
        os.chdir(here)
        listener.close()
    # Extended attributes.
    path = write(b"usr/lib/attributes", b"x" * 40_000)
    os.setxattr(path, b"user.text", b"value")
    os.setxattr(path, b"user.empty", b"")
    os.setxattr(path, b"user.binary=%\xff", bytes(range(256)))
    os.setxattr(path, b"trusted.overlay.opaque", b"y")
    os.setxattr(write(b"ping", b"\x7fELF"), b"security.capability", CAPABILITY)
    os.setxattr(write(b"acl", b"x"), b"system.posix_acl_access", ACL)
    os.setxattr(base + b"/empty", b"system.posix_acl_default", ACL)
    os.setxattr(base + b"/dangling", b"trusted.link", b"on a link", follow_symlinks=False)
    # A huge sparse file, and one with a hole at its end, one that begins with one.
    with open(base + b"/sparse", "wb") as file:
        for position in (0, 123_456_789, huge // 2 + 5, huge - 3):
            file.seek(position)
            file.write(b"data at %d" % position if position < huge - 3 else b"end")
    with open(base + b"/hole-at-end", "wb") as file:
        file.write(noise)
        file.truncate(10_000_001)
    with open(base + b"/all-hole", "wb") as file:
        file.truncate(1_000_000)
    with open(base + b"/small-hole", "wb") as file:
        file.seek(20_000)
        file.write(b"x")
        file.truncate(30_000)
    # Deeper than PATH_MAX.
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(20):
        name = b"%02d" % level + b"d" * 240
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open(b"bottom", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
    os.close(fd)
    # Times, last: what is below changes a directory's.
    for name, time in (
        (b"nothing", -1),
        (b"usr/small", -(10**9) - 1),
        (b"links", 123456789),
        (b"empty", 2**33 * 10**9 + 7),
    ):
        os.utime(base + b"/" + name, ns=(time, time))
    os.utime(base + b"/dangling", ns=(5, 1_234_567_890_123_456_789), follow_symlinks=False)
