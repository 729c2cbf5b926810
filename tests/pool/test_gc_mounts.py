"""What mounts show stays, whatever is destroyed: pins, and readers whose objects move."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import AccessDenied, LaminaError
from lamina.pool import Pool
from lamina.pool.collecting.pinning import PinnedPool, open_pinned
from tests.pool.garbage import check_clean, rows, stored
from tests.pool.processes import run
from tests.pool.trees import Library, write_tree


def test_what_is_mounted_stays(pool: Pool, library: Library) -> None:
    pool.import_image(library[2].path, "tank/i@1")
    pool.import_image(library[3].path, "tank/i@2")
    mounted = open_pinned("tank")
    assert isinstance(mounted, PinnedPool)
    tree = mounted.tree("tank/i@1")
    head = mounted.tree("tank/i")
    pool.destroy("tank/i", recursive=True)
    assert pool.space().freeing == 0
    pool.gc()
    wanted = set(tree.objects()) | set(head.objects())  # type: ignore[attr-defined]
    assert wanted == stored(pool)
    for key in wanted:
        tree.chunk(key)
    assert [row[0] for row in rows(pool, "SELECT kind FROM lease")] == ["read"]
    # One is let go of: its tree may go.
    kept = set(head.objects())  # type: ignore[attr-defined]
    del tree
    mounted.list()
    pool.gc()
    assert stored(pool) == kept
    mounted.close()
    pool.gc()
    check_clean(pool)


def test_two_mounts_of_one_tree(pool: Pool, library: Library) -> None:
    pool.import_image(library[2].path, "tank/i@1")
    first, second = PinnedPool(Pool.open("tank", write=True)), PinnedPool(Pool.open("tank", write=True))
    trees = [first.tree("tank/i@1"), first.tree("tank/i@1"), second.tree("tank/i")]
    pool.destroy("tank/i", recursive=True)
    kept = stored(pool)
    for mounted in (first, second):
        pool.gc()
        assert stored(pool) == kept
        mounted.close()
    del trees
    pool.gc()
    check_clean(pool)


def test_pins_of_a_killed_mount(pool: Pool, library: Library) -> None:
    pool.import_image(library[2].path, "tank/i@1")

    def hold(ready: Callable[[], object]) -> None:
        mounted = PinnedPool(Pool.open("tank", write=True))
        tree = mounted.tree("tank/i@1")
        ready()
        time.sleep(60)
        del tree

    child = run(hold, ready=True)
    child.wait_ready()
    pool.destroy("tank/i@1")
    pool.gc()
    assert stored(pool)
    child.kill()
    pool.gc()
    check_clean(pool)


def test_who_may_not_write_mounts_without_a_pin(pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.import_image(library[2].path, "tank/i@1")

    def refused(*_: object) -> None:
        raise AccessDenied("no")

    with monkeypatch.context() as patch:
        patch.setattr("lamina.pool.files.check_writable", refused)
        mounted = open_pinned("tank")
    assert isinstance(mounted, Pool) and not mounted.writable
    tree = mounted.tree("tank/i@1")
    pool.destroy("tank/i@1")
    pool.gc()
    check_clean(pool)
    with pytest.raises(LaminaError):
        list(tree.readdir(1))
    mounted.close()


def test_a_reader_whose_objects_move(pool: Pool, tmp_path: Path, small_packs: None, no_holes: None) -> None:
    """It has learned where they lie, and has the packs open."""
    files = {f"f{n}": os.urandom(40_000) for n in range(30)}
    pool.import_image(write_tree(tmp_path / "all", files).path, "tank/i@2")
    some = {name: data for name, data in files.items() if int(name[1:]) % 4 == 0}
    pool.import_image(write_tree(tmp_path / "some", some).path, "tank/i@3")
    with Pool.open("tank") as reader:
        tree = reader.tree("tank/i@3", cache_nodes=0)
        wanted = {key: reader.store.get(key) for key in tree.objects()}  # type: ignore[attr-defined]
        pool.destroy("tank/i@2")
        assert pool.gc().moved > 0
        assert {key: reader.store.get(key) for key in wanted} == wanted
        for key in wanted:  # and of those that follow each other in the index
            assert reader.store.get(key) == wanted[key]
