"""An answer of a server: its head, and its body as it comes. And what its errors say, made fit for a terminal."""

import json
import time
from typing import TYPE_CHECKING, Any

from lamina.errors import Disconnected, RegistryError
from lamina.oci.registry.failures import translated
from lamina.pool.names import printable

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from lamina.oci.registry.transport import Transport

MAX_ERROR = 64 << 10
"""Bytes that are read of an error's body."""

SMALL_SECONDS = 300.0
"""How long a small body (a manifest, a token) may take as a whole, however steadily it trickles."""

_DRAIN = 16 << 10
_DRAIN_SECONDS = 0.5


class Answer:
    """One answer. Its body is raw bytes: no content encoding is undone, so digests are of what was sent."""

    def __init__(self, response: "BaseHTTPResponse", host: str, url: str, transport: "Transport") -> None:
        """``host`` is shown in messages, ``url`` is what was asked for last."""
        self._response = response
        self._transport = transport
        self.host = printable(host)
        self.url = url
        self.status = response.status
        self._broken = False

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def header(self, name: str) -> str | None:
        """A header's value; the first, where it stands several times."""
        values = self._response.headers.getlist(name)
        return values[0].strip() if values else None

    def headers(self, name: str) -> list[str]:
        """All values of a header."""
        return list(self._response.headers.getlist(name))

    @property
    def length(self) -> int | None:
        """What the server says of the body's length."""
        value = self.header("Content-Length") or ""
        return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None

    def read(self, most: int) -> bytes:
        """Up to ``most`` bytes as they come, b"" at the end. Raises ``Disconnected`` if the body breaks off."""
        import urllib3

        try:
            data = self._response.read1(most, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError, AttributeError: http.client's, of a file that another thread closed.
            self._broken = True
            self._transport.check()
            raise translated(error, self.host, self._transport.options.read_timeout) from None
        if not data:
            self._transport.check()
        return data

    def body(self, limit: int, what: str) -> bytes:
        """The whole body. Raises ``RegistryError`` if it is larger than ``limit`` or trickles too long."""
        too_large = RegistryError(f"{self.host} sends {what} of more than {_size(limit)}: it is not taken", self.status)
        if self.length is not None and self.length > limit:
            raise too_large
        parts: list[bytes] = []
        left = limit + 1
        deadline = time.monotonic() + SMALL_SECONDS
        while data := self.read(min(left, 1 << 20)):
            parts.append(data)
            left -= len(data)
            if left <= 0:
                raise too_large
            if time.monotonic() > deadline:
                raise Disconnected(f"{self.host} takes more than {SMALL_SECONDS:.0f} seconds to send {what}")
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back if little is left of the body; cut it otherwise."""
        response = self._response
        if not response.closed and not self._broken and self.length is not None and self.length <= _DRAIN:
            self._drain()
        if response.closed:
            response.release_conn()  # read to its end: the connection serves another request
        else:
            response.close()

    def _drain(self) -> None:
        """Read what is left, if that is quickly done: a new connection costs less than a long wait."""
        sock: Any = getattr(self._response.connection, "sock", None)
        if sock is None:
            return
        deadline = time.monotonic() + _DRAIN_SECONDS
        sock.settimeout(_DRAIN_SECONDS)
        try:
            while self.read(_DRAIN) and time.monotonic() < deadline:
                pass
            sock.settimeout(self._transport.options.read_timeout)
        except (RegistryError, OSError):
            self._broken = True

    def complaint(self) -> str:
        """What the body of an error says, on one line and without anything that could act on a terminal."""
        try:
            raw = self.body(MAX_ERROR, "an error")
        except RegistryError:
            return ""
        return complaint_of(raw)


def complaint_of(raw: bytes) -> str:
    """The messages of a body as the distribution-spec has them (``{"errors": [{"code", "message"}]}``)."""
    try:
        document: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    said: list[str] = []
    errors = document.get("errors")
    for error in errors if isinstance(errors, list) else [document]:
        if not isinstance(error, dict):
            continue
        for name in ("message", "details", "code", "error"):
            value = error.get(name)
            if isinstance(value, str) and value.strip():
                said.append(printable(" ".join(value.split())[:300]))
                break
    return "; ".join(dict.fromkeys(said))[:600]


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
