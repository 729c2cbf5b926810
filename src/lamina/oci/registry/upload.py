"""Blobs on their way to a registry: in one request, in pieces, or as they are made."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from lamina.errors import Disconnected, OciError, RegistryError
from lamina.oci.registry.answer import Answer
from lamina.oci.registry.authentication import Scope
from lamina.oci.registry.endpoint import Endpoint
from lamina.oci.registry.transport import resolved

PIECE = 1 << 20
"""Bytes read from the blob at a time."""

FINISH_SECONDS = 900.0
"""How long a registry may think about a blob that it has: some hash all of it then."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A blob that a registry took."""

    digest: str
    size: int


Opener = Callable[[], BinaryIO]
Progress = Callable[[int], None]


class BlobUpload:
    """One blob to one repository. It begins anew with another stream if a connection breaks."""

    def __init__(
        self,
        endpoint: Endpoint,
        repository: str,
        digest: str | None,
        size: int | None,
        opener: Opener,
        progress: Progress | None,
    ) -> None:
        """``digest`` and ``size`` are None for what is made while it is sent; ``progress`` gets bytes sent so far."""
        self._endpoint = endpoint
        self._repository = endpoint.repository(repository)
        self._scopes = (Scope(self._repository, "pull,push"),)
        self._digest = digest
        self._size = size
        self._opener = opener
        self._progress = progress

    def run(self) -> Pushed:
        """Send it. Raises ``RegistryError`` if the registry does not take it."""
        transport = self._endpoint.transport
        tries = 0
        while True:
            transport.check()
            try:
                return self._once()
            except Disconnected as error:
                transport.check()
                if tries >= transport.options.retries:
                    raise RegistryError(f"{self._doing}: {error}", error.status) from None
                reason = str(error)
            tries += 1
            delay = transport.delay(tries)
            transport.notice(f"{reason}: sending again from the beginning in {delay:.1f} seconds")
            transport.wait(delay)

    @property
    def _doing(self) -> str:
        return f"cannot push blob {self._digest or ''} to {self._endpoint.name}/{self._repository}".replace("  ", " ")

    def _once(self) -> Pushed:
        location = self._begin()
        with self._opener() as stream:
            counted = _Counted(stream, self._progress)
            chunk = self._endpoint.options.chunk_size
            if chunk is None and self._digest is not None and self._size is not None:
                return self._monolithic(location, counted)
            location = self._chunked(location, counted, chunk) if chunk else self._streamed(location, counted)
            return self._finish(location, counted)

    def _begin(self) -> str:
        endpoint = self._endpoint
        url = endpoint.url(f"{self._repository}/blobs/uploads/")
        answer = endpoint.send("POST", url, self._scopes, body=b"")
        if answer.status != 202:
            raise endpoint.refusal(answer, self._doing)
        self._minimum = answer.header("OCI-Chunk-Min-Length")
        return self._location(answer)

    def _location(self, answer: Answer) -> str:
        with answer:
            location = answer.header("Location")
        if not location:
            raise RegistryError(f"{self._doing}: the answer has no Location", answer.status)
        return resolved(answer.url, location)

    def _monolithic(self, location: str, counted: "_Counted") -> Pushed:
        assert self._digest is not None and self._size is not None
        size = self._size
        answer = self._put(_with_digest(location, self._digest), lambda: counted.pieces(size), size)
        with answer:
            if answer.status != 201:
                raise self._refusal(answer)
            counted.check(self._digest, size, self._doing)
            return Pushed(self._digest, size)

    def _streamed(self, location: str, counted: "_Counted") -> str:
        """One PATCH of unknown length, as docker push does it."""
        answer = self._patch(location, lambda: counted.pieces(None), None, {})
        return self._location(answer)

    def _chunked(self, location: str, counted: "_Counted", chunk: int) -> str:
        """A PATCH for each piece (OCI distribution-spec, "Pushing a blob in chunks")."""
        minimum = self._minimum or ""
        if minimum.isascii() and minimum.isdigit() and len(minimum) < 12:
            chunk = max(chunk, int(minimum))
        while True:
            begin = counted.count
            data = counted.read(chunk)
            if not data:
                return location
            headers = {"Content-Range": f"{begin}-{counted.count - 1}"}
            answer = self._patch(location, data, len(data), headers)
            location = self._location(answer)

    def _patch(
        self, location: str, body: "bytes | Callable[[], Iterator[bytes]]", length: int | None, headers: dict[str, str]
    ) -> Answer:
        answer = self._endpoint.send(
            "PATCH",
            location,
            self._scopes,
            headers={"Content-Type": "application/octet-stream", **headers},
            body=body,
            length=length,
            again=False,
            patience=FINISH_SECONDS,
        )
        # 202 by the specification; some answer 204 or 201.
        if answer.status not in (201, 202, 204):
            raise self._refusal(answer)
        return answer

    def _put(self, url: str, body: "bytes | Callable[[], Iterator[bytes]]", length: int) -> Answer:
        return self._endpoint.send(
            "PUT",
            url,
            self._scopes,
            headers={"Content-Type": "application/octet-stream"},
            body=body,
            length=length,
            again=False,
            patience=FINISH_SECONDS,
        )

    def _finish(self, location: str, counted: "_Counted") -> Pushed:
        digest = self._digest or counted.digest
        counted.check(digest, self._size, self._doing)
        answer = self._put(_with_digest(location, digest), b"", 0)
        with answer:
            if answer.status != 201:
                raise self._refusal(answer)
        return Pushed(digest, counted.count)

    def _refusal(self, answer: Answer) -> RegistryError:
        error = self._endpoint.refusal(answer, self._doing)
        # An upload that the registry lost (404) or that got out of step (416) begins anew.
        if answer.status in (404, 408, 416, 429) or answer.status >= 500:
            return Disconnected(str(error), answer.status)
        return error


class _Counted:
    """The stream of a blob, counted and hashed as it goes."""

    def __init__(self, stream: BinaryIO, progress: Progress | None) -> None:
        self._stream = stream
        self._progress = progress
        self._hash = hashlib.sha256()
        self.count = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def read(self, count: int) -> bytes:
        """``count`` bytes, fewer at the end only."""
        parts = []
        while count and (data := self._piece(min(count, PIECE))):
            self._hash.update(data)
            self.count += len(data)
            count -= len(data)
            parts.append(data)
            if self._progress is not None:
                self._progress(self.count)
        return b"".join(parts)

    def _piece(self, count: int) -> bytes:
        try:
            return self._stream.read(count)
        except OSError as error:
            # Not to be taken for one of the connection's, which would be tried again.
            raise OciError(f"cannot read what is to be pushed: {error.strerror or error}") from error

    def pieces(self, size: int | None) -> Iterator[bytes]:
        """The rest of the stream, ``size`` bytes where that is known."""
        while size is None or self.count < size:
            data = self.read(PIECE if size is None else min(PIECE, size - self.count))
            if data:
                yield data
            elif size is None:
                break
            else:
                # The server would wait for the rest.
                raise RegistryError(f"what is to be pushed has {self.count} bytes, not {size}")

    def check(self, digest: str, size: int | None, doing: str) -> None:
        """Raise if what was sent is not what was promised."""
        if size is not None and self.count != size:
            raise RegistryError(f"{doing}: it has {self.count} bytes, not {size}")
        if digest.startswith("sha256:") and digest != self.digest:
            raise RegistryError(f"{doing}: its digest is {self.digest}")


def _with_digest(location: str, digest: str) -> str:
    parts = urlsplit(location)
    query = [*parse_qsl(parts.query, keep_blank_values=True), ("digest", digest)]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))
