"""An in-memory pool whose trees are built by hand; its list of names is a file, so that it changes under a mount."""

import bisect
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lamina.errors import DamagedData, NotFound
from lamina.fs.types import ROOT_INO, Dirent, Extent, Inode, Totals

CHUNK = 128 << 10
MTIME = 1_700_000_000_123_456_789


class FakeTree:
    """A TreeView over dictionaries, with the means to fill it."""

    def __init__(self, *, codec: Any = None) -> None:
        self.inodes: dict[int, Inode] = {}
        self.names: dict[int, dict[bytes, Dirent]] = {}
        self.order: dict[int, list[Dirent]] = {}
        self.targets: dict[int, bytes] = {}
        self.attributes: dict[int, dict[bytes, bytes]] = {}
        self.files: dict[int, list[Extent]] = {}
        self.chunks: dict[bytes, bytes] = {}
        self.sharing: dict[bytes, list[tuple[int, Extent]]] = {}
        self.damaged: set[bytes] = set()
        self.codec = codec
        self._next = ROOT_INO
        self._cookie = 40000
        self._pending: list[tuple[int, bytes]] = []
        self.new_inode(stat.S_IFDIR | 0o755)
        self.names[ROOT_INO] = {}

    # Building -------------------------------------------------------------------------------------------------------

    def new_inode(self, mode: int, **fields: Any) -> int:
        ino = self._next
        self._next += 1
        values: dict[str, Any] = {
            "uid": 0,
            "gid": 0,
            "nlink": 1,
            "size": 0,
            "mtime_ns": MTIME,
            "ctime_ns": MTIME + 1,
            "atime_ns": MTIME + 2,
        }
        values.update(fields)
        self.inodes[ino] = Inode(ino, mode, **values)
        if stat.S_ISDIR(mode):
            self.names[ino] = {}
        return ino

    def enter(self, parent: int, name: bytes, ino: int) -> None:
        self._cookie += 7
        entry = Dirent(name, ino, stat.S_IFMT(self.inodes[ino].mode), self._cookie)
        self.names[parent][name] = entry
        self.order.pop(parent, None)

    def directory(self, parent: int, name: bytes, mode: int = 0o755, **fields: Any) -> int:
        ino = self.new_inode(stat.S_IFDIR | mode, nlink=2, **fields)
        self.enter(parent, name, ino)
        return ino

    def symlink(self, parent: int, name: bytes, target: bytes) -> int:
        ino = self.new_inode(stat.S_IFLNK | 0o777, size=len(target))
        self.targets[ino] = target
        self.enter(parent, name, ino)
        return ino

    def special(self, parent: int, name: bytes, mode: int, rdev: int = 0) -> int:
        ino = self.new_inode(mode, rdev=rdev)
        self.enter(parent, name, ino)
        return ino

    def file(
        self, parent: int, name: bytes, data: bytes, mode: int = 0o644, *, chunk: int = CHUNK, **fields: Any
    ) -> int:
        """A file of its own chunks."""
        return self.sparse(parent, name, [(0, data)] if data else [], len(data), mode, chunk=chunk, **fields)

    def sparse(
        self,
        parent: int,
        name: bytes,
        runs: Sequence[tuple[int, bytes]],
        size: int,
        mode: int = 0o644,
        *,
        chunk: int = CHUNK,
        **fields: Any,
    ) -> int:
        """A file with data at some offsets and holes elsewhere."""
        ino = self.new_inode(stat.S_IFREG | mode, size=size, **fields)
        extents = []
        for offset, data in runs:
            for start in range(0, len(data), chunk):
                piece = data[start : start + chunk]
                extents.append(Extent(offset + start, len(piece), self._keep(piece), 0))
        self.files[ino] = extents
        self.enter(parent, name, ino)
        return ino

    def small(self, parent: int, name: bytes, data: bytes, mode: int = 0o644) -> int:
        """A file that shares its chunk with the other small ones around it."""
        ino = self.new_inode(stat.S_IFREG | mode, size=len(data))
        self.files[ino] = []
        self._pending.append((ino, data))
        if sum(len(d) for _, d in self._pending) >= CHUNK:
            self.flush()
        self.enter(parent, name, ino)
        return ino

    def flush(self) -> None:
        whole = b"".join(data for _, data in self._pending)
        key = self._keep(whole)
        at, shared = 0, []
        for ino, data in self._pending:
            if data:
                extent = Extent(0, len(data), key, at)
                self.files[ino] = [extent]
                shared.append((ino, extent))
            at += len(data)
        self.sharing[key] = shared
        self._pending = []

    def _keep(self, data: bytes) -> bytes:
        key = hashlib.blake2b(data, digest_size=32).digest()
        self.chunks[key] = self.codec[0](data) if self.codec else data
        return key

    # Reading: the TreeView protocol ---------------------------------------------------------------------------------

    @property
    def totals(self) -> Totals:
        data = sum(e.length for extents in self.files.values() for e in extents)
        return Totals(len(self.inodes), len(self.files), len(self.names), data, self._next)

    def inode(self, ino: int) -> Inode:
        try:
            return self.inodes[ino]
        except KeyError:
            raise NotFound(f"no inode {ino}") from None

    def lookup(self, parent: int, name: bytes) -> Dirent | None:
        return self.names[parent].get(name)

    def readdir(self, ino: int, after: int = 0) -> Iterator[Dirent]:
        order = self.order.get(ino)
        if order is None:
            order = self.order[ino] = sorted(self.names[ino].values(), key=lambda e: e.cookie)
        start = bisect.bisect_right(order, after, key=lambda e: e.cookie)
        for index in range(start, len(order)):
            yield order[index]

    def readlink(self, ino: int) -> bytes:
        return self.targets[ino]

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        return self.attributes.get(ino, {})

    def extents(self, ino: int, start: int = 0, end: int | None = None) -> list[Extent]:
        extents = self.files[ino]
        first = bisect.bisect_right(extents, start, key=lambda e: e.offset + e.length)
        last = len(extents) if end is None else bisect.bisect_left(extents, end, key=lambda e: e.offset)
        return extents[first:last]

    def chunk(self, key: bytes) -> bytes:
        if key in self.damaged:
            raise DamagedData(f"object {key.hex()} does not match its checksum")
        data = self.chunks[key]
        return self.codec[1](data) if self.codec else data  # type: ignore[no-any-return]

    def chunk_neighbours(self, ino: int) -> list[tuple[int, Extent]]:
        return self.sharing.get(self.files[ino][0].key, [])

    def read(self, ino: int, offset: int, size: int) -> bytes:
        size = max(min(size, self.inodes[ino].size - offset), 0)
        out = bytearray(size)
        for e in self.extents(ino, offset, offset + size):
            data = self.chunk(e.key)[e.chunk_offset : e.chunk_offset + e.length]
            first, last = max(e.offset, offset), min(e.offset + e.length, offset + size)
            out[first - offset : last - offset] = data[first - e.offset : last - e.offset]
        return bytes(out)

    def link(self, parent: int, name: bytes, ino: int) -> None:
        self.inodes[ino] = replace(self.inodes[ino], nlink=self.inodes[ino].nlink + 1)
        self.enter(parent, name, ino)


@dataclass(frozen=True)
class FakeEntry:
    name: str
    type: str
    id: int


@dataclass(frozen=True)
class FakeValue:
    value: Any
    source: str = "default"


class FakePool:
    """A pool of fake trees. ``names`` is a JSON file {name: [type, id]} that tests rewrite while it is mounted."""

    name = "tank"

    def __init__(self, names: Path, trees: dict[str, FakeTree], properties: dict[str, Any] | None = None) -> None:
        self.names = names
        self.trees = trees
        self.properties = properties or {}
        self.closed = False

    def _entries(self) -> list[FakeEntry]:
        return [FakeEntry(n, t, i) for n, (t, i) in json.loads(self.names.read_text()).items()]

    def tree(self, name: str) -> FakeTree:
        if name not in {e.name for e in self._entries()}:
            raise NotFound(f"cannot open '{name}': dataset does not exist")
        return self.trees[name] if name in self.trees else self.trees["*"]

    def list(
        self,
        roots: Sequence[str] = (),
        *,
        recursive: bool = False,
        depth: int | None = None,
        types: Collection[str] = ("filesystem",),
    ) -> list[FakeEntry]:
        entries = self._entries()
        for root in roots:
            if root not in {e.name for e in entries}:
                raise NotFound(f"cannot open '{root}': dataset does not exist")

        def below(entry: FakeEntry, root: str) -> bool:
            if entry.name == root:
                return True
            if not (entry.name.startswith(root + "/") or entry.name.startswith(root + "@")):
                return False
            rest = entry.name[len(root) :]
            far = rest.count("/") + rest.count("@")
            return recursive or (depth is not None and far <= depth)

        return [e for e in entries if e.type in types and (not roots or any(below(e, r) for r in roots))]

    def get(self, entry: Any, props: Sequence[str] | None = None) -> dict[str, FakeValue]:
        return {p: FakeValue(self.properties.get(p, "hidden" if p == "snapdir" else None)) for p in props or ()}

    def close(self) -> None:
        self.closed = True


def write_names(path: Path, names: dict[str, tuple[str, int]]) -> None:
    """Replace the list of names at once."""
    spare = path.with_suffix(".new")
    spare.write_text(json.dumps({n: list(v) for n, v in names.items()}))
    os.replace(spare, path)
