"""The images of an OCI layout directory; removed are an entry of its index and the blobs that nothing else needs."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lamina.errors import OciError
from lamina.oci.formats.documents import MAX_DOCUMENT, parse_json
from lamina.oci.formats.models import INDEX_TYPES, MANIFEST_TYPES
from lamina.oci.formats.platforms import Platform
from lamina.oci.incoming.files import DirectoryFiles
from lamina.oci.incoming.layout import INDEX, Layout, blob_path
from lamina.oci.incoming.origins import FilesOrigin
from lamina.oci.migrate.folders import more_platforms, part_of, with_repository
from lamina.oci.migrate.units import Part, Unit
from lamina.oci.outgoing.outputs import sync_directory
from lamina.pool.names import printable

_DOCUMENTS = (*INDEX_TYPES, *MANIFEST_TYPES)


class LayoutDirectory:
    """An OCI layout. See ``Source``; units are labelled with the digest that the index has."""

    def __init__(self, path: Path, platform: Platform | None = None) -> None:
        self.what = f"'{printable(str(path))}'"
        self._path = path
        self._platform = platform

    def units(self) -> list[Unit]:
        """See ``Source``."""
        layout = Layout(DirectoryFiles(self._path))
        names: dict[str, list[str]] = {}
        entries = {listed.digest: listed for listed in reversed(layout.images())}
        for listed in layout.images():
            names.setdefault(listed.digest, []).extend(listed.names)
        blobs = _Blobs(self._path)
        needed = {digest: blobs.below(digest) for digest in blobs.entries()}
        found: list[Unit] = []
        for digest, listed in reversed(list(entries.items())):
            own = needed.get(digest, set())
            others = set().union(*(blobs_ for one, blobs_ in needed.items() if one != digest))
            size, frees = blobs.size(own), blobs.size(own - others)
            try:
                image = layout.image(listed, self._platform)
            except OciError as error:
                found.append(Unit(digest, (), size, frees, error=str(error)))
                continue
            part = part_of(image, tuple(dict.fromkeys(names[digest])), digest)
            part = with_repository(replace(part, ids=(*part.ids, digest)), self._path.resolve().name)
            several = more_platforms(image, digest) and _runnable(self._path, digest) > 1
            kept = "the index has it for several platforms" if several else None
            found.append(Unit(digest, (part,), size, frees, kept=kept))
        return found

    @contextlib.contextmanager
    def open(self, unit: Unit, part: Part) -> Iterator[FilesOrigin]:
        """See ``Source``."""
        yield FilesOrigin(DirectoryFiles(self._path), "oci-dir")

    def remove(self, unit: Unit) -> None:
        """See ``Source``: the entry first, in one step, then the blobs that no other entry leads to."""
        lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._remove(unit.label)
        except OSError as error:
            raise OciError(f"cannot remove {unit.label} from {self.what}: {error.strerror}") from None
        finally:
            os.close(lock)

    def _remove(self, digest: str) -> None:
        blobs = _Blobs(self._path)
        gone = blobs.below(digest)
        left = [entry for entry in blobs.index["manifests"] if entry.get("digest") != digest]
        kept: set[str] = set().union(*(blobs.below(entry.get("digest", "")) for entry in left))
        self._replace(json.dumps({**blobs.index, "manifests": left}, separators=(",", ":")).encode())
        for one in gone - kept:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path / blob_path(one))

    def _replace(self, index: bytes) -> None:
        beside = self._path / f".{INDEX}.{secrets.token_hex(6)}"
        try:
            with beside.open("xb") as file:
                file.write(index)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path / INDEX)
            sync_directory(self._path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)


class _Blobs:
    """Which blobs of a layout lead to which."""

    def __init__(self, path: Path) -> None:
        """Raises ``OciError``."""
        self._path = path
        with (path / INDEX).open("rb") as file:
            self.index: dict[str, Any] = parse_json(file.read(MAX_DOCUMENT + 1), f"'{INDEX}'")
        if not isinstance(self.index.get("manifests"), list):
            raise OciError(f"'{INDEX}' of '{printable(str(path))}' lists no manifests")

    def entries(self) -> list[str]:
        """Digests of the index's entries."""
        return [entry["digest"] for entry in self.index["manifests"] if isinstance(entry.get("digest"), str)]

    def below(self, digest: str) -> set[str]:
        """A blob, and all that it leads to, as far as they are there and can be read."""
        types = {entry.get("digest"): entry.get("mediaType") for entry in self.index["manifests"]}
        found: set[str] = set()
        waiting = [(digest, types.get(digest))]
        while waiting:
            one, media_type = waiting.pop()
            if one in found or not _is_digest(one):
                continue
            found.add(one)
            if media_type in _DOCUMENTS:
                waiting += _descriptors(self._document(one))
        return found

    def _document(self, digest: str) -> Any:
        try:
            with (self._path / blob_path(digest)).open("rb") as file:
                return parse_json(file.read(MAX_DOCUMENT + 1), digest)
        except (OSError, OciError):
            return None

    def size(self, digests: set[str]) -> int:
        """Bytes of those that are there."""
        total = 0
        for one in digests:
            with contextlib.suppress(OSError):
                total += (self._path / blob_path(one)).stat().st_size
        return total


def _descriptors(value: Any) -> list[tuple[str, str | None]]:
    """(digest, media type) of all descriptors in a document, wherever they stand."""
    found: list[tuple[str, str | None]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(one.get("digest"), str):
                found.append((one["digest"], one.get("mediaType")))
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return found


def _is_digest(text: object) -> bool:
    """Whether it names a blob, and nothing else in the directory."""
    if not isinstance(text, str):
        return False
    algorithm, colon, digits = text.partition(":")
    return bool(colon) and algorithm.isalnum() and digits.isalnum()


def _runnable(path: Path, digest: str) -> int:
    """How many images for machines an index of the layout has."""
    document = _Blobs(path)._document(digest)
    entries = document.get("manifests") if isinstance(document, dict) else None
    count = 0
    for entry in entries if isinstance(entries, list) else []:
        platform = entry.get("platform") if isinstance(entry, dict) else None
        count += not (isinstance(platform, dict) and platform.get("os") == "unknown")
    return count
