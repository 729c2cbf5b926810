"""Every flipped bit of a record is found, whatever the codec; places are read in order, with others' rows beside."""

import os
import random
from pathlib import Path

import pytest

from lamina.errors import DamagedData
from lamina.store.codec import Codec, parse_compression
from lamina.store.disk import Disk
from lamina.store.medium import Medium
from lamina.store.record import RECORD_HEADER, Kind
from lamina.store.verifying import Fault, Verifier, places_in, runs
from tests.store.kit import GUID, Shop

FLIPS = int(os.environ.get("LAMINA_FLIPS", "1500"))
CODECS = {"off": Codec.STORED, "lz4": Codec.LZ4, "gzip-6": Codec.DEFLATE, "zstd-3": Codec.ZSTD}
EVERYTHING = 1 << 60


def text(seed: int, size: int) -> bytes:
    words = [b"lamina ", b"pool ", b"scrub ", b"\0\0\0\0", b"key", bytes(range(40))]
    return b"".join(random.Random(seed).choices(words, k=size // 6))[:size]


@pytest.mark.parametrize("compression", CODECS)
def test_every_flipped_bit_is_found(shop: Shop, compression: str) -> None:
    """By scrub wherever it lies; by a read wherever it could change the data: never returned."""
    keys = [shop.put(text(n, 200 + 900 * n), parse_compression(compression), kind=1 + n % 3) for n in range(6)]
    assert {row.codec for row in shop.rows().values()} == {CODECS[compression]}
    verifier = Verifier(shop.backend, GUID)
    places = [place for pack in shop.packs() for place in places_in(shop.database, pack, 0, EVERYTHING)]
    places = [place for place in places if place.location.key in keys]
    assert {place.location.key for place in places} == set(keys)
    generator = random.Random(compression)
    for _ in range(FLIPS // len(CODECS)):
        place = generator.choice(places)
        location = place.location
        at = generator.randrange(-RECORD_HEADER, location.stored)
        bit = 1 << generator.randrange(8)
        path = shop.pack_path(location.pack)
        with path.open("r+b", buffering=0) as pack:
            pack.seek(location.offset + at)
            byte = pack.read(1)[0]
            pack.seek(location.offset + at)
            pack.write(bytes([byte ^ bit]))
            flaw = verifier.place(place)
            assert flaw is not None and flaw.fault is (Fault.HEADER if at < 0 else Fault.CHECKSUM), (location, at, bit)
            if at >= 0:
                with pytest.raises(DamagedData):
                    shop.store.read(location)
            pack.seek(location.offset + at)
            pack.write(bytes([byte]))
    assert all(flaw is None or flaw.fault is Fault.LONELY for flaw in map(verifier.place, places))


def test_runs_hold_each_place_once_and_in_order(shop: Shop) -> None:
    generator = random.Random(3)
    writer = shop.writer(1, 2)
    for number in range(300):
        writer.put(
            generator.randbytes(generator.choice((10, 3000, 400_000 if number % 9 == 0 else 500))), 1 + number % 3
        )
    with writer.commit():
        pass
    writer.close()
    seen: list[tuple[int, int]] = []
    for pack in shop.packs():
        after = 0
        while some := places_in(shop.database, pack, after, EVERYTHING, limit=7):
            assert len(some) <= 7
            after = some[-1].location.offset
            for run in runs(some):
                assert run.end - run.start <= (4 << 20) + (1 << 20)
                for place in run.places:
                    assert run.start <= place.location.offset - RECORD_HEADER
                    assert place.location.offset + place.location.stored <= run.end
                    seen.append((place.location.id, place.number))
                assert not [flaw for flaw in Verifier(shop.backend, GUID).run(run) if flaw.fault is not Fault.LONELY]
    rows = shop.database.query("SELECT id, 0 FROM object UNION ALL SELECT object, number FROM copy")
    assert sorted(seen) == sorted(rows) and len(rows) > 450


def test_newer_rows_are_left_out(shop: Shop) -> None:
    shop.put(b"one")
    newest = max(place.location.id for pack in shop.packs() for place in places_in(shop.database, pack, 0, EVERYTHING))
    shop.put(b"two")
    found = [place for pack in shop.packs() for place in places_in(shop.database, pack, 0, newest)]
    assert [place.location.key for place in found] == [key for key, row in shop.rows().items() if row.id <= newest]


def test_a_node_without_its_second_copy(shop: Shop) -> None:
    shop.put(b"chunk", kind=Kind.CHUNK)
    shop.put(b"node", kind=Kind.NODE)
    verifier = Verifier(shop.backend, GUID)
    found = {
        place.location.kind: verifier.place(place)
        for pack in shop.packs()
        for place in places_in(shop.database, pack, 0, EVERYTHING)
    }
    assert found[Kind.CHUNK] is None
    lonely = found[Kind.NODE]
    assert lonely is not None and lonely.fault is Fault.LONELY


def test_a_record_of_another_object(shop: Shop) -> None:
    """A row that points at a record that is whole, but not its own."""
    shop.put(b"a" * 100)
    other = shop.put(b"b" * 100)
    (a, b) = sorted(shop.rows().values(), key=lambda row: row.id)
    assert b.key == other and a.stored == b.stored
    with shop.database.transaction():
        shop.database.execute("UPDATE object SET offset = ?, pack = ? WHERE id = ?", (b.offset, b.pack, a.id))
    verifier = Verifier(shop.backend, GUID)
    faults = {
        place.location.id: flaw.fault
        for pack in shop.packs()
        for place in places_in(shop.database, pack, 0, EVERYTHING)
        if (flaw := verifier.place(place)) is not None
    }
    assert faults == {a.id: Fault.CHECKSUM}


class OldDisk(Disk):
    """A file system without direct reads, and one that gives half of what is asked."""

    def __init__(self) -> None:
        self.direct = 0
        self.plain = 0

    def open(self, path: str | Path, flags: int, mode: int = 0o600) -> int:
        if flags & os.O_DIRECT:
            self.direct += 1
            raise OSError(22, "Invalid argument")
        return super().open(path, flags, mode)

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        self.plain += 1
        return super().read_into(fd, buffer[: max(4096, len(buffer) // 2 // 4096 * 4096)], offset)


@pytest.mark.parametrize("disk", [Disk(), OldDisk()])
def test_ranges_from_the_medium(tmp_path: Path, disk: Disk) -> None:
    data = random.Random(1).randbytes(50_001)
    (tmp_path / "file").write_bytes(data)
    medium = Medium(disk)
    for offset, length in ((0, 50_001), (0, 1), (4095, 2), (4096, 4096), (12_345, 30_000), (49_000, 5000), (60_000, 9)):
        assert bytes(medium.read(tmp_path / "file", offset, length)) == data[offset : offset + length]
    if isinstance(disk, OldDisk):
        assert disk.direct and disk.plain > disk.direct
    with pytest.raises(FileNotFoundError):
        medium.read(tmp_path / "nothing", 0, 1)
