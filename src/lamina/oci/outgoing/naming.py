"""What an image of the pool is called elsewhere."""

from typing import TYPE_CHECKING

from lamina.errors import OciError
from lamina.oci.registry.reference import Reference, parse_reference
from lamina.pool.importing.tags import images_dataset

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


def reference_of(pool: "Pool", name: str) -> Reference | None:
    """The name of a snapshot as a reference: its dataset below the pool's images is the repository.

    None where it would be none that container engines take, such as one with capitals.
    """
    dataset, _, tag = name.partition("@")
    above = images_dataset(pool)
    path = dataset.removeprefix(f"{above}/") if dataset.startswith(f"{above}/") else dataset.partition("/")[2]
    try:
        return parse_reference(f"{path or dataset}:{tag}")
    except OciError:
        return None
