"""What the word says that names a source of images."""

from pathlib import Path

from lamina.errors import NotFound, UsageError
from lamina.oci.formats.platforms import Platform
from lamina.oci.incoming.engines import CONTAINERD, DOCKER, STORAGE, Containerd, Engine, engine_of
from lamina.oci.migrate.engines import EngineStore
from lamina.oci.migrate.folders import Folder
from lamina.oci.migrate.layouts import LayoutDirectory
from lamina.oci.migrate.units import Source
from lamina.pool.names import printable


def open_source(word: str, platform: Platform | None = None) -> Source:
    """An engine's store (``docker-daemon:``, ``containerd://[NS]``, ...), an OCI layout, or archives in a folder.

    Raises ``NotFound``, ``UsageError``, ``OciError``.
    """
    if word.startswith(CONTAINERD):
        return EngineStore(Containerd(word.removeprefix(CONTAINERD).rstrip("/") or None), _text(platform))
    found: tuple[Engine, str] | None = engine_of(word)
    if found is not None:
        engine, rest = found
        if rest:
            raise UsageError(
                f"'{printable(word)}' is one image: 'lamina image import' takes it; a store is "
                f"{DOCKER}, {STORAGE} or {CONTAINERD}[NAMESPACE]"
            )
        return EngineStore(engine, _text(platform))
    path = Path(word)
    if not path.exists():
        raise NotFound(f"cannot migrate '{printable(word)}': no such file or directory")
    if (path / "oci-layout").is_file():
        return LayoutDirectory(path, platform)
    return Folder(path, platform)


def _text(platform: Platform | None) -> str | None:
    return None if platform is None else str(platform)
