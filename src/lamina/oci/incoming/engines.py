"""The container engines of this machine: their images as streams, listed, and removed by their owners' own commands.

Docker is spoken to over its socket (Docker Engine API), containerd by its program ``ctr``, Podman's and Buildah's store
by ``podman``, or ``skopeo`` where there is no podman. Names are those of skopeo: ``docker-daemon:REF``,
``containers-storage:[DRIVER@ROOT+RUNROOT]REF``; and ``containerd://[NAMESPACE/]REF``.
"""

import http.client
import io
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import quote, urlsplit

from lamina.errors import NotFound, OciError
from lamina.oci.formats.documents import Fields, parse_json
from lamina.oci.incoming.pipes import ProcessStream
from lamina.oci.registry.reference import parse_reference
from lamina.pool.names import printable
from lamina.pool.units import parse_size

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DOCKER, CONTAINERD, STORAGE = "docker-daemon:", "containerd://", "containers-storage:"

_DOCKER_SOCKET = "/var/run/docker.sock"
_CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_MAX_ANSWER = 64 << 20
"""Bytes of a list of images that an engine may answer with."""
_SECONDS = 60.0
"""How long an engine may take to answer; an export may take any time."""


@dataclass(frozen=True, slots=True)
class EngineImage:
    """An image in an engine's store: names there, image ID (for containerd: the manifest's digest), bytes as it says.

    ``names`` is empty for an image without one.
    """

    names: tuple[str, ...]
    id: str
    size: int


class Engine(Protocol):
    """An engine's store."""

    what: str

    def images(self) -> list[EngineImage]:
        """All images. Raises ``OciError``."""

    def export(self, reference: str, platform: str | None = None) -> BinaryIO:
        """An archive of an image, as a stream that another thread may close. Raises ``OciError``, ``NotFound``."""

    def remove(self, reference: str) -> None:
        """Remove an image, or a name of it, as the engine's own command does. Raises ``OciError``, ``NotFound``."""


def engine_of(word: str) -> tuple[Engine, str] | None:
    """The engine that a word names, and what stands behind its name; None for a word that names none."""
    if word.startswith(DOCKER):
        return DockerDaemon(), word.removeprefix(DOCKER)
    if word.startswith(CONTAINERD):
        return _containerd(word.removeprefix(CONTAINERD))
    if word.startswith(STORAGE):
        return _storage(word.removeprefix(STORAGE))
    return None


def engine_image(word: str) -> tuple[Engine, str] | None:
    """The same for an image of an engine. Raises ``OciError`` where no image is named."""
    found = engine_of(word)
    if found is not None and not found[1]:
        raise OciError(f"'{printable(word)}' names no image: {word.partition(':')[0]} and an image's name is expected")
    return found


# -- Docker --------------------------------------------------------------------------------------------------------


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        """The same as ``sock``, which is forgotten where the other side says that it will hang up."""

    def connect(self) -> None:
        self.sock = self.socket
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def close(self) -> None:
        super().close()
        self.socket.close()


class DockerDaemon:
    """Docker's own store, over its socket. See ``Engine``."""

    def __init__(self, path: str | None = None) -> None:
        """``path`` of the socket; default: what ``DOCKER_HOST`` says, which has to be one too."""
        self.what = "Docker"
        self._path = path or self._default()

    @staticmethod
    def _default() -> str:
        host = os.environ.get("DOCKER_HOST", "")
        if not host:
            return _DOCKER_SOCKET
        parts = urlsplit(host)
        if parts.scheme != "unix" or not parts.path:
            raise OciError(
                f"DOCKER_HOST is '{printable(host)}': only a socket on this machine (unix:///...) is spoken to"
            )
        return parts.path

    def images(self) -> list[EngineImage]:
        """See ``Engine``."""
        answer = parse_json(self._read("GET", "/images/json"), "Docker's list of images", _MAX_ANSWER)
        if not isinstance(answer, list):
            raise OciError("Docker's list of images is none")
        found = []
        for one in answer:
            fields = Fields(one, "an image of Docker's list")
            # What has no name is listed as <none>:<none>.
            names = tuple(name for name in fields.texts("RepoTags") if not name.startswith("<none>"))
            found.append(EngineImage(names, fields.text("Id"), fields.size("Size")))
        return found

    def export(self, reference: str, platform: str | None = None) -> BinaryIO:
        """See ``Engine``. Docker holds one platform of an image, mostly; ``platform`` is not asked for."""
        connection, response = self._ask("GET", f"/images/{quote(reference, safe='/:@')}/get", reference)
        connection.socket.settimeout(None)
        return _Response(connection, response)  # type: ignore[return-value]

    def remove(self, reference: str) -> None:
        """See ``Engine``: a name goes, and with the last one the image."""
        self._read("DELETE", f"/images/{quote(reference, safe='/:@')}", reference)

    def _read(self, method: str, path: str, reference: str | None = None) -> bytes:
        connection, response = self._ask(method, path, reference)
        with _Response(connection, response) as stream:
            data = stream.read(_MAX_ANSWER + 1)
        return data or b""

    def _ask(self, method: str, path: str, reference: str | None) -> tuple[_SocketConnection, http.client.HTTPResponse]:
        connection = _SocketConnection(self._path)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            if response.status < 300:
                return connection, response
            said = self._said(response.read(1 << 16)) or f"it answered with status {response.status}"
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise OciError(
                f"Docker does not answer on {printable(self._path)}: {reason}; "
                "see that it runs and that you may use it, or set DOCKER_HOST"
            ) from None
        connection.close()
        if response.status == 404 and reference is not None:
            raise NotFound(f"Docker has no image '{printable(reference)}'; 'docker images' lists what it has")
        raise OciError(f"Docker refuses: {printable(said[:300])}")

    @staticmethod
    def _said(body: bytes) -> str:
        with suppress(ValueError, AttributeError):
            return str(json.loads(body).get("message", ""))
        return ""


class _Response(io.RawIOBase):
    """The body of an answer; closing it from another thread ends a read that waits."""

    def __init__(self, connection: _SocketConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self._reading = threading.Lock()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        with self._reading:
            if self.closed:
                raise ValueError("it was closed")
            try:
                return self._response.readinto(buffer)
            except http.client.HTTPException:
                raise OciError("Docker ended the connection before the image was whole; its log says why") from None

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        with suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        with self._reading:  # who waits for bytes is woken by now
            self._response.close()
            self._connection.close()


# -- programs ------------------------------------------------------------------------------------------------------


def _run(words: Sequence[str], seconds: float | None = _SECONDS) -> str:
    """What a program prints; it may take ``seconds``. Raises ``OciError`` with what it says where it fails."""
    try:
        # In a session of its own: Ctrl-C is for this process, and no removal is broken off half-way.
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise OciError(f"'{words[0]}' does not answer within {seconds:.0f} seconds") from None
    except OSError as error:
        raise OciError(f"cannot run '{words[0]}': {error.strerror}") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").split("\n") if line.strip()]
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise OciError(f"'{words[0]}' failed: {printable(reason[:300])}")
    if len(done.stdout) > _MAX_ANSWER:
        raise OciError(f"'{words[0]}' says more than {_MAX_ANSWER >> 20} MiB")
    return done.stdout.decode("utf-8", "replace")


def _program(names: Sequence[str], what: str) -> str:
    for name in names:
        if shutil.which(name) is not None:
            return name
    raise OciError(f"{what} needs the program {' or '.join(names)}, which is not installed")


def _check_operand(reference: str) -> str:
    """A name that no program may take for an option."""
    if reference.startswith("-"):
        raise OciError(f"invalid image name '{printable(reference)}'")
    return reference


class Containerd:
    """A namespace of containerd, by ``ctr``. See ``Engine``. ``CONTAINERD_ADDRESS`` says where its socket is."""

    _LINE = re.compile(r"(\S+)\s+(\S+)\s+(sha256:[0-9a-f]{64})\s+([0-9.]+) ?([KMGT]?)i?B\s")
    """REF TYPE DIGEST SIZE PLATFORMS LABELS."""

    def __init__(self, namespace: str | None = None) -> None:
        """``namespace``: default is ``CONTAINERD_NAMESPACE``'s, or ``default``."""
        self.what = "containerd"
        self.namespace = namespace or os.environ.get("CONTAINERD_NAMESPACE") or "default"
        self._words = [*_ctr(), "-n", self.namespace]

    @staticmethod
    def namespaces() -> list[str]:
        """All namespaces. Raises ``OciError``."""
        return _run([*_ctr(), "namespaces", "ls", "-q"]).split()

    def images(self) -> list[EngineImage]:
        """See ``Engine``."""
        by_digest: dict[str, tuple[list[str], int]] = {}
        for line in _run([*self._words, "images", "ls"]).splitlines()[1:]:
            if (found := self._LINE.match(line)) is not None:
                name, _, digest, number, unit = found.groups()
                size = int(float(number) * parse_size(f"1{unit}")) if unit else int(float(number))
                by_digest.setdefault(digest, ([], size))[0].append(name)
        return [EngineImage(tuple(names), digest, size) for digest, (names, size) in by_digest.items()]

    def export(self, reference: str, platform: str | None = None) -> BinaryIO:
        """See ``Engine``."""
        words = [*self._words, "images", "export"]
        if platform is not None:
            words += ["--platform", platform]
        return ProcessStream([*words, "-", self._name(reference)])  # type: ignore[return-value]

    def remove(self, reference: str) -> None:
        """See ``Engine``: the name goes, and what no other needs with it."""
        _run([*self._words, "images", "rm", "--sync", self._name(reference)], None)

    def _name(self, reference: str) -> str:
        """The name that containerd has an image by: as it is given, or in full. Raises ``NotFound``."""
        known = _run([*self._words, "images", "ls", "-q"]).split()
        for name in (reference, _full(reference)):
            if name is not None and name in known:
                return _check_operand(name)
        raise NotFound(
            f"containerd has no image '{printable(reference)}' in the namespace '{printable(self.namespace)}'; "
            f"'ctr -n {printable(self.namespace)} images ls' lists what it has"
        )


def _ctr() -> list[str]:
    """``ctr`` on containerd's socket, which it would try to reach for a long while if it were not there."""
    address = (os.environ.get("CONTAINERD_ADDRESS") or _CONTAINERD_SOCKET).removeprefix("unix://")
    program = _program(["ctr"], CONTAINERD)
    if not os.path.exists(address):
        raise OciError(
            f"containerd does not answer on {printable(address)}; see that it runs, or set CONTAINERD_ADDRESS"
        )
    return [program, "-a", address]


def _full(reference: str) -> str | None:
    with suppress(OciError):
        return str(parse_reference(reference))
    return None


def _containerd(rest: str) -> tuple[Engine, str]:
    """Namespaces look like hosts (``k8s.io``): the first part is one if containerd says so."""
    first, slash, reference = rest.partition("/")
    if slash and first in Containerd.namespaces():
        return Containerd(first), reference
    return Containerd(), rest


class ContainersStorage:
    """The store of Podman, Buildah and CRI-O, by ``podman`` or ``skopeo``. See ``Engine``."""

    def __init__(self, driver: str = "", root: str = "", runroot: str = "") -> None:
        """Empty: what the machine's configuration says."""
        self.what = "containers-storage"
        self._program = _program(["podman", "skopeo"], STORAGE)
        self._where = ("--storage-driver", driver), ("--root", root), ("--runroot", runroot)
        self._store = f"[{driver}{'@' if driver else ''}{root}{'+' if runroot else ''}{runroot}]" if root else ""

    def _podman(self, *words: str) -> list[str]:
        return ["podman", *(word for option, value in self._where if value for word in (option, value)), *words]

    def images(self) -> list[EngineImage]:
        """See ``Engine``."""
        self._needs_podman("listing images")
        answer: Any = parse_json(
            _run(self._podman("images", "--format", "json")).encode(), "podman's list of images", _MAX_ANSWER
        )
        images: dict[str, EngineImage] = {}
        for one in answer or []:
            fields = Fields(one, "an image of podman's list")
            id_, names = fields.text("Id"), fields.texts("Names")
            images[id_] = EngineImage(names, f"sha256:{id_}", fields.size("Size"))  # once a name
        return list(images.values())

    def export(self, reference: str, platform: str | None = None) -> BinaryIO:
        """See ``Engine``. As ``docker save``: layers as the store has them, none compressed only for the way."""
        reference = _check_operand(reference.removeprefix("@"))
        if self._program == "podman":
            return ProcessStream(self._podman("save", "--format", "docker-archive", reference))  # type: ignore[return-value]
        source = f"{STORAGE}{self._store}{reference}"
        return ProcessStream(["skopeo", "copy", "-q", source, "docker-archive:/dev/stdout"])  # type: ignore[return-value]

    def remove(self, reference: str) -> None:
        """See ``Engine``: a name goes, and with the last one the image."""
        self._needs_podman("removing images")
        _run(self._podman("rmi", _check_operand(reference)), None)

    def _needs_podman(self, what: str) -> None:
        if self._program != "podman":
            raise OciError(f"{what} of containers-storage needs the program podman, which is not installed")


_STORE = re.compile(
    r"\[(?:(?P<driver>[a-z0-9]*)@)?(?P<root>[^\]+:]*)(?:\+(?P<runroot>[^\]:]*))?(?::[^\]]*)?\](?P<rest>.*)"
)


def _storage(rest: str) -> tuple[Engine, str]:
    if not rest.startswith("["):
        return ContainersStorage(), rest
    found = _STORE.fullmatch(rest)
    if found is None:
        raise OciError(f"invalid store in '{printable(STORAGE + rest)}': [DRIVER@ROOT+RUNROOT] is expected")
    return ContainersStorage(found["driver"] or "", found["root"], found["runroot"] or ""), found["rest"]
