"""Who a user is at a registry, from where ``docker login`` and ``podman login`` keep it.

The files and their order are Podman's (containers-auth.json(5)), which reads Docker's too; each is JSON with ``auths``,
``credHelpers`` and ``credsStore``. A credential helper is the program ``docker-credential-NAME``: ``get`` as its word,
the registry on its standard input, JSON on its output (docker/docker-credential-helpers).

Secrets stand in no message and in no ``repr``.
"""

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.errors import AuthError
from lamina.oci.registry.reference import DOCKER_HUB, api_host
from lamina.pool.names import printable

HELPER_SECONDS = 60.0
"""How long a credential helper may take: it may ask for the user's key ring to be opened."""

_HUB_KEY = "https://index.docker.io/v1/"
_MAX_FILE = 4 << 20
_MAX_ANSWER = 1 << 20
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_NOT_FOUND = "credentials not found"
_TOKEN_USER = "<token>"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password, or a token that stands for both."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A token to get others with, as ``docker login`` keeps it."""
    registry_token: str = field(default="", repr=False)
    """A bearer token for the registry itself."""

    @property
    def basic(self) -> str | None:
        """The value of an ``Authorization`` header with user and password."""
        if not self.username or not self.password:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Found:
    """What a search for credentials came to. ``problems`` say what could not be asked; nothing secret is in them."""

    credentials: Credentials | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuthFile:
    """A file that may hold credentials. ``required``: the user named it, so it must be there and make sense."""

    path: Path
    required: bool = False


def auth_files(authfile: Path | None, environment: Mapping[str, str]) -> tuple[AuthFile, ...]:
    """The files that are looked at, in their order: one that was named is the only one."""
    named = authfile or (Path(environment["REGISTRY_AUTH_FILE"]) if environment.get("REGISTRY_AUTH_FILE") else None)
    if named is not None:
        return (AuthFile(named, required=True),)
    home = Path(environment.get("HOME") or Path.home())
    files = []
    if environment.get("XDG_RUNTIME_DIR"):
        files.append(Path(environment["XDG_RUNTIME_DIR"]) / "containers/auth.json")
    files.append(Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json")
    files.append(Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
    return tuple(AuthFile(path) for path in files)


class CredentialStore:
    """The credentials of one user of this machine."""

    def __init__(self, authfile: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        self._files = auth_files(authfile, self._environment)

    def find(self, host: str, repository: str = "") -> Found:
        """Look for the credentials of a registry; entries for a part of its repositories go before the host's."""
        problems: list[str] = []
        keys = list(_keys(host, repository))
        for file in self._files:
            try:
                document = _read(file)
                found = self._in_document(document, keys, file.path)
            except AuthError as error:
                if file.required:
                    raise
                problems.append(str(error))
                continue
            if found is not None:
                return Found(found, tuple(problems))
        return Found(None, tuple(problems))

    def _in_document(self, document: dict[str, Any], keys: list[str], path: Path) -> Credentials | None:
        helpers = _object(document, "credHelpers", path)
        for key in keys:
            if isinstance(helpers.get(key), str):
                found = self._ask(helpers[key], key)
                if found is not None:
                    return found
        store = document.get("credsStore")
        if isinstance(store, str) and store:
            # A store keeps what docker login was given: the host, or Docker Hub's old address.
            key = _HUB_KEY if _HUB_KEY in keys else _host_key(keys)
            found = self._ask(store, key)
            if found is not None:
                return found
        entries = {_normal(key): entry for key, entry in reversed(_object(document, "auths", path).items())}
        for key in keys:
            entry = entries.get(_normal(key))
            if isinstance(entry, dict):
                found = _from_entry(entry, path, key)
                if found is not None:
                    return found
        return None

    def _ask(self, helper: str, server: str) -> Credentials | None:
        """Ask a credential helper. None: it knows of none."""
        if not _HELPER_NAME.match(helper):
            raise AuthError(f"'{printable(helper[:80])}' is no name of a credential helper")
        program = f"docker-credential-{helper}"
        try:
            answer = subprocess.run(
                [program, "get"],
                input=server.encode(),
                capture_output=True,
                timeout=HELPER_SECONDS,
                env=self._environment,
                check=False,
            )
        except FileNotFoundError:
            raise AuthError(f"{program} is not installed, but the login of {server} is kept with it") from None
        except subprocess.TimeoutExpired:
            raise AuthError(f"{program} did not answer within {HELPER_SECONDS:.0f} seconds") from None
        except OSError as error:
            raise AuthError(f"cannot run {program}: {error.strerror}") from None
        if answer.returncode != 0:
            said = (answer.stdout or answer.stderr)[:2000].decode(errors="replace").strip()
            if _NOT_FOUND in said.lower():
                return None
            # What a helper that failed says is for people; its output is no secret then.
            reason = printable(said.splitlines()[0][:200]) if said else f"exit status {answer.returncode}"
            raise AuthError(f"{program} failed for {server}: {reason}")
        return _from_helper(answer.stdout, program)


def _read(file: AuthFile) -> dict[str, Any]:
    shown = printable(str(file.path))
    try:
        with file.path.open("rb") as stream:
            raw = stream.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        if file.required:
            raise AuthError(f"cannot read '{shown}': no such file") from None
        return {}
    except OSError as error:
        raise AuthError(f"cannot read '{shown}': {error.strerror}") from None
    try:
        document = json.loads(raw) if len(raw) <= _MAX_FILE else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        # What stands in the file is never shown.
        raise AuthError(f"'{shown}' is no usable JSON: log in anew, or mend it")
    return document


def _object(document: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, dict):
        raise AuthError(f"'{printable(str(path))}': {name} is not an object")
    return value


def _from_entry(entry: dict[str, Any], path: Path, key: str) -> Credentials | None:
    def text(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    username, password = text("username"), text("password")
    if text("auth"):
        try:
            decoded = base64.b64decode(text("auth"), validate=True).decode()
        except (binascii.Error, ValueError):
            decoded = ""
        username, colon, password = decoded.partition(":")
        password = password.rstrip("\x00")  # some versions of Docker padded it
        if not colon or not username:
            raise AuthError(f"'{printable(str(path))}': the entry of {printable(key)} cannot be read: log in anew")
    found = Credentials(username, password, text("identitytoken"), text("registrytoken"))
    return found if found.basic or found.identity_token or found.registry_token else None


def _from_helper(output: bytes, program: str) -> Credentials | None:
    try:
        answer = json.loads(output) if len(output) <= _MAX_ANSWER else None
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise AuthError(f"{program} answered no usable JSON")
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise AuthError(f"{program} answered neither a user nor a secret")
    if not secret:
        return None
    if username == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username, secret) if username else None


def _keys(host: str, repository: str) -> Iterator[str]:
    """Names under which a registry may stand in a file, the most particular first."""
    parts = repository.split("/") if repository else []
    for length in range(len(parts), 0, -1):
        yield f"{host}/{'/'.join(parts[:length])}"
    if host == DOCKER_HUB:
        yield _HUB_KEY
        yield DOCKER_HUB
        yield "index.docker.io"
    if api_host(host) != host:
        yield api_host(host)
    else:
        yield host


def _host_key(keys: list[str]) -> str:
    return keys[-1]


def _normal(key: str) -> str:
    """The key as it stands in a file: ``https://HOST/v1/``, ``https://HOST`` and ``HOST`` are the same."""
    for scheme in ("https://", "http://"):
        key = key.removeprefix(scheme)
    key = key.rstrip("/")
    for version in ("/v1", "/v2"):
        key = key.removesuffix(version)
    return key
