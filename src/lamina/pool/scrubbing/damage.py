"""What damaged objects mean to people: names of files, by snapshot and path.

The bitmaps of trees say which roots reach a damaged row; only those trees are read, and what lies below a node is
remembered by its key, so that snapshots that share their nodes are read once. A damaged tree node hides a range of
items: it is named by the names that point to the inodes in it. What no file holds, but a layer of an image does, is
named by the layer.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from stat import S_ISDIR, S_ISREG

from pyroaring import BitMap64

from lamina.errors import DamagedData, LaminaError
from lamina.fs.imagearea import AREA_KEY, IMAGE_INO, MANIFEST_INO
from lamina.fs.node import (
    DIRENT,
    EXTENT,
    Node,
    extent_chunk,
    key_ino,
    key_number,
    kind_key,
    unpack_dirent,
    unpack_extent,
    unpack_root,
)
from lamina.fs.paths import Paths, readable
from lamina.fs.types import ROOT_INO
from lamina.fs.view import StoredTree
from lamina.pool.catalogue import Catalogue
from lamina.pool.names import printable
from lamina.store.database import DAMAGED
from lamina.store.objects import ObjectStore
from lamina.store.record import Kind

_MOST_KEPT = 50_000
"""Nodes below which all is known to be well, or not, that are remembered: 10 MB."""
_SEARCHED = 32
"""Up to so many chunk keys are searched for in the bytes of a leaf; with more it is taken apart."""

Hit = tuple[bytes, bytes]
"""Key and value of an EXTENT item whose chunk is damaged."""
Hole = tuple[bytes | None, bytes | None]
"""Items with first < key <= last cannot be read; None: from the beginning, to the end."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that cannot be read. ``name`` is a dataset or snapshot.

    ``path``: a file or directory; with ``last`` all from the one to the other, in the order of the tree, are hidden by
    a damaged tree node. Without a path, ``what`` says as much as is known; a layer is ``<layer sha256:…>``.
    """

    name: str
    path: bytes | None = None
    last: bytes | None = None
    what: str = ""

    def __str__(self) -> str:
        if self.path is None:
            return f"{self.name}:{self.what}"
        shown = printable(b"/" + self.path, backslash=True)
        if self.last is None:
            return f"{self.name}:{shown}"
        return f"{self.name}:<metadata> {shown} ... {printable(b'/' + self.last, backslash=True)}"


@dataclass(frozen=True, slots=True)
class HitTree:
    """A tree that reaches something damaged, and the names that it has."""

    row: int
    root: bytes
    names: list[str]


@dataclass(slots=True)
class Found:
    """What is damaged below a node: extents whose chunks are, ranges of items that nodes hid."""

    hits: tuple[Hit, ...] = ()
    holes: tuple[Hole, ...] = ()


_NOTHING = Found()


@dataclass(slots=True)
class Lost:
    """Damaged objects: their rows, and their keys by kind."""

    rows: BitMap64
    chunks: frozenset[bytes]
    nodes: frozenset[bytes]
    names: int
    """How many are name records."""


def lost_objects(catalogue: Catalogue) -> Lost:
    """What the index has marked as damaged; name records that nobody needs any more left out."""
    names_from = int(catalogue.meta("names_from") or 0)
    rows = catalogue.database.query(
        "SELECT id, key, kind FROM object WHERE condemned = ? AND NOT (kind = ? AND id < ?)",
        (DAMAGED, Kind.NAMES, names_from),
    )
    return Lost(
        BitMap64([row for row, _, _ in rows]),
        frozenset(key for _, key, kind in rows if kind == Kind.CHUNK),
        frozenset(key for _, key, kind in rows if kind in (Kind.NODE, Kind.ROOT)),
        sum(kind == Kind.NAMES for _, _, kind in rows),
    )


@dataclass(slots=True)
class DamageFinder:
    """Finds what damaged objects hurt. Reads only; any reader of the pool may ask."""

    catalogue: Catalogue
    store: ObjectStore
    lost: Lost
    _kept: "OrderedDict[bytes, Found]" = field(default_factory=OrderedDict)

    def trees(self) -> list[HitTree]:
        """The trees with names that reach something damaged."""
        named: dict[int, list[str]] = {}
        for name, root in self.catalogue.database.query(
            "SELECT name, head FROM dataset WHERE head IS NOT NULL "
            "UNION ALL SELECT d.name || '@' || s.name, s.root FROM snapshot s JOIN dataset d ON d.id = s.dataset "
            "WHERE s.root IS NOT NULL"
        ):
            named.setdefault(root, []).append(name)
        found = []
        for root, names in named.items():
            rows = self.catalogue.database.query(
                "SELECT t.objects, o.key FROM tree t JOIN object o ON o.id = t.root WHERE t.root = ?", (root,)
            )
            if rows and not self.lost.rows.isdisjoint(BitMap64.deserialize(rows[0][0])):
                found.append(HitTree(root, rows[0][1], sorted(names)))
        return sorted(found, key=lambda tree: tree.names)

    def everything(self) -> Iterator[Damage]:
        """All damage, by name."""
        reached = BitMap64()
        for tree in self.trees():
            reached |= self._reached(tree)
            damages = self.below(tree)
            for name in tree.names:
                for what, path, last in damages:
                    yield Damage(name, path, last, what)
        pool = self.catalogue.datasets()[0].name
        if self.lost.names:
            yield Damage(pool, what="<metadata>:<names>")
        for row in self.lost.rows - reached:
            kinds = self.catalogue.database.query("SELECT kind FROM object WHERE id = ?", (row,))
            if kinds and kinds[0][0] != Kind.NAMES:
                yield Damage(pool, what=f"<0x{row:x}>")  # nothing shows it any more: gc takes it away

    def _reached(self, tree: HitTree) -> BitMap64:
        rows = self.catalogue.database.query("SELECT objects FROM tree WHERE root = ?", (tree.row,))
        return self.lost.rows & BitMap64.deserialize(rows[0][0]) if rows else BitMap64()

    def below(self, tree: HitTree) -> list[tuple[str, bytes | None, bytes | None]]:
        """(what, path, last path) of everything damaged in a tree."""
        try:
            view = StoredTree(tree.root, self.store.get)
        except LaminaError:
            return [("<metadata> /", None, None)]
        found = self.find(tree)
        paths = Paths(view)
        inodes = {key_ino(key) for key, _ in found.hits if key < AREA_KEY}
        in_files = {extent_chunk(value) for key, value in found.hits if key < AREA_KEY}
        in_area = {key_ino(key) for key, value in found.hits if key >= AREA_KEY and extent_chunk(value) not in in_files}
        ranges: list[tuple[int, int]] = []
        area: list[tuple[int, int]] = []
        for hole in found.holes:
            first, last = _hidden(view, hole)
            if last >= IMAGE_INO:
                area.append((max(first, IMAGE_INO), last))
                last = view.totals.next_ino - 1
                if first > last:
                    continue
            if (first, last) == (ROOT_INO, view.totals.next_ino - 1):
                return [("<metadata> /", None, None)]
            if first == last:
                inodes.add(first)
            else:
                ranges.append((first, last))
        named = paths.of(sorted(inodes))
        damages: list[tuple[str, bytes | None, bytes | None]] = [
            ("", named[ino], None) if ino in named else (f"<0x{ino:x}>", None, None) for ino in sorted(inodes)
        ]
        for (first, last), inside in zip(ranges, paths.within(ranges), strict=True):
            if not inside:
                damages.append((f"<metadata> <0x{first:x}> ... <0x{last:x}>", None, None))
            else:
                damages.append(("", inside[0], inside[-1] if len(inside) > 1 else None))
        return damages + [(what, None, None) for what in _area_damage(view, in_area, area)]

    def find(self, tree: HitTree) -> Found:
        """What is damaged in a tree. Raises ``DamagedData`` where its root is."""
        height, top, _ = unpack_root(self.store.get(tree.root))
        return self._below(top, height)

    def _below(self, key: bytes, level: int) -> Found:
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = self._read(key, level)
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return kept

    def _read(self, key: bytes, level: int) -> Found:
        try:
            data = self.store.get(key)
            if not level and len(self.lost.chunks) <= _SEARCHED and not any(one in data for one in self.lost.chunks):
                return _NOTHING
            node = Node(data)
            if node.level != level:
                raise DamagedData("a tree node is not of the level below its parent's")
        except DamagedData:
            return Found(holes=((None, None),))
        if not level:
            hits = [
                (item, value)
                for item, value in zip(node.keys, node.values, strict=True)
                if item[8] == EXTENT and extent_chunk(value) in self.lost.chunks
            ]
            return Found(tuple(hits)) if hits else _NOTHING
        found: list[Hit] = []
        holes: list[Hole] = []
        before: bytes | None = None
        for last, child in zip(node.keys, node.values, strict=True):
            below = self._below(child, level - 1)
            found += below.hits
            holes += [(before if low is None else low, last if high is None else high) for low, high in below.holes]
            before = last
        return Found(tuple(found), tuple(holes)) if found or holes else _NOTHING


def _area_damage(tree: StoredTree, inodes: set[int], ranges: list[tuple[int, int]]) -> Iterator[str]:
    """What of an image's layers and config is damaged: inodes with damaged extents, ranges that are hidden."""
    if not inodes and not ranges:
        return
    entries = readable(tree.reader, kind_key(IMAGE_INO, DIRENT), kind_key(IMAGE_INO, EXTENT))
    names = {entry.ino: printable(entry.name) for entry in (unpack_dirent(*item) for item in entries)}
    shown = {ino: f"<layer {name}>" if ino > MANIFEST_INO else f"<{name}>" for ino, name in names.items()}
    hidden: set[int] = set()
    for first, last in ranges:
        inside = {ino for ino in shown if first <= ino <= last}
        if first == IMAGE_INO or not inside:
            yield "<metadata> <layers>"
        hidden |= inside
    for ino in sorted(hidden):
        yield f"<metadata> {shown[ino]}"
    for ino in sorted(inodes - hidden):
        yield shown.get(ino, "<layers>")


def _hidden(tree: StoredTree, hole: Hole) -> tuple[int, int]:
    """The first and the last inode number that a hole hides something of."""
    low, high = hole
    last = tree.totals.next_ino - 1 if high is None else key_ino(high)
    if low is None:
        return ROOT_INO, last
    ino = key_ino(low)
    if ino == last or _goes_on(tree, ino, low):
        return ino, last
    return ino + 1, last


def _goes_on(tree: StoredTree, ino: int, low: bytes) -> bool:
    """Whether an inode may have items behind the last one that can be read."""
    try:
        inode = tree.inode(ino)
        if S_ISREG(inode.mode) and inode.size and low[8] == EXTENT:
            value = tree.reader.find(low)
            return value is None or key_number(low) + unpack_extent(low, value).length < inode.size
        return S_ISDIR(inode.mode) or bool(S_ISREG(inode.mode) and inode.size)
    except LaminaError:
        return True
