"""What images and their layers take in the pool, and share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyroaring import BitMap64

from lamina.pool.figures.accounting import Accounting, Figures
from lamina.pool.figures.repositories import Usage, only_reached, repository_usage, usage_of
from lamina.pool.figures.sums import Sizes
from lamina.pool.names import split_snapshot

if TYPE_CHECKING:
    from lamina.pool import Entry, Pool
    from lamina.pool.importing.imageindex import LayerRow


@dataclass(frozen=True, slots=True)
class RepositoryUsage:
    """A repository with its images."""

    whole: Usage
    images: list[Usage]


@dataclass(frozen=True, slots=True)
class LayerUsage:
    """A layer of an image. ``stored``: payload bytes of the objects its tar consists of; ``unique``: of those that
    nothing but this image reaches; ``images``: how many images have the layer."""

    layer: "LayerRow"
    stored: int
    unique: int
    images: int


def image_figures(pool: "Pool", entries: Sequence["Entry"], *, unique: bool = True) -> dict[int, Figures]:
    """Figures of images by row."""
    return Accounting(pool._catalogue).snapshots({entry.id for entry in entries}, unique=unique)


def usage(pool: "Pool", entries: Sequence["Entry"]) -> tuple[list[RepositoryUsage], Usage]:
    """What the images ``entries`` take, by repository, and all of them together."""
    figures = image_figures(pool, entries)
    by_repository: dict[str, dict[int, str]] = {}
    for entry in entries:
        by_repository.setdefault(split_snapshot(entry.name)[0], {})[entry.id] = entry.name
    wholes, total = repository_usage(pool._catalogue, by_repository, figures)
    return [
        RepositoryUsage(
            whole,
            [
                usage_of(name, figures[number])
                for number, name in by_repository[whole.name].items()
                if number in figures
            ],
        )
        for whole in wholes
    ], total


def layer_usage(pool: "Pool", name: str) -> list[LayerUsage]:
    """The layers of an image from the bottom up; a layer that it has twice is there twice.

    Raises ``LaminaError`` for a plain root file system.
    """
    from lamina.pool.importing.imageindex import image_area, image_of

    area = image_area(pool, name)
    row = image_of(pool, name)
    assert row is not None  # it has an area
    snapshot = pool._catalogue.find_snapshot(name)
    only = only_reached(pool._catalogue, snapshot.dataset, row.root) if snapshot is not None else BitMap64()
    images = _images_with([layer.diff_id for layer in row.layers], pool)
    sizes = Sizes(pool.store.database)
    found: dict[str, LayerUsage] = {}
    for layer in row.layers:
        if layer.diff_id not in found:
            keys = {extent.key for extent in area.extents(layer.diff_id)}
            objects = BitMap64(location.id for location in pool.store.locate(keys).values())
            found[layer.diff_id] = LayerUsage(
                layer, sizes.sums(objects)[0], sizes.sums(objects & only)[0], images[layer.diff_id]
            )
    return [found[layer.diff_id] for layer in row.layers]


def _images_with(diff_ids: Sequence[str], pool: "Pool") -> dict[str, int]:
    """How many images of the pool have each of these layers."""
    images = dict(pool.store.database.query("SELECT root, count(*) FROM snapshot WHERE kind = 'image' GROUP BY root"))
    return {
        diff_id: sum(images.get(root, 0) for root in pool.image_index.roots_with(diff_id))
        for diff_id in dict.fromkeys(diff_ids)
    }
