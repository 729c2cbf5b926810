"""The named files that an image lies in: a directory's, or those of a tar that can be sought in."""

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from lamina.errors import OciError, SourceError
from lamina.ingest import tar
from lamina.oci.incoming.blobs import read_blob
from lamina.pool.names import printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_MEMBERS = 100_000
"""Members of an archive of images; a root file system that was taken for one may have more."""

_MAX_LINKS = 16
"""Links that are followed from one name."""


class Files(Protocol):
    """Files by path, such as ``blobs/sha256/…``. ``what`` is what they lie in, for messages."""

    what: str

    def has(self, path: str) -> bool:
        """Whether there is such a file."""

    def size(self, path: str) -> int:
        """Its bytes. Raises ``OciError`` where it is missing."""

    def open(self, path: str) -> BinaryIO:
        """Its bytes from the beginning. Raises ``OciError`` where it is missing."""

    def close(self) -> None:
        """Done with all of them."""


def read_file(files: Files, path: str, limit: int, digest: str | None = None, size: int | None = None) -> bytes:
    """A small file whole, verified where its digest or size is known. Raises ``OciError``."""
    return read_blob(files.open(path), digest, size, f"'{printable(path)}' of {files.what}", limit)


def clean_path(path: str, what: str) -> str:
    """A path below the root of ``what`` without needless parts. Raises ``OciError`` for one that leads out of it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\0" in path or not parts:
        raise OciError(f"{what} refers to '{printable(path[:200])}', which does not lie in it")
    return "/".join(parts)


class Links:
    """The symbolic and hard links of an archive, followed within it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._targets: dict[str, str] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._targets

    def add(self, path: str, target: str, symbolic: bool) -> None:
        """``target`` is as it stands in the archive: that of a symbolic link is relative to the link's directory."""
        above = path.rpartition("/")[0] if symbolic else ""
        self._targets[path] = target if target.startswith("/") else f"{above}/{target}"

    def resolve(self, path: str) -> str:
        """What a path leads to. Raises ``OciError`` where that is outside, or for links that go round."""
        path = clean_path(path, self._what)
        for _ in range(_MAX_LINKS):
            target = self._targets.get(path)
            if target is None:
                return path
            parts: list[str] = []
            for part in target.split("/"):
                if part == ".." and not parts:
                    raise OciError(f"'{printable(path)}' of {self._what} is a link that leads out of it")
                if part == "..":
                    parts.pop()
                elif part not in ("", "."):
                    parts.append(part)
            path = "/".join(parts)
        raise OciError(f"'{printable(path)}' of {self._what} is a link that leads nowhere")


def member_path(member: tar.Member, what: str) -> str:
    """The path of a member of an archive of images; empty for its root. Raises ``OciError`` for one that leads out."""
    name = member.name.decode("utf-8", "surrogateescape")
    if not [part for part in name.split("/") if part not in ("", ".")] and not name.startswith("/"):
        return ""
    return clean_path(name, what)


def named_by_content(path: str) -> str | None:
    """The digest in the path of a file that is named by its content: the blob's, in some archives the diff ID."""
    name = path.rpartition("/")[2].removeprefix("sha256:").removesuffix(".gz").removesuffix(".tar")
    if len(name) == 64 and set(name) <= set("0123456789abcdef"):
        return f"sha256:{name}"
    return None


class DirectoryFiles:
    """The files of a directory. See ``Files``."""

    def __init__(self, root: Path) -> None:
        self.what = f"'{printable(str(root))}'"
        self._root = root

    def has(self, path: str) -> bool:
        """See ``Files``."""
        return (self._root / clean_path(path, self.what)).is_file()

    def size(self, path: str) -> int:
        """See ``Files``."""
        with self.open(path) as stream:
            return os.fstat(stream.fileno()).st_size

    def open(self, path: str) -> BinaryIO:
        """See ``Files``."""
        path = clean_path(path, self.what)
        try:
            # Not to wait for a writer, should it be a FIFO.
            descriptor = os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise OciError(f"{self.what} has no '{printable(path)}'") from None
        except OSError as error:
            raise OciError(f"cannot read '{printable(path)}' of {self.what}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OciError(f"'{printable(path)}' of {self.what} is not a regular file")
        return io.FileIO(descriptor)

    def close(self) -> None:
        """See ``Files``."""


class ArchiveFiles:
    """The members of an uncompressed tar on disk, found by its headers alone. See ``Files``. Safe for threads."""

    def __init__(self, path: Path) -> None:
        """Raises ``OciError``."""
        self.what = f"'{printable(str(path))}'"
        try:
            self._stream = io.FileIO(path)
        except OSError as error:
            raise OciError(f"cannot read {self.what}: {error.strerror}") from None
        self._members: dict[str, tuple[int, int]] = {}
        self._links = Links(self.what)
        try:
            self._scan()
        except BaseException as error:
            self._stream.close()
            if isinstance(error, SourceError):
                raise OciError(f"{self.what}: {error}") from error
            raise

    def _scan(self) -> None:
        length = os.fstat(self._stream.fileno()).st_size
        buffered = io.BufferedReader(self._stream, 4096)

        def skip(count: int) -> None:
            if buffered.seek(count, os.SEEK_CUR) > length:
                raise OciError(f"{self.what} is cut short: it ends inside a member")

        reader = tar.TarReader(buffered, layer=True, skip=skip)
        seen: set[str] = set()
        for number, member in enumerate(reader):
            if number >= MAX_MEMBERS:
                raise OciError(f"{self.what} has more than {MAX_MEMBERS} members: it is no archive of images")
            path = member_path(member, self.what)
            if member.type == tar.DIRECTORY or not path:
                continue
            if path in seen and named_by_content(path) is None:
                raise OciError(f"{self.what} has '{printable(path)}' twice: it could be read in two ways")
            seen.add(path)
            if member.type in (tar.SYMLINK, tar.HARD_LINK):
                link = member.link.decode("utf-8", "surrogateescape")
                self._links.add(path, link, member.type == tar.SYMLINK)
            elif member.type == tar.REGULAR:
                if member.segments not in ([(0, member.size)], []):
                    raise OciError(f"'{printable(path)}' of {self.what} is stored as a sparse file")
                self._members[path] = reader.position, member.size
        buffered.detach()

    def _find(self, path: str) -> tuple[int, int]:
        found = self._members.get(self._links.resolve(path))
        if found is None:
            raise OciError(f"{self.what} has no '{printable(path)}'")
        return found

    def has(self, path: str) -> bool:
        """See ``Files``."""
        return self._links.resolve(path) in self._members

    def size(self, path: str) -> int:
        """See ``Files``."""
        return self._find(path)[1]

    def open(self, path: str) -> BinaryIO:
        """See ``Files``."""
        return _Section(self._stream.fileno(), *self._find(path))  # type: ignore[return-value]

    def close(self) -> None:
        """See ``Files``."""
        self._stream.close()


class _Section(io.RawIOBase):
    """A part of a file, read without moving the file's own position."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._end = offset + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        if self.closed:
            raise ValueError("it was closed")
        count = os.preadv(self._descriptor, [view[: min(len(view), self._end - self._offset)]], self._offset)
        self._offset += count
        return count
