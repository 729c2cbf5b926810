"""The pack format: a header, then records that each describe themselves.

A pack begins with 32 bytes: magic ``LAMINAPK``, format version (u32), check (u32: the low half of the XXH3-64 of the
other 28 bytes), the pool's guid (u64), the pack's number (u64). A record is a 56-byte header and a payload; all
numbers little-endian:

    magic    u16   0x524C ("LR")
    kind     u8    what the object is (``Kind``)
    codec    u8    how the payload is encoded (``Codec``)
    stored   u32   payload length in bytes
    decoded  u32   length of the object in bytes
    sum      u64   XXH3-64 of the payload
    key      32 B  BLAKE3-256 of the object
    check    u32   low half of the XXH3-64 of the 52 bytes before

The index of a pool can be rebuilt from packs alone. A sealed pack is padded with zeros to 4 KiB, so that the kernel
can map it as a block device; a scan ends where no magic stands.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import xxhash

from lamina.errors import DamagedData

PACK_HEADER = struct.Struct("<8sIIQQ")
PACK_MAGIC = b"LAMINAPK"
PACK_VERSION = 1
PACK_ALIGN = 4096
PACK_TARGET = 256 << 20
"""A pack is sealed at about this many bytes."""

_RECORD = struct.Struct("<HBBIIQ32s")
_CHECK = struct.Struct("<I")
RECORD_HEADER = _RECORD.size + _CHECK.size
_MAGIC = 0x524C
RECORD_MAGIC = _MAGIC.to_bytes(2, "little")
"""The bytes that a record begins with."""


class Kind(IntEnum):
    """What an object is."""

    CHUNK = 1
    NODE = 2
    ROOT = 3
    NAMES = 4
    """A change of names, properties or roots, as JSON: packs alone bring back every dataset."""


@dataclass(frozen=True, slots=True)
class Record:
    """The header of one record; ``offset`` is where its payload begins in the pack."""

    kind: int
    codec: int
    stored: int
    decoded: int
    checksum: int
    key: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class PackHeader:
    """Whose pack it is, and which."""

    guid: int
    number: int


def pack_name(number: int) -> str:
    """File name of a pack."""
    return f"{number:08d}.pack"


def pack_number(name: str) -> int | None:
    """The number in a pack's file name; None where it is not one."""
    stem = name.removesuffix(".pack")
    number = int(stem) if stem != name and stem.isascii() and stem.isdigit() else 0
    return number if number and pack_name(number) == name else None


def pack_header(guid: int, number: int) -> bytes:
    """The first bytes of a pack."""
    return PACK_HEADER.pack(PACK_MAGIC, PACK_VERSION, _pack_check(PACK_VERSION, guid, number), guid, number)


def _pack_check(version: int, guid: int, number: int) -> int:
    return _low_half(struct.pack("<8sIQQ", PACK_MAGIC, version, guid, number))


def _low_half(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF


def record_header(kind: int, codec: int, stored: int, decoded: int, checksum: int, key: bytes) -> bytes:
    """The 56 bytes before a payload."""
    head = _RECORD.pack(_MAGIC, kind, codec, stored, decoded, checksum, key)
    return head + _CHECK.pack(_low_half(head))


def parse_record_header(data: bytes, offset: int) -> Record:
    """The record whose header is ``data``, which lies at ``offset`` in its pack. Raises ``DamagedData``."""
    if len(data) < RECORD_HEADER:
        raise DamagedData("record header is cut short")
    magic, kind, codec, stored, decoded, checksum, key = _RECORD.unpack_from(data)
    (check,) = _CHECK.unpack_from(data, _RECORD.size)
    if magic != _MAGIC or check != _low_half(data[: _RECORD.size]):
        raise DamagedData("record header is damaged")
    return Record(kind, codec, stored, decoded, checksum, key, offset + RECORD_HEADER)


def parse_pack_header(data: bytes) -> PackHeader:
    """What the first bytes of a pack say. Raises ``DamagedData``."""
    if len(data) < PACK_HEADER.size:
        raise DamagedData("pack header is cut short")
    magic, version, check, guid, number = PACK_HEADER.unpack_from(data)
    if magic != PACK_MAGIC or check != _pack_check(version, guid, number):
        raise DamagedData("pack header is damaged")
    if version != PACK_VERSION:
        raise DamagedData(f"pack is of version {version}, this lamina knows {PACK_VERSION}")
    return PackHeader(guid, number)


def scan_pack(data: bytes | memoryview, guid: int | None = None) -> Iterator[Record]:
    """All records of a whole pack held in memory, up to the padding.

    Raises ``DamagedData`` at the first bad header, or where a payload is cut short; payloads are not checked.
    """
    header = parse_pack_header(bytes(data[: PACK_HEADER.size]))
    if guid is not None and header.guid != guid:
        raise DamagedData("pack belongs to another pool")
    position = PACK_HEADER.size
    while position < len(data) and bytes(data[position : position + 2]).strip(b"\0"):
        record = parse_record_header(bytes(data[position : position + RECORD_HEADER]), position)
        if record.offset + record.stored > len(data):
            raise DamagedData(f"pack is cut short: the record at {position} goes on beyond its end")
        yield record
        position = record.offset + record.stored
