"""Proxies from the environment: ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``, in capitals or small letters.

The rules are those of Go's ``net/http`` (golang.org/x/net/http/httpproxy), which Docker, Podman and containerd follow:
this machine is never reached through a proxy; an entry of ``NO_PROXY`` is ``*``, a name (with all below it), ``.name``
(only what is below it), an address, a network such as ``10.0.0.0/8``, each but the last with ``:PORT`` if wanted.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from lamina.errors import RegistryError
from lamina.oci.registry.reference import is_loopback


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy without its password in the ``url``; ``user`` is ``name:password``."""

    url: str
    user: str | None

    def __repr__(self) -> str:
        return f"Proxy({self.url!r})"


class Proxies:
    """Which proxy leads to a host."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._of = {
            # A CGI script's environment has HTTP_PROXY from a header "Proxy:" of whoever asks.
            "http": "" if "REQUEST_METHOD" in environment else _value(environment, "http_proxy"),
            "https": _value(environment, "https_proxy"),
        }
        self._direct = [entry.strip().lower() for entry in _value(environment, "no_proxy").split(",") if entry.strip()]

    def way_to(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy to use for a host, None for none. Raises ``RegistryError`` for one that cannot be used."""
        text = self._of.get(scheme, "")
        host = host.strip("[]").rstrip(".").lower()
        if not text or is_loopback(host) or any(_matches(entry, host, port) for entry in self._direct):
            return None
        return _parse(text, scheme)


def _value(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name.upper()) or environment.get(name) or ""


def _parse(text: str, scheme: str) -> Proxy:
    variable = f"{scheme.upper()}_PROXY"
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host:
        # What stands there may hold a password.
        raise RegistryError(f"{variable} in the environment is no address of a proxy")
    if parts.scheme not in ("http", "https"):
        raise RegistryError(f"{variable} in the environment names a proxy of another kind than http:// and https://")
    shown = f"[{host}]" if ":" in host else host
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    default = 443 if parts.scheme == "https" else 80
    return Proxy(f"{parts.scheme}://{shown}:{default if port is None else port}", user)


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, wanted = _split_port(entry)
    if wanted is not None and wanted != port:
        return False
    if address is not None:
        try:
            return ipaddress.ip_address(name) == address
        except ValueError:
            return False
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _split_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        digits = rest.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, digits = entry.partition(":")
    else:
        name, digits = entry, ""
    return name, int(digits) if digits.isascii() and digits.isdigit() else None
