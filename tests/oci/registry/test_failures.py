"""Servers that fail, for a while or for ever; that send elsewhere; that lie. What the user is told, who learns what."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from lamina.errors import AuthError, OciError, RegistryError
from lamina.oci.registry import answer
from lamina.oci.registry.client import Registry
from lamina.oci.registry.reference import Reference
from tests.oci.registry.kit import MANIFEST, MANIFEST_TYPE, Notices, client, digest_of, quick
from tests.oci.registry.scripted import Exchange, Handle, forwarding_proxy, scripted
from tests.oci.registry.servers import make_certificates


def manifest(exchange: Exchange) -> None:
    exchange.reply(200, MANIFEST, Content_Type=MANIFEST_TYPE)


def pull(registry: Registry, target: str = "1") -> bytes:
    tag, digest = (None, target) if ":" in target else (target, None)
    return registry.manifest(Reference(registry.host, "a", tag, digest)).raw


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
    with scripted(handle) as server, client(server, notices, retries=4, read_timeout=0.3) as registry:
        assert pull(registry) == MANIFEST
    assert "nothing came for 0.3 seconds" in notices[3]


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


def test_redirects_within_a_host_keep_the_login() -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.path.startswith("/elsewhere"):
            manifest(exchange)
        elif exchange.seen.authorization is None:
            exchange.error(401, WWW_Authenticate="Basic realm=x")
        else:
            exchange.reply(307, Location="/elsewhere/1#part")

    with scripted(handle) as server, client(server, username="ann", password="s3cret") as registry:
        assert pull(registry) == MANIFEST
        assert server.requests[-1].authorization == server.requests[-2].authorization is not None
        assert server.requests[-1].target == "/elsewhere/1"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", ["Basic realm=x", 'Bearer realm="{}/token"'])
def test_redirects_to_another_host_lose_the_login(status: int, scheme: str) -> None:
    def other(exchange: Exchange) -> None:
        # A server that asks for a login of its own gets none either.
        if exchange.path == "/again":
            exchange.error(401, WWW_Authenticate="Basic realm=x")
        else:
            manifest(exchange)

    def handle(exchange: Exchange) -> None:
        if exchange.path == "/token":
            exchange.json({"token": "t0ken"})
        elif exchange.seen.authorization is None:
            exchange.error(401, WWW_Authenticate=scheme.format(exchange.server.url))
        else:
            path = "/again" if exchange.path.endswith("/2") else "/1?signed=x"
            exchange.reply(status, Location=elsewhere.url + path)

    with scripted(other) as elsewhere, scripted(handle) as server:
        with client(server, username="ann", password="s3cret") as registry:
            assert pull(registry) == MANIFEST
            with pytest.raises(AuthError):
                pull(registry, "2")
        assert [seen.authorization for seen in elsewhere.requests] == [None, None]
        assert elsewhere.requests[0].target == "/1?signed=x"
        assert all("s3cret" not in str(seen.headers) for seen in elsewhere.requests)


def test_a_login_that_was_lost_on_the_way_does_not_come_back() -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.path == "/back":
            manifest(exchange)
        elif exchange.seen.authorization is None:
            exchange.error(401, WWW_Authenticate="Basic realm=x")
        else:
            exchange.reply(302, Location=elsewhere.url)

    with (
        scripted(lambda exchange: exchange.reply(302, Location=f"{server.url}/back")) as elsewhere,
        scripted(handle) as server,
        client(server, username="ann", password="s3cret") as registry,
    ):
        assert pull(registry) == MANIFEST
        assert server.requests[-1].authorization is None


def test_endless_redirects() -> None:
    with scripted(lambda exchange: exchange.reply(302, Location=exchange.path)) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="redirects more than 5 times"):
            pull(registry)
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://example.com/", "http://ann:pw@127.0.0.1/", "//[", "http://a:x/", "http://a b/"],
)
def test_redirects_to_no_address(location: str) -> None:
    with scripted(lambda exchange: exchange.reply(302, Location=location)) as server, client(server) as registry:
        with pytest.raises(RegistryError) as caught:
            pull(registry)
        assert str(caught.value).isprintable()
        assert len(server.requests) == 1


def test_nothing_goes_from_https_to_http(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with (
        scripted(manifest) as plain,
        scripted(lambda exchange: exchange.reply(307, Location=plain.url), certificates=certificates) as server,
        Registry(server.host, quick(plain_http=False, ca_file=certificates.ca_file)) as registry,
    ):
        with pytest.raises(RegistryError, match="redirects from https to http"):
            pull(registry)
        assert plain.requests == []


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


def test_the_next_page_is_not_another_hosts_to_see_the_login() -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.seen.authorization is None:
            exchange.error(401, WWW_Authenticate="Basic realm=x")
        else:
            exchange.json({"tags": ["a"]}, Link=f'<{other.url}/v2/x/tags/list>; rel="next"')

    with (
        scripted(lambda exchange: exchange.json({"tags": ["b"]})) as other,
        scripted(handle) as server,
        client(server, username="ann", password="s3cret") as registry,
    ):
        assert registry.tags("x") == ["a", "b"]
        assert [seen.authorization for seen in other.requests] == [None]


def test_errors_of_references_are_of_the_same_tree() -> None:
    assert issubclass(AuthError, RegistryError) and issubclass(RegistryError, OciError)


def test_this_machine_may_speak_plain_http() -> None:
    with scripted(manifest) as server, Registry(server.host, quick(plain_http=False)) as registry:
        assert pull(registry) == pull(registry) == MANIFEST


def test_a_host_that_is_not_to_be_verified_may_speak_plain_http() -> None:
    with scripted(manifest) as server, forwarding_proxy({"r.example": server.host}) as proxy:
        environment = {"HTTP_PROXY": proxy.host, "HTTPS_PROXY": proxy.host, "HOME": "/nonexistent"}
        options = quick(plain_http=False, tls_verify=False)
        with Registry("r.example", options, environment=environment) as registry:
            assert pull(registry) == MANIFEST
        with (
            Registry("r.example", quick(plain_http=False), environment=environment) as registry,
            pytest.raises(RegistryError),
        ):
            pull(registry)
        assert proxy.requests[-1].method == "CONNECT"


class TestMirrors:
    def test_a_mirror_is_asked_first(self) -> None:
        with scripted(manifest) as mirror, scripted(manifest) as server:
            with client(server, mirrors=self.of(server.host, mirror.host, "hub")) as registry:
                assert pull(registry) == MANIFEST
            assert mirror.paths() == ["/v2/hub/a/manifests/1"] and server.paths() == []

    @pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 418])
    def test_a_mirror_that_has_it_not_is_passed_over(self, status: int) -> None:
        notices = Notices()
        with scripted(lambda exchange: exchange.error(status)) as mirror, scripted(manifest) as server:
            with client(server, notices, mirrors=self.of(server.host, mirror.host)) as registry:
                assert pull(registry) == MANIFEST
            assert mirror.paths() and server.paths() == ["/v2/a/manifests/1"]
        assert any(f"{server.host} is asked instead" in notice for notice in notices)

    def test_a_mirror_that_is_away_is_passed_over(self) -> None:
        with scripted(manifest) as mirror:
            pass
        with scripted(manifest) as server, client(server, mirrors=self.of(server.host, mirror.host)) as registry:
            assert pull(registry) == MANIFEST

    def test_a_mirror_cannot_lie_about_a_digest(self) -> None:
        with (
            scripted(lambda exchange: exchange.reply(200, b"{}")) as mirror,
            scripted(manifest) as server,
            client(server, mirrors=self.of(server.host, mirror.host)) as registry,
        ):
            assert pull(registry, digest_of(MANIFEST)) == MANIFEST
            assert mirror.requests

    def test_the_login_of_the_command_line_is_not_the_mirrors(self) -> None:
        def handle(exchange: Exchange) -> None:
            if exchange.seen.authorization is None:
                exchange.error(401, WWW_Authenticate="Basic realm=x")
            else:
                manifest(exchange)

        with scripted(handle) as mirror, scripted(handle) as server:
            mirrors = self.of(server.host, mirror.host)
            with client(server, mirrors=mirrors, username="ann", password="s3cret") as registry:
                assert pull(registry) == MANIFEST
            assert all(seen.authorization is None for seen in mirror.requests)

    def test_mirrors_of_other_registries_are_not_asked(self) -> None:
        with scripted(manifest) as mirror, scripted(manifest) as server:
            with client(server, mirrors=self.of("docker.io", mirror.host)) as registry:
                assert pull(registry) == MANIFEST
            assert mirror.requests == []

    @staticmethod
    def of(registry: str, host: str, prefix: str = "") -> tuple[object, ...]:
        from lamina.oci.registry.options import Mirror

        return (Mirror(registry, host, prefix, plain_http=True),)
