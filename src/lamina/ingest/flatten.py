"""Stored layers, the lowest first, become the items of one root file system.

Rules: https://github.com/opencontainers/image-spec/blob/main/layer.md, "Applying Changesets". Where it is silent, what
containerd does (``archive.Apply``): parents that are symbolic links are followed inside the root, missing ones are
made, a hard link's header changes the file. A layer's tar is read again by its headers alone: data is taken over as
the extents that the tar has there.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from lamina.errors import DamagedData, SourceError
from lamina.fs.node import EXTENT, number_key, pack_extent
from lamina.fs.spool import ItemSpool
from lamina.fs.types import Extent
from lamina.ingest import tar
from lamina.ingest.directory import printable
from lamina.ingest.members import Entry, Folder, MemberTree, entry_ino, entry_layer, entry_type, parts_of

_WHITEOUT = b".wh."
_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_MOST_LINKS = 255
"""Symbolic links followed on the way to one name, as in containerd's ``fs.RootPath``."""
_MOST_LAYERS = 65_535
_BATCH = 1024

Run = tuple[int, int, int, bytes]
"""(offset, length, offset in the chunk, key) of bytes that lie in a chunk; the offset is from where the run begins."""


class Flattening:
    """Root file system of the layers added so far."""

    def __init__(self, spool: ItemSpool, get: Callable[[bytes], bytes], check: Callable[[], None]) -> None:
        """``get`` gives a chunk by its key; ``check`` is called often, and may raise what ends it all."""
        self._tree = MemberTree(spool)
        self._tree.layer = -1
        self._spool = spool
        self._get = get
        self._check = check
        self._items: list[tuple[bytes, bytes]] = []
        self._targets: dict[int, bytes] = {}
        """Of all symbolic links: what lies behind them has to be found."""

    def add(self, size: int, extents: Iterable[Extent]) -> None:
        """Apply the next layer, a stored tar of ``size`` bytes. Raises ``SourceError``, ``DamagedData``."""
        self._tree.layer += 1
        if self._tree.layer > _MOST_LAYERS:
            raise SourceError(f"an image of more than {_MOST_LAYERS} layers")
        stored = _StoredTar(size, iter(extents), self._get)
        reader = tar.TarReader(cast(Any, stored), layer=True, skip=stored.skip)
        for count, member in enumerate(reader):
            if not count % _BATCH:
                self._check()
            self._take(member, reader, stored)

    @property
    def next_ino(self) -> int:
        """The inode number that comes after all that were given."""
        return self._tree.next_ino

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All items, ascending. Ends it."""
        self._spool.add_many(self._items)
        self._items = []
        self._targets = {}
        return self._tree.items()

    # -- members --------------------------------------------------------------------------------------------------

    def _take(self, member: tar.Member, reader: tar.TarReader, stored: "_StoredTar") -> None:
        parts = parts_of(member.name)
        name = parts.pop() if parts else b""
        if name.startswith(_WHITEOUT):
            self._whiteout(member, parts, name)
        elif member.type == tar.DIRECTORY:
            self._tree.directory(member, self._parent(parts, member) if name else None, name)
        elif not name:
            raise SourceError(f"tar member {printable(member.name)} has no name that a file can have")
        elif member.type == tar.HARD_LINK:
            self._hard_link(member, parts, name)
        elif member.type == tar.SYMLINK:
            member.mode = 0o777
            self._targets[self._tree.file(member, self._parent(parts, member), name)] = member.link
        else:
            ino = self._tree.file(member, self._parent(parts, member), name)
            if reader.left and member.type == tar.REGULAR:
                runs = stored.take(reader.left)
                reader.pass_over()
                self._add_extents(ino, member, runs)

    def _add_extents(self, ino: int, member: tar.Member, runs: list[Run]) -> None:
        if len(member.segments) > 1 or member.segments[0][0]:
            runs = _spread(runs, member.segments)
        items = self._items
        for offset, length, chunk_offset, key in runs:
            items.append((number_key(ino, EXTENT, offset), pack_extent(length, chunk_offset, key)))
        if len(items) >= _BATCH:
            self._spool.add_many(items)
            self._items = []

    def _hard_link(self, member: tar.Member, parts: list[bytes], name: bytes) -> None:
        target = self._find(member)
        if target is None:
            raise SourceError(
                f"tar member {printable(member.name)} is a hard link to {printable(member.link)}, which is not there"
            )
        if isinstance(target, Folder):
            raise SourceError(f"tar member {printable(member.name)} is a hard link to a directory")
        self._tree.link(self._parent(parts, member), name, target)
        if entry_type(target) == stat.S_IFLNK:
            member.mode = 0o777
        self._tree.change(member, target)

    def _whiteout(self, member: tar.Member, parts: list[bytes], name: bytes) -> None:
        try:
            folder = self._parent(parts, member, touched=False)
        except _NoDirectory:
            return  # umoci writes one for each name of a directory that has become a file: nothing is left to hide
        hidden = name[len(_WHITEOUT) :]
        if name == _OPAQUE:
            self._hide_below(folder)
        elif hidden in (b"", b".", b".."):
            raise SourceError(f"tar member {printable(member.name)} is a whiteout of no name that a file can have")
        elif not name.startswith(_META):  # else what AUFS keeps for itself
            entry = folder.names.get(hidden)
            if entry is None:
                return
            if (entry.layer if isinstance(entry, Folder) else entry_layer(entry)) != self._tree.layer:
                self._tree.remove(folder, hidden)
            elif isinstance(entry, Folder):
                self._hide_below(entry)

    def _hide_below(self, folder: Folder) -> None:
        """Take away what lower layers have in a directory; what this layer has there stays, wherever it stands."""
        layer = self._tree.layer
        stack = [folder]
        while stack:
            folder = stack.pop()
            for name, entry in list(folder.names.items()):
                if (entry.layer if isinstance(entry, Folder) else entry_layer(entry)) != layer:
                    self._tree.remove(folder, name)
                elif isinstance(entry, Folder):
                    stack.append(entry)

    # -- paths ----------------------------------------------------------------------------------------------------

    def _parent(self, parts: list[bytes], member: tar.Member, touched: bool = True) -> Folder:
        """The directory that the member is to be put into; ``touched``: it is then part of this layer, too."""
        folder, layer = self._tree.root, self._tree.layer
        for at, part in enumerate(parts):
            entry = folder.names.get(part)
            if not isinstance(entry, Folder):
                found = self._walk(folder, parts[at:], member, make=True, touched=touched)
                assert isinstance(found, Folder)
                return found
            folder = entry
            if touched:
                folder.layer = layer
        return folder

    def _find(self, member: tar.Member) -> Folder | Entry | None:
        """What a hard link refers to."""
        parts = parts_of(member.link)
        if not parts:
            return self._tree.root
        folder = self._walk(self._tree.root, parts[:-1], member, make=False, touched=False)
        return folder.names.get(parts[-1]) if isinstance(folder, Folder) else None

    def _walk(self, folder: Folder, parts: list[bytes], member: tar.Member, *, make: bool, touched: bool) -> Any:
        """The directory at the end of a path, through symbolic links; ``make`` it, or None where it is not there."""
        left = parts[::-1]
        followed = 0
        while left:
            part = left.pop()
            if part == b"..":  # of a link's target
                if folder is self._tree.root:
                    raise SourceError(
                        f"tar member {printable(member.name)} lies behind a symbolic link that climbs above the root"
                    )
                folder = folder.parent
                continue
            entry = folder.names.get(part)
            if entry is None:
                if not make:
                    return None
                entry = self._tree.make_folder(folder, part)
            elif not isinstance(entry, Folder):
                if entry_type(entry) != stat.S_IFLNK:
                    raise _NoDirectory(
                        f"tar member {printable(member.name)} lies below {printable(part)}, which is no directory"
                    )
                followed += 1
                if followed > _MOST_LINKS:
                    raise SourceError(
                        f"tar member {printable(member.name)} lies behind symbolic links that lead nowhere"
                    )
                target = self._targets[entry_ino(entry)]
                if target.startswith(b"/"):
                    folder = self._tree.root
                left += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
                continue
            folder = entry
            if touched:
                folder.layer = self._tree.layer
        return folder


class _NoDirectory(SourceError):
    """A member lies below something that is no directory."""


def _spread(runs: list[Run], segments: list[tuple[int, int]]) -> list[Run]:
    """Runs of a sparse member's stored bytes, put where its segments lie in the file."""
    spread: list[Run] = []
    start = 0  # of the segment, in the stored bytes
    left = iter(segments)
    offset, length = next(left)
    for at, size, chunk_offset, key in runs:
        while size:
            while at >= start + length:
                start += length
                offset, length = next(left)
            count = min(size, start + length - at)
            spread.append((offset + at - start, count, chunk_offset, key))
            at, size, chunk_offset = at + count, size - count, chunk_offset + count
    return spread


class _StoredTar:
    """A stored tar as a stream of which headers are read, and data is passed over or taken as extents."""

    def __init__(self, size: int, extents: Iterator[Extent], get: Callable[[bytes], bytes]) -> None:
        self._size = size
        self._extents = extents
        self._get = get
        self._position = 0
        self._start = self._end = self._chunk_offset = 0
        """The extent that ends behind the position, once it was looked for."""
        self._key = b""
        self._loaded = b""
        self._data = b""

    def readinto(self, view: memoryview) -> int:
        """As in ``io.RawIOBase``."""
        count = min(len(view), self._size - self._position)
        if count <= 0:
            return 0
        self._reach()
        if self._position < self._start:
            count = min(count, self._start - self._position)
            view[:count] = bytes(count)
        else:
            count = min(count, self._end - self._position)
            if self._loaded != self._key:
                self._data = self._get(self._key)
                self._loaded = self._key
            at = self._chunk_offset + self._position - self._start
            part = self._data[at : at + count]
            if len(part) != count:
                raise DamagedData(f"an extent reaches beyond its chunk {self._key.hex()}")
            view[:count] = part
        self._position += count
        return count

    def skip(self, count: int) -> None:
        """Move on."""
        self._position += count
        if self._position > self._size:
            raise SourceError(f"tar is cut short: it ends inside a member at byte {self._size}")

    def take(self, length: int) -> list[Run]:
        """Move on by ``length`` bytes; where they lie."""
        runs: list[Run] = []
        begin = self._position
        end = begin + length
        while self._position < end:
            self._reach()
            if self._start >= end:
                break
            start = max(self._position, self._start)
            stop = min(self._end, end)
            runs.append((start - begin, stop - start, self._chunk_offset + start - self._start, self._key))
            self._position = stop
        self._position = begin
        self.skip(length)
        return runs

    def _reach(self) -> None:
        """Go on to the extent that ends behind the position; behind the last one there is a hole."""
        while self._end <= self._position:
            extent = next(self._extents, None)
            if extent is None:
                self._start = self._end = self._size + 1
                return
            self._start, self._end = extent.offset, extent.offset + extent.length
            self._key, self._chunk_offset = extent.key, extent.chunk_offset
