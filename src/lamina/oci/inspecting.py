"""What is known of an image in the pool, as ``skopeo inspect`` and ``docker history`` would print it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lamina.errors import LaminaError, NotFound
from lamina.oci.formats.documents import MAX_CONFIG, parse_json
from lamina.oci.formats.models import Config, Manifest, parse_config, parse_manifest
from lamina.pool.names import check_snapshot_name, printable, split_snapshot

if TYPE_CHECKING:
    from lamina.pool import Entry, Pool
    from lamina.pool.importing.imageindex import ImageRow, LayerRow

SOURCE = "lamina:source"
"""User property of an image: the reference it was pulled from, with the tag or digest."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(\.\d+)?(Z|z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Details:
    """One image. ``config`` and ``row`` are None for a plain root file system, ``manifest`` where none came with it.

    ``creation``: when the snapshot was made, seconds since 1970. ``tags``: all images of its repository, sorted.
    """

    name: str
    creation: int
    tags: tuple[str, ...]
    source: str | None
    row: "ImageRow | None"
    config: Config | None
    manifest: Manifest | None

    @property
    def repository(self) -> str:
        """Where it was pulled from, without tag and digest; else its dataset."""
        return split_snapshot(self.name)[0] if self.source is None else repository_of(self.source)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of an image's history. ``layer`` is the layer it made, None for one that made none."""

    created: str
    created_by: str
    author: str
    comment: str
    empty: bool
    layer: "LayerRow | None"


def repository_of(source: str) -> str:
    """The repository, host included, of a reference: ``docker.io/library/debian`` of one with ``:12@sha256:…``."""
    base = source.partition("@")[0]
    head, colon, tag = base.rpartition(":")
    return head if colon and "/" not in tag else base


def open_image(pool: "Pool", name: str) -> Details:
    """Look at an image. Raises ``NotFound``, ``InvalidName``, and ``LaminaError`` for a snapshot that is no image."""
    from lamina.pool.importing.imageindex import image_of

    check_image(pool, name)
    entry = pool.entry(name)
    row = image_of(pool, name)
    config, manifest = _documents(pool, name) if row is not None else (None, None)
    dataset = split_snapshot(name)[0]
    tags = sorted(split_snapshot(one.name)[1] or "" for one in pool.list([dataset], depth=1, types=("image",)))
    values = pool.get(entry, ["creation", SOURCE])
    source, creation = values[SOURCE].value, values["creation"].value
    return Details(
        name,
        int(creation or 0),
        tuple(tags),
        str(source) if source is not None else None,
        row,
        parse_config(config, f"the config of '{name}'") if config is not None else None,
        _manifest_of(name, manifest),
    )


def image_rows(pool: "Pool", entries: Iterable["Entry"]) -> dict[int, "ImageRow | None"]:
    """What the index knows of many images, by the row of their snapshots; None of a plain root file system.

    One that makes no sense is None too: it is told to whoever asks for it alone.
    """
    from lamina.pool.importing.imageindex import image_of

    pool.image_index.fill()
    found: dict[int, ImageRow | None] = {}
    for entry in entries:
        try:
            found[entry.id] = image_of(pool, entry.name)
        except LaminaError:
            found[entry.id] = None
    return found


def check_image(pool: "Pool", name: str, verb: str = "open") -> None:
    """Raise unless ``name`` is an image of the pool: ``InvalidName``, ``NotFound``, ``LaminaError``."""
    shown = printable(name)
    if "@" not in name and pool.exists(name):
        tags = [one.name for one in pool.list([name], depth=1, types=("image",))]
        hint = f", such as '{tags[-1]}'" if tags else f"; '{shown}' has none"
        raise LaminaError(f"cannot {verb} '{shown}': it is a dataset: name an image in it, {shown}@TAG{hint}")
    check_snapshot_name(name, verb)
    if not pool.exists(name):
        raise NotFound(f"cannot {verb} '{shown}': no such image; 'lamina image list' shows those that there are")
    if pool.entry(name).kind != "image":
        raise LaminaError(f"cannot {verb} '{shown}': it is a snapshot that was taken, not an image")


def _documents(pool: "Pool", name: str) -> tuple[bytes, bytes | None]:
    from lamina.pool.importing.imageindex import image_area

    area = image_area(pool, name)
    return area.config(), area.manifest()


def _manifest_of(name: str, raw: bytes | None) -> Manifest | None:
    if raw is None:
        return None
    found = parse_manifest(raw, None, f"the manifest of '{name}'")
    return found if isinstance(found, Manifest) else None


# -- skopeo inspect -----------------------------------------------------------------------------------------------


def summary(details: Details) -> dict[str, Any]:
    """What ``skopeo inspect`` prints of an image in a registry, member by member, in its order.

    ``Digest`` is empty where the image has no manifest, ``Layers`` are then the diff IDs.
    """
    config, manifest = details.config, details.manifest
    created = normalised_time(config.created) if config is not None and config.created else None
    diff_ids = list(config.diff_ids) if config is not None else []
    return {
        "Name": details.repository,
        "Digest": manifest.digest if manifest is not None else "",
        "RepoTags": list(details.tags),
        "Created": created,
        "DockerVersion": config.docker_version if config is not None else "",
        "Labels": dict(sorted(config.labels.items())) or None if config is not None else None,
        "Architecture": config.architecture if config is not None else "",
        "Os": config.os if config is not None else "",
        "Layers": [layer.digest for layer in manifest.layers] if manifest is not None else diff_ids,
        "LayersData": _layers_data(manifest),
        "Env": list(config.env) or None if config is not None else None,
    }


def _layers_data(manifest: Manifest | None) -> list[dict[str, Any]]:
    """As skopeo has it from version 1.10 on."""
    if manifest is None:
        return []
    return [
        {
            "MIMEType": layer.media_type,
            "Digest": layer.digest,
            "Size": layer.size,
            "Annotations": dict(sorted(layer.annotations.items())) or None,
        }
        for layer in manifest.layers
    ]


def raw_manifest(pool: "Pool", name: str) -> bytes:
    """The manifest as it came. Raises ``LaminaError`` where there is none."""
    check_image(pool, name)
    from lamina.pool.importing.imageindex import image_area

    found = image_area(pool, name).manifest()
    if found is None:
        raise LaminaError(f"'{name}' has no manifest: what it was imported from has none")
    return found


def raw_config(pool: "Pool", name: str) -> bytes:
    """The config as it came: its SHA-256 is the image ID."""
    check_image(pool, name)
    from lamina.pool.importing.imageindex import image_area

    return image_area(pool, name).config()


# image-spec, specs-go/v1/config.go: what of a config is OCI's, in the order in which skopeo prints it.
_EXECUTION = (
    *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"),
    "ArgsEscaped",
)
_STEP = ("created", "created_by", "author", "comment", "empty_layer")


def oci_config(raw: bytes) -> dict[str, Any]:
    """A config with the members that OCI defines, whatever it came as, as ``skopeo inspect --config`` prints it."""
    value: Mapping[str, Any] = parse_json(raw, "the config", MAX_CONFIG)
    execution = value.get("config") or {}
    rootfs = value.get("rootfs") or {}
    found: dict[str, Any] = _present(value, ("created", "author"))
    found["architecture"] = value.get("architecture", "")
    found |= _present(value, ("variant",))
    found["os"] = value.get("os", "")
    found |= _present(value, ("os.version", "os.features"))
    found["config"] = {
        name: dict(sorted(member.items())) if isinstance(member, dict) else member
        for name, member in _present(execution, _EXECUTION).items()
    }
    found["rootfs"] = {"type": rootfs.get("type", ""), "diff_ids": rootfs.get("diff_ids")}
    history = [_present(step, _STEP) for step in value.get("history") or ()]
    if history:
        found["history"] = history
    for part in (found, *history):
        if "created" in part:
            part["created"] = normalised_time(part["created"])
    return found


def _present(value: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Members that are there and not empty: Go's ``omitempty``."""
    return {name: value[name] for name in names if value.get(name)}


def normalised_time(text: str) -> str:
    """A time of RFC 3339 as Go prints it: no zeros at the end of the fraction, ``Z`` for an offset of 0."""
    found = _TIME.fullmatch(text)
    if found is None:
        return text
    moment, fraction, zone = found.groups()
    fraction = (fraction or "")[:10].rstrip("0").rstrip(".")
    return moment.upper() + fraction + ("Z" if zone in ("z", "+00:00", "-00:00") else zone)


# -- docker history -----------------------------------------------------------------------------------------------


def history(details: Details) -> list[Step]:
    """The steps that made an image, the first one first.

    Builders need not write a history, nor a whole one: layers that it does not tell of come as steps that say nothing.
    """
    config, row = details.config, details.row
    if config is None or row is None:
        return []
    layers = list(row.layers)
    steps: list[Step] = []
    for one in config.history:
        layer = None if one.empty_layer or not layers else layers.pop(0)
        steps.append(Step(one.created, one.created_by, one.author, one.comment, one.empty_layer, layer))
    return steps + [Step("", "", "", "", False, layer) for layer in layers]


def seconds_of(text: str) -> int | None:
    """Seconds since 1970 of a time of RFC 3339; None for what is none."""
    from datetime import datetime

    try:
        return int(datetime.fromisoformat(normalised_time(text)).timestamp())
    except (ValueError, OverflowError, OSError):
        return None
