"""Frames and what they say: lamina's reader and writer, and the second reader made from the page."""

import io
import json
import struct

import hypothesis.strategies as st
import pytest
import xxhash
from hypothesis import given, settings

from lamina.errors import LaminaError, StreamError
from lamina.fs.node import Node, unpack_root
from lamina.pool import Pool
from lamina.replication import messages
from lamina.replication.messages import Begin, Kept, Link, Origin, Resume, SentDataset, SentSnapshot
from lamina.replication.stream import Frame, Piece, StreamReader, StreamWriter, packed
from lamina.replication.tokens import Token, parse_token
from tests.pool.trees import Library
from tests.replication import minimal_reader
from tests.replication.kit import receive, send
from tests.replication.test_round_trip import family


def written(*frames: tuple[int, bytes]) -> bytes:
    sink = io.BytesIO()
    writer = StreamWriter(sink)
    for kind, payload in frames:
        writer.frame(kind, payload)  # type: ignore[arg-type]
    return sink.getvalue()


def pieces(data: bytes) -> list[Piece]:
    return list(StreamReader(io.BytesIO(data)).pieces())


def test_frames_come_back() -> None:
    data = written((Frame.DATASET, b"one"), (Frame.OBJECT, bytes(100)), (Frame.OBJECT, b"x"), (Frame.END, b"{}"))
    found = pieces(data)
    assert [(one.kind, one.payload + one.body, one.number) for one in found] == [
        *((Frame.DATASET, b"one", 0), (Frame.OBJECT, bytes(100), 1), (Frame.OBJECT, b"x", 2), (Frame.END, b"{}", 3))
    ]
    assert [one.offset for one in found] == [16, 43, 167, 192]


def test_frames_of_later_versions() -> None:
    assert [one.number for one in pieces(written((0x8F, b"optional"), (Frame.END, b"{}")))] == [1]
    with pytest.raises(
        StreamError, match=r"a frame of type 15 at byte 16, which this lamina lacks; use a newer lamina"
    ):
        pieces(written((0x0F, b"needed"), (Frame.END, b"{}")))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"LAMINA", "it is none of lamina's"),
        (b"PK\3\4" + bytes(100), "it is none of lamina's"),
        (struct.pack("<8sII", b"LAMINAZS", 2, 0), "version 2 with flags 0x0, this lamina knows version 1"),
        (struct.pack("<8sII", b"LAMINAZS", 1, 4), "version 1 with flags 0x4"),
        (struct.pack("<8sII", b"LAMINAZS", 1, 0), "incomplete stream: it ends at byte 16, in frame 0"),
        (struct.pack("<8sIIBxxxIQQ", b"LAMINAZS", 1, 0, 1, 1 << 31, 0, 0), "at byte 16 is no frame, or not frame 0"),
        (struct.pack("<8sIIBxxxIQQ", b"LAMINAZS", 1, 0, 1, 2, 1, 0), "at byte 16 is no frame, or not frame 0"),
        (struct.pack("<8sIIB3sIQQ", b"LAMINAZS", 1, 0, 1, b"\0\1\0", 2, 0, 0), "at byte 16 is no frame"),
        (struct.pack("<8sIIBxxxIQQ", b"LAMINAZS", 1, 0, 1, 2, 0, 0) + b"{}", "checksum mismatch: frame 0 at byte 16"),
    ],
)
def test_what_is_no_stream(data: bytes, words: str) -> None:
    with pytest.raises(StreamError) as caught:
        pieces(data)
    assert words in str(caught.value)


def test_every_cut_and_every_flipped_bit_is_found() -> None:
    data = written((Frame.DATASET, b"payload"), (Frame.OBJECT, bytes(60)), (Frame.END, b"{}"))
    for length in range(len(data)):
        with pytest.raises(StreamError):
            pieces(data[:length])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StreamError, match=r"byte \d+|lamina's|version"):
            pieces(bytes(flipped))


def test_a_frame_that_is_too_large_is_not_written() -> None:
    with pytest.raises(StreamError, match=r"takes 2097153 bytes"):
        written((Frame.DATASET, bytes((2 << 20) + 1)))


# -- what frames say ------------------------------------------------------------------------------------------------

names = st.text(st.characters(codec="utf-8"), max_size=40)
numbers = st.integers(0, (1 << 63) - 1)
guids = st.integers(1, (1 << 63) - 1)
keys = st.binary(min_size=32, max_size=32)
times = st.integers(0, 253_402_300_799)
properties = st.dictionaries(names, names, max_size=4)
some = st.one_of(
    st.builds(
        Begin,
        *(names, numbers, names, names, st.booleans(), st.none() | names, st.integers(1, 100_000)),
        *(st.integers(0, 1_000_000), numbers, numbers),
        st.none() | st.builds(Resume, guids, keys),
    ),
    st.builds(SentDataset, names, guids, st.none() | st.builds(Origin, names, guids), st.none() | properties),
    st.builds(Kept, st.integers(0, 100_000), st.lists(st.tuples(names, guids), max_size=5)),
    st.builds(
        SentSnapshot,
        *(st.integers(0, 100_000), names, guids, times, st.sampled_from(["snapshot", "image"]), numbers),
        *(st.none() | keys, st.none() | st.builds(Link, names, guids), numbers, numbers, properties),
        st.dictionaries(names.filter(bool), times, max_size=3),
    ),
)


@given(some)
def test_messages_come_back(message: Begin | SentDataset | Kept | SentSnapshot) -> None:
    assert type(message).parse(Piece(Frame.BEGIN, message.payload(), 16, 0)) == message


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(some, st.data())
def test_messages_of_wrong_types_are_refused_or_passed_by(message: object, data: st.DataObject) -> None:
    """A member replaced by anything: never another error than ours, never a value of another type."""
    value = json.loads(message.payload())  # type: ignore[attr-defined]
    name = data.draw(st.sampled_from(sorted(value)))
    value[name] = data.draw(junk)
    payload = json.dumps(value).encode()
    try:
        found = type(message).parse(Piece(Frame.BEGIN, payload, 99, 0))  # type: ignore[attr-defined]
    except StreamError as error:
        assert "byte 99" in str(error) or "newer lamina" in str(error)
    else:
        assert json.loads(found.payload())[name] == value[name]


@given(st.binary(max_size=60) | junk.map(lambda value: json.dumps(value).encode()))
def test_payloads_that_are_no_messages(payload: bytes) -> None:
    for kind in (Begin, SentDataset, Kept, SentSnapshot, messages.SnapshotEnd, messages.End):
        with pytest.raises(StreamError, match=r"byte 7"):
            kind.parse(Piece(Frame.BEGIN, payload, 7, 3))  # type: ignore[attr-defined]


def test_deep_and_long_json_is_refused() -> None:
    for payload in (b"[" * 1_000_000, b'{"a":' * 100_000, b'{"guid":' + b"9" * 1_000_000 + b"}"):
        with pytest.raises(StreamError):
            SentDataset.parse(Piece(Frame.DATASET, payload, 7, 3))


# -- tokens ---------------------------------------------------------------------------------------------------------

TOKEN = Token("tank/a@b", 7, None, "ab" * 32, 5, 6)


def test_tokens_come_back() -> None:
    for token in (TOKEN, Token("x@\N{SNOWMAN}", 1, 2, "00" * 32, 0, 0, True, True)):
        assert parse_token(token.word()) == token
    assert minimal_reader.token(TOKEN.word())["after"] == "ab" * 32


@pytest.mark.parametrize(
    "word",
    [
        *("", "x", "1-2-3", "1-0-0-00", TOKEN.word()[:-2], TOKEN.word() + "00", TOKEN.word()[:-1] + "x"),
        *(TOKEN.word().upper(), "1-" + "f" * 9 + "-1-00", "1-0-0-" + "0" * 100_000),
    ],
)
def test_tokens_that_are_none(word: str) -> None:
    with pytest.raises(LaminaError, match=r"^cannot resume send: resume token is corrupt"):
        parse_token(word)


def test_a_token_of_a_later_version() -> None:
    with pytest.raises(LaminaError, match="resume token version 2 is not supported; use a newer lamina"):
        parse_token("2" + TOKEN.word()[1:])


def test_a_token_is_no_bomb() -> None:
    import zlib

    data = zlib.compress(b" " * 50_000_000)[:8192]
    word = f"1-{xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF:x}-{len(data):x}-{data.hex()}"
    with pytest.raises(LaminaError, match="corrupt"):
        parse_token(word)


# -- the second reader ----------------------------------------------------------------------------------------------


def reached(stream: minimal_reader.Stream, root: str, have: set[str]) -> set[str]:
    """Keys that a root reaches, by the objects of the stream."""
    if root in have:
        return set()
    kind, data = stream.objects[root]
    assert kind == 3
    _, top, _ = unpack_root(data)
    found, waiting = {root}, [top.hex()]
    while waiting:
        key = waiting.pop()
        if key in found or key not in stream.objects:
            assert key in found | have, "an object is missing"
            continue
        found.add(key)
        kind, data = stream.objects[key]
        if kind == 2:
            node = Node(data)
            values = (
                node.values
                if node.level
                else [v[8:40] for k, v in zip(node.keys, node.values, strict=True) if k[8] == 4]
            )
            waiting += [value.hex() for value in values]
    return found


def test_the_second_reader_reads_real_streams(tank: Pool, back: Pool, library: Library) -> None:
    family(tank, library)
    for codec, number in (("off", 3), ("lz4", 4), ("gzip-9", 5), ("zstd-19", 6), ("zstd-fast-1000", 2)):
        tank.create_dataset(f"tank/codec/{number}", {"compression": codec}, parents=True)
        tank.import_image(library[number].path, f"tank/codec/{number}@1")
    for what in ("tank/a@y", "tank/codec/3@1", "tank/codec/4@1", "tank/codec/5@1", "tank/codec/6@1"):
        stream = minimal_reader.read(send(tank, what, recursive=True, holds=True))
        dataset, _, tag = what.partition("@")
        assert (stream.begin["name"], stream.begin["snapshot"]) == (dataset, tag)
        have: set[str] = set()
        for sent in stream.snapshots:
            name = f"{dataset}/{stream.datasets[sent.head['dataset']]['name']}".rstrip("/") + "@" + sent.head["name"]
            row = tank._catalogue.find_snapshot(name)
            assert row is not None and (row.guid, row.creation, row.kind) == tuple(
                sent.head[one] for one in ("guid", "creation", "kind")
            )
            if sent.head["root"] is not None:
                reached(stream, sent.head["root"], have)
            have.update(sent.keys)
    begin = minimal_reader.read(send(tank, "tank/a@y", base="@x", recursive=True)).begin
    assert (begin["package"], begin["from"]) == (True, "x")
    kept = minimal_reader.read(send(tank, "tank/a@y", recursive=True)).kept
    assert [name for name, _ in kept[0]] == ["x", "y"]


def test_both_readers_refuse_the_same(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[1].path, "tank/a@1")
    data = send(tank, "tank/a@1")
    minimal_reader.read(data)
    for at in range(0, len(data), max(len(data) // 40, 1)):
        flipped = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        for broken in (flipped, data[:at], data + data[:at] if at else data + b"x"):
            with pytest.raises((minimal_reader.Refused, ValueError, struct.error)):
                minimal_reader.read(broken)
            with pytest.raises(StreamError):
                receive(back, broken, "back/a")
    assert packed({"a": "\N{SNOWMAN}"}) == b'{"a":"\xe2\x98\x83"}'
