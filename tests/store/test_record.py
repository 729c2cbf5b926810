"""The pack format, byte by byte, and every bit of it flipped."""

import random

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import DamagedData
from lamina.store.codec import Codec, Compression
from lamina.store.record import (
    PACK_ALIGN,
    PACK_HEADER,
    RECORD_HEADER,
    Kind,
    pack_header,
    pack_name,
    parse_record_header,
    record_header,
    scan_pack,
)
from tests.store.kit import GUID, Shop

CODECS = [Compression(Codec.STORED), Compression(Codec.LZ4), Compression(Codec.DEFLATE, 6), Compression(Codec.ZSTD, 3)]


def test_golden_bytes() -> None:
    """What these are may change only together with the format's version."""
    assert pack_header(0x0102030405060708, 3).hex() == (
        "4c414d494e41504b01000000f9917cf908070605040302010300000000000000"
    )
    header = record_header(Kind.CHUNK, Codec.ZSTD, 0x1234, 0x56789, 0x1122334455667788, bytes(range(32)))
    assert header.hex() == (
        "4c52" "01" "01" "34120000" "89670500" "8877665544332211"
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" "8c79224a"
    )  # fmt: skip
    assert (PACK_HEADER.size, RECORD_HEADER, len(header)) == (32, 56, 56)
    assert pack_name(7) == "00000007.pack"
    assert [(kind.name, kind.value) for kind in Kind] == [("CHUNK", 1), ("NODE", 2), ("ROOT", 3), ("NAMES", 4)]
    assert [(codec.name, codec.value) for codec in Codec] == [("STORED", 0), ("ZSTD", 1), ("LZ4", 2), ("DEFLATE", 3)]


@given(
    st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32), st.integers(0, 2**40),
)  # fmt: skip
def test_record_header_round_trip(
    kind: int, codec: int, stored: int, decoded: int, checksum: int, key: bytes, offset: int
) -> None:
    header = record_header(kind, codec, stored, decoded, checksum, key)
    record = parse_record_header(header, offset)
    assert (record.kind, record.codec, record.stored, record.decoded) == (kind, codec, stored, decoded)
    assert (record.checksum, record.key, record.offset) == (checksum, key, offset + RECORD_HEADER)
    with pytest.raises(DamagedData):
        parse_record_header(header[:-1], offset)


def test_every_flipped_bit_of_the_headers_is_found() -> None:
    record = record_header(Kind.NODE, Codec.LZ4, 3, 9, 77, bytes(range(32))) + b"abc"
    pack = pack_header(GUID, 5) + record
    assert len(list(scan_pack(pack, GUID))) == 1
    for bit in range(8 * (PACK_HEADER.size + RECORD_HEADER)):
        damaged = bytearray(pack)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedData):
            list(scan_pack(bytes(damaged), GUID))


def test_a_pack_of_another_pool_or_version_is_refused() -> None:
    with pytest.raises(DamagedData, match="another pool"):
        list(scan_pack(pack_header(GUID + 1, 5), GUID))
    assert list(scan_pack(pack_header(GUID + 1, 5))) == []


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_scanning_garbage_raises_nothing_else(data: bytes) -> None:
    for pack in (data, pack_header(GUID, 1) + data):
        try:
            list(scan_pack(pack))
        except DamagedData:
            pass


def test_a_pack_cut_anywhere_gives_a_prefix_of_its_records(shop: Shop) -> None:
    writer = shop.writer()
    keys = [writer.put(b"%d " % number * 50, Kind.CHUNK) for number in range(5)]
    with writer.commit():
        pass
    writer.close()
    data = shop.pack_path(1).read_bytes()
    ends = [record.offset + record.stored for record in scan_pack(data)]
    for cut in range(len(data)):
        found = []
        try:
            for record in scan_pack(data[:cut]):
                found.append(record.key)
            assert cut in (PACK_HEADER.size, *ends), "a record was cut and nobody noticed"
        except DamagedData:
            pass
        assert found == keys[: sum(end <= cut for end in ends)]


@pytest.mark.parametrize("compression", CODECS, ids=lambda c: c.codec.name)
def test_every_flipped_bit_of_a_payload_is_found(shop: Shop, compression: Compression) -> None:
    rng = random.Random(3)
    data = b"".join(rng.choice([b"torch", b"cuda", b"numpy", rng.randbytes(3)]) for _ in range(300))
    key = shop.put(data, compression)
    row = shop.rows()[key]
    assert row.codec == compression.codec
    path = shop.pack_path(row.pack)
    whole = path.read_bytes()
    for bit in range(8 * row.stored):
        with open(path, "r+b") as file:
            file.seek(row.offset + bit // 8)
            file.write(bytes([whole[row.offset + bit // 8] ^ 1 << bit % 8]))
        with pytest.raises(DamagedData, match=key.hex()):
            shop.store.get(key)
        with open(path, "r+b") as file:
            file.seek(row.offset + bit // 8)
            file.write(whole[row.offset + bit // 8 :][:1])
    assert shop.store.get(key, verify=True) == data


@pytest.mark.parametrize("column", ["offset", "stored", "decoded", "codec", "checksum", "pack"])
def test_a_wrong_row_never_gives_wrong_data(shop: Shop, column: str) -> None:
    data = b"several words, several words " * 99
    key = shop.put(data)
    shop.put(b"another object, not that one" * 50)
    shop.database.execute("INSERT INTO pack(state, size) VALUES ('sealed', 0)")
    for bit in range(31):
        value = getattr(shop.rows()[key], column)
        number = value ^ 1 << bit if column != "pack" else 2
        with shop.database.transaction():
            shop.database.execute(f"UPDATE object SET {column} = ? WHERE key = ?", (number, key))
        with pytest.raises(DamagedData):
            shop.store.get(key, verify=True)
        with shop.database.transaction():
            shop.database.execute(f"UPDATE object SET {column} = ? WHERE key = ?", (value, key))
    assert shop.store.get(key) == data


def test_verify_compares_with_the_key(shop: Shop) -> None:
    """A record that is sound in itself but holds another object than the index says."""
    key, other = shop.put(b"a" * 100), shop.put(b"b" * 100)
    row = shop.rows()[other]
    with shop.database.transaction():
        shop.database.execute(
            "UPDATE object SET pack = ?, offset = ?, stored = ?, checksum = ? WHERE key = ?",
            (row.pack, row.offset, row.stored, row.checksum, key),
        )
    assert blake3(shop.store.get(key)).digest() == other
    with pytest.raises(DamagedData, match="does not match its key"):
        shop.store.get(key, verify=True)


def test_a_pack_cut_short_or_missing(shop: Shop) -> None:
    key = shop.put(b"words " * 1000)
    path = shop.pack_path(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedData, match="cut short"):
        shop.store.get(key)
    path.unlink()
    shop.backend.close()  # the descriptor that was open still reads what was removed
    with pytest.raises(DamagedData, match="missing"):
        shop.store.get(key)
    with pytest.raises(DamagedData, match="not in the index"):
        shop.store.get(bytes(32))


def test_sealed_packs_are_whole_blocks(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 50_000)
    writer = shop.writer()
    rng = random.Random(4)
    for _ in range(40):
        writer.put(rng.randbytes(rng.randrange(1, 9000)), Kind.CHUNK)
    with writer.commit() as names:
        names([b'{"v": 1}'])
    writer.close()
    packs = shop.packs()
    assert [state for state, _, _ in packs.values()].count("sealed") == len(packs) - 1 >= 2
    for number, (state, size, _) in packs.items():
        assert shop.pack_path(number).stat().st_size == size
        if state == "sealed":
            assert size % PACK_ALIGN == 0
            assert 45_000 < size < 50_000 + PACK_ALIGN + 41 * RECORD_HEADER
    assert shop.check() == 40
    assert sum(record.kind == Kind.NAMES for record in shop.scanned().values()) == 1
