"""Servers that fail, for a while or for ever; that send elsewhere; that lie. What the user is told, who learns what."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import AuthError, OciError, RegistryError
from lamina.oci.registry import answer
from lamina.oci.registry.client import Registry
from lamina.oci.registry.reference import Reference
from tests.oci.registry.kit import MANIFEST, MANIFEST_TYPE, Notices, blob_of, client, digest_of, manifest, pull, quick
from tests.oci.registry.scripted import Exchange, Handle, scripted


def first(*statuses: int, then: Handle = manifest, **headers: str) -> Handle:
    left = list(statuses)

    def handle(exchange: Exchange) -> None:
        if left:
            exchange.error(left.pop(0), "X", "not now", **headers)
        else:
            then(exchange)

    return handle


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_fails_for_a_while_is_asked_again(status: int) -> None:
    notices = Notices()
    with scripted(first(status, status)) as server, client(server, notices) as registry:
        assert pull(registry) == MANIFEST
        assert len(server.requests) == 3
    assert len(notices) == 2 and f"answers {status}: trying again in" in notices[0]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_what_fails_for_ever_is_given_up(status: int) -> None:
    with scripted(lambda exchange: exchange.error(status, "BAD", "all is lost")) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="all is lost") as caught:
            pull(registry)
        assert caught.value.status == status and "later" in str(caught.value)
        assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 402, 405, 409, 410, 418, 451, 204, 206, 299])
def test_what_is_no_use_to_ask_again(status: int) -> None:
    with scripted(lambda exchange: exchange.reply(status)) as server, client(server) as registry:
        with pytest.raises(RegistryError) as caught:
            pull(registry)
        assert caught.value.status == status
        assert len(server.requests) == 1


def test_not_there() -> None:
    def handle(exchange: Exchange) -> None:
        exchange.error(404, "MANIFEST_UNKNOWN", "manifest unknown")

    with scripted(handle) as server, client(server) as registry:
        with pytest.raises(RegistryError, match=r"cannot pull .*/a:1: .* does not have it: manifest unknown") as caught:
            pull(registry)
        assert caught.value.status == 404 and not isinstance(caught.value, AuthError)
        assert registry.head_manifest(Reference(server.host, "a", "1")) is None


def test_a_wait_that_is_asked_for_is_kept() -> None:
    notices = Notices()
    with scripted(first(429, Retry_After="1")) as server, client(server, notices, max_wait=1.2) as registry:
        pull(registry)
    assert "in 1.0 seconds" in notices[0]


@pytest.mark.parametrize(
    "wait", ["21600", "9" * 400, format_datetime(datetime.now(UTC) + timedelta(hours=6), usegmt=True)]
)
def test_a_wait_that_is_too_long_is_not_kept(wait: str) -> None:
    with scripted(first(429, 429, Retry_After=wait)) as server, client(server) as registry:
        with pytest.raises(RegistryError, match=r"too many requests.*log in, or try again later"):
            pull(registry)
        assert len(server.requests) == 1


@pytest.mark.parametrize("wait", ["", "soon", "-1", "1e3", "Mon, 99 Foo", "0", "Mon, 01 Jan 2001 00:00:00 GMT"])
def test_waits_that_make_no_sense(wait: str) -> None:
    with scripted(first(503, Retry_After=wait)) as server, client(server) as registry:
        assert pull(registry) == MANIFEST


def test_connections_that_break_are_made_again() -> None:
    left: list[Callable[[Exchange], None]] = [
        lambda exchange: exchange.cut(),
        lambda exchange: (exchange.write(b"garbage\r\n\r\n"), exchange.cut())[1],
        lambda exchange: (exchange.write(b"HTTP/1.1 200 OK\r\nContent-Le"), exchange.cut())[1],
        lambda exchange: exchange.hang(),
    ]

    def handle(exchange: Exchange) -> None:
        left.pop(0)(exchange) if left else manifest(exchange)

    notices = Notices()
    with scripted(handle) as server, client(server, notices, retries=4, read_timeout=1.0) as registry:
        assert pull(registry) == MANIFEST
    assert "nothing came for 1 s" in notices[3]


def test_nobody_listens() -> None:
    with scripted(manifest) as server:
        pass
    notices = Notices()
    with client(server, notices) as registry, pytest.raises(RegistryError, match="connection refused") as caught:
        pull(registry)
    assert server.host in str(caught.value) and len(notices) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>\x1b[2J</html>",
        b'{"errors": []}',
        b'{"errors": "x"}',
        b'{"errors": [3, null, {}]}',
        b"[" * 5000,
        b"\xff\xfe",
        b'{"errors": [{"message": "' + b"m" * 5000 + b'"}]}',
        b"x" * (1 << 20),
        json.dumps({"errors": [{"code": "C", "message": "\x1b]0;title\x07\nline\u202e"}] * 50}).encode(),
    ],
)
def test_errors_are_one_short_printable_line(body: bytes) -> None:
    with scripted(lambda exchange: exchange.reply(418, body)) as server, client(server) as registry:
        with pytest.raises(RegistryError) as caught:
            pull(registry)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000 and caught.value.status == 418


def test_digests_are_computed_and_compared() -> None:
    good, bad = digest_of(MANIFEST), digest_of(b"other")

    def handle(exchange: Exchange) -> None:
        said = {"/v2/a/manifests/lie": bad, "/v2/a/manifests/odd": "md5:x\x1b"}.get(exchange.path, good)
        exchange.reply(200, MANIFEST, Content_Type=f"{MANIFEST_TYPE}; charset=utf-8", Docker_Content_Digest=said)

    with scripted(handle) as server, client(server) as registry:
        fetched = registry.manifest(Reference(server.host, "a", "1"))
        assert fetched == (MANIFEST, MANIFEST_TYPE, good)
        assert pull(registry, good) == MANIFEST
        with pytest.raises(RegistryError, match="not the one that was asked for"):
            pull(registry, bad)
        for tag in ("lie", "odd"):
            with pytest.raises(RegistryError, match=f"but its digest is {good}") as caught:
                pull(registry, tag)
            assert str(caught.value).isprintable()


def test_heads_of_manifests() -> None:
    good = digest_of(MANIFEST)
    headers: dict[str, str] = {}

    def handle(exchange: Exchange) -> None:
        if exchange.method == "HEAD":
            exchange.head(200, {"Content-Length": str(len(MANIFEST)), "Content-Type": MANIFEST_TYPE, **headers})
        else:
            manifest(exchange)

    with scripted(handle) as server, client(server) as registry:
        reference = Reference(server.host, "a", "1")
        headers["Docker-Content-Digest"] = good
        head = registry.head_manifest(reference)
        assert head is not None and (head.digest, head.size, head.media_type) == (good, len(MANIFEST), MANIFEST_TYPE)
        assert server.paths("GET") == []
        assert registry.head_manifest(reference.at(good)) == head
        with pytest.raises(RegistryError, match="has another manifest"):
            registry.head_manifest(reference.at(digest_of(b"x")))
        headers["Docker-Content-Digest"] = "nonsense"
        with pytest.raises(RegistryError, match="says 'nonsense' is a digest"):
            registry.head_manifest(reference)
        del headers["Docker-Content-Digest"]
        assert registry.head_manifest(reference) == head
        assert len(server.paths("GET")) == 1


@pytest.mark.parametrize("announced", [True, False])
def test_a_manifest_that_is_too_large(announced: bool) -> None:
    sent = [0]

    def handle(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": str(1 << 40)} if announced else {"Connection": "close"})
        for _ in range(1000):
            exchange.write(b" " * (1 << 20))
            sent[0] += 1
        exchange.cut()

    with scripted(handle) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="more than 4 MiB"):
            pull(registry)
        assert sent[0] < 100


def test_a_manifest_that_is_cut() -> None:
    def handle(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": "1000"})
        exchange.write(b"{")
        exchange.cut()

    with scripted(handle) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="cut"):
            pull(registry)
        assert len(server.requests) == 4


@pytest.mark.parametrize("length", [1000, 0, None])
def test_a_manifest_that_is_cut_once(length: int | None) -> None:
    def handle(exchange: Exchange) -> None:
        if len(exchange.server.requests) > 1:
            manifest(exchange)
            return
        exchange.head(200, {} if length is None else {"Content-Length": str(length)})
        exchange.write(b"{" if length else b"")
        exchange.cut()

    with scripted(handle) as server, client(server) as registry:
        assert pull(registry) == MANIFEST


def test_a_manifest_that_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "SMALL_SECONDS", 0.2)

    def handle(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": "5000"})
        while not exchange.server.over.wait(0.02):
            exchange.write(b" ")

    with (
        scripted(handle) as server,
        client(server, retries=0) as registry,
        pytest.raises(RegistryError, match=r"more than 0 seconds to send a manifest"),
    ):
        pull(registry)


def test_a_host_that_cannot_be() -> None:
    host = "x" * 64 + ".example"
    with Registry(host, quick()) as registry, pytest.raises(RegistryError, match="no name that a host can have"):
        pull(registry)


def test_old_http_and_chunks() -> None:
    def chunked(exchange: Exchange) -> None:
        exchange.head(200, {"Transfer-Encoding": "chunked", "Content-Type": MANIFEST_TYPE})
        for byte in MANIFEST:
            exchange.write(b"1\r\n%c\r\n" % byte)
        exchange.write(b"0\r\n\r\n")

    def unknown_length(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Type": MANIFEST_TYPE})
        exchange.write(MANIFEST)

    with scripted(chunked) as server, client(server) as registry:
        assert pull(registry) == pull(registry) == MANIFEST
    for handle in (manifest, unknown_length):
        with scripted(handle, http10=True) as server, client(server) as registry:
            assert pull(registry) == pull(registry) == MANIFEST


def test_accept_and_user_agent() -> None:
    with scripted(manifest) as server, client(server) as registry:
        registry.manifest(Reference(server.host, "a", "1"), accept=("text/x", "text/y"))
        pull(registry)
        assert server.requests[0].headers["Accept"] == "text/x, text/y"
        assert server.requests[0].headers["User-Agent"].startswith("lamina/")
        assert server.requests[0].headers["Accept-Encoding"] == "identity"
        accepted = server.requests[1].headers["Accept"]
        assert "image.index.v1" in accepted and "manifest.list.v2" in accepted and "v1+prettyjws" not in accepted


def test_tags_in_pages() -> None:
    pages: dict[str | None, tuple[list[str], str]] = {
        None: (["a", "b"], '</v2/x/tags/list?last=b&n=2>; rel="next"'),
        "b": (["c"], "<?last=c>; rel=next"),
        "c": ([], ""),
    }

    def handle(exchange: Exchange) -> None:
        tags, link = pages[(exchange.seen.query.get("last") or [None])[0]]
        exchange.json({"name": "x", "tags": tags}, Link=link)

    with scripted(handle) as server, client(server) as registry:
        assert registry.tags("x") == ["a", "b", "c"]
        assert len(server.requests) == 3


def test_pages_that_do_not_end() -> None:
    def handle(exchange: Exchange) -> None:
        number = len(exchange.server.requests)
        exchange.json({"tags": ["same"]}, Link=f'</v2/x/tags/list?n={number}>; rel="next"')

    with scripted(handle) as server, client(server) as registry:
        assert registry.tags("x") == ["same"]
        assert len(server.requests) == 2


@pytest.mark.parametrize("body", [b"x", b"[]", b"{}", b'{"tags": 3}', b'{"tags": [1]}', b"[" * 9999, b'{"tags": "a"}'])
def test_lists_of_tags_that_are_none(body: bytes) -> None:
    with (
        scripted(lambda exchange: exchange.reply(200, body)) as server,
        client(server) as registry,
        pytest.raises(RegistryError, match="no list of tags"),
    ):
        registry.tags("x")


def test_no_tags() -> None:
    with scripted(lambda exchange: exchange.json({"tags": None})) as server, client(server) as registry:
        assert registry.tags("x") == []


_GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 401 x\r\n",
                b"HTTP/1.1 302 x\r\n",
                b"HTTP/1.1 100 x\r\n\r\n",
                b"HTTP/1.1 999\r\n",
                b"HTTP/0.9 200 OK\r\n",
                b"Content-Length: 5\r\n",
                b"Content-Length: -5\r\n",
                b"Content-Length: 99999999999999999999999\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Location: \xff\xfe://[\r\n",
                b'WWW-Authenticate: Bearer realm="\x01"\r\n',
                b'WWW-Authenticate: Bearer realm="http://[::1"\r\n',
                b"Content-Encoding: gzip\r\n",
                b"Retry-After: 1e9\r\n",
                b"\xff: \x00\r\n",
                b" folded\r\n",
                b"\r\n",
                b"5\r\nhello\r\n0\r\n\r\n",
                b"-1\r\n",
                b"zz\r\n",
                b"{}",
            ]
        ),
        max_size=12,
    ).map(b"".join),
)


@settings(max_examples=60, deadline=None)
@given(_GARBAGE)
def test_whatever_a_server_sends_is_a_manifest_or_an_error(garbage: bytes) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.write(garbage)
        exchange.cut()

    with scripted(handle) as server, client(server, retries=0) as registry:
        try:
            pull(registry)
        except RegistryError as error:
            assert str(error).isprintable()
        try:
            with registry.blob("a", blob_of(b"hello")) as blob:
                assert len(blob.read()) == 5
        except RegistryError as error:
            assert str(error).isprintable()
        try:
            registry.push_blob("a", None, None, lambda: io.BytesIO(b"hello"))
        except RegistryError as error:
            assert str(error).isprintable()


def test_urllib3_is_imported_when_a_registry_is_asked() -> None:
    script = "import sys, lamina.oci.registry.client; sys.exit('urllib3' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_errors_of_references_are_of_the_same_tree() -> None:
    assert issubclass(AuthError, RegistryError) and issubclass(RegistryError, OciError)
