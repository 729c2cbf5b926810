"""The FUSE kernel protocol: opcodes, flags, structures and the INIT handshake.

Source: ``include/uapi/linux/fuse.h`` (protocol 7.x). Every structure is in the machine's byte order without padding of
its own ("="), as the header lays them out on 64-bit boundaries. Times are signed here: the kernel keeps them as
``time64_t`` behind an unsigned field.
"""

import os
from struct import Struct

from lamina.fs.types import Inode

KERNEL_MAJOR = 7
KERNEL_MINOR = 40
"""Newest protocol minor that this server was written against."""
OLDEST_MINOR = 31
"""Oldest minor taken (Linux 5.4): no-open, no-opendir, max_pages and explicit invalidation are all there."""

# Opcodes ------------------------------------------------------------------------------------------------------------
LOOKUP = 1
FORGET = 2
GETATTR = 3
SETATTR = 4
READLINK = 5
SYMLINK = 6
MKNOD = 8
MKDIR = 9
UNLINK = 10
RMDIR = 11
RENAME = 12
LINK = 13
OPEN = 14
READ = 15
WRITE = 16
STATFS = 17
RELEASE = 18
FSYNC = 20
SETXATTR = 21
GETXATTR = 22
LISTXATTR = 23
REMOVEXATTR = 24
FLUSH = 25
INIT = 26
OPENDIR = 27
READDIR = 28
RELEASEDIR = 29
FSYNCDIR = 30
ACCESS = 34
CREATE = 35
INTERRUPT = 36
DESTROY = 38
NOTIFY_REPLY = 41
BATCH_FORGET = 42
FALLOCATE = 43
READDIRPLUS = 44
RENAME2 = 45
LSEEK = 46
COPY_FILE_RANGE = 47
TMPFILE = 51
STATX = 52
COPY_FILE_RANGE_64 = 53

OPCODES = 64
"""Size of the dispatch table: larger than every opcode that a kernel sends to a file system."""

WRITING = frozenset(
    (
        *(SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, SETXATTR, REMOVEXATTR),
        *(CREATE, FALLOCATE, RENAME2, COPY_FILE_RANGE, TMPFILE, COPY_FILE_RANGE_64),
    )
)
"""What a read-only mount answers with EROFS (the kernel stops nearly all of it before, as the mount is MS_RDONLY)."""

# INIT flags ---------------------------------------------------------------------------------------------------------
ASYNC_READ = 1 << 0
DO_READDIRPLUS = 1 << 13
READDIRPLUS_AUTO = 1 << 14
ASYNC_DIO = 1 << 15
NO_OPEN_SUPPORT = 1 << 17
PARALLEL_DIROPS = 1 << 18
POSIX_ACL = 1 << 20
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
NO_OPENDIR_SUPPORT = 1 << 24
EXPLICIT_INVAL_DATA = 1 << 25

# Flags of an OPEN or OPENDIR reply.
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3

NOTIFY_STORE = 4
"""``fuse_notify_code``: put data into the page cache of an inode."""

# Structures ---------------------------------------------------------------------------------------------------------
_ATTR = "QQQqqqIIIIIIIIII"  # ino size blocks atime mtime ctime, their nsec, mode nlink uid gid rdev blksize flags
_ENTRY = "QQQQII"  # nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec
_OUT = "IiQ"  # len error unique

IN_HEADER_BYTES = 40
REQUEST = Struct("=IIQQ")
"""The part of ``fuse_in_header`` that every request needs: len, opcode, unique, nodeid."""
REQUEST_UID = Struct("=I")
"""``uid`` of ``fuse_in_header``, at byte 24."""
UID_AT = 24

INIT_IN = Struct("=IIII")
INIT_OUT = Struct("=IIIIHHIIHHI28x")
READ_IN = Struct("=QQI")
"""fh, offset, size of ``fuse_read_in`` (READ, READDIR, READDIRPLUS); the rest is about locks and flags."""
GETXATTR_IN = Struct("=I4x")
LSEEK_IN = Struct("=QQI4x")
FORGET_ONE = Struct("=QQ")
BATCH_FORGET_IN = Struct("=II")

OUT_HEADER = Struct("=" + _OUT)
ENTRY_REPLY = Struct("=" + _OUT + _ENTRY + _ATTR)
ATTR_REPLY = Struct("=" + _OUT + "QII" + _ATTR)
OPEN_REPLY = Struct("=" + _OUT + "QII")
STATFS_REPLY = Struct("=" + _OUT + "QQQQQIIII24x")
GETXATTR_REPLY = Struct("=" + _OUT + "II")
LSEEK_REPLY = Struct("=" + _OUT + "Q")
NOTIFY_STORE_OUT = Struct("=" + _OUT + "QQII")

DIRENT = Struct("=QQII")
"""``fuse_dirent``: ino, off, namelen, type; the name follows, padded to 8 bytes."""
DIRENTPLUS = Struct("=" + _ENTRY + _ATTR + "QQII")
EMPTY_ENTRY = bytes(DIRENTPLUS.size - DIRENT.size)
"""A ``fuse_entry_out`` with node 0: the kernel takes the name only and looks it up when it must."""

NO_ATTR = (0,) * 16
BLOCK = 4096
"""``st_blksize`` and the unit of statfs, bytes."""

AttrFields = tuple[int, ...]


def encode_rdev(rdev: int) -> int:
    """``st_rdev`` as the 32 bits of ``new_encode_dev`` (linux/kdev_t.h)."""
    if not rdev:
        return 0
    major, minor = os.major(rdev), os.minor(rdev)
    return ((minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)) & 0xFFFFFFFF


def attr_fields(inode: Inode, number: int, blocks: int) -> AttrFields:
    """The fields of ``fuse_attr``; ``blocks`` counts 512 bytes. Seconds may be negative, nanoseconds never are."""
    atime, atime_ns = divmod(inode.atime_ns, 1_000_000_000)
    mtime, mtime_ns = divmod(inode.mtime_ns, 1_000_000_000)
    ctime, ctime_ns = divmod(inode.ctime_ns, 1_000_000_000)
    return (
        number,
        inode.size,
        blocks,
        atime,
        mtime,
        ctime,
        atime_ns,
        mtime_ns,
        ctime_ns,
        inode.mode,
        inode.nlink,
        inode.uid,
        inode.gid,
        encode_rdev(inode.rdev),
        BLOCK,
        0,
    )


def error_reply(unique: int, code: int) -> bytes:
    """A reply that is only an errno (positive ``code``; 0 is success without a body)."""
    return OUT_HEADER.pack(16, -code, unique)


class TooOld(Exception):
    """The kernel's protocol is older than this server can speak."""


def init_reply(unique: int, body: bytes, *, wanted: int, max_write: int, max_pages: int, background: int) -> bytes:
    """The answer to INIT: what both sides can do of ``wanted``.

    Raises ``TooOld`` below protocol 7.31. A kernel with a larger major is answered with ours and asks again.
    """
    major, minor, max_readahead, flags = INIT_IN.unpack_from(body)
    if major > KERNEL_MAJOR:
        return OUT_HEADER.pack(16 + 64, 0, unique) + INIT_OUT.pack(KERNEL_MAJOR, KERNEL_MINOR, *(0,) * 9)
    if major < KERNEL_MAJOR or minor < OLDEST_MINOR:
        raise TooOld(f"the kernel speaks FUSE {major}.{minor}, lamina needs 7.{OLDEST_MINOR} (Linux 5.4) or newer")
    reply = INIT_OUT.pack(
        KERNEL_MAJOR,
        min(minor, KERNEL_MINOR),
        max_readahead,
        flags & wanted,
        background,
        background * 3 // 4,
        max_write,
        1,  # time_gran: nanoseconds
        max_pages,
        0,
        0,
    )
    return OUT_HEADER.pack(16 + len(reply), 0, unique) + reply
