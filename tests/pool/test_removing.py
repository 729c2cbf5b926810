"""Destroying pools: all of it goes and nothing else; a destruction that was broken off is finished by the next."""

import os
from pathlib import Path

import pytest

from lamina.errors import AlreadyExists, Busy, NotFound
from lamina.pool import Pool, pool_names
from lamina.pool.recovery.recover import recover_pool
from lamina.pool.recovery.removing import destroy_pool
from lamina.store.disk import Disk, Target
from tests.pool.example import example, filled, impatient

__all__ = ["example", "filled", "impatient"]


def test_all_of_it_goes(filled: Path, place: Path) -> None:
    recover_pool("tank", force=True)
    recover_pool("tank", force=True)  # leaves old catalogues beside
    destroy_pool("tank")
    assert pool_names() == [] and sorted(os.listdir(place)) == ["known"]
    with pytest.raises(NotFound, match="cannot open 'tank': no such pool"):
        destroy_pool("tank")


def test_what_is_not_laminas_stays(filled: Path) -> None:
    for name in ("notes.txt", "packs/readme", "packs/1.pack", "leases/mine", "tmp/x", "catalogue.db.mine"):
        (filled / name).write_text("mine")
    left = destroy_pool("tank")
    assert left.foreign == ["catalogue.db.mine", "leases", "notes.txt", "packs", "tmp"]
    assert sorted(path.relative_to(filled).as_posix() for path in filled.rglob("*") if path.is_file()) == [
        *("catalogue.db.mine", "leases/mine", "notes.txt", "packs/1.pack", "packs/readme", "tmp/x")
    ]
    assert pool_names() == []


def test_a_directory_behind_a_link_is_found(place: Path) -> None:
    (place / "real").mkdir()
    (place / "link").symlink_to(place / "real")
    Pool.create("tank", place / "link" / "pool").close()
    destroy_pool("tank")
    assert os.listdir(place / "real") == []


def test_refused_while_in_use(filled: Path) -> None:
    with Pool.open("tank"), pytest.raises(Busy, match="cannot destroy 'tank': pool is busy"):
        destroy_pool("tank")
    with Pool.open("tank", write=True) as pool, pool._writer(), pytest.raises(Busy, match="works with it"):
        destroy_pool("tank")
    with Pool.open("tank") as pool:
        assert pool.check().problems == []


def test_a_damaged_pool_can_be_destroyed(filled: Path) -> None:
    (filled / "catalogue.db").write_bytes(b"garbage")
    destroy_pool("tank")
    assert not filled.exists()


def test_a_pool_that_is_not_there_is_said(filled: Path, place: Path) -> None:
    filled.rename(place / "away")
    with pytest.raises(NotFound, match="bring its directory back, or forget it with 'lamina pool export tank'"):
        destroy_pool("tank")
    (place / "away").rename(filled)
    destroy_pool("tank")


class Counting(Disk):
    """A disk whose calls that change something end after a number of them."""

    def __init__(self, last: int) -> None:
        self.left = last

    def _count(self) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1

    def unlink(self, path: Target) -> None:
        self._count()
        super().unlink(path)

    def replace(self, old: Target, new: Target) -> None:
        self._count()
        super().replace(old, new)

    def rmdir(self, path: Target) -> None:
        self._count()
        super().rmdir(path)


def test_broken_off_anywhere_it_is_finished_by_the_next(place: Path) -> None:
    steps = 0
    while True:
        path = place / f"tank{steps}"
        Pool.create("tank", path).close()
        try:
            destroy_pool("tank", Counting(steps))
        except KeyboardInterrupt:
            if steps == 0:  # nothing has begun
                Pool.open("tank").close()
            else:
                with pytest.raises(NotFound):
                    Pool.open("tank")
                if pool_names():
                    assert (path / "pool.json.destroying").exists()
                    with pytest.raises(NotFound, match="'lamina pool destroy tank' finishes it"):
                        Pool.open("tank")
                    with pytest.raises(AlreadyExists, match="its destruction was begun"):
                        Pool.create("tank", place / "new")
                    with pytest.raises(NotFound, match="is being destroyed"):
                        recover_pool("tank")
            if pool_names():
                destroy_pool("tank")
            assert not path.exists() or os.listdir(path) == []
        else:
            break
        assert pool_names() == []
        steps += 1
    assert steps > 8
