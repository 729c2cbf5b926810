"""The disk itself: what stands for the system's calls does what they do, and nothing goes past it."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import AccessDenied, DamagedData, LaminaError, NoSpace
from lamina.fs.spool import ItemSpool
from lamina.store.backend import LocalBackend
from lamina.store.disk import DISK, Disk, read_range, translated, write_range
from tests.faults.scenarios import Bench, commands
from tests.pool.processes import run

PAGE = 4096


class Stingy(Disk):
    """Takes and gives a few bytes at a time, as a disk may."""

    def read(self, fd: int, length: int, offset: int) -> bytes:
        return super().read(fd, min(length, 3), offset)

    def write(self, fd: int, parts: Any, offset: int) -> int:
        return super().write(fd, [b"".join(parts)[:5]], offset)


class Without(Disk):
    """A file system that has no holes, or no room, or other troubles."""

    def __init__(self, code: int) -> None:
        self._code = code

    def punch(self, fd: int, offset: int, length: int) -> bool:
        if self._code == errno.EOPNOTSUPP:
            return False
        raise OSError(self._code, os.strerror(self._code))

    def unlink(self, path: Any) -> None:
        raise OSError(self._code, os.strerror(self._code), path)

    def listdir(self, path: Any) -> list[str]:
        raise OSError(self._code, os.strerror(self._code), path)

    def stat(self, path: Any) -> os.stat_result:
        raise OSError(self._code, os.strerror(self._code), path)


def a_pack(directory: Path, pages: int, disk: Disk = DISK) -> tuple[LocalBackend, bytes]:
    data = os.urandom(pages * PAGE)
    backend = LocalBackend(directory, disk=disk)
    appender = backend.append_to("p", 0)
    appender.append([data])
    appender.sync()
    appender.close()
    return backend, data


def test_short_reads_and_writes_are_gone_on_with(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path, disk=Stingy())
    appender = backend.append_to("p", 0)
    parts = [bytes([n % 251]) * (n % 7) for n in range(3000)]
    appender.append(parts)
    appender.append([b"end"])
    appender.sync()
    appender.close()
    data = b"".join(parts) + b"end"
    assert (tmp_path / "p").read_bytes() == data
    assert backend.read("p", 0, len(data)) == data
    assert backend.read("p", 5, 17) == data[5:22]
    with pytest.raises(DamagedData, match="cut short"):
        backend.read("p", len(data) - 2, 3)
    fd = DISK.open(tmp_path / "q", os.O_RDWR | os.O_CREAT)
    assert write_range(Stingy(), fd, [b"abc", b"", b"defghijkl"], 2) == 14
    assert read_range(Stingy(), fd, 100, 0) == b"\0\0abcdefghijkl"
    DISK.close(fd)


def test_a_write_that_takes_nothing_is_a_full_disk(tmp_path: Path) -> None:
    class Stuck(Disk):
        def write(self, fd: int, parts: Any, offset: int) -> int:
            return 0

    appender = LocalBackend(tmp_path, disk=Stuck()).append_to("p", 0)
    with pytest.raises(NoSpace):
        appender.append([b"x"])


def test_a_hole_gives_space_back_and_touches_nothing_else(tmp_path: Path) -> None:
    backend, data = a_pack(tmp_path, 64)
    before = backend.allocated("p")
    assert before >= 64 * PAGE
    # Whole pages within the range, and no byte outside of it.
    if not backend.punch("p", 10 * PAGE - 5, 20 * PAGE + 9):
        pytest.skip("the file system has no holes")
    wanted = data[: 10 * PAGE] + bytes(20 * PAGE) + data[30 * PAGE :]
    assert (tmp_path / "p").read_bytes() == wanted
    assert backend.read("p", 9 * PAGE, 3 * PAGE) == wanted[9 * PAGE : 12 * PAGE]
    assert backend.size("p") == 64 * PAGE
    assert backend.allocated("p") == before - 20 * PAGE
    # At the end the size stays as well.
    assert backend.punch("p", 60 * PAGE, 4 * PAGE)
    assert backend.size("p") == 64 * PAGE
    assert (tmp_path / "p").read_bytes() == wanted[: 60 * PAGE] + bytes(4 * PAGE)


@pytest.mark.parametrize("offset, length", [(0, 0), (1, PAGE), (PAGE - 1, PAGE), (PAGE, PAGE - 1), (3 * PAGE, 0)])
def test_a_range_without_a_whole_page_stays(tmp_path: Path, offset: int, length: int) -> None:
    backend, data = a_pack(tmp_path, 8)
    assert not backend.punch("p", offset, length)
    assert (tmp_path / "p").read_bytes() == data


def test_a_pack_that_is_open_for_reading_can_have_holes_and_go(tmp_path: Path) -> None:
    backend, data = a_pack(tmp_path, 8)
    assert backend.read("p", 0, 10) == data[:10]
    backend.punch("p", 0, 4 * PAGE)
    assert backend.read("p", 5 * PAGE, 10) == data[5 * PAGE :][:10]
    backend.delete("p")
    backend.delete("p")
    with pytest.raises(DamagedData, match="missing"):
        backend.read("p", 0, 10)
    calls: list[Callable[[], object]] = [
        lambda: backend.punch("p", 0, PAGE),
        lambda: backend.allocated("p"),
        lambda: backend.size("p"),
    ]
    for call in calls:
        with pytest.raises(DamagedData, match="missing"):
            call()


@pytest.mark.parametrize(
    "code, kind",
    [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EPERM, AccessDenied), (errno.EIO, LaminaError)],
)
def test_errors_are_told_in_one_line(tmp_path: Path, code: int, kind: type[LaminaError]) -> None:
    good, data = a_pack(tmp_path, 4)
    backend = LocalBackend(tmp_path, disk=Without(code))
    calls: list[Callable[[], object]] = [
        lambda: backend.punch("p", 0, PAGE),
        lambda: backend.delete("p"),
        backend.list,
        lambda: backend.size("p"),
        lambda: backend.allocated("p"),
    ]
    for call in calls:
        with pytest.raises(kind) as caught:
            call()
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value) and "Errno" not in str(caught.value)
    assert good.read("p", 0, len(data)) == data
    assert "what" in str(translated(OSError(code, os.strerror(code)), "what"))


def test_no_holes_is_no_error(tmp_path: Path) -> None:
    _, data = a_pack(tmp_path, 4)
    assert not LocalBackend(tmp_path, disk=Without(errno.EOPNOTSUPP)).punch("p", 0, 4 * PAGE)
    assert (tmp_path / "p").read_bytes() == data


def test_a_spool_that_cannot_be_read_back(tmp_path: Path) -> None:
    class Failing:
        def seek(self, offset: int) -> None:
            pass

        def read(self, length: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def close(self) -> None:
            pass

    spool = ItemSpool(tmp_path, memory=1)
    spool.add(b"b", b"1")
    spool.add(b"a", b"2")
    assert list(spool.sorted()) == [(b"a", b"2"), (b"b", b"1")]
    spool._runs[0].close()
    spool._runs[0] = Failing()  # type: ignore[call-overload]
    with pytest.raises(LaminaError) as caught:
        list(spool.sorted())
    assert str(tmp_path) in str(caught.value)
    spool.close()


_WATCHED = {
    "open": 0,
    "os.listdir": 0,
    "os.remove": 0,
    "os.rename": 0,
    "os.mkdir": 0,
    "os.rmdir": 0,
    "os.chmod": 0,
    "os.chown": 0,
    "os.truncate": 0,
    "os.link": 1,
    "os.symlink": 1,
    "os.utime": 0,
}
"""Audit events (https://docs.python.org/3/library/audit_events.html), and which argument is the path that matters."""


def around(place: Path, trees: dict[str, Path]) -> list[str]:
    """Run all commands; what reached files of a pool, and not through the disk."""
    found: list[str] = []
    root = f"{place}/"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _WATCHED and watching:
            path = arguments[_WATCHED[event]]
            text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
            frame = sys._getframe(1)
            if text.startswith(root) and frame.f_code.co_filename != sys.modules["lamina.store.disk"].__file__:
                found.append(f"{event} {text[len(root) :]} by {frame.f_code.co_filename}:{frame.f_lineno}")

    watching = False
    sys.addaudithook(hook)
    for command in commands():
        bench = Bench(place / command.name / "tank", DISK, trees)
        bench.path.parent.mkdir()
        for step in (*command.prepared, command.run):
            watching = True
            step(bench)
            watching = False
        for path in (place / "known").iterdir():
            path.unlink()
    return found


def test_nothing_goes_past_it(place: Path, trees: dict[str, Path], small_packs: None) -> None:
    """Files of the pool are opened, changed and listed by nobody else; but what is unnamed and kept by nobody."""
    past: list[str] = run(around, place, trees).result()
    assert any(line.startswith("os.symlink known/tank") for line in past), "nothing was watched"
    assert not [line for line in past if "/tank/tmp" not in line and not line.split()[1].startswith("known")]
