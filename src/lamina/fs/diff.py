"""What differs between two trees, by path.

First the items that differ say which inodes do (:mod:`lamina.fs.item_diff`); these and the directories above them, by
the parent links, are *touched*. Then both trees are walked from the root, down into touched directories
only: two directories of one inode number that nothing touched are the same, and so is all below them. Where the
numbers of unrelated trees differ the walk goes down in any case: the answer is right by path whatever they share.

A file's change time and access time alone are no difference: reading sets the one, and a new import of the same tree
the other. Of a directory, its size and link count are none either: they follow from its entries, which count.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG

from lamina.errors import DamagedData
from lamina.fs.contents import Contents
from lamina.fs.item_diff import item_diff
from lamina.fs.node import COOKIE_SHIFT, DIRENT, EXTENT, INODE, SYMLINK, XATTR, key_ino, unpack_dirent, unpack_inode
from lamina.fs.parents import Parents
from lamina.fs.types import ROOT_INO, Dirent, Inode
from lamina.fs.view import StoredTree

_FEW = 2000
"""So many differing inodes, or an eighth of all if that is more, are worth keeping in mind; beyond, all is walked."""

_Name = tuple[int, bytes]
"""Inode number of a directory and a name in it."""
_Entry = tuple[bytes, Dirent | None, Dirent | None]
"""A name, and what it is in the old and in the new directory."""


class Kind(StrEnum):
    """What happened to a path, as ``zfs diff`` writes it."""

    ADDED = "+"
    REMOVED = "-"
    MODIFIED = "M"
    RENAMED = "R"
    REPACKED = "="
    """Nothing that a reader could see: the same bytes, but in other chunks."""


@dataclass(slots=True, frozen=True)
class Change:
    """One path that differs. Paths start with "/"; ``old_path`` is the one before where it is another."""

    kind: Kind
    path: bytes
    old: Inode | None
    new: Inode | None
    old_path: bytes = b""

    @property
    def inode(self) -> Inode:
        """The inode as it is now; of what was removed, as it was."""
        inode = self.new or self.old
        assert inode is not None
        return inode

    @property
    def links(self) -> int:
        """How many names more a file that is no directory has."""
        if self.kind != Kind.MODIFIED or self.old is None or self.new is None or _type(self.new) == S_IFDIR:
            return 0
        return self.new.nlink - self.old.nlink


def diff(
    old: StoredTree, new: StoredTree, *, related: bool = False, times: bool = True, repacked: bool = False
) -> Iterator[Change]:
    """Differences in the order of a walk by name, a directory before what is in it.

    ``related``: both trees are states of one history, in which an inode number means one file; only then a file that
    lies elsewhere is renamed, not removed and added. Without ``times`` a file whose modification time alone differs
    is the same. ``repacked`` also gives files whose bytes are the same in other chunks. Raises ``DamagedData``.
    """
    if old.root_key == new.root_key:
        return iter(())
    return _Diff(old, new, related, times, repacked).run()


class _Diff:
    def __init__(self, old: StoredTree, new: StoredTree, related: bool, times: bool, repacked: bool) -> None:
        self._old, self._new = old, new
        self._related, self._times, self._repacked = related, times, repacked
        self._contents = Contents(old, new)
        self._kinds: dict[int, int] = {}
        """Of inodes that differ: a bit for each kind of item."""
        self._left: dict[int, _Name] = {}
        """Inodes that lost a name, with one that they lost."""
        self._came: dict[int, _Name] = {}
        self._renamed: dict[int, bool] = {}
        self._touched: set[int] | None = None
        self._parents = Parents(new, self._kinds)
        self._paths: dict[int, bytes] = {ROOT_INO: b"/"}
        self._walked: tuple[set[int], set[int]] = (set(), set())

    def run(self) -> Iterator[Change]:
        if self._survey():
            self._touched = self._above()
        stack = [self._directories(ROOT_INO, ROOT_INO, b"/", b"/", True)]
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
            elif isinstance(found, Change):
                yield found
            else:
                stack.append(found)

    # -- which inodes differ --------------------------------------------------------------------------------------

    def _survey(self) -> bool:
        """Note the inodes that differ; False where they are too many to be worth it."""
        most = max(_FEW, (self._old.totals.inodes + self._new.totals.inodes) // 8)
        for key, before, after in item_diff(self._old.reader, self._new.reader):
            ino, kind = key_ino(key), key[8]
            if kind == INODE and before and after:
                if self._alike(unpack_inode(ino, before), unpack_inode(ino, after)):
                    continue
            elif kind == DIRENT and self._related:
                _note(self._left, key, before)
                _note(self._came, key, after)
            self._kinds[ino] = self._kinds.get(ino, 0) | 1 << kind
            if len(self._kinds) > most and not self._related:
                self._kinds.clear()
                return False
        return True

    def _above(self) -> set[int]:
        """The inodes that differ, and all directories above them in the new tree.

        That does for the old tree too: a directory that something left has lost an entry, and differs itself.
        """
        found: set[int] = set()
        waiting = list(self._kinds)
        while waiting:
            ino = waiting.pop()
            if ino not in found:
                found.add(ino)
                if ino != ROOT_INO:
                    waiting += self._parents.of(ino)
        return found

    def _is_renamed(self, ino: int) -> bool:
        """Whether an inode lost its one name and got another; asked only where its names differ."""
        known = self._renamed.get(ino)
        if known is None:
            known = self._renamed[ino] = self._find_renamed(ino)
        return known

    def _find_renamed(self, ino: int) -> bool:
        before, after = self._left.get(ino), self._came.get(ino)
        if before is None or after is None:
            return False
        old, new = self._old.inode(ino), self._new.inode(ino)
        if _type(old) != _type(new):
            return False
        if _type(old) == S_IFDIR:
            return _unchanged_time(old, new) or self._shares_names(ino)
        if old.nlink > 1 or new.nlink > 1:
            return False
        if _unchanged_time(old, new):
            return True
        if _type(old) == S_IFLNK:
            return self._old.readlink(ino) == self._new.readlink(ino)
        if _type(old) == S_IFREG:
            chunks = self._contents.by_chunk(0, ino)
            return any(key in chunks for key in self._contents.by_chunk(1, ino))
        return old.rdev == new.rdev

    def _shares_names(self, ino: int) -> bool:
        kept = {(entry.name, entry.ino) for entry in self._old.readdir(ino)}
        return any((entry.name, entry.ino) in kept for entry in self._new.readdir(ino))

    def _new_path(self, ino: int) -> bytes:
        """Where the one name that came to an inode lies in the new tree."""
        home, name = self._came[ino]
        chain: list[bytes] = []
        directory = home
        climbed = {ino}
        while directory not in self._paths:
            above = self._parents.of(directory)
            if directory in climbed or not above:
                raise DamagedData(f"inode {directory} of the tree {self._new.root_key.hex()} is in no directory")
            climbed.add(directory)
            chain.append(self._name_of(directory, above[0]))
            directory = above[0]
        path = self._paths[directory] + b"".join(part + b"/" for part in reversed(chain))
        self._paths[home] = path
        return path + name

    def _name_of(self, ino: int, parent: int) -> bytes:
        came = self._came.get(ino)
        if came is not None and came[0] == parent:
            return came[1]
        for entry in self._new.readdir(parent):
            if entry.ino == ino:
                return entry.name
        raise DamagedData(f"inode {ino} of the tree {self._new.root_key.hex()} has no name in inode {parent}")

    # -- walking --------------------------------------------------------------------------------------------------

    def _directories(self, a: int, b: int, before: bytes, after: bytes, show: bool) -> "Iterator[_Found]":
        """Compare directory ``a`` of the old tree with ``b`` of the new one.

        ``before`` and ``after`` are their paths with a slash at the end; ``show``: also give the directory itself
        where it differs.
        """
        self._enter(0, a)
        self._enter(1, b)
        entries = self._entries(a, b)
        if show and (self._metadata_differs(a, b) or any(self._moves(x, y) for _, x, y in entries)):
            yield self._modified(self._old.inode(a), self._new.inode(b), before, after)
        for name, x, y in entries:
            if x is not None and y is not None and not self._moves(x, y):
                yield from self._both(x.ino, y.ino, before + name, after + name)
                continue
            if x is not None:
                yield from self._before(x.ino, before + name)
            if y is not None:
                yield from self._after(y.ino, after + name)

    def _moves(self, x: Dirent | None, y: Dirent | None) -> bool:
        """Whether a name of a directory came or went, or is another file than before."""
        if x is None or y is None or x.mode_type != y.mode_type:
            return True
        return x.ino != y.ino and (self._is_renamed(x.ino) or self._is_renamed(y.ino))

    def _both(self, i: int, j: int, before: bytes, after: bytes) -> "Iterator[_Found]":
        """A name that is there in both directories, or a file that was renamed but not moved."""
        if i == j and self._touched is not None and i not in self._touched:
            return
        old, new = self._old.inode(i), self._new.inode(j)
        if _type(old) != _type(new):
            yield from self._before(i, before)
            yield from self._after(j, after)
        elif _type(old) == S_IFDIR:
            yield self._directories(i, j, before + b"/", after + b"/", True)
        elif self._file_differs(old, new):
            yield self._modified(old, new, before, after)
        elif self._repacked and _type(old) == S_IFREG and not self._contents.stored_alike(old, new):
            yield Change(Kind.REPACKED, after, old, new)

    def _modified(self, old: Inode, new: Inode, before: bytes, after: bytes) -> Change:
        """Below a directory that was renamed the path differs too, which zfs calls renamed."""
        if before == after:
            return Change(Kind.MODIFIED, _path(after), old, new)
        return Change(Kind.RENAMED, _path(after), old, new, _path(before))

    def _before(self, ino: int, path: bytes) -> "Iterator[_Found]":
        """A name that is no longer there."""
        old = self._old.inode(ino)
        if not self._is_renamed(ino):
            yield Change(Kind.REMOVED, path, old, None)
            if _type(old) == S_IFDIR:
                yield self._all_before(ino, path + b"/")
            return
        new, after = self._new.inode(ino), self._new_path(ino)
        if path == after:
            yield from self._both(ino, ino, path, path)
            return
        yield Change(Kind.RENAMED, after, old, new, path)
        if _type(old) == S_IFDIR and (self._touched is None or ino in self._touched):
            yield self._directories(ino, ino, path + b"/", after + b"/", False)

    def _all_before(self, ino: int, path: bytes) -> "Iterator[_Found]":
        self._enter(0, ino)
        for name, below in sorted((entry.name, entry.ino) for entry in self._old.readdir(ino)):
            yield from self._before(below, path + name)

    def _after(self, ino: int, path: bytes) -> "Iterator[_Found]":
        """A name that was not there. One that was moved here is given where it was."""
        if self._is_renamed(ino):
            return
        new = self._new.inode(ino)
        yield Change(Kind.ADDED, path, None, new)
        if _type(new) == S_IFDIR:
            yield self._all_after(ino, path + b"/")

    def _all_after(self, ino: int, path: bytes) -> "Iterator[_Found]":
        self._enter(1, ino)
        for name, below in sorted((entry.name, entry.ino) for entry in self._new.readdir(ino)):
            yield from self._after(below, path + name)

    def _enter(self, side: int, ino: int) -> None:
        """A directory has one name: meeting it again, the walk would never end, or end much too late."""
        if ino in self._walked[side]:
            tree = (self._old, self._new)[side]
            raise DamagedData(f"directory {ino} of the tree {tree.root_key.hex()} has more than one name")
        self._walked[side].add(ino)

    # -- comparing ------------------------------------------------------------------------------------------------

    def _entries(self, a: int, b: int) -> list[_Entry]:
        """What has to be looked at in two directories, by name."""
        found: list[_Entry] = []
        if a == b and self._touched is not None and not self._kinds.get(a, 0) & 1 << DIRENT:
            found = [(entry.name, entry, entry) for entry in self._new.readdir(b) if entry.ino in self._touched]
        else:
            for name, x, y in _merge(self._old.readdir(a), self._new.readdir(b)):
                same = x is not None and y is not None and x.ino == y.ino and x.mode_type == y.mode_type
                if not same or self._touched is None or (x is not None and x.ino in self._touched):
                    found.append((name, x, y))
        found.sort(key=lambda entry: entry[0])
        return found

    def _metadata_differs(self, a: int, b: int) -> bool:
        """Whether mode, owner, times or extended attributes differ."""
        if a == b and self._touched is not None:
            return bool(self._kinds.get(a, 0) & (1 << INODE | 1 << XATTR))
        if not self._alike(self._old.inode(a), self._new.inode(b)):
            return True
        return self._old.xattrs(a) != self._new.xattrs(b)

    def _file_differs(self, old: Inode, new: Inode) -> bool:
        if self._metadata_differs(old.ino, new.ino):
            return True
        kinds = self._kinds.get(new.ino, 0) if old.ino == new.ino and self._touched is not None else -1
        if _type(new) == S_IFLNK:
            return bool(kinds & 1 << SYMLINK) and self._old.readlink(old.ino) != self._new.readlink(new.ino)
        return _type(new) == S_IFREG and bool(kinds & 1 << EXTENT) and not self._contents.same(old, new)

    def _alike(self, old: Inode, new: Inode) -> bool:
        if (old.mode, old.uid, old.gid, old.flags) != (new.mode, new.uid, new.gid, new.flags):
            return False
        if self._times and old.mtime_ns != new.mtime_ns:
            return False
        if _type(new) == S_IFDIR:
            return True
        if _type(new) in (S_IFBLK, S_IFCHR) and old.rdev != new.rdev:
            return False
        return (old.nlink, old.size) == (new.nlink, new.size)


_Found = Change | Iterator["_Found"]
"""A change, or the level below, to be walked before what follows: trees may be deeper than Python's stack."""


def _merge(old: Iterator[Dirent], new: Iterator[Dirent]) -> Iterator[_Entry]:
    """Entries of two directories side by side; both come by the hash of their names."""
    left, right = _by_hash(old), _by_hash(new)
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[0] < b[0]):
            assert a is not None
            yield from ((entry.name, entry, None) for entry in a[1])
            a = next(left, None)
        elif a is None or b[0] < a[0]:
            yield from ((entry.name, None, entry) for entry in b[1])
            b = next(right, None)
        else:
            before, after = ({entry.name: entry for entry in group} for group in (a[1], b[1]))
            for name in before.keys() | after.keys():
                yield name, before.get(name), after.get(name)
            a, b = next(left, None), next(right, None)


def _by_hash(entries: Iterator[Dirent]) -> Iterator[tuple[int, list[Dirent]]]:
    """Entries in groups of one hash, mostly one each; the same name may have another ordinal in another tree."""
    group: list[Dirent] = []
    for entry in entries:
        if group and group[0].cookie >> COOKIE_SHIFT != entry.cookie >> COOKIE_SHIFT:
            yield group[0].cookie >> COOKIE_SHIFT, group
            group = []
        group.append(entry)
    if group:
        yield group[0].cookie >> COOKIE_SHIFT, group


def _note(names: dict[int, _Name], key: bytes, value: bytes | None) -> None:
    if value is not None:
        entry = unpack_dirent(key, value)
        names[entry.ino] = (key_ino(key), entry.name)


def _type(inode: Inode) -> int:
    return S_IFMT(inode.mode)


def _unchanged_time(old: Inode, new: Inode) -> bool:
    return old.mtime_ns == new.mtime_ns


def _path(path: bytes) -> bytes:
    return path.rstrip(b"/") or b"/"
