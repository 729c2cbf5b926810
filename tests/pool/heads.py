"""Heads and snapshots of models: as long as nothing is mounted to be written, this is how a head changes."""

from pyroaring import BitMap64

from lamina.fs.node import pack_root
from lamina.fs.tree import build
from lamina.fs.view import StoredTree
from lamina.pool import Pool
from lamina.store.record import Kind
from lamina.store.writer import StoreWriter
from tests.fs.diff_model import Model
from tests.fs.kit import Objects


class _Chunks(Objects):
    """The model's chunks go into a pool."""

    def __init__(self, writer: StoreWriter) -> None:
        super().__init__()
        self._writer = writer

    def put(self, data: bytes) -> bytes:
        return self._writer.put(data, Kind.CHUNK)


def take(pool: Pool, dataset: str, name: str, model: Model, kind: str = "snapshot") -> None:
    """Make the model's tree the head of a dataset, which is made if it is not there, and keep it as a snapshot."""
    catalogue, totals = pool._catalogue, model.totals()
    pool.create_dataset(dataset, parents=True)
    with pool._writer() as writer:
        height, top = build(model.items(_Chunks(writer)), lambda node: writer.put(node, Kind.NODE))
        root = writer.put(pack_root(height, top, totals), Kind.ROOT)
        with catalogue.change(writer) as change:
            located = pool.store.locate(set(StoredTree(root, pool.store.get).objects()))
            pool.store.database.execute(
                "INSERT OR IGNORE INTO tree(root, inodes, files, directories, data_bytes, stored, decoded, objects) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(located[root].id, totals.inodes, totals.files, totals.directories, totals.data_bytes),
                    sum(one.stored for one in located.values()),
                    sum(one.decoded for one in located.values()),
                    BitMap64(one.id for one in located.values()).serialize(),
                ),
            )
            row = catalogue.dataset(dataset)
            snapshot = catalogue.add_snapshot(change, row.id, name, kind, located[root].id, 0)
            follows = snapshot if kind == "image" else None
            catalogue.set_head(change, row.id, located[root].id, follows, 0)
