"""An image as it lies somewhere outside the pool: in an archive, a directory, a registry, an engine's store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer where it lies.

    ``digest`` and ``size`` (bytes) are of the blob as it lies there, mostly compressed; None where nobody said them.
    ``open`` gives the blob's bytes from the beginning, from any thread and as often as it is called; whoever takes
    them verifies them, and closes the stream, also from another thread to make a read that waits give up.
    """

    diff_id: str
    digest: str | None
    size: int | None
    media_type: str
    open: Callable[[], BinaryIO]
    path: str | None = None
    """Its name in the archive or directory that it lies in."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image to be taken in: config and manifest are the bytes as they came, layers are from the lowest up.

    ``name_hint`` is the name it has where it lies, such as ``docker.io/library/debian:12``.
    """

    config: bytes
    manifest: bytes | None
    layers: Sequence[LayerBlob]
    name_hint: str | None = None
