"""Servers that do what a test says: registries that misbehave, servers of tokens, a proxy. All on loopback."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.oci.registry.servers import Certificates


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes
    target: str
    """What stood in the request line."""
    certified: bool = False
    """Whether the client showed a certificate."""

    @property
    def authorization(self) -> str | None:
        return self.headers["Authorization"]


class Exchange:
    """A request, and the ways to answer it."""

    def __init__(self, handler: "_Handler", seen: Seen, server: "Scripted") -> None:
        self._handler = handler
        self.seen = seen
        self.server = server
        self.path = seen.path
        self.method = seen.method

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer; ``_`` in a header's name is ``-``."""
        self.head(status, {"Content-Length": str(len(body)), **_named(headers)})
        if self.method != "HEAD":
            self.write(body)

    def json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.reply(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def error(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        """An error as the distribution-spec writes it."""
        self.json({"errors": [{"code": code, "message": message}]}, status, **headers)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()

    def write(self, data: bytes) -> None:
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def hang(self) -> None:
        """Nothing more, until the test is over."""
        self.server.over.wait(30)
        self.cut()

    def cut(self) -> None:
        """End the connection."""
        self._handler.close_connection = True
        try:
            self._handler.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


Handle = Callable[[Exchange], None]


@dataclass
class Scripted:
    """A server that runs."""

    host: str
    scheme: str
    requests: list[Seen] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def port(self) -> int:
        return int(self.host.rpartition(":")[2])

    def paths(self, method: str | None = None) -> list[str]:
        return [seen.path for seen in self.requests if method is None or seen.method == method]


@contextmanager
def scripted(
    handle: Handle, *, certificates: Certificates | None = None, http10: bool = False, ipv6: bool = False
) -> Iterator[Scripted]:
    """Run a server that answers with ``handle``, each connection in a thread."""
    server = (_Server6 if ipv6 else _Server)(("::1" if ipv6 else "127.0.0.1", 0), _Handler)
    host = f"{'[::1]' if ipv6 else '127.0.0.1'}:{server.server_address[1]}"
    running = Scripted(host, "http" if certificates is None else "https")
    server.handle, server.running, server.http10 = handle, running, http10
    if certificates is not None:
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(certificates.certificate, certificates.key)
        server.context.verify_mode = ssl.CERT_OPTIONAL
        server.context.load_verify_locations(certificates.ca_file)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield running
    finally:
        running.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
    assert not running.failures, running.failures


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    handle: Handle
    running: Scripted
    http10: bool
    context: ssl.SSLContext | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that go away are what is tested


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30
    disable_nagle_algorithm = True

    def setup(self) -> None:
        if self.server.context is not None:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        self.protocol_version = "HTTP/1.0" if self.server.http10 else "HTTP/1.1"
        super().setup()

    def _any(self) -> None:
        parts = urlsplit(self.path)
        certified = isinstance(self.connection, ssl.SSLSocket) and bool(self.connection.getpeercert())
        query = parse_qs(parts.query)
        seen = Seen(self.command, parts.path, query, self.headers, self._body(), self.path, certified)
        self.server.running.requests.append(seen)
        try:
            self.server.handle(Exchange(self, seen, self.server.running))
        except OSError:
            self.close_connection = True
        except BaseException as error:  # an assertion of the test's own
            self.server.running.failures.append(error)
            raise

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = _any

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            length = int(self.headers["Content-Length"] or 0)
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionError("the client went away")
            return body
        parts = []
        while size := int(self.rfile.readline().split(b";")[0] or b"x", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def forwarding_proxy(hosts: Mapping[str, str], *, certificates: Certificates | None = None) -> Iterator[Scripted]:
    """A proxy that knows the hosts of ``hosts`` (``name[:port]`` → address): CONNECT, and http with a whole URL."""

    def handle(exchange: Exchange) -> None:
        target = exchange.seen.target
        if exchange.method == "CONNECT":
            address = hosts.get(target)
            if address is None:
                exchange.reply(502)
                return
            with _connect(address) as there:
                exchange.head(200, {})
                _tunnel(exchange._handler.connection, there)
            exchange.cut()
            return
        parts = urlsplit(target)
        address = hosts.get(parts.netloc)
        if address is None:
            exchange.reply(502)
            return
        with _connect(address) as there:
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            lines = [f"{exchange.method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in exchange.seen.headers.items())]
            lines = [line for line in lines if not line.lower().startswith(("connection:", "proxy-"))]
            there.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + exchange.seen.body)
            while data := there.recv(65536):
                exchange.write(data)
        exchange.cut()

    with scripted(handle, certificates=certificates) as server:
        yield server


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def _tunnel(here: socket.socket, there: socket.socket) -> None:
    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    back = threading.Thread(target=pump, args=(there, here), daemon=True)
    back.start()
    pump(here, there)
    back.join(30)


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
