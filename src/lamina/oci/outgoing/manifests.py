"""The manifest of an image that goes out: the original's bytes where every blob has the digest that stands in it.

Else it is written anew, with all of the original that still holds: annotations stay, what tells of one compressed form
of a layer goes.
"""

import json
from dataclasses import dataclass
from typing import Any

from lamina.oci.formats.models import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    LAYER_TYPES,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Manifest,
    digest_of,
)
from lamina.oci.outgoing.packing import Packing

_OF_THE_BLOB = ("containerd.io/snapshot/stargz", "io.github.containers.", "io.containers.")
"""Annotations of a layer that tell of one compressed form of it, by how they begin."""


@dataclass(frozen=True, slots=True)
class OutgoingBlob:
    """A layer as it goes out."""

    digest: str
    size: int
    media_type: str


def make_manifest(
    original: Manifest | None, config: bytes, blobs: list[OutgoingBlob], *, docker: bool | None = None
) -> tuple[bytes, str]:
    """(bytes, media type) of the manifest for these blobs, one for each layer.

    ``docker`` says which media types a new one has: Docker's, which know no zstd, or OCI's; None: the
    original's.
    """
    if original is not None and _holds(original, config, blobs):
        return original.raw, original.media_type
    if docker is None:
        docker = original is not None and original.media_type == DOCKER_MANIFEST
    if any(LAYER_TYPES[blob.media_type] == "zstd" for blob in blobs):
        docker = False
    document: dict[str, Any] = {} if original is None else json.loads(original.raw)
    told: list[dict[str, Any]] = document.get("layers") or [{} for _ in blobs]
    layers = [_layer(one, blob, docker) for one, blob in zip(told, blobs, strict=True)]
    described = {
        **document.get("config", {}),
        "mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
        "digest": digest_of(config),
        "size": len(config),
    }
    described.pop("data", None)
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    document = {
        **document,
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": described,
        "layers": layers,
    }
    return json.dumps(document, separators=(",", ":")).encode(), media_type


def _holds(original: Manifest, config: bytes, blobs: list[OutgoingBlob]) -> bool:
    """Whether the original manifest names just these blobs."""
    if original.config.digest != digest_of(config):
        return False
    return all(
        layer.digest == blob.digest and layer.size == blob.size
        for layer, blob in zip(original.layers, blobs, strict=True)
    )


def _layer(told: dict[str, Any], blob: OutgoingBlob, docker: bool) -> dict[str, Any]:
    """A layer's descriptor: what the original says of it, as far as it is about the layer and not about one form."""
    found: dict[str, Any] = {
        "mediaType": _type(LAYER_TYPES[blob.media_type], docker),
        "digest": blob.digest,
        "size": blob.size,
    }
    annotations = told.get("annotations")
    if isinstance(annotations, dict):
        same = blob.digest == told.get("digest")
        kept = {key: value for key, value in annotations.items() if same or not key.startswith(_OF_THE_BLOB)}
        if kept:
            found["annotations"] = kept
    return found


def layer_type(packing: Packing, docker: bool) -> str:
    """The media type of a layer that was compressed here."""
    return _type("" if packing.plain else packing.compression, docker)


def _type(compression: str, docker: bool) -> str:
    base, separator = (DOCKER_LAYER, ".") if docker else (OCI_LAYER, "+")
    return f"{base}{separator}{compression}" if compression else base
