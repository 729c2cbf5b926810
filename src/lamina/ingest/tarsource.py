"""Importing a tar of a tree: the members, applied in order as an extraction would, become a tree."""

from collections import deque
from typing import BinaryIO

from lamina.errors import SourceError
from lamina.fs.spool import ItemSpool
from lamina.fs.types import Totals
from lamina.ingest import tar
from lamina.ingest.assemble import write_tree
from lamina.ingest.content import SMALL, ContentWriter
from lamina.ingest.directory import printable
from lamina.ingest.members import Entry, Folder, MemberTree, entry_ino, parts_of
from lamina.ingest.progress import Tally
from lamina.ingest.tasks import Workers
from lamina.ingest.unpacked import open_stream
from lamina.store.chunker import ReadInto
from lamina.store.writer import StoreWriter


def import_tar(
    stream: BinaryIO, writer: StoreWriter, content: ContentWriter, spool: ItemSpool, workers: Workers, tally: Tally
) -> tuple[bytes, Totals]:
    """Import a tar stream, compressed or not: the key of the root object, and the totals.

    A later member of a name replaces an earlier one. Raises ``SourceError`` for members outside the tree (absolute, or
    with ``..``), links to what is not there, and archives that are damaged or cut short.
    """
    return _TarImport(writer, content, spool, workers, tally).run(stream)


class _TarImport:
    def __init__(
        self, writer: StoreWriter, content: ContentWriter, spool: ItemSpool, workers: Workers, tally: Tally
    ) -> None:
        self._writer = writer
        self._content = content
        self._spool = spool
        self._workers = workers
        self._tally = tally
        self._tree = MemberTree(spool)

    def run(self, stream: BinaryIO) -> tuple[bytes, Totals]:
        reader = tar.TarReader(open_stream(stream))
        for member in reader:
            self._take(member, reader)
            if self._tree.replaced:
                self._tally.inexact = True
        self._content.end_group()
        self._workers.drain()
        return write_tree(self._tree.items(), self._tree.next_ino, self._writer)

    def _take(self, member: tar.Member, reader: tar.TarReader) -> None:
        parts = parts_of(member.name)
        if member.type == tar.DIRECTORY:
            parent = self._parent(parts[:-1], member.name) if parts else None
            self._tree.directory(member, parent, parts[-1] if parts else b"")
            return
        if not parts:
            raise SourceError(f"tar member {printable(member.name)} has no name that a file can have")
        parent = self._parent(parts[:-1], member.name)
        if member.type == tar.HARD_LINK:
            self._hard_link(member, parent, parts[-1])
            return
        ino = self._tree.file(member, parent, parts[-1])
        if member.type == tar.REGULAR and member.size:
            self._contents(member, ino, reader)
        else:
            self._tally.add(1, 0)

    def _contents(self, member: tar.Member, ino: int, reader: tar.TarReader) -> None:
        segments = [(offset, offset + length) for offset, length in member.segments]
        if member.size <= SMALL:
            data = bytearray(member.size)
            for start, end in segments:
                reader.read_into(memoryview(data)[start:end])
            self._content.small(ino, bytes(data))
            return
        items, _ = self._content.stream(ino, member.size, segments, _Filled(reader, segments).opened)
        self._spool.add_many(items)
        self._tally.add(1, 0)

    def _parent(self, parts: list[bytes], name: bytes) -> Folder:
        """The directory of a member; missing ones are made, as tar(1) does. Links are never followed."""
        folder = self._tree.root
        for part in parts:
            entry = folder.names.get(part)
            if entry is None:
                entry = self._tree.make_folder(folder, part)
            elif not isinstance(entry, Folder):
                raise SourceError(f"tar member {printable(name)} lies below {printable(part)}, which is no directory")
            folder = entry
        return folder

    def _hard_link(self, member: tar.Member, parent: Folder, name: bytes) -> None:
        target: Folder | Entry | None = self._tree.root
        for part in parts_of(member.link):
            target = target.names.get(part) if isinstance(target, Folder) else None
        if target is None:
            raise SourceError(
                f"tar member {printable(member.name)} is a hard link to {printable(member.link)}, which is not there"
            )
        if isinstance(target, Folder):
            raise SourceError(f"tar member {printable(member.name)} is a hard link to a directory")
        there = parent.names.get(name)
        if there is None or isinstance(there, Folder) or entry_ino(there) != entry_ino(target):
            self._tree.link(parent, name, target)
            self._tally.add(1, 0)


class _Filled:
    """A sparse member's bytes in order, with the zeros between its segments, (start, end) each."""

    def __init__(self, reader: tar.TarReader, segments: list[tuple[int, int]]) -> None:
        self._reader = reader
        self._segments = deque(segments)

    def opened(self, start: int, end: int) -> ReadInto:
        """A reader of the file's bytes [start, end); to be asked for in order, and read to the end."""
        position = start

        def read_into(view: memoryview) -> int:
            nonlocal position
            while self._segments and self._segments[0][1] <= position:
                self._segments.popleft()
            first, last = self._segments[0] if self._segments else (end, end)
            if position < first:
                count = min(len(view), first - position, end - position)
                view[:count] = bytes(count)
            else:
                count = self._reader.read_into(view[: min(len(view), last - position)])
            position += count
            return count

        return read_into
