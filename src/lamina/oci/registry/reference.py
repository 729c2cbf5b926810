"""References: how people name an image in a registry, and what lamina calls it.

The grammar is that of the field (distribution/reference): ``[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]``. The first part
is a host if it has a dot or a colon, is ``localhost`` or has a capital; without a host the image is Docker Hub's, which
is ``docker.io``, and there a repository of one part lies under ``library/``. Neither tag nor digest means ``:latest``;
with both the digest says what is fetched and the tag what it is called.
"""

import ipaddress
import re
from dataclasses import dataclass, replace

from lamina.errors import OciError
from lamina.pool.names import dataset_name_error, printable, snapshot_name_error

DOCKER_HUB = "docker.io"
"""What people and references call Docker Hub."""

_HUB_API = "registry-1.docker.io"
_HUB_LEGACY = "index.docker.io"
_LIBRARY = "library"
_LATEST = "latest"

MAX_REPOSITORY = 255
"""Bytes of a repository's name, as distribution limits them."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?P<name>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::(?P<port>[0-9]{{1,5}}))?\Z")
_DIGEST = re.compile(r"(?P<algorithm>sha256|sha512):(?P<hex>[0-9a-f]+)\Z")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}\Z")
_DIGITS = {"sha256": 64, "sha512": 128}


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry. ``host`` is as people write it (``docker.io``), with its port if it was given one."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        """The canonical name, with the host."""
        return f"{self.host}/{self.repository}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        """Host and repository without tag and digest: ``docker.io/library/python``."""
        return f"{self.host}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The shortest name that means the same: ``python:3.12``."""
        return self._familiar_name + self._suffix

    @property
    def _familiar_name(self) -> str:
        if self.host != DOCKER_HUB:
            return self.name
        first, slash, rest = self.repository.partition("/")
        if first == _LIBRARY and slash and "/" not in rest and not _IMAGE_ID.match(rest):
            return rest
        return self.name if _is_host(first) and slash else self.repository

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest, or else the tag."""
        return self.digest or self.tag or _LATEST

    @property
    def api_host(self) -> str:
        """The host that is connected to."""
        return api_host(self.host)

    def at(self, digest: str) -> "Reference":
        """The manifest with this digest in the same repository."""
        return Reference(self.host, self.repository, None, check_digest(digest))

    def tagged(self, tag: str) -> "Reference":
        """The same repository's image of another tag."""
        if not _TAG.match(tag):
            raise _invalid(tag, "a tag has letters, digits, '_', '.' and '-', at most 128 of them")
        return replace(self, tag=tag, digest=None)

    @property
    def dataset_path(self) -> str:
        """Where in a pool's images it goes: the repository, without ``library/`` of Docker Hub's own images."""
        path = self.repository
        if self.host == DOCKER_HUB:
            path = path.removeprefix(f"{_LIBRARY}/") if path.count("/") == 1 else path
        self._refuse_name(path, dataset_name_error(path))
        return path

    @property
    def snapshot_name(self) -> str:
        """What the image is called in its dataset: the tag, or ``sha256-<hex>`` where only a digest was given."""
        name = self.tag or (self.digest or _LATEST).replace(":", "-")
        self._refuse_name(name, snapshot_name_error(f"a@{name}"))
        return name

    def _refuse_name(self, name: str, reason: str | None) -> None:
        if reason is not None:
            name = printable(name)
            raise OciError(f"'{name}' of {self} cannot be a dataset's name: {reason}; give DEST (POOL/PATH@NAME)")


def parse_reference(text: str) -> Reference:
    """Parse what people type. Raises ``OciError`` that says what is wrong with it."""
    if "://" in text:
        scheme, _, rest = text.partition("://")
        if scheme != "docker":
            raise _invalid(text, f"a reference has no '{scheme}://': write HOST/REPOSITORY:TAG")
        text = rest
    if not text:
        raise _invalid(text, "it is empty")
    remainder, at, digest = text.partition("@")
    if at:
        _check_digest(text, digest)
    host, path = _split_host(text, remainder)
    path, colon, tag = path.partition(":")
    if colon and not _TAG.match(tag):
        raise _invalid(text, "a tag has letters, digits, '_', '.' and '-', at most 128 of them")
    if host is None:
        host = DOCKER_HUB
        if _IMAGE_ID.match(path):
            raise _invalid(text, "64 hexadecimal digits are an image's ID, not a name: write REPOSITORY@sha256:DIGEST")
    host = parse_host(host, of=text)
    if host == DOCKER_HUB and "/" not in path:
        path = f"{_LIBRARY}/{path}" if path else path
    _check_repository(text, path)
    return Reference(host, path, tag if colon else (None if at else _LATEST), digest if at else None)


def parse_host(host: str, *, of: str | None = None) -> str:
    """Check a registry's ``HOST[:PORT]`` and bring Docker Hub's other names to ``docker.io``. Raises ``OciError``."""
    found = _HOST.match(host)
    whole = host if of is None else of
    if found is None:
        raise _invalid(whole, f"'{printable(host)}' is no host name")
    if found["port"] is not None and not 0 < int(found["port"]) < 65536:
        raise _invalid(whole, f"{found['port']} is no port")
    if found["name"].startswith("["):
        try:
            ipaddress.IPv6Address(found["name"][1:-1])
        except ValueError:
            raise _invalid(whole, f"{found['name']} is no IPv6 address") from None
    if len(found["name"]) > 253:
        raise _invalid(whole, "its host name is longer than 253 characters")
    return DOCKER_HUB if host in (_HUB_API, _HUB_LEGACY) else host


def api_host(host: str) -> str:
    """The host that answers for a registry: Docker Hub's lies elsewhere than its name says."""
    return _HUB_API if host == DOCKER_HUB else host


def is_loopback(host: str) -> bool:
    """Whether ``HOST[:PORT]`` is this machine: localhost, 127.0.0.0/8 or ::1."""
    found = _HOST.match(host)
    name = found["name"] if found else host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def check_digest(text: str) -> str:
    """Return ``text`` if it is a digest that lamina can verify (SHA-256, SHA-512). Raises ``OciError``."""
    _check_digest(text, text)
    return text


def _check_digest(whole: str, digest: str) -> None:
    found = _DIGEST.match(digest)
    if found is None:
        raise _invalid(whole, "a digest is sha256: and 64 hexadecimal digits in small letters")
    if len(found["hex"]) != _DIGITS[found["algorithm"]]:
        kind, digits = found["algorithm"], len(found["hex"])
        raise _invalid(whole, f"a {kind} digest has {_DIGITS[kind]} hexadecimal digits, this one has {digits}")


def _is_host(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first != first.lower()


def _split_host(text: str, name: str) -> tuple[str | None, str]:
    first, slash, rest = name.partition("/")
    if not slash or not _is_host(first):
        return None, name
    if not rest:
        raise _invalid(text, "it has a host but no repository")
    return first, rest


def _check_repository(text: str, path: str) -> None:
    if not path:
        raise _invalid(text, "it has no repository")
    if len(path) > MAX_REPOSITORY:
        raise _invalid(text, f"its repository's name is longer than {MAX_REPOSITORY} characters")
    if _REPOSITORY.match(path):
        return
    if _REPOSITORY.match(path.lower()):
        raise _invalid(text, "a repository's name has no capital letters")
    raise _invalid(text, "a repository's name is made of a-z and 0-9, with '.', '_', '__', '-' and '/' between them")


def _invalid(text: str, reason: str) -> OciError:
    return OciError(f"invalid reference '{printable(text[:300])}': {reason}")
