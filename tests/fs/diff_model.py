"""A small file system in dicts, random changes of it, its items, and its differences found the slow way."""

import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache

from lamina.fs.node import (
    DIRENT,
    EXTENT,
    SYMLINK,
    XATTR,
    give_cookies,
    inode_key,
    kind_key,
    number_key,
    pack_dirent,
    pack_extent,
    pack_inode,
)
from lamina.fs.types import ROOT_INO, Inode, Totals
from tests.fs.kit import Item, Objects

DIR, REG, LNK, DEV, FIFO = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO
NAMES = [b"a", b"b", b"c", b"d.e", b"\xff\n", b"n" * 255, b"z z"]
Row = tuple[str, bytes, bytes]
"""(kind, path, path before)"""


@dataclass
class File:
    """An inode with all that belongs to it; ``data`` is None where it lies in a chunk with others."""

    inode: Inode
    data: bytes = b""
    shared: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    names: dict[bytes, int] = field(default_factory=dict)

    @property
    def type(self) -> int:
        return stat.S_IFMT(self.inode.mode)

    def seen(self) -> tuple[object, ...]:
        """What a reader sees of it that counts as a difference."""
        i = self.inode
        own = (i.mode, i.uid, i.gid, i.flags, i.mtime_ns, self.xattrs)
        if self.type == DIR:
            return own
        return (*own, i.nlink, i.size, i.rdev if self.type == DEV else 0, self.data)


class Model:
    """Inodes by number. ``links``: what share of the inodes say which directory holds them."""

    def __init__(self, links: float = 1.0, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.links = links
        self.files: dict[int, File] = {}
        self.next = ROOT_INO
        self.clock = 1_000_000_000
        self.make(DIR, 0)

    def copy(self) -> "Model":
        other = Model(self.links, self.rng.randrange(1 << 30))
        other.files = {
            ino: File(f.inode, f.data, f.shared, dict(f.xattrs), dict(f.names)) for ino, f in self.files.items()
        }
        other.next, other.clock = self.next, self.clock
        return other

    # -- as a tree ------------------------------------------------------------------------------------------------

    def items(self, objects: Objects) -> list[Item]:
        found: list[Item] = []
        for ino, file in self.files.items():
            found.append((inode_key(ino), pack_inode(self._linked(file.inode))))
            found += [(kind_key(ino, XATTR, name), value) for name, value in file.xattrs.items()]
            if file.type == LNK:
                found.append((kind_key(ino, SYMLINK), file.data))
            elif file.type == REG:
                found += self._extents(ino, file, objects)
            names = sorted(file.names)
            for name, cookie in zip(names, give_cookies(names), strict=True):
                target = file.names[name]
                found.append((number_key(ino, DIRENT, cookie), pack_dirent(target, self.files[target].type, name)))
        return sorted(found)

    def totals(self) -> Totals:
        types = [file.type for file in self.files.values()]
        return Totals(len(types), types.count(REG), types.count(DIR), 0, self.next)

    def _linked(self, inode: Inode) -> Inode:
        known = random.Random(inode.ino).random() < self.links
        return inode if known else replace(inode, parent=0)

    def _extents(self, ino: int, file: File, objects: Objects) -> Iterator[Item]:
        """In pieces of 8 bytes, zeros left out; each piece in a chunk that begins with ``shared`` other bytes."""
        for at in range(0, len(file.data), 8):
            piece = file.data[at : at + 8]
            if piece.strip(b"\0"):
                chunk = objects.put(bytes([file.shared]) * file.shared + piece)
                yield number_key(ino, EXTENT, at), pack_extent(len(piece), file.shared, chunk)

    # -- changes --------------------------------------------------------------------------------------------------

    def tick(self) -> int:
        self.clock += self.rng.choice([0, 1])
        return self.clock

    def touch(self, ino: int, **fields: int) -> None:
        self.files[ino].inode = replace(self.files[ino].inode, **fields)

    def make(self, mode_type: int, parent: int, name: bytes = b"") -> int:
        ino, now = self.next, self.tick()
        self.next += 1
        data = b""
        if mode_type == REG:
            data = self.rng.choice([b"", b"x" * 5, self.rng.randbytes(30), bytes(24) + b"tail", self.rng.randbytes(8)])
        elif mode_type == LNK:
            data = self.rng.choice([b"to", b"elsewhere"])
        inode = Inode(
            ino, mode_type | 0o644, 0, 0, 1, len(data), now, now, now, 0x103 if mode_type == DEV else 0, 0, parent or 1
        )
        self.files[ino] = File(inode, data)
        if parent:
            self.files[parent].names[name] = ino
            self.touch(parent, mtime_ns=now)
        return ino

    def directories(self) -> list[int]:
        return [ino for ino, file in self.files.items() if file.type == DIR]

    def below(self, ino: int) -> set[int]:
        found, waiting = set(), [ino]
        while waiting:
            one = waiting.pop()
            found.add(one)
            waiting += self.files[one].names.values()
        return found

    def holders(self, ino: int) -> list[int]:
        return [d for d, file in self.files.items() for target in file.names.values() if target == ino]

    def settle(self, ino: int) -> None:
        """After a name of ``ino`` came or went: link count and parent link, or the end of it."""
        if ino not in self.files:
            return
        holders = self.holders(ino)
        if holders:
            count = 1 if self.files[ino].type == DIR else len(holders)
            parent = self.files[ino].inode.parent
            self.touch(ino, nlink=count, parent=parent if parent in holders else holders[0])
            return
        gone = self.files.pop(ino)
        for target in set(gone.names.values()):
            self.settle(target)

    def unlink(self, parent: int, name: bytes) -> None:
        ino = self.files[parent].names.pop(name)
        if self.rng.random() < 0.9:
            self.touch(parent, mtime_ns=self.tick())
        self.settle(ino)

    def change(self) -> None:
        """One random change."""
        rng = self.rng
        parent = rng.choice(self.directories())
        name = rng.choice(NAMES)
        taken = self.files[parent].names.get(name)
        what = rng.random()
        if taken is None:
            if what < 0.7:
                self.make(rng.choice([DIR, DIR, REG, REG, REG, LNK, DEV, FIFO]), parent, name)
            else:
                self.move(parent, name, link=what > 0.9)
        elif what < 0.15:
            self.unlink(parent, name)
        elif what < 0.3:
            self.unlink(parent, name)
            if parent in self.files:
                self.make(rng.choice([DIR, REG, REG, LNK]), parent, name)
        elif what < 0.45:
            self.move(parent, name, link=False)
        else:
            self.edit(taken)

    def move(self, parent: int, name: bytes, link: bool) -> None:
        """Give some file this name, over what has it now."""
        sources = [
            (d, n)
            for d, f in self.files.items()
            for n, i in f.names.items()
            if not (link and self.files[i].type == DIR)
        ]
        if not sources:
            return
        old_parent, old_name = self.rng.choice(sources)
        ino = self.files[old_parent].names[old_name]
        taken = self.files[parent].names.get(name)
        if parent in self.below(ino) or taken == ino or (taken is not None and old_parent in self.below(taken)):
            return
        if taken is not None:
            self.unlink(parent, name)
        self.files[parent].names[name] = ino
        if not link:
            del self.files[old_parent].names[old_name]
            self.touch(old_parent, mtime_ns=self.tick())
        self.touch(parent, mtime_ns=self.tick())
        self.settle(ino)

    def edit(self, ino: int) -> None:
        rng, file = self.rng, self.files[ino]
        what = rng.choice(["mode", "owner", "mtime", "atime", "ctime", "xattr", "data", "repack", "rdev"])
        if what == "mode":
            self.touch(ino, mode=file.type | rng.choice([0o600, 0o644]))
        elif what == "owner":
            self.touch(ino, uid=rng.choice([0, 7]), gid=rng.choice([0, 7]))
        elif what in ("mtime", "atime", "ctime"):
            self.touch(ino, **{f"{what}_ns": self.tick()})
        elif what == "xattr":
            key = rng.choice([b"user.a", b"user.b"])
            if file.xattrs.pop(key, None) is None or rng.random() < 0.3:
                file.xattrs[key] = rng.choice([b"", b"v"])
        elif what == "data" and file.type in (REG, LNK):
            file.data = rng.choice([file.data + b"more", file.data[::-1], b"x" * 5, rng.randbytes(16)])
            self.touch(ino, size=len(file.data))
            if rng.random() < 0.7:
                self.touch(ino, mtime_ns=self.tick())
        elif what == "repack":
            file.shared = rng.randrange(4)
        elif what == "rdev" and file.type == DEV:
            self.touch(ino, rdev=rng.choice([0x103, 0x105]))

    def renumbered(self) -> "Model":
        """The same as an import would give it: other inode numbers, other chunks here and there."""
        numbers = {ROOT_INO: ROOT_INO}
        order = [ino for ino in self.files if ino != ROOT_INO]
        self.rng.shuffle(order)
        numbers.update((ino, at + 2) for at, ino in enumerate(order))
        other = Model(self.links, self.rng.randrange(1 << 30))
        other.files = {
            numbers[ino]: File(
                replace(f.inode, ino=numbers[ino], parent=numbers[f.inode.parent], atime_ns=9, ctime_ns=9),
                f.data,
                self.rng.randrange(3),
                dict(f.xattrs),
                {name: numbers[target] for name, target in f.names.items()},
            )
            for ino, f in self.files.items()
        }
        other.next, other.clock = len(order) + 2, self.clock
        return other

    # -- differences, the slow way --------------------------------------------------------------------------------

    def paths(self) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        waiting = [(b"/", ROOT_INO)]
        while waiting:
            path, ino = waiting.pop()
            found[path] = ino
            prefix = path.rstrip(b"/") + b"/"
            waiting += [(prefix + name, target) for name, target in self.files[ino].names.items()]
        return found


def by_path(old: Model, new: Model) -> set[Row]:
    """Path by path, whatever the inodes."""
    before, after = old.paths(), new.paths()
    rows: set[Row] = {("-", path, b"") for path in before.keys() - after.keys()}
    rows |= {("+", path, b"") for path in after.keys() - before.keys()}
    for path in before.keys() & after.keys():
        a, b = old.files[before[path]], new.files[after[path]]
        if a.type != b.type:
            rows |= {("-", path, b""), ("+", path, b"")}
        elif a.seen() != b.seen() or (a.type == DIR and _listing(old, a) != _listing(new, b)):
            rows.add(("M", path, b""))
    return rows


def _listing(model: Model, directory: File) -> set[tuple[bytes, int]]:
    return {(name, model.files[ino].type) for name, ino in directory.names.items()}


def by_inode(old: Model, new: Model) -> set[Row]:
    """Of one history: a name that went and one that came of the same inode are a renaming."""

    @cache
    def moved(ino: int) -> bool:
        if ino not in old.files or ino not in new.files or ino == ROOT_INO:
            return False
        a, b = old.files[ino], new.files[ino]
        names = [[(d, n) for d, f in m.files.items() for n, i in f.names.items() if i == ino] for m in (old, new)]
        if a.type != b.type or len(names[0]) != 1 or len(names[1]) != 1 or names[0] == names[1]:
            return False
        if a.inode.mtime_ns == b.inode.mtime_ns:
            return True
        if a.type == DIR:
            return bool(a.names.items() & b.names.items())
        if a.type == REG:
            pieces = [
                {(f.shared, f.data[at : at + 8]) for at in range(0, len(f.data), 8) if f.data[at : at + 8].strip(b"\0")}
                for f in (a, b)
            ]
            return bool(pieces[0] & pieces[1])
        return a.data == b.data if a.type == LNK else a.inode.rdev == b.inode.rdev

    rows: set[Row] = set()
    target = {ino: path for path, ino in new.paths().items()}

    def pair(i: int, j: int, p: bytes, q: bytes, show: bool = True) -> None:
        a, b = old.files[i], new.files[j]
        if a.type != b.type:
            gone(i, p)
            came(j, q)
            return
        differs = a.seen() != b.seen()
        if a.type == DIR:
            shift = False
            for name in a.names.keys() | b.names.keys():
                x, y = a.names.get(name), b.names.get(name)
                here, there = p.rstrip(b"/") + b"/" + name, q.rstrip(b"/") + b"/" + name
                if x is not None and y is not None and (x == y or not (moved(x) or moved(y))):
                    shift = shift or old.files[x].type != new.files[y].type
                    pair(x, y, here, there)
                    continue
                shift = True
                if x is not None:
                    gone(x, here)
                if y is not None:
                    came(y, there)
            differs = differs or shift
        if differs and show:
            rows.add(("M", q, b"") if p == q else ("R", q, p))

    def gone(i: int, p: bytes) -> None:
        if not moved(i):
            rows.add(("-", p, b""))
            for name, below in old.files[i].names.items():
                gone(below, p + b"/" + name)
        elif target[i] == p:
            pair(i, i, p, p)
        else:
            rows.add(("R", target[i], p))
            pair(i, i, p, target[i], False)

    def came(j: int, q: bytes) -> None:
        if not moved(j):
            rows.add(("+", q, b""))
            for name, below in new.files[j].names.items():
                came(below, q + b"/" + name)

    pair(ROOT_INO, ROOT_INO, b"/", b"/")
    return rows


def replayed(old: Model, rows: set[Row]) -> set[bytes]:
    """The paths that are there after the changes that ``rows`` name."""
    removed = {path for kind, path, _ in rows if kind == "-"}
    renamed = {before: path for kind, path, before in rows if kind == "R"}
    found: set[bytes] = {path for kind, path, _ in rows if kind == "+"}

    def now(path: bytes) -> bytes | None:
        if path in renamed:
            return renamed[path]
        if path == b"/":
            return path
        if path in removed:
            return None
        parent, _, name = path.rpartition(b"/")
        above = now(parent or b"/")
        return None if above is None else above.rstrip(b"/") + b"/" + name

    for path in old.paths():
        there = now(path)
        if there is not None:
            found.add(there)
    return found
