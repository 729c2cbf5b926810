"""What of a file system is left after a power loss: a model with the promises of POSIX and no more.

What was written to a file is safe once that file was synced, a name once its directory was. Of everything else each
single change may be there or not, in any combination; a write may be there in part, cut at sectors of 512 bytes, and
where it lengthens its file, at any byte, or as zeros. A rename happens whole or not at all.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

SECTOR = 512


@dataclass(frozen=True, slots=True)
class Create:
    """A new name in a directory: a file, or a directory."""

    parent: int
    name: str
    node: int
    directory: bool = False


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name is gone."""

    parent: int
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    """A name takes the place of another in the same directory."""

    parent: int
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset."""

    node: int
    offset: int
    data: bytes

    def __repr__(self) -> str:
        return f"Write(node={self.node}, offset={self.offset}, {len(self.data)} bytes)"


@dataclass(frozen=True, slots=True)
class Truncate:
    """A new size."""

    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Allocate:
    """Room up to an end; the file is at least as long from then on."""

    node: int
    end: int


@dataclass(frozen=True, slots=True)
class Punch:
    """A range reads as zeros."""

    node: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Sync:
    """All that was done to a file, or to the names in a directory, is safe."""

    node: int


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A sync failed: the kernel has dropped what was not on disk, and no later sync brings it back (fsync(2))."""

    node: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A command has returned: what it did has to stay."""

    step: int


DataOp = Write | Truncate | Allocate | Punch
NameOp = Create | Unlink | Rename
Op = DataOp | NameOp | Sync | Spoilt | Mark


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file; those up to ``size`` that ``data`` does not have are zeros."""

    data: bytes = b""
    size: int = 0

    def digest(self) -> int:
        """The same for the same bytes."""
        return xxhash.xxh3_64_intdigest(self.data.rstrip(b"\0") + self.size.to_bytes(8, "little"))


@dataclass
class _File:
    safe: Content = Content()
    pending: list[DataOp] = field(default_factory=list)
    lost: "list[DataOp | _Certain]" = field(default_factory=list)
    """Changes that a failed sync may have dropped: there or not, whatever comes after."""


@dataclass
class _Directory:
    safe: dict[str, int] = field(default_factory=dict)
    pending: list[NameOp] = field(default_factory=list)


@dataclass(frozen=True)
class Image:
    """Files and directories by path below the root."""

    files: dict[str, Content]
    directories: list[str]

    def digest(self) -> int:
        """The same for the same files."""
        digest = xxhash.xxh3_64()
        for name in sorted(self.directories):
            digest.update(name.encode() + b"/")
        for name in sorted(self.files):
            digest.update(name.encode() + self.files[name].digest().to_bytes(8, "little"))
        return digest.intdigest()

    def write(self, root: Path) -> None:
        """Make them real below ``root``, which is there and empty."""
        for name in sorted(self.directories):
            (root / name).mkdir()
        for name, content in self.files.items():
            with open(root / name, "wb", buffering=0) as file:
                file.write(content.data)
                file.truncate(content.size)


class Machine:
    """Follows a list of changes; gives what may be left if the power goes at that moment."""

    ROOT = 0

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._directories: dict[int, _Directory] = {self.ROOT: _Directory()}

    def load(self, root: Path, numbers: dict[str, int]) -> None:
        """Take what lies below ``root`` for safe; ``numbers`` gives the node of each path."""
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if name not in numbers:
                continue
            if path.is_dir():
                self._directories[numbers[name]] = _Directory()
            else:
                data = path.read_bytes()
                self._files[numbers[name]] = _File(Content(data.rstrip(b"\0"), len(data)))
            parent, _, last = name.rpartition("/")
            self._directories[numbers[parent] if parent else self.ROOT].safe[last] = numbers[name]

    def apply(self, op: Op) -> None:
        """Go on by one change."""
        match op:
            case Create(parent, _, node, directory):
                self._directories[parent].pending.append(op)
                if directory:
                    self._directories[node] = _Directory()
                else:
                    self._files[node] = _File()
            case Unlink(parent) | Rename(parent):
                self._directories[parent].pending.append(op)
            case Write(node) | Truncate(node) | Allocate(node) | Punch(node):
                self._files[node].pending.append(op)
            case Sync(node) if node in self._directories:
                directory_ = self._directories[node]
                directory_.safe = _named(directory_.safe, directory_.pending)
                directory_.pending = []
            case Sync(node):
                file = self._files[node]
                if not file.lost:
                    file.safe = _changed(file.safe, file.pending)
                else:
                    # What is written after a failed sync lies over what may be missing below it.
                    file.lost += [_Certain(change) for change in file.pending]
                file.pending = []
            case Spoilt(node):
                if node in self._files:
                    self._files[node].lost += self._files[node].pending
                    self._files[node].pending = []
            case Mark():
                pass

    def unsafe(self) -> int:
        """How many changes are not safe yet."""
        files = sum(len(f.pending) + sum(not isinstance(c, _Certain) for c in f.lost) for f in self._files.values())
        return files + sum(len(directory.pending) for directory in self._directories.values())

    def left(self, choose: "Choice") -> Image:
        """One of the states that may be left."""
        contents: dict[int, Content] = {}
        files: dict[str, Content] = {}
        directories: list[str] = []
        below = [("", self.ROOT)]
        while below:
            prefix, number = below.pop()
            directory = self._directories[number]
            for name, node in sorted(_named(directory.safe, choose.names(directory.pending)).items()):
                if node in self._directories:
                    directories.append(prefix + name)
                    below.append((f"{prefix}{name}/", node))
                    continue
                if node not in contents:
                    contents[node] = self._content(self._files[node], choose)
                files[prefix + name] = contents[node]
        return Image(files, directories)

    @staticmethod
    def _content(file: _File, choose: "Choice") -> Content:
        content = file.safe
        for change in file.lost:
            if isinstance(change, _Certain):
                content = _changed(content, [change.change])
            else:
                content = _changed(content, choose.data([change], content.size))
        for change in file.pending:
            content = _changed(content, choose.data([change], content.size))
        return content


@dataclass(frozen=True, slots=True)
class _Certain:
    """A change that was synced after one that may be missing."""

    change: DataOp


class Choice:
    """Which of the unsafe changes are there."""

    def names(self, pending: list[NameOp]) -> list[NameOp]:
        """Those of the changes of names that are there."""
        raise NotImplementedError

    def data(self, pending: list[DataOp], size: int) -> list[DataOp]:
        """What is there of changes of a file that is ``size`` bytes long before them."""
        raise NotImplementedError


class Nothing(Choice):
    """Whatever was not synced is gone."""

    def names(self, pending: list[NameOp]) -> list[NameOp]:
        return []

    def data(self, pending: list[DataOp], size: int) -> list[DataOp]:
        return []


class Everything(Choice):
    """All of it is there: the process was killed, the machine runs."""

    def names(self, pending: list[NameOp]) -> list[NameOp]:
        return pending

    def data(self, pending: list[DataOp], size: int) -> list[DataOp]:
        return pending


class Chance(Choice):
    """Each change is there, torn, or not."""

    def __init__(self, generator: random.Random) -> None:
        self._random = generator
        self._there = generator.choice((0.1, 0.5, 0.9))
        self._torn = generator.choice((0.0, 0.3, 0.8))
        self._ordered = generator.random() < 0.3
        """As file systems with a journal do it: of the names, all up to some moment."""

    def names(self, pending: list[NameOp]) -> list[NameOp]:
        if self._ordered:
            return pending[: self._random.randint(0, len(pending))]
        return [change for change in pending if self._random.random() < self._there]

    def data(self, pending: list[DataOp], size: int) -> list[DataOp]:
        found: list[DataOp] = []
        for change in pending:
            if isinstance(change, Write) and self._random.random() < self._torn:
                found += self._tear(change, size)
            elif isinstance(change, Punch) and self._random.random() < self._torn:
                found += self._part(change)
            elif self._random.random() < self._there:
                found.append(change)
        return found

    def _tear(self, write: Write, size: int) -> list[DataOp]:
        lengthens = write.offset + len(write.data) > size
        way = self._random.choice(("begin", "end", "sectors", "byte", "zeros") if lengthens else ("begin", "sectors"))
        if way == "byte":
            return [Write(write.node, write.offset, write.data[: self._random.randint(0, len(write.data))])]
        if way == "zeros":
            return [Allocate(write.node, write.offset + len(write.data))]
        pieces = _sectors(write)
        if way == "begin":
            return list(pieces[: self._random.randint(0, len(pieces))])
        if way == "end":
            return list(pieces[self._random.randint(0, len(pieces)) :])
        return [piece for piece in pieces if self._random.random() < 0.5]

    def _part(self, punch: Punch) -> list[DataOp]:
        pages = range(punch.offset, punch.offset + punch.length, 4096)
        return [Punch(punch.node, page, 4096) for page in pages if self._random.random() < 0.5]


def _sectors(write: Write) -> list[Write]:
    """A write as the sectors that it touches."""
    pieces = []
    at = 0
    while at < len(write.data):
        end = min(at + SECTOR - (write.offset + at) % SECTOR, len(write.data))
        pieces.append(Write(write.node, write.offset + at, write.data[at:end]))
        at = end
    return pieces


def _named(names: dict[str, int], changes: list[NameOp]) -> dict[str, int]:
    """Names after changes; one that rests on a change that is missing does nothing."""
    if not changes:
        return names
    names = dict(names)
    for change in changes:
        match change:
            case Create(_, name, node):
                names[name] = node
            case Unlink(_, name):
                names.pop(name, None)
            case Rename(_, old, new) if old in names:
                names[new] = names.pop(old)
            case _:
                pass
    return names


def _changed(content: Content, changes: list[DataOp]) -> Content:
    if not changes:
        return content
    data, size = bytearray(content.data), content.size
    for change in changes:
        match change:
            case Write(_, offset, new):
                if len(data) < offset:
                    data += bytes(offset - len(data))
                data[offset : offset + len(new)] = new
                size = max(size, offset + len(new))
            case Truncate(_, length):
                del data[length:]
                size = length
            case Allocate(_, end):
                size = max(size, end)
            case Punch(_, offset, length):
                end = min(offset + length, len(data))
                if end > offset:
                    data[offset:end] = bytes(end - offset)
    return Content(bytes(data), size)


def choices(generator: random.Random, count: int) -> Iterator[Choice]:
    """The two extremes and ``count`` by chance."""
    yield Nothing()
    yield Everything()
    for _ in range(count):
        yield Chance(generator)


def numbered(root: Path) -> dict[str, int]:
    """A number for each path that is below ``root``, as ``Machine.load`` takes them."""
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))
    return {name: number for number, name in enumerate(paths, Machine.ROOT + 1) if not name.endswith("-shm")}
