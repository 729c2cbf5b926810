"""Scanning a pack in any state: everything that can be read is found, whatever lies between."""

import os
import random
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from lamina.store import scan as scanning
from lamina.store.codec import Codec
from lamina.store.disk import DISK, Disk
from lamina.store.record import (
    PACK_HEADER,
    RECORD_HEADER,
    RECORD_MAGIC,
    Kind,
    PackHeader,
    pack_header,
    pack_name,
    pack_number,
    record_header,
)
from lamina.store.scan import PackScan

GUID = 0x1122334455667788


def record(payload: bytes, kind: int = Kind.CHUNK) -> bytes:
    key = blake3(payload).digest()
    return record_header(kind, Codec.STORED, len(payload), len(payload), xxh3_64_intdigest(payload), key) + payload


def found(path: Path, disk: Disk = DISK) -> tuple[list[bytes], PackScan]:
    scan = PackScan(path, disk)
    return [bytes(item.payload) for item in scan.records()], scan


def payloads(seed: int, count: int, most: int = 3000) -> list[bytes]:
    generator = random.Random(seed)
    return [generator.randbytes(generator.randrange(1, most)) for _ in range(count)]


def pack(parts: list[bytes], padded: bool = True) -> bytes:
    data = pack_header(GUID, 7) + b"".join(map(record, parts))
    return data + bytes(-len(data) % 4096) if padded else data


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("block", [4096, 1 << 22])
def test_a_whole_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, padded: bool, block: int) -> None:
    monkeypatch.setattr(scanning, "_BLOCK", block)
    parts = [*payloads(1, 200), random.Random(2).randbytes((1 << 20) - 4096), *payloads(3, 20)]
    (tmp_path / "p").write_bytes(pack(parts, padded))
    passed: list[int] = []
    scan = PackScan(tmp_path / "p", progress=passed.append)
    items = [(bytes(item.payload), item.record, item.strayed, item.searched) for item in scan.records()]
    assert [payload for payload, *_ in items] == parts
    assert not any(strayed or searched for *_, strayed, searched in items)
    assert all(one.key == blake3(payload).digest() for payload, one, *_ in items)
    assert (scan.header, scan.damage, scan.size) == (PackHeader(GUID, 7), [], sum(passed))
    assert scan.end == len(pack(parts, False))


def test_empty_and_cut_packs(tmp_path: Path) -> None:
    (tmp_path / "p").touch()
    assert found(tmp_path / "p")[0] == []
    parts = payloads(1, 3, 150)
    whole = pack(parts, padded=False)
    ends = [PACK_HEADER.size + len(b"".join(map(record, parts[:count]))) for count in range(4)]
    for size in range(1, len(whole) + 1):
        (tmp_path / "p").write_bytes(whole[:size])
        got, scan = found(tmp_path / "p")
        assert got == [part for part in parts if record(part) in whole[:size]]
        if size > PACK_HEADER.size:
            assert [one.cause for one in scan.damage] == ([] if size in ends else [scanning.Cause.END])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 25),
    damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 9000), st.booleans()), max_size=4),
    block=st.sampled_from([4096, 8192, 1 << 20]),
)
def test_what_damage_leaves_is_found(
    tmp_path: Path, seed: int, count: int, damage: list[tuple[int, int, bool]], block: int
) -> None:
    """Garbage or holes of any size at any place: every record that lies outside of them is found, in order."""
    parts = payloads(seed, count)
    data = bytearray(pack(parts))
    generator = random.Random(seed)
    touched = bytearray(len(data))
    for place, length, zeros in damage:
        start = place % len(data)
        end = min(start + length, len(data))
        data[start:end] = bytes(end - start) if zeros else generator.randbytes(end - start)
        touched[start:end] = b"\1" * (end - start)
    (tmp_path / "p").write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "_BLOCK", block)
        got, scan = found(tmp_path / "p")
    position = PACK_HEADER.size
    whole = []
    for part in parts:
        end = position + RECORD_HEADER + len(part)
        if not any(touched[position:end]):
            whole.append(part)
        position = end
    assert [part for part in got if part in whole] == whole
    assert all(part in parts for part in got)  # a piece of garbage never passes for a record
    if damage and len(whole) == len(parts):
        assert scan.end >= position or any(touched)


def test_magic_everywhere(tmp_path: Path) -> None:
    """Data full of what looks like the beginning of a record."""
    parts = [RECORD_MAGIC * 900, *payloads(1, 3), RECORD_MAGIC * 900]
    data = bytearray(pack(parts))
    data[PACK_HEADER.size + 3] ^= 0xFF
    (tmp_path / "p").write_bytes(data)
    got, scan = found(tmp_path / "p")
    assert got == parts[1:] and [one.start for one in scan.damage] == [PACK_HEADER.size]


def test_records_inside_a_record_are_found_only_where_its_header_is_lost(tmp_path: Path) -> None:
    inner = [record(part) for part in payloads(9, 3)]
    outer = b"a file that holds a pack: " + b"".join(inner) + b" and more"
    data = bytearray(pack([outer, b"behind"]))
    (tmp_path / "p").write_bytes(data)
    assert found(tmp_path / "p")[0] == [outer, b"behind"]
    data[PACK_HEADER.size + 20] ^= 1
    (tmp_path / "p").write_bytes(data)
    scan = PackScan(tmp_path / "p")
    items = [(bytes(item.payload), item.strayed, item.searched) for item in scan.records()]
    assert [payload for payload, *_ in items] == [*payloads(9, 3), b"behind"]
    assert [strayed for _, strayed, _ in items] == [True] * 4
    assert [searched for *_, searched in items] == [True, False, False, True]


def test_holes(tmp_path: Path) -> None:
    """What gc gave back reads as zeros, and is skipped without being read where the file system tells."""
    parts = payloads(5, 30, 9000)
    (tmp_path / "p").write_bytes(pack(parts))
    fd = os.open(tmp_path / "p", os.O_RDWR)
    DISK.punch(fd, 8192, 65536)
    os.close(fd)
    got, scan = found(tmp_path / "p")
    assert {one.cause for one in scan.damage} == {scanning.Cause.HOLE}
    position, whole = PACK_HEADER.size, []
    for part in parts:
        end = position + RECORD_HEADER + len(part)
        if end <= 8192 or position >= 8192 + 65536:
            whole.append(part)
        position = end
    assert got == whole and 0 < len(whole) < len(parts)


def test_pages_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    class Failing(Disk):
        def read(self, fd: int, length: int, offset: int) -> bytes:
            self._fail(length, offset)
            return super().read(fd, length, offset)

        def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
            self._fail(len(buffer), offset)
            return super().read_into(fd, buffer, offset)

        def _fail(self, length: int, offset: int) -> None:
            if offset < 20480 and offset + length > 12288:
                raise OSError(5, os.strerror(5))

    parts = payloads(6, 40)
    (tmp_path / "p").write_bytes(pack(parts))
    got, scan = found(tmp_path / "p", Failing())
    position, whole = PACK_HEADER.size, []
    for part in parts:
        end = position + RECORD_HEADER + len(part)
        if end <= 12288 or position >= 20480:
            whole.append(part)
        position = end
    assert got == whole and 20 < len(whole) < 40 and scan.damage


@pytest.mark.parametrize("number", [1, 77, 12345678, 123456789])
def test_names_of_packs(number: int) -> None:
    assert pack_number(pack_name(number)) == number
    for name in ("x", "1.pack", "0000001.pack", "00000000.pack", "00000001.pack.new", "0000000a.pack", "٠٠٠٠٠٠٠١.pack"):
        assert pack_number(name) is None
