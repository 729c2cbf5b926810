"""HTTP to a registry and to whom it sends us: connections shared by threads, redirects, tries again.

Redirects are followed here and not by urllib3: what says who we are (``Authorization``) never goes to another scheme,
host or port, and nothing goes from https to http.
"""

import os
import random
import socket
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from lamina import __version__
from lamina.errors import Disconnected, RegistryError
from lamina.oci.registry.answer import Answer
from lamina.oci.registry.failures import translated
from lamina.oci.registry.options import Options
from lamina.oci.registry.proxies import Proxies, Proxy
from lamina.oci.registry.tls import Trust
from lamina.pool.names import printable

if TYPE_CHECKING:
    from urllib3 import PoolManager

MAX_REDIRECTS = 5
"""How often an answer may point elsewhere."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_PORTS = {"http": 80, "https": 443}

Body = bytes | Callable[[], Iterable[bytes]]
Origin = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. ``body`` is bytes, or a function that gives the pieces from their beginning each time."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    body: Body | None = None
    length: int | None = None
    """Bytes of the body where the server is to be told; None sends pieces in chunks."""
    again: bool = True
    """Whether it may be sent again after a failure."""
    patience: float | None = None
    """Seconds in which nothing may come, where they differ from the options'."""
    follow: bool = True
    """Whether to go where an answer points."""
    secret: bool = False
    """Whether the body is: it goes nowhere else then."""


def origin_of(url: str) -> Origin:
    """Scheme, host and port of a URL. Raises ``RegistryError`` for what is no http or https URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in _PORTS or not url.isascii() or not url.isprintable() or " " in url:
        raise RegistryError(f"'{printable(url[:200])}' is no address that a registry may name")
    if parts.username is not None or parts.password is not None:
        raise RegistryError(f"a server names an address of {printable(host)} with a user in it: it is not followed")
    return parts.scheme, host, _PORTS[parts.scheme] if port is None else port


def resolved(base: str, url: str) -> str:
    """The address that a server means by ``url`` in an answer to ``base``. Raises ``RegistryError`` if it is none."""
    try:
        return urljoin(base, url).partition("#")[0]
    except ValueError:
        raise RegistryError(f"'{printable(url[:200])}' is no address that a registry may name") from None


class Transport:
    """Connections for one registry. Safe to use from several threads; ``close`` ends what any of them waits for."""

    def __init__(
        self,
        registry: str,
        api: str,
        options: Options,
        *,
        environment: Mapping[str, str] | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        """``registry`` is its name (for certificates), ``api`` the ``HOST[:PORT]`` that answers for it."""
        environment = os.environ if environment is None else environment
        self.options = options
        self._api = api
        self._trust = Trust(registry, options, environment)
        self._proxies = Proxies(environment)
        self._notice = notice
        self._lock = threading.Lock()
        self._managers: dict[tuple[Proxy | None, _Way], PoolManager] = {}
        self._closed = threading.Event()
        self._sockets = _Sockets()

    def close(self) -> None:
        """Cut all connections: reads and waits of other threads end soon with ``RegistryError``."""
        self._closed.set()
        self._sockets.cut()
        with self._lock:
            managers = list(self._managers.values())
        for manager in managers:
            manager.clear()

    def wait(self, seconds: float) -> None:
        """Sleep, unless the transport is closed meanwhile."""
        if self._closed.wait(seconds):
            raise stopped()

    def check(self) -> None:
        """Raise if the transport was closed."""
        if self._closed.is_set():
            raise stopped()

    def notice(self, text: str) -> None:
        """Tell the user something that is no error."""
        if self._notice is not None:
            self._notice(text)

    def delay(self, tries: int, asked: float | None = None) -> float:
        """Seconds to wait before another try: twice as long each time, up to a half less by chance, or as asked."""
        delay = min(self.options.backoff * 2.0 ** min(tries - 1, 20), self.options.max_wait)
        delay *= random.uniform(0.5, 1.0)
        return delay if asked is None else min(max(asked, delay), self.options.max_wait)

    def send(self, request: Request) -> Answer:
        """Send a request, follow where it leads, try again what may be tried again. The caller closes the answer.

        An answer of any status comes back, except those that were worth another try and those that redirect.
        Raises ``RegistryError``; ``Disconnected`` if there was no answer after all tries.
        """
        tries = 0
        while True:
            self.check()
            asked: float | None = None
            try:
                answer = self._follow(request)
            except Disconnected as error:
                self.check()
                if not request.again or tries >= self.options.retries:
                    raise
                reason = str(error)
            else:
                if answer.status not in _AGAIN:
                    return answer
                asked = retry_after(answer)
                too_long = asked is not None and asked > self.options.max_wait
                if not request.again or tries >= self.options.retries or too_long:
                    return answer
                reason = f"{answer.host} answers {answer.status}"
                answer.close()
            tries += 1
            delay = self.delay(tries, asked)
            self.notice(f"{reason}: trying again in {delay:.1f} seconds")
            self.wait(delay)

    def _follow(self, request: Request) -> Answer:
        first = origin_of(request.url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._exchange(request)
            location = answer.header("Location")
            if answer.status not in _REDIRECTS or location is None or not request.follow:
                return answer
            answer.close()
            request = self._redirected(request, answer, location)
        raise RegistryError(f"{printable(first[1])} redirects more than {MAX_REDIRECTS} times")

    def _redirected(self, request: Request, answer: Answer, location: str) -> Request:
        old = origin_of(request.url)
        url = resolved(request.url, location)
        new = origin_of(url)
        if old[0] == "https" and new[0] != "https":
            raise RegistryError(f"{answer.host} redirects from https to {new[0]}: that is not followed")
        if request.method not in ("GET", "HEAD") and answer.status not in (307, 308):
            raise RegistryError(f"{answer.host} redirects a {request.method}: that is not followed", answer.status)
        if callable(request.body) and not request.again:
            raise RegistryError(f"{answer.host} redirects an upload: that is not followed", answer.status)
        if new == old:
            return replace(request, url=url)
        if request.secret:
            raise RegistryError(f"{answer.host} redirects to {printable(new[1])} what is meant for itself alone")
        return replace(request, url=url, authorization=None)

    def _exchange(self, request: Request) -> Answer:
        """One request and the head of its answer."""
        import urllib3

        scheme, host, port = origin_of(request.url)
        proxy = self._proxies.way_to(scheme, host, port)
        own = _authority(scheme, host, port) == _authority_of(self._api, scheme)
        manager = self._manager(proxy, _Way(scheme == "https", own))
        headers = {"User-Agent": f"lamina/{__version__}", **request.headers}
        if request.authorization is not None:
            headers["Authorization"] = request.authorization
        body = request.body() if callable(request.body) else request.body
        if request.body is not None and request.length is not None:
            headers["Content-Length"] = str(request.length)
        shown = _authority(scheme, host, port)
        patience = self.options.read_timeout if request.patience is None else request.patience
        try:
            response = manager.urlopen(
                request.method,
                request.url,
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=self.options.connect_timeout, read=patience),
                preload_content=False,
                decode_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self.check()
            raise translated(error, shown, patience) from None
        return Answer(response, shown, request.url, self)

    def _manager(self, proxy: Proxy | None, way: "_Way") -> "PoolManager":
        with self._lock:
            if self._closed.is_set():
                raise stopped()
            if (proxy, way) not in self._managers:
                self._managers[proxy, way] = self._make_manager(proxy, way)
            return self._managers[proxy, way]

    def _make_manager(self, proxy: Proxy | None, way: "_Way") -> "PoolManager":
        import urllib3

        # To read the system's CAs takes 15 ms: not where no TLS is spoken.
        context = self._trust.context(own=way.own) if way.tls else None
        keep = self.options.connections
        manager: PoolManager
        if proxy is None:
            manager = urllib3.PoolManager(num_pools=8, maxsize=keep, ssl_context=context, retries=False)
        else:
            manager = urllib3.ProxyManager(
                proxy.url,
                num_pools=8,
                maxsize=keep,
                ssl_context=context,
                proxy_ssl_context=self._trust.context(own=False) if proxy.url.startswith("https:") else None,
                proxy_headers=urllib3.make_headers(proxy_basic_auth=proxy.user) if proxy.user else None,
                retries=False,
            )
        manager.pool_classes_by_scheme = _pool_classes(self._sockets, self.options.read_timeout)
        return manager


def stopped() -> RegistryError:
    """What a thread gets that waits for a registry whose connections were cut."""
    return RegistryError("the transfer was stopped")


def retry_after(answer: Answer) -> float | None:
    """Seconds that the server asks to wait; None if it does not say so."""
    value = (answer.header("Retry-After") or "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    if not value:
        return None
    try:
        from datetime import UTC, datetime

        when = parsedate_to_datetime(value)
        return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _authority(scheme: str, host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown.lower() if port == _PORTS[scheme] else f"{shown}:{port}".lower()


def _authority_of(api: str, scheme: str) -> str:
    return _authority(*origin_of(f"{scheme}://{api}"))


@dataclass(frozen=True, slots=True)
class _Way:
    """What connections have in common: whether they speak TLS, and whether the registry itself is at their end."""

    tls: bool
    own: bool


class _Sockets:
    """The sockets of all connections, to be cut from another thread than those that read them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._over = False

    def add(self, one: socket.socket) -> None:
        with self._lock:
            self._open.add(one)
            over = self._over
        if over:
            self._cut(one)

    def cut(self) -> None:
        with self._lock:
            self._over = True
            all_open = list(self._open)
        for one in all_open:
            self._cut(one)

    @staticmethod
    def _cut(one: socket.socket) -> None:
        try:
            # As of a plain socket: an SSLSocket's own shutdown would take TLS away under a thread that reads.
            socket.socket.shutdown(one, socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already


def _pool_classes(sockets: _Sockets, timeout: float) -> dict[str, Any]:
    """urllib3's pools, whose connections put their sockets into ``sockets``."""
    from http.client import HTTPException, HTTPResponse

    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    def connected(sock: Any) -> None:
        # Until the answer begins urllib3 leaves the time limit of connecting, which is too short for a slow upload.
        sock.settimeout(timeout)
        plain = getattr(sock, "socket", sock)  # TLS within a proxy's TLS
        if isinstance(plain, socket.socket):
            sockets.add(plain)

    class Whole(HTTPResponse):
        def begin(self) -> None:
            super().begin()
            if self.msg.defects:
                raise HTTPException("a head that was cut")  # http.client takes it for a short one

    class Plain(HTTPConnection):
        response_class = Whole

        def connect(self) -> None:
            super().connect()
            connected(self.sock)

    class Secure(HTTPSConnection):
        response_class = Whole

        def connect(self) -> None:
            super().connect()
            connected(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

        def _validate_conn(self, conn: Any) -> None:
            # Without the warning for certificates that nobody checks: the user asked for it.
            if conn.is_closed:
                conn.connect()

    return {"http": PlainPool, "https": SecurePool}
