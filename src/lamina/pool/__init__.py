"""Pools: datasets, properties, images, accounting."""

from lamina.pool.images import ImportReport
from lamina.pool.pool import DestroyPlan, Pool, PoolSpace, PoolStatus, pool_names, pool_of
from lamina.pool.values import Entry, PropertyValue
from lamina.pool.verify import Difference

__all__ = [
    "DestroyPlan",
    "Difference",
    "Entry",
    "ImportReport",
    "Pool",
    "PoolSpace",
    "PoolStatus",
    "PropertyValue",
    "pool_names",
    "pool_of",
]
