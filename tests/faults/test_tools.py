"""The tools of these tests: what they say survives does, and what breaks the promises of the store is caught."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.store.database import Database
from tests.faults.crashes import judge, record, states
from tests.faults.scenarios import scenarios
from tests.faults.survival import (
    Allocate,
    Chance,
    Content,
    Create,
    Everything,
    Machine,
    Nothing,
    Op,
    Punch,
    Rename,
    Spoilt,
    Sync,
    Truncate,
    Unlink,
    Write,
)
from tests.faults.tap import Tap


def after(ops: list[Op]) -> Machine:
    machine = Machine()
    for op in ops:
        machine.apply(op)
    return machine


def possible(ops: list[Op], tries: int = 600) -> set[tuple[tuple[str, bytes], ...]]:
    """All that may be left, by chance, as (name, bytes)."""
    machine = after(ops)
    found = set()
    for seed in range(tries):
        files = machine.left(Chance(random.Random(seed))).files
        found.add(tuple((name, whole(content)) for name, content in sorted(files.items())))
    return found


def whole(content: Content) -> bytes:
    return content.data.ljust(content.size, b"\0")


A: list[Op] = [Create(0, "a", 1), Sync(0), Write(1, 0, b"old"), Sync(1)]


def test_what_was_synced_stays() -> None:
    assert possible(A) == {(("a", b"old"),)}
    assert possible([Create(0, "a", 1), Write(1, 0, b"x"), Sync(1)]) == {(), (("a", b"x"),)}
    assert possible([Create(0, "a", 1), Sync(0)]) == {(("a", b""),)}


def test_writes_may_be_lost_torn_or_out_of_order() -> None:
    left = {files[0][1] for files in possible([*A, Write(1, 0, b"N"), Write(1, 2, b"wer")])}
    assert left >= {b"old", b"Nld", b"olwer", b"Nlwer", b"olw", b"old\0\0"}
    assert all(len(data) <= 5 and data[1:2] == b"l" for data in left)
    sectors: list[Op] = [Create(0, "a", 1), Sync(0), Write(1, 0, bytes(2048)), Sync(1), Write(1, 0, b"\1" * 2048)]
    torn = {files[0][1] for files in possible(sectors)}
    assert all(len(data) == 2048 for data in torn)
    assert {tuple(data[at] for at in range(0, 2048, 512)) for data in torn} >= {
        (0, 1, 0, 1),
        (1, 1, 0, 0),
        (0, 0, 0, 1),
    }
    assert all(len({*data[at : at + 512]}) == 1 for data in torn for at in range(0, 2048, 512))


def test_sizes_and_holes() -> None:
    assert {files[0][1] for files in possible([*A, Truncate(1, 1)])} == {b"old", b"o"}
    assert {files[0][1] for files in possible([*A, Allocate(1, 5)])} == {b"old", b"old\0\0"}
    two: list[Op] = [Create(0, "a", 1), Sync(0), Write(1, 0, b"x" * 8192), Sync(1), Punch(1, 0, 8192)]
    pages = {tuple(data[at] for at in (0, 4096)) for ((_, data),) in possible(two)}
    assert pages == {(120, 120), (0, 120), (120, 0), (0, 0)}


def test_names() -> None:
    moved: list[Op] = [*A, Create(0, "b", 2), Write(2, 0, b"new"), Sync(2), Rename(0, "b", "a")]
    assert possible(moved) == {
        (("a", b"old"),),
        (("a", b"old"), ("b", b"new")),
        (("a", b"new"),),
    }
    assert possible([*moved, Sync(0)]) == {(("a", b"new"),)}
    assert possible([*A, Unlink(0, "a")]) == {(), (("a", b"old"),)}
    below: list[Op] = [Create(0, "d", 1, True), Create(1, "f", 2), Write(2, 0, b"x"), Sync(2), Sync(1)]
    assert possible(below) == {(), (("d/f", b"x"),)}


def test_a_failed_sync_leaves_doubt_for_ever() -> None:
    machine = after([*A, Write(1, 0, b"N"), Spoilt(1), Write(1, 2, b"W"), Sync(1)])
    assert machine.unsafe() == 1
    assert whole(machine.left(Nothing()).files["a"]) == b"olW"
    assert whole(machine.left(Everything()).files["a"]) == b"NlW"


def test_a_tap_writes_down_what_happens(tmp_path: Path) -> None:
    """Played back whole, the log gives the files as they are."""
    generator = random.Random(1)
    (tmp_path / "there").write_bytes(b"before")
    tap = Tap(tmp_path.resolve())
    disk = tap.disk
    disk.mkdir(tmp_path / "d")
    for number in range(40):
        path = tmp_path / "d" / f"f{number % 7}"
        fd = disk.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if number % 5 == 0 else 0))
        disk.write(fd, [generator.randbytes(3000), b"", generator.randbytes(2000)], generator.randrange(9000))
        match number % 4:
            case 0:
                disk.truncate(fd, generator.randrange(8000))
            case 1:
                disk.allocate(fd, 0, generator.randrange(1, 20000))
            case 2:
                disk.punch(fd, 0, 4096)
            case _:
                disk.sync(fd)
        disk.close(fd)
        if number % 6 == 5:
            disk.replace(path, tmp_path / "d" / "moved")
        if number % 9 == 8:
            disk.unlink(tmp_path / "d" / "moved")
    machine = Tap(tmp_path.resolve()).machine  # with what is there now
    there = machine.left(Nothing())
    played = Machine()
    played.apply(Create(0, "there", 1))
    played.apply(Write(1, 0, b"before"))
    for op in tap.log:
        played.apply(op)
    assert {name: whole(content) for name, content in played.left(Everything()).files.items()} == {
        name: whole(content) for name, content in there.files.items()
    }


def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.store.backend.LocalAppender.sync", lambda self: None)


def _no_directory_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.tap.TappedDisk.sync_directory", lambda self, path: None)


def _lazy_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Database._open

    def lazy(path: Path, write: bool) -> object:
        connection = opened(path, write)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    monkeypatch.setattr(Database, "_open", staticmethod(lazy))


@pytest.mark.parametrize(
    "mutate, name", [(_no_sync, "create"), (_no_directory_sync, "create"), (_lazy_catalogue, "snapshots")]
)
def test_a_store_that_does_not_sync_is_found_out(
    mutate: Callable[[pytest.MonkeyPatch], None],
    name: str,
    place: Path,
    trees: dict[str, Path],
    small_packs: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test of power losses can fail."""
    mutate(monkeypatch)
    scenario = next(one for one in scenarios() if one.name == name)
    recording = record(scenario, place, trees)
    plain = [state for state in states(recording, random.Random(1), 0) if state.plain]
    assert plain
    wrong = 0
    for state in plain:
        try:
            judge(state, place, random.Random(1))
        except Exception:  # whatever is found first
            wrong += 1
    assert wrong
