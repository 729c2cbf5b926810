"""Garbage collection in one process: what goes, what stays, and what the disk gets back."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

import lamina.pool.collecting.gc as gc
from lamina.errors import AccessDenied, Busy, DamagedData
from lamina.pool import Pool
from lamina.pool.collecting.background import collect_in_background
from lamina.pool.collecting.freeing import has_work
from lamina.pool.partials import Partial, drop_partial, put_partial
from lamina.store.record import Kind
from tests.pool.garbage import ROOM, allocated, check_clean, check_whole, reachable, rows, stored
from tests.pool.processes import run
from tests.pool.trees import Library, many_files


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
    monkeypatch.setattr("lamina.pool.collecting.background._start", started.append)
    pool.import_image(library[2].path, "tank/i@1")
    with Pool.open("tank", write=True) as other:
        with other._writer():
            pool.destroy("tank/i@1")
            assert started == [pool.path]
            gc.collect(pool, full=False, wait=0)
            assert held_back(pool) > 0
        assert started == [pool.path, pool.path]


def test_one_in_the_background_starts_no_other(pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something cannot be freed, each would start the next for ever."""
    from lamina.cli import main

    pool.import_image(library[2].path, "tank/i@1")
    with pool.store.database.transaction():  # a mark that no collection makes, and none takes away
        pool.store.database.execute("UPDATE object SET condemned = 1 WHERE kind = 1")
    started: list[Path] = []
    monkeypatch.setattr("lamina.pool.collecting.background._start", started.append)
    monkeypatch.setattr("lamina.pool.collecting.background.LINGER_SECONDS", 0.0)
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.delenv("LAMINA_BACKGROUND")
    with Pool.open("tank", write=True) as other:
        other.set(["tank"], {"user:x": "1"})
    assert started == [pool.path]  # there is something that looks like work
    assert main(["pool", "gc", "--background", str(pool.path)]) == 0
    assert started == [pool.path]


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
