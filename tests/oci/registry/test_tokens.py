"""Saying who asks: basic, tokens by GET and by POST, tokens that run out, and servers of tokens that misbehave."""

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from lamina.errors import AuthError, RegistryError
from lamina.oci.registry.client import Registry
from lamina.oci.registry.reference import Reference
from tests.oci.registry.kit import MANIFEST, MANIFEST_TYPE, Notices, blob_of, client, quick
from tests.oci.registry.scripted import Exchange, Handle, Scripted, Seen, scripted
from tests.oci.registry.servers import make_certificates

ANN = "Basic " + base64.b64encode(b"ann:s3cret").decode()


class Guard:
    """A registry that wants tokens, and the server of them in one; counts what it gave."""

    def __init__(self, answer: dict[str, Any] | None = None, realm: str | None = None) -> None:
        self.given = 0
        self.good: set[str] = set()
        self.answer = answer
        self.realm = realm
        self.lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        if exchange.path == "/token":
            self.token(exchange)
        elif (exchange.seen.authorization or "").removeprefix("Bearer ") in self.good:
            serve(exchange)
        else:
            realm = self.realm or f"{exchange.server.url}/token"
            scope = f"repository:{exchange.path.split('/')[2]}:pull"
            challenge = f'Bearer realm="{realm}",service="registry.example.com",scope="{scope}"'
            exchange.error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)

    def token(self, exchange: Exchange) -> None:
        with self.lock:
            self.given += 1
            token = f"t0ken{self.given}"
            self.good.add(token)
        exchange.json({"token": token, "expires_in": 300} if self.answer is None else {"token": token} | self.answer)


def serve(exchange: Exchange) -> None:
    if "/manifests/" in exchange.path:
        exchange.reply(200, MANIFEST, Content_Type=MANIFEST_TYPE)
    else:
        exchange.reply(200, b"a blob")


def asked(server: Scripted) -> list[Seen]:
    return [seen for seen in server.requests if seen.path == "/token"]


def pull(registry: Registry, repository: str = "a") -> bytes:
    return registry.manifest(Reference(registry.host, repository, "1")).raw


def test_nobody_asks_and_nothing_is_said() -> None:
    with scripted(serve) as server, client(server, username="ann", password="s3cret") as registry:
        assert pull(registry) == MANIFEST
        assert [seen.authorization for seen in server.requests] == [None]


def test_anonymous_token() -> None:
    with scripted(Guard()) as server, client(server) as registry:
        assert pull(registry) == MANIFEST
        assert pull(registry) == MANIFEST
        with registry.blob("a", blob_of(b"a blob")) as blob:
            assert blob.read() == b"a blob"
        (seen,) = asked(server)
        assert seen.method == "GET" and seen.authorization is None
        assert seen.query == {"service": ["registry.example.com"], "scope": ["repository:a:pull"]}
        assert [seen.path for seen in server.requests[:3]] == ["/v2/a/manifests/1", "/token", "/v2/a/manifests/1"]
        assert len(server.requests) == 5


def test_a_token_for_each_repository() -> None:
    guard = Guard()
    with scripted(guard) as server, client(server) as registry:
        for repository in ("a", "b", "a", "b"):
            pull(registry, repository)
        assert [seen.query["scope"] for seen in asked(server)] == [["repository:a:pull"], ["repository:b:pull"]]


def test_token_of_a_user() -> None:
    with scripted(Guard({"token": None, "access_token": "x"})) as server:
        with client(server, username="ann", password="s3cret") as registry, pytest.raises(AuthError):
            pull(registry)  # the token "x" is good for nothing
        (first, *_) = asked(server)
        assert first.authorization == ANN and first.query["account"] == ["ann"]
        # The password goes to the server of tokens alone.
        assert {seen.authorization for seen in server.requests if seen.path != "/token"} == {None, "Bearer x"}


def test_identity_token(home: Path) -> None:
    guard = Guard()
    with scripted(guard) as server:
        (home / ".docker").mkdir()
        entry = {"auth": base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode(), "identitytoken": "id&t"}
        (home / ".docker/config.json").write_text(json.dumps({"auths": {server.host: entry}}))
        with client(server) as registry:
            assert pull(registry) == MANIFEST
        (seen,) = asked(server)
        assert seen.method == "POST" and seen.authorization is None and not seen.query
        assert parse_qs(seen.body.decode()) == {
            "grant_type": ["refresh_token"],
            "client_id": ["lamina"],
            "service": ["registry.example.com"],
            "scope": ["repository:a:pull"],
            "refresh_token": ["id&t"],
        }


def test_registry_token(home: Path) -> None:
    guard = Guard()
    guard.good.add("own")
    with scripted(guard) as server:
        (home / ".docker").mkdir()
        (home / ".docker/config.json").write_text(json.dumps({"auths": {server.host: {"registrytoken": "own"}}}))
        with client(server) as registry:
            assert pull(registry) == MANIFEST
        assert asked(server) == []


def test_basic() -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.seen.authorization == ANN:
            serve(exchange)
        else:
            exchange.error(401, "UNAUTHORIZED", "who is it?", WWW_Authenticate='Basic realm="x"')

    with scripted(handle) as server:
        with client(server, username="ann", password="s3cret") as registry:
            pull(registry)
            pull(registry)
            assert [seen.authorization for seen in server.requests] == [None, ANN, ANN]
        with client(server, username="ann", password="wr0ng") as registry, pytest.raises(AuthError) as caught:
            pull(registry)
        assert caught.value.status == 401 and "wr0ng" not in str(caught.value)
        assert "the login is not accepted: log in with 'docker login 127.0.0.1:" in str(caught.value)
        with client(server) as registry, pytest.raises(AuthError, match=r"who is it.*docker login .*--password-stdin"):
            pull(registry)


def test_a_token_that_runs_out_is_renewed_before_it_is_used() -> None:
    guard = Guard({"expires_in": 0.2})
    with scripted(guard) as server, client(server) as registry:
        pull(registry)
        time.sleep(0.25)
        pull(registry)
        assert len(asked(server)) == 2
        assert [seen.authorization for seen in server.requests if seen.path != "/token"] == [
            None,
            "Bearer t0ken1",
            "Bearer t0ken2",
        ]


def test_a_token_that_is_no_longer_taken_is_renewed() -> None:
    guard = Guard()
    with scripted(guard) as server, client(server) as registry:
        pull(registry)
        guard.good.clear()
        pull(registry)
        assert len(asked(server)) == 2


def test_a_blob_that_outlives_its_token() -> None:
    data = bytes(range(256)) * 400
    guard = Guard()

    def handle(exchange: Exchange) -> None:
        if exchange.path == "/token" or (exchange.seen.authorization or "")[7:] not in guard.good:
            guard(exchange)
            return
        guard.good.clear()
        begin = int((exchange.seen.headers["Range"] or "bytes=0-")[6:-1])
        exchange.head(
            206 if begin else 200,
            {
                "Content-Length": str(len(data) - begin),
                "Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}",
            },
        )
        exchange.write(data[begin : begin + 30000])
        exchange.cut()

    with scripted(handle) as server, client(server) as registry, registry.blob("a", blob_of(data)) as blob:
        assert blob.read() == data
        assert len(asked(server)) == 4


def test_threads_share_a_token() -> None:
    guard = Guard()
    with scripted(guard) as server, client(server) as registry, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: pull(registry), range(40))) == {MANIFEST}
        assert len(asked(server)) == 1


def test_a_mount_asks_for_both_repositories() -> None:
    guard = Guard()

    def handle(exchange: Exchange) -> None:
        if exchange.method == "POST" and (exchange.seen.authorization or "")[7:] in guard.good:
            exchange.reply(201)
        else:
            guard(exchange)

    with scripted(handle) as server, client(server) as registry:
        assert registry.mount_blob("to", blob_of(b"x").digest, "from")
        (seen,) = asked(server)
        assert set(seen.query["scope"]) == {"repository:to:pull,push", "repository:from:pull", "repository:to:pull"}
        assert server.requests[-1].query == {"mount": [blob_of(b"x").digest], "from": ["from"]}


def test_access_that_stays_denied() -> None:
    guard = Guard()

    def handle(exchange: Exchange) -> None:
        if exchange.path == "/token":
            guard.token(exchange)
        elif exchange.seen.authorization:
            challenge = f'Bearer realm="{exchange.server.url}/token",error="insufficient_scope"'
            exchange.error(401, "DENIED", "no\x1b[2J such\naccess", WWW_Authenticate=challenge)
        else:
            guard(exchange)

    with scripted(handle) as server, client(server) as registry:
        with pytest.raises(AuthError) as caught:
            pull(registry)
        assert caught.value.status == 401
        assert str(caught.value).startswith(f"cannot pull {server.host}/a:1: {server.host} denies access (401: no")
        assert "docker login" in str(caught.value) and str(caught.value).isprintable()
        assert len(server.requests) == 3


def test_forbidden() -> None:
    def handle(exchange: Exchange) -> None:
        exchange.error(403, "DENIED", "requested access to the resource is denied")

    with scripted(handle) as server:
        with client(server) as registry, pytest.raises(AuthError, match=r"403: requested access.*docker login"):
            pull(registry)
        with (
            client(server, username="ann", password="s3cret") as registry,
            pytest.raises(AuthError, match=r"this login may not do that"),
        ):
            pull(registry)
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_server_of_tokens_that_refuses(status: int) -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.path == "/token":
            exchange.json({"details": "incorrect username or password", "refresh_token": "s3cret"}, status)
        else:
            Guard()(exchange)

    with (
        scripted(handle) as server,
        client(server, username="ann", password="s3cret") as registry,
        pytest.raises(AuthError) as caught,
    ):
        pull(registry)
    message = str(caught.value)
    assert f"no token for the login of ann ({status}: incorrect username or password)" in message
    assert "docker login" in message and "s3cret" not in message


def test_a_broken_login_is_said_only_when_it_matters(home: Path) -> None:
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text('{"credsStore": "desktop"}')
    guard = Guard()
    with scripted(guard) as server, client(server) as registry:
        assert pull(registry) == MANIFEST
    with (
        scripted(lambda exchange: exchange.error(403)) as server,
        client(server) as registry,
        pytest.raises(AuthError, match="docker-credential-desktop is not installed"),
    ):
        pull(registry)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no usable JSON"),
        (b"<html>s3cret", "no usable JSON"),
        (b'["s3cret"]', "not a JSON object"),
        (b"{}", "there is none in the answer"),
        (b'{"token": 3}', "token is not a string"),
        (b'{"token": "a\\r\\nX-Evil: 1"}', "characters that no token has"),
        (b'{"token": "a\xff"}', "no usable JSON"),
        (b'{"token": "' + b"a" * (1 << 20) + b'"}', "more than 1 MiB"),
        (b"[" * 5000, "no usable JSON"),
    ],
)
def test_tokens_that_are_none(body: bytes, reason: str) -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.path == "/token":
            exchange.reply(200, body)
        else:
            Guard()(exchange)

    with scripted(handle) as server, client(server) as registry, pytest.raises(RegistryError) as caught:
        pull(registry)
    assert reason in str(caught.value) and str(caught.value).isprintable() and "s3cret" not in str(caught.value)


@pytest.mark.parametrize("lifetime", [0, -5, "300", None, True, 1e300, float("inf")])
def test_lifetimes_that_make_no_sense(lifetime: object) -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.path == "/token":
            text = json.dumps({"token": "t", "expires_in": lifetime})
            guard.good.add("t")
            exchange.reply(200, text.replace("Infinity", "1e999").encode())
        else:
            guard(exchange)

    guard = Guard()
    with scripted(handle) as server, client(server) as registry:
        pull(registry)
        pull(registry)
        assert len(asked(server)) == 1


@pytest.mark.parametrize(
    "realm",
    ["ftp://example.com/token", "/token", "", "http://ann:pw@example.com/", "http://[", "http://a b/", "file:///"],
)
def test_realms_that_are_no_address(realm: str) -> None:
    with scripted(Guard(realm=realm or " ")) as server, client(server) as registry, pytest.raises(RegistryError):
        pull(registry)


def test_no_login_goes_from_https_to_http(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with scripted(Guard()) as plain, scripted(Guard(realm=f"{plain.url}/token"), certificates=certificates) as server:
        options = quick(plain_http=False, ca_file=certificates.ca_file, username="ann", password="s3cret")
        with Registry(server.host, options) as registry, pytest.raises(AuthError, match="without TLS"):
            pull(registry)
        assert plain.requests == []


def redirecting(target: str) -> Handle:
    def handle(exchange: Exchange) -> None:
        if exchange.path == "/token":
            exchange.reply(307, Location=f"{target}/elsewhere")
        else:
            Guard()(exchange)

    return handle


def test_a_password_does_not_follow_to_another_server_of_tokens() -> None:
    with scripted(lambda exchange: exchange.json({"token": "t"})) as other, scripted(redirecting(other.url)) as server:
        with client(server, username="ann", password="s3cret") as registry, pytest.raises(AuthError):
            pull(registry)
        assert asked(server)[0].authorization == ANN
        assert other.paths() and all(seen.authorization is None for seen in other.requests)


def test_an_identity_token_does_not_follow_either(home: Path) -> None:
    with scripted(lambda exchange: exchange.json({"token": "t"})) as other, scripted(redirecting(other.url)) as server:
        (home / ".docker").mkdir()
        (home / ".docker/config.json").write_text(json.dumps({"auths": {server.host: {"identitytoken": "id"}}}))
        with client(server) as registry, pytest.raises(RegistryError, match="what is meant for itself alone"):
            pull(registry)
        assert other.requests == []


def test_the_server_of_tokens_fails_for_a_while() -> None:
    guard = Guard()
    left = [500, 429, 503]

    def handle(exchange: Exchange) -> None:
        if exchange.path == "/token" and left:
            exchange.reply(left.pop(0), Retry_After="0")
        else:
            guard(exchange)

    notices = Notices()
    with scripted(handle) as server, client(server, notices) as registry:
        assert pull(registry) == MANIFEST
    assert len(notices) == 3
