"""Taking objects in: once, durably, and taken back where that is safe."""

import os
import random
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from blake3 import blake3

from lamina.errors import DamagedData, LaminaError, NoSpace
from lamina.store.backend import LocalAppender
from lamina.store.codec import DEFAULT
from lamina.store.database import Database
from lamina.store.record import PACK_HEADER, RECORD_HEADER, Kind
from tests.store.kit import GUID, Shop


def noise(seed: int, size: int = 1000) -> bytes:
    return random.Random(seed).randbytes(size)


def committed(shop: Shop, *objects: bytes) -> list[bytes]:
    writer = shop.writer()
    keys = [writer.put(data, Kind.CHUNK) for data in objects]
    with writer.commit() as names:
        names([b'{"v": 1}'])
    writer.close()
    return keys


# -- storing once ---------------------------------------------------------------------------------------------------


def test_an_object_is_stored_once(shop: Shop) -> None:
    writer = shop.writer()
    keys = [writer.put(noise(n % 5), Kind.CHUNK) for n in range(20)]
    with writer.commit():
        pass
    assert writer.written.objects == 5
    assert (writer.written.new_bytes, writer.written.stored_bytes) == (5000, 5000)
    assert sorted(writer.reached) == sorted(row.id for row in shop.rows().values())
    again = [writer.put(noise(n), Kind.CHUNK) for n in range(5)]
    assert writer.written.objects == 5
    writer.close()
    assert keys[:5] == again
    later = shop.writer()
    assert [later.put(noise(n), Kind.CHUNK) for n in range(6)][:5] == again
    assert later.written.objects == 1
    later.abort()
    assert shop.check() == 5


def test_several_threads_store_once_and_all_of_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 50)
    monkeypatch.setattr("lamina.store.writer._BUFFER", 20_000)
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 200_000)
    writer = shop.writer()
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(300):
                some = [noise(rng.randrange(400)) for _ in range(3)]
                keys = [blake3(data).digest() for data in some]
                fresh = writer.claim(keys)
                todo = {key: data for key, data in zip(keys, some, strict=True) if key in fresh}
                writer.append([writer.encode(key, data, Kind.CHUNK, DEFAULT) for key, data in todo.items()])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with writer.commit():
        pass
    writer.close()
    assert shop.check() == 400
    assert set(writer.reached) == {row.id for row in shop.rows().values()}
    # A key may be decided on twice where a flush comes between two looks, but hardly ever.
    assert 400 <= len(shop.scanned()) <= 410


def test_what_another_writer_brings_meanwhile_stays_theirs(shop: Shop) -> None:
    """Both decide that an object is new; it is stored twice, named once, and both reach it."""
    one, two = shop.writer(), shop.writer()
    keys = [one.put(noise(n), Kind.CHUNK) for n in range(10)]
    assert [two.put(noise(n), Kind.CHUNK) for n in range(5, 15)][:5] == keys[5:]
    with two.commit():
        pass
    theirs = {key: row.id for key, row in shop.rows().items()}
    with one.commit():
        pass
    assert {key: row.id for key, row in shop.rows().items() if key in theirs} == theirs
    assert {row.id for key, row in shop.rows().items() if key in keys} == set(one.reached)
    assert set(two.reached) == set(theirs.values())
    one.close()
    two.close()
    assert shop.check() == 15
    assert len(shop.scanned()) == 20


def test_row_numbers_are_never_given_twice(shop: Shop) -> None:
    """Bitmaps of row numbers would silently lie."""
    seen: set[int] = set()
    for seed in range(6):
        writer = shop.writer()
        writer.put(noise(seed), Kind.CHUNK)
        writer.put(noise(seed + 1000), Kind.CHUNK)
        with writer.commit():
            pass
        new = set(writer.reached)
        assert not new & seen
        seen |= new
        writer.close()
        with shop.database.transaction():
            shop.database.execute("DELETE FROM object")


# -- the order of things --------------------------------------------------------------------------------------------


class Watched(LocalAppender):
    """Records what is appended, synced and closed."""

    log: list[tuple[str, object]]

    def append(self, parts: Sequence[bytes]) -> None:
        self.log.append(("append", sum(map(len, parts))))
        super().append(parts)

    def sync(self) -> None:
        self.log.append(("sync", None))
        super().sync()


def test_rows_are_committed_after_their_bytes_are_synced(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[tuple[str, object]] = []
    monkeypatch.setattr(Watched, "log", log, raising=False)
    monkeypatch.setattr("lamina.store.backend.LocalAppender", Watched)
    execute, many = Database.execute, Database.execute_many

    def watched(self: Database, sql: str, *rest: object) -> int:
        if sql.startswith("UPDATE pack SET") and "size" in sql:
            log.append(("size", None))
        return execute(self, sql, *rest)  # type: ignore[arg-type]

    def watched_many(self: Database, sql: str, rows: object) -> int:
        log.append(("rows", None))
        return many(self, sql, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "execute", watched)
    monkeypatch.setattr(Database, "execute_many", watched_many)
    writer = shop.writer()
    writer.put(noise(1), Kind.CHUNK)
    with writer.commit() as names:
        log.append(("body", None))
        names([b'{"v": 1}'])
    writer.close()
    events = [name for name, _ in log]
    assert events == ["append", "sync", "rows", "size", "body", "append", "sync", "rows", "size"]


def test_a_commit_that_fails_names_nothing(shop: Shop) -> None:
    committed(shop, noise(1))
    before = shop.packs()
    writer = shop.writer()
    writer.put(noise(2), Kind.CHUNK)
    with pytest.raises(ZeroDivisionError), writer.commit() as names:
        names([b'{"v": 1}'])
        shop.database.execute("INSERT INTO pack(state, size) VALUES ('sealed', 4096)")
        raise ZeroDivisionError
    assert len(shop.packs()) == len(before)
    assert sum(record.kind == Kind.NAMES for record in shop.scanned().values()) == 1
    # The writer can go on.
    writer.put(noise(3), Kind.CHUNK)
    with writer.commit() as names:
        names([b'{"v": 2}'])
    writer.close()
    assert shop.check() == 3


def test_a_name_record_does_not_end_a_pack(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack begun inside the transaction would lose its row, and its number, to a roll-back."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 10_000)
    writer = shop.writer()
    writer.put(noise(1, 9000), Kind.CHUNK)
    with pytest.raises(ZeroDivisionError), writer.commit() as names:
        names([noise(2, 5000)])
        raise ZeroDivisionError
    with writer.commit() as names:
        names([noise(2, 5000)])
    writer.close()
    assert shop.check() == 1
    assert set(shop.backend.list()) == {f"{number:08d}.pack" for number in shop.packs()}


def test_after_an_error_half_way_nothing_more_is_named(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets would be wrong from there on."""
    monkeypatch.setattr("lamina.store.writer._BUFFER", 1)
    writer = shop.writer()
    writer.put(noise(1), Kind.CHUNK)
    real = os.pwritev
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lambda fd, parts, at: real(fd, [parts[0][:10]], at) and broken())
        with pytest.raises(KeyboardInterrupt):
            writer.put(noise(2), Kind.CHUNK)
    with pytest.raises(LaminaError, match="broken off"):
        writer.put(noise(3), Kind.CHUNK)
    with pytest.raises(LaminaError, match="broken off"), writer.commit():
        pytest.fail("the body must not run")
    writer.abort()
    assert shop.check() == 0


def broken() -> int:
    raise KeyboardInterrupt


def test_errors_of_the_disk_are_the_projects(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    for number, wanted in ((errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, LaminaError)):
        writer = shop.writer()
        writer.put(noise(number), Kind.CHUNK)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda fd, number=number: fails(number))
            with pytest.raises(wanted), writer.commit():
                pytest.fail("the body must not run")
        writer.abort()
        assert shop.check() == 0


def fails(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_a_disk_that_takes_a_part_of_a_write(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", lambda fd, parts: real(fd, b"".join(parts)[:77]))
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:991]))
        patch.setattr("lamina.store.backend._MOST_PARTS", 7)
        keys = committed(shop, *(noise(n) for n in range(40)))
    assert shop.check() == len(keys) == 40


# -- taking back ----------------------------------------------------------------------------------------------------


def flushed(shop: Shop, monkeypatch: pytest.MonkeyPatch, start: int, count: int = 30):  # type: ignore[no-untyped-def]
    """A writer that has put objects, most of them flushed into rows and several packs."""
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 4)
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 8_000)
    writer = shop.writer()
    for number in range(start, start + count):
        writer.put(noise(number), Kind.CHUNK)
    writer._flusher.wait()
    return writer


def test_abort_leaves_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed(shop, monkeypatch, 0).abort()
    assert (shop.rows(), shop.packs(), shop.backend.list(), shop.leases()) == ({}, {}, [], [])
    assert shop.database.query("SELECT * FROM lease") == []


def test_abort_leaves_a_pack_that_was_begun_before_as_it_was(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each failed import would leave up to a pack's size of dead bytes."""
    keys = committed(shop, noise(1), noise(2))
    before = (shop.packs(), {name: (shop.path / "packs" / name).read_bytes() for name in shop.backend.list()})
    writer = flushed(shop, monkeypatch, 100)
    assert {row.pack for row in shop.rows().values()} > {1}
    writer.abort()
    assert (shop.packs(), {name: (shop.path / "packs" / name).read_bytes() for name in shop.backend.list()}) == before
    assert set(shop.rows()) == set(keys)
    committed(shop, noise(3))
    assert shop.check() == 3


def test_abort_while_another_writer_is_alive_leaves_rows(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = flushed(shop, monkeypatch, 0)
    other = shop.writer()
    shared = other.put(noise(3), Kind.CHUNK)
    assert other.written.objects == 0, "the other has decided to share it"
    writer.abort()
    with other.commit():
        pass
    other.close()
    assert shop.store.get(shared, verify=True) == noise(3)
    assert shop.check() >= 28


def test_abort_after_somebody_committed_leaves_rows(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = flushed(shop, monkeypatch, 0)
    other = shop.writer()
    shared = other.put(noise(3), Kind.CHUNK)
    with other.commit():
        shop.generation += 1
    other.close()
    writer.abort()
    assert shop.store.get(shared, verify=True) == noise(3)
    assert shop.check() >= 28


def test_abort_after_an_own_commit_keeps_what_was_named(shop: Shop) -> None:
    writer = shop.writer()
    key = writer.put(noise(1), Kind.CHUNK)
    with writer.commit() as names:
        names([b'{"v": 1}'])
    writer.put(noise(2), Kind.CHUNK)
    writer.abort()
    assert set(shop.rows()) == {key}
    assert sum(record.kind == Kind.NAMES for record in shop.scanned().values()) == 1
    assert shop.check() == 1


def test_abort_after_an_own_commit_of_names_alone_keeps_them(shop: Shop) -> None:
    """As setting a property is: nothing in the index refers to the pack then."""
    writer = shop.writer()
    with writer.commit() as names:
        names([b'{"v": 1}'])
    writer.put(noise(2), Kind.CHUNK)
    writer._flush()
    writer.abort()
    assert sum(record.kind == Kind.NAMES for record in shop.scanned().values()) == 1
    assert shop.check() == 0


def test_no_descriptor_is_left(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.backend.close()
    before = len(os.listdir("/proc/self/fd"))
    flushed(shop, monkeypatch, 0).abort()
    committed(shop, noise(1))
    writer = flushed(shop, monkeypatch, 50)
    with writer.commit():
        pass
    writer.close()
    shop.backend.close()
    assert len(os.listdir("/proc/self/fd")) == before


# -- going on with packs --------------------------------------------------------------------------------------------


def test_dead_bytes_behind_the_size_are_dropped(shop: Shop) -> None:
    """As a crash between append and commit leaves them."""
    committed(shop, noise(1))
    size = shop.packs()[1][1]
    with open(shop.pack_path(1), "ab") as file:
        file.write(noise(9, 5000))
    committed(shop, noise(2))
    assert list(shop.packs()) == [1]
    assert shop.rows()[blake3(noise(2)).digest()].offset == size + RECORD_HEADER
    assert shop.pack_path(1).stat().st_size == shop.packs()[1][1]
    assert shop.check() == 2


def test_a_pack_whose_row_alone_was_made(shop: Shop) -> None:
    with shop.database.transaction():
        shop.database.execute("INSERT INTO pack(state, size) VALUES ('open', 0)")
    committed(shop, noise(1))
    assert list(shop.packs()) == [1]
    assert shop.check() == 1


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_an_open_pack_that_lost_bytes_is_left_alone(shop: Shop, damage: str) -> None:
    (lost,) = committed(shop, noise(1))
    path = shop.pack_path(1)
    if damage == "cut":
        os.truncate(path, 600)
    else:
        path.unlink()
    shop.backend.close()
    (key,) = committed(shop, noise(2))
    assert shop.store.get(key, verify=True) == noise(2)
    assert shop.packs()[1][0] == "sealed"
    assert not path.exists() or path.stat().st_size == 600
    with pytest.raises(DamagedData):
        shop.store.get(lost)


def test_two_writers_never_share_a_pack(shop: Shop) -> None:
    one, two = shop.writer(), shop.writer()
    one.put(noise(1), Kind.CHUNK)
    two.put(noise(2), Kind.CHUNK)
    assert [lease for _, _, lease in shop.packs().values()] == sorted(shop.leases(), key=lambda n: n != one._lease.name)
    with one.commit():
        pass
    with two.commit():
        pass
    one.close()
    two.close()
    assert [lease for _, _, lease in shop.packs().values()] == [None, None]
    assert shop.check() == 2
    committed(shop, noise(3))
    assert len(shop.packs()) == 2


def test_a_pack_begins_with_the_pool(shop: Shop) -> None:
    from lamina.store.record import pack_header

    committed(shop, noise(1))
    assert shop.pack_path(1).read_bytes()[: PACK_HEADER.size] == pack_header(GUID, 1)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660])
def test_packs_have_the_pools_permissions_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        shop = Shop(tmp_path / "shop", mode=mode)
        writer = shop.writer()
        writer.put(noise(1), Kind.CHUNK)
        with writer.commit():
            pass
        files = [shop.pack_path(1), *(shop.path / "leases").iterdir(), *shop.path.glob("catalogue.db*")]
        assert len(files) == 5
        assert {path.stat().st_mode & 0o777 for path in files} == {mode}
        writer.close()
        shop.close()
        assert {path.stat().st_mode & 0o777 for path in shop.path.glob("catalogue.db*")} == {mode}
    finally:
        os.umask(before)


# -- condemned objects ----------------------------------------------------------------------------------------------


def condemn(shop: Shop, *keys: bytes) -> None:
    with shop.database.transaction():
        for key in keys:
            shop.database.execute("UPDATE object SET condemned = 1 WHERE key = ?", (key,))


def condemned(shop: Shop) -> set[bytes]:
    return {key for (key,) in shop.database.query("SELECT key FROM object WHERE condemned IS NOT NULL")}


def test_sharing_passes_condemned_objects_by(shop: Shop) -> None:
    one, two = committed(shop, noise(1), noise(2))
    condemn(shop, one)
    assert set(shop.store.ids([one, two])) == {two}
    assert set(shop.store.locate([one, two])) == {one, two}
    assert shop.store.get(one) == noise(1), "readers may still have it"


def test_putting_a_condemned_object_stores_it_anew(shop: Shop) -> None:
    one, two = committed(shop, noise(1), noise(2))
    old = shop.rows()[one]
    condemn(shop, one, two)
    writer = shop.writer()
    writer.put(noise(1), Kind.CHUNK)
    assert writer.written.objects == 1
    with writer.commit():
        pass
    writer.close()
    new = shop.rows()[one]
    assert (new.id, list(writer.reached)) == (old.id, [old.id])
    assert (new.pack, new.offset) != (old.pack, old.offset)
    assert condemned(shop) == {two}
    assert shop.check() == 2


def test_an_abort_keeps_a_condemned_object_that_it_moved(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = committed(shop, noise(1))
    condemn(shop, one)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 1)
    writer = shop.writer()
    writer.put(noise(1), Kind.CHUNK)
    writer.put(noise(2), Kind.CHUNK)
    writer._flusher.wait()
    writer.abort()
    assert set(shop.rows()) == {one}
    assert shop.check() == 1


def test_a_commit_that_reaches_a_condemned_object_clears_the_mark(shop: Shop) -> None:
    """gc marked it after it was decided to share it."""
    one, two = committed(shop, noise(1), noise(2))
    writer = shop.writer()
    writer.put(noise(1), Kind.CHUNK)
    condemn(shop, one, two)
    with writer.commit():
        assert condemned(shop) == {two}
    writer.close()
    assert condemned(shop) == {two}
    assert len(shop.scanned()) == 3, "two objects, one name record: nothing was stored anew"


def test_the_mark_stays_where_that_commit_fails(shop: Shop) -> None:
    (one,) = committed(shop, noise(1))
    writer = shop.writer()
    writer.put(noise(1), Kind.CHUNK)
    condemn(shop, one)
    with pytest.raises(ZeroDivisionError), writer.commit():
        raise ZeroDivisionError
    writer.abort()
    assert condemned(shop) == {one}


# -- readers --------------------------------------------------------------------------------------------------------


def move(shop: Shop, key: bytes) -> None:
    """As gc moves an object: to a new pack, the old one removed."""
    condemn(shop, key)
    old = shop.rows()[key].pack
    with shop.database.transaction():
        shop.database.execute("UPDATE pack SET state = 'sealed' WHERE id = ?", (old,))
    writer = shop.writer()
    writer.put(noise(1), Kind.CHUNK)
    with writer.commit():
        pass
    writer.close()
    with shop.database.transaction():
        shop.database.execute("DELETE FROM object WHERE pack = ? AND kind = 4", (old,))
        shop.database.execute("DELETE FROM pack WHERE id = ?", (old,))
    shop.pack_path(old).unlink()
    assert shop.rows()[key].pack != old


def test_a_reader_looks_once_more_where_an_object_moved(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    (key,) = committed(shop, noise(1))
    shop.backend.close()
    read = shop.backend.read
    asked: list[str] = []

    def moving(name: str, offset: int, length: int) -> bytes:
        asked.append(name)
        if len(asked) == 1:
            move(shop, key)
        return read(name, offset, length)

    monkeypatch.setattr(shop.backend, "read", moving)
    assert shop.store.get(key, verify=True) == noise(1)
    assert asked == ["00000001.pack", "00000002.pack"]


def test_a_damaged_object_that_did_not_move_is_damaged(shop: Shop) -> None:
    (key,) = committed(shop, noise(1))
    row = shop.rows()[key]
    with open(shop.pack_path(row.pack), "r+b") as file:
        file.seek(row.offset)
        file.write(b"\0\0\0\0")
    with pytest.raises(DamagedData, match=r"is damaged: pack 00000001\.pack"):
        shop.store.get(key)


def test_many_packs_from_many_threads(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """More packs than descriptors that are kept, so that some are closed while others read."""
    monkeypatch.setattr("lamina.store.backend._OPEN_FILES", 3)
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 1500)
    keys = committed(shop, *(noise(n) for n in range(40)))
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(300):
                number = rng.randrange(40)
                assert shop.store.get(keys[number]) == noise(number)
        except BaseException as error:
            errors.append(error)

    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not errors


def test_foreign_keys_hold(shop: Shop) -> None:
    committed(shop, noise(1))
    with pytest.raises(sqlite3.IntegrityError), shop.database.transaction():
        shop.database.execute("DELETE FROM pack WHERE id = 1")
    assert shop.check() == 1
