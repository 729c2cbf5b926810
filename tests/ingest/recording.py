"""Layers into a store without a pool, and out of it."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from functools import reduce

from lamina.fs.spool import ItemSpool
from lamina.fs.structure import join, read_leaf, tree_problems
from lamina.fs.view import StoredTree
from lamina.ingest.assemble import write_tree
from lamina.ingest.extentlog import ExtentLog
from lamina.ingest.flatten import Flattening
from lamina.ingest.progress import Tally
from lamina.ingest.recorded import record_layer
from lamina.ingest.tasks import Workers
from lamina.store.codec import DEFAULT
from tests.ingest.kit import Shop


@contextlib.contextmanager
def record(shop: Shop, tars: Sequence[bytes], *, memory: int = 8 << 20, threads: int = 1) -> Iterator[list[ExtentLog]]:
    """Take layers in, one after the other; where their bytes lie."""
    writer = shop.writer()
    with contextlib.ExitStack() as stack:
        stack.callback(writer.close)
        workers = stack.enter_context(contextlib.closing(Workers(threads)))
        logs = []
        for tar in tars:
            log = stack.enter_context(contextlib.closing(ExtentLog(shop.path, memory)))
            record_layer(io.BytesIO(tar), log, writer, workers, Tally(), DEFAULT, 1 << 17)
            logs.append(log)
        writer.flush()
        yield logs


def written_again(shop: Shop, log: ExtentLog) -> bytes:
    """The tar."""
    tar = bytearray(log.size)
    end = 0
    for extent in log.extents():
        assert extent.offset >= end and extent.length > 0
        end = extent.offset + extent.length
        data = shop.store.get(extent.key, verify=True)[extent.chunk_offset : extent.chunk_offset + extent.length]
        assert len(data) == extent.length
        tar[extent.offset : end] = data
    assert end <= log.size
    return bytes(tar)


def flatten(shop: Shop, logs: Sequence[ExtentLog], *, memory: int = 64 << 20) -> StoredTree:
    """The root file system of layers."""
    writer = shop.writer()
    try:
        with contextlib.closing(ItemSpool(shop.path, memory)) as spool:
            flat = Flattening(spool, shop.store.get, lambda: None)
            for log in logs:
                flat.add(log.size, log.extents())
            root, totals = write_tree(flat.items(), flat.next_ino, writer)
        with writer.commit():
            pass
    except BaseException:
        writer.abort()
        raise
    writer.close()
    tree = StoredTree(root, shop.store.get)
    assert tree.totals == totals
    leaves = [node for _, node in tree.reader.nodes() if node.level == 0]
    summary = reduce(join, [read_leaf(leaf).summary for leaf in leaves])
    assert tree_problems(summary, totals, tree.reader, set()) == []
    return tree
