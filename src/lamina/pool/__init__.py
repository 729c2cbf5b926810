"""Pools: datasets, properties, images, accounting."""

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
