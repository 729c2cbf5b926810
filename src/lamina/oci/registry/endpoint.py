"""One server that speaks the registry's protocol: the registry itself or a mirror of it."""

import threading
from collections.abc import Callable, Iterable, Mapping

from lamina.errors import AuthError, Disconnected, NotTls, RegistryError
from lamina.oci.registry.answer import Answer
from lamina.oci.registry.authentication import Authenticator, Scope
from lamina.oci.registry.credentials import Found
from lamina.oci.registry.options import Options
from lamina.oci.registry.reference import is_loopback
from lamina.oci.registry.transport import Body, Request, Transport, origin_of, resolved
from lamina.pool.names import printable

Find = Callable[[], Found]


class Endpoint:
    """Requests to ``/v2/…`` of a server, with whoever asks in them."""

    def __init__(
        self, name: str, api: str, transport: Transport, find: Find, *, prefix: str = "", plain_http: bool = False
    ) -> None:
        """``name`` is what messages call it, ``api`` its ``HOST[:PORT]``, ``prefix`` goes before all repositories."""
        self.name = name
        self.transport = transport
        self._api = api
        self._prefix = f"{prefix}/" if prefix else ""
        self._plain_http = plain_http
        self._find = find
        self._lock = threading.Lock()
        self._base: str | None = None
        self._authenticator: Authenticator | None = None

    @property
    def options(self) -> Options:
        """The options of its transport."""
        return self.transport.options

    def repository(self, repository: str) -> str:
        """The repository's name at this server."""
        return self._prefix + repository

    def url(self, path: str) -> str:
        """The URL of a path below ``/v2/``."""
        return f"{self._connected()[0]}/v2/{path}"

    def send(
        self,
        method: str,
        url: str,
        scopes: Iterable[Scope],
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        length: int | None = None,
        again: bool = True,
        patience: float | None = None,
    ) -> Answer:
        """Send a request to a ``url`` (of ``url()``, or one that the server gave) and say who asks if it wants to know.

        Any status may come back: 401 and 403 too, for ``refusal`` to explain.
        """
        scopes = tuple(scopes)
        base, authenticator = self._connected()
        url = resolved(base, url)
        own = origin_of(url) == origin_of(base)
        if origin_of(base)[0] == "https" and origin_of(url)[0] != "https":
            raise RegistryError(f"{self.name} names an address without TLS: {printable(url[:200])} is not used")
        request = Request(
            method=method,
            url=url,
            headers=headers or {},
            authorization=authenticator.header(scopes) if own else None,
            body=body,
            length=length,
            again=again,
            patience=patience,
        )
        answer = self.transport.send(request)
        if answer.status != 401 or not own or origin_of(answer.url) != origin_of(base):
            return answer
        try:
            authorization = authenticator.challenged(answer, scopes, request.authorization)
        except BaseException:
            answer.close()
            raise
        if authorization is None:
            return answer
        answer.close()
        if callable(body) and not again:
            # What makes the body cannot begin anew; whoever sends it can, with the new token.
            raise Disconnected(f"the login at {self.name} ran out", 401)
        return self.transport.send(
            Request(
                method=method,
                url=url,
                headers=headers or {},
                authorization=authorization,
                body=body,
                length=length,
                again=again,
                patience=patience,
            )
        )

    def fetch(
        self, url: str, scopes: Iterable[Scope], limit: int, what: str, headers: Mapping[str, str] | None = None
    ) -> tuple[Answer, bytes]:
        """An answer with its whole body, of at most ``limit`` bytes; tried again where the body was cut.

        The body is empty where the status is not 200: ``refusal`` reads it then.
        """
        scopes = tuple(scopes)
        tries = 0
        while True:
            answer = self.send("GET", url, scopes, headers=headers)
            if answer.status != 200:
                return answer, b""
            try:
                with answer:
                    body = answer.body(limit, what)
                if not body:
                    raise Disconnected(f"{answer.host} sends nothing for {what}")
                return answer, body
            except Disconnected as error:
                if tries >= self.options.retries:
                    raise
                tries += 1
                delay = self.transport.delay(tries)
                self.transport.notice(f"{error}: trying again in {delay:.1f} seconds")
                self.transport.wait(delay)

    def refusal(self, answer: Answer, doing: str) -> RegistryError:
        """The error for an answer that is not what was asked for; closes it. ``doing`` begins the message."""
        with answer:
            said = answer.complaint()
            asked = answer.header("Retry-After")
        status = answer.status
        reason = f": {said}" if said else ""
        start = f"{doing}: {self.name}"
        if status in (401, 403):
            return AuthError(f"{start} denies access ({status}{reason}): {self._advice(status)}", status)
        if status == 429:
            until = f"; it asks to wait {printable(asked)} seconds" if asked and asked.isdigit() else ""
            return RegistryError(f"{start} had too many requests{reason}{until}: log in, or try again later", status)
        if status == 404:
            return RegistryError(f"{start} does not have it{reason}", status)
        if status >= 500:
            return RegistryError(f"{start} fails ({status}{reason}): try again later", status)
        return RegistryError(f"{start} answers {status}{reason}", status)

    def _advice(self, status: int) -> str:
        assert self._authenticator is not None
        if status == 403 and not self._authenticator.anonymous:
            return "this login may not do that"
        if self._authenticator.anonymous:
            return f"it may not exist, or want a login: {self._authenticator.advice()}"
        return f"the login is not accepted: {self._authenticator.advice()}"

    def _connected(self) -> tuple[str, Authenticator]:
        with self._lock:
            if self._base is None or self._authenticator is None:
                self._base = f"{self._scheme()}://{self._api}"
                self._authenticator = Authenticator(self._base, self.name, self.transport, self._find)
            return self._base, self._authenticator

    def _scheme(self) -> str:
        """https, unless the user says otherwise. This machine, and hosts not to be verified, may also speak http.

        That is Docker's rule: TLS is tried first there, and what fails as TLS is tried without.
        """
        if self._plain_http:
            return "http"
        if not is_loopback(self._api) and self.options.tls_verify:
            return "https"
        try:
            self.transport.send(Request("GET", f"https://{self._api}/v2/", again=False, follow=False)).close()
            return "https"
        except NotTls:
            return "http"
        except Disconnected as error:
            try:
                self.transport.send(Request("GET", f"http://{self._api}/v2/", again=False, follow=False)).close()
                return "http"
            except RegistryError:
                raise error from None
