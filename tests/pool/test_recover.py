"""A lost catalogue is made anew from packs: with all names, whatever happened to it, and whatever happened to packs.

``LAMINA_KILLS=200`` kills two hundred recoveries; without it, twenty. ``LAMINA_HISTORIES`` is how many random histories
are recovered, ``LAMINA_DAMAGES`` how many damaged pools.
"""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import AlreadyExists, Busy, DamagedData, LaminaError, NotFound, UnsupportedPool
from lamina.pool import Pool
from lamina.pool.records import Author, make_record, parse_record
from lamina.pool.recovery import recover as recovering
from lamina.pool.recovery.chain import Link, find_chain
from lamina.pool.recovery.recover import RecoverReport, recover_pool
from lamina.store.codec import Codec
from lamina.store.record import RECORD_HEADER, Kind, pack_name, record_header, scan_pack
from tests.pool.dump import dump
from tests.pool.example import example, filled, impatient
from tests.pool.processes import run
from tests.pool.trees import Library, blob, write_tree

__all__ = ["example", "filled", "impatient"]

KILLS = int(os.environ.get("LAMINA_KILLS", "20"))


def state(path: Path, *, history: bool = True) -> dict[str, Any]:
    with Pool.open(path) as pool:
        return dump(pool, history=history)


def check(path: Path) -> None:
    with Pool.open(path) as pool:
        assert pool.check(headers=True).problems == []


def same_after(path: Path, before: dict[str, Any], report: RecoverReport) -> None:
    """All is as it was, and in order."""
    assert report.lines == [] and report.missing == 0
    check(path)
    after = state(path)
    assert after["history"][: len(before["history"])] == before["history"]
    assert {name: rows for name, rows in after.items() if name != "history"} == {
        name: rows for name, rows in before.items() if name != "history"
    }


def lose(path: Path) -> None:
    for name in ("catalogue.db", "catalogue.db-wal", "catalogue.db-shm"):
        (path / name).unlink(missing_ok=True)


def truncate(path: Path) -> None:
    os.truncate(path / "catalogue.db", 10_000)


def empty(path: Path) -> None:
    os.truncate(path / "catalogue.db", 0)


def garble(path: Path) -> None:
    data = bytearray((path / "catalogue.db").read_bytes())
    data[: len(data) // 2] = random.Random(1).randbytes(len(data) // 2)
    (path / "catalogue.db").write_bytes(data)


def garble_pages(path: Path) -> None:
    """The header stays: only SQLite's own check tells."""
    with open(path / "catalogue.db", "r+b") as file:
        for page in range(2, 12):
            file.seek(page * 4096)
            file.write(random.Random(page).randbytes(4096))


def lose_with_marker(path: Path) -> None:
    lose(path)
    (path / "pool.json").unlink()


def garble_marker(path: Path) -> None:
    (path / "pool.json").write_bytes(b"\xff{")


DAMAGES = [lose, truncate, empty, garble, garble_pages, lose_with_marker, garble_marker]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_everything_comes_back(filled: Path, damage: Callable[[Path], None]) -> None:
    before = state(filled)
    guid = before["meta"][0]
    damage(filled)
    report = recover_pool("tank", command="lamina pool recover tank")
    assert (report.name, report.guid) == ("tank", guid)
    same_after(filled, before, report)
    with Pool.open("tank", write=True) as pool:
        assert [line.command for line in pool.history()][-1] == "lamina pool recover tank"
        # Row numbers of what is gone are not given again, and the pool goes on.
        numbers = {row[0] for row in before["dataset"]}
        pool.create_dataset("tank/new")
        assert pool._catalogue.dataset("tank/new").id > max(numbers) + 1
        assert pool.destroy("tank/new").names == ["tank/new"]
    check(filled)


def test_what_was_left_is_kept(filled: Path) -> None:
    empty(filled)
    assert recover_pool("tank").kept == filled / "catalogue.db.damaged-1"
    (filled / "catalogue.db").write_bytes(b"no database")
    report = recover_pool("tank")
    assert report.kept == filled / "catalogue.db.damaged-2"
    assert report.kept.read_bytes() == b"no database"
    assert sorted(name for name in os.listdir(filled) if name.startswith("catalogue.db.")) == [
        "catalogue.db.damaged-1",
        "catalogue.db.damaged-2",
    ]


def test_a_log_of_the_old_catalogue_is_not_taken_for_the_new_ones(filled: Path) -> None:
    """SQLite would replay it into the database of the same name."""
    with Pool.open(filled, write=True) as pool:
        pool._database.query("PRAGMA wal_autocheckpoint = 0")
        pool.create_dataset("tank/in the log")
        shutil.copy(filled / "catalogue.db-wal", filled.parent / "log")
    before = state(filled)
    lose(filled)
    shutil.copy(filled.parent / "log", filled / "catalogue.db-wal")
    same_after(filled, before, recover_pool("tank"))
    assert (filled / "catalogue.db.damaged-1-wal").exists()


def test_twice_and_again(filled: Path) -> None:
    before = state(filled)
    for _ in range(3):
        report = recover_pool("tank", force=True)
        same_after(filled, before, report)


def test_refusals(filled: Path, place: Path) -> None:
    with pytest.raises(AlreadyExists, match="nothing is wrong with its catalogue"):
        recover_pool("tank")
    with pytest.raises(NotFound, match="no such pool"):
        recover_pool("other")
    (place / "empty").mkdir()
    with pytest.raises(NotFound, match="there are no packs"):
        recover_pool(place / "empty")
    before = sorted(os.listdir(filled))
    with Pool.open("tank"), pytest.raises(Busy, match=rf"process {os.getpid()} has it open"):
        recover_pool("tank", force=True)
    with Pool.open("tank", write=True) as pool, pool._writer(), pytest.raises(Busy, match="works with it"):
        recover_pool("tank", force=True)
    assert sorted(os.listdir(filled)) == before
    with Pool.open("tank", write=True) as pool:
        pool._database.query("PRAGMA user_version = 99")
    with pytest.raises(UnsupportedPool, match="use a newer lamina"):
        recover_pool("tank", force=True)


def test_another_process_in_the_way(filled: Path) -> None:
    def hold(ready: Callable[[], object]) -> None:
        with Pool.open("tank"):
            ready()
            time.sleep(60)

    child = run(hold, ready=True)
    child.wait_ready()
    with pytest.raises(Busy, match=f"process {child.pid} has it open"):
        recover_pool("tank", force=True)
    assert child.kill()
    recover_pool("tank", force=True)
    check(filled)


def test_a_dry_run_changes_nothing(filled: Path) -> None:
    names = state(filled)
    lose(filled)
    before = {path: path.stat() for path in sorted(filled.rglob("*")) if path.is_file()}
    report = recover_pool("tank", dry_run=True)
    assert (report.datasets, report.snapshots, report.bookmarks) == (len(names["dataset"]), len(names["snapshot"]), 1)
    after = {path: path.stat() for path in sorted(filled.rglob("*")) if path.is_file()}
    assert {path: one.st_mtime_ns for path, one in after.items()} == {
        path: one.st_mtime_ns for path, one in before.items()
    }


# -- records of names ---------------------------------------------------------------------------------------------


def parts(path: Path) -> list[dict[str, Any]]:
    """Parts of name records in the first pack that holds them: (pack, begin, end, record)."""
    found = []
    for name in sorted(os.listdir(path / "packs")):
        data = (path / "packs" / name).read_bytes()
        for record in scan_pack(data):
            if record.kind == Kind.NAMES:
                found.append((path / "packs" / name, record.offset, record.stored, record.key))
    return found


def spoil(path: Path, key: bytes) -> None:
    """Damage every copy of an object."""
    for place, offset, stored, other in objects(path):
        if other == key:
            with open(place, "r+b") as file:
                file.seek(offset + stored // 2)
                byte = file.read(1)
                file.seek(offset + stored // 2)
                file.write(bytes([byte[0] ^ 0x10]))


def objects(path: Path) -> list[tuple[Path, int, int, bytes]]:
    found = []
    for name in sorted(os.listdir(path / "packs")):
        data = (path / "packs" / name).read_bytes()
        found += [(path / "packs" / name, one.offset, one.stored, one.key) for one in scan_pack(data)]
    return found


def record_keys(path: Path) -> list[str]:
    """Keys of the name records that make up the names, oldest first."""
    with Pool.open(path) as pool:
        rows = pool._database.query("SELECT key FROM object WHERE kind = 4")
        records = [parse_record(pool.store.get(key)) for (key,) in rows]
    return [link.key for link in find_chain(Link.of(record) for record in records).links]


def test_one_copy_of_each_record_is_enough(filled: Path) -> None:
    before = state(filled)
    for place, offset, stored, _ in objects(filled):
        if place.name == pack_name(1):
            continue
        with open(place, "r+b") as file:
            file.seek(offset + stored - 1)
            file.write(b"?")
    lose(filled)
    report = recover_pool("tank")
    assert report.lines == []
    after = state(filled)
    assert {name: after[name] for name in after if name != "history"} == {
        name: before[name] for name in before if name != "history"
    }


def test_a_lost_record_is_a_gap_that_is_told(filled: Path) -> None:
    """Rows are whole in each record: what later ones touched is right, what only the lost one did is missing."""
    with Pool.open(filled, write=True) as pool:
        pool.create_dataset("tank/lost")
        pool.create_dataset("tank/later", {"quota": "1G"})
    keys = record_keys(filled)
    spoil(filled, bytes.fromhex(keys[-2]))
    before = state(filled)
    lose(filled)
    report = recover_pool("tank")
    assert len(report.lines) == 1 and "name records are lost: what changed after txg" in report.lines[0]
    after = state(filled)
    assert [row for row in before["dataset"] if row not in after["dataset"]] == [
        row for row in before["dataset"] if row[1] == "tank/lost"
    ]
    assert after["snapshot"] == before["snapshot"] and after["tree"] == before["tree"]
    check(filled)  # what was recovered is now what the records say


def test_rows_that_a_gap_leaves_without_a_place_get_one(place: Path, library: Library) -> None:
    with Pool.create("tank", place / "tank") as pool:
        pool.create_dataset("tank/a")
        pool.create_dataset("tank/a/b")
        pool.snapshot(["tank/a@s"])
    keys = record_keys(place / "tank")
    spoil(place / "tank", bytes.fromhex(keys[1]))  # the one that made tank/a
    lose(place / "tank")
    report = recover_pool("tank")
    assert [line.split(": ")[0] for line in report.lines] == [
        "name records are lost",
        "the dataset of snapshot 's' is in no name record",
        "'tank/a' is in no name record",
    ]
    with Pool.open("tank") as pool:
        assert [entry.name for entry in pool.list(types=("filesystem", "snapshot"))] == [
            *("tank", "tank/a", "tank/a/b", "tank/recovered-2", "tank/recovered-2@s")
        ]
    check(place / "tank")


def test_without_any_record_trees_are_salvaged(filled: Path, library: Library) -> None:
    for key in {key for _, _, _, key in parts(filled)}:
        spoil(filled, key)
    lose(filled)
    report = recover_pool("tank")
    assert any("no name record could be read" in line for line in report.lines)
    with Pool.open("tank") as pool:
        names = [entry.name for entry in pool.list(types=("filesystem", "snapshot"))]
        assert names[:2] == ["tank", "tank/recovered"] and len(names) >= 5
        trees = [pool.verify(name, source.path) for name in names[2:] for source in library]
        assert trees.count([]) >= 4  # the images are there, each of them as it was
    check(filled)


def die_committing(name: str) -> None:
    """Make a dataset and end where all is synced and nothing committed."""
    with Pool.open("tank", write=True) as pool:
        execute = pool._database.execute

        def dying(sql: str, parameters: Any = ()) -> int:
            if sql.startswith("UPDATE lease SET renewed"):
                os.kill(os.getpid(), signal.SIGKILL)
            return execute(sql, parameters)

        pool._database.execute = dying  # type: ignore[method-assign]
        pool.create_dataset(name)


def test_a_record_that_never_happened(filled: Path) -> None:
    """Synced, never committed, its number given again: the chain tells which of the two happened."""
    known = len(parts(filled))
    with Pool.open("tank", write=True) as pool:
        pool._database.execute("UPDATE pack SET state = 'sealed'")  # the next writer does not cut off what lies behind
    assert run(die_committing, "tank/phantom").died() == signal.SIGKILL
    with Pool.open("tank", write=True) as pool:
        assert not pool.exists("tank/phantom")
        assert len(parts(filled)) == known + 2  # its two copies
        for (number,) in pool._database.query("SELECT id FROM pack WHERE state = 'open'"):
            # As a writer before this version of it left them: the record is durable, no row says so.
            size = (filled / "packs" / pack_name(number)).stat().st_size
            pool._database.execute("UPDATE pack SET state = 'sealed', size = ? WHERE id = ?", (size, number))
        pool.create_dataset("tank/real")
        pool.create_dataset("tank/after")
    assert len(parts(filled)) == known + 6
    before = state(filled)
    lose(filled)
    same_after(filled, before, recover_pool("tank"))


def test_the_last_record_happened_if_it_could_have(filled: Path) -> None:
    """Nothing in the packs tells a record that was synced from one that was committed: it counts."""
    assert run(die_committing, "tank/phantom").died() == signal.SIGKILL
    lose(filled)
    assert recover_pool("tank").lines == []
    with Pool.open("tank") as pool:
        assert pool.exists("tank/phantom")
    check(filled)


def chain_of(*links: Link) -> list[str]:
    return [link.key for link in find_chain(links).links]


def link(key: str, txg: int, after: str | None, **more: Any) -> Link:
    return Link(key, txg, **{"part": 0, "parts": 1, "after": after, "time": txg, "full": False} | more)


def test_chains() -> None:
    one, two, three = link("1", 1, None), link("2", 2, "1"), link("3", 3, "2")
    assert chain_of(three, one, two) == ["1", "2", "3"]
    phantom = link("p", 3, "2", time=99)
    assert chain_of(one, two, three, phantom, link("4", 4, "3")) == ["1", "2", "3", "4"]
    assert chain_of(one, two, three, phantom) == ["1", "2", "p"]  # of two of one number, the later
    assert chain_of(one, two, three, link("p", 3, "2", time=99, sure=False)) == ["1", "2", "3"]
    full = link("f", 3, "3", full=True)
    assert chain_of(one, two, three, full) == ["f"]
    assert chain_of(one, two, three, full, link("4", 4, "f")) == ["f", "4"]
    first, second = link("f0", 3, "3", full=True, parts=2), link("f1", 3, "f0", full=True, part=1, parts=2)
    assert chain_of(one, two, three, first, second) == ["f0", "f1"]
    assert chain_of(one, two, three, first) == ["1", "2", "3"]  # torn: its end was never written
    assert chain_of(one, two, three, second) == ["1", "2", "3", "f1"]
    assert [(gap.before, gap.after) for gap in find_chain([one, three]).gaps] == [(1, 3)]
    assert [(gap.before, gap.after) for gap in find_chain([three]).gaps] == [(0, 3)]
    assert chain_of() == []


def test_records_of_many_parts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.pool.records.PART_BYTES", 700)
    monkeypatch.setattr("lamina.pool.recording._LEAST_NAMES", 4000)
    with Pool.create("tank", place / "tank") as pool:
        pool.command = "lamina " + "x" * 300
        for number in range(40):
            pool.create_dataset(f"tank/d{number}", {"com.example:note": "n" * 50})
        pool.destroy("tank/d7")
        assert pool._catalogue.meta("names_full") > 0
    before = state(place / "tank")
    lose(place / "tank")
    same_after(place / "tank", before, recover_pool("tank"))


# -- packs --------------------------------------------------------------------------------------------------------


def pack_piece(guid: int, changes: list[dict[str, Any]], txg: int) -> bytes:
    """A record as it would stand in a pack of another pool."""
    from blake3 import blake3
    from xxhash import xxh3_64_intdigest

    (data,) = make_record(changes, pool=guid, txg=txg, after=None, time=9 << 60, full=True, author=Author())
    head = record_header(Kind.NAMES, Codec.STORED, len(data), len(data), xxh3_64_intdigest(data), blake3(data).digest())
    return head + data


@pytest.mark.parametrize("ours", [False, True])
def test_a_pack_inside_an_image_is_no_pack(place: Path, ours: bool) -> None:
    """Behind a damaged header the search finds a name record that lies in somebody's file: not this pool's."""
    with Pool.create("tank", place / "tank", properties={"compression": "off"}) as pool:
        hostile = pack_piece(pool.guid if ours else 1234, [{"dropped": ["dataset", 1]}], 10**6 if not ours else 1)
        source = write_tree(place / "source", {"pack": blob(2, 40_000) + hostile + blob(4, 40_000)})
        pool.import_image(source.path, "tank/image@1")
        for number in range(3):
            pool.create_dataset(f"tank/d{number}")
        (row,) = pool._database.query("SELECT pack, offset FROM object WHERE kind = 1 ORDER BY stored DESC LIMIT 1")
    before = state(place / "tank", history=False)
    with open(place / "tank" / "packs" / pack_name(row[0]), "r+b") as file:
        file.seek(row[1] - RECORD_HEADER + 4)
        file.write(b"\xff\xff")
    lose(place / "tank")
    report = recover_pool("tank")
    assert report.missing == 1  # the chunk whose header is gone
    after = state(place / "tank", history=False)
    assert (after["dataset"], after["snapshot"]) == (before["dataset"], before["snapshot"])
    if not ours:
        assert any("name records are another pool's" in line for line in report.lines)


def test_a_foreign_pack_is_left_alone(filled: Path, place: Path, library: Library) -> None:
    with Pool.create("other", place / "other") as other:
        other.import_image(library[2].path, "other/x@1")
    shutil.copy(place / "other" / "packs" / pack_name(1), filled / "packs" / pack_name(77))
    whole = (filled / "packs" / pack_name(77)).read_bytes()
    before = state(filled)
    lose(filled)
    report = recover_pool("tank")
    assert report.lines == ["'00000077.pack' is another pool's pack: it is left alone"]
    same_after(filled, before, RecoverReport("tank", filled, 0, 0, ""))
    with Pool.open("tank", write=True) as pool:
        pool._database.execute("UPDATE pack SET state = 'sealed'")
        pool.import_image(library[5].path, "tank/new@1")
    assert (filled / "packs" / pack_name(77)).read_bytes() == whole


def test_missing_objects_are_told_and_can_be_brought_back(place: Path) -> None:
    source = write_tree(place / "s", {f"f{n}": blob(2 * n, 90_000) for n in range(8)})
    with Pool.create("tank", place / "tank") as pool:
        pool.import_image(source.path, "tank/a@1")
        pool.import_image(source.path, "tank/b@1")
        keys = [key for (key,) in pool._database.query("SELECT key FROM object WHERE kind = 1 ORDER BY id LIMIT 2")]
    for key in keys:
        spoil(place / "tank", key)
    lose(place / "tank")
    report = recover_pool("tank")
    assert report.missing == 2 and len(report.lines) == 1
    assert report.lines[0].startswith("the tree of 'tank/a', 'tank/a@1', 'tank/b', … is not complete: 2 objects")
    with Pool.open("tank", write=True) as pool:
        assert any("2 objects" in problem and "missing" in problem for problem in pool.check().problems)
        assert len(pool.verify("tank/a@1", source.path)) == 2  # reading fails, and nothing else does
        pool.gc(wait=0)
        pool.import_image(source.path, "tank/again@1")
        for name in ("tank/a@1", "tank/b@1", "tank/again@1"):
            assert pool.verify(name, source.path) == []
        pool.gc(wait=0)
        assert pool.verify("tank/a@1", source.path) == []


def test_what_may_lie_below_a_lost_node_is_kept(place: Path) -> None:
    """Nothing says what a lost node held: gc must not take it for garbage before the node is back."""
    source = write_tree(place / "s", {f"d{n}/f{m}": blob(100 * n + m, 3000) for n in range(60) for m in range(10)})
    with Pool.create("tank", place / "tank") as pool:
        pool.import_image(source.path, "tank/a@1")
        tree = pool.tree("tank/a@1")
        top = tree.reader.top()  # type: ignore[attr-defined]
        assert top.level and len(top.values) > 2
    spoil(place / "tank", top.values[1])
    lose(place / "tank")
    report = recover_pool("tank")
    assert "is not complete" in report.lines[0]
    with Pool.open("tank", write=True) as pool:
        count = pool._database.query("SELECT count(*) FROM object WHERE kind < 4")
        pool.gc(wait=0)
        assert pool._database.query("SELECT count(*) FROM object WHERE kind < 4") == count
        pool.import_image(source.path, "tank/again@1")
        assert pool.verify("tank/a@1", source.path) == []


def test_a_lost_root_is_left_out_and_said(filled: Path) -> None:
    with Pool.open(filled) as pool:
        snapshot = pool._catalogue.find_snapshot("tank/images/base@manual")
        assert snapshot is not None
        (key,) = pool._database.query("SELECT key FROM object WHERE id = ?", (snapshot.root,))[0]
        users = {
            name
            for (name,) in pool._database.query(
                "SELECT d.name || '@' || s.name FROM snapshot s JOIN dataset d ON d.id = s.dataset WHERE s.root = ?",
                (snapshot.root,),
            )
        }
        names = {entry.name for entry in pool.list(types=("filesystem", "snapshot"))}
    spoil(filled, key)
    lose(filled)
    report = recover_pool("tank")
    told = "\n".join(report.lines)
    assert "is lost" in told and all(f"'{name}' is left out: its tree is lost" in told for name in users)
    with Pool.open("tank") as pool:
        assert {entry.name for entry in pool.list(types=("filesystem", "snapshot"))} == names - users
    check(filled)


def punched(path: Path, start: int, end: int) -> None:
    from lamina.store.disk import DISK

    fd = os.open(path, os.O_RDWR)
    assert DISK.punch(fd, start, end - start)
    os.close(fd)


def test_holes_in_packs_are_passed_over(place: Path) -> None:
    sources = [
        write_tree(place / f"s{n}", {f"f{m}": blob(100 * n + 2 * m, 30_000) for m in range(12)}) for n in range(4)
    ]
    with Pool.create("tank", place / "tank") as pool:
        for number, source in enumerate(sources):
            pool.import_image(source.path, f"tank/i@{number}")
        pool.destroy("tank/i@1")
        pool.destroy("tank/i@2")
        given = pool.gc(wait=0).given
    assert given > 200_000
    before = state(place / "tank")
    lose(place / "tank")
    same_after(place / "tank", before, recover_pool("tank"))
    with Pool.open("tank") as pool:
        assert pool.verify("tank/i@3", sources[3].path) == []


# -- crashes ------------------------------------------------------------------------------------------------------


def test_killed_recoveries(filled: Path) -> None:
    """kill -9 at any point: the damaged catalogue is as it was, or the new one is whole."""
    before = state(filled, history=False)
    original = {path.name: path.read_bytes() for path in (filled / "packs").iterdir()}
    empty(filled)

    def restore() -> None:
        for path in list((filled / "packs").iterdir()):
            path.unlink()
        for name, data in original.items():
            (filled / "packs" / name).write_bytes(data)
        for path in filled.glob("catalogue.db*"):
            path.unlink()
        (filled / "catalogue.db").touch()

    def work(ready: Callable[[], object]) -> None:
        ready()
        recover_pool("tank")

    spans = []
    for _ in range(3):
        restore()
        child = run(work, ready=True)
        child.wait_ready()
        started = time.monotonic()
        child.result()
        spans.append(time.monotonic() - started)
    span = sorted(spans)[1] * 1.1
    generator = random.Random(KILLS)
    broken = done = 0
    for number in range(KILLS):
        restore()
        child = run(work, ready=True)
        child.wait_ready()
        time.sleep(span * generator.random())
        child.kill()
        try:
            Pool.open("tank").close()
            done += 1
            span *= 0.95  # the machine got faster: aim earlier
        except (DamagedData, UnsupportedPool):
            broken += 1
            span *= 1.03
            assert (filled / "catalogue.db").stat().st_size == 0 or not (filled / "catalogue.db").exists()
        else:
            check_whole(filled, before)
        if broken and number % 2:
            with contextlib.suppress(AlreadyExists):
                recover_pool("tank")
            check(filled)
            check_whole(filled, before)
    assert broken > KILLS / 4, (broken, done, span)


def check_whole(path: Path, before: dict[str, Any]) -> None:
    assert state(path, history=False) == before


def test_interrupted_before_its_last_step(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new catalogue is in place, its record of all names not yet written: it can be used, and finished."""

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    before = state(filled, history=False)
    lose(filled)
    with monkeypatch.context() as patch:
        patch.setattr(recovering, "_anchor", crash)
        with pytest.raises(KeyboardInterrupt):
            recover_pool("tank")
    assert state(filled, history=False) == before
    with Pool.open("tank") as pool:
        assert any("a recovery was broken off" in problem for problem in pool.check().problems)
    report = recover_pool("tank")  # no force: it is not finished
    assert report.reason == "an earlier recovery was broken off"
    check(filled)


def test_a_full_disk_or_a_failing_one_leaves_the_old(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.store.disk import Disk

    class Failing(Disk):
        def sync(self, fd: int) -> None:
            raise OSError(28, os.strerror(28))

    empty(filled)
    packs = {path.name: path.stat().st_size for path in (filled / "packs").iterdir()}
    from lamina.errors import NoSpace

    with pytest.raises(NoSpace, match="cannot recover 'tank'"):
        recover_pool("tank", disk=Failing())
    assert (filled / "catalogue.db").stat().st_size == 0
    assert {path.name: path.stat().st_size for path in (filled / "packs").iterdir()} == packs
    assert recover_pool("tank").lines == []
    assert not list(filled.glob("catalogue.db.new*"))


# -- any history --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(int(os.environ.get("LAMINA_HISTORIES", "3"))))
def test_any_history_comes_back(place: Path, library: Library, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random commands, collections of garbage among them, over many small packs: the packs tell all of it."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 200 << 10)
    monkeypatch.setattr("lamina.pool.recording._LEAST_NAMES", 2000 if seed % 2 else 256 << 10)
    generator = random.Random(seed)
    with Pool.create("tank", place / "tank") as pool:
        pool.command = "lamina any"
        for number in range(40):
            with contextlib.suppress(LaminaError):
                _any_step(pool, generator, library, number)
    before = state(place / "tank")
    garble(place / "tank")
    report = recover_pool("tank")
    same_after(place / "tank", before, report)
    with Pool.open("tank", write=True) as pool:
        pool.gc(wait=0)
        for entry in pool.list(types=("snapshot",)):
            pool.tree(entry.name)
    check(place / "tank")


def _any_step(pool: Pool, generator: random.Random, library: Library, number: int) -> None:
    datasets = [entry.name for entry in pool.list()]
    snapshots = [entry.name for entry in pool.list(types=("snapshot",))] or ["tank@none"]
    dataset, snapshot = generator.choice(datasets), generator.choice(snapshots)
    steps: list[Callable[[], object]] = [
        lambda: pool.import_image(generator.choice(library).path, f"tank/i{number % 4}@{number}"),
        lambda: pool.import_image(generator.choice(library).path, f"tank/i{number % 4}@{number}"),
        lambda: pool.create_dataset(f"{dataset}/d{number}"),
        lambda: pool.snapshot([f"{dataset}@s{number}"], recursive=True),
        lambda: pool.clone(snapshot, f"tank/c{number}"),
        lambda: pool.promote(dataset),
        lambda: pool.set([dataset], {"com.example:n": str(number)}),
        lambda: pool.inherit(dataset, "com.example:n"),
        lambda: pool.hold(f"h{number}", [snapshot]),
        lambda: pool.bookmark(snapshot, f"{snapshot.partition('@')[0]}#b{number}"),
        lambda: pool.rollback(snapshot, destroy_newer=True),
        lambda: pool.rename(snapshot, f"{snapshot}r"),
        lambda: pool.rename(dataset, f"tank/r{number}"),
        lambda: pool.destroy(snapshot),
        lambda: pool.destroy(dataset, recursive=True) if dataset != "tank" else None,
        lambda: pool.gc(wait=0),
        lambda: pool.set_own_properties({"comment": str(number)}),
    ]
    generator.choice(steps)()


@pytest.mark.parametrize("seed", range(int(os.environ.get("LAMINA_DAMAGES", "6"))))
def test_whatever_happened_to_packs_nothing_false_comes_back(place: Path, library: Library, seed: int) -> None:
    """Ranges of packs overwritten, zeroed, cut off: what comes back reads as it was, or fails and that is said."""
    generator = random.Random(seed)
    sources = {f"tank/i{number % 3}@{number}": library[1 + number % 6].path for number in range(9)}
    with Pool.create("tank", place / "tank") as pool:
        for name, path in sources.items():
            pool.import_image(path, name)
    packs = sorted((place / "tank" / "packs").iterdir())
    for _ in range(generator.randrange(1, 5)):
        pack = generator.choice(packs)
        data = bytearray(pack.read_bytes())
        start = generator.randrange(len(data))
        end = min(start + generator.randrange(1, 30_000), len(data))
        what = generator.randrange(4)
        if what == 0:
            data[start:end] = generator.randbytes(end - start)
        elif what == 1:
            data[start:end] = bytes(end - start)
        elif what == 2:
            del data[start:]
        else:
            data[start] ^= 1 << generator.randrange(8)
        pack.write_bytes(data)
    if generator.random() < 0.2:
        generator.choice(packs).unlink()
    lose(place / "tank")
    try:
        report = recover_pool("tank")
    except LaminaError as error:
        assert "\n" not in str(error)
        return
    assert all("\n" not in line for line in report.lines)
    with Pool.open("tank", write=True) as pool:
        lost = [name for name in sources if not pool.exists(name)]
        damaged = False
        for name, path in sources.items():
            if name not in lost:
                differences = pool.verify(name, path)
                assert all("is damaged" in one.what for one in differences), (name, differences)
                damaged = damaged or bool(differences)
        assert not damaged or report.lines
        # Records that were cut off leave no trace but the damage itself.
        assert not lost or report.lines or report.notes
        assert bool(pool.check().problems) == damaged
        # What is there can be brought back by importing the same again.
        for name, path in sources.items():
            pool.import_image(path, f"tank/again@{name.partition('@')[2]}")
        for name, path in sources.items():
            assert not pool.verify(f"tank/again@{name.partition('@')[2]}", path)
            assert name in lost or not pool.verify(name, path)
