"""Making pools and opening them: what is refused, in one line, and what a failure leaves behind: nothing."""

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from lamina.errors import (
    AccessDenied,
    AlreadyExists,
    DamagedData,
    InvalidName,
    LaminaError,
    NotFound,
    PropertyError,
    UnsupportedPool,
)
from lamina.pool import Pool, pool_names, pool_of, registry
from lamina.pool import files as pool_files
from lamina.pool.schema import SCHEMA_VERSION


@pytest.fixture
def made(place: Path) -> Path:
    """The directory of a pool that nobody has open."""
    Pool.create("tank", place / "tank", properties={"compression": "lz4"}).close()
    return place / "tank"


def all_below(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def refused(step: Callable[[], object], kind: type[LaminaError], words: str) -> None:
    """``step`` must fail with one line."""
    with pytest.raises(kind) as caught:
        step()
    assert words in str(caught.value) and "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_made_and_opened_by_name_and_by_path(made: Path, place: Path) -> None:
    assert pool_names() == ["tank"]
    for where in ("tank", str(made), made):
        with Pool.open(where) as pool:
            assert (pool.name, pool.path) == ("tank", made)
            assert pool.get("tank", ["compression"])["compression"].source == "local"
    with pool_of("tank/a/b@c") as pool:
        assert pool.name == "tank"
    assert sorted(os.listdir(place)) == ["known", "tank"]


@pytest.mark.parametrize(
    ("name", "path", "options", "kind", "words"),
    [
        ("tank", "other", {}, AlreadyExists, "cannot create 'tank': pool already exists"),
        ("mirror", "other", {}, InvalidName, "cannot create 'mirror': name is reserved"),
        ("t/x", "other", {}, InvalidName, "invalid character '/' in pool name"),
        ("new", "full", {}, AlreadyExists, "exists and is not empty; name an empty or a new directory"),
        ("new", "tank", {}, AlreadyExists, "holds a pool already; name an empty or a new directory"),
        ("new", "full/file", {}, AlreadyExists, "exists and is not a directory"),
        ("new", "full/file/below", {}, AccessDenied, "not a directory"),
        ("new", "link", {}, AlreadyExists, "exists and is not a directory"),
        ("new", "other", {"properties": {"recordsize": "3"}}, PropertyError, "cannot create 'new': 'recordsize' must"),
        ("new", "other", {"group": "no-such-group"}, NotFound, "group 'no-such-group' does not exist"),
        ("new", "other", {"mode": 0o070}, InvalidName, "mode 70 must be of the form 7xx"),
        ("new", "other/deep", {"mode": 0o4755}, InvalidName, "mode 4755 must be of the form 7xx"),
    ],
)
def test_create_refusals(
    made: Path, place: Path, name: str, path: str, options: dict[str, object], kind: type[LaminaError], words: str
) -> None:
    (place / "full").mkdir()
    (place / "full" / "file").write_text("x")
    (place / "link").symlink_to(place / "full")
    before = all_below(place)
    refused(lambda: Pool.create(name, place / path, **options), kind, words)  # type: ignore[arg-type]
    assert all_below(place) == before
    assert pool_names() == ["tank"]


@pytest.mark.parametrize("step", ["Database.create", "Catalogue.add_dataset", "registry.add", "files.write_marker"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), sqlite3.OperationalError("disk is full")])
@pytest.mark.parametrize("path", ["a/b/new", "empty"])
def test_a_failed_create_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception, path: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    (place / "empty").mkdir()
    (place / "known").mkdir()
    before = all_below(place)
    with monkeypatch.context() as patch:
        patch.setattr(f"lamina.pool.pool.{step}", fail)
        refused(lambda: Pool.create("tank", place / path), LaminaError, "cannot ")
    assert all_below(place) == before
    assert pool_names() == []
    Pool.create("tank", place / path).close()


def test_a_group_that_cannot_be_given_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chown(path: Path, *_: int) -> None:
        raise PermissionError(1, "Operation not permitted", os.fspath(path))

    monkeypatch.setattr(os, "chown", chown)
    refused(lambda: Pool.create("tank", place / "a" / "tank", group="4242"), AccessDenied, "operation not permitted")
    assert all_below(place) == []


def test_of_two_creates_at_once_one_wins(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other comes between the look and the making: it must not take away what the first has made."""
    real = pool_files.absent

    def overtaken(path: Path) -> list[Path]:
        monkeypatch.setattr(pool_files, "absent", real)
        Pool.create("first", place / "same").close()
        return real(path)

    (place / "same").mkdir()
    monkeypatch.setattr(pool_files, "absent", overtaken)
    refused(lambda: Pool.create("second", place / "same"), AlreadyExists, "holds a pool already")
    with Pool.open("first") as pool:
        assert [entry.name for entry in pool.list()] == ["first"]


def test_a_known_pool_that_is_gone_says_what_to_do(made: Path, place: Path) -> None:
    made.rename(place / "elsewhere")
    link = place / "known" / "tank"
    refused(lambda: Pool.open("tank"), NotFound, f"no pool in '{made}'")
    refused(lambda: Pool.create("tank", place / "new"), AlreadyExists, f"remove '{link}' to forget it")
    with Pool.open(place / "elsewhere") as pool:
        assert pool.name == "tank"


def test_names_of_roots_pools_are_everybodys(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under umask 077 too; a user's own registry keeps the user's umask."""
    monkeypatch.delenv("LAMINA_POOLS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    monkeypatch.setattr(registry, "SYSTEM", place / "etc" / "lamina" / "pools")
    before = os.umask(0o077)
    try:
        for uid, known in ((0, registry.SYSTEM), (1000, place / "config" / "lamina" / "pools")):
            monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
            registry.add(f"pool{uid}", place)
            modes = [path.stat().st_mode & 0o777 for path in (known, known.parent)]
            assert modes == [0o755 if uid == 0 else 0o700] * 2
            assert registry.find(f"pool{uid}") == place
        assert pool_names() == ["pool0", "pool1000"]
        registry.remove("pool1000")
        assert pool_names() == ["pool0"]
    finally:
        os.umask(before)


def test_what_is_not_a_pool(place: Path) -> None:
    (place / "dir").mkdir()
    refused(lambda: Pool.open("nosuch"), NotFound, "cannot open 'nosuch': no such pool")
    refused(lambda: Pool.open("no\x1bsuch"), NotFound, "cannot open 'no\\x1bsuch': no such pool")
    refused(lambda: Pool.open(place / "dir"), NotFound, "'pool.json' is not there")
    refused(lambda: Pool.open(place / "d\x1b\n"), NotFound, "'pool.json' is not there")
    refused(lambda: Pool.open(""), NotFound, "cannot open '': no such pool")


def change_marker(made: Path, **fields: object) -> None:
    data = json.loads((made / "pool.json").read_text())
    (made / "pool.json").write_text(json.dumps(data | fields))


def test_a_newer_pool_is_refused(made: Path) -> None:
    change_marker(made, version=2)
    refused(lambda: Pool.open("tank"), UnsupportedPool, "of format version 2, this lamina knows up to 1")


def test_unknown_features_are_refused(made: Path) -> None:
    change_marker(made, features=["warp\x1b[1m", "ads"])
    refused(lambda: Pool.open("tank", write=True), UnsupportedPool, "does not know: ads, warp\\x1b[1m")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "7", "\udcff", "{}", '{"format": "other"}', "[" * 100_000),
        '{"format": "lamina pool", "version": 1}',
        '{"format": "lamina pool", "version": "x"}',
        '{"format": "lamina pool", "version": 1, "features": [], "name": "t\\u001b[1m", "guid": 1, "mode": "700"}',
        '{"format": "lamina pool", "version": 1, "features": [], "name": "tank", "guid": 1, "mode": "rwx"}',
        '{"format": "lamina pool", "version": 1, "features": 3, "name": "tank", "guid": 1, "mode": "700"}',
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_damaged_marker_is_refused(made: Path, text: str) -> None:
    (made / "pool.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(lambda: Pool.open("tank"), UnsupportedPool, "cannot open 'tank': ")


def test_a_marker_that_cannot_be_read_is_refused(made: Path) -> None:
    (made / "pool.json").unlink()
    (made / "pool.json").mkdir()
    refused(lambda: Pool.open("tank"), UnsupportedPool, "cannot be read")


def test_a_missing_catalogue(made: Path) -> None:
    for path in made.glob("catalogue.db*"):
        path.unlink()
    for write in (False, True):
        refused(lambda write=write: Pool.open("tank", write=write), DamagedData, "'catalogue.db' is missing")  # type: ignore[misc]
    assert not list(made.glob("catalogue.db*"))


@pytest.mark.parametrize("content", [b"", b"no database at all" * 400])
def test_a_damaged_catalogue(made: Path, content: bytes) -> None:
    (made / "catalogue.db").write_bytes(content)
    refused(lambda: Pool.open("tank"), LaminaError, "cat")


def test_a_newer_catalogue_is_refused(made: Path) -> None:
    with closing(sqlite3.connect(made / "catalogue.db")) as database:
        database.execute("PRAGMA user_version = 9")
    words = f"version 9, this lamina knows up to {SCHEMA_VERSION}; use a newer lamina"
    refused(lambda: Pool.open("tank"), UnsupportedPool, words)


def test_opened_for_reading_does_not_write(made: Path) -> None:
    with Pool.open("tank") as pool:
        before = all_below(made)
        refused(lambda: pool.create_dataset("tank/a"), AccessDenied, "open it with write=True")
        refused(lambda: pool.set(["tank"], {"atime": "off"}), AccessDenied, "open it with write=True")
        refused(lambda: pool.import_image(made.parent, "tank/a@b"), AccessDenied, "open it with write=True")
        assert all_below(made) == before
        assert pool.get("tank", ["atime"])["atime"].value == "on"
