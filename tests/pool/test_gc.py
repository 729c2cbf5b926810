"""Garbage collection in one process: what goes, what stays, and what the disk gets back."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

import lamina.pool.gc as gc
from lamina.errors import AccessDenied, Busy, DamagedData, LaminaError, NoSpace
from lamina.pool import Pool
from lamina.pool.background import collect_in_background
from lamina.pool.freeing import has_work
from lamina.pool.partials import Partial, drop_partial, put_partial
from lamina.pool.pinning import PinnedPool, open_pinned
from lamina.store.backend import LocalBackend
from lamina.store.record import Kind, pack_name
from tests.pool.garbage import ROOM, allocated, check_clean, check_whole, live_bytes, reachable, rows, scanned, stored
from tests.pool.processes import run
from tests.pool.test_full_disk import Disk, can_mount, fill, leave
from tests.pool.trees import Library, many_files, write_tree

TARGET = 200_000


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of 200 kB, and what counts as waste and as small in proportion."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", TARGET)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 8)
    monkeypatch.setattr("lamina.store.compaction.Compactor.__init__.__defaults__", ((), TARGET))
    monkeypatch.setattr(gc, "_LEAST_WASTE", 8192)
    monkeypatch.setattr(gc, "_SMALL", TARGET // 8)


@pytest.fixture
def no_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no holes."""
    monkeypatch.setattr(LocalBackend, "punch", lambda *_: False)


def held_back(pool: Pool) -> int:
    """Objects that are condemned."""
    return int(rows(pool, "SELECT count(*) FROM object WHERE condemned > 0")[0][0])


# -- what goes and what stays ---------------------------------------------------------------------------------------


def test_what_is_destroyed_goes(pool: Pool, library: Library) -> None:
    for number in range(2, 6):
        pool.import_image(library[number].path, f"tank/i{number}@1")
    check_clean(pool)
    assert pool.space().freeing == pool.status().freeing == 0
    for number in (2, 4):
        reclaim = pool.destroy(f"tank/i{number}", recursive=True, measure=True).reclaim
        before = pool.space()
        assert before.freeing == reclaim > 0
        plan = pool.gc(dry_run=True)
        assert (plan.stored, plan.freeing, plan.waiting_for, plan.dry_run) == (reclaim, reclaim, [], True)
        assert pool.space().freeing == reclaim  # nothing was done
        report = pool.gc()
        assert (report.stored, report.objects, report.freeing) == (reclaim, plan.objects, 0)
        assert report.given >= reclaim - 4 * ROOM
        assert pool.space().freeing == 0
        check_clean(pool)
    for number in (3, 5):
        assert not pool.verify(f"tank/i{number}@1", library[number].path)
    check_whole(pool)
    assert pool.gc().objects == 0


def test_what_others_share_stays(pool: Pool, library: Library) -> None:
    for number in range(2, 7):
        pool.import_image(library[number].path, f"tank/i@{number}")
    keys = {number: set(pool.tree(f"tank/i@{number}").objects()) for number in range(2, 7)}  # type: ignore[attr-defined]
    for number in (6, 2, 5):
        pool.destroy(f"tank/i@{number}")
        left = stored(pool)
        pool.gc()
        others = set().union(*(keys[one] for one in keys if one != number))
        assert stored(pool) == left - (keys.pop(number) - others)
        check_clean(pool)
    check_whole(pool)


def test_everything_destroyed_gives_everything_back(pool: Pool, tmp_path: Path, small_packs: None) -> None:
    pool.gc()
    empty = allocated(pool)
    pool.import_image(many_files(tmp_path / "s", 90, 12_000, 1).path, "tank/a/i@1")
    pool.destroy("tank/a", recursive=True)
    report = pool.gc()
    check_clean(pool)
    assert reachable(pool) == set()
    assert report.packs >= 3
    assert allocated(pool) <= empty + 2 * ROOM


def test_a_head_that_moved_lets_go(pool: Pool, library: Library) -> None:
    """The same name twice: the tree that the head had has no name any more."""
    pool.import_image(library[2].path, "tank/i@1")
    pool.destroy("tank/i@1")
    assert pool.space().freeing > 0
    pool.import_image(library[2].path, "tank/i@2")  # the same tree has a name again
    assert pool.space().freeing == 0
    assert pool.gc().objects == 0
    assert not pool.verify("tank/i@2", library[2].path)
    check_clean(pool)


def test_a_tree_that_was_freed_can_come_again(pool: Pool, library: Library) -> None:
    """Row numbers are never given twice: what the old bitmap said must not be believed."""
    for _ in range(3):
        pool.import_image(library[2].path, "tank/i@1")
        pool.import_image(library[3].path, "tank/j@1")
        check_whole(pool)
        pool.destroy("tank/i", recursive=True)
        pool.gc()
        check_clean(pool)
        pool.destroy("tank/j", recursive=True)
    pool.gc()
    check_clean(pool)


def test_half_a_collection_is_gone_on_with(pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off after any transaction or call, then done whole by the next."""
    monkeypatch.setattr(gc, "_ROWS_AT_ONCE", 3)
    for steps in range(0, 60, 7):
        pool.import_image(library[2].path, "tank/i@1")
        pool.import_image(library[3].path, "tank/i@2")
        pool.destroy("tank/i@1")
        left = steps

        def check(_: object = None) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            gc._Collection(pool, check, None, 0.0).run(True, 0.0, 0.0)
        assert not pool.verify("tank/i@2", library[3].path)
        pool.gc()
        check_clean(pool)
        pool.destroy("tank/i", recursive=True)


def test_name_records_that_a_full_one_stands_for(pool: Pool) -> None:
    for number in range(30):
        pool.set(["tank"], {"user:x": str(number)})
    kept = {key for (key,) in rows(pool, f"SELECT key FROM object WHERE kind = {int(Kind.NAMES)}")}
    with pool._writer() as writer:
        pool._catalogue.write_full(writer)
    assert has_work(pool._catalogue) and pool.space().freeing > 0
    assert pool.gc().objects >= 30
    names = {key for (key,) in rows(pool, f"SELECT key FROM object WHERE kind = {int(Kind.NAMES)}")}
    assert names and not names & kept
    check_clean(pool)
    pool.set(["tank"], {"user:x": "later"})
    assert pool.gc().objects == 0
    assert pool.get("tank", ["user:x"])["user:x"].value == "later"


def test_damaged_and_unreachable(pool: Pool, library: Library) -> None:
    """What scrub has marked goes like the rest; while somebody writes it keeps its mark."""
    pool.import_image(library[2].path, "tank/i@1")
    pool.import_image(library[3].path, "tank/i@2")
    mine = set(pool.tree("tank/i@1").objects()) - set(pool.tree("tank/i@2").objects())  # type: ignore[attr-defined]
    with pool._database.transaction():
        pool._database.execute_many("UPDATE object SET condemned = -1 WHERE key = ?", [(key,) for key in mine])
    pool.destroy("tank/i@1")
    with pool._writer():
        pool.gc(wait=0)
        assert {key for (key,) in rows(pool, "SELECT key FROM object WHERE condemned = -1")} == mine
    assert pool.gc().objects == len(mine)
    check_clean(pool)


def test_a_set_that_cannot_be_read_frees_nothing(pool: Pool, library: Library) -> None:
    """What else a tree reaches is not known then: nothing may go."""
    pool.import_image(library[2].path, "tank/i@1")
    pool.import_image(library[3].path, "tank/i@2")
    pool.destroy("tank/i@1")
    with pool._database.transaction():
        pool._database.execute("UPDATE tree SET objects = substr(objects, 1, 5)")
    before = stored(pool)
    with pytest.raises(DamagedData, match="nothing is freed; run 'lamina pool check'"):
        pool.gc()
    assert stored(pool) == before and rows(pool, "SELECT * FROM lease") == []


# -- beside those who write -----------------------------------------------------------------------------------------


def test_what_an_import_may_share_waits_for_it(pool: Pool, library: Library) -> None:
    pool.import_image(library[2].path, "tank/i@1")
    pool.import_image(library[3].path, "tank/i@2")
    with pool._writer() as writer:
        pool.destroy("tank/i@1")
        freeing = pool.space().freeing
        report = pool.gc(wait=0)
        assert (report.objects, report.waiting_for, report.freeing) == (0, [os.getpid()], freeing)
        assert held_back(pool) > 0 and rows(pool, "SELECT count(*) FROM tree") == [(1,)]
        assert pool.gc(dry_run=True).waiting_for == [os.getpid()]
        # Who begins now passes by what is condemned, and is not waited for.
        condemned = [key for (key,) in rows(pool, "SELECT key FROM object WHERE condemned > 0")]
        assert pool.store.ids(condemned) == {}
        with pool._writer():
            writer.close()
            assert pool.gc(wait=0).objects > 0
            assert held_back(pool) == 0
    check_clean(pool)
    assert not pool.verify("tank/i@2", library[3].path)


def test_an_import_takes_back_what_was_condemned(pool: Pool, library: Library) -> None:
    """It decided to share it before: its commit clears the marks."""
    pool.import_image(library[2].path, "tank/i@1")
    keys = sorted(stored(pool))
    shared, stays = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    with pool._writer() as writer:
        assert writer.claim(shared) == set()
        pool.destroy("tank/i@1")
        pool.gc(wait=0)
        assert held_back(pool) == len(keys)
        with writer.commit():
            pass
        assert {key for (key,) in rows(pool, "SELECT key FROM object WHERE condemned > 0")} == set(stays)
        pool.gc(wait=0)
        assert held_back(pool) == len(shared)  # nothing names them; it may share them still
    pool.gc()
    check_clean(pool)


def test_a_condemned_object_that_is_stored_anew_moves(pool: Pool, library: Library) -> None:
    pool.import_image(library[2].path, "tank/i@1")
    with pool._writer():
        pool.destroy("tank/i@1")
        pool.gc(wait=0)
        pool.import_image(library[2].path, "tank/j@1")
        assert held_back(pool) == 0
        assert not pool.verify("tank/j@1", library[2].path)
    pool.gc()
    check_clean(pool)
    check_whole(pool)
    assert not pool.verify("tank/j@1", library[2].path)


def test_what_a_running_import_has_put_is_left_alone(pool: Pool) -> None:
    with pool._writer() as writer:
        kept = writer.put(b"of this import" * 100, Kind.CHUNK)
        writer._flusher.put(writer._batch())
        writer._flusher.wait()
        report = pool.gc(wait=0)
        assert (report.objects, held_back(pool)) == (0, 0)
        assert kept in stored(pool)
    assert pool.gc().objects == 1  # nothing named it
    check_clean(pool)


def killed_import(ready: Callable[[], object], path: Path) -> None:
    with Pool.open("tank", write=True) as pool, pool._writer() as writer:
        for _ in range(20):
            writer.put(os.urandom(5000), Kind.CHUNK)
        writer._flusher.put(writer._batch())
        writer._flusher.wait()
        ready()
        time.sleep(60)


@pytest.mark.parametrize("full", [True, False])
def test_what_a_killed_import_left(pool: Pool, library: Library, full: bool) -> None:
    """Found by a collection that looks at everything, or that counts more rows than names account for."""
    pool.import_image(library[2].path, "tank/i@1")
    child = run(killed_import, pool.path, ready=True)
    child.wait_ready()
    assert gc.collect(pool, full=full, wait=0).objects == 0  # it runs
    child.kill()
    assert len(stored(pool) - reachable(pool)) == 20
    assert gc.collect(pool, full=full).objects == 20
    check_clean(pool)
    assert not pool.verify("tank/i@1", library[2].path)


def test_one_at_a_time(pool: Pool, library: Library) -> None:
    """The second says so; the first looks for work in one transaction with its end."""
    pool.import_image(library[2].path, "tank/i@1")
    pool.destroy("tank/i@1")

    def second(progress: gc.GcProgress) -> None:
        if progress.step == "punching" and not seen:
            seen.append(True)
            with Pool.open("tank", write=True) as other:
                with pytest.raises(Busy, match=f"process {os.getpid()} is doing so already"):
                    other.gc(wait=0)
                other.import_image(library[3].path, "tank/j@1")
                other.destroy("tank/j", recursive=True)
                collect_in_background("tank")  # turned away

    seen: list[bool] = []
    pool.gc(progress=second)
    assert seen
    check_clean(pool)


def test_the_second_waits_if_told(pool: Pool) -> None:
    steps: list[gc.GcProgress] = []
    with Pool.open("tank", write=True) as other:
        first = gc._Collection(other, lambda: None, None, 0.0)
        threading.Timer(0.2, lambda: os.kill(os.getpid(), 0) or first._lease.close()).start()  # type: ignore[func-returns-value]
        pool.gc(progress=steps.append)
    assert steps[0] == gc.GcProgress("queueing", waiting_for=(os.getpid(),))


def test_names_that_change_while_it_runs(pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading names and marking: what was garbage has a name again."""
    pool.import_image(library[2].path, "tank/i@1")
    pool.destroy("tank/i@1")
    real = gc.read_reach
    calls = 0

    def overtaken(catalogue: object) -> gc.Reach:
        nonlocal calls
        calls += 1
        found = real(catalogue)  # type: ignore[arg-type]
        if calls == 1:
            with Pool.open("tank", write=True) as other:
                other.import_image(library[2].path, "tank/j@1")
        return found

    monkeypatch.setattr(gc, "read_reach", overtaken)
    pool.gc()
    assert not pool.verify("tank/j@1", library[2].path)
    check_clean(pool)


def receive_in_part(pool: Pool, data: bytes) -> bytes:
    """What a receive that is cut leaves: objects, and a row that says that it is to go on."""
    with pool._writer() as writer:
        key = writer.put(data, Kind.CHUNK)
        writer.flush()
        with pool._catalogue.change(writer):
            number = pool._catalogue.dataset("tank").id
            put_partial(pool._catalogue, Partial(number, 1, None, None, b"", False, "token", writer.fresh))
    return key


def test_what_was_received_in_part_stays(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what is noted while a collection runs."""
    first = receive_in_part(pool, b"first" * 100)
    pool.gc()
    assert first in stored(pool)
    real = gc.read_reach

    def overtaken(catalogue: object) -> gc.Reach:
        monkeypatch.setattr(gc, "read_reach", real)
        found = real(catalogue)  # type: ignore[arg-type]
        with Pool.open("tank", write=True) as other, other._writer() as writer, other._catalogue.change(writer):
            drop_partial(other._catalogue, other._catalogue.dataset("tank").id)
        with Pool.open("tank", write=True) as other:
            keys.append(receive_in_part(other, b"second" * 100))
        return found

    keys: list[bytes] = []
    monkeypatch.setattr(gc, "read_reach", overtaken)
    pool.gc()
    assert stored(pool) == set(keys)
    with pool._writer() as writer, pool._catalogue.change(writer):
        drop_partial(pool._catalogue, pool._catalogue.dataset("tank").id)
    pool.gc()
    check_clean(pool)


# -- mounts ---------------------------------------------------------------------------------------------------------


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


# -- space ----------------------------------------------------------------------------------------------------------


def test_dead_ranges_become_holes(pool: Pool, tmp_path: Path, library: Library) -> None:
    keep = many_files(tmp_path / "keep", 60, 40_000, 1)
    drop = many_files(tmp_path / "drop", 60, 40_000, 2)
    with pool._writer(), pool._writer():  # two packs are taken: the next are begun
        pool.import_image(drop.path, "tank/a@drop")
    pool.import_image(keep.path, "tank/b@keep")
    pool.import_image(library[3].path, "tank/c@1")
    pool.destroy("tank/a", recursive=True)
    report = pool.gc()
    assert report.given >= 60 * 40_000 - ROOM
    live = live_bytes(pool)
    for path in (pool.path / "packs").iterdir():
        assert path.stat().st_blocks * 512 <= live[path.name] + 2 * ROOM
    check_clean(pool)
    check_whole(pool)
    assert scanned(pool) >= {key for (key,) in rows(pool, "SELECT key FROM object")}
    assert not pool.verify("tank/b@keep", keep.path)
    size = allocated(pool)
    assert pool.gc().given == 0 and allocated(pool) == size  # nothing is punched twice
    pool.import_image(drop.path, "tank/a@again")  # packs with holes are gone on with
    assert not pool.verify("tank/a@again", drop.path)


@pytest.mark.parametrize("copies", ["1", "3"])
def test_mostly_dead_packs_are_emptied(
    pool: Pool, tmp_path: Path, small_packs: None, no_holes: None, copies: str
) -> None:
    """Where there are no holes the rest is moved; never two copies of an object into one pack."""
    pool.set(["tank"], {"copies": copies})
    sources = [many_files(tmp_path / f"s{n}", 30, 12_000, n) for n in range(6)]
    for number, source in enumerate(sources):
        pool.import_image(source.path, f"tank/i@{number}")
    for number in (0, 2, 3, 5):
        pool.destroy(f"tank/i@{number}")
    before = allocated(pool)
    report = pool.gc()
    assert report.packs > 5 and report.given > before / 3
    check_clean(pool)
    check_whole(pool)
    live = live_bytes(pool)
    for use in [path for path in (pool.path / "packs").iterdir() if live[path.name]]:
        size = use.stat().st_blocks * 512
        assert size < 2 * live[use.name] or size - live[use.name] < 2 * 8192
    for number in (1, 4):
        assert not pool.verify(f"tank/i@{number}", sources[number].path)
    assert pool.gc().moved == 0


def test_what_is_moved_is_checked(pool: Pool, tmp_path: Path, small_packs: None, no_holes: None) -> None:
    """A damaged payload stays where it is, and keeps its pack; it must not become a good one."""
    keep, drop = (many_files(tmp_path / name, 40, 9_000, n) for n, name in enumerate(("keep", "drop")))
    mixed = write_tree(
        tmp_path / "mixed",
        {
            f"{side}{n}": (side_path / f"d{n % 7}/f{n}").read_bytes()
            for n in range(40)
            for side, side_path in (("k", keep.path), ("d", drop.path))
        },
    )
    pool.import_image(mixed.path, "tank/m@1")
    pool.import_image(keep.path, "tank/k@1")
    key = sorted(reachable(pool) & {k for (k,) in rows(pool, "SELECT key FROM object WHERE kind = 1")})[0]
    location = pool.store.locate([key])[key]
    path = pool.path / "packs" / pack_name(location.pack)
    with open(path, "r+b") as file:
        file.seek(location.offset + 10)
        byte = file.read(1)
        file.seek(location.offset + 10)
        file.write(bytes([byte[0] ^ 1]))
    pool.destroy("tank/m", recursive=True)
    pool.gc()
    if key in stored(pool):
        after = pool.store.locate([key])[key]
        assert (after.pack, after.offset) == (location.pack, location.offset)
    pool.gc()
    assert not [d for d in pool.verify("tank/k@1", keep.path) if "damaged" not in d.what]


def test_no_room_to_move(
    pool: Pool, tmp_path: Path, small_packs: None, no_holes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is moved without room for it; a disk that fills up while it is moved harms nothing."""
    sources = [many_files(tmp_path / f"s{n}", 30, 12_000, n) for n in range(4)]
    for number, source in enumerate(sources):
        pool.import_image(source.path, f"tank/i@{number}")
    for number in range(3):
        pool.destroy(f"tank/i@{number}")
    free = pool._free
    monkeypatch.setattr(Pool, "_free", lambda _: 0)
    assert pool.gc().moved == 0
    check_clean(pool)
    monkeypatch.setattr(Pool, "_free", lambda _: free())
    real = LocalBackend.append_to
    taken = 0

    def full(self: LocalBackend, name: str, size: int) -> object:
        appender = real(self, name, size)
        append = appender.append

        def limited(parts: object) -> None:
            nonlocal taken
            taken += 1
            if taken > 2:
                raise NoSpace("full")
            append(parts)  # type: ignore[arg-type]

        appender.append = limited  # type: ignore[method-assign, assignment]
        return appender

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, "append_to", full)
        pool.gc()
    assert taken
    check_whole(pool)
    pool.gc()
    check_clean(pool)
    assert not pool.verify("tank/i@3", sources[3].path)


def test_many_small_packs_are_merged(pool: Pool, tmp_path: Path, small_packs: None) -> None:
    sources = [write_tree(tmp_path / f"s{n}", {"f": os.urandom(3000)}) for n in range(19)]
    with contextlib.ExitStack() as stack:
        for number, source in enumerate(sources):
            for _ in range(2):
                writer = stack.enter_context(pool._writer())
                writer._take_packs([0, 1])  # they keep theirs: the import begins others
            pool.import_image(source.path, f"tank/i{number}@1")
    pool.gc()
    count = len(rows(pool, "SELECT id FROM pack"))
    assert count <= gc._MOST_SMALL + 2
    check_clean(pool)
    check_whole(pool)
    for number, source in enumerate(sources):
        assert not pool.verify(f"tank/i{number}@1", source.path)


def test_room_set_aside_is_no_waste(
    pool: Pool, library: Library, small_packs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As XFS does for files that grow: a pack must not be moved again and again for it."""
    pool.import_image(library[2].path, "tank/i@1")
    real = LocalBackend.allocated
    monkeypatch.setattr(LocalBackend, "allocated", lambda self, name: real(self, name) + (1 << 20))
    assert pool.gc().moved == 0


def test_stray_files(pool: Pool, library: Library) -> None:
    """A file that a crash left goes; one whose number was never given may be another, newer catalogue's."""
    pool.import_image(library[2].path, "tank/i@1")
    packs = pool.path / "packs"
    with pool._database.transaction():
        gone = pool._database.execute("INSERT INTO pack(state, size) VALUES ('open', 0)")
        pool._database.execute("DELETE FROM pack WHERE id = ?", (gone,))
    (packs / pack_name(gone)).write_bytes(b"x" * 50_000)
    (packs / pack_name(gone + 100)).write_bytes(b"x" * 50_000)
    (packs / "notes.txt").write_bytes(b"x")
    assert pool.gc().given >= 50_000
    assert not (packs / pack_name(gone)).exists()
    assert (packs / pack_name(gone + 100)).exists() and (packs / "notes.txt").exists()


def test_a_lost_pack_stops_nothing(pool: Pool, tmp_path: Path, small_packs: None) -> None:
    keep = many_files(tmp_path / "keep", 30, 12_000, 1)
    drop = many_files(tmp_path / "drop", 30, 12_000, 2)
    pool.import_image(keep.path, "tank/k@1")
    pool.import_image(drop.path, "tank/d@1")
    (pack,) = rows(pool, "SELECT min(id) FROM pack WHERE state = 'sealed'")[0]
    (pool.path / "packs" / pack_name(pack)).unlink()
    pool.destroy("tank/d", recursive=True)
    assert pool.gc().objects > 3
    assert rows(pool, f"SELECT 1 FROM object WHERE pack = {pack}")  # scrub reports them


# -- ways to end ----------------------------------------------------------------------------------------------------


def test_ctrl_c(pool: Pool, library: Library) -> None:
    for number in range(2, 7):
        pool.import_image(library[number].path, f"tank/i@{number}")
    pool.destroy("tank/i", recursive=True)

    def stop(progress: gc.GcProgress) -> None:
        if progress.step == "deleting":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pool.gc(progress=stop)
    assert rows(pool, "SELECT * FROM lease") == []
    pool.gc()
    check_clean(pool)


def test_opened_for_reading(pool: Pool, library: Library) -> None:
    pool.import_image(library[2].path, "tank/i@1")
    pool.destroy("tank/i@1")
    with Pool.open("tank") as reader:
        assert reader.gc(dry_run=True).objects > 0
        with pytest.raises(AccessDenied, match="opened for reading"):
            reader.gc()


def test_in_the_background(pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a destroy a process of its own frees the space; nobody waits for it."""
    monkeypatch.delenv("LAMINA_BACKGROUND")
    pool.import_image(library[2].path, "tank/i@1")
    pool.import_image(library[3].path, "tank/i@2")
    started: list[list[str]] = []
    real = subprocess.Popen

    def popen(command: list[str], **rest: object) -> object:
        started.append([*command])
        return real(command, **rest)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)
    pool.set(["tank"], {"user:x": "1"})
    pool.create_dataset("tank/new")
    assert started == []
    pool.destroy("tank/i@1")
    pool.destroy("tank/i@2")  # the same process sees to it
    assert [command[-3:] for command in started] == [["gc", "--background", str(pool.path)]]
    until = time.monotonic() + 30
    while stored(pool) or rows(pool, "SELECT 1 FROM lease"):
        assert time.monotonic() < until
        time.sleep(0.05)
    check_clean(pool)


def test_the_end_of_an_import_starts_what_waited_for_it(
    pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAMINA_BACKGROUND")
    started: list[Path] = []
    monkeypatch.setattr("lamina.pool.background._start", started.append)
    pool.import_image(library[2].path, "tank/i@1")
    with Pool.open("tank", write=True) as other:
        with other._writer():
            pool.destroy("tank/i@1")
            assert started == [pool.path]
            gc.collect(pool, full=False, wait=0)
            assert held_back(pool) > 0
        assert started == [pool.path, pool.path]


# -- a full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(place: Path) -> Iterator[Disk]:
    """A small file system."""
    if not can_mount():
        pytest.skip("a small file system can be mounted by root only")
    made = Disk(place / "disk")
    try:
        yield made
    finally:
        made.umount()


@pytest.mark.parametrize("count", [300, 2000])
def test_on_a_full_disk(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Not a byte is left: an image is destroyed, its space comes back, and the next one fits."""
    monkeypatch.setattr("lamina.ingest.content._GROUP_MOST", 1024)
    disk.mount(64 << 20)
    sources = [many_files(tmp_path / f"s{n}", count, 20_000_000 // count, n) for n in range(2)]
    with Pool.create("tank", disk.path / "tank") as pool:
        for number, source in enumerate(sources):
            pool.import_image(source.path, f"tank/i@{number}")
    leave(disk, 16 << 10)  # for the record of names
    with Pool.open("tank", write=True) as pool:
        pool.destroy("tank/i@0")
    fill(disk.path / "filler2")
    assert disk.free() == 0
    with Pool.open("tank", write=True) as pool:
        report = pool.gc()
        assert (report.freeing, report.waiting_for) == (0, [])
        assert report.given >= 20_000_000
        check_clean(pool)
        assert not pool.verify("tank/i@1", sources[1].path)
        assert disk.free() >= 19_000_000
        other = many_files(tmp_path / "other", 100, 100_000, 9)
        pool.import_image(other.path, "tank/i@2")
        check_whole(pool)


# -- the command ----------------------------------------------------------------------------------------------------


def lamina(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lamina", *words], capture_output=True, text=True, timeout=60)


def test_the_command(pool: Pool, library: Library) -> None:
    import json

    pool.import_image(library[2].path, "tank/i@1")
    pool.destroy("tank/i@1")
    assert lamina("pool", "get", "-Hp", "-o", "value", "freeing", "tank").stdout.strip() == str(pool.space().freeing)
    assert "freeing: " in lamina("pool", "status", "tank").stdout
    done = lamina("pool", "gc", "-n")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("tank: would free ")
    with pool._writer():
        done = lamina("pool", "gc", "--no-wait", "tank")
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1].endswith(f"not before process {os.getpid()} finished importing")
    done = lamina("pool", "gc", "-j", "tank")
    document = json.loads(done.stdout)
    assert document["pools"]["tank"]["freeing"] == 0 and document["pools"]["tank"]["objects"] > 0
    check_clean(pool)
    assert lamina("pool", "gc", "-v").stdout.startswith("tank: freed 0B in 0 objects\n\tgiven back to the disk")
    done = lamina("pool", "gc", "nothere")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "cannot open 'nothere': no such pool\n")
    assert lamina("pool", "gc", "--background").returncode == 2
    assert blake3(b"").digest()
