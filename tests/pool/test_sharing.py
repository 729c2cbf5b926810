"""Pools of a group: its members read while others write, and cannot write; strangers are told whose it is."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import AccessDenied, LaminaError, NotFound
from lamina.pool import Pool
from tests.pool.processes import run
from tests.pool.trees import Library, Source, blob, write_tree

GROUP, MEMBER, WRITER, STRANGER = 54321, 54322, 54323, 54324

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other users can be played by root only")


@pytest.fixture
def open_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that everybody can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="lamina-shared-") as name:
        place = Path(name)
        place.chmod(0o755)
        monkeypatch.setenv("LAMINA_POOLS", str(place / "known"))
        yield place


@pytest.fixture(params=[0o022, 0o077], ids=["umask-022", "umask-077"])
def shared(open_place: Path, request: pytest.FixtureRequest, source: Source) -> Iterator[Pool]:
    """A pool whose group may read, made under both kinds of umask; closed pools leave it as they should."""
    (open_place / "known").mkdir()
    before = os.umask(request.param)
    try:
        with Pool.create("tank", open_place / "new" / "tank", group=str(GROUP), mode=0o750) as pool:
            pool.import_image(source.path, "tank/i@1")
            pool.set(["tank"], {"compression": "lz4"})
            read_all()  # what is imported lazily is there before other users need it
            yield pool
    finally:
        os.umask(before)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_tree(tmp_path_factory.mktemp("shared") / "tree", {"a/f": blob(1, 200_000), "b": blob(4, 9_000)})


def become(uid: int, *groups: int) -> None:
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def as_user(uid: int, groups: tuple[int, ...], function: Callable[..., Any], *arguments: Any) -> Any:
    def act() -> Any:
        become(uid, *groups)
        return function(*arguments)

    return run(act).result()


def read_all() -> tuple[list[str], dict[str, Any], bytes]:
    """List, get, read a tree: what a member may do."""
    with Pool.open("tank") as pool:
        entries = pool.list(types=("filesystem", "snapshot"))
        values = pool.get_many(entries, None)
        tree = pool.tree("tank/i@1")
        folder = tree.lookup(1, b"a")
        assert folder is not None
        file = tree.lookup(folder.ino, b"f")
        assert file is not None
        pool.space()
        pool.status()
        used = {entry.name: value["used"].value for entry, value in zip(entries, values, strict=True)}
        return [entry.name for entry in entries], used, tree.read(file.ino, 0, 1 << 20)


def write_anything(how: str) -> str:
    """What a member may not do; the refusal."""
    try:
        if how == "open":
            Pool.open("tank", write=True)
        with Pool.open("tank") as pool:
            if how == "create":
                pool.create_dataset("tank/x")
            elif how == "destroy":
                pool.destroy("tank/i@1")
            elif how == "import":
                pool.import_image("/etc/hostname", "tank/i@2")
            elif how == "set":
                pool.set(["tank"], {"atime": "off"})
    except AccessDenied as error:
        return str(error)
    return "no refusal"


def test_members_read(shared: Pool) -> None:
    names, used, data = as_user(MEMBER, (GROUP,), read_all)
    assert names == ["tank", "tank/i", "tank/i@1"]
    assert used["tank"] == shared.get("tank", ["used"])["used"].value
    assert data == blob(1, 200_000)
    shared.close()
    for path in (shared.path, *shared.path.rglob("*")):
        assert path.stat().st_gid == GROUP, path
        assert path.stat().st_mode & 0o027 == 0o000, path
        assert path.stat().st_mode & 0o040, path
    assert as_user(MEMBER, (GROUP,), read_all) == (names, used, data)


def test_members_do_not_write(shared: Pool) -> None:
    before = sorted(shared.path.rglob("*"))
    for how in ("open", "create", "destroy", "import", "set"):
        words = as_user(MEMBER, (GROUP,), write_anything, how)
        assert words.startswith("cannot write to pool 'tank': permission denied; it belongs to root, and group ")
        assert words.endswith(" may read it") and "\n" not in words
    assert sorted(shared.path.rglob("*")) == before


def test_strangers_are_told_whose_it_is(shared: Pool) -> None:
    def look(where: str | Path) -> str:
        try:
            Pool.open(where)
        except LaminaError as error:
            return f"{type(error).__name__}: {error}"
        return "opened"

    for where in ("tank", shared.path):
        words = as_user(STRANGER, (), look, where)
        assert words.startswith(
            f"AccessDenied: cannot open '{where}': permission denied; it belongs to root, and group "
        )


def test_a_private_pool_is_for_its_owner(open_place: Path) -> None:
    (open_place / "known").mkdir(mode=0o755)
    Pool.create("tank", open_place / "tank").close()
    for path in ((open_place / "tank"), *(open_place / "tank").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    with pytest.raises(AccessDenied, match=r"permission denied; it belongs to root$"):
        as_user(STRANGER, (GROUP,), read_all)


def test_members_read_while_others_write(shared: Pool, library: Library) -> None:
    """Whatever a writer is about, in whatever state it left the log."""

    def reading() -> int:
        become(MEMBER, GROUP)
        ends = time.monotonic() + 1.5
        rounds = 0
        while time.monotonic() < ends:
            try:
                names, used, data = read_all()
            except NotFound:
                continue  # destroyed between being listed and being asked for
            assert data == blob(1, 200_000) and set(used) == set(names)
            rounds += 1
        return rounds

    child = run(reading)
    ends = time.monotonic() + 1.2
    number = 0
    while time.monotonic() < ends:
        number += 1
        with Pool.open("tank", write=True) as pool:
            pool.import_image(library[1 + number % 5].path, f"tank/j@{number}")
            pool.rename(f"tank/j@{number}", f"r{number}")
            pool.destroy(f"tank/j@r{number}")
            pool.create_dataset(f"tank/d{number}")
            pool.rename(f"tank/d{number}", f"tank/e{number}")
    assert child.result() > 3


def test_members_read_after_a_writer_was_killed(shared: Pool) -> None:
    """Its log stays behind, and nobody who may write has been there since."""

    def write_and_die() -> None:
        pool = Pool.open("tank", write=True)
        pool.create_dataset("tank/late", {"user:x": "y" * 5000})
        os.kill(os.getpid(), 9)

    shared.close()
    assert run(write_and_die).died() == 9
    assert (shared.path / "catalogue.db-wal").stat().st_size > 0
    names, _, _ = as_user(MEMBER, (GROUP,), read_all)
    assert "tank/late" in names


def test_members_of_a_writing_group_write(open_place: Path) -> None:
    """Three users import one after the other, also while another is at it; whoever closes last, all can go on."""
    (open_place / "known").mkdir()
    source = write_tree(open_place / "tree", {"a/f": blob(1, 200_000), "b": blob(4, 9_000)})

    def take_in(uid: int, name: str) -> None:
        os.umask(0o077)
        if uid:
            become(uid, GROUP)
        with Pool.open("tank", write=True) as pool:
            pool.import_image(source.path, f"tank/{name}@1")
            assert not pool.verify(f"tank/{name}@1", source.path)

    Pool.create("tank", open_place / "tank", group=str(GROUP), mode=0o770).close()
    take_in(0, "i")
    read_all()
    for number in range(3):
        for child in [run(take_in, uid, f"u{uid}-{number}") for uid in (MEMBER, WRITER, 0)]:
            child.result()
    with Pool.open("tank") as pool:
        assert len(pool.images()) == 10
        for image in pool.images():
            assert not pool.verify(image.name, source.path)
