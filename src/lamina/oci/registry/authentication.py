"""Saying who asks: HTTP basic, or a token got from the server that the registry names.

The flows are those of distribution's "Token Authentication Specification" (GET with service and scope) and "Oauth2
Token Authentication" (POST with a refresh token). A token is kept for its scope until it runs out, and renewed then: a
long pull outlives several.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from lamina.errors import AuthError, OciError, RegistryError
from lamina.oci.formats.documents import Fields, parse_json
from lamina.oci.registry.answer import Answer
from lamina.oci.registry.challenge import Challenge, parse_challenges
from lamina.oci.registry.credentials import Credentials, Found
from lamina.oci.registry.transport import Request, Transport, origin_of
from lamina.pool.names import printable

MAX_TOKEN_ANSWER = 1 << 20
"""Bytes of a token server's answer."""

DEFAULT_LIFETIME = 60.0
"""Seconds that a token is good for where its server does not say (Token Authentication Specification)."""

CLIENT_ID = "lamina"

_EARLY = 0.1  # of its lifetime, a token is renewed before its end: the clocks and the way there


@dataclass(frozen=True, slots=True)
class Scope:
    """What is wanted of a repository: ``pull``, ``pull,push``."""

    repository: str
    actions: str = "pull"

    def __str__(self) -> str:
        return f"repository:{self.repository}:{self.actions}"


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    until: float
    """Of the monotonic clock."""


class Authenticator:
    """Who asks, for one registry. Safe to use from several threads: they share tokens."""

    def __init__(self, origin: str, name: str, transport: Transport, find: Callable[[], Found]) -> None:
        """``origin`` is the registry's URL, ``name`` what messages call it; ``find`` looks for credentials."""
        self._origin = origin_of(origin)
        self._name = name
        self._transport = transport
        self._find = find
        self._lock = threading.RLock()
        self._found: Found | None = None
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._extra: dict[tuple[str, ...], tuple[str, ...]] = {}

    @property
    def found(self) -> Found:
        """The credentials, looked for once."""
        with self._lock:
            if self._found is None:
                self._found = self._find()
            return self._found

    @property
    def anonymous(self) -> bool:
        """Whether nobody is logged in there."""
        return self.found.credentials is None

    def header(self, scopes: Iterable[Scope]) -> str | None:
        """The ``Authorization`` to send at once; None while the registry did not ask for one."""
        with self._lock:
            if self._challenge is None:
                return None
            return self._header(_names(scopes), self._challenge)

    def challenged(self, answer: Answer, scopes: Iterable[Scope], rejected: str | None) -> str | None:
        """What to send after a 401 to ``rejected``; None if there is nothing else to say."""
        names = _names(scopes)
        with self._lock:
            challenge = self._chosen(parse_challenges(answer.headers("WWW-Authenticate")))
            if challenge is None:
                return None
            self._challenge = challenge
            if challenge.scheme == "bearer":
                asked = tuple(scope for scope in challenge.get("scope").split(" ") if scope and scope not in names)
                # A registry that names other scopes than we thought of gets them; ours stay for the next request.
                if asked:
                    self._extra[names] = asked
                kept = self._tokens.get(names)
                if kept is not None and kept.header == rejected:
                    del self._tokens[names]
            header = self._header(names, challenge)
            return None if header == rejected else header

    def _chosen(self, challenges: tuple[Challenge, ...]) -> Challenge | None:
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.get("realm"):
                return challenge
        return next((challenge for challenge in challenges if challenge.scheme == "basic"), None)

    def _header(self, names: tuple[str, ...], challenge: Challenge) -> str | None:
        credentials = self.found.credentials
        if challenge.scheme == "basic":
            return credentials.basic if credentials is not None else None
        if credentials is not None and credentials.registry_token:
            return f"Bearer {_usable(credentials.registry_token, self._name)}"
        token = self._tokens.get(names)
        if token is None or time.monotonic() >= token.until:
            token = self._tokens[names] = self._fetch(names, challenge, credentials)
        return token.header

    def _fetch(self, names: tuple[str, ...], challenge: Challenge, credentials: Credentials | None) -> _Token:
        realm = challenge.get("realm")
        scheme, host, _ = origin_of(realm)
        if self._origin[0] == "https" and scheme != "https":
            raise AuthError(f"{self._name} sends us to {printable(host)} for a token without TLS: that is not done")
        scopes = sorted({*names, *self._extra.get(names, ())})
        fields = [("service", challenge.get("service"))] if challenge.get("service") else []
        if credentials is not None and credentials.identity_token:
            request = self._refresh(realm, fields, scopes, credentials)
        else:
            fields += [("scope", scope) for scope in scopes]
            basic = credentials.basic if credentials is not None else None
            if basic is not None and credentials is not None:
                fields += [("account", credentials.username), ("client_id", CLIENT_ID)]
            joint = "&" if urlsplit(realm).query else "?"
            request = Request("GET", realm + (joint + urlencode(fields) if fields else ""), authorization=basic)
        began = time.monotonic()
        with self._transport.send(request) as answer:
            if answer.status != 200:
                raise self._refused(answer, credentials)
            return self._token(answer, began)

    def _refresh(
        self, realm: str, fields: list[tuple[str, str]], scopes: list[str], credentials: Credentials
    ) -> Request:
        form = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), *fields]
        if scopes:
            form.append(("scope", " ".join(scopes)))
        form.append(("refresh_token", credentials.identity_token))
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return Request("POST", realm, headers, body=urlencode(form).encode(), secret=True)

    def _refused(self, answer: Answer, credentials: Credentials | None) -> RegistryError:
        said = answer.complaint()
        reason = f": {said}" if said else ""
        if answer.status in (400, 401, 403, 404, 405):
            who = "" if credentials is None else f" for the login of {printable(credentials.username) or 'a token'}"
            return AuthError(
                f"{answer.host} gives no token{who} ({answer.status}{reason}): {self.advice()}", answer.status
            )
        return RegistryError(f"{answer.host} gives no token: it answers {answer.status}{reason}", answer.status)

    def advice(self) -> str:
        """What to do when a registry does not believe us or does not let us."""
        text = f"log in with 'docker login {self._name}', or give --username and --password-stdin"
        return "; ".join([*self.found.problems, text])

    def _token(self, answer: Answer, began: float) -> _Token:
        raw = answer.body(MAX_TOKEN_ANSWER, "a token")
        what = f"the token of {answer.host}"
        try:
            fields = Fields(parse_json(raw, what, MAX_TOKEN_ANSWER), what)
            text = fields.text("token", "") or fields.text("access_token", "")
            lifetime = fields.value("expires_in")
        except OciError as error:
            raise RegistryError(str(error), answer.status) from None
        if not text:
            raise RegistryError(f"{what}: there is none in the answer", answer.status)
        if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or not 0 < lifetime < 1e9:
            lifetime = DEFAULT_LIFETIME
        return _Token(f"Bearer {_usable(text, answer.host)}", began + lifetime * (1 - _EARLY))


def _names(scopes: Iterable[Scope]) -> tuple[str, ...]:
    return tuple(sorted({str(scope) for scope in scopes}))


def _usable(token: str, host: str) -> str:
    """A token may only have characters that make no other header of it."""
    if not all("!" <= character <= "~" for character in token):
        raise RegistryError(f"the token of {host} has characters that no token has")
    return token
