"""Between a pool and the system: every call of the store's ``Disk`` and of SQLite's own I/O passes a ``Tap``.

A tap writes down what was changed, for ``survival``, and lets calls fail.
"""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from lamina.store.disk import Buffer, Disk, Target
from tests.faults.survival import (
    Allocate,
    Create,
    Machine,
    Mark,
    Op,
    Punch,
    Rename,
    Spoilt,
    Sync,
    Truncate,
    Unlink,
    Write,
    numbered,
)

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its kind as the ``Disk`` names it, the file, and whether SQLite made it."""

    number: int
    kind: str
    path: str
    sqlite: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """What a call meets: an error, or with ``part`` so much of its work done (and an error only where ``code``)."""

    code: int = 0
    part: float | None = None


Plan = Callable[[Call], Fault | None]
"""Says which calls fail."""


class Tap:
    """What passes below ``root``; paths outside of it are not looked at."""

    def __init__(self, root: Path, plan: Plan | None = None) -> None:
        self.root = root
        self.plan = plan
        self.calls: list[Call] = []
        self.log: list[Op] = []
        self.disk = TappedDisk(self)
        self._lock = threading.RLock()
        self._nodes = numbered(root)
        self.machine = Machine()
        self.machine.load(root, self._nodes)
        self._next = len(list(root.rglob("*"))) + 1
        self._open: dict[int, tuple[str, int]] = {}

    # -- for both layers ------------------------------------------------------------------------------------------

    def name(self, path: Target) -> str | None:
        """The path below the root, or None for one that is not to be looked at."""
        text = os.fspath(path)
        root = f"{self.root}/"
        return text[len(root) :] if text.startswith(root) else None

    def held(self) -> AbstractContextManager[object]:
        """Held while a call changes something, so that the order of the log is that of the changes."""
        return self._lock

    def passing(self, kind: str, path: str | None, sqlite: bool = False) -> Fault | None:
        """To be asked before each call; what it meets."""
        if path is None:
            return None
        with self._lock:
            call = Call(len(self.calls), kind, path, sqlite)
            self.calls.append(call)
            return self.plan(call) if self.plan is not None else None

    def mark(self, step: int) -> None:
        """A command has returned."""
        with self._lock:
            self.log.append(Mark(step))

    def created(self, path: str, *, directory: bool = False) -> None:
        """Note a new file, if there was none of this name."""
        if path.endswith("-shm") or path in self._nodes:
            return
        self._nodes[path] = self._next
        self._next += 1
        self.log.append(Create(*self._place(path), self._nodes[path], directory))

    def written(self, path: str, offset: int, data: bytes) -> None:
        """Note a write."""
        if path in self._nodes:
            self.log.append(Write(self._nodes[path], offset, data))

    def truncated(self, path: str, size: int) -> None:
        """Note a new size."""
        if path in self._nodes:
            self.log.append(Truncate(self._nodes[path], size))

    def allocated(self, path: str, end: int) -> None:
        """Note that a file reaches up to ``end``."""
        if path in self._nodes:
            self.log.append(Allocate(self._nodes[path], end))

    def punched(self, path: str, offset: int, length: int) -> None:
        """Note a hole."""
        if path in self._nodes:
            self.log.append(Punch(self._nodes[path], offset, length))

    def synced(self, path: str, *, failed: bool = False) -> None:
        """Note a sync of a file or a directory."""
        node = Machine.ROOT if path == "" else self._nodes.get(path)
        if node is not None:
            self.log.append(Spoilt(node) if failed else Sync(node))

    def unlinked(self, path: str) -> None:
        """Note that a name is gone."""
        if self._nodes.pop(path, None) is not None:
            self.log.append(Unlink(*self._place(path)))

    def renamed(self, old: str, new: str) -> None:
        """Note a rename."""
        self._nodes[new] = self._nodes.pop(old)
        parent, name = self._place(old)
        self.log.append(Rename(parent, name, self._place(new)[1]))

    def _place(self, path: str) -> tuple[int, str]:
        above, _, name = path.rpartition("/")
        return (self._nodes[above] if above else Machine.ROOT), name


class TappedDisk(Disk):
    """The disk, seen by a tap. A file that was removed is followed no further."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._open: dict[int, str | None] = {}

    def open_files(self) -> list[str | None]:
        """Files that are open."""
        return list(self._open.values())

    def _check(self, kind: str, path: str | None) -> Fault | None:
        fault = self._tap.passing(kind, path)
        if fault is not None and fault.part is None:
            raise OSError(fault.code, os.strerror(fault.code), path)
        return fault

    def open(self, path: Target, flags: int, mode: int = 0o600) -> int:
        name = self._tap.name(path)
        self._check("create" if flags & os.O_CREAT else "open", name)
        with self._tap.held():
            fd = super().open(path, flags, mode)
            self._open[fd] = name
            if name is not None:
                if flags & os.O_CREAT:
                    self._tap.created(name)
                if flags & os.O_TRUNC:
                    self._tap.truncated(name, 0)
        return fd

    def close(self, fd: int) -> None:
        with self._tap.held():
            self._open.pop(fd, None)
            super().close(fd)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        fault = self._check("read", self._open[fd])
        if fault is not None and fault.part is not None:
            length = max(int(length * fault.part), 1)
        return super().read(fd, length, offset)

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        fault = self._check("read", self._open[fd])
        if fault is not None and fault.part is not None:
            # Such reads may be direct: the system cuts them at blocks.
            buffer = buffer[: max(int(len(buffer) * fault.part) // _BLOCK * _BLOCK, _BLOCK)]
        return super().read_into(fd, buffer, offset)

    def write(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        name = self._open[fd]
        fault = self._check("write", name)
        if fault is not None and fault.part is not None:
            data = b"".join(parts)
            parts = [data[: max(int(len(data) * fault.part), 1)]]
        with self._tap.held():
            taken = super().write(fd, parts, offset)
            if name is not None:
                self._tap.written(name, offset, b"".join(parts)[:taken])
        return taken

    def truncate(self, fd: int, size: int) -> None:
        name = self._open[fd]
        self._check("truncate", name)
        with self._tap.held():
            unchanged = os.fstat(fd).st_size == size
            super().truncate(fd, size)
            if name is not None and not unchanged:
                self._tap.truncated(name, size)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        name = self._open[fd]
        self._check("allocate", name)
        with self._tap.held():
            super().allocate(fd, offset, length)
            if name is not None:
                self._tap.allocated(name, offset + length)

    def punch(self, fd: int, offset: int, length: int) -> bool:
        name = self._open[fd]
        fault = self._tap.passing("punch", name)
        if fault is not None:
            if fault.code == errno.EOPNOTSUPP:
                return False
            raise OSError(fault.code, os.strerror(fault.code), name)
        with self._tap.held():
            done = super().punch(fd, offset, length)
            if name is not None and done:
                self._tap.punched(name, offset, length)
        return done

    def sync(self, fd: int) -> None:
        name = self._open[fd]
        fault = self._tap.passing("sync", name)
        with self._tap.held():
            if fault is None:
                super().sync(fd)
            if name is not None:
                self._tap.synced(name, failed=fault is not None)
        if fault is not None:
            raise OSError(fault.code, os.strerror(fault.code))

    def sync_directory(self, path: Target) -> None:
        name = "" if Path(path) == self._tap.root else self._tap.name(path)
        fault = self._tap.passing("sync directory", name)
        with self._tap.held():
            if fault is not None:
                raise OSError(fault.code, os.strerror(fault.code), name)
            super().sync_directory(path)
            if name is not None:
                self._tap.synced(name)

    def replace(self, old: Target, new: Target) -> None:
        names = self._tap.name(old), self._tap.name(new)
        self._check("replace", names[0])
        with self._tap.held():
            super().replace(old, new)
            if names[0] is not None and names[1] is not None:
                self._tap.renamed(names[0], names[1])

    def unlink(self, path: Target) -> None:
        name = self._tap.name(path)
        self._check("unlink", name)
        with self._tap.held():
            super().unlink(path)
            if name is not None:
                self._forget(name)
                self._tap.unlinked(name)

    def _forget(self, name: str) -> None:
        for fd, path in self._open.items():
            if path == name:
                self._open[fd] = None

    def mkdir(self, path: Target) -> None:
        name = self._tap.name(path)
        self._check("mkdir", name)
        with self._tap.held():
            super().mkdir(path)
            if name is not None:
                self._tap.created(name, directory=True)

    def rmdir(self, path: Target) -> None:
        name = self._tap.name(path)
        self._check("rmdir", name)
        with self._tap.held():
            super().rmdir(path)
            if name is not None:
                self._tap.unlinked(name)

    def chmod(self, path: Target | int, mode: int) -> None:
        self._check("chmod", self._named(path))
        super().chmod(path, mode)

    def chown(self, path: Target | int, uid: int, gid: int) -> None:
        self._check("chown", self._named(path))
        super().chown(path, uid, gid)

    def stat(self, path: Target | int) -> os.stat_result:
        self._check("stat", self._named(path))
        return super().stat(path)

    def listdir(self, path: Target) -> list[str]:
        self._check("listdir", self._tap.name(path))
        return super().listdir(path)

    def statvfs(self, path: Target) -> os.statvfs_result:
        self._check("statvfs", self._tap.name(path))
        return super().statvfs(path)

    def _named(self, path: Target | int) -> str | None:
        return self._open.get(path) if isinstance(path, int) else self._tap.name(path)
