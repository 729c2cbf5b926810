"""Feature flags: what a pool's format has beyond its first version, each by name, so that an older lamina can say what
it lacks instead of misreading.

They stand in ``pool.json``. A new pool has all of them; ``pool upgrade`` gives an older one those that it lacks.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature. ``description`` is a line for people."""

    name: str
    description: str


ALL = (
    Feature("bookmarks", "Bookmarks of snapshots, and holds that keep a snapshot."),
    Feature("full_names", "Records of all names in the packs: a backup of the catalogue that lets older ones go."),
    Feature("image_layers", "Images keep their config and layers, so that these can be written again bit for bit."),
    Feature("node_copies", "Tree nodes and names are kept twice, in different packs, and data as 'copies' says."),
    Feature("parent_links", "Files know the directory that holds them, so that they are named by their paths."),
)
"""In the order of their names."""

NAMES = frozenset(feature.name for feature in ALL)
"""What this version knows; a pool with another one is refused."""
