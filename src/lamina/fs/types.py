"""What a tree is made of: inodes, directory entries, extents."""

from dataclasses import dataclass

ROOT_INO = 1
"""Inode number of every tree's root directory."""


@dataclass(slots=True, frozen=True)
class Inode:
    """One inode. Times are nanoseconds since the epoch; ``size`` is bytes; ``mode`` holds type and permissions.

    ``parent`` is the inode number of the directory that holds it, or its first name if it has several; the root's is
    its own; 0 where it is not known.
    """

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    rdev: int = 0
    flags: int = 0
    parent: int = 0


@dataclass(slots=True, frozen=True)
class Dirent:
    """One name in a directory. ``cookie`` is its readdir position, stable while others come and go.

    ``mode_type`` is the file type in the bits of ``st_mode`` (``S_IFREG``, ...).
    """

    name: bytes
    ino: int
    mode_type: int
    cookie: int


@dataclass(slots=True, frozen=True)
class Extent:
    """``length`` bytes of a file at ``offset`` lie in the chunk ``key`` from ``chunk_offset``. No extent is a hole."""

    offset: int
    length: int
    key: bytes
    chunk_offset: int


@dataclass(slots=True, frozen=True)
class Totals:
    """Sums over a whole tree. ``data_bytes`` leaves holes out and counts a hard-linked file once."""

    inodes: int
    files: int
    directories: int
    data_bytes: int
    next_ino: int
