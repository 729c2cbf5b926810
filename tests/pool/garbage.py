"""What a pool should hold once its garbage is collected, found by walking every tree that has a name."""

import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any

from lamina.fs.view import StoredTree
from lamina.pool import Pool
from lamina.store.record import RECORD_HEADER, Kind, pack_name

ROOM = 3 * 4096
"""What a pack may take beside its live bytes: its header's page, and one at either end of a dead range."""


def rows(pool: Pool, sql: str) -> list[Any]:
    """From the catalogue, past the pool's own code."""
    with closing(sqlite3.connect(f"file:{pool.path}/catalogue.db?mode=ro", uri=True)) as database:
        return database.execute(sql).fetchall()


def reachable(pool: Pool) -> set[bytes]:
    """Keys of all objects that a name reaches."""
    found: set[bytes] = set()
    for entry in pool.list(types=("filesystem", "snapshot")):
        if pool.root(entry.name) is not None:  # the empty tree is stored nowhere
            tree = pool.tree(entry.name)
            assert isinstance(tree, StoredTree)
            found.update(tree.objects())
    return found


def stored(pool: Pool) -> set[bytes]:
    """Keys of all objects but name records."""
    return {key for (key,) in rows(pool, f"SELECT key FROM object WHERE kind <> {int(Kind.NAMES)}")}


def check_whole(pool: Pool) -> None:
    """Everything that a row names is there and is what its key says, every copy of it too."""
    wanted = reachable(pool)
    assert wanted <= stored(pool)
    for (key,) in rows(pool, "SELECT key FROM object"):
        location = pool.store.locate([key])[key]
        pool.store.read(location, verify=True)
        places = [location, *pool.store.copies(location)]
        assert len({place.pack for place in places}) == len(places)
        for copy in places[1:]:
            pool.store.read(copy, verify=True)


def check_clean(pool: Pool) -> None:
    """Rows, trees, packs and files are those that names need, and nobody holds anything."""
    assert stored(pool) == reachable(pool)
    named = {root for (root,) in rows(pool, "SELECT head FROM dataset UNION SELECT root FROM snapshot")} - {None}
    assert {root for (root,) in rows(pool, "SELECT root FROM tree")} == named
    (first,) = rows(pool, "SELECT value FROM meta WHERE name = 'names_from'") or [(0,)]
    assert not rows(pool, f"SELECT 1 FROM object WHERE kind = {int(Kind.NAMES)} AND id < {first[0] or 0}")
    for table in ("object WHERE condemned IS NOT NULL", "lease", "pin", "pack WHERE lease IS NOT NULL"):
        assert rows(pool, f"SELECT * FROM {table}") == [], table
    assert list((pool.path / "leases").iterdir()) == []
    files = {path.name: path.stat() for path in (pool.path / "packs").iterdir()}
    packs = {pack_name(number): size for number, size in rows(pool, "SELECT id, size FROM pack")}
    assert set(files) == set(packs)
    assert all(files[name].st_size == size for name, size in packs.items())


def live_bytes(pool: Pool) -> Counter[str]:
    """Bytes of records that rows name, by pack."""
    found: Counter[str] = Counter()
    for sql in (
        "SELECT pack, stored FROM object",
        "SELECT c.pack, o.stored FROM copy c JOIN object o ON o.id = c.object",
    ):
        for pack, size in rows(pool, sql):
            found[pack_name(pack)] += size + RECORD_HEADER
    return found


def allocated(pool: Pool) -> int:
    """Bytes that the packs take."""
    return sum(path.stat().st_blocks * 512 for path in (pool.path / "packs").iterdir())


def scanned(pool: Pool) -> set[bytes]:
    """Keys of all objects found by reading the packs alone."""
    from lamina.store.scan import PackScan

    found: set[bytes] = set()
    for path in sorted((pool.path / "packs").iterdir()):
        found.update(one.record.key for one in PackScan(path).records())
    return found
