"""The directories that hold an inode, without a search where the tree says it."""

from collections.abc import Container
from stat import S_IFDIR, S_ISDIR

from lamina.fs.imagearea import AREA_KEY
from lamina.fs.node import DIRENT, inode_key, key_ino, unpack_dirent, unpack_inode
from lamina.fs.view import StoredTree


class Parents:
    """Parents in one tree, by the links that inodes have (``Inode.parent``).

    A link names one directory: a file of several names, and one of a pool that has no links yet, needs all directory
    entries read, once.
    """

    def __init__(self, tree: StoredTree, files: Container[int]) -> None:
        """``files``: inodes that may be asked for; of others only directories are kept from a search."""
        self._tree = tree
        self._files = files
        self._searched: dict[int, list[int]] | None = None

    def of(self, ino: int) -> list[int]:
        """Inode numbers of the directories that hold it, each at least once; none where it is not in the tree."""
        value = self._tree.reader.find(inode_key(ino))
        if value is None:
            return []
        inode = unpack_inode(ino, value)
        if inode.parent and (inode.nlink < 2 or S_ISDIR(inode.mode)):
            return [inode.parent]
        if self._searched is None:
            self._searched = self._search()
        return self._searched.get(ino, [])

    def _search(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for leaf in self._tree.reader.leaves():
            if leaf.keys[0] >= AREA_KEY:
                break
            for key, value in zip(leaf.keys, leaf.values, strict=True):
                if key[8] == DIRENT:
                    entry = unpack_dirent(key, value)
                    if entry.mode_type == S_IFDIR or entry.ino in self._files:
                        found.setdefault(entry.ino, []).append(key_ino(key))
        return found
