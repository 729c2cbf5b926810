"""What happens to a layer on its way into the pool, told to whoever shows it."""

from collections.abc import Sequence
from typing import Protocol

WAITING = "waiting"
DOWNLOADING = "downloading"
STORING = "storing"
"""All of it has come; what is left is compressing and writing."""
EXISTS = "exists"
"""The pool has it: nothing is downloaded."""
COMPLETE = "complete"


class LayerWatcher(Protocol):
    """Is told of layers, by several threads. Layers are known by the digests of their blobs."""

    def begin(self, layers: Sequence[tuple[str, int | None]]) -> None:
        """The layers of an image, from the bottom up, with the bytes of their blobs where known."""

    def update(self, digest: str, state: str, done: int) -> None:
        """A layer has reached one of the states above; ``done`` bytes of its blob have come."""


class Nobody:
    """A watcher that looks away."""

    def begin(self, layers: Sequence[tuple[str, int | None]]) -> None:
        """See ``LayerWatcher``."""

    def update(self, digest: str, state: str, done: int) -> None:
        """See ``LayerWatcher``."""
