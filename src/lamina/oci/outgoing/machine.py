"""What machine a root file system was made for, from the programs in it."""

import stat

from lamina.errors import LaminaError
from lamina.fs.types import ROOT_INO
from lamina.fs.view import TreeView
from lamina.oci.formats.platforms import local_platform

_PROGRAMS = (b"bin/sh", b"usr/bin/env", b"bin/busybox", b"sbin/init", b"usr/lib/os-release", b"lib/libc.so.6")
_FOLDERS = (b"bin", b"usr/bin", b"usr/local/bin", b"usr/lib", b"lib64", b"lib", b"")
_MOST_FILES = 200
"""Files of a folder that are looked at."""
_MOST_LINKS = 40
"""Symbolic links that are followed, as the kernel does (path_resolution(7))."""
_HEAD = 20

_LITTLE, _BIG = 1, 2
_MACHINES = {
    (62, 2, _LITTLE): "amd64",
    (3, 1, _LITTLE): "386",
    (183, 2, _LITTLE): "arm64",
    (40, 1, _LITTLE): "arm",
    (243, 2, _LITTLE): "riscv64",
    (21, 2, _LITTLE): "ppc64le",
    (21, 2, _BIG): "ppc64",
    (22, 2, _BIG): "s390x",
    (8, 2, _LITTLE): "mips64le",
    (8, 2, _BIG): "mips64",
    (8, 1, _LITTLE): "mipsle",
    (8, 1, _BIG): "mips",
    (258, 2, _LITTLE): "loong64",
}
"""(e_machine, class, data encoding) of ELF headers (elf(5)) in Go's words (GOARCH)."""


def architecture_of(tree: TreeView) -> str:
    """The architecture of the first program that is found; this machine's where there is none."""
    for path in _PROGRAMS:
        found = _of_file(tree, _resolved(tree, path))
        if found is not None:
            return found
    for path in _FOLDERS:
        folder = _resolved(tree, path)
        if folder is None or not stat.S_ISDIR(tree.inode(folder).mode):
            continue
        for number, entry in enumerate(tree.readdir(folder)):
            if number >= _MOST_FILES:
                break
            found = _of_file(tree, entry.ino)
            if found is not None:
                return found
    return local_platform().architecture


def _of_file(tree: TreeView, ino: int | None) -> str | None:
    if ino is None or not stat.S_ISREG(tree.inode(ino).mode):
        return None
    try:
        head = tree.read(ino, 0, _HEAD)
    except LaminaError:
        return None  # told when its data is written
    if len(head) < _HEAD or not head.startswith(b"\x7fELF"):
        return None
    order = "big" if head[5] == _BIG else "little"
    return _MACHINES.get((int.from_bytes(head[18:20], order), head[4], head[5]))  # type: ignore[arg-type]


def _resolved(tree: TreeView, path: bytes) -> int | None:
    """The inode of a path, links followed inside the tree; None where there is none."""
    left = path.split(b"/")[::-1]
    way = [ROOT_INO]
    links = 0
    while left:
        name = left.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            way = way[:-1] or way
            continue
        if not stat.S_ISDIR(tree.inode(way[-1]).mode):
            return None
        entry = tree.lookup(way[-1], name)
        if entry is None:
            return None
        if entry.mode_type == stat.S_IFLNK:
            links += 1
            if links > _MOST_LINKS:
                return None
            target = tree.readlink(entry.ino)
            if target.startswith(b"/"):
                way = [ROOT_INO]
            left += target.split(b"/")[::-1]
        else:
            way.append(entry.ino)
    return way[-1]
