"""Directories taken in, next to what they are."""

import gc
import os
import random
import resource
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import NoSpace, SourceError
from lamina.fs.types import ROOT_INO
from lamina.fs.view import path_of
from lamina.ingest import directory
from lamina.ingest.directory import printable
from lamina.pool.importing.verify import verify_tree
from tests.ingest.kit import Shop, nasty, of_directory, of_tree, take
from tests.store.kit import in_child, needs_root

# -- everything there is --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nasty_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("nasty") / "root"
    nasty(path)
    yield path
    shutil.rmtree(path.parent)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path / "shop")
    yield shop
    shop.close()


@needs_root
@pytest.mark.parametrize(("threads", "memory"), [(2, 64 << 20), (5, 3000)])
def test_everything_is_kept(shop: Shop, nasty_path: Path, threads: int, memory: int) -> None:
    started = time.monotonic()
    taken = take(shop, nasty_path, threads=threads, memory=memory)
    assert time.monotonic() - started < 10, "a file of 200 GB with a few blocks takes no time"
    assert taken.problems == {}
    assert verify_tree(taken.tree, nasty_path) == []
    found, wanted = of_tree(taken.tree), of_directory(nasty_path)
    assert found.keys() == wanted.keys()
    for path in wanted:
        assert found[path] == wanted[path], path
    assert len(wanted) > 70
    assert taken.tree.inode(path_of(taken.tree, b"sparse")).size == 200 << 30
    sums = taken.totals
    assert sums.directories == sum(stat.S_ISDIR(entry.mode) for entry in found.values())
    assert sums.files == sum(stat.S_ISREG(e.mode) and e.same == path for path, e in found.items())
    assert sums.inodes == sum(entry.same == path for path, entry in found.items())
    assert shop.check() > 0


@needs_root
def test_the_same_tree_is_the_same_root_and_nothing_new(shop: Shop, nasty_path: Path) -> None:
    one = take(shop, nasty_path, threads=1)
    two = take(shop, nasty_path, threads=6, memory=3000)
    assert one.root == two.root
    assert (two.written.objects, two.written.stored_bytes) == (0, 0)
    assert one.totals == two.totals


@needs_root
def test_a_copy_shares_all_file_data(shop: Shop, nasty_path: Path, tmp_path: Path) -> None:
    import subprocess

    subprocess.run(["cp", "-a", "--sparse=never", nasty_path / "usr", tmp_path / "copy"], check=True)
    take(shop, nasty_path / "usr")
    assert take(shop, tmp_path / "copy").written.new_bytes == 0


def test_inode_numbers_are_in_directory_order(shop: Shop, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    for name in ("b", "a", "c", "d/y", "d/x"):
        (root / name).write_text(name)
    tree = take(shop, root).tree
    assert [path_of(tree, name) for name in (b"a", b"b", b"c", b"d", b"d/x", b"d/y")] == [2, 3, 4, 5, 6, 7]
    assert tree.inode(ROOT_INO).nlink == 3


def test_an_empty_directory(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir(mode=0o750)
    taken = take(shop, tmp_path / "root")
    assert (taken.totals.inodes, taken.totals.directories, taken.totals.data_bytes) == (1, 1, 0)
    assert verify_tree(taken.tree, tmp_path / "root") == []


def test_a_root_that_is_a_link(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").write_text("x")
    (tmp_path / "link").symlink_to("root")
    assert take(shop, tmp_path / "link").root == take(shop, tmp_path / "root").root


def test_access_times_are_left_alone(shop: Shop, tmp_path: Path) -> None:
    """An access time that the import itself moves makes the next import of the same tree another."""
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (root / "file").write_text("x")
    (root / "large").write_bytes(bytes(100_000))
    paths = [root, root / "below", root / "file", root / "large"]
    for path in paths:
        os.utime(path, ns=(10**18, 2 * 10**18))
    take(shop, root)
    assert {path.stat().st_atime_ns for path in paths} == {10**18}


trees = st.recursive(
    st.binary(max_size=200) | st.integers(0, 60_000).map(lambda n: random.Random(n).randbytes(n)),
    lambda below: st.dictionaries(
        st.binary(min_size=1, max_size=30).filter(
            lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..")
        ),
        below,
        max_size=5,
    ),
    max_leaves=15,
).filter(lambda tree: isinstance(tree, dict))


@given(trees)
@settings(max_examples=25, deadline=None)
def test_any_tree(tmp_path_factory: pytest.TempPathFactory, tree: dict[bytes, object]) -> None:
    base = tmp_path_factory.mktemp("any")

    def make(path: bytes, node: object) -> None:
        if isinstance(node, dict):
            os.mkdir(path)
            for name, below in node.items():
                make(path + b"/" + name, below)
        else:
            assert isinstance(node, bytes)
            with open(path, "wb") as file:
                file.write(node)

    make(os.fsencode(base) + b"/root", tree)
    shop = Shop(base / "shop")
    taken = take(shop, base / "root")
    assert of_tree(taken.tree) == of_directory(base / "root")
    shop.close()
    shutil.rmtree(base)


@needs_root
def test_a_tree_that_is_deep(shop: Shop, tmp_path: Path) -> None:
    """Descriptors and stack are used a level at a time."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    os.mkdir(b"root", dir_fd=fd)
    here = os.open(b"root", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
    for _ in range(1500):
        os.mkdir(b"d", dir_fd=here)
        below = os.open(b"d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = take(shop, tmp_path / "root")
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    shop.backend.close()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert taken.totals.directories == 1501
    assert path_of(taken.tree, b"d/" * 1500) > 0
    import subprocess

    subprocess.run(["rm", "-rf", tmp_path / "root"], check=True)


# -- what changes while it is read ----------------------------------------------------------------------------------


def test_files_that_are_written_meanwhile_are_never_torn(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer goes round and round a file, slice by slice: at any moment it holds one number, then the one before.

    A reader that takes longer than a round would see another picture, which the file never showed.
    """
    root = tmp_path / "root"
    root.mkdir()
    slices, length = 24, 8192
    names = [root / name for name in ("a", "b", "c")]
    for path in names:
        path.write_bytes(b"\1" * slices * length)
    stop = threading.Event()

    def write() -> None:
        rng = random.Random(1)
        files = [open(path, "r+b", buffering=0) for path in names]  # noqa: SIM115
        for number in range(2, 250):
            for file in files:
                for at in range(slices):
                    os.pwrite(file.fileno(), bytes([number]) * length, at * length)
                    time.sleep(0.0002)
                    if stop.is_set():
                        return
            time.sleep(rng.choice([0, 0.05, 0.15]))

    real = os.preadv

    def slowly(fd: int, buffers: list[memoryview], position: int) -> int:
        time.sleep(0.0004)
        return real(fd, [buffers[0][:length]], position)

    thread = threading.Thread(target=write)
    thread.start()
    monkeypatch.setattr(os, "preadv", slowly)
    kept = left_out = 0
    try:
        for _ in range(15):
            taken = take(shop, root)
            for entry in taken.tree.readdir(ROOT_INO):
                data = taken.tree.read(entry.ino, 0, 1 << 30)
                seen = [data[at * length] for at in range(slices)]
                assert data == b"".join(bytes([number]) * length for number in seen)
                assert seen == sorted(seen, reverse=True) and seen[0] - seen[-1] <= 1, "torn"
                kept += 1
            left_out += len(taken.problems)
            assert set(taken.problems.values()) <= {"kept changing while it was read, left out"}
    finally:
        stop.set()
        thread.join()
    assert kept + left_out == 45 and kept > 5


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_always_changes_is_reported_and_left_out(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, linked: bool
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "changing").write_bytes(b"x" * size)
    (root / "still").write_bytes(b"y" * size)
    (root / "directory").mkdir()
    if linked:
        os.link(root / "changing", root / "directory" / "too")
    monkeypatch.setattr(directory, "_same", lambda a, b: b.st_ino != (root / "changing").stat().st_ino)
    taken = take(shop, root)
    names = {b"changing", b"directory/too"} if linked else {b"changing"}
    assert taken.problems == dict.fromkeys(names, "kept changing while it was read, left out")
    assert taken.tally.inexact
    assert set(of_tree(taken.tree)) == {b".", b"./still", b"./directory"}


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_file_that_changes_once_is_read_again(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    path = root / "changing"
    path.write_bytes(b"x" * size)
    real = directory._same

    def same(a: os.stat_result, b: os.stat_result) -> bool:
        if path.read_bytes()[:1] == b"x":
            path.write_bytes(b"new" * size)
            return real(a, os.stat(path))
        return real(a, b)

    monkeypatch.setattr(directory, "_same", same)
    taken = take(shop, root)
    if size == 10:
        assert taken.problems == {}
    assert verify_tree(taken.tree, root) == []


def vanishing(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Run ``change`` right after the root has been listed."""
    real = directory.give_cookies
    done = []

    def listed(names: list[bytes]) -> list[int]:
        if not done:
            done.append(True)
            change()
        return real(names)

    monkeypatch.setattr(directory, "give_cookies", listed)


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "stays").write_text("here")
    (root / "file").write_text("file")
    (root / "folder").mkdir()
    (root / "folder" / "inner").write_text("inner")
    (root / "link").symlink_to("target")
    os.mkfifo(root / "fifo")
    return root


def test_what_vanishes_is_reported(shop: Shop, small_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change() -> None:
        shutil.rmtree(small_tree / "folder")
        for name in ("file", "link", "fifo"):
            (small_tree / name).unlink()

    vanishing(monkeypatch, change)
    taken = take(shop, small_tree)
    assert taken.problems == dict.fromkeys([b"folder", b"file", b"link", b"fifo"], "vanished while the tree was read")
    assert set(of_tree(taken.tree)) == {b".", b"./stays"}
    assert taken.tree.inode(ROOT_INO).nlink == 2, "the directory that vanished is no longer counted"


def test_what_becomes_something_else_is_reported(shop: Shop, small_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO or a link that becomes a file must not become a file of zeros."""

    def change() -> None:
        shutil.rmtree(small_tree / "folder")
        for name in ("file", "link", "fifo"):
            (small_tree / name).unlink()
        (small_tree / "folder").write_text("a file now")
        (small_tree / "file").mkdir()
        (small_tree / "link").write_text("a file now")
        (small_tree / "fifo").mkdir()

    vanishing(monkeypatch, change)
    taken = take(shop, small_tree)
    assert taken.problems == dict.fromkeys(
        [b"folder", b"file", b"link", b"fifo"], "changed while it was read, left out"
    )
    assert set(of_tree(taken.tree)) == {b".", b"./stays"}


def test_a_file_that_becomes_a_fifo_or_link_does_not_block(
    shop: Shop, small_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_tree / "other").write_text("x")

    def change() -> None:
        (small_tree / "file").unlink()
        os.mkfifo(small_tree / "file")
        (small_tree / "other").unlink()
        (small_tree / "other").symlink_to("/etc/passwd")

    vanishing(monkeypatch, change)
    taken = take(shop, small_tree)
    assert taken.problems == dict.fromkeys([b"file", b"other"], "changed while it was read, left out")


# -- what cannot be read --------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("what", ["file", "large", "folder"])
def test_what_another_user_may_not_read_is_named(public_path: Path, what: str) -> None:
    root = public_path / "root"
    (root / "folder" / "secret").mkdir(parents=True)
    (root / "file").write_text("x")
    (root / "large").write_bytes(bytes(100_000))
    for path in (root, root / "folder"):
        path.chmod(0o755)
    wanted = {"file": root / "file", "large": root / "large", "folder": root / "folder" / "secret"}
    wanted[what].chmod(0)
    others = set(wanted) - {what}
    for name in others:
        wanted[name].chmod(0o755)
    store = public_path / "store"
    store.mkdir()
    os.chown(store, 65534, 65534)

    def work() -> object:
        mine = Shop(store / "shop")
        take(mine, root)
        return "imported"

    shown = str(wanted[what].relative_to(root))
    assert in_child(work, 65534).startswith(f"SourceError: cannot read '{shown}': Permission denied\n")
    shutil.rmtree(store / "shop")
    wanted[what].chmod(0o755)
    assert in_child(work, 65534) == "'imported'"


def test_a_root_that_cannot_be_taken(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match="No such file"):
        take(shop, tmp_path / "gone")
    with pytest.raises(SourceError, match="Not a directory"):
        take(shop, tmp_path / "file")
    with pytest.raises(SourceError) as caught:
        take(shop, tmp_path / "a\x1b[31m\nb")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("size", [10, 100_000])
def test_an_error_while_reading_names_the_file(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "bad\n\x1b[0m").write_bytes(b"x" * size)
    for number in range(20):
        (root / f"{number}").write_bytes(bytes([number]) * size)
    bad = (root / "bad\n\x1b[0m").stat().st_ino

    def failing(real: Callable[..., object]) -> Callable[..., object]:
        def call(fd: int, *rest: object) -> object:
            if os.fstat(fd).st_ino == bad:
                raise OSError(5, os.strerror(5))
            return real(fd, *rest)

        return call

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "read", failing(os.read))
    monkeypatch.setattr(os, "preadv", failing(os.preadv))
    with pytest.raises(SourceError) as caught:
        take(shop, root)
    assert str(caught.value) == r"cannot read 'bad\x0a\x1b[0m': Input/output error"
    monkeypatch.undo()
    del caught
    gc.collect()  # the traceback holds what it passed through
    shop.backend.close()
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors of files that were queued are left open"


# -- the pool in the tree -------------------------------------------------------------------------------------------


def test_the_pool_itself_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    (root / "file").write_text("x")
    shop = Shop(root / "data" / "tank")
    status = (root / "data" / "tank").stat()
    own = frozenset([(status.st_dev, status.st_ino)])
    taken = take(shop, root, exclude=own)
    assert taken.problems == {b"data/tank": "the pool itself, left out"}
    assert set(of_tree(taken.tree)) == {b".", b"./file", b"./data"}
    assert taken.tree.inode(path_of(taken.tree, b"data")).nlink == 2
    with pytest.raises(SourceError, match="pool itself"):
        take(shop, root / "data" / "tank", exclude=own)
    shop.close()


# -- small files together -------------------------------------------------------------------------------------------


def small_files(root: Path, count: int = 300, seed: int = 1) -> None:
    root.mkdir()
    rng = random.Random(seed)
    for number in range(count):
        (root / f"{number:04d}.py").write_bytes(rng.randbytes(rng.randrange(1, 6000)))


def chunks(taken) -> dict[bytes, bytes]:  # type: ignore[no-untyped-def]
    """The chunk that each file of the root lies in."""
    return {entry.name: taken.tree.extents(entry.ino)[0].key for entry in taken.tree.readdir(ROOT_INO)}


def test_small_files_share_chunks(shop: Shop, tmp_path: Path) -> None:
    small_files(tmp_path / "root")
    taken = take(shop, tmp_path / "root")
    where = chunks(taken)
    assert 5 < len(set(where.values())) < 60
    for key in set(where.values()):
        assert len(taken.tree.chunk(key)) <= 128 << 10
    assert verify_tree(taken.tree, tmp_path / "root") == []
    # Each file's neighbours in its chunk are found, for the mount to hand over together.
    for entry in taken.tree.readdir(ROOT_INO):
        near = {ino for ino, _ in taken.tree.chunk_neighbours(entry.ino)}
        assert entry.ino in near


@pytest.mark.parametrize("change", ["content", "added", "removed"])
def test_a_change_touches_only_its_group(shop: Shop, tmp_path: Path, change: str) -> None:
    small_files(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    if change == "content":
        (tmp_path / "two" / "0150.py").write_bytes(b"changed")
    elif change == "added":
        (tmp_path / "two" / "0150-new.py").write_bytes(b"new")
    else:
        (tmp_path / "two" / "0150.py").unlink()
    one = chunks(take(shop, tmp_path / "one"))
    two = chunks(take(shop, tmp_path / "two"))
    assert len(set(two.values()) - set(one.values())) <= 2
    assert two[b"0000.py"] == one[b"0000.py"] and two[b"0299.py"] == one[b"0299.py"]


def test_the_same_neighbours_give_the_same_chunks_elsewhere(shop: Shop, tmp_path: Path) -> None:
    """In another tree, behind other files: after a group's end they are grouped alike."""
    small_files(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two" / "z")
    small_files(tmp_path / "two" / "a", 50, seed=2)
    one = set(chunks(take(shop, tmp_path / "one")).values())
    before = len(shop.rows())
    taken = take(shop, tmp_path / "two")
    z = {taken.tree.extents(entry.ino)[0].key for entry in taken.tree.readdir(path_of(taken.tree, b"z"))}
    assert len(z - one) <= 3
    assert len(shop.rows()) - before < 20


@pytest.mark.parametrize("value", ["off", "lz4", "gzip-6", "zstd-19", "zstd-fast-10"])
def test_every_codec_and_several_record_sizes(shop: Shop, tmp_path: Path, value: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    rng = random.Random(3)
    for number, size in enumerate((0, 1, 32 << 10, (32 << 10) + 1, 1 << 20, 3_000_001)):
        (root / str(number)).write_bytes(rng.randbytes(size // 2) + b"text " * (size // 10))
    for recordsize in (512, 4096, 1 << 17, 1 << 20, 1 << 24):
        taken = take(shop, root, compression=value, recordsize=recordsize)
        assert of_tree(taken.tree) == of_directory(root)
    assert shop.check() > 10


# -- failures -------------------------------------------------------------------------------------------------------


@needs_root
def test_a_disk_that_fills_up(small_disk: Callable[[int], Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    rng = random.Random(4)
    (root / "first").write_bytes(rng.randbytes(200_000))
    shop = Shop(small_disk(8) / "shop")
    kept = take(shop, root)
    for number in range(40):
        (root / f"{number}").write_bytes(rng.randbytes(400_000))
    with pytest.raises(NoSpace):
        take(shop, root)
    assert of_tree(kept.tree)[b"./first"].size == 200_000
    assert shop.check() > 0
    for number in range(2, 40):
        (root / f"{number}").unlink()
    assert of_tree(take(shop, root).tree) == of_directory(root)
    shop.close()


@needs_root
def test_a_disk_that_fills_up_with_metadata(small_disk: Callable[[int], Path], tmp_path: Path) -> None:
    """What does not fit into memory is sorted on the pool's disk: that can be full too."""
    root = tmp_path / "root"
    root.mkdir()
    for number in range(3000):
        (root / f"{'n' * 200}{number}").touch()
    shop = Shop(small_disk(1) / "shop")
    with pytest.raises(NoSpace):
        take(shop, root, memory=100_000)
    assert shop.check() == 0
    shop.close()


def test_stopping_does_not_wait_for_a_long_file(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, while a worker reads a file of 50 GB: the import ends at once and leaves nothing."""
    root = tmp_path / "root"
    root.mkdir()
    with open(root / "a-long-one", "wb") as file:
        file.truncate(50 << 30)
    (root / "z").write_text("x")
    (root / "folder").mkdir()
    monkeypatch.setattr(directory, "_segments", lambda fd, status: [(0, status.st_size)])
    monkeypatch.setattr(directory, "_SPARSE_LEAST", 1 << 40)
    reading = threading.Event()
    real = os.preadv

    def slow(fd: int, buffers: list[memoryview], position: int) -> int:
        reading.set()
        buffers[0][:8] = position.to_bytes(8, "big")
        return real(fd, buffers, position)

    monkeypatch.setattr(os, "preadv", slow)

    def interrupted(*arguments: object) -> object:
        assert reading.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr(directory._DirectoryImport, "_descend", interrupted)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        take(shop, root)
    assert time.monotonic() - started < 10
    assert threading.active_count() < 10


# -- words ----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=3000))
def test_messages_never_carry_control_bytes(path: bytes) -> None:
    shown = printable(path)
    assert shown.isprintable()
    assert len(shown) < 5000


def test_paths_in_messages() -> None:
    assert printable(b"usr/lib/") == "'usr/lib'"
    assert printable(b"") == "'.'"
    assert printable(b"\xff\x1b[0m\n\xe2\x80\xae") == r"'\xff\x1b[0m\x0a\x202e'"
