"""Platforms: operating system, architecture and its variant, in the words of Go (GOOS, GOARCH, GOARM).

Names are brought to one form as containerd's ``platforms`` package does: x86_64 is amd64, aarch64 is arm64, the variant
that an architecture has anyway is left out.
"""

import os
import re
from dataclasses import dataclass

from lamina.errors import UsageError
from lamina.pool.names import printable

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "loongarch64": ("loong64", ""),
}
_IMPLIED = {"amd64": ("v1",), "arm64": ("v8", "8", "v8.0")}
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_SYSTEMS = ("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "wasip1", "js")


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on. ``variant`` is empty where the architecture has none, ``os_version`` is Windows'."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        return "/".join(printable(part) for part in (self.os, self.architecture, self.variant) if part)

    @property
    def unknown(self) -> bool:
        """Whether it is what builders write for what no machine runs, such as attestations."""
        return self.os == "unknown" or self.architecture == "unknown"

    def normalised(self) -> "Platform":
        """The same platform under the name that is used most."""
        system, architecture, variant = self.os.lower(), self.architecture.lower(), self.variant.lower()
        if system == "macos":
            system = "darwin"
        architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
        variant = variant or implied
        if variant in _IMPLIED.get(architecture, ()):
            variant = ""
        if architecture == "arm":
            variant = f"v{variant}" if variant in ("5", "6", "7", "8") else variant or "v7"
        return Platform(system, architecture, variant, self.os_version)

    def rank(self, wanted: "Platform") -> int | None:
        """How well an image of this platform serves who wants ``wanted``: 0 exactly, more for worse, None not at all.

        An ARM processor also runs what older ones of 32 bits do; all else has to match.
        """
        mine, theirs = self.normalised(), wanted.normalised()
        if (mine.os, mine.architecture) != (theirs.os, theirs.architecture):
            return None
        if mine.variant == theirs.variant:
            return 0
        if mine.architecture == "arm" and "v5" <= mine.variant < theirs.variant <= "v8":
            return ord(theirs.variant[1]) - ord(mine.variant[1])
        return None


def local_platform() -> Platform:
    """What this machine runs: Linux images of its own architecture."""
    return Platform("linux", os.uname().machine).normalised()


def parse_platform(text: str) -> Platform:
    """``os/architecture[/variant]``, or an architecture alone, which means Linux. Raises ``UsageError``."""
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(_WORD.match(part) for part in parts):
        raise UsageError(f"invalid platform '{printable(text)}': os/architecture is expected, such as linux/arm64")
    if len(parts) == 1:
        if parts[0].lower() in _SYSTEMS:
            raise UsageError(f"invalid platform '{text}': os/architecture is expected, such as {text}/amd64")
        parts.insert(0, "linux")
    return Platform(*parts).normalised()
