"""Pools whose packs lose and change bytes."""

import os
from dataclasses import dataclass
from pathlib import Path

from lamina.fs.view import StoredTree, path_of
from lamina.pool import Pool
from lamina.pool.reports import ScanStatus
from lamina.store.objects import Location
from lamina.store.record import RECORD_HEADER, Kind, pack_name
from tests.pool.trees import Source, blob, write_tree

MANY = 1500
"""Small files: enough for a tree of several leaves."""


def files() -> dict[str, bytes]:
    """Large files that share nothing, and many small ones."""
    found = {f"dir/f{number}": blob(2 * number, 150_000) for number in range(1, 6)}
    return found | {f"many/{number:04d}": b"small file number %d" % number for number in range(MANY)}


def make_source(path: Path) -> Source:
    """A tree of ``files``, with a hard link and a symbolic link."""
    return write_tree(path, files(), links={"again": "dir/f1"})


@dataclass(frozen=True)
class Spot:
    """One place of an object."""

    location: Location
    number: int

    @property
    def pack(self) -> int:
        return self.location.pack


def pack_path(pool: Pool, number: int) -> Path:
    return pool.path / "packs" / pack_name(number)


def flip(pool: Pool, spot: Spot, at: int = 3, bit: int = 0) -> None:
    """Flip one bit of the payload at byte ``at``; of the header where that is negative."""
    flip_byte(pack_path(pool, spot.pack), spot.location.offset + at, bit)


def flip_byte(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as pack:
        pack.seek(offset)
        byte = pack.read(1)[0]
        pack.seek(offset)
        pack.write(bytes([byte ^ 1 << bit]))


def spots(pool: Pool, kind: Kind) -> list[list[Spot]]:
    """The places of all objects of a kind, first ones first, objects in the order they were stored."""
    rows = pool.store.database.query("SELECT id FROM object WHERE kind = ? ORDER BY id", (int(kind),))
    return [places(pool, location) for location in pool.store.locate_ids([row for (row,) in rows])]


def places(pool: Pool, location: Location) -> list[Spot]:
    copies = pool.store.copies(location)
    return [Spot(location, 0), *(Spot(copy, number) for number, copy in enumerate(copies, 1))]


def chunk_of(pool: Pool, path: str, name: str = "tank/i@1") -> Spot:
    """The first chunk of a file."""
    tree = pool.tree(name)
    key = tree.extents(path_of(tree, path.encode()))[0].key
    return Spot(pool.store.locate([key])[key], 0)


def node_of(pool: Pool, path: str, name: str = "tank/i@1") -> list[Spot]:
    """The places of the leaf that holds a file's inode."""
    tree = pool.tree(name)
    assert isinstance(tree, StoredTree)
    ino = path_of(tree, path.encode())
    wanted = ino.to_bytes(8, "big") + b"\0"
    for key, node in tree.reader.nodes():
        if node.level == 0 and node.keys[0] <= wanted <= node.keys[-1]:
            return places(pool, pool.store.locate([key])[key])
    raise AssertionError(path)


def forget(pool: Pool, *some: Spot) -> None:
    """Take objects out of the index, as a catalogue that came from an old backup might have."""
    database = pool.store.database
    database.query("PRAGMA foreign_keys = OFF")
    with database.transaction():
        for spot in some:
            database.execute("DELETE FROM object WHERE id = ?", (spot.location.id,))
            database.execute("DELETE FROM copy WHERE object = ?", (spot.location.id,))
    database.query("PRAGMA foreign_keys = ON")


def scrubbed(pool: Pool) -> ScanStatus:
    """Scrub to the end; the figures agree with each other."""
    found = pool.scrub()
    assert found.state == "finished"
    assert found.errors == pool.status().errors
    assert found.examined <= found.total
    return found


def damage(pool: Pool) -> set[str]:
    """What ``pool status -v`` names."""
    return {str(one) for one in pool.damage()}


def check_places(pool: Pool) -> None:
    """Every object reads back to its key from each of its places, which lie in different packs; nodes have two."""
    for kind in (Kind.CHUNK, Kind.NODE, Kind.ROOT):
        for some in spots(pool, kind):
            assert len({spot.pack for spot in some}) == len(some)
            assert len(some) >= (1 if kind is Kind.CHUNK else 2)
            for spot in some:
                pool.store.read(spot.location, verify=True)
                head = pack_path(pool, spot.pack).read_bytes()[spot.location.offset - RECORD_HEADER :][:RECORD_HEADER]
                assert head[20:52] == spot.location.key


def drop_cache(path: Path) -> None:
    """Have the kernel forget what it holds of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
