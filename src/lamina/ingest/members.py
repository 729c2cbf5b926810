"""Members of tar archives, applied in order as an extraction would, become the items of a tree.

What is the same for a plain archive and for the layers of an image: directories with their names, files, links, and
what is left of what was replaced.
"""

import stat
from collections.abc import Iterator

from lamina.errors import SourceError
from lamina.fs.node import (
    DIRENT,
    INODE,
    SYMLINK,
    XATTR,
    give_cookies,
    inode_key,
    key_ino,
    kind_key,
    number_key,
    pack_dirent,
    pack_fields,
    set_links,
    set_status,
)
from lamina.fs.spool import ItemSpool
from lamina.fs.types import ROOT_INO
from lamina.ingest import tar
from lamina.ingest.directory import printable

_TYPES = {
    tar.REGULAR: stat.S_IFREG,
    tar.SYMLINK: stat.S_IFLNK,
    tar.CHAR: stat.S_IFCHR,
    tar.BLOCK_DEVICE: stat.S_IFBLK,
    tar.FIFO: stat.S_IFIFO,
    tar.DIRECTORY: stat.S_IFDIR,
}
_NAME_MAX = 255
_LINK_MAX = 4095
_MANY = 4096
_NOTHING: tuple[int, int, int] = (0, 0, 0)
_LAYER_BITS = 16
_LAYER = (1 << _LAYER_BITS) - 1

Entry = int
"""What a name of a directory refers to, if it is no directory: inode number, layer and type in one number, since there
may be millions: see ``entry_ino`` and its neighbours."""


def make_entry(ino: int, layer: int, mode_type: int) -> Entry:
    """An entry of ``layer`` for an inode."""
    return (ino << _LAYER_BITS | layer) << 4 | mode_type >> 12


def entry_ino(entry: Entry) -> int:
    """The inode number."""
    return entry >> 4 + _LAYER_BITS


def entry_layer(entry: Entry) -> int:
    """The layer that gave the name."""
    return entry >> 4 & _LAYER


def entry_type(entry: Entry) -> int:
    """The type, as in ``st_mode``."""
    return (entry & 15) << 12


class Folder:
    """A directory so far. ``head`` is its INODE item without links; None: it is only there for what lies in it.

    ``layer`` is the one that declared it or put something below it last.
    """

    __slots__ = ("head", "ino", "layer", "names", "parent", "xattrs")

    def __init__(self, ino: int, parent: "Folder | None", layer: int) -> None:
        self.ino = ino
        self.parent = self if parent is None else parent
        self.layer = layer
        self.head: bytes | None = None
        self.xattrs: dict[bytes, bytes] | None = None
        self.names: dict[bytes, Folder | Entry] = {}


class MemberTree:
    """A tree that members are put into, one after the other."""

    def __init__(self, spool: ItemSpool) -> None:
        self.root = Folder(ROOT_INO, None, 0)
        self.next_ino = ROOT_INO + 1
        self.layer = 0
        """What new names are of; 0 to 65535."""
        self.replaced = False
        """Whether the contents of a file were put that no name has any more."""
        self._spool = spool
        self._links: dict[int, int] = {}
        """Names of files that have, or had, several."""
        self._holders: dict[int, int] = {}
        """For those: the lowest directory that holds one."""
        self._dead: set[int] = set()
        self._changes = 0

    # -- putting members in ---------------------------------------------------------------------------------------

    def file(self, member: tar.Member, folder: Folder, name: bytes) -> int:
        """Put a file, a symbolic link or a device; its inode number. What had the name is replaced."""
        names = folder.names
        if name in names:
            self.remove(folder, name)
        ino = self.next_ino
        self.next_ino = ino + 1
        mode_type = _TYPES[member.type]
        size = member.size
        if mode_type == stat.S_IFLNK:
            size = len(member.link)
            if not 0 < size <= _LINK_MAX or b"\0" in member.link:
                raise SourceError(f"tar member {printable(member.name)} is a symbolic link without a usable target")
            self._spool.add(kind_key(ino, SYMLINK), member.link)
        self._spool.add(inode_key(ino), self._head(member, mode_type, 1, size, folder.ino))
        if member.xattrs:
            self._spool.add_many([(kind_key(ino, XATTR, key), value) for key, value in member.xattrs.items()])
        names[name] = make_entry(ino, self.layer, mode_type)
        return ino

    def directory(self, member: tar.Member, parent: Folder | None, name: bytes) -> Folder:
        """Put a directory; one that is there keeps what is in it. No parent: the root."""
        if parent is None:
            folder = self.root
        else:
            entry = parent.names.get(name)
            folder = entry if isinstance(entry, Folder) else self.make_folder(parent, name)
        folder.layer = self.layer
        folder.head = self._head(member, stat.S_IFDIR, 0, 0, 0)
        folder.xattrs = member.xattrs or None
        return folder

    def make_folder(self, parent: Folder, name: bytes) -> Folder:
        """An empty directory of mode 0755, as tar(1) makes one for what lies in it. What had the name is replaced."""
        if name in parent.names:
            self.remove(parent, name)
        folder = parent.names[name] = Folder(self.next_ino, parent, self.layer)
        self.next_ino += 1
        return folder

    def link(self, folder: Folder, name: bytes, target: Entry) -> None:
        """Give a file another name. What had the name is replaced."""
        ino = entry_ino(target)
        # Before the removal: the target may lie below the directory whose place the link takes.
        self._links[ino] = self._links.get(ino, 1) + 1
        self.remove(folder, name)
        folder.names[name] = make_entry(ino, self.layer, entry_type(target))

    def change(self, member: tar.Member, target: Entry) -> None:
        """Give a file the owner, mode and times of ``member``, and its extended attributes beside those it has."""
        ino = entry_ino(target)
        head = self._head(member, entry_type(target), 1, 0, 0)
        self._changes += 1
        rest = self._changes.to_bytes(8, "big")
        self._spool.add(kind_key(ino, INODE, rest), head)
        for key, value in member.xattrs.items():
            self._spool.add(kind_key(ino, INODE, rest + key), value)

    def remove(self, folder: Folder, name: bytes) -> None:
        """Take a name away, with all below it."""
        entry = folder.names.pop(name, None)
        if entry is None:
            return
        links = self._links
        stack = [entry]
        while stack:
            gone = stack.pop()
            if isinstance(gone, Folder):
                stack.extend(gone.names.values())
                continue
            ino = entry_ino(gone)
            left = links.get(ino, 1) - 1
            if left:
                links[ino] = left
                continue
            links.pop(ino, None)
            self._dead.add(ino)
            self.replaced = True

    def _head(self, member: tar.Member, mode_type: int, nlink: int, size: int, parent: int) -> bytes:
        mtime = member.mtime_ns
        return pack_fields(
            member.mode | mode_type,
            member.uid & 0xFFFFFFFF,
            member.gid & 0xFFFFFFFF,
            nlink,
            size,
            (
                mtime,
                mtime if member.ctime_ns is None else member.ctime_ns,
                mtime if member.atime_ns is None else member.atime_ns,
            ),
            member.rdev,
            parent,
        )

    # -- the tree -------------------------------------------------------------------------------------------------

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All items, ascending. Ends the tree."""
        self._add_folders()
        items = self._spool.sorted()
        if self._changes:
            items = self._changed(items)
        return self._alive(items)

    def _add_folders(self) -> None:
        stack = [self.root]
        plain = pack_fields(stat.S_IFDIR | 0o755, 0, 0, 0, 0, _NOTHING, 0, 0)
        links, holders = self._links, self._holders
        while stack:
            folder = stack.pop()
            ino = folder.ino
            items: list[tuple[bytes, bytes]] = []
            below = 0
            names = sorted(folder.names)
            for name, cookie in zip(names, give_cookies(names), strict=True):
                entry = folder.names[name]
                if isinstance(entry, Folder):
                    below += 1
                    stack.append(entry)
                    target, mode_type = entry.ino, stat.S_IFDIR
                else:
                    target, mode_type = entry_ino(entry), entry_type(entry)
                    if target in links:
                        holders[target] = min(holders.get(target, ino), ino)
                items.append((number_key(ino, DIRENT, cookie), pack_dirent(target, mode_type, name)))
                if len(items) >= _MANY:
                    self._spool.add_many(items)
                    items = []
            head = set_links(folder.head or plain, 2 + below, folder.parent.ino)
            items.append((inode_key(ino), head))
            if folder.xattrs:
                items += [(kind_key(ino, XATTR, key), value) for key, value in folder.xattrs.items()]
            self._spool.add_many(items)
            folder.names = {}

    def _alive(self, items: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """Items without those of replaced files, link counts as they came out."""
        links, dead, holders = self._links, self._dead, self._holders
        if not links and not dead:
            yield from items
            return
        for key, value in items:
            ino = key_ino(key)
            if ino in dead:
                continue
            if key[8] == INODE and ino in links:
                value = set_links(value, links[ino], holders[ino])
            yield key, value

    def _changed(self, items: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """Items with what ``change`` said put where it belongs: its own sort right behind the inode's."""
        plain = len(inode_key(0))
        head: tuple[bytes, bytes] | None = None
        xattrs: dict[bytes, bytes] = {}
        for key, value in items:
            if key[8] == INODE:
                if len(key) == plain:
                    if head is not None:
                        yield from _whole(head, xattrs)
                    head, xattrs = (key, value), {}
                elif len(key) == plain + 8:
                    assert head is not None
                    head = head[0], set_status(head[1], value)
                else:
                    xattrs[key[:8] + bytes([XATTR]) + key[plain + 8 :]] = value
            elif key[8] == XATTR:
                xattrs.setdefault(key, value)
            else:
                if head is not None:
                    yield from _whole(head, xattrs)
                    head, xattrs = None, {}
                yield key, value
        if head is not None:
            yield from _whole(head, xattrs)


def _whole(head: tuple[bytes, bytes], xattrs: dict[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    yield head
    yield from sorted(xattrs.items())


def parts_of(name: bytes) -> list[bytes]:
    """The components of a member's name. Raises ``SourceError`` for what would leave the tree."""
    if name.startswith(b"/"):
        raise SourceError(f"tar member {printable(name)} is absolute; members must lie below the root")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    for part in parts:
        if part == b"..":
            raise SourceError(f"tar member {printable(name)} leaves the tree with '..'")
        if len(part) > _NAME_MAX or b"\0" in part:
            raise SourceError(f"tar member {printable(name[:300])} has a name that no file can have")
    return parts
