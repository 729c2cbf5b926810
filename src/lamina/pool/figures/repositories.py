"""What images take, by repository: exact sums over the sets of objects that they reach.

A repository is a dataset that holds images. Of its ``stored`` bytes, ``unique`` are those that nothing but its images
reaches. ``alone`` is what each of its images would take in a pool of its own, added up.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pyroaring import BitMap64

from lamina.errors import Busy
from lamina.pool.catalogue import Catalogue
from lamina.pool.figures.accounting import Accounting, Figures, ratio
from lamina.pool.figures.ledger import Ledger
from lamina.pool.figures.reach import Names, Overtaken, Sets, read_names
from lamina.pool.figures.reckoning import Reckoning
from lamina.pool.figures.sums import Sizes

_TRIES = 20
"""Times that others may change names while the sets are added up."""
_TOO_FAST = "the names of the pool change faster than figures can be computed; try again"


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over one image or several, in bytes; ``decoded`` before compression, each object once in both."""

    name: str
    images: int
    logical: int
    alone: int
    stored: int
    decoded: int
    unique: int

    @property
    def shared(self) -> int:
        """Stored bytes that other images or datasets reach too."""
        return self.stored - self.unique

    @property
    def compression(self) -> float:
        """What compression alone saves."""
        return ratio(self.decoded, self.stored)

    @property
    def deduplication(self) -> float:
        """What sharing alone saves, within each image and between them."""
        return ratio(self.logical, self.decoded)


def usage_of(name: str, figures: Figures) -> Usage:
    """The sums of one image, from the figures of its snapshot."""
    return Usage(
        name,
        1,
        figures.logicalreferenced,
        figures.referenced,
        figures.referenced,
        figures.refdecoded,
        figures.unique,
    )


def repository_usage(
    catalogue: Catalogue, repositories: Mapping[str, Collection[int]], images: Mapping[int, Figures]
) -> tuple[list[Usage], Usage]:
    """Usage of each repository, and of all of them together.

    ``repositories``: the rows of their images, by dataset; ``images``: the figures of these.
    """
    for _ in range(_TRIES):
        try:
            return _look(catalogue, repositories, images)
        except Overtaken:
            continue
    raise Busy(_TOO_FAST)


def only_reached(catalogue: Catalogue, dataset: int, root: int) -> BitMap64:
    """The objects that one root of a dataset reaches, and nothing else does."""
    for _ in range(_TRIES):
        try:
            names, ledger, sets = _moment(catalogue)
            row = names.by_id.get(dataset)
            if row is None or names.held(dataset).get(root) != 1:
                return BitMap64()
            found = sets.tree(root) & ledger.sets(dataset).once
            for other in names.datasets:
                if found and other.id != dataset:
                    found -= ledger.sets(other.id).own
            return found
        except Overtaken:
            continue
    raise Busy(_TOO_FAST)


def _moment(catalogue: Catalogue) -> tuple[Names, Ledger, Sets]:
    """Names, and what they reach, brought up to date. Raises ``Overtaken``."""
    Accounting(catalogue).refresh()
    names = read_names(catalogue)
    ledger = Ledger(catalogue.database, names.generation)
    Reckoning(catalogue.database, names, ledger).run()
    return names, ledger, Sets(catalogue.database, names)


def _look(
    catalogue: Catalogue, repositories: Mapping[str, Collection[int]], images: Mapping[int, Figures]
) -> tuple[list[Usage], Usage]:
    database = catalogue.database
    names, ledger, sets = _moment(catalogue)
    sizes = Sizes(database)
    wanted = {number for numbers in repositories.values() for number in numbers}
    roots: dict[int, set[int]] = {}
    kept: dict[int, set[int]] = {}
    for number, dataset, root in database.query("SELECT id, dataset, root FROM snapshot WHERE root IS NOT NULL"):
        (roots if number in wanted else kept).setdefault(dataset, set()).add(root)
    seen, again, elsewhere = BitMap64(), BitMap64(), BitMap64()
    parts: list[tuple[str, int, BitMap64, BitMap64]] = []
    for row in names.datasets:
        own = ledger.sets(row.id).own
        again |= seen & own
        seen |= own
        if row.name not in repositories:
            elsewhere |= own
            continue
        stay = kept.get(row.id, set())
        if row.head is not None and row.follows is None:
            stay = stay | {row.head}
        rest = sets.union(stay)
        elsewhere |= rest
        parts.append((row.name, row.id, sets.union(roots.get(row.id, ())), rest))
    found: list[Usage] = []
    whole = BitMap64()
    for name, _, objects, rest in parts:
        whole |= objects
        found.append(_usage(name, repositories[name], images, sizes, objects, objects - again - rest))
    return found, _usage("total", wanted, images, sizes, whole, whole - elsewhere)


def _usage(
    name: str,
    numbers: Collection[int],
    images: Mapping[int, Figures],
    sizes: Sizes,
    objects: BitMap64,
    unique: BitMap64,
) -> Usage:
    stored, decoded = sizes.sums(objects)
    some: Sequence[Figures] = [images[number] for number in numbers if number in images]
    return Usage(
        name,
        len(some),
        sum(one.logicalreferenced for one in some),
        sum(one.referenced for one in some),
        stored,
        decoded,
        sizes.sums(unique)[0],
    )
