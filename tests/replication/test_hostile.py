"""Streams that are cut, damaged or made to harm: no traceback, no change, a message that says where.

``LAMINA_MUTATIONS=20000`` changes streams twenty thousand times; without it, four hundred.
"""

import io
import json
import lzma
import os
import random
import re
import shutil
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from lamina.errors import LaminaError, StreamError
from lamina.fs.node import pack_node, pack_root
from lamina.fs.types import Totals
from lamina.pool import Pool
from lamina.replication.stream import Frame
from tests.pool.heads import take
from tests.pool.trees import Library
from tests.replication.forging import Forger, Framed, borders, frames, record, stream
from tests.replication.kit import Sound, receive, send, sound, state
from tests.replication.test_round_trip import family

MUTATIONS = int(os.environ.get("LAMINA_MUTATIONS", "400"))


@pytest.fixture
def image(tank: Pool, library: Library) -> bytes:
    """A full stream of one image."""
    tank.import_image(library[2].path, "tank/i@1")
    return send(tank, "tank/i@1")


def refused(pool: Pool, data: bytes, words: str, name: str = "back/x") -> None:
    """Fail unless a stream is refused in such words, and changes nothing."""
    before = state(pool)
    with pytest.raises(LaminaError) as caught:
        receive(pool, data, name)
    assert re.search(words, str(caught.value)), str(caught.value)
    assert state(pool) == before


# -- cut ------------------------------------------------------------------------------------------------------------


def test_cut_anywhere(tank: Pool, back: Pool, image: bytes) -> None:
    rng = random.Random(1)
    edges = borders(image)
    cuts = {*edges[:-1], *(edge + 1 for edge in edges[:-1]), *(edge - 1 for edge in edges[1:])}
    cuts |= {rng.randrange(len(image)) for _ in range(20)}
    for cut in sorted(cuts):
        words = (
            "failed to read from stream"
            if cut < 16
            else rf"incomplete stream: it ends at byte {max(e for e in edges if e <= cut)}"
        )
        refused(back, image[:cut], words)


def test_a_package_that_is_cut_keeps_the_snapshots_before(tank: Pool, back: Pool, library: Library) -> None:
    family(tank, library)
    data = send(tank, "tank/a@y", recursive=True)
    edges = borders(data)
    ends = [edges[1 + at] for at, (kind, _) in enumerate(frames(data)) if kind in (Frame.SNAPSHOT, Frame.END)]
    rng = random.Random(2)
    for cut in sorted([*rng.sample(range(len(data)), 12), ends[-1], ends[3], ends[3] + 100]):
        # The frame after a snapshot's end has to be whole, too.
        whole = sum(edge < cut and next(e for e in edges if e > edge) <= cut for edge in ends[1:])
        with pytest.raises(StreamError, match="incomplete stream"):
            receive(back, data[:cut], "back/a")
        assert len(back.list(["back"], recursive=True, types=("snapshot",))) == whole
        back.gc(wait=0)
        assert not back._database.query("SELECT 1 FROM object WHERE condemned IS NOT NULL")
        if back.exists("back/a"):
            sound(back)
            back.destroy("back/a", clones=True)


def test_what_is_left_of_a_cut_is_exactly_what_was_named(tank: Pool, back: Pool, library: Library) -> None:
    """After snapshots of the stream were committed, too, what came of the next is taken back at once."""
    for number in range(2, 5):
        tank.import_image(library[number].path, f"tank/i@{number}")
    data = send(tank, "tank/i@4", recursive=True)
    with pytest.raises(StreamError):
        receive(back, data[:-2000], "back/i")
    named = back._database.query("SELECT count(*) FROM object WHERE kind < 4")[0][0]
    with Pool.create("third", back.path.parent / "third") as third:
        with pytest.raises(StreamError):
            receive(third, data[: borders(data)[-2]], "third/i")
        whole = send(third, "third/i@3", recursive=True)
    kept = sum(kind == Frame.OBJECT for kind, _ in frames(whole))
    assert kept == named


# -- changed --------------------------------------------------------------------------------------------------------


@pytest.fixture
def restored(tank: Pool, back: Pool, library: Library) -> Iterator[Path]:
    """The receiver's directory as it was, to go back to after a stream that was taken."""
    tank.import_image(library[3].path, "tank/i@0")
    receive(back, send(tank, "tank/i@0"), "back/i")
    copy = back.path.parent / "before"
    back.close()
    shutil.copytree(back.path, copy)
    yield copy


def test_changed_streams(tank: Pool, back: Pool, library: Library, restored: Path) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    family(tank, library)
    streams = [send(tank, "tank/i@1", base="@0"), send(tank, "tank/i@1"), send(tank, "tank/a@y", recursive=True)]
    other = frames(streams[2]) + frames(streams[1])
    taken = 0
    pool = Pool.open("back", write=True)
    before = state(pool)
    for number in range(MUTATIONS):
        rng = random.Random(number)
        data = rng.choice(streams)
        forger = Forger(rng, other)
        changed = forger.bytes(data) if rng.random() < 0.4 else forger.frames(frames(data))
        name = "back/i" if data is streams[0] else "back/new"
        try:
            receive(pool, changed, name, force=rng.random() < 0.3, resumable=False)
            failed = False
        except LaminaError as error:
            message, failed = str(error), True
            assert message.startswith("cannot ") and message.replace("\n", " ").isprintable(), (number, message)
            if re.search("invalid stream|checksum mismatch|incomplete stream", message):
                # Where it is: in the stream, or in the tree of a snapshot that came.
                assert re.search(r"at byte \d|'back/(new|i)[^']*@", message), (number, message)
        after = state(pool)
        if failed and after == before:
            continue
        # It was taken: what it says is possible, or a snapshot that came whole before the damage was.
        assert not failed or changed.count(b'"creation"') > 1, number
        taken += 1
        sound(pool)
        pool.close()
        shutil.rmtree(pool.path)
        shutil.copytree(restored, pool.path)
        pool = Pool.open("back", write=True)
        before = state(pool)
    pool.close()
    assert taken < MUTATIONS / 2


# -- made to harm ---------------------------------------------------------------------------------------------------


def forged(image: bytes, objects: list[bytes], root: bytes | None = None) -> bytes:
    """The stream of an image with other objects, and another root."""
    parts: Framed = []
    for kind, payload in frames(image):
        if kind == Frame.SNAPSHOT:
            value = json.loads(payload)
            if root is not None:
                value["root"] = blake3(root).hexdigest()
            payload = json.dumps(value).encode()
            parts.append((kind, payload))
            parts += [(Frame.OBJECT, one) for one in objects]
        elif kind != Frame.OBJECT:
            parts.append((kind, payload))
    return stream(parts)


def test_bombs_are_not_unpacked(back: Pool, image: bytes) -> None:
    zeros = bytes(200 << 20)
    endless = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj()
    bombs = [
        (1, zstandard.ZstdCompressor(level=3, write_checksum=True).compress(zeros)),
        (1, endless.compress(zeros) + endless.flush()),
        (3, zlib.compressobj(9, zlib.DEFLATED, -15).compress(zeros) + b"\3\0"),
        (2, b"\x1f\0\1\0" + b"\xff" * 800_000 + b"\0"),
        (2, b"\xff" * 1000),
    ]
    del zeros
    tracemalloc.start()
    for codec, body in bombs:
        tracemalloc.reset_peak()
        body = body[:1_000_000]
        refused(
            back, forged(image, [record(body, 1, codec, decoded=1_044_480)]), r"the object [0-9a-f]{64} at byte \d+"
        )
        assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()


def test_zstd_frames_of_other_forms_are_refused(back: Pool, image: bytes) -> None:
    data = os.urandom(50) * 40_000
    plain = data[:900_000]
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=24, write_checksum=True)
    ).compress(plain)
    for frame in (
        zstandard.ZstdCompressor(write_checksum=False).compress(plain),
        zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(plain),
        wide + wide,
        b"\x50\x2a\x4d\x18\4\0\0\0abcd" + wide,
    ):
        one = record(frame, 1, 1, decoded=len(plain), key=blake3(plain).digest())
        refused(back, forged(image, [one]), r"the object [0-9a-f]{64} at byte \d+ is damaged")


@pytest.mark.parametrize("kind", [0, 4, 5, 200])
def test_kinds_that_no_stream_carries(back: Pool, image: bytes, kind: int) -> None:
    """Records of names among them: they would be read when the catalogue is rebuilt."""
    refused(back, forged(image, [record(b"{}", kind)]), r"at byte \d+ is of a kind or size that none can have")


def test_objects_that_nothing_needs(back: Pool, image: bytes) -> None:
    objects = [payload for kind, payload in frames(image) if kind == Frame.OBJECT]
    refused(back, forged(image, [*objects, record(b"spare", 1)]), r"1 of its objects are no part of 'back/x@1'")


def tree(image: bytes, *nodes: bytes, height: int, top: bytes, totals: Totals | None = None) -> bytes:
    """A stream of a tree made by hand."""
    root = pack_root(height, blake3(top).digest(), totals or Totals(1, 0, 1, 0, 2))
    objects = [record(data, 2) for data in {blake3(one).digest(): one for one in nodes}.values()]
    return forged(image, [*objects, record(root, 3)], root)


def test_a_tree_that_refers_to_one_node_many_times(back: Pool, image: bytes) -> None:
    """Thirty levels of a hundred times the same node each: walked naively it never ends."""
    key = b"\0" * 7 + b"\1\0"
    node = pack_node(0, [key], [b"x"])
    nodes = [node]
    for level in range(1, 30):
        keys = [key + bytes([number]) for number in range(100)]
        node = pack_node(level, keys, [blake3(node).digest()] * 100)
        nodes.append(node)
    refused(back, tree(image, *nodes, height=29, top=node), "a tree node does not hold what its parent says")
    nodes = [pack_node(0, [key], [b"x"])]
    for level in range(1, 251):
        nodes.append(pack_node(level, [key], [blake3(nodes[-1]).digest()]))
    refused(back, tree(image, *nodes, height=250, top=nodes[-1]), "a tree of height 250 is none")
    refused(back, tree(image, *nodes[:33], height=32, top=nodes[32]), "makes no file system|is not whole")


def test_trees_that_are_no_file_systems(tank: Pool, back: Pool, image: bytes) -> None:
    model = Sound(seed=3).grow(3, 40)
    take(tank, "tank/m", "1", model)
    good = send(tank, "tank/m@1")
    broken = []
    for number in range(6):
        one = model.copy()
        victim = random.Random(number).choice([ino for ino, file in one.files.items() if not file.names and ino != 1])
        if number == 0:
            one.files.pop(victim)  # a name without an inode
        elif number == 1:
            one.touch(victim, nlink=7)
        elif number == 2:
            one.next = 5
        elif number == 3:
            one.files[1].names[b"a/b"] = victim
            one.touch(victim, nlink=2)
        elif number == 4:
            one.files[1].names[b".."] = victim
            one.touch(victim, nlink=2)
        else:
            loop = next(ino for ino, file in one.files.items() if file.names and ino != 1)
            name = next(name for name, ino in one.files[1].names.items() if ino == loop)
            del one.files[1].names[name]
            one.files[loop].names[b"self"] = loop  # a directory in itself, that nothing else holds
            one.touch(loop, parent=loop)
        broken.append(one)
    for number, one in enumerate(broken):
        if number == 0:
            one.totals = model.totals  # type: ignore[method-assign]
            items = one.items
            one.items = lambda objects, one=one, items=items: _tolerant(one, items, objects)  # type: ignore[method-assign]
        take(tank, f"tank/b{number}", "1", one)
        data = send(tank, f"tank/b{number}@1")
        refused(back, data, r"the tree of 'back/x@1' makes no file system|is not whole")
    receive(back, good, "back/x")
    # The same upon a tree that is known, where not all is walked.
    for number in range(6):
        with tank._database.transaction():
            root = tank.root(f"tank/b{number}@1")
            tank._database.execute(
                "UPDATE snapshot SET root = ?, txg = txg + 100 WHERE name = '2' AND dataset = ?",
                (root, tank._catalogue.dataset("tank/m").id),
            )
        if number == 0:
            tank.snapshot(["tank/m@2"])
            with tank._database.transaction():
                tank._database.execute("UPDATE snapshot SET root = ? WHERE name = '2'", (root,))
        refused(back, send(tank, "tank/m@2", base="@1"), "makes no file system|is not whole", "back/x")


def _tolerant(model: Sound, items, objects):  # type: ignore[no-untyped-def]
    """Items of a model in which a name has no inode."""
    missing = {ino for file in model.files.values() for ino in file.names.values()} - model.files.keys()
    for ino in missing:
        model.files[ino] = model.files[next(i for i, f in model.files.items() if f.type == 0o100000)]
    try:
        found = items(objects)
    finally:
        for ino in missing:
            del model.files[ino]
    return [item for item in found if int.from_bytes(item[0][:8], "big") not in missing]


def test_names_that_lead_elsewhere(tank: Pool, back: Pool, image: bytes) -> None:
    parts = frames(image)
    for name in ("../other", "a/../b", "/a", "a//b", "a@b", "a#b", "a\0b", "x" * 300, ".", "a/"):
        value = json.loads(parts[1][1])
        value["name"] = name
        begin = json.loads(parts[0][1])
        begin["package"] = True
        second = (Frame.DATASET, json.dumps(value).encode())
        changed = [(parts[0][0], json.dumps(begin).encode()), parts[1], second, *parts[2:]]
        refused(back, stream(changed), "invalid name|makes no sense")
    for tag in ("../x", "a/b", "a@b", "", "x" * 300, "a\nb", "a%b"):
        at = next(n for n, (kind, _) in enumerate(parts) if kind == Frame.SNAPSHOT)
        value = json.loads(parts[at][1])
        value["name"] = tag
        changed = [*parts[:at], (Frame.SNAPSHOT, json.dumps(value).encode()), *parts[at + 1 :]]
        refused(back, stream(changed), "invalid name|makes no sense")
    assert [one.name for one in back.list()] == ["back"]


def test_an_endless_stream_is_not_held_in_memory(back: Pool, image: bytes) -> None:
    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self.head = io.BytesIO(image[: borders(image)[1]])

        def readable(self) -> bool:
            return True

        def readinto(self, view) -> int:  # type: ignore[no-untyped-def]
            data = self.head.read(len(view)) or b"\1" * len(view)
            view[: len(data)] = data
            return len(data)

    from lamina.replication.receiving import receive_stream

    with pytest.raises(StreamError, match="at byte 16 is no frame"):
        receive_stream(back, Endless(), "back/x")  # type: ignore[arg-type]


def test_streams_of_other_programs(back: Pool) -> None:
    for data in (
        b"garbage\n",
        lzma.compress(b"x" * 100),
        bytes(1 << 16),
        b"\0\0\0\0\0\0\0\0\xac\xcb\xba\xf5" + bytes(300),
    ):
        refused(back, data, "^cannot receive: failed to read from stream: it is none of lamina's$")
    refused(back, b"", "^cannot receive: failed to read from stream: it is empty$")


def test_bytes_behind_the_end(back: Pool, image: bytes) -> None:
    refused(back, image + b"\0", rf"it goes on after its end at byte {len(image)}")
    refused(back, image + image, rf"it goes on after its end at byte {len(image)}")
