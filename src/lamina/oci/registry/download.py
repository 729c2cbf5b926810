"""A blob as a stream that goes on where it was cut."""

import io
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lamina.errors import AuthError, Disconnected, RegistryError
from lamina.oci.registry.answer import Answer
from lamina.oci.registry.authentication import Scope
from lamina.oci.registry.endpoint import Endpoint
from lamina.oci.registry.transport import retry_after
from lamina.pool.names import printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SLOWEST = 100
"""Bytes a second. What comes slower, for as long as nothing may come, is taken for a stall."""

_PIECE = 256 << 10
"""Bytes asked of the connection at a time."""


class BlobDescription(Protocol):
    """What a manifest says of a blob."""

    @property
    def digest(self) -> str:
        """``sha256:…``."""

    @property
    def size(self) -> int:
        """Bytes."""


class BlobStream(io.RawIOBase):
    """Reads a blob of exactly ``size`` bytes. Nothing is verified but the size: whoever takes it checks the digest.

    A connection that breaks or stalls is made anew and gone on with by ``Range``; a server that knows no ranges sends
    all again, and what was read is skipped. After ``retries`` tries without a new byte the next server is asked, and
    after the last one ``RegistryError`` raised. To be used by one thread.
    """

    def __init__(self, endpoints: Sequence[Endpoint], repository: str, blob: BlobDescription) -> None:
        """Nothing is asked for before the first read. The endpoints are tried in their order."""
        super().__init__()
        self._endpoints = list(endpoints)
        self._repository = repository
        self._digest = blob.digest
        self._size = blob.size
        self._position = 0
        self._answer: Answer | None = None
        self._ranges = True
        self._tries = 0
        self._asked: float | None = None
        self._came, self._waited = 0, 0.0

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._position

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read what has come, at least a byte unless the blob is at its end, where 0 is returned."""
        view = memoryview(buffer).cast("B")
        data = self._next(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let go of the connection."""
        if not self.closed:
            self._let_go()
        super().close()

    def _next(self, most: int) -> bytes:
        if self.closed:
            raise ValueError("read of a closed blob")
        if most == 0:
            return b""
        while True:
            if self._position == self._size:
                self._check_end()
                return b""
            try:
                answer = self._answer or self._open()
                self._check_pace(answer)
                began = time.monotonic()
                data = answer.read(min(most, _PIECE, self._size - self._position))
                self._waited += time.monotonic() - began
                if not data:
                    raise Disconnected(f"{answer.host} ended it at byte {self._position} of {self._size}")
            except Disconnected as error:
                self._again(error)
                continue
            self._position += len(data)
            self._came += len(data)
            self._tries = 0
            return data

    def _check_pace(self, answer: Answer) -> None:
        """Raise if next to nothing came. Only time in which the network was waited for counts, not the reader's own."""
        if self._waited < self._endpoints[0].options.read_timeout:
            return
        came, waited = self._came, self._waited
        self._came, self._waited = 0, 0.0
        if came < SLOWEST * waited:
            raise Disconnected(f"{answer.host} sent {came} bytes in {waited:.1f} seconds")

    def _again(self, error: RegistryError) -> None:
        """Wait before another try at the same server; or go on to the next one; or give up."""
        self._let_go()
        endpoint = self._endpoints[0]
        endpoint.transport.check()
        asked, self._asked = self._asked, None
        if self._tries >= endpoint.options.retries or (asked or 0) > endpoint.options.max_wait:
            self._give_up_endpoint(error)
            return
        self._tries += 1
        delay = endpoint.transport.delay(self._tries, asked)
        endpoint.transport.notice(f"{error}: going on at byte {self._position} in {delay:.1f} seconds")
        endpoint.transport.wait(delay)

    def _give_up_endpoint(self, error: RegistryError) -> None:
        if len(self._endpoints) == 1:
            if isinstance(error, AuthError):
                raise error
            doing = "" if error.status is not None else f"cannot read blob {self._shown}: "
            raise RegistryError(f"{doing}{error}", error.status) from None
        mirror = self._endpoints.pop(0)
        mirror.transport.notice(f"{error}: {self._endpoints[0].name} is asked instead of {mirror.name}")
        self._tries, self._ranges = 0, True

    @property
    def _shown(self) -> str:
        return printable(self._digest)

    def _open(self) -> Answer:
        """Ask for what is left; the answer's body then begins at the position."""
        while True:
            endpoint = self._endpoints[0]
            try:
                answer = self._ask(endpoint)
            except Disconnected:
                raise
            except RegistryError as error:
                if len(self._endpoints) == 1:
                    raise
                self._give_up_endpoint(error)
                continue
            if answer is not None:
                self._answer = answer
                return answer

    def _ask(self, endpoint: Endpoint) -> Answer | None:
        """The answer of one server, None if it is to be asked in another way."""
        repository = endpoint.repository(self._repository)
        begin = self._position if self._ranges else 0
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        # Tries are counted here: those of the transport would multiply with them.
        answer = endpoint.send(
            "GET",
            endpoint.url(f"{repository}/blobs/{self._digest}"),
            (Scope(repository),),
            headers=headers,
            again=False,
        )
        try:
            if answer.status == 206 and begin and self._fits(answer, begin):
                return answer
            if answer.status == 200:
                self._check_length(answer, self._size)
                self._skip(answer, self._position)
                return answer
            if begin and answer.status in (206, 416):
                answer.close()
                self._ranges = False  # its ranges make no sense: all again
                return None
            if answer.status in (408, 429) or answer.status >= 500:
                self._asked = retry_after(answer)
                raise Disconnected(str(endpoint.refusal(answer, f"cannot read blob {self._shown}")), answer.status)
            raise endpoint.refusal(answer, f"cannot read blob {self._shown}")
        except BaseException:
            answer.close()
            raise

    def _fits(self, answer: Answer, begin: int) -> bool:
        """Whether a partial answer is the part that was asked for."""
        unit, _, rest = (answer.header("Content-Range") or "").partition(" ")
        span, _, total = rest.partition("/")
        first, _, last = span.partition("-")
        if unit.lower() != "bytes" or first.strip() != str(begin) or not last.strip().isdigit():
            return False
        return total.strip() in ("*", str(self._size)) and begin <= int(last) < self._size

    def _check_length(self, answer: Answer, wanted: int) -> None:
        if answer.length is not None and answer.length != wanted and answer.header("Content-Encoding") is None:
            raise RegistryError(
                f"blob {self._shown} has {answer.length} bytes at {answer.host}, its manifest says {wanted}",
                answer.status,
            )

    def _skip(self, answer: Answer, count: int) -> None:
        while count:
            data = answer.read(min(count, _PIECE))
            if not data:
                raise Disconnected(f"{answer.host} ended it before byte {self._position} of {self._size}")
            count -= len(data)

    def _check_end(self) -> None:
        """Nothing may follow where the server did not say how much there is."""
        answer = self._answer
        if answer is None:
            return
        more = b""
        if answer.length is None:
            try:
                more = answer.read(1)
            except Disconnected:
                pass  # all bytes are here: how the connection ended does not matter
        self._let_go()
        if more:
            raise RegistryError(f"blob {self._shown} is longer at {answer.host} than its manifest says ({self._size})")

    def _let_go(self) -> None:
        self._came, self._waited = 0, 0.0
        if self._answer is not None:
            self._answer.close()
            self._answer = None
