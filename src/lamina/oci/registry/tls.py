"""Whom to believe: the system's CAs, and those that the user or the administrator added for a registry.

For a registry ``HOST[:PORT]`` the directories of Docker and Podman are read: ``HOST:PORT`` in
``~/.config/containers/certs.d``, ``/etc/containers/certs.d`` and ``/etc/docker/certs.d`` (containers-certs.d(5)). In
each ``*.crt`` are CAs, and ``NAME.cert`` with ``NAME.key`` says who this client is; that is shown to the registry and
to nobody else.
"""

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

from lamina.errors import RegistryError
from lamina.oci.registry.options import Options
from lamina.pool.names import printable

_SYSTEM_DIRECTORIES = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class Trust:
    """TLS contexts for a registry: one for itself, one for whomever it sends us to."""

    def __init__(self, host: str, options: Options, environment: Mapping[str, str]) -> None:
        self._options = options
        if options.cert_dir is not None:
            self._directories: tuple[Path, ...] = (options.cert_dir,)
        else:
            configured = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or "/") / ".config"
            own = Path(configured) / "containers/certs.d"
            self._directories = tuple(root / host for root in (own, *_SYSTEM_DIRECTORIES))
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def context(self, *, own: bool) -> ssl.SSLContext:
        """The context for the registry itself (``own``) or for others. Raises ``RegistryError``."""
        if own not in self._contexts:
            self._contexts[own] = self._make(own)
        return self._contexts[own]

    def _make(self, own: bool) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if not self._options.tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif context.cert_store_stats()["x509_ca"] == 0:
            # An OpenSSL of another system's: it looks for the CAs where they are not.
            for bundle in _BUNDLES:
                if Path(bundle).is_file():
                    context.load_verify_locations(bundle)
                    break
        if self._options.ca_file is not None:
            _add_authority(context, self._options.ca_file)
        for file in self._files("*.crt"):
            _add_authority(context, file)
        if own:
            for file in self._files("*.cert"):
                _add_identity(context, file)
        return context

    def _files(self, pattern: str) -> Iterator[Path]:
        for directory in self._directories:
            try:
                yield from sorted(directory.glob(pattern))
            except OSError as error:
                raise RegistryError(f"cannot read '{printable(str(directory))}': {error.strerror}") from None


def _add_authority(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(file)
    except ssl.SSLError:
        raise RegistryError(f"'{printable(str(file))}' holds no CA certificate in PEM form") from None
    except OSError as error:
        raise RegistryError(f"cannot read '{printable(str(file))}': {error.strerror}") from None


def _add_identity(context: ssl.SSLContext, file: Path) -> None:
    key = file.with_suffix(".key")
    if not key.is_file():
        raise RegistryError(f"'{printable(str(file))}' has no key beside it: '{printable(key.name)}' is missing")
    try:
        # No passphrase: OpenSSL would ask for it on the terminal.
        context.load_cert_chain(file, key, password="")
    except (ssl.SSLError, ValueError):
        shown = f"'{printable(str(file))}' and '{printable(key.name)}'"
        raise RegistryError(f"{shown} are no certificate and its key (without a passphrase)") from None
    except OSError as error:
        raise RegistryError(f"cannot read '{printable(str(file))}': {error.strerror}") from None
