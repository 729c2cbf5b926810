"""Streams taken apart, changed, and put together again with numbers, checksums and digests made anew."""

import io
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import xxhash
from blake3 import blake3

from lamina.replication.stream import FRAME, HEADER, OVERHEAD, Frame, StreamWriter

Framed = list[tuple[int, bytes]]
RECORD = struct.Struct("<HBBIIQ32s")


def frames(data: bytes) -> Framed:
    """The frames of a stream: types and payloads."""
    found: Framed = []
    at = HEADER.size
    while at < len(data):
        kind, length, _ = FRAME.unpack_from(data, at)
        found.append((kind, data[at + OVERHEAD : at + OVERHEAD + length]))
        at += OVERHEAD + length
    return found


def borders(data: bytes) -> list[int]:
    """Where frames begin, and the end."""
    found, at = [0, HEADER.size], HEADER.size
    while at < len(data):
        at += OVERHEAD + FRAME.unpack_from(data, at)[1]
        found.append(at)
    return found


def stream(parts: Framed, *, counts: bool = True) -> bytes:
    """A stream of frames, with right digests; ``counts``: and numbers of what there is."""
    if counts:
        parts = _counted(parts)
    sink = io.BytesIO()
    writer = StreamWriter(sink)
    for number, (kind, payload) in enumerate(parts):
        if kind in (Frame.SNAPSHOT_END, Frame.END):
            value = _json(payload)
            if value is not None:
                value["digest"] = writer.digest()
                if kind == Frame.END:
                    value["frames"] = number
                payload = json.dumps(value).encode()
        writer.frame(kind, payload)  # type: ignore[arg-type]
    return sink.getvalue()


def _json(payload: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(payload)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _counted(parts: Framed) -> Framed:
    """Counts in BEGIN, SNAPSHOT and SNAPSHOT END as the frames are."""
    kinds = [kind for kind, _ in parts]
    result: Framed = []
    for at, (kind, payload) in enumerate(parts):
        value = _json(payload) if kind != Frame.OBJECT else None
        if value is not None:
            if kind == Frame.BEGIN:
                value["datasets"] = kinds.count(Frame.DATASET)
                value["snapshots"] = kinds.count(Frame.SNAPSHOT)
                value["objects"] = kinds.count(Frame.OBJECT)
            elif kind == Frame.SNAPSHOT:
                value["objects"] = _run(kinds[at + 1 :])
            elif kind == Frame.SNAPSHOT_END:
                value["objects"] = _run(kinds[:at][::-1])
            payload = json.dumps(value).encode()
        result.append((kind, payload))
    return result


def _run(kinds: list[int]) -> int:
    return next((at for at, kind in enumerate(kinds) if kind != Frame.OBJECT), len(kinds))


def record(data: bytes, kind: int, codec: int = 0, *, decoded: int | None = None, key: bytes | None = None) -> bytes:
    """The payload of an object's frame."""
    head = RECORD.pack(
        *(0x524C, kind, codec, len(data), len(data) if decoded is None else decoded),
        *(xxhash.xxh3_64_intdigest(data), blake3(data).digest() if key is None else key),
    )
    return head + struct.pack("<I", xxhash.xxh3_64_intdigest(head) & 0xFFFFFFFF) + data


# -- random changes -------------------------------------------------------------------------------------------------


@dataclass
class Forger:
    """Changes streams at random; ``other`` are frames of another stream."""

    rng: random.Random
    other: Framed

    def bytes(self, data: bytes) -> bytes:
        """Change bytes, and leave checksums as they were."""
        rng = self.rng
        at, to = sorted((rng.randrange(len(data)), rng.randrange(len(data) + 1)))
        edges = borders(data)
        first, last = sorted(rng.sample(edges, 2))
        what = rng.randrange(9)
        if what == 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        if what == 1:
            return data[:at]
        if what == 2:
            return data[:at] + data[to:]
        if what == 3:
            return data[:to] + data[at:]
        if what == 4:
            return data[:at] + rng.randbytes(rng.choice([1, 4, 24, 5000])) + data[to:]
        if what == 5:
            return data[:first] + data[last:]
        if what == 6:
            return data[:last] + data[first:last] + data[last:]
        if what == 7:
            middle = rng.choice(edges)
            low, high = sorted((middle, first))
            return data[:low] + data[high:last] + data[low:high] + data[max(last, high) :]
        return data + data[at:to]

    def frames(self, parts: Framed) -> bytes:
        """Change frames, and make numbers and checksums anew; counts too, or not."""
        rng = self.rng
        parts = list(parts)
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            at = rng.randrange(len(parts))
            change: Callable[[Framed, int], None] = rng.choice(
                [
                    *(self._drop, self._again, self._move, self._foreign, self._say, self._say),
                    *(self._alter, self._alter, self._flip),
                ]
            )
            change(parts, at)
            if not parts:
                break
        return stream(parts, counts=rng.random() < 0.7)

    def _drop(self, parts: Framed, at: int) -> None:
        del parts[at : at + self.rng.choice([1, 1, 3, 50])]

    def _again(self, parts: Framed, at: int) -> None:
        parts.insert(self.rng.randrange(len(parts) + 1), parts[at])

    def _move(self, parts: Framed, at: int) -> None:
        parts.insert(self.rng.randrange(len(parts)), parts.pop(at))

    def _foreign(self, parts: Framed, at: int) -> None:
        foreign = self.rng.choice(self.other)
        parts[at : at + self.rng.randrange(2)] = [foreign]

    def _say(self, parts: Framed, at: int) -> None:
        """Change a member of what a frame says."""
        said = [n for n, (kind, payload) in enumerate(parts) if kind != Frame.OBJECT and _json(payload)]
        if not said:
            return
        at = self.rng.choice(said)
        value = _json(parts[at][1])
        assert value is not None
        name = self.rng.choice(sorted(value))
        value[name] = self._other_value(value[name])
        if self.rng.random() < 0.1:
            del value[name]
        parts[at] = (parts[at][0], json.dumps(value).encode())

    def _other_value(self, value: Any) -> Any:
        rng = self.rng
        values: list[Any] = [
            *(
                None,
                True,
                0,
                1,
                -1,
                1 << 63,
                (1 << 63) - 1,
                1e300,
                "",
                "x",
                "a/b",
                "../x",
                "a@b",
                "\0",
                "\ud800",
                "x" * 300,
            ),
            *([], {}, [["x", 1]], {"x": "y"}, {"compression": "bogus"}, {"quota": "-1"}, {"a:b": "c"}, {"tag": 5}),
            *("00" * 32, "zz" * 32, rng.randbytes(32).hex(), "image", "snapshot", {"name": "x", "guid": 5}),
            {"guid": 5, "after": "00" * 32},
        ]
        if isinstance(value, int):
            values += [value + 1, value - 1] * 4
        return rng.choice(values)

    def _flip(self, parts: Framed, at: int) -> None:
        """Change one bit of any payload; the frame's checksum fits it."""
        kind, payload = parts[at]
        if payload:
            one = self.rng.randrange(len(payload))
            parts[at] = (kind, payload[:one] + bytes([payload[one] ^ 1 << self.rng.randrange(8)]) + payload[one + 1 :])

    def _alter(self, parts: Framed, at: int) -> None:
        """Change an object: its header or its bytes, with some of the checks made to fit."""
        found = [n for n, (kind, payload) in enumerate(parts) if kind == Frame.OBJECT and len(payload) > 56]
        if not found:
            return
        rng = self.rng
        at = rng.choice(found)
        payload = parts[at][1]
        magic, kind, codec, stored, decoded, checksum, key = RECORD.unpack_from(payload)
        body = bytearray(payload[56:])
        what = rng.randrange(9)
        if what == 8:  # another object, all of it right
            parts[at] = (Frame.OBJECT, record(rng.randbytes(rng.choice([1, 100, 60_000])), kind))
            return
        if what == 0:
            kind = rng.randrange(256) if rng.random() < 0.5 else rng.choice([0, 1, 2, 3, 4])
        elif what == 1:
            codec = rng.choice([0, 1, 2, 3, 4, 255])
        elif what == 2:
            decoded = rng.choice([0, 1, decoded + 1, decoded - 1, 1 << 20, (1 << 32) - 1])
        elif what == 3:
            stored = rng.choice([0, 1, stored + 1, stored - 1, 1 << 20, (1 << 32) - 1])
        elif what == 4:
            key = rng.choice([bytes(32), rng.randbytes(32), blake3(bytes(body)).digest()])
        elif what == 5:
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        elif what == 6:
            body = body[: rng.randrange(len(body))]
            stored = len(body)
        else:
            body += rng.randbytes(5)
            stored = len(body)
        if rng.random() < 0.8:
            checksum = xxhash.xxh3_64_intdigest(bytes(body))
        head = RECORD.pack(magic, kind, codec, stored, decoded, checksum, key)
        check = struct.pack("<I", xxhash.xxh3_64_intdigest(head) & 0xFFFFFFFF)
        parts[at] = (Frame.OBJECT, head + check + bytes(body))
