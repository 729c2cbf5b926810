"""One bit of a pack is another: a read says so or is healed by a second copy; never does it give wrong data.

Reads do not use what lies around a payload: flips there are found by scrub, and by whoever reads packs alone.
``LAMINA_FLIPS=10000`` flips so many bits; without it, a thousand.
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import DamagedData
from lamina.pool import Pool
from lamina.store.codec import Codec
from lamina.store.objects import Location, ObjectStore
from lamina.store.record import PACK_HEADER, RECORD_HEADER, Record, pack_name, scan_pack
from lamina.store.scan import PackScan
from tests.faults.oracle import contents, copy_of, one_line
from tests.pool.trees import blob, write_tree

FLIPS = int(os.environ.get("LAMINA_FLIPS", "1000"))
SCRUBS = max(FLIPS // 25, 10)
CODECS = {"off": Codec.STORED, "lz4": Codec.LZ4, "gzip-9": Codec.DEFLATE, "zstd": Codec.ZSTD}
FIELDS = {"magic": 0, "kind": 2, "codec": 3, "stored": 4, "decoded": 8, "sum": 12, "key": 20, "check": 52}
"""Where the fields of a record's header begin."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A bit of a pack; ``key`` is that of the object whose record it is in."""

    pack: int
    offset: int
    bit: int
    place: str
    key: bytes | None = None


@dataclass(frozen=True)
class Victim:
    """A pool with packs of all codecs, and what it holds."""

    path: Path
    flips: list[Flip]
    images: dict[str, dict[bytes, Any]]
    objects: dict[bytes, bytes]
    reached: dict[bytes, list[str]]


@pytest.fixture
def victim(place: Path, monkeypatch: pytest.MonkeyPatch) -> Victim:
    """A fresh pool: an image for each codec, none of which shares with another; packs sealed and open."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 90_000)
    with Pool.create("tank", place / "tank") as pool:
        for number, compression in enumerate(CODECS):
            pool.create_dataset(f"tank/{number}", {"compression": compression})
            files = {
                f"d{n}/f{n}": blob(1001 + 2 * (10 * number + n), size) for n, size in enumerate((60_000, 40_000, 700))
            }
            pool.import_image(write_tree(place / f"tree{number}", files).path, f"tank/{number}@1")
    with Pool.open(place / "tank") as pool:
        images = {name: contents(pool.tree(name)) for name in (entry.name for entry in pool.images())}
        reached: dict[bytes, list[str]] = {}
        for name in images:
            for key in pool.tree(name).objects():  # type: ignore[attr-defined]
                reached.setdefault(key, []).append(name)
        objects = {key: pool.store.get(key) for (key,) in pool._database.query("SELECT key FROM object")}
        flips = list(_flips(pool, random.Random(FLIPS)))
    assert {flip.place.split()[0] for flip in flips} >= {codec.name for codec in Codec} | {"pack", "padding"}
    return Victim(place / "tank", flips, images, objects, reached)


def _flips(pool: Pool, generator: random.Random) -> Iterator[Flip]:
    """Bits of every place in records of every codec, as many of each; of pack headers and padding."""
    records: list[tuple[int, Record]] = []
    padding: list[tuple[int, int]] = []
    packs = pool._database.query("SELECT id, size FROM pack WHERE size > 0")
    for number, size in packs:
        data = (pool.path / "packs" / pack_name(number)).read_bytes()[:size]
        found = list(scan_pack(data, pool.guid))
        records += [(number, record) for record in found]
        padding += [(number, at) for at in range(found[-1].offset + found[-1].stored, size)]
    assert padding, "no pack is sealed"
    for _ in range(FLIPS):
        bit = generator.randrange(8)
        kind = generator.choice(("payload", "payload", "payload", "header", "header", "pack", "padding"))
        if kind == "pack":
            yield Flip(generator.choice(packs)[0], generator.randrange(PACK_HEADER.size), bit, "pack header")
        elif kind == "padding":
            yield Flip(*generator.choice(padding), bit, "padding")
        else:
            codec = generator.choice(list(Codec))
            number, record = generator.choice([one for one in records if one[1].codec == codec])
            if kind == "payload":
                at, length = record.offset, record.stored
                edge = generator.random()  # frames begin and end with fields of their own
                within = range(length) if edge < 0.6 else range(min(24, length)) if edge < 0.8 else range(length)[-24:]
                yield Flip(number, at + generator.choice(within), bit, f"{codec.name} payload", record.key)
            else:
                field = generator.choice(list(FIELDS))
                end = min((start for start in FIELDS.values() if start > FIELDS[field]), default=RECORD_HEADER)
                at = record.offset - RECORD_HEADER + generator.randrange(FIELDS[field], end)
                yield Flip(number, at, bit, f"{codec.name} header {field}", record.key)


@contextmanager
def flipped(path: Path, flip: Flip) -> Iterator[None]:
    """The bit is another inside."""
    fd = os.open(path / "packs" / pack_name(flip.pack), os.O_RDWR)
    try:
        byte = os.pread(fd, 1, flip.offset)
        os.pwrite(fd, bytes([byte[0] ^ 1 << flip.bit]), flip.offset)
        yield
        os.pwrite(fd, byte, flip.offset)
    finally:
        os.close(fd)


def test_reads(victim: Victim) -> None:
    """Objects and whole images: right, or an error; where the bit is in a payload, that very place is found out."""
    healed = refused = 0
    with Pool.open(victim.path) as pool:
        for flip in victim.flips:
            with flipped(victim.path, flip):
                store = ObjectStore(pool._database, pool._backend)
                if flip.key is not None:
                    good = _object(store, flip)
                    assert good in (None, victim.objects[flip.key]), flip
                    if "payload" in flip.place:
                        healed += good is not None
                        refused += good is None
                        for location in _places(store, flip.key):
                            if location.pack == flip.pack and location.offset <= flip.offset:
                                with pytest.raises(DamagedData):
                                    store.read(location)
                    else:
                        assert good is not None, flip
                for name in victim.reached.get(flip.key or b"", list(victim.images)[:1]):
                    try:
                        assert contents(pool.tree(name)) == victim.images[name], flip
                    except DamagedData as error:
                        one_line(error)
                        assert "payload" in flip.place
                scan = PackScan(victim.path / "packs" / pack_name(flip.pack))
                for one in scan.records():
                    payload = bytes(one.payload)
                    assert store.coder.decode(one.record.codec, payload, one.record.decoded) == _known(
                        victim, one.record
                    )
                assert scan.damage, f"{flip} is not seen by who reads packs alone"
    assert healed and refused
    print(f"\n{len(victim.flips)} flips: {refused} refused, {healed} healed by a second copy")


def _known(victim: Victim, record: Record) -> bytes:
    return victim.objects[record.key]


def _object(store: ObjectStore, flip: Flip) -> bytes | None:
    assert flip.key is not None
    try:
        return store.get(flip.key)
    except DamagedData as error:
        one_line(error)
        return None


def _places(store: ObjectStore, key: bytes) -> list[Location]:
    location = store.locate((key,))[key]
    found = [location, *store.copies(location)]
    return [one for one in found if one.stored]


def test_scrubs(victim: Victim, place: Path) -> None:
    """Scrub finds it wherever it is, but for padding; what has a second copy is whole afterwards."""
    generator = random.Random(FLIPS)
    chosen = generator.sample([flip for flip in victim.flips if flip.place != "padding"], SCRUBS)
    mended = lost = 0
    for flip in chosen:
        copy = place / "copy"
        copy_of(victim.path, copy)
        try:
            with flipped(copy, flip), Pool.open(copy, write=True) as pool:
                found = pool.scrub()
                assert found.state == "finished"
                assert found.errors or found.repaired, f"scrub does not find {flip}"
                store = ObjectStore(pool._database, pool._backend)
                if found.errors and "payload" in flip.place:
                    lost += 1
                    assert flip.key is not None and _object(store, flip) is None, flip
                elif not found.errors:
                    mended += 1
                    for name, image in victim.images.items():
                        assert contents(pool.tree(name)) == image, flip
                    again = pool.scrub()
                    assert (again.errors, again.repaired) == (0, 0), f"scrub did not mend {flip} for good"
        finally:
            shutil.rmtree(copy)
    print(f"\n{len(chosen)} scrubs: {mended} mended, {lost} lost")
    assert mended and lost
