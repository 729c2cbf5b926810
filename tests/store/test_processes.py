"""Several processes at one store, some of which die."""

import fcntl
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from lamina.errors import LaminaError, NoSpace
from lamina.store.codec import Codec, Compression
from lamina.store.lease import Lease, is_alive, live_leases
from lamina.store.record import Kind
from tests.store.kit import Shop, in_child, needs_root

PLAIN = Compression(Codec.STORED)


def noise(seed: int, size: int = 700) -> bytes:
    return random.Random(seed).randbytes(size)


def forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def fill(path: Path, seed: int, count: int) -> None:
    """Store objects of a common set in an order of its own, with many flushes."""
    shop = Shop(path)
    writer = shop.writer()
    numbers = list(range(count))
    random.Random(seed).shuffle(numbers)
    for number in numbers:
        writer.put(noise(number), Kind.CHUNK, PLAIN)
    with writer.commit() as names:
        names([b'{"v": 1}'])
    assert len(writer.reached) == count
    assert {row.id for row in shop.rows().values()} >= set(writer.reached)
    writer.close()
    shop.close()


def test_two_processes_store_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 40)
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 60_000)
    count = 600
    Shop(tmp_path / "shop").close()
    children = [forked(lambda seed=seed: fill(tmp_path / "shop", seed, count)) for seed in (1, 2)]  # type: ignore[misc]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    shop = Shop(tmp_path / "shop")
    assert shop.check() == count
    stored = sum(record.kind == Kind.CHUNK for record in shop.scanned().values())
    assert count <= stored <= 2 * count
    assert shop.leases() == []
    assert all(lease is None for _, _, lease in shop.packs().values())
    shop.close()


def test_kill_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed before is whole, what is named can be read, and the next writer goes on."""
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 20)
    monkeypatch.setattr("lamina.store.writer._BUFFER", 3000)
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 30_000)
    path = tmp_path / "shop"
    shop = Shop(path)
    kept = shop.put(noise(10**6), PLAIN)
    shop.close()
    rng = random.Random(8)
    sizes = []
    for attempt in range(25):
        pid = forked(lambda attempt=attempt: fill(path, attempt, 1500))  # type: ignore[misc]
        time.sleep(rng.uniform(0.005, 0.15))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        shop = Shop(path)
        assert shop.check() >= 1
        assert shop.store.get(kept, verify=True) == noise(10**6)
        sizes.append(sum(size for _, size, _ in shop.packs().values()))
        shop.close()
    assert len(set(sizes)) > 5, "the kills came too early to tell"
    fill(path, 99, 1500)
    shop = Shop(path)
    assert shop.check() == 1501
    assert shop.leases() == [] and shop.database.query("SELECT * FROM lease") == []
    assert all(lease is None for _, _, lease in shop.packs().values())
    # No pack was given up: at most one is open where one writer works at a time.
    assert [state for state, _, _ in shop.packs().values()].count("open") <= 1
    shop.close()


def test_a_dead_writers_lease_and_pack_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    Shop(path).close()

    def begin() -> None:
        shop = Shop(path)
        writer = shop.writer()
        writer.put(noise(1), Kind.CHUNK, PLAIN)
        with writer.commit():
            pass
        writer.put(noise(2), Kind.CHUNK, PLAIN)
        os.kill(os.getpid(), signal.SIGKILL)

    pid = forked(begin)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    shop = Shop(path)
    (name,) = shop.leases()
    assert shop.packs()[1][2] == name
    assert not is_alive(path / "leases", name)
    shop.put(noise(3), PLAIN)
    assert list(shop.packs()) == [1]
    assert (shop.leases(), shop.database.query("SELECT * FROM lease")) == ([], [])
    assert set(shop.rows()) == {blake3(noise(1)).digest(), blake3(noise(3)).digest()}
    assert shop.check() == 2
    shop.close()


def test_abort_beside_a_live_process_leaves_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 1)
    path = tmp_path / "shop"
    shop = Shop(path)
    reading, writing = os.pipe()
    done, finish = os.pipe()

    def other() -> None:
        mine = Shop(path)
        lease = Lease(path / "leases", mine.database, lambda: 0)
        os.write(writing, b"x")
        os.read(done, 1)
        lease.close()
        mine.close()

    pid = forked(other)
    try:
        os.read(reading, 1)
        writer = shop.writer()
        key = writer.put(noise(1), Kind.CHUNK)
        writer._flusher.wait()
        writer.abort()
        assert set(shop.rows()) == {key}
        with shop.database.transaction():
            assert len(live_leases(path / "leases", shop.database)) == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for descriptor in (reading, writing, done, finish):
            os.close(descriptor)
    writer = shop.writer()
    other_key = writer.put(noise(2), Kind.CHUNK)
    writer._flusher.wait()
    writer.abort()
    assert set(shop.rows()) == {key}, f"{other_key.hex()} could go: the other is dead"
    assert shop.check() == 1
    shop.close()


def test_an_abort_does_not_wait_for_what_is_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 1)
    shop = Shop(tmp_path / "shop")
    writer = shop.writer()
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: time.sleep(0.2) or synced.append(fd))
    for number in range(4):
        writer.put(noise(number), Kind.CHUNK, PLAIN)
    writer.abort()
    assert len(synced) < 4
    assert (shop.rows(), shop.packs(), shop.leases()) == ({}, {}, [])
    shop.close()


# -- who may read ---------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("state", ["closed", "open", "killed", "no logs"])
def test_another_user_reads_without_write_permission(public_path: Path, state: str) -> None:
    """A group's pool: directories 0755, files 0644; SQLite must not need to write beside the database."""
    path = public_path / "shop"
    shop = Shop(path, mode=0o644)
    for directory in (path, path / "packs", path / "leases"):
        os.chmod(directory, 0o755)
    key = shop.put(noise(1))
    if state == "killed":
        shop.close()

        def die() -> None:
            mine = Shop(path, mode=0o644)
            mine.put(noise(2))
            os.kill(os.getpid(), signal.SIGKILL)

        os.waitpid(forked(die), 0)
        wanted = 2
    else:
        shop.put(noise(2))
        wanted = 2
        if state != "open":
            shop.close()
    if state == "no logs":
        # As after a writer that was killed between SQLite's removal of the logs and their return.
        for suffix in ("-wal", "-shm"):
            (path / f"catalogue.db{suffix}").unlink()

    def read() -> object:
        mine = Shop(path, write=False)
        return len(mine.rows()), mine.store.get(key, verify=True) == noise(1)

    answer = in_child(read, 65534)
    if state == "no logs":
        assert answer == repr((wanted, True)) or answer.startswith("AccessDenied: cannot open")
        Shop(path, mode=0o644).close()
        answer = in_child(read, 65534)
    assert answer == repr((wanted, True))

    def write() -> object:
        mine = Shop(path, write=False)
        return mine.writer()

    assert in_child(write, 65534).startswith("AccessDenied: cannot write to the pool: permission denied")
    assert in_child(lambda: Shop(path, write=True).put(noise(5)), 65534).startswith("AccessDenied: ")
    if state == "open":
        shop.close()


@needs_root
def test_readers_of_another_user_while_writers_come_and_go(public_path: Path) -> None:
    """The last writer's close takes the logs away for a moment."""
    path = public_path / "shop"
    shop = Shop(path, mode=0o644)
    os.chmod(path, 0o755)
    os.chmod(path / "packs", 0o755)
    key = shop.put(noise(1))
    shop.close()
    end = time.monotonic() + 1.5

    def read() -> object:
        count = 0
        while time.monotonic() < end:
            mine = Shop(path, write=False)
            assert mine.store.get(key) == noise(1)
            mine.close()
            count += 1
        return count > 3

    reading = forked(lambda: write_on(path, end))
    assert in_child(read, 65534) == "True"
    assert os.waitpid(reading, 0)[1] == 0


def write_on(path: Path, end: float) -> None:
    number = 10
    while time.monotonic() < end:
        shop = Shop(path, mode=0o644)
        shop.put(noise(number))
        shop.close()
        number += 1


# -- a full disk ----------------------------------------------------------------------------------------------------


@needs_root
def test_a_full_disk(small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 2 << 20)
    monkeypatch.setattr("lamina.store.writer._BUFFER", 1 << 18)
    path = small_disk(6) / "shop"
    shop = Shop(path)
    kept = [shop.put(noise(number, 300_000), PLAIN) for number in range(3)]
    before = (shop.packs(), shop.rows())
    writer = shop.writer()
    with pytest.raises(NoSpace, match=r"(?i)no space left"):
        for number in range(100, 140):
            writer.put(noise(number, 300_000), Kind.CHUNK, PLAIN)
    with pytest.raises(NoSpace):
        writer.put(b"after that", Kind.CHUNK)
    writer.abort()
    assert (shop.packs(), shop.rows()) == before
    assert shop.check() == 3
    assert shop.leases() == []
    free = os.statvfs(path)
    assert free.f_bavail * free.f_frsize > 4 << 20, "what was written is given back"
    # Smaller things still fit.
    kept.append(shop.put(noise(7, 300_000), PLAIN))
    assert [shop.store.get(key, verify=True) for key in kept] == [noise(n, 300_000) for n in (0, 1, 2, 7)]
    shop.close()


@needs_root
def test_a_disk_that_is_full_for_the_catalogue(small_disk: Callable[[int], Path]) -> None:
    """Rows that find no room are rolled back; SQLite's own words become the project's."""
    path = small_disk(4) / "shop"
    shop = Shop(path)
    key = shop.put(noise(1))
    filler = path.parent / "filler"
    free = os.statvfs(path)
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize))
    writer = None
    with pytest.raises(LaminaError) as caught:
        writer = shop.writer()
        for number in range(3000):
            writer.put(noise(number, 60), Kind.CHUNK, PLAIN)
        with writer.commit():
            pass
    assert isinstance(caught.value, NoSpace)
    if writer is not None:
        writer.abort()
    assert shop.store.get(key) == noise(1)
    filler.unlink()
    shop.put(noise(2))
    assert shop.check() == 2
    shop.close()


# -- leases ---------------------------------------------------------------------------------------------------------


def test_files_of_leases_that_never_had_a_row_are_swept(tmp_path: Path) -> None:
    """A process may die between making the file and the row."""
    shop = Shop(tmp_path / "shop")
    (shop.path / "leases" / "123-stray").touch()
    shop.put(noise(1))
    assert shop.leases() == []
    shop.close()


def test_a_lease_that_is_swept_while_it_is_made_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would count as dead while its process lives."""
    shop = Shop(tmp_path / "shop")
    other = Shop(tmp_path / "shop")
    real = fcntl.flock
    swept: list[str] = []

    def flock(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            swept.extend(shop.leases())
            with other.database.transaction():
                live_leases(shop.path / "leases", other.database)
            assert shop.leases() == []
        real(descriptor, operation)

    monkeypatch.setattr("lamina.store.lease.fcntl.flock", flock)
    lease = Lease(shop.path / "leases", shop.database, lambda: 0)
    assert len(swept) == 1 and lease.name not in swept
    assert is_alive(shop.path / "leases", lease.name)
    with other.database.transaction():
        assert [row.name for row in live_leases(shop.path / "leases", other.database)] == [lease.name]
    lease.close()
    assert shop.leases() == []
    other.close()
    shop.close()
