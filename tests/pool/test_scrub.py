"""Scrub on packs with real damage: what is mended, what is named, what is marked, and that it can be broken off."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from lamina.errors import Busy, DamagedData, LaminaError
from lamina.fs.node import key_ino
from lamina.fs.view import StoredTree, path_of
from lamina.pool import Pool
from lamina.pool.records import parse_record
from lamina.pool.scrubbing import scrub as scrubbing
from lamina.pool.scrubbing.scrub import mending_writer, scrubs_of
from lamina.store.disk import Disk, Target
from lamina.store.lease import Lease
from lamina.store.mending import Mender, Move
from lamina.store.objects import ObjectStore
from lamina.store.record import RECORD_HEADER, Kind
from lamina.store.verifying import Fault, Flaw, Place, Verifier
from tests.pool import processes
from tests.pool.damaging import (
    MANY,
    check_places,
    chunk_of,
    damage,
    files,
    flip,
    flip_byte,
    forget,
    make_source,
    node_of,
    pack_path,
    places,
    scrubbed,
    spots,
)
from tests.pool.trees import Source, blob, write_tree
from tests.store.kit import NOBODY, in_child, needs_root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Source]:
    """A pool with one image in several packs, and what was imported."""
    parent = tmp_path_factory.mktemp("scrub")
    source = make_source(parent / "source")
    patch = pytest.MonkeyPatch()
    patch.setenv("LAMINA_POOLS", str(parent / "known"))
    patch.setattr("lamina.store.writer.PACK_TARGET", 200_000)
    try:
        with Pool.create("tank", parent / "tank") as pool:
            pool.import_image(source.path, "tank/i@1")
    finally:
        patch.undo()
    return parent / "tank", source


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="lamina-test-"))
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def source(made: tuple[Path, Source]) -> Source:
    return made[1]


@pytest.fixture
def image(place: Path, made: tuple[Path, Source]) -> Iterator[Pool]:
    """The pool, to be damaged."""
    shutil.copytree(made[0], place / "tank")
    with Pool.open(place / "tank", write=True) as pool:
        yield pool


def test_nothing_wrong(image: Pool, source: Source) -> None:
    found = scrubbed(image)
    stored = image.store.database.query("SELECT sum(stored) FROM object")[0][0]
    copies = image.store.database.query("SELECT sum(stored) FROM object JOIN copy ON object.id = copy.object")[0][0]
    assert (found.examined, found.total, found.repaired, found.errors) == (stored + copies, stored + copies, 0, 0)
    assert not any((image.status().read_errors, image.status().checksum_errors, image.status().errors))
    assert (image.status().state, image.space().health, damage(image)) == ("ONLINE", "ONLINE", set())
    check_places(image)
    assert not image.verify("tank/i@1", source.path)


@pytest.mark.parametrize("at", [0, 1, 70_000, -1])
def test_a_flipped_bit_in_data(image: Pool, source: Source, at: int) -> None:
    spot = chunk_of(image, "dir/f3")
    flip(image, spot, at if at >= 0 else spot.location.stored - 1, bit=5)
    found = scrubbed(image)
    assert (found.errors, found.repaired) == (1, 0)
    status = image.status()
    assert (status.state, status.errors, status.read_errors, status.checksum_errors) == ("DEGRADED", 1, 0, 1)
    assert image.space().health == "DEGRADED"
    assert damage(image) == {"tank/i:/dir/f3", "tank/i@1:/dir/f3"}
    # Importing the same data again stores it anew, for both images, and a scrub agrees.
    image.import_image(source.path, "tank/j@1")
    assert (image.status().state, image.status().errors, damage(image)) == ("ONLINE", 0, set())
    assert not image.verify("tank/i@1", source.path)
    assert scrubbed(image).errors == 0
    check_places(image)


def test_a_small_file_names_all_that_share_its_chunk(image: Pool) -> None:
    spot = chunk_of(image, "many/0007")
    tree = image.tree("tank/i@1")
    inside = set()
    for entry in tree.readdir(tree.lookup(1, b"many").ino):  # type: ignore[union-attr]
        if any(extent.key == spot.location.key for extent in tree.extents(entry.ino)):
            inside.add("/many/" + entry.name.decode())
    assert len(inside) > 10
    flip(image, spot)
    scrubbed(image)
    assert damage(image) == {f"{name}:{path}" for name in ("tank/i", "tank/i@1") for path in inside}


def test_every_name_that_shows_the_damage_is_named(image: Pool, source: Source, tmp_path: Path) -> None:
    """Trees that share the chunk but not the inode numbers, clones, and names with bytes that terminals obey."""
    strange = b"a\x1b[31m\nb\\c"
    other = tmp_path / "other"
    shutil.copytree(source.path / "dir", other / "elsewhere")
    os.rename(other / "elsewhere" / "f3", os.fsencode(other) + b"/" + strange)
    image.import_image(other, "tank/j@2")
    image.snapshot(["tank/j@later"])
    unhurt = write_tree(tmp_path / "unhurt", {"x": blob(99, 1000)})
    image.import_image(unhurt.path, "tank/k@1")
    flip(image, chunk_of(image, "dir/f3"))
    scrubbed(image)
    shown = "/a\\x1b[31m\\nb\\\\c"
    assert damage(image) == {
        "tank/i:/dir/f3",
        "tank/i@1:/dir/f3",
        *(f"{name}:{shown}" for name in ("tank/j", "tank/j@2", "tank/j@later")),
    }
    image.destroy("tank/j", recursive=True)
    assert damage(image) == {"tank/i:/dir/f3", "tank/i@1:/dir/f3"}


def test_trees_that_share_nodes_are_read_once(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five states of one directory, a file changed in each; and one image that is not hurt, which is not read."""
    source = make_source(tmp_path / "source")
    for number in range(5):
        (source.path / "many" / f"{300 * number:04d}").write_text(f"state {number}")
        pool.import_image(source.path, f"tank/i@{number}")
    pool.import_image(write_tree(tmp_path / "other", {"x": b"y"}).path, "tank/other@1")
    flip(pool, chunk_of(pool, "dir/f3", "tank/i@0"))
    scrubbed(pool)
    read: list[bytes] = []
    get = ObjectStore.get
    monkeypatch.setattr(ObjectStore, "get", lambda self, key, **more: read.append(key) or get(self, key, **more))
    assert damage(pool) == {"tank/i:/dir/f3", *(f"tank/i@{number}:/dir/f3" for number in range(5))}
    nodes = {some[0].location.key for some in spots(pool, Kind.NODE)}
    by_key = [key for key in read if key in nodes]
    # Each node once to find the extents, and the few on the way to an inode once more in each tree, for its path.
    assert len(by_key) <= len(nodes) + 5 * 6
    assert len(set(by_key)) < len(nodes)


def test_what_nothing_shows_any_more(image: Pool) -> None:
    flip(image, chunk_of(image, "dir/f3"))
    scrubbed(image)
    image.destroy("tank/i", recursive=True)
    assert [str(one).partition("<")[0] for one in image.damage()] in ([], ["tank:"])
    image.gc()
    assert (damage(image), image.status().errors, image.status().state) == (set(), 0, "ONLINE")


@pytest.mark.parametrize("at", [-RECORD_HEADER, -RECORD_HEADER + 2, -RECORD_HEADER + 13, -RECORD_HEADER + 30, -1])
def test_a_flipped_bit_in_a_header(image: Pool, source: Source, at: int) -> None:
    """The payload is whole: it is stored anew under a header that is right."""
    spot = chunk_of(image, "dir/f3")
    flip(image, spot, at)
    found = scrubbed(image)
    assert (found.errors, found.repaired) == (0, spot.location.stored)
    assert image.status().checksum_errors == 1
    moved = chunk_of(image, "dir/f3")
    assert moved.location.id == spot.location.id
    assert (moved.pack, moved.location.offset) != (spot.pack, spot.location.offset)
    again = scrubbed(image)
    assert (again.errors, again.repaired) == (0, 0)
    check_places(image)
    assert not image.verify("tank/i@1", source.path)


@pytest.mark.parametrize("number", [0, 1])
def test_one_of_two_copies_of_a_tree_node(image: Pool, source: Source, number: int) -> None:
    spot = node_of(image, "many/0700")[number]
    flip(image, spot, 17)
    found = scrubbed(image)
    assert (found.errors, found.repaired, damage(image)) == (0, spot.location.stored, set())
    assert (image.status().state, image.status().checksum_errors) == ("ONLINE", 1)
    after = node_of(image, "many/0700")
    assert (after[number].pack, after[number].location.offset) != (spot.pack, spot.location.offset)
    assert after[1 - number] == node_of(image, "many/0700")[1 - number]
    check_places(image)
    assert scrubbed(image).repaired == 0
    image.clear_errors()
    assert image.status().checksum_errors == 0


def test_a_copy_that_is_missing_is_made(image: Pool) -> None:
    spot = node_of(image, "many/0700")[0]
    with image.store.database.transaction():
        image.store.database.execute("DELETE FROM copy WHERE object = ?", (spot.location.id,))
    found = scrubbed(image)
    assert (found.errors, found.repaired) == (0, spot.location.stored)
    assert image.status().checksum_errors == 0  # nothing was wrong, something was missing
    check_places(image)


def test_both_copies_of_a_leaf(image: Pool) -> None:
    """What the node hides is named, from its first file to its last; the rest can be read."""
    for spot in node_of(image, "many/0700"):
        flip(image, spot, 17)
    assert scrubbed(image).errors == 1
    named = sorted(str(one) for one in image.damage())
    assert len(named) == 2
    tree = image.tree("tank/i@1")
    directory = tree.lookup(1, b"many")
    assert directory is not None
    hidden = []
    for entry in sorted(tree.readdir(directory.ino), key=lambda entry: entry.ino):
        try:
            tree.inode(entry.ino)
        except DamagedData:
            hidden.append("/many/" + entry.name.decode())
    assert "/many/0700" in hidden and 10 < len(hidden) < MANY
    assert named[1] == f"tank/i@1:<metadata> {hidden[0]} ... {hidden[-1]}"


def test_both_copies_of_the_root(image: Pool) -> None:
    for some in spots(image, Kind.ROOT):
        for spot in some:
            flip(image, spot)
    assert scrubbed(image).errors == 1
    assert damage(image) == {"tank/i:<metadata> /", "tank/i@1:<metadata> /"}
    with pytest.raises(DamagedData):
        image.tree("tank/i@1")


def test_a_leaf_of_one_file_names_the_file(pool: Pool, tmp_path: Path) -> None:
    """A file of so many extents that a leaf holds nothing else."""
    big = write_tree(tmp_path / "big", {"deep/down/big": blob(2, 10 << 20), "z": b"z"})
    pool.create_dataset("tank/b", {"recordsize": "8K"})
    pool.import_image(big.path, "tank/b@1")
    tree = pool.tree("tank/b@1")
    assert isinstance(tree, StoredTree)
    ino = path_of(tree, b"deep/down/big")
    inside = [key for key, node in tree.reader.nodes() if not node.level and {key_ino(k) for k in node.keys} == {ino}]
    for spot in places(pool, pool.store.locate(inside[:1])[inside[0]]):
        flip(pool, spot, 40)
    assert scrubbed(pool).errors == 1
    assert damage(pool) == {"tank/b:/deep/down/big", "tank/b@1:/deep/down/big"}


def test_a_name_record_that_is_lost_is_written_anew(image: Pool) -> None:
    """A full record stands for all before it: nothing is missing any more."""
    for spot in spots(image, Kind.NAMES)[-1]:
        flip(image, spot, 20)
    for _ in range(2):
        found = scrubbed(image)
        assert (found.errors, image.status().state, damage(image)) == (0, "ONLINE", set())
    assert image.status().checksum_errors >= 2
    row = image.store.database.query("SELECT value FROM meta WHERE name = 'names_from'")[0][0]
    record = parse_record(image.store.get(image.store.locate_ids([row])[0].key, verify=True))
    assert record.full and {"dataset", "snapshot"} <= {name for change in record.changes for name in change}
    image.gc()
    assert scrubbed(image).errors == 0


def test_a_pack_cut_short(image: Pool) -> None:
    spot = chunk_of(image, "dir/f5")
    os.truncate(pack_path(image, spot.pack), spot.location.offset + spot.location.stored - 1)
    found = scrubbed(image)
    status = image.status()
    assert found.errors >= 1 and status.read_errors >= 1 and status.checksum_errors == 0
    assert {"tank/i:/dir/f5", "tank/i@1:/dir/f5"} <= damage(image)
    assert "tank/i@1:/dir/f1" not in damage(image)


def test_a_missing_pack(image: Pool, source: Source) -> None:
    spot = chunk_of(image, "dir/f5")
    lost = [s for some in spots(image, Kind.CHUNK) for s in some if s.pack == spot.pack]
    pack_path(image, spot.pack).unlink()
    found = scrubbed(image)
    assert found.errors == len(lost)
    assert image.status().read_errors >= len(lost)
    assert "tank/i@1:/dir/f5" in damage(image)
    image.import_image(source.path, "tank/j@1")
    assert scrubbed(image).errors == 0
    assert not image.verify("tank/i@1", source.path)


def test_a_damaged_pack_header(image: Pool, source: Source) -> None:
    """All that lies in the pack moves to others, and the pack goes."""
    pack = chunk_of(image, "dir/f5").pack
    flip_byte(pack_path(image, pack), 25)
    assert scrubbed(image).errors == 0
    left = image.store.database.query(
        "SELECT (SELECT count(*) FROM object WHERE pack = ?) + (SELECT count(*) FROM copy WHERE pack = ?)", (pack, pack)
    )
    assert left == [(0,)]
    check_places(image)
    image.gc()
    assert not pack_path(image, pack).exists()
    assert not image.verify("tank/i@1", source.path)


def test_marks_go_from_what_is_good_again(image: Pool) -> None:
    """A cable, not the disk: after it was plugged in again, a whole scrub clears the marks."""
    spot = chunk_of(image, "dir/f3")
    hidden = pack_path(image, spot.pack)
    hidden.rename(image.path / "away")
    assert scrubbed(image).errors > 0
    assert spot.location.key not in image.store.ids([spot.location.key])
    (image.path / "away").rename(hidden)
    assert scrubbed(image).errors == 0
    assert spot.location.key in image.store.ids([spot.location.key])
    assert image.status().state == "ONLINE"


class FailingDisk(Disk):
    """Gives EIO for a range of one pack, and ENOSPC for all writes, when told to."""

    def __init__(self) -> None:
        self.bad: tuple[str, int, int] | None = None
        self.full = False
        self.paths: dict[int, str] = {}

    def open(self, path: Target, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        self.paths[fd] = str(path)
        return fd

    def _check(self, fd: int, offset: int, length: int) -> None:
        if self.bad is not None:
            name, start, end = self.bad
            if self.paths.get(fd, "").endswith(name) and offset < end and start < offset + length:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    def read(self, fd: int, length: int, offset: int) -> bytes:
        self._check(fd, offset, length)
        return super().read(fd, length, offset)

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        self._check(fd, offset, len(buffer))
        return super().read_into(fd, buffer, offset)

    def write(self, fd: int, parts, offset: int) -> int:  # type: ignore[no-untyped-def]
        if self.full and ".pack" in self.paths.get(fd, ""):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(fd, parts, offset)


def test_an_error_of_the_disk(image: Pool) -> None:
    """Only what lies at the bad place is lost; a tree node there is had from its copy."""
    disk = FailingDisk()
    chunk, node = chunk_of(image, "dir/f3"), node_of(image, "many/0700")[0]
    with Pool.open(image.path, write=True, disk=disk) as pool:
        start = chunk.location.offset + 60_000
        disk.bad = (f"{chunk.pack:08d}.pack", start, start + 10)
        found = scrubbed(pool)
        assert 1 <= found.errors <= 3
        status = pool.status()
        assert (status.read_errors >= 1, status.checksum_errors) == (True, 0)
        assert "tank/i@1:/dir/f3" in damage(pool)
        disk.bad = (f"{node.pack:08d}.pack", node.location.offset, node.location.offset + 1)
        pool.scrub()
        assert node_of(pool, "many/0700")[0] != node
        disk.bad = None
        assert scrubbed(pool).errors == 0


def test_no_room_to_mend(image: Pool) -> None:
    """What has a whole copy is not lost, and is mended when there is room."""
    disk = FailingDisk()
    node = node_of(image, "many/0700")[0]
    flip(image, node)
    with Pool.open(image.path, write=True, disk=disk) as pool:
        disk.full = True
        found = pool.scrub()
        assert (found.state, found.errors, found.repaired) == ("finished", 1, 0)
        assert (pool.status().errors, pool.status().write_errors) == (0, 1)
        disk.full = False
        found = scrubbed(pool)
        assert (found.errors, found.repaired) == (0, node.location.stored)


# -- objects that the index has lost ---------------------------------------------------------


def test_objects_without_rows(pool: Pool, tmp_path: Path) -> None:
    """They are named, never shared, and healed by whoever stores them; accounting comes out right."""
    source = make_source(tmp_path / "source")
    for _ in range(2):  # looking at a directory sets its access time, once
        time.sleep(0.02)
        list(os.walk(source.path))
    pool.import_image(source.path, "tank/i@1")
    before = pool.get("tank/i@1", ["referenced", "used"])
    forget(pool, chunk_of(pool, "dir/f3"), node_of(pool, "many/0700")[0])
    assert scrubbed(pool).errors == 2
    named = damage(pool)
    assert "tank/i@1:/dir/f3" in named
    assert any("<metadata> /many/" in one for one in named)
    assert (scrubbed(pool).errors, damage(pool)) == (2, named)  # known now: no new rows
    pool.gc()
    with Pool.open("tank", write=True) as again:  # one that remembers nothing
        assert damage(again) == named
        again.import_image(source.path, "tank/j@1")
        assert (scrubbed(again).errors, damage(again)) == (0, set())
        assert again.get("tank/i@1", ["referenced", "used"]) == before
        again.gc()
        assert not again.verify("tank/i@1", source.path)


# -- beside others ---------------------------------------------------------


def test_rows_that_moved_are_not_called_damaged(image: Pool) -> None:
    """gc takes what a scrub is about to check, and the file with it."""
    chunk, node = chunk_of(image, "dir/f3"), node_of(image, "many/0700")[0]
    stale = [Flaw(Place(spot.location, 0, None, False), Fault.UNREADABLE) for spot in (chunk, node)]
    verifier = Verifier(image.store.backend, image.guid)
    with mending_writer(image) as writer:
        moves = [Move(flaw.place, verifier.payload(flaw.place)) for flaw in stale]
        assert writer.move(moves) == 2
    assert [chunk_of(image, "dir/f3") == chunk, node_of(image, "many/0700")[0] == node] == [False, False]
    flip(image, chunk)
    forget(image, chunk_of(image, "dir/f5"))
    gone = Flaw(Place(chunk.location, 1, None, False), Fault.CHECKSUM)  # a copy that is not there any more
    result = Mender(image.store, verifier, lambda: mending_writer(image)).mend([*stale, gone])
    assert (result.unreadable, result.checksum, result.lost, result.moved) == (0, 0, {}, 0)


def test_a_move_does_nothing_where_the_row_says_something_else(image: Pool) -> None:
    chunk = chunk_of(image, "dir/f3")
    place = Place(chunk.location, 0, None, False)
    payload = Verifier(image.store.backend, image.guid).payload(place)
    with mending_writer(image) as writer:
        assert writer.move([Move(place, payload)]) == 1
        now = chunk_of(image, "dir/f3")
        assert writer.move([Move(place, payload)]) == 0
    assert chunk_of(image, "dir/f3") == now


def test_beside_imports_and_gc(place: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrubs in a loop beside processes that import, destroy and collect: nothing is called damaged."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 200_000)
    monkeypatch.setattr("lamina.store.compaction.PACK_TARGET", 200_000, raising=False)
    with Pool.create("tank", place / "tank") as pool:
        pool.import_image(source.path, "tank/kept@1")
        until = time.monotonic() + 3

        def importing() -> int:
            number = 0
            with Pool.open("tank", write=True) as mine:
                while time.monotonic() < until:
                    number += 1
                    tree = write_tree(tmp_path / f"t{number}", {"a": blob(2 * number, 250_000), "b": blob(7, 90_000)})
                    mine.import_image(tree.path, f"tank/t@{number}")
                    if number > 1:
                        mine.destroy(f"tank/t@{number - 1}")
            return number

        def collecting() -> int:
            number = 0
            with Pool.open("tank", write=True) as mine:
                while time.monotonic() < until:
                    mine.gc(wait=0.0)
                    number += 1
            return number

        others = [processes.run(importing), processes.run(collecting)]
        scrubs = 0
        while time.monotonic() < until:
            found = pool.scrub()
            assert (found.state, found.errors, damage(pool)) == ("finished", 0, set())
            scrubs += 1
        assert all(other.result() for other in others) and scrubs
        assert not any((pool.status().read_errors, pool.status().checksum_errors, pool.status().errors))
        assert not pool.verify("tank/kept@1", source.path)


def test_what_comes_while_it_runs_is_not_read(image: Pool, source: Source, tmp_path: Path) -> None:
    scrubs = scrubs_of(image)
    scrubs.begin("tank", None)
    total = image.store.database.query("SELECT sum(stored) FROM object")[0][0]
    total += image.store.database.query("SELECT sum(stored) FROM object JOIN copy ON object.id = copy.object")[0][0]
    image.import_image(write_tree(tmp_path / "new", {"x": blob(4711, 90_000)}).path, "tank/new@1")
    found = scrubbing.scrub(image)
    assert (found.state, found.examined, found.total) == ("finished", total, total)


# -- one at a time, paused, killed ---------------------------------------------------------


def test_the_row_is_one_scrubbers(image: Pool) -> None:
    scrubs = scrubs_of(image)
    assert scrubs.last() is None and not scrubs.is_running(None)
    assert scrubs.begin("tank", None) is False
    lease = Lease(image.path / "leases", image.store.database, lambda: 0, kind="scrub")
    mine = scrubs.take(lease.name)
    assert scrubs.is_running(mine)
    with pytest.raises(Busy, match=r"^cannot scrub tank: currently scrubbing; use 'lamina pool scrub -s' to cancel"):
        scrubs.begin("tank", None)
    with pytest.raises(Busy):
        scrubs.take("other")
    with pytest.raises(Busy):
        image.scrub()
    assert scrubs.begin("tank", 1000) is True  # the rate of one that runs can be set
    assert scrubs.save(mine)
    last = scrubs.last()
    assert last is not None and (last.rate, last.lease) == (1000, lease.name)
    scrubs.cancel("tank")
    assert not scrubs.save(mine)
    scrubs.begin("tank", None)
    assert not scrubs.save(mine)  # another's by now
    scrubs.finish(mine)
    last = scrubs.last()
    assert last is not None and (last.state, last.rate) == ("scanning", 0)
    scrubs.cancel("tank")
    with pytest.raises(LaminaError, match="there is no active scrub"):
        scrubs.cancel("tank")
    lease.close()


def test_the_rate_is_kept(image: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only sleeping moves: so many bytes, so much sleep."""
    now = [1000.0]

    class Clock:
        time = staticmethod(time.time)

        @staticmethod
        def monotonic() -> float:
            return now[0]

        @staticmethod
        def sleep(seconds: float) -> None:
            assert 0 < seconds <= 0.5  # it looks at the row in between
            now[0] += seconds

    monkeypatch.setattr(scrubbing, "time", Clock)
    found = image.scrub(rate=100_000)
    assert found.state == "finished"
    last = max(spot.location.stored for kind in (Kind.CHUNK, Kind.NODE) for some in spots(image, kind) for spot in some)
    took = now[0] - 1000.0
    assert (found.examined - 2 * last) / 100_000 <= took <= 2 * found.examined / 100_000
    assert found.seconds == int(took)


def test_pausing_and_going_on(image: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after any number of looks it goes on behind what it has read, and the figures add up."""
    monkeypatch.setattr(scrubbing, "_LOOK_SECONDS", 0.0)
    flip(image, chunk_of(image, "dir/f3"))
    flip(image, node_of(image, "many/0700")[0])
    scrubs = scrubs_of(image)
    passes = 0
    positions: list[tuple[int, int]] = []
    reads: list[int] = []
    real = Verifier.run
    monkeypatch.setattr(Verifier, "run", lambda self, run, lost=False: reads.append(1) or real(self, run, lost))
    while True:
        looks = []

        def progress(_: object, looks: list[int] = looks) -> None:
            looks.append(1)
            if len(looks) == 2:
                scrubs.pause("tank")

        assert scrubs.begin("tank", None) is False
        found = scrubbing.scrub(image, progress)
        passes += 1
        positions.append((found.pack, found.offset))
        if found.state == "finished":
            break
        assert found.state == "paused" and passes < 50
    assert passes > 1 and positions == sorted(positions)
    assert (found.errors, found.examined) == (1, found.total)
    assert found.repaired == node_of(image, "many/0700")[0].location.stored
    monkeypatch.undo()
    again = image.scrub()
    assert (again.examined, again.errors) == (again.total, 1)


def test_killed_and_gone_on(image: Pool) -> None:
    """kill -9 at any moment: the next one goes on, and in the end all is as after one that was not killed."""
    chunk = chunk_of(image, "dir/f3")
    flip(image, chunk)
    flip(image, node_of(image, "many/0700")[0])
    scrubs = scrubs_of(image)

    def scrubber(rate: int) -> None:
        with Pool.open(image.path, write=True) as mine:
            scrubs_of(mine).begin("tank", rate)
            scrubbing._LOOK_SECONDS = scrubbing._SAVE_SECONDS = 0.01
            scrubbing.scrub(mine)

    for delay in (0.05, 0.1, 0.15, 0.3):
        child = processes.run(scrubber, 1_000_000)
        time.sleep(delay)
        if not child.kill():
            break
        last = scrubs.last()
        assert last is None or (last.state, scrubs.is_running(last)) == ("scanning", False)
    status = image.status().scan
    assert status is None or status.state in ("interrupted", "finished")
    found = image.scrub(rate=0)
    assert (found.state, found.errors) == ("finished", 1)
    found = scrubbed(image)
    assert (found.errors, found.repaired) == (1, 0)
    flip(image, chunk)
    assert scrubbed(image).errors == 0
    check_places(image)


@needs_root
@pytest.mark.usefixtures("place")
def test_another_user_reads_the_status(source: Source, public_path: Path) -> None:
    with Pool.create("tank", public_path / "tank", mode=0o755) as pool:
        pool.import_image(source.path, "tank/i@1")
        flip(pool, chunk_of(pool, "dir/f3"))
        scrubbed(pool)

    def look() -> object:
        with Pool.open(public_path / "tank") as pool:
            status = pool.status()
            assert status.scan is not None
            return status.state, status.errors, status.scan.state, sorted(damage(pool)), pool.space().health

    assert in_child(look, NOBODY) == repr(
        ("DEGRADED", 1, "finished", ["tank/i:/dir/f3", "tank/i@1:/dir/f3"], "DEGRADED")
    )

    for name in ("grp", "pwd"):
        import_module(name)  # the other user may not be able to read where Python lies

    def scrub_it() -> object:
        with Pool.open(public_path / "tank", write=True) as pool:
            return pool.scrub()

    assert in_child(scrub_it, NOBODY).startswith("AccessDenied: cannot write to pool 'tank': permission denied")


def test_files_is_what_is_imported(image: Pool) -> None:
    """The fixture holds what the tests of damage think it does."""
    tree = image.tree("tank/i@1")
    assert tree.totals.files == len(files())
    assert len(spots(image, Kind.NODE)) >= 5
    assert len(list((image.path / "packs").iterdir())) > 5
    assert places(image, chunk_of(image, "dir/f1").location) == [chunk_of(image, "dir/f1")]
