"""lamina: a storage pool for the container images of machine learning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamina.pool import Pool, pool_names

__version__ = "0.1.0"
__all__ = ["Pool", "__version__", "pool_names"]


def __getattr__(name: str) -> Any:
    # Lazily: `lamina version` should not wait for codecs.
    if name in ("Pool", "pool_names"):
        from lamina import pool

        return getattr(pool, name)
    raise AttributeError(f"module 'lamina' has no attribute '{name}'")
