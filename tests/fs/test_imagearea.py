"""The image area: what is put in comes out, and the same layer is the same nodes wherever it is."""

import io
import random
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from hashlib import sha256
from itertools import pairwise
from stat import S_ISDIR, S_ISREG

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import DamagedData, NotFound, SourceError
from lamina.fs.imagearea import (
    CONFIG_INO,
    IMAGE_INO,
    MANIFEST_INO,
    MOST_CONFIG,
    ImageArea,
    area_items,
    is_diff_id,
    layer_ino,
    named_ino,
)
from lamina.fs.node import (
    DIRENT,
    EXTENT,
    INODE,
    Node,
    inode_key,
    key_ino,
    number_key,
    pack_dirent,
    pack_extent,
    pack_inode,
    pack_node,
    unpack_inode,
)
from lamina.fs.structure import join, read_leaf, tree_problems
from lamina.fs.tree import TreeReader, build
from lamina.fs.types import Extent, Inode, Totals
from tests.fs.kit import Item, Objects, noise

ROOT: Item = (inode_key(1), pack_inode(Inode(1, 0o40755, 0, 0, 2, 0, 0, 0, 0, parent=1)))


def digest(seed: int) -> str:
    return "sha256:" + sha256(b"%d" % seed).hexdigest()


def laid(objects: Objects, parts: list[tuple[int, int, int]], tail: int) -> tuple[bytes, tuple[int, list[Extent]]]:
    """Bytes of a file, and its size and extents: (hole before, which of a few chunks, length) of each, a hole after."""
    data = bytearray()
    extents: list[Extent] = []
    for hole, seed, length in parts:
        chunk = noise(seed, 3000)
        start = seed * 7 % (3000 - length)
        data += bytes(hole)
        extents.append(Extent(len(data), length, objects.put(chunk), start))
        data += chunk[start : start + length]
    data += bytes(tail)
    return bytes(data), (len(data), extents)


PARTS = st.lists(st.tuples(st.sampled_from([0, 0, 1, 4000]), st.integers(0, 3), st.integers(1, 2900)), max_size=30)
FILES = st.tuples(PARTS, st.sampled_from([0, 0, 1, 5000]))


@settings(max_examples=60, deadline=None)
@given(layers=st.lists(FILES, max_size=4), config=FILES, manifest=st.none() | FILES, seed=st.integers(0, 1 << 30))
def test_what_is_put_in_comes_out(
    layers: list[tuple[list[tuple[int, int, int]], int]],
    config: tuple[list[tuple[int, int, int]], int],
    manifest: tuple[list[tuple[int, int, int]], int] | None,
    seed: int,
) -> None:
    objects = Objects()
    stored = {digest(number): laid(objects, *parts) for number, parts in enumerate(layers)}
    config_data, config_file = laid(objects, *config)
    manifest_data, manifest_file = laid(objects, *manifest) if manifest is not None else (None, None)
    items = list(area_items({diff_id: file for diff_id, (_, file) in stored.items()}, config_file, manifest_file))
    assert all(a < b for (a, _), (b, _) in pairwise(items))
    area = ImageArea(objects.tree([ROOT, *items]))
    assert area.present
    assert area.config() == config_data
    assert area.manifest() == manifest_data
    assert area.layers() == {diff_id: size for diff_id, (_, (size, _)) in stored.items()}
    for diff_id, (data, (_, extents)) in stored.items():
        assert list(area.extents(diff_id)) == extents
        with area.open_layer(diff_id) as stream:
            assert stream.read() == data and stream.read(1) == b""
        check_reading(area, diff_id, data, random.Random(seed))


def check_reading(area: ImageArea, diff_id: str, data: bytes, generator: random.Random) -> None:
    """Reads and seeks at random are those of a file in memory."""
    with area.open_layer(diff_id) as stream, io.BytesIO(data) as other:
        assert stream.seekable() and stream.readable()
        for _ in range(20):
            if generator.random() < 0.5:
                target, whence = generator.choice(
                    [
                        (generator.randrange(len(data) + 10), io.SEEK_SET),
                        (-generator.randrange(len(data) + 1), io.SEEK_END),
                        (generator.randrange(2000), io.SEEK_CUR),
                    ]
                )
                assert stream.seek(target, whence) == other.seek(target, whence)
            size = generator.choice([0, 1, 512, generator.randrange(1 << 16)])
            into = bytearray(size)
            count = stream.readinto(into)  # type: ignore[attr-defined]
            assert bytes(into[:count]) == other.read(size)
            assert stream.tell() == other.tell() or other.tell() > len(data)


def test_a_large_layer_read_steadily_and_not() -> None:
    """Far seeks, chunks met again, reading ahead: the bytes are right, and who only seeks reads nothing between."""
    objects = Objects()
    chunks = [noise(seed, 1 << 20) for seed in range(6)]
    keys = [objects.put(chunk) for chunk in chunks]
    recipe = noise(9, 4096)
    recipe_key = objects.put(recipe)
    extents: list[Extent] = []
    expected: list[bytes] = []
    position = 0
    for number in range(160):
        for key, data in ((recipe_key, recipe), (keys[number % 6], chunks[number % 6])):
            extents.append(Extent(position, len(data), key, 0))
            expected.append(data)
            position += len(data)
    items = area_items({digest(1): (position, extents)}, (0, []), None)
    area = ImageArea(objects.tree([ROOT, *items]))
    with area.open_layer(digest(1)) as stream:
        objects.read.clear()
        for at in range(0, position, len(recipe) + (1 << 20)):
            stream.seek(at)
            assert stream.read(512) == recipe[:512]
        assert not set(keys) & set(objects.read), "data was read by who only seeks over it"
        assert objects.read.count(recipe_key) == 1
        stream.seek(0)
        for data in expected:
            assert stream.read(len(data)) == data
        stream.seek(-(len(recipe) + (1 << 20)), io.SEEK_END)
        assert stream.read(10) == recipe[:10]
        with pytest.raises(ValueError, match="cannot seek"):
            stream.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


def test_a_plain_tree_has_none() -> None:
    assert not ImageArea(Objects().tree([ROOT])).present


def test_numbers() -> None:
    assert layer_ino(digest(1)) == layer_ino(digest(1)) != layer_ino(digest(2))
    assert layer_ino("sha256:" + "f" * 64) == (1 << 63) - 1
    assert layer_ino("sha256:" + "0" * 64) == IMAGE_INO | 1 << 61
    assert (named_ino(b"config"), named_ino(b"manifest")) == (CONFIG_INO, MANIFEST_INO)
    assert named_ino(digest(3).encode()) == layer_ino(digest(3))
    assert named_ino(b"other") == named_ino(b"\xff") == 0


@pytest.mark.parametrize("text", ["", "sha256:", "sha512:" + "0" * 64, "sha256:" + "A" * 64, digest(1) + "\n"])
def test_what_is_no_diff_id(text: str) -> None:
    assert not is_diff_id(text)
    with pytest.raises(SourceError, match="is no diff ID"):
        layer_ino(text)


def test_layers_that_begin_alike_cannot_be_in_one_image() -> None:
    """Sixty-one bits can be made equal on purpose."""
    one, other = digest(1), digest(1)[:-1] + ("0" if digest(1)[-1] != "0" else "1")
    with pytest.raises(SourceError, match="begin alike"):
        area_items({one: (0, []), other: (0, [])}, (0, []), None)


@pytest.mark.parametrize(
    "extents", [[(0, 5), (4, 5)], [(5, 5), (0, 5)], [(0, 0)], [(6, 5)]], ids=["overlap", "order", "empty", "beyond"]
)
def test_extents_that_do_not_fit_are_not_written(extents: list[tuple[int, int]]) -> None:
    layer = (10, [Extent(offset, length, bytes(32), 0) for offset, length in extents])
    with pytest.raises(ValueError, match="does not fit"):
        list(area_items({digest(1): layer}, (0, []), None))


# -- what came from elsewhere -------------------------------------------------------------------------------------


def area_of(change: object = None) -> ImageArea:
    objects = Objects()
    chunk = objects.put(b"0123456789")
    file = (10, [Extent(0, 10, chunk, 0)])
    items = dict([ROOT, *area_items({digest(1): file}, file, file)])
    if callable(change):
        change(items)
    return ImageArea(objects.tree(sorted(items.items())))


def test_a_broken_area_is_said_to_be_one() -> None:
    good = area_of()
    assert good.layers() == {digest(1): 10} and good.size(digest(1)) == 10
    with pytest.raises(NotFound, match="has no layer"):
        good.open_layer(digest(2))
    ino = layer_ino(digest(1))

    def longer(items: dict[bytes, bytes]) -> None:
        items[number_key(ino, EXTENT, 0)] = pack_extent(20, 0, items[number_key(ino, EXTENT, 0)][8:])
        items[inode_key(ino)] = pack_inode(Inode(ino, 0o100400, 0, 0, 1, 20, 0, 0, 0, parent=IMAGE_INO))

    with area_of(longer).open_layer(digest(1)) as stream, pytest.raises(DamagedData, match="beyond its chunk"):
        stream.read()

    def other(items: dict[bytes, bytes]) -> None:
        key = next(k for k, v in items.items() if k[8] == DIRENT and v[9:] == digest(1).encode())
        items[key] = pack_dirent(ino, 0o100000, b"a layer")

    with pytest.raises(DamagedData, match="is not the one it is said to be"):
        area_of(other).layers()

    def large(items: dict[bytes, bytes]) -> None:
        inode = Inode(CONFIG_INO, 0o100400, 0, 0, 1, MOST_CONFIG + 1, 0, 0, 0, parent=IMAGE_INO)
        items[inode_key(CONFIG_INO)] = pack_inode(inode)

    with pytest.raises(DamagedData, match="longer than 8 MiB"):
        area_of(large).config()
    with pytest.raises(DamagedData, match="the image lacks its manifest"):
        area_of(lambda items: items.pop(inode_key(MANIFEST_INO))).manifest()


# -- sharing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1_000, 5_000, 20_000])
def test_the_same_layer_is_the_same_nodes(count: int) -> None:
    """Two images with other files and other layers around one layer: only the nodes at its ends differ.

    On average three or four: 84 % are the same for 5,000 extents, 95 % for 20,000, a layer of 10,000 files.
    """
    for seed in range(4):
        common = layer_of(seed, count)
        trees = []
        for image in (1, 2):
            objects = Objects()
            files = [(inode_key(n), noise(n * image, 100)) for n in range(2, 500 + image)]
            layers = {digest(seed): common, digest(100 * image + seed): layer_of(50 * image + seed, 300)}
            config = (3, [Extent(0, 3, bytes([image]) * 32, 0)])
            build([ROOT, *files, *area_items(layers, config, None)], objects.put)
            trees.append(objects.data)
        ours = {key for key, data in trees[0].items() if digest_in(data, seed)}
        assert len(ours) >= count // 300
        assert len(ours - trees[1].keys()) <= 7


def layer_of(seed: int, count: int) -> tuple[int, list[Extent]]:
    generator = random.Random(seed)
    return count * 512, [Extent(at * 512, 512, generator.randbytes(32), 0) for at in range(count)]


def digest_in(node: bytes, seed: int) -> bool:
    """Whether a node holds an item of the layer."""
    return layer_ino(digest(seed)).to_bytes(8, "big") + bytes([EXTENT]) in node


def test_kinds_of_items() -> None:
    objects = Objects()
    tree = objects.tree([ROOT, *area_items({digest(1): (0, [])}, (0, []), (0, []))])
    inodes = [tree.inode(key_ino(key)) for key, _ in tree.reader.items() if key[8] == INODE]
    assert [inode.ino for inode in inodes] == [1, IMAGE_INO, CONFIG_INO, MANIFEST_INO, layer_ino(digest(1))]
    assert S_ISDIR(inodes[1].mode) and (inodes[1].nlink, inodes[1].parent) == (2, IMAGE_INO)
    for inode in inodes[2:]:
        assert S_ISREG(inode.mode) and inode.mode & 0o777 == 0o400
        assert (inode.nlink, inode.parent, inode.uid, inode.gid, inode.mtime_ns) == (1, IMAGE_INO, 0, 0, 0)
    assert {entry.name for entry in tree.readdir(IMAGE_INO)} == {b"config", b"manifest", digest(1).encode()}


# -- whether it makes an image: fs/structure.py -------------------------------------------------------------------


def whole() -> dict[bytes, bytes]:
    """Items of a small file system with an image area of two layers."""
    chunk = bytes(32)
    layers = {digest(seed): (100, [Extent(at, 10, chunk, at) for at in range(0, 100, 10)]) for seed in (1, 2)}
    name = number_key(1, DIRENT, 5 << 15), pack_dirent(2, 0o100000, b"file")
    file = Inode(2, 0o100644, 0, 0, 1, 10, 0, 0, 0, parent=1)
    files = [name, (inode_key(2), pack_inode(file)), (number_key(2, EXTENT, 0), pack_extent(10, 0, chunk))]
    return dict([ROOT, *files, *area_items(layers, (10, [Extent(0, 10, chunk, 0)]), (0, []))])


def found_wrong(items: dict[bytes, bytes], width: int) -> list[str]:
    """Problems of a tree whose leaves hold ``width`` items each; its totals are those of ``whole``."""
    objects = Objects()
    keys = sorted(items)
    parts = [keys[at : at + width] for at in range(0, len(keys), width)]
    leaves = [pack_node(0, part, [items[key] for key in part]) for part in parts]
    top = pack_node(1, [part[-1] for part in parts], [objects.put(leaf) for leaf in leaves])
    summary = reduce(join, [read_leaf(Node(leaf)).summary for leaf in leaves])
    return tree_problems(summary, Totals(2, 1, 1, 10, 3), TreeReader(objects.get, 1, objects.put(top)), set())


@pytest.mark.parametrize("width", [1, 2, 3, 7, 1000])
def test_a_whole_image_is_right(width: int) -> None:
    assert found_wrong(whole(), width) == []


LAYER = layer_ino(digest(1))


def entry_of(items: dict[bytes, bytes], name: bytes) -> bytes:
    return next(key for key, value in items.items() if key[8] == DIRENT and value[9:] == name)


def set_inode(ino: int, **fields: int) -> Callable[[dict[bytes, bytes]], None]:
    def change(items: dict[bytes, bytes]) -> None:
        items[inode_key(ino)] = pack_inode(replace(unpack_inode(ino, items[inode_key(ino)]), **fields))

    return change


def without(*inodes: int) -> Callable[[dict[bytes, bytes]], None]:
    """Nothing of these inodes, nor their names."""

    def change(items: dict[bytes, bytes]) -> None:
        for key in list(items):
            named = key[8] == DIRENT and int.from_bytes(items[key][:8], "little") in inodes
            if key_ino(key) in inodes or named:
                del items[key]

    return change


def stranger(items: dict[bytes, bytes]) -> None:
    """A layer with its name, its links, its parent, and another inode number."""
    other = layer_ino(digest(9))
    without(LAYER)(items)
    items[number_key(IMAGE_INO, DIRENT, 77 << 15)] = pack_dirent(other, 0o100000, digest(1).encode())
    items[inode_key(other)] = pack_inode(Inode(other, 0o100400, 0, 0, 1, 0, 0, 0, 0, parent=IMAGE_INO))


def shown(items: dict[bytes, bytes]) -> None:
    """A name in the root file system for a layer."""
    items[number_key(1, DIRENT, 99 << 15)] = pack_dirent(LAYER, 0o100000, b"x")
    set_inode(LAYER, nlink=2)(items)


def shown_directory(items: dict[bytes, bytes]) -> None:
    items[number_key(1, DIRENT, 99 << 15)] = pack_dirent(IMAGE_INO, 0o40000, b"x")
    set_inode(1, nlink=3)(items)
    set_inode(IMAGE_INO, nlink=4)(items)


def hides_a_file(items: dict[bytes, bytes]) -> None:
    """A second name for a file, in the area."""
    items[number_key(IMAGE_INO, DIRENT, 99 << 15)] = pack_dirent(2, 0o100000, digest(3).encode())
    set_inode(2, nlink=2)(items)


def in_area(items: dict[bytes, bytes]) -> None:
    """A file with a place among the layers that nothing names."""
    items[inode_key(IMAGE_INO + 9)] = pack_inode(Inode(IMAGE_INO + 9, 0o100400, 0, 0, 1, 0, 0, 0, 0, parent=IMAGE_INO))


WRONG: list[tuple[Callable[[dict[bytes, bytes]], object], str]] = [
    (lambda items: items.pop(inode_key(LAYER)), "has items, but no inode item"),
    (lambda items: items.pop(inode_key(MANIFEST_INO)), "which is not there"),
    (lambda items: items.pop(inode_key(IMAGE_INO)), "has items, but no inode item"),
    (lambda items: items.pop(entry_of(items, b"manifest")), "has 0 links, it says 1"),
    (lambda items: items.pop(entry_of(items, digest(2).encode())), "has 0 links, it says 1"),
    (set_inode(LAYER, nlink=2), "is not a file of one name"),
    (set_inode(LAYER, parent=1), "is not a file of one name"),
    (set_inode(LAYER, mode=0o120777), "is not a file of one name"),
    (set_inode(IMAGE_INO, nlink=3), "is not as it should be"),
    (set_inode(IMAGE_INO, parent=1), "is not as it should be"),
    (set_inode(LAYER, size=50), "has data beyond its size"),
    (lambda items: items.update({number_key(LAYER, EXTENT, 15): pack_extent(10, 0, bytes(32))}), "that overlap"),
    (without(CONFIG_INO), "its image has no config"),
    (stranger, "that is of another inode"),
    (shown, "that is of another inode"),
    (shown_directory, "that is of another inode"),
    (hides_a_file, "that is of another inode"),
    (in_area, "has 0 links, it says 1"),
]


@pytest.mark.parametrize("width", [1, 3, 1000])
@pytest.mark.parametrize(("change", "words"), WRONG)
def test_a_broken_image_is_told(change: Callable[[dict[bytes, bytes]], object], words: str, width: int) -> None:
    items = whole()
    change(items)
    found = found_wrong(items, width)
    assert any(words in line for line in found), found


@settings(max_examples=80, deadline=None)
@given(at=st.integers(0, 10**6), width=st.integers(1, 30))
def test_any_item_taken_away_is_missed(at: int, width: int) -> None:
    """But for extents: a hole may stand there. Bytes of the root file system are counted."""
    items = whole()
    key = sorted(items)[at % len(items)]
    del items[key]
    assert found_wrong(items, width) or (key[8] == EXTENT and key_ino(key) > IMAGE_INO)
