"""Archives of images in a folder: what ``docker save`` and others have written, a file each."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from lamina.errors import LaminaError, OciError
from lamina.oci.formats.models import digest_of
from lamina.oci.formats.platforms import Platform
from lamina.oci.incoming.origins import FilesOrigin, RootOrigin, StreamOrigin, open_origin, open_store
from lamina.oci.incoming.passing import PassingArchive
from lamina.oci.incoming.source import Image
from lamina.oci.migrate.units import Part, Unit
from lamina.oci.outgoing.outputs import sync_directory
from lamina.pool.names import printable

_PIECE = 1 << 20


class Folder:
    """A folder, or one file. See ``Source``."""

    def __init__(self, path: Path, platform: Platform | None = None) -> None:
        self.what = f"'{printable(str(path))}'"
        self._path = path
        self._platform = platform

    def units(self) -> list[Unit]:
        """See ``Source``. Hidden files are passed over."""
        if not self._path.is_dir():
            return [self._unit(self._path)]
        try:
            names = sorted(entry.name for entry in os.scandir(self._path) if entry.is_file(follow_symlinks=False))
        except OSError as error:
            raise OciError(f"cannot read {self.what}: {error.strerror}") from None
        return [self._unit(self._path / name) for name in names if not name.startswith(".")]

    def _unit(self, path: Path) -> Unit:
        label = printable(path.name)
        size = 0
        try:
            size = path.stat().st_blocks * 512
            with open_origin(str(path)) as origin:
                if isinstance(origin, RootOrigin):
                    return Unit(label, (), size, size, unusable="it is no archive of images")
                parts, kept = self._parts(origin, path)
                return Unit(label, parts, size, size, kept=kept)
        except LaminaError as error:
            return Unit(label, (), size, size, error=str(error))
        except OSError as error:
            return Unit(label, (), size, size, error=f"cannot read '{label}': {error.strerror}")

    def _parts(self, origin: FilesOrigin | StreamOrigin, path: Path) -> tuple[tuple[Part, ...], str | None]:
        if isinstance(origin, FilesOrigin):
            store = open_store(origin.files, origin.format)
        else:
            archive = PassingArchive(origin.stream, _Looking(), origin.what)
            archive.read()
            store = open_store(archive, origin.format)
        parts: dict[str, Part] = {}
        several = False
        for listed in store.images():
            image = store.image(listed, self._platform)
            several = several or more_platforms(image, listed.digest)
            one = part_of(image, listed.names, listed.digest)
            known = parts.get(one.ids[0])
            if known is not None:
                one = replace(known, names=tuple(dict.fromkeys((*known.names, *one.names))))
            parts[one.ids[0]] = one
        stem = path.name
        for suffix in (".gz", ".zst", ".xz", ".bz2", ".tgz", ".tar"):
            stem = stem.removesuffix(suffix)
        found = tuple(with_repository(part, stem) for part in parts.values())
        return found, "it has images for several platforms" if several else None

    @contextlib.contextmanager
    def open(self, unit: Unit, part: Part) -> Iterator[FilesOrigin | StreamOrigin]:
        """See ``Source``."""
        with open_origin(str(self._file(unit))) as origin:
            if isinstance(origin, RootOrigin):
                raise OciError(f"'{unit.label}' has changed: it is no archive of images any more")
            yield origin

    def remove(self, unit: Unit) -> None:
        """See ``Source``."""
        path = self._file(unit)
        try:
            os.unlink(path)
            sync_directory(path.parent)
        except OSError as error:
            raise OciError(f"cannot remove '{unit.label}': {error.strerror}") from None

    def _file(self, unit: Unit) -> Path:
        if not self._path.is_dir():
            return self._path
        for name in os.listdir(self._path):
            if printable(name) == unit.label:
                return self._path / name
        raise OciError(f"{self.what} has no '{unit.label}' any more")


class _Looking:
    """A session that takes nothing: for the documents of an archive that can only be read from its beginning."""

    def has(self, diff_id: str) -> bool:
        return True

    def add(self, tar: BinaryIO, diff_id: str | None, label: str) -> str:
        while tar.read(_PIECE):
            pass
        return diff_id or ""

    def check(self) -> None:
        pass


def part_of(image: Image, names: tuple[str, ...], selector: str) -> Part:
    """An image whose documents were read."""
    ids = [digest_of(image.config)]
    if image.manifest is not None:
        ids.append(digest_of(image.manifest))
    layers = {layer.diff_id: layer.size or 0 for layer in image.layers}
    return Part(names, tuple(ids), selector, tuple(layers.items()))


def more_platforms(image: Image, digest: str) -> bool:
    """Whether what a place lists by ``digest`` is more than the image that was found there."""
    return digest not in (digest_of(image.config), digest_of(image.manifest) if image.manifest is not None else "")


def with_repository(part: Part, repository: str) -> Part:
    """The image with whole names: where there is only a tag, or nothing, it lies in a place that has a name."""
    names = [name if "/" in name or ":" in name else f"{repository}:{name}" for name in part.names]
    # A layout says both, the whole name and the tag alone: the tag is no other image.
    whole = [name for name in part.names if "/" in name or ":" in name]
    return replace(part, names=tuple(whole or names or [f"{repository}:latest"]), named=bool(whole))
