"""Servers that send elsewhere: followed, but the login and the certificate stay at home."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lamina.errors import AuthError, RegistryError
from lamina.oci.registry.client import Registry
from tests.oci.registry.kit import MANIFEST, client, manifest, pull, quick
from tests.oci.registry.scripted import Exchange, scripted
from tests.oci.registry.servers import make_certificates


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


def test_a_client_certificate_is_shown_to_the_registry_alone(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    shutil.copy(certificates.certificate, tmp_path / "me.cert")
    shutil.copy(certificates.key, tmp_path / "me.key")
    options = quick(plain_http=False, cert_dir=tmp_path)
    (tmp_path / "server.crt").unlink()  # no CA
    with (
        scripted(manifest, certificates=replace(certificates, certificate=tmp_path / "me.cert")) as other,
        scripted(
            lambda exchange: exchange.reply(307, Location=other.url),
            certificates=replace(certificates, certificate=tmp_path / "me.cert"),
        ) as server,
        Registry(server.host, options) as registry,
    ):
        assert pull(registry) == MANIFEST
        assert [seen.certified for seen in server.requests] == [True] * len(server.requests)
        assert [seen.certified for seen in other.requests] == [False]
