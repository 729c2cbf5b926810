"""Layers of images: members as plain values, tars of them in several dialects, and what they have to become.

``Oracle`` is a model of its own: a dictionary of paths, changed member by member, that knows no inode and no tar.
"""

import contextlib
import io
import stat
import tarfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from lamina.fs.types import ROOT_INO
from lamina.fs.view import StoredTree
from tests.ingest.archives import BLOCK, OldSparse, header, member, padded, pax

NS = 10**9


@dataclass(frozen=True)
class Op:
    """One member. ``kind``: file, dir, sym, hard, chr, blk, fifo; whiteouts are files by their names.

    The data is ``pattern``, ``times`` over. ``sparse``: (offset, pattern, times) of a sparse file of ``size`` bytes;
    ``target`` of links.
    """

    kind: str
    path: bytes
    pattern: bytes = b""
    times: int = 1
    target: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_600_000_000
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    sparse: tuple[tuple[int, bytes, int], ...] | None = None
    size: int = 0

    @property
    def data(self) -> bytes:
        return self.pattern * self.times

    @property
    def content(self) -> bytes:
        if self.sparse is None:
            return self.data
        content = bytearray(self.size)
        for offset, data in self.segments:
            content[offset : offset + len(data)] = data
        return bytes(content)

    @property
    def segments(self) -> list[tuple[int, bytes]]:
        return [(offset, pattern * times) for offset, pattern, times in self.sparse or ()]


# -- dialects -------------------------------------------------------------------------------------------------------

_LETTERS = {"file": b"0", "dir": b"5", "sym": b"2", "hard": b"1", "chr": b"3", "blk": b"4", "fifo": b"6"}


def by_hand(op: Op, style: str) -> bytes:
    """A member in one of the dialects "ustar", "gnu", "pax", "pax-0.0", "pax-0.1", "pax-1.0" (sparse files)."""
    letter = _LETTERS[op.kind]
    name = op.path + b"/" if op.kind == "dir" and style != "gnu" else op.path
    fields: dict[str, int] = {"mode": op.mode, "uid": op.uid, "gid": op.gid, "mtime": op.mtime}
    if op.kind in ("chr", "blk"):
        fields |= {"major": 1, "minor": 3}
    records: list[tuple[bytes, bytes]] = [(b"SCHILY.xattr." + key, value) for key, value in op.xattrs]
    if style.startswith("pax"):
        records += [(b"mtime", b"%d" % op.mtime), (b"comment", b"of nobody's concern")]
    before = b""
    if style == "gnu" and (len(name) > 90 or op.mtime % 3 == 0):
        before += member(b"././@LongLink", name + b"\0", b"L", magic=b"ustar  \0")
        name = name[:90]
    elif len(name) > 100:
        records.append((b"path", name))
        name = name[:100]
    magic = b"ustar  \0" if style == "gnu" else b"ustar\x0000"
    if op.sparse is not None:
        stored = b"".join(data for _, data in op.segments)
        numbers = [number for offset, data in op.segments for number in (offset, len(data))]
        if style in ("ustar", "gnu"):
            head = OldSparse(name, op.size, op.segments, more=fields).bytes()
            return (pax(records) if records else b"") + head
        if style == "pax-1.0":
            records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
            records += [(b"GNU.sparse.name", name), (b"GNU.sparse.realsize", b"%d" % op.size)]
            table = padded(b"".join(b"%d\n" % n for n in (len(op.sparse), *numbers)))
            data = table + stored
        else:
            records.append((b"GNU.sparse.size", b"%d" % op.size))
            records.append((b"GNU.sparse.numblocks", b"%d" % len(op.sparse)))
            if style == "pax-0.0":
                for at, number in enumerate(numbers):
                    records.append((b"GNU.sparse.offset" if at % 2 == 0 else b"GNU.sparse.numbytes", b"%d" % number))
            else:
                records.append((b"GNU.sparse.map", b",".join(b"%d" % n for n in numbers)))
            data = stored
        return pax(records) + member(name, data, b"0", magic=magic, **fields)
    if records:
        before += pax(records)
    return before + header(name, len(op.data), letter, link=op.target, magic=magic, **fields) + padded(op.data)  # type: ignore[arg-type]


def by_tarfile(ops: Sequence[Op], format: int) -> bytes:
    """A whole archive by the standard library, without sparse files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format, errors="surrogateescape") as archive:
        for op in ops:
            info = tarfile.TarInfo(op.path.decode("utf-8", "surrogateescape"))
            info.type = _LETTERS[op.kind]
            info.mode, info.uid, info.gid, info.mtime = op.mode, op.uid, op.gid, op.mtime
            info.linkname = op.target.decode("utf-8", "surrogateescape")
            info.devmajor, info.devminor = (1, 3) if op.kind in ("chr", "blk") else (0, 0)
            info.size = len(op.data)
            info.pax_headers = {
                "SCHILY.xattr." + key.decode(): value.decode("utf-8", "surrogateescape") for key, value in op.xattrs
            }
            archive.addfile(info, io.BytesIO(op.data))
    return stream.getvalue()


@dataclass(frozen=True)
class LayerTar:
    """Members, and how they are written down."""

    ops: tuple[Op, ...]
    styles: tuple[str, ...] = ("pax",)
    zeros: int = 2 * BLOCK
    """Bytes at the end."""
    globals: bool = False
    library: int | None = None

    def bytes(self) -> bytes:
        if self.library is not None:
            return by_tarfile(self.ops, self.library)
        parts = []
        if self.globals:
            parts.append(pax({b"comment": b"all of it", b"mtime": b"12345"}, b"g"))
        for at, op in enumerate(self.ops):
            parts.append(by_hand(op, self.styles[at % len(self.styles)]))
        body = b"".join(parts)
        return body + bytes(self.zeros)


# -- what they become -----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Thing:
    """A file of any kind; hard links are several paths of one."""

    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    content: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Refused(Exception):
    """No unpacker of sound mind would take this."""


class NoDirectory(Refused):
    """A member below something that is no directory."""


Path = tuple[bytes, ...]


class Oracle:
    """Applies layers to a dictionary of paths."""

    def __init__(self) -> None:
        self.things: dict[Path, Thing] = {(): Thing("dir")}
        self.since: dict[Path, int] = {(): 0}
        self.layer = -1

    def apply(self, ops: Sequence[Op]) -> None:
        self.layer += 1
        for op in ops:
            self.put(op)

    def put(self, op: Op) -> None:
        parts = split(op.path)
        last = parts[-1] if parts else b""
        if last.startswith(b".wh."):
            with contextlib.suppress(NoDirectory):  # nothing is below it
                self._whiteout(self._below(parts[:-1], touch=False), last)
            return
        if op.kind == "dir":
            path = (*self._below(parts[:-1]), last) if parts else ()
            there = self.things.get(path)
            if there is None or there.kind != "dir":
                self._drop(path)
            self.things[path] = Thing("dir", op.mode, op.uid, op.gid, op.mtime, b"", dict(op.xattrs))
            self.since[path] = self.layer
            return
        if not parts:
            raise Refused("the root is a directory")
        if op.kind == "hard":
            wanted = split(op.target)
            try:
                found = (*self._below(wanted[:-1], make=False), wanted[-1]) if wanted else ()
            except KeyError:
                raise Refused("a link to nothing") from None
            thing = self.things.get(found)
            if thing is None or thing.kind == "dir":
                raise Refused("a link to nothing, or a directory")
            path = (*self._below(parts[:-1]), last)
            thing.uid, thing.gid, thing.mtime = op.uid, op.gid, op.mtime
            thing.mode = 0o777 if thing.kind == "sym" else op.mode
            thing.xattrs |= dict(op.xattrs)
        else:
            path = (*self._below(parts[:-1]), last)
            content = op.target if op.kind == "sym" else op.content
            mode = 0o777 if op.kind == "sym" else op.mode
            thing = Thing(op.kind, mode, op.uid, op.gid, op.mtime, content, dict(op.xattrs))
        self._drop(path)
        self.things[path] = thing
        self.since[path] = self.layer

    def _whiteout(self, folder: Path, name: bytes) -> None:
        hidden = name[4:]
        if name == b".wh..wh..opq":
            self._hide(folder)
            return
        if hidden in (b"", b".", b".."):
            raise Refused("a whiteout of nothing")
        if name.startswith(b".wh..wh."):
            return
        path = (*folder, hidden)
        if path in self.things:
            if self.since[path] < self.layer:
                self._drop(path)
            else:
                self._hide(path)

    def _hide(self, folder: Path) -> None:
        for path in [path for path in self.things if is_below(path, folder) and self.since[path] < self.layer]:
            self._drop(path)

    def _drop(self, path: Path) -> None:
        for gone in [one for one in self.things if one == path or is_below(one, path)]:
            del self.things[gone], self.since[gone]

    def _below(self, parts: Sequence[bytes], touch: bool = True, make: bool = True) -> Path:
        """The directory at a path, links followed."""
        here: Path = ()
        left = list(parts)
        hops = 0
        while left:
            part = left.pop(0)
            if part == b"..":
                if not here:
                    raise Refused("climbs above the root")
                here = here[:-1]
                continue
            path = (*here, part)
            thing = self.things.get(path)
            if thing is None:
                if not make:
                    raise KeyError(path)
                self.things[path] = thing = Thing("dir")
                self.since[path] = self.layer
            if thing.kind == "sym":
                hops += 1
                if hops > 255:
                    raise Refused("a ring of links")
                if thing.content.startswith(b"/"):
                    here = ()
                left = [part for part in thing.content.split(b"/") if part not in (b"", b".")] + left
                continue
            if thing.kind != "dir":
                raise NoDirectory("below a file")
            here = path
            if touch:
                self.since[path] = self.layer
        return here


def is_below(path: Path, folder: Path) -> bool:
    return len(path) > len(folder) and path[: len(folder)] == folder


def split(name: bytes) -> Path:
    if name.startswith(b"/"):
        raise Refused("absolute")
    parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise Refused("climbs")
    return parts


@dataclass(frozen=True)
class Seen:
    """A file as it is compared. ``same``: the first of its names."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    content: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    links: int
    same: Path


def tamed(stack: Sequence[LayerTar]) -> list[LayerTar]:
    """The stack without members that are refused where they stand."""
    oracle = Oracle()
    kept = []
    for one in stack:
        oracle.layer += 1
        ops = []
        for op in one.ops:
            before = deepcopy(oracle)
            try:
                oracle.put(op)
                ops.append(op)
            except Refused:
                oracle = before
        kept.append(replace(one, ops=tuple(ops)))
    return kept


def of_oracle(oracle: Oracle) -> dict[Path, Seen]:
    names: dict[int, list[Path]] = {}
    for path, thing in oracle.things.items():
        names.setdefault(id(thing), []).append(path)
    found = {}
    for path, thing in oracle.things.items():
        own = names[id(thing)]
        below = sum(
            is_below(one, path) and len(one) == len(path) + 1 and t.kind == "dir" for one, t in oracle.things.items()
        )
        links = 2 + below if thing.kind == "dir" else len(own)
        status = (thing.mode, thing.uid, thing.gid, thing.mtime)
        found[path] = Seen(thing.kind, *status, thing.content, tuple(sorted(thing.xattrs.items())), links, min(own))
    return found


_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "sym",
    stat.S_IFCHR: "chr",
    stat.S_IFBLK: "blk",
    stat.S_IFIFO: "fifo",
}


def of_tree(tree: StoredTree) -> dict[Path, Seen]:
    found: dict[Path, Seen] = {}
    names: dict[int, list[Path]] = {}
    holders: dict[int, list[int]] = {}
    stack: list[tuple[Path, int, int]] = [((), ROOT_INO, ROOT_INO)]
    while stack:
        path, ino, parent = stack.pop()
        inode = tree.inode(ino)
        kind = _KINDS[stat.S_IFMT(inode.mode)]
        content = b""
        if kind == "dir":
            for entry in tree.readdir(ino):
                assert entry.mode_type == stat.S_IFMT(tree.inode(entry.ino).mode)
                stack.append(((*path, entry.name), entry.ino, ino))
        elif kind == "sym":
            content = tree.readlink(ino)
        elif kind == "file":
            content = tree.read(ino, 0, inode.size)
            assert len(content) == inode.size
        names.setdefault(ino, []).append(path)
        holders.setdefault(ino, []).append(parent)
        status = (inode.mode & 0o7777, inode.uid, inode.gid, inode.mtime_ns // NS)
        found[path] = Seen(kind, *status, content, tuple(sorted(tree.xattrs(ino).items())), inode.nlink, path)
        if kind in ("chr", "blk"):
            assert inode.rdev == (1 << 8 | 3)
    for ino, parents in holders.items():
        assert tree.inode(ino).parent == min(parents), "the directory with the lowest number"
    return {
        path: replace(seen, same=min(next(own for own in names.values() if path in own)))
        for path, seen in found.items()
    }


# -- random layers --------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from([b"a", b"b", b"c", b"A", "ä".encode(), "a\u0308".encode(), b"\xff"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(b"/".join)
_DECORATED = st.tuples(_PATHS, st.sampled_from([b"", b"./", b".//"])).map(lambda pair: pair[1] + pair[0])
_TARGETS = st.one_of(
    _PATHS,
    _PATHS.map(lambda path: b"/" + path),
    _PATHS.map(lambda path: b"../" + path),
    st.just(b"."),
    st.just(b"nowhere"),
)
_SPARSE = st.sampled_from(
    [
        (((0, b"head", 1), (4096, b"middle", 100)), 10_000),
        (((512, b"x", 512), (200_000, b"y", 40_000)), 300_000),
        (tuple((n * 8192, b"%03d" % n, 1) for n in range(30)), 30 * 8192),
        ((), 5000),
        (((70_000, b"\0", 70_000), (150_000, b"q", 1)), 150_001),
    ]
)
_PATTERNS = {
    "pattern": st.sampled_from([b"", b"\0", b"x", b"some text"]),
    "times": st.sampled_from([1, 511, 512, 513, 3000, 70_000]),
}
_XATTRS = st.lists(
    st.tuples(st.sampled_from([b"user.a", b"user.b", b"security.capability"]), st.binary(min_size=1, max_size=6)),
    max_size=2,
    unique_by=lambda pair: pair[0],
).map(tuple)
_STATUS = {
    "mode": st.sampled_from([0o644, 0o755, 0o4711, 0o1777, 0]),
    "uid": st.sampled_from([0, 1000, 3_000_000]),
    "gid": st.sampled_from([0, 5]),
    "mtime": st.integers(0, 2**34),
    "xattrs": _XATTRS,
}


def _whiteout(path: bytes) -> bytes:
    above, _, name = path.rpartition(b"/")
    return (above + b"/" if above else b"") + b".wh." + name


_OPS = st.one_of(
    st.builds(Op, st.just("file"), _DECORATED, **_PATTERNS, **_STATUS),
    st.builds(Op, st.just("file"), _DECORATED, **_PATTERNS, **_STATUS),
    st.builds(lambda path, sparse, **more: Op("file", path, sparse=sparse[0], size=sparse[1], **more), _PATHS, _SPARSE),
    st.builds(Op, st.just("dir"), _DECORATED, **_STATUS),
    st.builds(Op, st.just("dir"), _DECORATED, **_STATUS),
    st.builds(Op, st.just("sym"), _PATHS, target=_TARGETS, **_STATUS),
    st.builds(Op, st.just("hard"), _PATHS, target=_PATHS, **_STATUS),
    st.builds(Op, st.sampled_from(["chr", "blk", "fifo"]), _PATHS, **_STATUS),
    st.builds(Op, st.just("file"), _PATHS.map(_whiteout)),
    st.builds(Op, st.just("file"), _PATHS.map(_whiteout)),
    st.builds(Op, st.just("file"), _PATHS.map(lambda path: path + b"/.wh..wh..opq")),
    st.just(Op("file", b".wh..wh..opq")),
    st.just(Op("file", b"a/.wh..wh.plnk")),
    st.just(Op("dir", b"./", mode=0o711, uid=7)),
)
_ENDINGS = st.sampled_from([1024, 512, 10240, 512 * 7 + 100, 0, 100_000])
_HAND_STYLES = st.lists(
    st.sampled_from(["ustar", "gnu", "pax", "pax-0.0", "pax-0.1", "pax-1.0"]), min_size=1, max_size=4
).map(tuple)


def _library(ops: Sequence[Op], format: int) -> LayerTar:
    """By the standard library: without what it cannot write."""
    plain = tuple(
        replace(op, sparse=None, uid=min(op.uid, 1000), mtime=min(op.mtime, 2**33 - 1), xattrs=())
        if op.sparse is not None
        else replace(op, uid=min(op.uid, 1000), mtime=min(op.mtime, 2**33 - 1), xattrs=())
        for op in ops
    )
    return LayerTar(plain, library=format)


LAYERS = st.one_of(
    st.builds(LayerTar, st.lists(_OPS, max_size=14).map(tuple), _HAND_STYLES, _ENDINGS, st.booleans()),
    st.builds(LayerTar, st.lists(_OPS, max_size=14).map(tuple), _HAND_STYLES, _ENDINGS, st.booleans()),
    st.builds(
        _library,
        st.lists(_OPS, max_size=14).map(tuple),
        st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]),
    ),
)
STACKS = st.lists(LAYERS, min_size=1, max_size=4)
