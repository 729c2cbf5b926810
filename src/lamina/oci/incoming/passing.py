"""An archive of images that passes by once: standard input, a pipe from an engine, a compressed file.

Its layers come before the documents that say what they are. So whatever looks like a layer is taken in as it passes,
small documents are kept in memory, and at the end what was taken is compared with what the documents say: nothing of a
layer's size is ever written to a file.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from lamina.errors import OciError
from lamina.ingest import tar
from lamina.oci.formats.documents import MAX_CONFIG
from lamina.oci.formats.zstdframes import MAGIC as ZSTD_MAGIC
from lamina.oci.incoming.blobs import GZIP_MAGIC, BlobReader, layer_limit, open_tar
from lamina.oci.incoming.files import MAX_MEMBERS, Links, member_path, named_by_content
from lamina.oci.incoming.intake import Session
from lamina.oci.incoming.source import Image
from lamina.pool.names import printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MAX_DOCUMENTS = 64 << 20
"""Bytes of documents that are kept in memory, in all."""
_BLOBS = "blobs/sha256/"


@dataclass(frozen=True, slots=True)
class Passed:
    """A layer that came by. ``digest`` and ``size`` are of the blob; the digest is None where nothing said it."""

    diff_id: str
    digest: str | None
    size: int


class PassingArchive:
    """The documents of an archive that came by, as ``Files``; its layers are in the session."""

    def __init__(
        self,
        stream: BinaryIO,
        session: Session,
        what: str,
        *,
        limit: int | None = None,
        diff_id_of: Callable[[str], str | None] = lambda digest: None,
    ) -> None:
        """``limit``: bytes that a layer may decompress to; ``diff_id_of``: the layer whose blob has a digest."""
        self.what = what
        self._stream = stream
        self._session = session
        self._limit = limit
        self._diff_id_of = diff_id_of
        self._documents: dict[str, bytes] = {}
        self._room = _MAX_DOCUMENTS
        self._links = Links(what)
        self._layers: dict[str, Passed] = {}

    def read(self) -> None:
        """Take in all that comes. Raises ``OciError``, ``SourceError``."""
        reader = tar.TarReader(self._stream, layer=True)
        for number, member in enumerate(reader):
            if number >= MAX_MEMBERS:
                raise OciError(f"{self.what} has more than {MAX_MEMBERS} members: it is no archive of images")
            path = member_path(member, self.what)
            if path and member.type in (tar.SYMLINK, tar.HARD_LINK):
                self._once(path, None)
                link = member.link.decode("utf-8", "surrogateescape")
                self._links.add(path, link, member.type == tar.SYMLINK)
            elif path and member.type == tar.REGULAR:
                if member.segments not in ([(0, member.size)], []):
                    raise OciError(f"'{printable(path)}' of {self.what} is stored as a sparse file")
                self._take(path, member.size, _Contents(reader))

    def _once(self, path: str, found: object) -> None:
        """Refuse a second file of a name; one that is named by its content is the same, or is refused for that."""
        known = path in self._documents or path in self._layers or path in self._links
        if known and (named_by_content(path) is None or found is None):
            raise OciError(f"{self.what} has '{printable(path)}' twice: it could be read in two ways")

    def _take(self, path: str, size: int, contents: "_Contents") -> None:
        head = contents.look(tar.BLOCK)
        self._once(path, head)
        if looks_like_layer(head):
            self._layers[path] = self._layer(path, size, contents)
        elif size <= min(MAX_CONFIG, self._room):
            self._room -= size
            self._documents[path] = contents.read()
        elif size <= MAX_CONFIG:
            raise OciError(f"{self.what} has more than {_MAX_DOCUMENTS >> 20} MiB of documents")

    def _layer(self, path: str, size: int, contents: "_Contents") -> Passed:
        digest = named_by_content(path)
        for diff_id in () if digest is None else (digest, self._diff_id_of(digest)):
            if diff_id is not None and self._session.has(diff_id):
                return Passed(diff_id, digest if path.startswith(_BLOBS) else None, size)
        name = f"'{printable(path)}' of {self.what}"
        # Only in a layout a name is always the digest of the bytes; elsewhere it may be the diff ID, or an old ID.
        verified = digest if path.startswith(_BLOBS) else None
        limit = layer_limit(size) if self._limit is None else self._limit
        blob = BlobReader(contents, verified, size, f"layer {name}")  # type: ignore[arg-type]
        return Passed(self._session.add(open_tar(blob, None, limit, f"layer {name}"), None, name), verified, size)

    def check(self, image: Image) -> None:
        """Compare the layers that passed with what an image's documents say of them. Raises ``OciError``."""
        for number, layer in enumerate(image.layers, 1):
            passed = self._layers.get(self._links.resolve(layer.path)) if layer.path is not None else None
            if passed is None:
                continue
            if passed.diff_id != layer.diff_id:
                raise OciError(
                    f"layer {number} of {self.what} has the diff ID {passed.diff_id}, "
                    f"but the config says {layer.diff_id}"
                )
            if passed.size != layer.size:
                raise OciError(
                    f"layer {number} of {self.what} has {passed.size} bytes, but the manifest says {layer.size}"
                )

    # -- Files -----------------------------------------------------------------------------------------------------

    def has(self, path: str) -> bool:
        """See ``Files``."""
        path = self._links.resolve(path)
        return path in self._documents or path in self._layers

    def size(self, path: str) -> int:
        """See ``Files``."""
        found = self._links.resolve(path)
        if found in self._layers:
            return self._layers[found].size
        return len(self._document(path))

    def open(self, path: str) -> BinaryIO:
        """See ``Files``. Layers have passed: they cannot be opened again."""
        return io.BytesIO(self._document(path))

    def _document(self, path: str) -> bytes:
        data = self._documents.get(self._links.resolve(path))
        if data is None:
            raise OciError(f"{self.what} has no '{printable(path)}'")
        return data

    def close(self) -> None:
        """See ``Files``."""


class _Contents(io.RawIOBase):
    """The bytes of the member that a tar is at; its first ones can be looked at."""

    def __init__(self, reader: tar.TarReader) -> None:
        self._reader = reader
        self._head = b""

    def look(self, count: int) -> bytes:
        """The first ``count`` bytes, or what there is; they are read again afterwards."""
        buffer = bytearray(count)
        self._head = bytes(buffer[: self._reader.read_into(memoryview(buffer))])
        return self._head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        if self._head:
            count = min(len(view), len(self._head))
            view[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        return self._reader.read_into(view)


def looks_like_layer(head: bytes) -> bool:
    """Whether a file that begins so is a layer: gzip, zstd, or a tar, whose header has a sum that is right."""
    if head.startswith((GZIP_MAGIC, ZSTD_MAGIC)):
        return True
    return len(head) == tar.BLOCK and (not head.strip(b"\0") or _is_header(head))


def _is_header(block: bytes) -> bool:
    """Whether a block has the checksum of a tar header (POSIX.1-2017 pax(1))."""
    stored = block[148:156].strip(b" \0")
    found = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    return stored.isdigit() and stored.lstrip(b"0") == b"%o" % found
