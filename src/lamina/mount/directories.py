"""READDIR and READDIRPLUS: directory entries packed as the kernel takes them."""

import os
import stat
from collections.abc import Callable

from lamina.errors import LaminaError
from lamina.fs.types import Inode
from lamina.mount import protocol
from lamina.mount.namespace import ROOT_NODE, VIRTUAL, ZFS_NAME, Child, Namespace, Place
from lamina.mount.push import Pusher

_DIRECTORY = stat.S_IFDIR >> 12
_PAD = (b"", b"\0" * 7, b"\0" * 6, b"\0" * 5, b"\0" * 4, b"\0" * 3, b"\0" * 2, b"\0")
_PLUS = protocol.DIRENTPLUS.size
_PLAIN = protocol.DIRENT.size
_MOST_KNOWN = 400_000
_MOST_ENDS = 1024


class Directories:
    """Answers READDIR and READDIRPLUS."""

    def __init__(
        self,
        device: int,
        namespace: Namespace,
        locate: Callable[[int], tuple[Place, int]],
        known: dict[int, int],
        pusher: Pusher,
        parents: dict[int, int],
        blocks: Callable[[Place, Inode], int],
        forever: int,
    ) -> None:
        self._device = device
        self._namespace = namespace
        self._locate = locate
        self._known = known
        self._pusher = pusher
        self._parents = parents
        self._blocks = blocks
        self._forever = forever
        self._ends: dict[int, int] = {}
        """Cookie of the last entry of directories that have lately been read to their end."""

    def readdir(self, unique: int, node: int, request: bytes) -> None:
        """READDIR: names, numbers and types."""
        self._answer(unique, node, request, plus=False)

    def readdirplus(self, unique: int, node: int, request: bytes) -> None:
        """READDIRPLUS: also what LOOKUP would answer for each name."""
        self._answer(unique, node, request, plus=True)

    def _answer(self, unique: int, node: int, request: bytes, *, plus: bool) -> None:
        _, offset, room = protocol.READ_IN.unpack_from(request, 40)
        if self._ends.get(node) == offset:
            # Every reader asks once more after the last entry.
            os.write(self._device, protocol.OUT_HEADER.pack(16, 0, unique))
            return
        out: list[bytes] = []
        room = self._dots(out, node, offset, room, plus)
        virtual = node >= VIRTUAL or (node == ROOT_NODE and self._namespace.virtual_root)
        if room < 0:
            pass
        elif virtual:
            self._virtual(out, node, offset, room, plus)
        else:
            extra = self._namespace.extra if node == ROOT_NODE and self._namespace.extra_visible else None
            if extra is not None and offset < extra.cookie:
                room = self._child(out, extra, room, plus)
            if plus:
                self._tree_plus(out, node, offset, room, extra)
            else:
                self._tree(out, node, offset, room, extra)
        body = b"".join(out)
        os.write(self._device, protocol.OUT_HEADER.pack(16 + len(body), 0, unique) + body)

    def _dots(self, out: list[bytes], node: int, offset: int, room: int, plus: bool) -> int:
        """Add "." and ".."; the room that is left, negative when one did not fit."""
        if offset < 1 and room >= 0:
            room = self._child(out, Child(b".", node, 1), room, plus)
        if offset < 2 and room >= 0:
            parent = self._namespace.parent(node) if node >= VIRTUAL else self._parents.get(node, node)
            room = self._child(out, Child(b"..", parent, 2), room, plus)
        return room

    def _child(self, out: list[bytes], child: Child, room: int, plus: bool) -> int:
        """Add a directory by name only; the room that is left, -1 when it does not fit."""
        length = len(child.name)
        pad = _PAD[length & 7]
        need = (_PLUS if plus else _PLAIN) + length + len(pad)
        if need > room:
            return -1
        if plus:
            out.append(protocol.EMPTY_ENTRY)
        out.append(protocol.DIRENT.pack(child.node, child.cookie, length, _DIRECTORY) + child.name + pad)
        return room - need

    def _virtual(self, out: list[bytes], node: int, offset: int, room: int, plus: bool) -> None:
        for child in self._namespace.children(node):
            if child.cookie > offset:
                room = self._child(out, child, room, plus)
                if room < 0:
                    break

    def _tree(self, out: list[bytes], node: int, offset: int, room: int, extra: Child | None) -> None:
        place, ino = self._locate(node)
        base, pack = place.base, protocol.DIRENT.pack
        for entry in place.view.readdir(ino, offset if offset > 15 else 0):
            name = entry.name
            length = len(name)
            pad = _PAD[length & 7]
            room -= _PLAIN + length + len(pad)
            if room < 0:
                break
            if extra is not None and name == ZFS_NAME:
                continue
            out.append(pack(base | entry.ino, entry.cookie, length, entry.mode_type >> 12) + name + pad)

    def _tree_plus(self, out: list[bytes], node: int, offset: int, room: int, extra: Child | None) -> None:
        place, ino = self._locate(node)
        base, view, blocks, forever = place.base, place.view, self._blocks, self._forever
        known, parents, fields = self._known, self._parents, protocol.attr_fields
        pack, pack_name = protocol.DIRENTPLUS.pack, protocol.DIRENT.pack
        self._pusher.version += 1
        if len(known) >= _MOST_KNOWN:
            known.clear()
        last = max(offset, 2 if extra is None else extra.cookie)
        for entry in view.readdir(ino, offset if offset > 15 else 0):
            name = entry.name
            length = len(name)
            pad = _PAD[length & 7]
            room -= _PLUS + length + len(pad)
            if room < 0:
                return
            last = entry.cookie
            if extra is not None and name == ZFS_NAME:
                continue
            child = base | entry.ino
            kind = entry.mode_type >> 12
            try:
                inode = view.inode(entry.ino)
            except LaminaError:
                # The name still shows; whoever looks it up is told, and the log with it.
                out.append(protocol.EMPTY_ENTRY + pack_name(child, entry.cookie, length, kind) + name + pad)
                continue
            if kind == 8:
                known[child] = inode.size
            elif kind == 4:
                parents[child] = node
            attr = fields(inode, child, blocks(place, inode))
            out.append(pack(child, 0, forever, forever, 0, 0, *attr, child, entry.cookie, length, kind) + name + pad)
        if len(self._ends) >= _MOST_ENDS:
            self._ends.clear()
        self._ends[node] = last
