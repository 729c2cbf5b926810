"""The images that lie in one place, and which of them is meant."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lamina.errors import OciError
from lamina.oci.formats.platforms import Platform
from lamina.oci.incoming.source import Image
from lamina.oci.registry.reference import parse_reference
from lamina.pool.names import printable

_SHOWN = 8
_LEAST_DIGITS = 7
"""Of a digest that is cut short."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An image of several: its names there, the digest of what describes it (manifest, index or config), its number.

    ``platform`` is None where it is not said, or for an index of several.
    """

    number: int
    names: tuple[str, ...]
    digest: str
    platform: Platform | None = None

    def __str__(self) -> str:
        name = self.names[0] if self.names else self.digest[:19]
        platform = f" ({self.platform})" if self.platform else ""
        return f"{self.number}: {printable(name)}{platform}"


class Store(Protocol):
    """A place with images: an OCI layout, or an archive as ``docker save`` writes it."""

    what: str

    def images(self) -> Sequence[Listed]:
        """All images. Raises ``OciError``."""

    def image(self, listed: Listed, platform: Platform | None = None) -> Image:
        """One of them, for a platform where there are several. Raises ``OciError``."""


def select(store: Store, wanted: str | None, platform: Platform | None) -> Listed:
    """The image that is meant: the only one, or the one with a name, digest or number. Raises ``OciError``."""
    images = store.images()
    if not images:
        raise OciError(f"{store.what} holds no image")
    if wanted is not None:
        found = _meant(images, wanted)
        if len({one.digest for one in found}) == 1:
            return found[0]
        if found:
            found = _for_platform(found, platform)
            if len(found) == 1:
                return found[0]
            raise OciError(f"'{printable(wanted)}' is more than one image of {store.what}: {_listed(found)}")
        raise OciError(f"{store.what} holds no image '{printable(wanted)}', but {_listed(images)}")
    if len({one.digest for one in images}) == 1:
        return images[0]
    if len({one.names for one in images if one.names}) <= 1:
        fitting = _for_platform(images, platform)
        if len(fitting) == 1:
            return fitting[0]
        if all(one.platform for one in images) and not fitting:
            raise OciError(f"{store.what} has images for {_platforms(images)}; choose one with --platform")
    raise OciError(f"{store.what} holds several images; choose one with --image: {_listed(images)}")


def _for_platform(images: Sequence[Listed], platform: Platform | None) -> list[Listed]:
    """Those of one platform, where all say theirs; the best where several would do."""
    from lamina.oci.formats.platforms import local_platform

    wanted = platform or local_platform()
    ranks = [(one.platform.rank(wanted), one) for one in images if one.platform is not None]
    if len(ranks) != len(images):
        return list(images)
    fitting = [(rank, one) for rank, one in ranks if rank is not None]
    least = min((rank for rank, _ in fitting), default=0)
    return [one for rank, one in fitting if rank == least]


def _meant(images: Sequence[Listed], wanted: str) -> list[Listed]:
    """Those that a word may mean: a name that is so before one that means the same, that before a digest or number."""
    found = [one for one in images if wanted in one.names]
    canonical = _canonical(wanted)
    if not found and canonical is not None:
        found = [one for one in images if canonical in map(_canonical, one.names)]
    digits = wanted.removeprefix("sha256:")
    if not found and len(digits) >= _LEAST_DIGITS:
        found = [one for one in images if one.digest.removeprefix("sha256:").startswith(digits)]
    return found or [one for one in images if wanted == str(one.number)]


def _canonical(name: str) -> str | None:
    try:
        return str(parse_reference(name))
    except OciError:
        return None


def _listed(images: Sequence[Listed]) -> str:
    shown = ", ".join(map(str, images[:_SHOWN]))
    return shown + (f" and {len(images) - _SHOWN} more" if len(images) > _SHOWN else "")


def _platforms(images: Sequence[Listed]) -> str:
    names = list(dict.fromkeys(str(one.platform) for one in images))
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
