"""A check finds whatever is wrong with a pool but its data, says it in a line, and finds nothing where nothing is."""

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from pyroaring import BitMap64

from lamina.errors import Busy
from lamina.pool import Pool
from lamina.store.record import RECORD_HEADER, pack_name
from tests.pool.example import example, filled, impatient
from tests.pool.processes import run
from tests.pool.test_recover import spoil
from tests.pool.trees import Library, blob, write_tree

__all__ = ["example", "filled", "impatient"]


def problems(path: Path, **options: bool) -> list[str]:
    with Pool.open(path) as pool:
        found = pool.check(**options).problems
    assert all("\n" not in line and "; " in line for line in found)
    return found


def sql(*statements: str) -> Callable[[Path], None]:
    """Change the catalogue behind everybody's back."""

    def change(path: Path) -> None:
        with closing(sqlite3.connect(path / "catalogue.db")) as database:
            for statement in statements:
                assert database.execute(statement).rowcount != 0
            database.commit()

    return change


def drop_from_bitmap(path: Path) -> None:
    with closing(sqlite3.connect(path / "catalogue.db")) as database:
        root, blob_ = database.execute(
            "SELECT root, objects FROM tree JOIN snapshot USING (root) ORDER BY length(objects) DESC LIMIT 1"
        ).fetchone()
        objects = BitMap64.deserialize(blob_)
        objects.remove(objects[len(objects) // 2])
        objects.add(10**6)
        database.execute("UPDATE tree SET objects = ? WHERE root = ?", (objects.serialize(), root))
        database.commit()


def in_pack(number: int, change: Callable[[bytearray], None]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        place = path / "packs" / pack_name(number)
        data = bytearray(place.read_bytes())
        change(data)
        place.write_bytes(data)

    return rewrite


def flip(at: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at] ^= 1

    return change


def remove_pack(path: Path) -> None:
    (path / "packs" / pack_name(2)).unlink()


def cut_pack(path: Path) -> None:
    os.truncate(path / "packs" / pack_name(2), 100)


def spoil_records(path: Path) -> None:
    with Pool.open(path) as pool:
        (key,) = pool._database.query("SELECT key FROM object WHERE kind = 4 ORDER BY id DESC LIMIT 1")[0]
    spoil(path, key)


def spoil_nodes(path: Path) -> None:
    with Pool.open(path) as pool:
        (key,) = pool._database.query("SELECT key FROM object WHERE kind = 2 ORDER BY id LIMIT 1")[0]
    spoil(path, key)


def other_marker(path: Path) -> None:
    text = (path / "pool.json").read_text()
    with Pool.open(path) as pool:
        (path / "pool.json").write_text(text.replace(str(pool.guid), "12345"))


NODE = "(SELECT min(id) FROM object WHERE kind = 2)"

WRONG: list[tuple[str, Callable[[Path], None], str]] = [
    ("no row", sql("DELETE FROM object WHERE id = (SELECT max(id) FROM object WHERE kind = 1)"), "are missing"),
    ("offset", sql(f"UPDATE object SET offset = offset + 1 WHERE id = {NODE}"), "record header"),
    ("overlap", sql(f"UPDATE object SET offset = offset - 60 WHERE id = {NODE}"), "two rows claim the same bytes"),
    ("codec", sql(f"UPDATE object SET codec = 1 - codec WHERE id = {NODE}"), "is not what the index says of it"),
    ("kind", sql(f"UPDATE object SET kind = 1 WHERE id = {NODE}"), "stored as another kind of object"),
    ("beyond", sql("UPDATE pack SET size = 200 WHERE id = 1"), "of which 200 bytes are durable"),
    ("short", sql("UPDATE pack SET size = size + 4096 WHERE id = 2"), "is cut short"),
    ("no pack", remove_pack, "pack '00000002.pack' is missing"),
    ("cut pack", cut_pack, "is cut short"),
    ("pack header", in_pack(1, flip(9)), "pack header is damaged"),
    ("copy", sql("UPDATE copy SET pack = 1, offset = 40"), "lie in the same pack"),
    ("copy's place", sql("UPDATE copy SET offset = offset + 8 WHERE number = 1"), "record header is damaged"),
    ("damaged mark", sql(f"UPDATE object SET condemned = -1 WHERE id = {NODE}"), "known to be damaged or missing"),
    ("bitmap", drop_from_bitmap, "lacks 1, and has 1 that it does not reach"),
    ("inodes", sql("UPDATE tree SET inodes = inodes + 1"), " inodes, it has "),
    ("data", sql("UPDATE tree SET data_bytes = 5 WHERE data_bytes > 5"), " data_bytes, it has "),
    ("stored", sql("UPDATE tree SET stored = stored + 1"), " stored, it has "),
    ("nodes", spoil_nodes, "cannot be read"),
    ("head", sql("UPDATE dataset SET follows = NULL, head = NULL WHERE follows IS NOT NULL"), "name records tell the"),
    (
        "image",
        sql("UPDATE dataset SET head = NULL WHERE follows IS NOT NULL"),
        "is not the image that it is said to be",
    ),
    ("parent", sql("UPDATE dataset SET name = 'tank/no/parent' WHERE name = 'tank/clone'"), "has no parent"),
    ("root", sql("UPDATE dataset SET name = 'pool' WHERE name = 'tank'"), "has no parent"),
    ("name", sql("UPDATE dataset SET name = 'tank/cl%ne' WHERE name = 'tank/clone'"), "invalid character"),
    ("origin", sql("UPDATE dataset SET origin = 999 WHERE origin IS NOT NULL"), "refers to a row of 'snapshot'"),
    ("snapshot", sql("DELETE FROM snapshot WHERE id = (SELECT max(id) FROM snapshot)"), "the name records still know"),
    (
        "renamed",
        sql("UPDATE snapshot SET name = 'x' WHERE name = 's'"),
        "the name records tell the snapshot 'x' otherwise",
    ),
    (
        "property",
        sql("UPDATE dataset_property SET value = 'gzip' WHERE value = 'lz4'"),
        "tell the dataset 'tank/images'",
    ),
    ("hold", sql("DELETE FROM hold"), "the name records tell the snapshot 's' otherwise"),
    ("bookmark", sql("DELETE FROM bookmark"), "the name records still know the bookmark 'mark'"),
    ("comment", sql("UPDATE meta SET value = 'x' WHERE name = 'comment'"), "other properties of the pool"),
    ("txg", sql("UPDATE meta SET value = value + 1 WHERE name = 'txg'"), "the name records go up to txg"),
    ("tip", sql("UPDATE meta SET value = 'ff' WHERE name = 'record'"), "the last name record is not in the packs"),
    ("record", spoil_records, "cannot be read"),
    ("guid", other_marker, "is another pool's"),
    ("recovery", sql("INSERT INTO meta VALUES ('recovery', 'unfinished')"), "a recovery was broken off"),
    ("lease", sql("UPDATE pack SET lease = 'gone' WHERE id = 1"), "is taken by a lease that is not there"),
    ("figures", sql("UPDATE figure SET stored = stored + 1 WHERE stored > 0"), "are not what they should be"),
]


@pytest.mark.parametrize(("damage", "words"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_what_is_wrong_is_found(filled: Path, damage: Callable[[Path], None], words: str) -> None:
    with Pool.open(filled, write=True) as pool:
        pool.get_many(pool.list(), None)  # figures are kept from here on
    assert problems(filled) == []
    damage(filled)
    found = problems(filled)
    assert any(words in line for line in found), found


def test_a_header_of_data_is_looked_at_if_asked_for(filled: Path) -> None:
    with Pool.open(filled) as pool:
        pack, offset = pool._database.query("SELECT pack, offset FROM object WHERE kind = 1 ORDER BY id LIMIT 1")[0]
    in_pack(pack, flip(offset - RECORD_HEADER + 20))(filled)
    assert problems(filled) == []
    assert len(problems(filled, headers=True)) == 1


def test_what_is_not_wrong_is_a_note(filled: Path) -> None:
    (filled / "packs" / "00000099.pack").write_bytes(b"x" * 9000)
    (filled / "packs" / "readme\x1b").touch()
    with Pool.open(filled, write=True) as pool:
        pool._database.execute("INSERT INTO lease VALUES ('1-abc', 1, 'write', 0, 0)")
        report = pool.check()
    assert report.problems == []
    notes = "\n".join(report.notes)
    for words in (
        "1 pack files",
        "'readme\\x1b' among the packs",
        "1 leases are of processes that died",
        "backup of all",
    ):
        assert words in notes


def test_a_damaged_database_is_said(filled: Path) -> None:
    with closing(sqlite3.connect(filled / "catalogue.db")) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'object_pack'").fetchone()
    with open(filled / "catalogue.db", "r+b") as file:
        file.seek((page - 1) * 4096 + 100)
        file.write(random.Random(1).randbytes(3900))
    found = problems(filled)
    assert found and all("damaged" in line and "'lamina pool recover -f tank'" in line for line in found)


def test_nothing_is_found_beside_others_at_work(place: Path, library: Library) -> None:
    """Imports, destroys and garbage collections change everything under the check's feet."""

    def work(ready: Callable[[], object], seed: int) -> None:
        generator = random.Random(seed)
        ready()
        with Pool.open("tank", write=True) as pool:
            for number in range(12):
                pool.import_image(generator.choice(library).path, f"tank/w{seed}@{number}")
                if number % 3 == 2:
                    pool.destroy(f"tank/w{seed}@{number - 1}")
                    with suppress(Busy):  # the other is at it
                        pool.gc(wait=0)

    Pool.create("tank", place / "tank").close()
    children = [run(work, seed, ready=True) for seed in (1, 2)]
    for child in children:
        child.wait_ready()
    for _ in range(12):
        with Pool.open("tank") as pool:
            assert pool.check(headers=True).problems == []
    for child in children:
        child.result()
    assert problems(place / "tank") == []


def test_many_trees_are_told_apart(place: Path) -> None:
    """Memory of subtrees seen before must not hide what is wrong in a tree that shares them."""
    files = {f"d{n % 9}/f{n}": blob(2 * n, 2000) for n in range(300)}
    with Pool.create("tank", place / "tank") as pool:
        for number in range(3):
            source = write_tree(place / f"s{number}", files | {f"own{number}": b"x" * number})
            pool.import_image(source.path, f"tank/i@{number}")
        assert pool.check().problems == []
        assert pool.check().trees == 3
    sql("UPDATE tree SET files = files + 1 WHERE root = (SELECT max(root) FROM tree)")(place / "tank")
    assert ["'tank/i', 'tank/i@2' has 302 files, it has 301" in line for line in problems(place / "tank")] == [True]
