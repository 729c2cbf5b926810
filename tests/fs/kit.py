"""Trees over a dict of objects."""

import random
from collections.abc import Iterable

from blake3 import blake3

from lamina.errors import DamagedData
from lamina.fs.node import pack_root
from lamina.fs.tree import TreeReader, build
from lamina.fs.types import Totals
from lamina.fs.view import StoredTree

Item = tuple[bytes, bytes]
NO_TOTALS = Totals(0, 0, 0, 0, 2)


class Objects:
    """An object store in memory; ``written`` are the bytes of objects that were new."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.written = 0
        self.read: list[bytes] = []

    def put(self, data: bytes) -> bytes:
        key = blake3(data).digest()
        if key not in self.data:
            self.data[key] = data
            self.written += len(data)
        return key

    def get(self, key: bytes) -> bytes:
        self.read.append(key)
        if key not in self.data:
            raise DamagedData("object is not there")
        return self.data[key]

    def reader(self, items: Iterable[Item], cache_nodes: int = 512) -> TreeReader:
        return TreeReader(self.get, *build(items, self.put), cache_nodes)

    def tree(self, items: Iterable[Item], totals: Totals = NO_TOTALS) -> StoredTree:
        return StoredTree(self.put(pack_root(*build(items, self.put), totals)), self.get)


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)
