"""Comparing a tree with a known one tells what a walk of all of it tells, or that it takes a walk.

``LAMINA_HISTORIES=500`` changes a tree five hundred times; without it, sixteen.
"""

import os
import random
from collections.abc import Iterator

import pytest
from pyroaring import BitMap64

from lamina.errors import StreamError
from lamina.fs.node import EXTENT, INODE, number_key, pack_extent, pack_inode, pack_root, unpack_root
from lamina.fs.structure import Summary
from lamina.fs.tree import TreeReader, apply
from lamina.fs.view import StoredTree
from lamina.pool import Pool
from lamina.pool.checking.walking import Walker
from lamina.replication.completeness import TreeCheck
from lamina.replication.nearby import KnownTree, compare
from lamina.store.record import Kind
from tests.fs.diff_model import REG
from tests.pool.heads import take
from tests.replication.kit import Sound, receive, send

CHANGES = int(os.environ.get("LAMINA_HISTORIES", "16"))


def known(pool: Pool, name: str) -> KnownTree:
    rows = pool._database.query(
        "SELECT o.key, t.objects FROM tree t JOIN object o ON o.id = t.root WHERE t.root = ?", (pool.root(name),)
    )
    return KnownTree(rows[0][0], BitMap64.deserialize(rows[0][1]))


def small_change(model: Sound, rng: random.Random) -> None:
    """One of those that leave the shape of the directories alone."""
    files = [ino for ino, file in model.files.items() if file.type == REG]
    what = rng.randrange(5)
    ino = rng.choice(files)
    if what == 0:
        model.edit(ino)
    elif what == 1:
        model.make(REG, rng.choice(model.directories()), b"new%d" % model.next)
    elif what == 2:
        parent = rng.choice([one for one in model.directories() if model.files[one].names])
        name = rng.choice(sorted(model.files[parent].names))
        if model.files[model.files[parent].names[name]].type == REG:
            model.unlink(parent, name)
    elif what == 3:
        model.files[ino].data = rng.randbytes(rng.choice([0, 40, 3000]))
        model.touch(ino, size=len(model.files[ino].data))
    else:
        model.change()


@pytest.fixture
def trees(tank: Pool) -> Iterator[Pool]:
    """A tree of thirty leaves and more, with files whose extents go over several."""
    model = Sound(seed=1).grow(12, 60)
    for number in range(3):
        ino = model.make(REG, 1, b"large%d" % number)
        model.files[ino].data = random.Random(number).randbytes(9000)
        model.touch(ino, size=9000)
    take(tank, "tank/m", "0", model)
    tank.model = model  # type: ignore[attr-defined]
    yield tank


def test_small_changes(trees: Pool) -> None:
    model: Sound = trees.model  # type: ignore[attr-defined]
    rng = random.Random(5)
    sure = 0
    before = "0"
    for number in range(1, CHANGES + 1):
        for _ in range(rng.choice([0, 1, 1, 2, 6])):
            small_change(model, rng)
        take(trees, "tank/m", str(number), model)
        root = known(trees, f"tank/m@{number}")
        walked = Walker(trees.store).walk(root.root)
        assert not walked.problems and not walked.missing and walked.objects == root.objects
        found = compare(trees.store, root.root, known(trees, f"tank/m@{before}"))
        if found is not None:
            sure += 1
            assert (found.objects, found.totals, found.whole) == (walked.objects, walked.totals, True)
            assert not found.missing and not found.problems
        checked = TreeCheck(trees.store, many=False).walk(root.root, "x", known(trees, f"tank/m@{before}"))
        assert checked.objects == walked.objects
        before = str(rng.choice([number, int(before)]))
    assert sure > CHANGES / 3


def edited(pool: Pool, name: str, edits: dict[bytes, bytes | None], **totals: int) -> bytes:
    """The root of a snapshot's tree with items changed, whatever that makes of it."""
    tree = pool.tree(name)
    assert isinstance(tree, StoredTree)
    height, top, before = unpack_root(pool.store.get(tree.root_key))
    with pool._writer() as writer:
        reader = TreeReader(pool.store.get, height, top)
        height, top = apply(reader, sorted(edits.items()), lambda node: writer.put(node, Kind.NODE))
        changed = type(before)(*(totals.get(one, getattr(before, one)) for one in before.__slots__))
        root = writer.put(pack_root(height, top, changed), Kind.ROOT)
        writer.flush()
    return root


def test_what_is_wrong_is_never_called_right(trees: Pool) -> None:
    """Each of these is found by a walk of the whole tree; comparing must not say that all is well."""
    base = known(trees, "tank/m@0")
    tree = trees.tree("tank/m@0")
    model: Sound = trees.model  # type: ignore[attr-defined]
    ino = next(one for one, file in model.files.items() if file.type == REG and 8 < len(file.data) < 100)
    large = max(model.files, key=lambda one: len(model.files[one].data))
    inode, extent = tree.inode(ino), tree.extents(ino)[0]
    from dataclasses import replace

    from lamina.fs.node import inode_key

    gone = bytes(range(32))
    edits: list[tuple[dict[bytes, bytes | None], dict[str, int]]] = [
        ({inode_key(ino): None}, {}),
        ({inode_key(ino): pack_inode(replace(inode, nlink=2))}, {}),
        ({inode_key(ino): pack_inode(replace(inode, size=1))}, {}),
        ({inode_key(ino): pack_inode(replace(inode, mode=0o040755))}, {}),
        ({inode_key(ino): pack_inode(replace(inode, parent=2 if inode.parent != 2 else 3))}, {}),
        ({number_key(ino, EXTENT, extent.offset): pack_extent(extent.length, 0, gone)}, {}),
        ({number_key(ino, EXTENT, extent.offset): pack_extent(extent.length, 5000, extent.key)}, {}),
        ({number_key(ino, EXTENT, extent.offset): pack_extent(extent.length, 0, base.root)}, {}),
        ({number_key(ino, EXTENT, extent.offset + 1): pack_extent(extent.length, 0, extent.key)}, {}),
        ({number_key(large, EXTENT, 10**6): pack_extent(8, 0, extent.key)}, {}),
        ({number_key(large, EXTENT, 4001): pack_extent(8, 0, extent.key)}, {}),
        ({inode_key(large): None}, {}),
        ({number_key(model.next + 5, EXTENT, 0): pack_extent(8, 0, extent.key)}, {}),
        *(({}, {name: getattr(tree.totals, name) + 1}) for name in ("inodes", "files", "directories", "data_bytes")),
        ({}, {"next_ino": 5}),
    ]
    for number, (changes, totals) in enumerate(edits):
        root = edited(trees, "tank/m@0", changes or {inode_key(ino): pack_inode(replace(inode, uid=number))}, **totals)
        walked = Walker(trees.store).walk(root)
        assert walked.problems or walked.missing, number
        assert compare(trees.store, root, base) is None, number
        with pytest.raises(StreamError, match=r"makes no file system|it lacks \d+ objects"):
            TreeCheck(trees.store, many=False).walk(root, "x", base)
    assert Summary().inodes == INODE == 0


def test_a_chunk_that_is_used_elsewhere_stays_reached(trees: Pool, back: Pool) -> None:
    """Two files far apart have one chunk; one of them changes."""
    model = Sound(seed=9).grow(12, 60)
    files = [ino for ino, file in model.files.items() if file.type == REG]
    for ino in (files[0], files[-1]):
        model.files[ino].data = b"the same"
        model.touch(ino, size=8)
    take(trees, "tank/n", "1", model)
    model.files[files[0]].data = b"another "
    take(trees, "tank/n", "2", model)
    found = compare(trees.store, known(trees, "tank/n@2").root, known(trees, "tank/n@1"))
    assert found is not None and found.objects == known(trees, "tank/n@2").objects
    model.files[files[-1]].data = b"another "
    take(trees, "tank/n", "3", model)
    found = compare(trees.store, known(trees, "tank/n@3").root, known(trees, "tank/n@2"))
    assert found is not None and found.objects == known(trees, "tank/n@3").objects
    receive(back, send(trees, "tank/n@1"), "back/n")
    receive(back, send(trees, "tank/n@2", base="@1"), "back/n")
    receive(back, send(trees, "tank/n@3", base="@2"), "back/n")
    back.destroy("back/n@1,2")
    back.gc()
    left = set(StoredTree(known(trees, "tank/n@3").root, trees.store.get).objects())
    assert {key for (key,) in back._database.query("SELECT key FROM object WHERE kind < 4")} == left
