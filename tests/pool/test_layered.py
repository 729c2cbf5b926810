"""Sessions that take images of layers in: exact, shared, and without a trace where they fail."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import AlreadyExists, LaminaError, NoSpace, SourceError
from lamina.fs.imagearea import IMAGE_INO
from lamina.fs.node import inode_key
from lamina.fs.view import StoredTree
from lamina.pool import ImportReport, Pool
from lamina.pool.importing.imageindex import find_layer, image_area
from lamina.pool.importing.images import commit_image
from lamina.pool.importing.layered import LayeredImport
from lamina.store.writer import StoreWriter
from tests.ingest.archives import END, member
from tests.oci.building import (
    BuiltImage,
    digest_of,
    directory,
    file,
    hard_link,
    layer,
    opaque,
    symlink,
    whiteout,
)
from tests.pool.garbage import check_clean, check_whole, rows
from tests.pool.processes import run

NOISE = random.Random(17)
BASE = layer(
    directory("etc"),
    file("etc/passwd", b"root:x:0:0\n"),
    file("etc/motd", b"hello"),
    directory("lib"),
    file("lib/large", NOISE.randbytes(700_000)),
    file("lib/medium", NOISE.randbytes(50_000)),
    *(file(f"lib/small-{n}", NOISE.randbytes(900)) for n in range(60)),
)
MIDDLE = layer(whiteout("etc/motd"), file("etc/new", b"new"), hard_link("link", "lib/large"), symlink("s", "lib"))
TOP = layer(directory("lib"), opaque("lib"), file("lib/other", NOISE.randbytes(300_000)))


def take(
    pool: Pool, name: str, layers: Sequence[bytes], *, move: bool = False, added: list[str] | None = None
) -> ImportReport:
    """Take an image in as a pull does; ``added`` gets the layers that were not there."""
    image = BuiltImage(layers)
    with LayeredImport(pool, name.partition("@")[0]) as session:
        for tar in layers:
            if not session.has(digest_of(tar)):
                assert session.add(io.BytesIO(tar), digest_of(tar), "of the test") == digest_of(tar)
                if added is not None:
                    added.append(digest_of(tar))
        return session.commit(name, image.config, image.manifest, image.diff_ids, move=move)


def check_image(pool: Pool, name: str, layers: Sequence[bytes]) -> None:
    """The image holds exactly these."""
    image = BuiltImage(layers)
    area = image_area(pool, name)
    assert area.config() == image.config and area.manifest() == image.manifest
    assert area.layers() == {digest_of(tar): len(tar) for tar in layers}
    for tar in layers:
        assert area.open_layer(digest_of(tar)).read() == tar
    assert pool.check().problems == []
    check_whole(pool)


def paths(pool: Pool, name: str) -> set[str]:
    tree = pool.tree(name)
    found: set[str] = set()
    stack = [("", 1)]
    while stack:
        path, ino = stack.pop()
        for entry in tree.readdir(ino):
            found.add(path + entry.name.decode())
            if entry.mode_type == 0o040000:
                stack.append((path + entry.name.decode() + "/", entry.ino))
    return found


# -- what becomes of images -----------------------------------------------------------------------------------------


def test_an_image_of_three_layers(pool: Pool) -> None:
    report = take(pool, "tank/images/a@v1", [BASE, MIDDLE, TOP])
    check_image(pool, "tank/images/a@v1", [BASE, MIDDLE, TOP])
    assert paths(pool, "tank/images/a@v1") == {"etc", "etc/passwd", "etc/new", "link", "s", "lib", "lib/other"}
    tree = pool.tree("tank/images/a@v1")
    assert report.files == 5 and report.logical_bytes == tree.totals.data_bytes == 700_000 + 300_000 + 11 + 3
    assert report.stored_bytes > 1_000_000
    check_clean(pool)


def test_layers_that_are_there_are_not_asked_for(pool: Pool) -> None:
    take(pool, "tank/a@v1", [BASE, MIDDLE])
    added: list[str] = []
    report = take(pool, "tank/b@v1", [BASE, MIDDLE, TOP], added=added)
    assert added == [digest_of(TOP)]
    assert report.new_logical_bytes < 310_000
    for name, layers in (("tank/a@v1", [BASE, MIDDLE]), ("tank/b@v1", [BASE, MIDDLE, TOP])):
        check_image(pool, name, layers)
    pool.destroy("tank/a", recursive=True)
    pool.gc()
    check_image(pool, "tank/b@v1", [BASE, MIDDLE, TOP])
    check_clean(pool)


def test_a_layer_has_the_same_nodes_in_every_image(pool: Pool) -> None:
    many = layer(*(file(f"f{n}", b"%d" % n) for n in range(3000)))
    take(pool, "tank/a@v1", [many])
    nodes = []
    take(pool, "tank/b@v1", [many, TOP])
    for name in ("tank/a@v1", "tank/b@v1"):
        tree = pool.tree(name)
        assert isinstance(tree, StoredTree)
        nodes.append({key for key, node in tree.reader.nodes() if node.keys[0] > inode_key(IMAGE_INO)})
    assert len(nodes[0] & nodes[1]) > 0.7 * len(nodes[0]) > 10


def test_several_images_in_one_session(pool: Pool) -> None:
    with LayeredImport(pool, "tank/images") as session:
        reports = []
        for number, layers in enumerate(([BASE], [BASE, TOP], [MIDDLE.replace(b"etc/", b"usr/"), BASE])):
            layers = [layer(directory("usr"), file("lib/large"), directory("lib")), BASE] if number == 2 else layers
            image = BuiltImage(layers)
            for tar in layers:
                if not session.has(digest_of(tar)):
                    session.add(io.BytesIO(tar), None, "of the test")
            reports.append(session.commit(f"tank/images/i{number}@v", image.config, None, image.diff_ids))
    assert reports[1].new_logical_bytes < 310_000 < reports[0].new_logical_bytes
    assert paths(pool, "tank/images/i1@v") == {"etc", "etc/passwd", "etc/motd", "lib", "lib/other"}
    assert image_area(pool, "tank/images/i0@v").manifest() is None
    assert pool.check().problems == []
    check_clean(pool)


def test_a_tag_moves_only_if_it_is_told_to(pool: Pool) -> None:
    take(pool, "tank/a@latest", [BASE])
    with pytest.raises(AlreadyExists, match="already exists"):
        take(pool, "tank/a@latest", [BASE, TOP])
    check_image(pool, "tank/a@latest", [BASE])
    take(pool, "tank/a@latest", [BASE, TOP], move=True)
    check_image(pool, "tank/a@latest", [BASE, TOP])
    assert "lib/other" in paths(pool, "tank/a"), "the head follows"
    take(pool, "tank/a@latest", [BASE, TOP], move=True)
    pool.gc()
    check_clean(pool)


def test_a_session_goes_on_after_a_name_that_is_taken(pool: Pool) -> None:
    take(pool, "tank/a@v1", [TOP])
    image = BuiltImage([BASE])
    with LayeredImport(pool, "tank/a") as session:
        session.add(io.BytesIO(BASE), None, "of the test")
        with pytest.raises(AlreadyExists):
            session.commit("tank/a@v1", image.config, None, image.diff_ids)
        session.commit("tank/a@v2", image.config, image.manifest, image.diff_ids)
    check_image(pool, "tank/a@v2", [BASE])


def test_odd_images(pool: Pool) -> None:
    """No layers at all; the same layer several times; layers of nothing; a long config; no last block."""
    take(pool, "tank/scratch@v", [])
    assert paths(pool, "tank/scratch@v") == set()
    nothing, bare = bytes(1024), member(b"bare", b"x")
    image = BuiltImage([nothing, BASE, nothing, bare, b"", BASE], config_extra={"history": ["x" * 3_000_000]})
    with LayeredImport(pool, "tank/odd") as session:
        for tar in (nothing, BASE, bare, b""):
            session.add(io.BytesIO(tar), digest_of(tar), "of the test")
        session.add(io.BytesIO(BASE), None, "the same again")
        session.commit("tank/odd@v", image.config, image.manifest, image.diff_ids)
    area = image_area(pool, "tank/odd@v")
    assert area.config() == image.config
    assert {diff_id: area.open_layer(diff_id).read() for diff_id in area.layers()} == {
        digest_of(tar): tar for tar in (nothing, BASE, bare, b"")
    }
    assert pool.check().problems == []
    check_clean(pool)


@pytest.mark.parametrize("prop", ["compression=off", "copies=3", "recordsize=16K"])
def test_properties_of_the_dataset(pool: Pool, prop: str) -> None:
    pool.create_dataset("tank/a", dict([prop.split("=")]))
    take(pool, "tank/a/b@v", [BASE, MIDDLE, TOP])
    check_image(pool, "tank/a/b@v", [BASE, MIDDLE, TOP])


def test_progress_is_told(pool: Pool) -> None:
    told: list[Any] = []
    with LayeredImport(pool, "tank/a", progress=told.append) as session:
        session.add(io.BytesIO(BASE), None, "of the test")
        session.commit("tank/a@v", BuiltImage([BASE]).config, None, BuiltImage([BASE]).diff_ids)
    assert told[-1].done and told[-1].files == 66 and told[-1].bytes == 700_000 + 50_000 + 60 * 900 + 16


# -- what is refused ------------------------------------------------------------------------------------------------

GOOD = layer(directory("d"), file("d/f", b"x"), file("plain", NOISE.randbytes(100_000)))
REFUSED: dict[str, tuple[list[bytes], str]] = {
    "cut in its data": ([BASE[:400_000]], "cut short"),
    "cut in a header": ([BASE[:1700]], "cut short"),
    "no tar": ([b"#!/bin/sh\n" * 100], "no tar archive, or damaged"),
    "garbage behind it": ([member(b"a") + END + b"garbage" * 100], "goes on after its end"),
    "..": ([GOOD, layer(file("d/../../etc/passwd"))], r"leaves the tree with '\.\.'"),
    "absolute": ([GOOD, layer(file("/etc/passwd"))], "is absolute"),
    "a link to nothing": ([GOOD, layer(hard_link("h", "d/none"))], "which is not there"),
    "a link to outside": ([GOOD, layer(hard_link("h", "../../etc/shadow"))], r"leaves the tree with '\.\.'"),
    "an absolute link": ([GOOD, layer(hard_link("h", "/etc/shadow"))], "is absolute"),
    "below a file": ([GOOD, layer(file("plain/x"))], "which is no directory"),
    "a link that climbs": ([layer(symlink("l", "../../etc"), file("l/cron"))], "climbs above the root"),
    "a link that climbs, below": ([layer(symlink("l", "/../x")), layer(file("l/cron"))], "climbs above the root"),
    "a whiteout of nothing": ([GOOD, layer(file("d/.wh."))], "whiteout of no name"),
    "a whiteout of ..": ([GOOD, layer(file("d/.wh..."))], "whiteout of no name"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("again", [False, True], ids=["", "beside another image"])
def test_layers_that_are_refused(pool: Pool, what: str, again: bool) -> None:
    layers, message = REFUSED[what]
    if again:
        take(pool, "tank/there@v", [GOOD])
    before = rows(pool, "SELECT name FROM dataset UNION SELECT name FROM snapshot")
    with pytest.raises(SourceError, match=message) as caught:
        take(pool, "tank/new/image@v", layers)
    assert str(caught.value).startswith(
        ("cannot import layer 'of the test': ", "cannot import 'tank/new/image@v': layer")
    )
    assert "\n" not in str(caught.value)
    assert rows(pool, "SELECT name FROM dataset UNION SELECT name FROM snapshot") == before
    check_clean(pool)


def test_a_layer_that_is_not_the_one_it_should_be(pool: Pool) -> None:
    image = BuiltImage([BASE])
    wrong = f"its tar is {digest_of(TOP)}, not {digest_of(BASE)}$"
    with pytest.raises(SourceError, match=wrong), LayeredImport(pool, "tank/a") as session:
        session.add(io.BytesIO(TOP), digest_of(BASE), "of the test")
    with pytest.raises(SourceError, match="has no end: it may be cut short"), LayeredImport(pool, "tank/a") as session:
        session.add(io.BytesIO(BASE[:512]), digest_of(BASE), "of the test")
    with pytest.raises(SourceError, match="no end-of-archive block"), LayeredImport(pool, "tank/a") as session:
        session.add(io.BytesIO(BASE[:512]), None, "of the test")
    with pytest.raises(LaminaError, match="neither added nor asked for"), LayeredImport(pool, "tank/a") as session:
        session.commit("tank/a@v", image.config, None, image.diff_ids)
    assert not pool.exists("tank/a")
    check_clean(pool)


def test_a_session_goes_on_after_a_layer_that_was_refused(pool: Pool) -> None:
    image = BuiltImage([GOOD])
    with LayeredImport(pool, "tank/a") as session:
        with pytest.raises(SourceError):
            session.add(io.BytesIO(BASE[:500_000]), None, "broken")
        session.add(io.BytesIO(GOOD), None, "of the test")
        session.commit("tank/a@v", image.config, image.manifest, image.diff_ids)
    check_image(pool, "tank/a@v", [GOOD])
    pool.gc()
    check_clean(pool)


def test_an_error_of_the_source_comes_through(pool: Pool) -> None:
    class Broken(io.BytesIO):
        def readinto1(self, view: Any) -> int:
            count = super().readinto1(view[:100_000])
            if not count:
                raise LaminaError("the registry went away")
            return count

    with pytest.raises(LaminaError, match=r"^the registry went away$"), LayeredImport(pool, "tank/a") as session:
        session.add(Broken(BASE[:500_000]), None, "of the test")
    check_clean(pool)


def test_a_quota(pool: Pool) -> None:
    pool.create_dataset("tank/a", {"quota": "300K"})
    with pytest.raises(NoSpace, match="quota"):
        take(pool, "tank/a/b@v", [BASE])
    check_clean(pool)
    assert not pool.exists("tank/a/b")
    small = layer(file("f", NOISE.randbytes(20_000)))
    take(pool, "tank/a/b@v", [small])
    with pytest.raises(NoSpace, match="quota"):  # known at the commit only: the layers are there
        take(pool, "tank/c@v", [BASE])
        take(pool, "tank/a/b@w", [BASE])
    check_clean(pool)


def test_a_full_disk(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([10**9, 10**9])
    monkeypatch.setattr(Pool, "_free", lambda self: next(free, 0))
    with pytest.raises(NoSpace, match="no space left"):
        take(pool, "tank/a@v", [BASE])
    monkeypatch.undo()
    check_clean(pool)


# -- beside gc ------------------------------------------------------------------------------------------------------


def test_what_has_said_yes_to_stays(pool: Pool) -> None:
    """The image that had it goes meanwhile, gc runs, and commits of others say that nothing older is needed."""
    take(pool, "tank/a@v", [BASE, MIDDLE])
    first, image = BuiltImage([TOP]), BuiltImage([BASE, TOP])
    with LayeredImport(pool, "tank/b") as session:
        assert session.has(digest_of(BASE))
        pool.destroy("tank/a", recursive=True)
        session.add(io.BytesIO(TOP), digest_of(TOP), "of the test")
        for number in range(2):
            session.commit(f"tank/b@other{number}", first.config + b" " * number, None, first.diff_ids)
            pool.gc(wait=0.0)
        session.commit("tank/b@v1", image.config, image.manifest, image.diff_ids)
    check_image(pool, "tank/b@v1", [BASE, TOP])
    for number in range(2):
        pool.destroy(f"tank/b@other{number}")
    pool.gc()
    check_clean(pool)


@pytest.mark.parametrize("mark", [1, -1], ids=["condemned", "damaged"])
def test_what_was_marked_after_all_is_stored_again(pool: Pool, mark: int) -> None:
    take(pool, "tank/a@v", [BASE])
    image = BuiltImage([BASE])
    with LayeredImport(pool, "tank/b") as session:
        assert session.has(digest_of(BASE))
        with pool.store.database.transaction():
            pool.store.database.execute("UPDATE object SET condemned = ? WHERE kind = 1", (mark,))
        session.commit("tank/b@v", image.config, image.manifest, image.diff_ids)
    assert rows(pool, "SELECT count(*) FROM object WHERE condemned IS NOT NULL") == [(0,)]
    check_image(pool, "tank/b@v", [BASE])


def test_a_layer_that_is_being_freed_is_not_there(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """gc condemns between the look and the pin."""
    take(pool, "tank/a@v", [BASE])
    find = find_layer

    def late(found_in: Pool, diff_id: str) -> int | None:
        root = find(found_in, diff_id)
        with found_in.store.database.transaction():
            found_in.store.database.execute("UPDATE object SET condemned = 1 WHERE kind = 1 AND id % 7 = 0")
        return root

    monkeypatch.setattr("lamina.pool.importing.layered.find_layer", late)
    with LayeredImport(pool, "tank/b") as session:
        assert not session.has(digest_of(BASE))
        assert rows(pool, "SELECT * FROM pin") == []
    monkeypatch.undo()
    with LayeredImport(pool, "tank/b") as session:
        assert not session.has(digest_of(BASE)), "what is condemned is not whole"


def test_gc_beside_a_session(pool: Pool) -> None:
    """What was added and has no name yet is not taken for garbage, over several commits."""
    layers = [layer(file("f", NOISE.randbytes(150_000))) for _ in range(3)]
    with LayeredImport(pool, "tank/a") as session:
        for tar in layers:
            session.add(io.BytesIO(tar), digest_of(tar), "of the test")
        for number, tar in enumerate(layers):
            pool.gc(wait=0.0)
            image = BuiltImage([tar])
            session.commit(f"tank/a@{number}", image.config, image.manifest, image.diff_ids)
    for number, tar in enumerate(layers):
        check_image(pool, f"tank/a@{number}", [tar])


# -- several threads, and ends in the middle ------------------------------------------------------------------------


class Waiting(io.RawIOBase):
    """A stream that gives some bytes and then waits until it is let go."""

    def __init__(self, data: bytes, first: int) -> None:
        self._data = io.BytesIO(data)
        self._first = first
        self.waits = threading.Event()
        self.go = threading.Event()

    def readable(self) -> bool:
        return True

    def readinto(self, view: Any) -> int:
        if self._data.tell() >= self._first:
            self.waits.set()
            self.go.wait(30)
        return self._data.readinto(memoryview(view)[:10_000])


def in_thread(failed: list[BaseException], do: Callable[[], object]) -> threading.Thread:
    def work() -> None:
        try:
            do()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_layers_from_several_threads(pool: Pool) -> None:
    layers = [layer(*(file(f"l{n}-{i}", NOISE.randbytes(20_000 * (i % 4))) for i in range(40))) for n in range(5)]
    image = BuiltImage(layers)
    failed: list[BaseException] = []
    with LayeredImport(pool, "tank/a") as session:
        threads = [
            in_thread(failed, lambda tar=tar: session.add(io.BytesIO(tar), digest_of(tar), "of the test"))  # type: ignore[misc]
            for tar in layers
        ]
        for thread in threads:
            thread.join()
        session.commit("tank/a@v", image.config, image.manifest, image.diff_ids)
    assert failed == []
    check_image(pool, "tank/a@v", layers)
    check_clean(pool)


def test_a_commit_while_another_layer_waits_for_bytes(pool: Pool) -> None:
    failed: list[BaseException] = []
    slow = Waiting(TOP, 100_000)
    with LayeredImport(pool, "tank") as session:
        thread = in_thread(failed, lambda: session.add(slow, digest_of(TOP), "slow"))  # type: ignore[arg-type]
        assert slow.waits.wait(30)
        session.add(io.BytesIO(BASE), None, "of the test")
        first, second = BuiltImage([BASE]), BuiltImage([BASE, TOP])
        session.commit("tank/a@v", first.config, first.manifest, first.diff_ids)
        pool.gc(wait=0.0)
        slow.go.set()
        thread.join()
        session.commit("tank/b@v", second.config, second.manifest, second.diff_ids)
    assert failed == []
    check_image(pool, "tank/b@v", [BASE, TOP])
    check_clean(pool)


def test_nobody_decides_what_to_share_during_a_commit(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit renews the lease: what another thread decides in that moment could be lost."""
    large = b"".join(member(b"f%d" % n, random.Random(n).randbytes(200_000)) for n in range(60)) + END
    naming, wrong, seen = threading.Event(), list[str](), threading.Event()
    claim, commit = StoreWriter.claim, commit_image

    def claiming(self: StoreWriter, keys: Sequence[bytes]) -> set[bytes]:
        seen.set()
        if naming.is_set() and threading.current_thread() is not threading.main_thread():
            wrong.append(threading.current_thread().name)
        return claim(self, keys)

    def committing(*words: Any, **more: Any) -> None:
        naming.set()
        time.sleep(0.1)
        commit(*words, **more)
        naming.clear()

    monkeypatch.setattr(StoreWriter, "claim", claiming)
    monkeypatch.setattr("lamina.pool.importing.layered.commit_image", committing)
    failed: list[BaseException] = []
    image, other = BuiltImage([BASE]), BuiltImage([large])
    with LayeredImport(pool, "tank/a") as session:
        session.add(io.BytesIO(BASE), None, "of the test")
        seen.clear()
        thread = in_thread(failed, lambda: session.add(io.BytesIO(large), None, "large"))
        assert seen.wait(30)
        session.commit("tank/a@v", image.config, None, image.diff_ids)
        thread.join()
        session.commit("tank/a@w", other.config, other.manifest, other.diff_ids)
    assert failed == [] and wrong == []
    check_image(pool, "tank/a@w", [large])


def test_who_still_waits_when_the_session_ends(pool: Pool) -> None:
    """It comes too late to do any harm."""
    failed: list[BaseException] = []
    slow = Waiting(BASE, 300_000)
    with pytest.raises(RuntimeError, match="another layer"), LayeredImport(pool, "tank/a") as session:
        thread = in_thread(failed, lambda: session.add(slow, None, "slow"))  # type: ignore[arg-type]
        assert slow.waits.wait(30)
        raise RuntimeError("another layer could not be had")
    check_clean(pool)
    slow.go.set()
    thread.join()
    assert isinstance(failed[0], LaminaError) and "has ended" in str(failed[0])
    check_clean(pool)


@pytest.mark.parametrize("when", ["while it waits", "while it works", "while it names"])
def test_ctrl_c(pool: Pool, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def later(waits: threading.Event) -> None:
        waits.wait(30)
        time.sleep(0.2)  # a signal that comes just before a thread sleeps does not wake it
        interrupt()

    image = BuiltImage([BASE, MIDDLE])

    def session_of(source: Any) -> None:
        with LayeredImport(pool, "tank/a") as session:
            session.add(source, None, "of the test")
            session.add(io.BytesIO(MIDDLE), None, "of the test")
            if when == "while it names":
                interrupt()
            session.commit("tank/a@v", image.config, image.manifest, image.diff_ids)

    source: Any = io.BytesIO(BASE)
    if when == "while it waits":
        source = Waiting(BASE, 100_000)
        threading.Thread(target=later, args=(source.waits,)).start()
    elif when == "while it works":
        once = iter([interrupt])  # the second one would be raised wherever the main thread is
        monkeypatch.setattr("lamina.ingest.progress.Tally.add", lambda *_: next(once, lambda: None)())
    with pytest.raises(KeyboardInterrupt):
        session_of(source)
    assert not pool.exists("tank/a")
    check_clean(pool)


def test_ctrl_c_again_and_again(place: Path, small_packs: None) -> None:
    """It ends, and what is there is whole, whenever it comes and how often."""
    path = place / "tank"
    with Pool.create("tank", path) as pool:
        take(pool, "tank/there@v", [BASE])
    generator = random.Random(5)
    many = [layer(*(file(f"l{n}-{i}", generator.randbytes(30_000)) for i in range(60))) for n in range(3)]

    def taking(ready: Callable[[], object]) -> str:
        with Pool.open(path, write=True) as pool:
            ready()
            try:
                take(pool, "tank/new@v", [BASE, *many])
            except BaseException as error:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                return type(error).__name__
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return "taken"

    for _ in range(int(os.environ.get("LAMINA_INTERRUPTS", "3"))):
        child = run(taking, ready=True)
        child.wait_ready()
        time.sleep(0.3 * generator.random())
        for _ in range(generator.randint(1, 3)):
            os.kill(child.pid, signal.SIGINT)
            time.sleep(generator.choice((0, 0.0002, 0.001, 0.005)))
        try:
            child.result()
        except RuntimeError as error:
            assert "interrupted" in str(error) or "without a result" in str(error)  # before or after its try
        except AssertionError as error:
            assert "without a result" in str(error)
        with Pool.open(path, write=True) as pool:
            check_image(pool, "tank/there@v", [BASE])
            if pool.exists("tank/new"):
                check_image(pool, "tank/new@v", [BASE, *many])
                pool.destroy("tank/new", recursive=True)
            pool.gc()
            check_clean(pool)


def test_killed(place: Path, small_packs: None) -> None:
    """Nothing has a name, the next image is taken in as if nothing had been, and gc leaves nothing."""
    path = place / "tank"
    with Pool.create("tank", path) as pool:
        take(pool, "tank/there@v", [BASE])
    generator = random.Random(3)
    many = [layer(*(file(f"l{n}-{i}", generator.randbytes(30_000)) for i in range(60))) for n in range(4)]

    def taking(ready: Callable[[], object]) -> None:
        with Pool.open(path, write=True) as pool:
            ready()
            take(pool, "tank/new@v", [BASE, *many])

    for number in range(4):
        child = run(taking, ready=True)
        child.wait_ready()
        time.sleep(0.05 * number + 0.05 * generator.random())
        if not child.kill():
            break
        with Pool.open(path, write=True) as pool:
            if pool.exists("tank/new@v"):
                check_image(pool, "tank/new@v", [BASE, *many])
                pool.destroy("tank/new", recursive=True)
            assert not pool.exists("tank/new")
            check_image(pool, "tank/there@v", [BASE])
            pool.gc()
            check_clean(pool)
    with Pool.open(path, write=True) as pool:
        if not pool.exists("tank/new@v"):
            take(pool, "tank/new@v", [BASE, *many])
        check_image(pool, "tank/new@v", [BASE, *many])


# -- large ----------------------------------------------------------------------------------------------------------

ENTRIES = 1_000_000 if os.environ.get("LAMINA_MILLION") else 100_000
MEMORY = 400 << 20

LARGE = """
import io, re, sys
from pathlib import Path
from lamina.pool import Pool
from lamina.pool.importing.layered import LayeredImport
from tests.pool.test_layered import Entries, digest_of

with Pool.open(Path(sys.argv[1]), write=True) as pool, LayeredImport(pool, "tank/a") as session:
    diff_id = session.add(io.BufferedReader(Entries(int(sys.argv[2]))), None, "large")
    report = session.commit("tank/a@v", b'{"rootfs": {"diff_ids": ["%s"]}}' % diff_id.encode(), None, [diff_id])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]  # getrusage begins with the parent's
print(report.files, report.logical_bytes, int(peak) << 10)
"""


class Entries(io.RawIOBase):
    """A layer of very many small members, made while it is read."""

    def __init__(self, count: int) -> None:
        self._parts = self._make(count)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, view: Any) -> int:
        if len(self._left) < len(view):
            self._left += b"".join(islice(self._parts, len(view) // 512 + 1))
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    @staticmethod
    def _make(count: int) -> Iterator[bytes]:
        template = member(b"d000/file-00000000", b"x")
        plain = bytearray(template[:512])
        base = sum(plain[:148]) + 256 + sum(plain[156:]) - sum(b"d000/file-00000000")
        for number in range(count):
            name = b"d%03d/file-%08d" % (number % 1000, number)
            kind = b"2" if number % 10 == 9 else b"1" if number % 20 == 8 and number > 1000 else b"0"
            link = b"d%03d/file-%08d" % ((number - 1) % 1000, number - 1) if kind != b"0" else b""
            size = 1 if kind == b"0" else 0
            plain[:18], plain[156:157], plain[157:175] = name, kind, link.ljust(18, b"\0")
            plain[124:136] = b"%011o\0" % size
            total = base + sum(name) + kind[0] - 48 + sum(link) + (size - 1)
            plain[148:156] = b"%06o\0 " % total
            yield bytes(plain) + (b"x".ljust(512, b"\0") if size else b"")
        yield END


def test_very_many_entries(place: Path) -> None:
    with Pool.create("tank", place / "tank"):
        pass
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(place / "tank"), str(ENTRIES)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"},
    )
    assert done.returncode == 0, done.stderr
    files, logical, peak = map(int, done.stdout.split())
    linked = sum(number % 20 == 8 for number in range(1001, ENTRIES))
    assert files == ENTRIES - linked
    assert logical == ENTRIES - linked - ENTRIES // 10
    assert peak < MEMORY, f"{peak >> 20} MiB"
    with Pool.open(place / "tank") as pool:
        assert pool.check().problems == []
