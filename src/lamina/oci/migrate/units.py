"""What is migrated: units that are removed at their source as a whole, and the images in them."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from lamina.oci.incoming.origins import FilesOrigin, StreamOrigin


@dataclass(frozen=True, slots=True)
class Part:
    """An image. ``names`` are those it has at the source; ``ids``: digests of its config or manifest, as far as known.

    ``selector`` chooses it from several in one place; ``layers``: (diff ID, bytes) of each, if they are known.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()
    selector: str | None = None
    layers: tuple[tuple[str, int], ...] | None = None
    named: bool = True
    """Whether the names are its own, and not made of the place where it lies."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Images that go together: those of a file, or one image of an engine or a layout.

    ``size``: bytes at the source, ``frees``: bytes that come back there with the removal, as far as is known.
    """

    label: str
    parts: tuple[Part, ...]
    size: int
    frees: int
    used_by: str | None = None
    """Containers that use it: it is not removed, and not touched where removing was asked for."""
    kept: str | None = None
    """Why it is never removed; None: it may be."""
    unusable: str | None = None
    """Why it is no image that could be migrated."""
    error: str | None = None
    """Why it could not be looked at."""


class Source(Protocol):
    """A place that images are migrated from."""

    what: str

    def units(self) -> list[Unit]:
        """All of them. Raises ``OciError``."""

    def open(self, unit: Unit, part: Part) -> AbstractContextManager[FilesOrigin | StreamOrigin]:
        """An image, to be imported. Raises ``OciError``."""

    def remove(self, unit: Unit) -> None:
        """Remove it as its owner does. Raises ``OciError``; then it is there, whole."""
