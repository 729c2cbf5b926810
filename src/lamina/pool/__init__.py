"""Pools: datasets, properties, images, accounting."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamina.ingest.progress import Progress
    from lamina.pool.pool import Pool, pool_names, pool_of
    from lamina.pool.reports import DestroyPlan, Difference, ImportReport, PoolSpace, PoolStatus
    from lamina.pool.values import Entry, PropertyValue

__all__ = [
    "DestroyPlan",
    "Difference",
    "Entry",
    "ImportReport",
    "Pool",
    "PoolSpace",
    "PoolStatus",
    "Progress",
    "PropertyValue",
    "pool_names",
    "pool_of",
]

_HOME = {
    "Progress": "lamina.ingest.progress",
    "DestroyPlan": "lamina.pool.reports",
    "Difference": "lamina.pool.reports",
    "PoolSpace": "lamina.pool.reports",
    "PoolStatus": "lamina.pool.reports",
    "ImportReport": "lamina.pool.reports",
    "Entry": "lamina.pool.values",
    "PropertyValue": "lamina.pool.values",
}


def __getattr__(name: str) -> Any:
    # Lazily: names and properties are needed for help and messages, where no pool is opened.
    if name not in __all__:
        raise AttributeError(f"module 'lamina.pool' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(_HOME.get(name, "lamina.pool.pool")), name)
    globals()[name] = value
    return value
