"""Compressed forms of a layer that are known: what a registry or a layout may have of it already."""

from typing import TYPE_CHECKING

from lamina.oci.formats.models import LAYER_TYPES, OCI_LAYER
from lamina.oci.outgoing.image import OutgoingLayer
from lamina.oci.outgoing.packing import Packing
from lamina.pool.importing.imageindex import Blob

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


def known_forms(pool: "Pool", layer: OutgoingLayer, packing: Packing, *, only: bool) -> list[Blob]:
    """Forms of a layer: the original's first, then those that were seen or made here; for the thread of the pool.

    ``only``: those that are compressed as ``packing`` does it.
    """
    if layer.diff_id is None:
        return []
    found: list[Blob] = []
    told = layer.original
    if told is not None and told.media_type in LAYER_TYPES:
        found.append(Blob(told.digest, layer.diff_id, told.media_type, told.size))
    # What manifests of other images say of this layer nobody has verified.
    rows = pool.store.database.query(
        "SELECT digest, diff_id, media_type, size FROM blob WHERE diff_id = ? ORDER BY digest", (layer.diff_id,)
    )
    found += [Blob(*row) for row in rows if row[2] in LAYER_TYPES]
    if packing.plain and layer.size is not None:
        found.append(Blob(layer.diff_id, layer.diff_id, OCI_LAYER, layer.size))
    wanted = "" if packing.plain else packing.compression
    chosen = {blob.digest: blob for blob in found if not only or LAYER_TYPES[blob.media_type] == wanted}
    return list(chosen.values())
