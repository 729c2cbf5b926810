"""Second copies: tree nodes are kept twice, in different packs, and a read falls back to the second."""

from pathlib import Path

import pytest

from lamina.errors import DamagedData
from lamina.store.record import PACK_ALIGN, Kind
from lamina.store.writer import StoreWriter
from tests.store.kit import Shop
from tests.store.test_writer import noise


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


def filled(shop: Shop, copies: int, node_copies: int) -> tuple[bytes, bytes]:
    """A chunk and a node."""
    writer = shop.writer(copies, node_copies)
    keys = writer.put(noise(1), Kind.CHUNK), writer.put(noise(2), Kind.NODE)
    with writer.commit() as names:
        names([b"names"])
    writer.close()
    return keys


def places(shop: Shop, key: bytes) -> list[int]:
    """Packs that hold an object."""
    row = shop.rows()[key]
    return [row.pack, *(copy.pack for copy in shop.store.copies(row))]


def spoil(shop: Shop, key: bytes, which: int) -> None:
    row = shop.rows()[key]
    place = [row, *shop.store.copies(row)][which]
    with open(shop.pack_path(place.pack), "r+b") as file:
        file.seek(place.offset + 3)
        byte = file.read(1)
        file.seek(place.offset + 3)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(("copies", "node_copies"), [(1, 1), (1, 2), (2, 3), (3, 3)])
def test_each_copy_lies_in_another_pack(shop: Shop, copies: int, node_copies: int) -> None:
    chunk, node = filled(shop, copies, node_copies)
    for key, count in ((chunk, copies), (node, node_copies)):
        assert len(places(shop, key)) == len(set(places(shop, key))) == count
    assert shop.check() == 2
    ((names,),) = shop.database.query("SELECT id FROM object WHERE kind = 4")
    assert len(shop.database.query("SELECT 1 FROM copy WHERE object = ?", (names,))) == node_copies - 1
    records = shop.scanned()
    for pack, offset in shop.database.query("SELECT pack, offset FROM copy"):
        assert (pack, offset) in records


@pytest.mark.parametrize("which", [0, 1])
def test_a_read_falls_back_to_the_good_copy(shop: Shop, which: int) -> None:
    _, node = filled(shop, 1, 2)
    spoil(shop, node, which)
    assert shop.store.get(node, verify=True) == noise(2)


def test_a_missing_pack_is_read_around(shop: Shop) -> None:
    _, node = filled(shop, 1, 2)
    shop.backend.close()
    shop.pack_path(places(shop, node)[0]).unlink()
    assert shop.store.get(node, verify=True) == noise(2)


def test_damage_to_every_copy_is_damage(shop: Shop) -> None:
    chunk, node = filled(shop, 1, 2)
    for which in (0, 1):
        spoil(shop, node, which)
    spoil(shop, chunk, 0)
    for key in (chunk, node):
        with pytest.raises(DamagedData, match="is damaged"):
            shop.store.get(key)


def test_packs_of_copies_are_sealed_and_gone_on_with(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one fills in the middle of an object's copies: its row never goes without its copy."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 20_000)
    for start in range(0, 30, 10):
        writer = shop.writer(1, 2)
        for seed in range(start, start + 10):
            writer.put(noise(seed, 3000), Kind.NODE)
            writer.put(noise(1000 + seed, 2000), Kind.CHUNK)
        with writer.commit() as names:
            names([b"%d" % start])
        writer.close()
    assert shop.check() == 60
    ((alone,),) = shop.database.query(
        "SELECT count(*) FROM object o WHERE kind != 1 AND NOT EXISTS (SELECT 1 FROM copy c WHERE c.object = o.id)"
    )
    assert alone == 0
    ((together,),) = shop.database.query(
        "SELECT count(*) FROM object o JOIN copy c ON c.object = o.id AND c.pack = o.pack"
    )
    assert together == 0
    for state, size, lease in shop.packs().values():
        assert lease is None
        assert state == "open" or size % PACK_ALIGN == 0


def test_an_object_stored_anew_takes_its_copies_along(shop: Shop) -> None:
    _, node = filled(shop, 1, 2)
    before = places(shop, node)
    with shop.database.transaction():
        shop.database.execute("UPDATE object SET condemned = 1 WHERE key = ?", (node,))
        shop.database.execute("UPDATE pack SET state = 'sealed'")
    writer: StoreWriter = shop.writer(1, 3)
    writer.put(noise(2), Kind.NODE)
    with writer.commit():
        pass
    writer.close()
    after = places(shop, node)
    assert len(set(after)) == 3
    assert not {*before} & {*after}
    for which in (0, 1):
        spoil(shop, node, which)
    assert shop.store.get(node, verify=True) == noise(2)


def test_an_abort_leaves_no_copies(shop: Shop) -> None:
    filled(shop, 1, 2)
    before = shop.packs(), [shop.pack_path(number).read_bytes() for number in shop.packs()]
    writer = shop.writer(2, 3)
    for seed in range(50, 60):
        writer.put(noise(seed), Kind.NODE)
        writer.put(noise(seed + 100), Kind.CHUNK)
    writer._flush()
    writer.abort()
    assert (shop.packs(), [shop.pack_path(number).read_bytes() for number in shop.packs()]) == before
    assert shop.check() == 2
