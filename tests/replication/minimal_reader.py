"""A second reader of streams, written from docs/stream.md alone: it shares no code with lamina's."""

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import lz4.block
import xxhash
import zstandard
from blake3 import blake3

NAMES = {1: "BEGIN", 2: "DATASET", 3: "SNAPSHOT", 4: "OBJECT", 5: "SNAPSHOT END", 6: "END", 7: "KEPT"}


class Refused(Exception):
    """The page says that this is no stream."""


def must(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what)


@dataclass
class Sent:
    """A snapshot with the keys of its objects in order."""

    head: dict[str, Any]
    keys: list[str] = field(default_factory=list)


@dataclass
class Stream:
    """All that a stream says."""

    begin: dict[str, Any] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[int, list[list[Any]]] = field(default_factory=dict)
    snapshots: list[Sent] = field(default_factory=list)
    objects: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """(kind, bytes) by key."""


def read(data: bytes) -> Stream:
    magic, version, flags = struct.unpack_from("<8sII", data)
    must((magic, version, flags) == (b"LAMINAZS", 1, 0), "header")
    stream, at, number, before = Stream(), 16, 0, ""
    while before != "END":
        must(at + 24 <= len(data), "cut")
        kind, zero, length, told, check = struct.unpack_from("<B3sIQQ", data, at)
        payload = data[at + 24 : at + 24 + length]
        must(zero == b"\0\0\0" and length <= 2 << 20 and told == number and len(payload) == length, "frame")
        must(xxhash.xxh3_64_intdigest(data[at : at + 16] + payload) == check, "checksum")
        digest = blake3(data[:at]).hexdigest()
        at, number = at + 24 + length, number + 1
        if kind not in NAMES:
            must(kind >= 128, "needs a newer lamina")
            continue
        name = NAMES[kind]
        must(name in AFTER[before], f"{name} after {before}")
        before = name
        if name == "OBJECT":
            _object(stream, payload)
            continue
        value = json.loads(payload.decode("utf-8"))
        must(isinstance(value, dict), "no object")
        if name == "BEGIN":
            must(value["features"] == [], "features")
            stream.begin = value
        elif name == "DATASET":
            must(bool(value["name"]) == bool(stream.datasets), "the first has no name")
            stream.datasets.append(value)
        elif name == "KEPT":
            must(stream.begin["package"] and value["dataset"] == len(stream.datasets) - 1, "kept")
            stream.kept.setdefault(value["dataset"], []).extend(value["snapshots"])
        elif name == "SNAPSHOT":
            must(value["dataset"] < len(stream.datasets), "dataset")
            stream.snapshots.append(Sent(value))
        elif name == "SNAPSHOT END":
            sent = stream.snapshots[-1]
            must(value["objects"] == len(sent.keys) == sent.head["objects"], "objects")
            must(value["digest"] == digest, "digest")
        else:
            must(value["frames"] == number - 1 and value["digest"] == digest, "end")
    must(at == len(data), "goes on")
    counts = (len(stream.datasets), len(stream.snapshots), sum(len(one.keys) for one in stream.snapshots))
    must(counts == tuple(stream.begin[one] for one in ("datasets", "snapshots", "objects")), "counts")
    return stream


AFTER = {
    "": ("BEGIN",),
    "BEGIN": ("DATASET",),
    "DATASET": ("DATASET", "KEPT", "SNAPSHOT", "END"),
    "KEPT": ("DATASET", "KEPT", "SNAPSHOT", "END"),
    "SNAPSHOT": ("OBJECT", "SNAPSHOT END"),
    "OBJECT": ("OBJECT", "SNAPSHOT END"),
    "SNAPSHOT END": ("SNAPSHOT", "END"),
}


def _object(stream: Stream, payload: bytes) -> None:
    magic, kind, codec, stored, decoded, checksum, key, check = struct.unpack_from("<HBBIIQ32sI", payload)
    encoded = payload[56:]
    must(magic == 0x524C and kind in (1, 2, 3), "record")
    must(check == xxhash.xxh3_64_intdigest(payload[:52]) & 0xFFFFFFFF, "record's check")
    must(1 <= stored <= 1_044_480 and 1 <= decoded <= 1_044_480 and len(encoded) == stored, "sizes")
    must(xxhash.xxh3_64_intdigest(encoded) == checksum, "payload")
    if codec == 0:
        plain = encoded
    elif codec == 1:
        found = zstandard.get_frame_parameters(encoded)
        must(found.content_size == decoded and found.has_checksum and not found.dict_id, "zstd frame")
        must(found.window_size <= 1 << 20, "window")
        plain = zstandard.ZstdDecompressor().decompress(encoded)
    elif codec == 2:
        plain = lz4.block.decompress(encoded, uncompressed_size=decoded)
    else:
        must(codec == 3, "codec")
        plain = zlib.decompress(encoded, -15)
    must(len(plain) == decoded and blake3(plain).digest() == key, "key")
    stream.objects[key.hex()] = (kind, plain)
    stream.snapshots[-1].keys.append(key.hex())


def token(word: str) -> dict[str, Any]:
    """What a resume token says."""
    version, check, length, digits = word.split("-")
    data = bytes.fromhex(digits)
    must(version == "1" and len(data) == int(length, 16), "token")
    must(xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF == int(check, 16), "token's check")
    found: dict[str, Any] = json.loads(zlib.decompress(data))
    return found
