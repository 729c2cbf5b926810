"""The B+tree next to a dict."""

import random
import tracemalloc
from bisect import bisect_left

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lamina.errors import DamagedData
from lamina.fs import tree
from lamina.fs.node import DIRENT, Node, inode_key, name_cookie, number_key, pack_dirent, pack_node
from lamina.fs.tree import _BOUNDS, TreeReader, apply, build
from tests.fs.kit import Item, Objects, noise


def items_of(seed: int, count: int, most: int = 300) -> dict[bytes, bytes]:
    rng = random.Random(seed)
    return {
        number_key(rng.randrange(50), DIRENT, rng.getrandbits(62)): rng.randbytes(rng.randrange(most))
        for _ in range(count)
    }


seeds = st.integers(0, 10**6)
counts = st.integers(1, 900)


@given(seeds, counts, st.sampled_from([1, 40, 300, 3000]))
@settings(max_examples=60, deadline=None)
def test_a_tree_gives_back_its_items(seed: int, count: int, most: int) -> None:
    model = items_of(seed, count, most)
    order = sorted(model)
    reader = Objects().reader(sorted(model.items()), cache_nodes=3)
    assert list(reader.items()) == sorted(model.items())
    rng = random.Random(seed)
    for key in rng.sample(order, min(20, len(order))):
        assert reader.find(key) == model[key]
        assert reader.find(key + b"\0") is None
        assert reader.find(key[:-1]) == model.get(key[:-1])
    assert reader.find(b"") is None and reader.find(b"\xff" * 20) is None
    for _ in range(20):
        start, end = sorted((rng.choice(order) + rng.choice([b"", b"\0"]), rng.choice(order)))
        wanted = [(key, model[key]) for key in order[bisect_left(order, start) : bisect_left(order, end)]]
        assert list(reader.items(start, end)) == wanted
        assert list(reader.items(start)) == [(key, model[key]) for key in order[bisect_left(order, start) :]]


@given(
    seeds,
    counts,
    st.integers(0, 300),
    st.sampled_from([20, 300, 3000]),
    st.sampled_from(["mixed", "near", "drop", "end"]),
    st.booleans(),
)
@example(1, 1, 0, 20, "mixed", True)
@settings(max_examples=150, deadline=None)
def test_edits_give_the_tree_that_building_gives(
    seed: int, count: int, edits: int, most: int, how: str, deep: bool
) -> None:
    """Canonical: the same items give the same nodes whatever the history, through several rounds of edits."""
    with pytest.MonkeyPatch.context() as patch:
        if deep:
            patch.setattr(tree, "_BOUNDS", ((100, 300, 900), (120, 300, 900)))
        edit_and_compare(seed, count, edits, most, how, deep)


def edit_and_compare(seed: int, count: int, edits: int, most: int, how: str, deep: bool) -> None:
    model = items_of(seed, count, most)
    objects = Objects()
    height, top = build(sorted(model.items()), objects.put)
    assert not deep or height >= 2 or count < 300
    rng = random.Random(seed + 1)
    for _ in range(3):
        changes: dict[bytes, bytes | None] = {}
        order = sorted(model)
        for number in range(edits):
            if how == "drop" or (how == "mixed" and rng.random() < 0.5):
                changes[rng.choice(order)] = None
            elif how == "near":
                at = (rng.randrange(8) + len(order) // 2) % len(order)
                changes[order[at] + rng.randbytes(1)] = rng.randbytes(rng.randrange(most))
            elif how == "end":
                changes[number_key(99, DIRENT, number)] = rng.randbytes(rng.randrange(most))
            else:
                key = (
                    rng.choice(order)
                    if rng.random() < 0.3
                    else number_key(rng.randrange(60), DIRENT, rng.getrandbits(62))
                )
                changes[key] = rng.randbytes(rng.randrange(most))
        changes[b"\xff" * 9] = b"so that something stays"
        for key, value in changes.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        height, top = apply(TreeReader(objects.get, height, top), sorted(changes.items()), objects.put)
        assert (height, top) == build(sorted(model.items()), Objects().put)


def test_the_shape_of_a_tree_is_golden() -> None:
    """Where nodes end decides what old and new images share: it may change only with the format's version."""
    height, top = build(sorted(items_of(9, 60_000, 100).items()), Objects().put)
    assert (height, top.hex()) == GOLDEN


GOLDEN = (1, "8c4b805d75a35c02b8fb5efde6c04c8fa29dc4bba51d9c1ba0ddd55d8e3e6c7d")


def test_removing_what_is_not_there_changes_nothing() -> None:
    objects = Objects()
    height, top = build(sorted(items_of(1, 500).items()), objects.put)
    reader = TreeReader(objects.get, height, top)
    before = objects.written
    assert apply(reader, [(inode_key(1000), None)], objects.put) == (height, top)
    assert apply(reader, [], objects.put) == (height, top)
    assert objects.written == before


def test_an_edit_reads_and_writes_only_the_way_to_it() -> None:
    objects = Objects()
    model = items_of(2, 60_000, 100)
    height, top = build(sorted(model.items()), objects.put)
    assert height == 2
    key = sorted(model)[30_000]
    objects.read.clear()
    before = objects.written
    apply(TreeReader(objects.get, height, top), [(key, b"changed")], objects.put)
    assert len(objects.read) <= 8
    assert objects.written - before < 100_000


@given(seeds, st.sampled_from([4, 60, 400, 4000, 60_000]))
@settings(max_examples=40, deadline=None)
def test_sizes_of_nodes(seed: int, most: int) -> None:
    model = items_of(seed, 400 if most > 1000 else 3000, most)
    reader = Objects().reader(sorted(model.items()))
    nodes = list(reader.nodes())
    levels: dict[int, list[int]] = {}
    for key, node in nodes:
        levels.setdefault(node.level, []).append(len(reader._get(key)))
    for level, sizes in levels.items():
        least, _, limit = _BOUNDS[level > 0]
        largest = most + 17 if level == 0 else 49
        assert max(sizes) <= limit + largest + 14
        if level < reader.height:
            assert sorted(sizes)[1:2] >= [least] or len(sizes) == 1, "only the last node of a level may be smaller"
    assert len(levels[reader.height]) == 1


def test_nodes_are_near_their_target() -> None:
    reader = Objects().reader(sorted(items_of(3, 60_000, 60).items()))
    sizes = [len(reader._get(key)) for key, node in reader.nodes() if node.level == 0]
    assert 12 << 10 < sum(sizes) / len(sizes) < 24 << 10


@pytest.mark.parametrize("position", [0.0, 0.3, 1.0])
def test_one_name_in_a_directory_of_200_000(position: float) -> None:
    """The issue's bound: 64 KiB stored for one new name. It holds decoded, with the root."""
    objects = Objects()
    names = [b"file-%07d.py" % number for number in range(200_000)]
    entries = sorted((name_cookie(name), name) for name in names)
    items = [
        (number_key(1, DIRENT, cookie), pack_dirent(10 + n, 0o100000, name)) for n, (cookie, name) in enumerate(entries)
    ]
    height, top = build(items, objects.put)
    name = min((b"new-%d" % n for n in range(300)), key=lambda name: abs(name_cookie(name) / (1 << 63) - position))
    before = objects.written
    edit = (number_key(1, DIRENT, name_cookie(name)), pack_dirent(5, 0o100000, name))
    changed = apply(TreeReader(objects.get, height, top), [edit], objects.put)
    assert 0 < objects.written - before < 64 << 10
    assert changed == build(sorted([*items, edit]), Objects().put)


def test_equal_parts_of_two_trees_are_the_same_nodes() -> None:
    """What two images share: an insertion at the front leaves the other nodes as they are."""
    objects = Objects()
    model = items_of(4, 20_000, 100)
    build(sorted(model.items()), objects.put)
    before, total = objects.written, objects.written
    build(sorted({**model, inode_key(0): b"x"}.items()), objects.put)
    assert objects.written - before < total / 20


def test_building_holds_one_node_a_level() -> None:
    def items() -> "list[Item]":
        return [(number_key(1, DIRENT, number), b"v" * 50) for number in range(50_000)]

    source = items()
    tracemalloc.start()
    build(source, lambda data: noise(len(data), 32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_cache_is_bounded() -> None:
    reader = Objects().reader(sorted(items_of(5, 20_000, 100).items()), cache_nodes=10)
    assert sum(1 for _ in reader.items()) == 20_000
    assert len(reader._cache) <= 10


def test_skip_leaves_out_what_lies_below() -> None:
    reader = Objects().reader(sorted(items_of(6, 20_000, 100).items()))
    everything = dict(reader.nodes())
    (_, top), *_ = everything.items()
    left_out = top.values[0]
    seen = dict(reader.nodes(lambda key: key == left_out))
    assert left_out not in seen
    assert 0 < len(seen) < len(everything)


@pytest.mark.parametrize("where", ["top", "inner", "leaf"])
def test_a_missing_node_is_damage(where: str) -> None:
    objects = Objects()
    reader = objects.reader(sorted(items_of(7, 20_000, 100).items()))
    nodes = list(reader.nodes())
    wanted = {"top": reader.height, "inner": 1, "leaf": 0}[where]
    key = next(key for key, node in nodes if node.level == wanted)
    del objects.data[key]
    fresh = TreeReader(objects.get, reader.height, reader._top)
    with pytest.raises(DamagedData):
        list(fresh.items())


def test_nodes_of_the_wrong_level_are_damage_not_endless() -> None:
    objects = Objects()
    leaf = objects.put(pack_node(0, [inode_key(1)], [b"x"]))
    for level in (0, 1, 3):
        twisted = objects.put(pack_node(level + 1, [inode_key(1)], [leaf]))
        reader = TreeReader(objects.get, level + 1, twisted)
        if level == 0:
            assert reader.find(inode_key(1)) == b"x"
            continue
        for call in (
            lambda r: r.find(inode_key(1)),
            lambda r: list(r.items()),
            lambda r: apply(r, [(b"k" * 9, b"")], objects.put),
        ):
            with pytest.raises(DamagedData, match="level"):
                call(reader)
    with pytest.raises(DamagedData, match="height"):
        TreeReader(objects.get, 4, leaf).find(inode_key(1))


def test_a_flipped_bit_in_a_node_is_found_or_harmless_to_the_reader() -> None:
    """The store's checksum finds it first; a node that comes in another way must still raise nothing else."""
    model = items_of(8, 60, 40)
    data = pack_node(0, sorted(model), [model[key] for key in sorted(model)])
    for bit in range(0, 8 * len(data), 7):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            Node(bytes(damaged))
        except DamagedData:
            pass
