"""How a registry is spoken to, and the flags of ``image pull`` and ``image push`` that say so."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from lamina.errors import UsageError
from lamina.oci.registry.reference import DOCKER_HUB, parse_host
from lamina.pool.names import printable

MIRROR_VARIABLE = "LAMINA_REGISTRY_MIRROR"
"""Mirrors from the environment, separated by commas or blanks, as ``--mirror`` takes them."""

_MAX_SECRET = 64 << 10


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where the same images may be had. ``registry`` says whose images; ``prefix`` goes before their repositories."""

    registry: str
    host: str
    prefix: str = ""
    plain_http: bool | None = None

    def __str__(self) -> str:
        return f"{self.host}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Options:
    """Everything about a registry that is not in a reference. Times are seconds."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    authfile: Path | None = None
    plain_http: bool = False
    """HTTP without TLS, whatever the host."""
    tls_verify: bool = True
    """False takes any certificate and, as Docker and Podman do for insecure registries, HTTP where no TLS is spoken."""
    ca_file: Path | None = None
    cert_dir: Path | None = None
    """A directory with ``*.crt`` of CAs and ``*.cert`` with ``*.key`` of this client."""
    mirrors: tuple[Mirror, ...] = ()
    connect_timeout: float = 15
    read_timeout: float = 60
    """How long nothing may come."""
    retries: int = 5
    """How often the same is tried again without anything won."""
    backoff: float = 0.5
    """The first wait before another try; each next one is twice as long."""
    max_wait: float = 60
    """The longest wait between two tries; a server that asks for a longer one is given up."""
    connections: int = 16
    """Connections to a host that are kept open."""
    chunk_size: int | None = None
    """Bytes of a request when blobs are sent; None sends each blob in one."""


def parse_mirror(text: str, registry: str) -> Mirror:
    """Parse ``[REGISTRY=][http://|https://]HOST[:PORT][/PREFIX]``. ``registry`` is meant where none is named."""
    of, equals, rest = text.partition("=")
    if equals:
        registry, text = parse_host(of), rest
    plain_http: bool | None = None
    scheme, separator, rest = text.partition("://")
    if separator:
        if scheme not in ("http", "https"):
            raise UsageError(f"invalid mirror '{printable(text)}': [REGISTRY=][http://]HOST[:PORT][/PATH] is expected")
        plain_http, text = scheme == "http", rest
    host, _, prefix = text.partition("/")
    if not re.fullmatch(r"[A-Za-z0-9._/-]*", prefix) or ".." in prefix:
        raise UsageError(f"invalid mirror '{printable(text)}': its path has characters that no repository has")
    return Mirror(registry, parse_host(host), prefix.strip("/"), plain_http)


def registry_options(
    registry: str,
    *,
    username: str | None = None,
    password_stdin: bool = False,
    authfile: str | None = None,
    plain_http: bool = False,
    tls_verify: bool = True,
    ca_file: str | None = None,
    cert_dir: str | None = None,
    mirrors: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    stdin: TextIO | None = None,
) -> Options:
    """Turn the words of a command line into ``Options`` for the registry named ``registry`` (a reference's ``host``).

    Reads the password from standard input, or asks for it on the terminal if only a user is named. Mirrors named with
    ``--mirror`` stand for this registry unless they name another; those of ``$LAMINA_REGISTRY_MIRROR`` for Docker Hub.
    Raises ``UsageError`` for words that do not fit together.
    """
    environment = os.environ if environment is None else environment
    stdin = sys.stdin if stdin is None else stdin
    if password_stdin and username is None:
        raise UsageError("--password-stdin needs --username")
    if plain_http and (ca_file or cert_dir):
        raise UsageError("--plain-http speaks no TLS: leave out --ca-file and --cert-dir")
    for word, path in (("--authfile", authfile), ("--ca-file", ca_file)):
        if path is not None and not Path(path).is_file():
            raise UsageError(f"{word}: '{printable(path)}' is no file")
    if cert_dir is not None and not Path(cert_dir).is_dir():
        raise UsageError(f"--cert-dir: '{printable(cert_dir)}' is no directory")
    known = [parse_mirror(text, registry) for text in mirrors]
    known += [parse_mirror(text, DOCKER_HUB) for text in environment.get(MIRROR_VARIABLE, "").replace(",", " ").split()]
    return Options(
        username=username,
        password=None if username is None else _password(username, registry, stdin, password_stdin),
        authfile=None if authfile is None else Path(authfile),
        plain_http=plain_http,
        tls_verify=tls_verify,
        ca_file=None if ca_file is None else Path(ca_file),
        cert_dir=None if cert_dir is None else Path(cert_dir),
        mirrors=tuple(dict.fromkeys(mirror for mirror in known if mirror.registry == registry)),
    )


def _password(username: str, registry: str, stdin: TextIO, from_stdin: bool) -> str:
    if not username or ":" in username or not username.isprintable():
        raise UsageError("--username: a name without ':' and control characters is expected")
    if from_stdin:
        password = stdin.read(_MAX_SECRET + 1).removesuffix("\n").removesuffix("\r")
        if not password:
            raise UsageError("--password-stdin: there is no password on standard input")
    elif stdin.isatty():
        import getpass

        password = getpass.getpass(f"Password of {username} at {registry}: ")
    else:
        raise UsageError("--username needs a password: give it on standard input with --password-stdin")
    if len(password) > _MAX_SECRET:
        raise UsageError("--password-stdin: the password is longer than 64 KiB")
    return password
