"""The tree of a dataset that nothing was put in yet."""

import stat

from blake3 import blake3

from lamina.fs.node import NS, inode_key, pack_inode, pack_root
from lamina.fs.tree import build
from lamina.fs.types import ROOT_INO, Inode, Totals
from lamina.fs.view import StoredTree


def empty_tree(creation: int) -> StoredTree:
    """An empty root directory, made at ``creation`` (seconds since the epoch). Its objects are in no pool."""
    objects: dict[bytes, bytes] = {}

    def put(data: bytes) -> bytes:
        key = blake3(data).digest()
        objects[key] = data
        return key

    time = creation * NS
    root = Inode(ROOT_INO, stat.S_IFDIR | 0o755, 0, 0, 2, 0, time, time, time)
    height, top = build([(inode_key(ROOT_INO), pack_inode(root))], put)
    return StoredTree(put(pack_root(height, top, Totals(1, 0, 1, 0, ROOT_INO + 1))), objects.__getitem__)
