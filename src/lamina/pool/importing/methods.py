"""What can be done with container images: the part of ``Pool`` for their layers, tags, and how they compare.

Each method is the face of a function in a module of its own, which is imported when it is first called.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lamina.pool.reports import Difference

if TYPE_CHECKING:
    from lamina.pool.importing.imageindex import ImageIndex, ImageRow
    from lamina.pool.pool import Pool


class Images:
    """A base of ``Pool``, and of nothing else."""

    _image_index: "ImageIndex | None" = None

    @property
    def _this(self) -> "Pool":
        return cast("Pool", self)

    def image(self, name: str) -> "ImageRow | None":
        """Config and layers of the image ``name``; None where it is a plain root file system. Raises ``NotFound``."""
        from lamina.pool.importing.imageindex import image_of

        return image_of(self._this, name)

    @property
    def image_index(self) -> "ImageIndex":
        """What the images of the pool say of themselves."""
        if self._image_index is None:
            from lamina.pool.importing.imageindex import ImageIndex

            self._image_index = ImageIndex(self._this)
        return self._image_index

    def verify(
        self, snapshot: str, against: str | Path, *, progress: "Callable[..., None] | None" = None
    ) -> list[Difference]:
        """Compare a snapshot with a directory: contents and all metadata. An empty list: they are equal."""
        from lamina.pool.importing.verify import verify_tree

        return verify_tree(self._this.tree(snapshot), Path(against), progress)
