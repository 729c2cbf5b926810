"""The images of a container engine: exported by it, and removed by its own command."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from lamina.errors import NotFound, OciError
from lamina.oci.incoming.engines import Containerd, ContainersStorage, DockerDaemon, Engine, EngineImage, _run
from lamina.oci.incoming.origins import StreamOrigin
from lamina.oci.migrate.units import Part, Unit
from lamina.pool.names import printable


class EngineStore:
    """An engine's images. See ``Source``."""

    def __init__(self, engine: Engine, platform: str | None = None) -> None:
        self.what = engine.what
        self._engine = engine
        self._platform = platform

    def units(self) -> list[Unit]:
        """See ``Source``."""
        users = containers_of(self._engine)
        return [self._unit(image, users) for image in self._engine.images()]

    def _unit(self, image: EngineImage, users: dict[str, list[str]]) -> Unit:
        containers = dict.fromkeys(name for key in (image.id, *image.names) for name in users.get(key, ()))
        names = tuple(name for name in image.names if not name.startswith("sha256:") and "@" not in name)
        part = Part(names, (image.id,), None)
        return Unit(image.id, (part,), image.size, image.size, used_by=", ".join(containers) or None)

    @contextlib.contextmanager
    def open(self, unit: Unit, part: Part) -> Iterator[StreamOrigin]:
        """See ``Source``."""
        reference = part.names[0] if part.names else unit.label
        with contextlib.closing(self._engine.export(reference, self._platform)) as stream:
            yield StreamOrigin(stream, stream, f"'{printable(reference)}'", "auto", reference)

    def remove(self, unit: Unit) -> None:
        """See ``Source``: every name, and the image with the last one."""
        for image in self._engine.images():
            if image.id == unit.label:
                for name in image.names or (unit.label,):
                    with contextlib.suppress(NotFound):
                        self._engine.remove(name)


def containers_of(engine: Engine) -> dict[str, list[str]]:
    """Names of containers by the image's ID, or its name, that they were made of. Raises ``OciError``."""
    found: dict[str, list[str]] = {}
    if isinstance(engine, DockerDaemon):
        for one in _list(engine._read("GET", "/containers/json?all=1"), "Docker's list of containers"):
            names = [str(name).lstrip("/") for name in one.get("Names") or [str(one.get("Id", ""))[:12]]]
            found.setdefault(str(one.get("ImageID", "")), []).extend(names[:1])
    elif isinstance(engine, ContainersStorage):
        text = _run(engine._podman("ps", "--all", "--external", "--format", "json"))
        for one in _list(text.encode(), "podman's list of containers"):
            names = [str(name) for name in one.get("Names") or [str(one.get("Id", ""))[:12]]]
            found.setdefault(f"sha256:{one.get('ImageID', '')}", []).extend(names[:1])
    elif isinstance(engine, Containerd):
        for line in _run([*engine._words, "containers", "ls"]).splitlines()[1:]:
            words = line.split()
            if len(words) >= 2:
                found.setdefault(words[1], []).append(words[0])
    return found


def _list(raw: bytes, what: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(raw or b"[]") or []
    except (ValueError, RecursionError):
        raise OciError(f"{what} is no JSON") from None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise OciError(f"{what} is none")
    return found
