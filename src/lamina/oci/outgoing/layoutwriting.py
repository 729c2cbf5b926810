"""OCI image layouts, written: https://github.com/opencontainers/image-spec/blob/main/image-layout.md.

A directory may be a layout with other images already: blobs are shared, and the index is replaced in one step, last.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lamina.errors import Busy, LaminaError, OciError
from lamina.oci.formats.documents import MAX_DOCUMENT, parse_json
from lamina.oci.formats.models import OCI_INDEX, digest_of
from lamina.oci.outgoing.outputs import sync_directory, unwritable
from lamina.pool.names import printable

if TYPE_CHECKING:
    from lamina.oci.registry.reference import Reference

LAYOUT_FILE, INDEX_FILE = "oci-layout", "index.json"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
"""Annotations of an index's entries: the name inside a layout, and the one containerd and Podman give the image."""


def blob_path(digest: str) -> str:
    """Where a blob lies in a layout."""
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def index_entry(media_type: str, manifest: bytes, reference: "Reference | None") -> dict[str, Any]:
    """The entry of an index for an image."""
    entry: dict[str, Any] = {"mediaType": media_type, "digest": digest_of(manifest), "size": len(manifest)}
    if reference is not None:
        entry["annotations"] = {IMAGE_NAME: str(reference), REF_NAME: reference.tag or "latest"}
    return entry


def make_index(document: dict[str, Any]) -> bytes:
    """An index's bytes."""
    return json.dumps(document, separators=(",", ":")).encode()


class LayoutWriter:
    """Adds an image to a layout, which is made if it is not there. After a failure the layout is as it was."""

    def __init__(self, path: str) -> None:
        """Raises ``LaminaError`` for a directory that holds something else, ``Busy`` where another adds to it."""
        self._path = Path(path)
        self._shown = printable(path)
        self._lock = -1
        self._placing = threading.Lock()
        self._made: list[Path] = []
        self._beside: list[Path] = []
        self._folders: list[Path] = []
        self._index: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        self.written = 0
        """Bytes of blobs that were not there."""

    def __enter__(self) -> "LayoutWriter":
        try:
            self._open()
        except OSError as error:
            self._take_back()
            raise unwritable(self._shown, error) from None
        except BaseException:
            self._take_back()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._take_back()
        if self._lock >= 0:
            os.close(self._lock)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise unwritable(self._shown, error) from None

    def _open(self) -> None:
        if not self._path.exists():
            if not self._path.parent.is_dir():
                parent = printable(str(self._path.parent))
                raise LaminaError(f"cannot write '{self._shown}': there is no directory '{parent}'; make it first")
            self._folders.append(self._path)  # before it is there: Ctrl-C may come in between
            os.mkdir(self._path)
        elif not self._path.is_dir():
            raise LaminaError(f"cannot write '{self._shown}': it is a file; an OCI layout is a directory")
        self._lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"cannot write '{self._shown}': another process adds to it; try again when it is done") from None
        if os.listdir(self._path):
            self._read()
        for folder in (self._path / "blobs", self._path / "blobs/sha256"):
            if not folder.is_dir():
                self._folders.append(folder)
                os.mkdir(folder)

    def _read(self) -> None:
        marker, index = self._path / LAYOUT_FILE, self._path / INDEX_FILE
        if not marker.is_file():
            raise OciError(f"cannot write '{self._shown}': it is not empty and no OCI layout; name another directory")
        version = parse_json(marker.read_bytes()[:4096], f"'{self._shown}/{LAYOUT_FILE}'").get("imageLayoutVersion")
        if version != "1.0.0":
            raise OciError(f"cannot write '{self._shown}': it is an OCI layout of another version than 1.0.0")
        if index.is_file():
            with index.open("rb") as file:
                data = file.read(MAX_DOCUMENT + 1)
            found = parse_json(data, f"'{self._shown}/{INDEX_FILE}'")
            if not isinstance(found.get("manifests"), list):
                raise OciError(f"cannot write '{self._shown}': its {INDEX_FILE} lists no manifests")
            self._index = found

    def check(self, reference: "Reference | None") -> None:
        """Refuse a name that another image of the layout has. Raises ``OciError``."""
        for entry in self._index["manifests"]:
            annotations = entry.get("annotations") if isinstance(entry, dict) else None
            if reference is None or not isinstance(annotations, dict):
                continue
            other = annotations.get(IMAGE_NAME)
            if annotations.get(REF_NAME) == (reference.tag or "latest") and other not in (None, str(reference)):
                raise OciError(
                    f"cannot write '{self._shown}': it has an image of the tag '{reference.tag}' already, "
                    f"{printable(str(other))[:200]}; give this one another name with --tag"
                )

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob is there, whole: it is read and compared."""
        path = self._path / blob_path(digest)
        return path.is_file() and path.stat().st_size == size and _is_whole(path, digest)

    def blob(self) -> "_Blob":
        """A blob whose digest is known at its end."""
        beside = self._path / f".blob.{secrets.token_hex(6)}"
        self._beside.append(beside)
        return _Blob(self, beside)

    def add(self, data: bytes) -> None:
        """A whole blob."""
        with self.blob() as blob:
            blob.write(data)
            blob.named(digest_of(data))

    def place(self, temporary: Path, digest: str, size: int) -> None:
        """Give a finished blob its name, unless it is there."""
        target = self._path / blob_path(digest)
        if self.has(digest, size):
            os.unlink(temporary)
            return
        with self._placing:
            if not target.exists():
                self._made.append(target)
            os.replace(temporary, target)
            self.written += size

    def finish(self, entry: dict[str, Any]) -> None:
        """The image is whole: name it. What had its name before is no longer in the index; its blobs stay."""
        name = entry.get("annotations", {}).get(REF_NAME)
        kept = [one for one in self._index["manifests"] if not _replaced(one, name, entry["digest"])]
        self._index["manifests"] = [*kept, entry]
        try:
            if not (self._path / LAYOUT_FILE).exists():
                self._made.append(self._path / LAYOUT_FILE)
                self._document(LAYOUT_FILE, LAYOUT)
            sync_directory(self._path / "blobs/sha256")
            self._document(INDEX_FILE, make_index(self._index))
            sync_directory(self._path)
        except OSError as error:
            raise unwritable(self._shown, error) from None
        self._made.clear()
        self._folders.clear()

    def _document(self, name: str, data: bytes) -> None:
        beside = self._path / f".{name}.{secrets.token_hex(6)}"
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path / name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)

    def _take_back(self) -> None:
        for path in [*self._made, *self._beside]:
            with contextlib.suppress(OSError):
                os.unlink(path)
        for folder in reversed(self._folders):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        self._made.clear()
        self._folders.clear()


class _Blob:
    """A blob on its way: a file beside the blobs until it is ``named``."""

    def __init__(self, layout: LayoutWriter, beside: Path) -> None:
        self._layout = layout
        self._beside = beside
        self._file = self._beside.open("xb", buffering=0)
        self._size = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = self._file.write(view) or 0
            self._size += count
            view = view[count:]

    def named(self, digest: str) -> None:
        os.fsync(self._file.fileno())
        self._layout.place(self._beside, digest, self._size)

    def __enter__(self) -> "_Blob":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._beside)


def _replaced(entry: object, name: str | None, digest: str) -> bool:
    """Whether an entry of the index goes for a new one."""
    if not isinstance(entry, dict):
        return False
    annotations = entry.get("annotations")
    old = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return old == name if name is not None else old is None and entry.get("digest") == digest


def _is_whole(path: Path, digest: str) -> bool:
    """Whether a file is the blob that its name says: what is shared has to be what it should be."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return f"sha256:{found.hexdigest()}" == digest
