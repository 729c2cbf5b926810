"""Whether an image lies in the pool as it should: every layer read back and compared with its diff ID."""

import hashlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from lamina.errors import DamagedData
from lamina.oci.formats.models import digest_of
from lamina.oci.outgoing.image import outgoing
from lamina.pool.names import printable

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_PIECE = 1 << 20


def verify_image(
    pool: "Pool", name: str, ids: Collection[str] = (), progress: Callable[[int, int], None] | None = None
) -> int:
    """Read an image's config and all its layers from the pool; bytes of tars that were read.

    ``ids``: digests, one of which its config or manifest has to have; none: any will do. ``progress`` gets bytes read
    and bytes in all. Raises ``DamagedData``.
    """
    with outgoing(pool, name) as image:
        if image.is_plain:
            raise DamagedData(f"'{printable(name)}' is a plain root file system: it has no layers to compare")
        found = [digest_of(image.config([]))]
        if image.original is not None:
            found.append(image.original.digest)
        if ids and not set(ids) & set(found):
            raise DamagedData(f"'{printable(name)}' is the image {found[0]}, not the one that was imported")
        done = 0
        for layer in {layer.diff_id: layer for layer in image.layers}.values():
            digest = hashlib.sha256()
            with image.open(layer) as stream:
                while data := stream.read(_PIECE):
                    digest.update(data)
                    done += len(data)
                    if progress is not None:
                        progress(done, image.size)
            image.check(layer, f"sha256:{digest.hexdigest()}")
        return done
