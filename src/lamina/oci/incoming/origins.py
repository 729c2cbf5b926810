"""What the words say that people give as the source of an image, and what is found there."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from lamina.errors import OciError, SourceError, UsageError
from lamina.ingest import tar
from lamina.ingest.unpacked import open_stream
from lamina.oci.incoming.dockerarchive import MANIFEST, DockerArchive
from lamina.oci.incoming.files import ArchiveFiles, DirectoryFiles, Files, named_by_content
from lamina.oci.incoming.layout import INDEX, LAYOUT, Layout
from lamina.oci.incoming.listing import Store
from lamina.oci.incoming.pipes import PeekedStream, PolledStream
from lamina.pool.names import printable

Format = Literal["auto", "dir", "tar", "oci-dir", "oci-archive", "docker-archive"]
FORMATS: tuple[Format, ...] = ("auto", "dir", "tar", "oci-dir", "oci-archive", "docker-archive")

_PEEK = 64 << 10
"""Bytes of an archive that are looked at; its first members tell what it is."""
_DOCUMENTS = (LAYOUT, INDEX, MANIFEST, "repositories")


@dataclass(frozen=True, slots=True)
class RootOrigin:
    """A root file system: a directory or a tar."""

    source: str | BinaryIO
    format: str


@dataclass(frozen=True, slots=True)
class FilesOrigin:
    """Images in files that can be read in any order."""

    files: Files
    format: Format


@dataclass(frozen=True, slots=True)
class StreamOrigin:
    """Images in an archive that passes by once.

    ``source`` is the stream below all others: closing it ends a read that waits. ``what`` names it in messages;
    ``name_hint``: what it was asked for by.
    """

    stream: BinaryIO
    source: BinaryIO
    what: str
    format: Format
    name_hint: str | None = None


Origin = RootOrigin | FilesOrigin | StreamOrigin


def open_store(files: Files, format: Format = "auto") -> Store:
    """The images in some files. Raises ``OciError``."""
    if format in ("oci-dir", "oci-archive") or (format == "auto" and files.has(LAYOUT)):
        return Layout(files)
    return DockerArchive(files)


@contextlib.contextmanager
def open_origin(word: str, format: Format = "auto", *, platform: str | None = None) -> Iterator[Origin]:
    """What a word is: a path, ``-`` for standard input, or an image of an engine (``docker-daemon:...``).

    Raises ``OciError``, ``SourceError``, ``UsageError``.
    """
    from lamina.oci.incoming.engines import engine_image

    found = engine_image(word)
    if found is not None:
        if format != "auto":
            raise UsageError(f"'{printable(word)}' is an image of an engine: leave out --format")
        engine, reference = found
        stream = engine.export(reference, platform)
        with contextlib.closing(stream):
            yield StreamOrigin(stream, stream, f"'{printable(word)}'", "auto", reference)
    elif word == "-":
        yield _stream_origin(_standard_input(), "standard input", format)
    else:
        with _path_origin(Path(word), format) as origin:
            yield origin


def _standard_input() -> BinaryIO:
    import sys

    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal: pipe a tar into it")
    try:
        return PolledStream(sys.stdin.fileno())  # type: ignore[return-value]
    except (AttributeError, OSError, ValueError):
        return sys.stdin.buffer


@contextlib.contextmanager
def _path_origin(path: Path, format: Format) -> Iterator[Origin]:
    shown = printable(str(path))
    if path.is_dir():
        if format in ("oci-archive", "docker-archive"):
            raise SourceError(f"cannot import '{shown}': it is a directory, not an archive")
        if format == "oci-dir" or (format == "auto" and (path / LAYOUT).is_file()):
            yield FilesOrigin(DirectoryFiles(path), "oci-dir")
        else:
            yield RootOrigin(str(path), format)
        return
    if format == "oci-dir":
        raise SourceError(f"cannot import '{shown}': it is not a directory")
    if format in ("dir", "tar"):
        yield RootOrigin(str(path), format)  # it says what is wrong, also below
        return
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        if format == "auto":
            yield RootOrigin(str(path), format)
            return
        raise OciError(f"cannot import '{shown}': {error.strerror}") from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            yield _stream_origin(PolledStream(file.fileno()), f"'{shown}'", format)  # type: ignore[arg-type]
            return
        opened = open_stream(file)
        peeked = PeekedStream(opened, _PEEK)
        if format == "auto" and not looks_like_archive(peeked.head):
            yield RootOrigin(str(path), format)
        elif isinstance(opened, io.BufferedReader):
            with contextlib.closing(ArchiveFiles(path)) as files:
                yield FilesOrigin(files, format)
        else:
            yield StreamOrigin(peeked, file, f"'{shown}'", format)  # type: ignore[arg-type]


def _stream_origin(stream: BinaryIO, what: str, format: Format) -> Origin:
    """What comes once, such as from a pipe."""
    if format in ("dir", "oci-dir"):
        raise UsageError(f"{what} is no directory: leave out --format {format}")
    if format == "tar":
        return RootOrigin(stream, format)
    peeked = PeekedStream(open_stream(stream), _PEEK)
    if format == "auto" and not looks_like_archive(peeked.head):
        return RootOrigin(peeked, format)  # type: ignore[arg-type]
    return StreamOrigin(peeked, stream, what, format)  # type: ignore[arg-type]


def looks_like_archive(head: bytes) -> bool:
    """Whether a tar that begins so holds images rather than a root file system: by the names of its first members."""
    names: list[str] = []
    with contextlib.suppress(SourceError):
        for member in tar.TarReader(io.BytesIO(head), layer=True):
            name = member.name.decode("utf-8", "surrogateescape").removeprefix("./").rstrip("/")
            if name not in ("", "."):
                names.append(name)
    return bool(names) and all(map(_is_member_of_archive, names))


def _is_member_of_archive(name: str) -> bool:
    first = name.partition("/")[0]
    if name in _DOCUMENTS or first == "blobs":
        return True
    return named_by_content(first.removesuffix(".json")) is not None
