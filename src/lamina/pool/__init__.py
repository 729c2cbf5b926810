"""Pools: datasets, properties, images, accounting."""

from lamina.ingest.progress import Progress
from lamina.pool.pool import DestroyPlan, Pool, PoolSpace, PoolStatus, pool_names, pool_of
from lamina.pool.reports import Difference, ImportReport
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
