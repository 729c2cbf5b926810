"""Properties of a pool as a whole that people set: ``comment``, and ``images``, where images go that are not told where
to. The others are measured, or chosen when it is made.

The words are those of OpenZFS (lib/libzfs/libzfs_pool.c, module/zcommon/zpool_prop.c).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamina.errors import LaminaError, PropertyError
from lamina.pool import features
from lamina.pool.names import check_dataset_name, pool_of_name, printable

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

MOST_COMMENT = 32
"""Characters of a comment (ZPROP_MAX_COMMENT)."""
SETTABLE = ("comment", "images")
_READ_ONLY = ("size", "capacity", "health", "guid", "dedupratio", "free", "freeing", "allocated", "path", "name")


def check_properties(name: str, properties: Mapping[str, str], verb: str = "set") -> None:
    """Raise ``PropertyError`` unless all can be set on the pool ``name``."""
    prefix = f"cannot create '{name}': " if verb == "create" else f"cannot set property for '{name}': "
    for key, value in properties.items():
        if key in _READ_ONLY or key.startswith("feature@"):
            hint = "; 'lamina pool upgrade' enables features" if key.startswith("feature@") else ""
            raise PropertyError(f"{prefix}'{printable(key)}' is readonly{hint}")
        if key not in SETTABLE:
            raise PropertyError(f"{prefix}invalid property '{printable(key)}'")
        if key == "comment":
            _check_comment(value, prefix)
        elif value:
            _check_images(name, value, prefix)


def _check_comment(value: str, prefix: str) -> None:
    if len(value) > MOST_COMMENT:
        raise PropertyError(f"{prefix}comment must not exceed {MOST_COMMENT} characters")
    if not value.isascii() or (value and not value.isprintable()):
        raise PropertyError(f"{prefix}comment may only have printable characters")


def _check_images(pool: str, value: str, prefix: str) -> None:
    try:
        check_dataset_name(value)
    except LaminaError:
        raise PropertyError(f"{prefix}'images' must be the name of a dataset: '{printable(value)}' is none") from None
    if pool_of_name(value) != pool:
        raise PropertyError(f"{prefix}'images' must be a dataset of the pool, such as '{pool}/images'")


def stored_value(key: str, value: str) -> str:
    """A property as it is kept: ``images`` without the pool's name, which may change."""
    return "/" + value.partition("/")[2] if key == "images" else value


def set_properties(pool: "Pool", properties: Mapping[str, str]) -> None:
    """Set properties of the pool; an empty value takes one away. Raises ``PropertyError``."""
    check_properties(pool.name, properties)
    with pool._writer() as writer, pool._catalogue.change(writer) as change:
        for key, value in properties.items():
            if value:
                pool._catalogue.set_meta(key, stored_value(key, value))
            else:
                pool._database.execute("DELETE FROM meta WHERE name = ?", (key,))
        change.pool = True


def own_properties(pool: "Pool") -> dict[str, tuple[str, str]]:
    """(value, source) of what is set, and of features, by name; ``-`` where nothing is set."""
    found: dict[str, tuple[str, str]] = {}
    comment, images = (pool._catalogue.meta(key) for key in SETTABLE)
    found["comment"] = (str(comment), "local") if comment is not None else ("-", "default")
    found["images"] = _images(pool.name, str(images)) if images is not None else (f"{pool.name}/images", "default")
    for feature in features.ALL:
        state = "enabled" if feature.name in pool._marker.features else "disabled"
        found[f"feature@{feature.name}"] = (state, "local")
    return found


def _images(pool: str, stored: str) -> tuple[str, str]:
    return (pool + stored).rstrip("/"), "local"
