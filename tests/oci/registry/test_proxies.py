"""Proxies from the environment: which is taken, and that everything really goes through it."""

from pathlib import Path

import pytest

from lamina.errors import RegistryError
from lamina.oci.registry.client import Registry
from lamina.oci.registry.proxies import Proxies
from lamina.oci.registry.reference import parse_reference
from tests.oci.registry.kit import MANIFEST, MANIFEST_TYPE, blob_of, quick
from tests.oci.registry.scripted import Exchange, forwarding_proxy, scripted
from tests.oci.registry.servers import make_certificates


def url(environment: dict[str, str], scheme: str, host: str, port: int = 443) -> str | None:
    proxy = Proxies(environment).way_to(scheme, host, port)
    return None if proxy is None else proxy.url


def test_capitals_and_small_letters() -> None:
    assert url({"HTTPS_PROXY": "http://p.example:1"}, "https", "example.com") == "http://p.example:1"
    assert url({"https_proxy": "p.example:1"}, "https", "example.com") == "http://p.example:1"
    assert url({"https_proxy": "https://p.example"}, "https", "example.com") == "https://p.example:443"
    assert url({"http_proxy": "http://[::1]"}, "http", "example.com", 80) == "http://[::1]:80"
    assert url({"http_proxy": "p.example:1"}, "https", "example.com") is None
    assert url({"HTTPS_PROXY": ""}, "https", "example.com") is None
    assert url({"HTTP_PROXY": "p.example", "REQUEST_METHOD": "GET"}, "http", "example.com", 80) is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_this_machine_needs_no_proxy(host: str) -> None:
    assert url({"HTTPS_PROXY": "p.example"}, "https", host) is None


@pytest.mark.parametrize(
    ("entries", "host", "direct"),
    [
        ("*", "example.com", True),
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("example.com", "a.example.com", True),
        ("example.com", "notexample.com", False),
        (".example.com", "a.example.com", True),
        (".example.com", "example.com", False),
        ("*.example.com", "a.example.com", True),
        ("a.example, b.example ,", "b.example", True),
        ("example.com:443", "example.com", True),
        ("example.com:5000", "example.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "example.com", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1:443", "10.0.0.1", True),
        ("10.0.0.1:80", "10.0.0.1", False),
        ("fd00::/8", "fd00::1", True),
        ("[fd00::1]:443", "[fd00::1]", True),
        ("fd00::1", "fd00:0::1", True),
        ("0.1", "10.0.0.1", False),
        ("/,a/b", "example.com", False),
        ("", "example.com", False),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy(entries: str, host: str, direct: bool, name: str) -> None:
    assert (url({"HTTPS_PROXY": "p.example", name: entries}, "https", host) is None) == direct


@pytest.mark.parametrize(
    "text", ["socks5://ann:s3cret@p.example", "http://", "http://ann:s3cret@:x", "http://[ann:s3cret"]
)
def test_proxies_that_cannot_be_used(text: str) -> None:
    with pytest.raises(RegistryError, match="HTTPS_PROXY in the environment") as caught:
        Proxies({"HTTPS_PROXY": text}).way_to("https", "example.com", 443)
    assert "s3cret" not in str(caught.value)


def test_passwords_of_proxies_are_not_shown() -> None:
    proxy = Proxies({"HTTPS_PROXY": "http://ann:s3%40cret@p.example"}).way_to("https", "example.com", 443)
    assert proxy is not None and proxy.user == "ann:s3@cret" and "cret" not in repr(proxy) + proxy.url


def registry(exchange: Exchange) -> None:
    if "/manifests/" in exchange.path:
        exchange.reply(200, MANIFEST, Content_Type=MANIFEST_TYPE)
    else:
        exchange.reply(200, b"a blob")


def test_http_through_a_proxy() -> None:
    with scripted(registry) as server, forwarding_proxy({"registry.example.com": server.host}) as proxy:
        environment = {"HTTP_PROXY": f"http://ann:s3cret@{proxy.host}", "HOME": "/nonexistent"}
        with Registry("registry.example.com", quick(), environment=environment) as client:
            assert client.manifest(parse_reference("registry.example.com/a:1")).raw == MANIFEST
        assert [seen.target for seen in proxy.requests] == ["http://registry.example.com/v2/a/manifests/1"]
        assert proxy.requests[0].headers["Proxy-Authorization"] == "Basic YW5uOnMzY3JldA=="
        assert server.requests[0].headers["Proxy-Authorization"] is None


def test_https_through_a_proxy(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, names=("registry.example.com",))
    with (
        scripted(registry, certificates=certificates) as server,
        forwarding_proxy({"registry.example.com:443": server.host}) as proxy,
    ):
        environment = {"https_proxy": f"http://ann:s3cret@{proxy.host}", "HOME": "/nonexistent"}
        options = quick(plain_http=False, ca_file=certificates.ca_file)
        with Registry("registry.example.com", options, environment=environment) as client:
            assert client.manifest(parse_reference("registry.example.com/a:1")).raw == MANIFEST
            with client.blob("a", blob_of(b"a blob")) as blob:
                assert blob.read() == b"a blob"
        assert {seen.target for seen in proxy.requests} == {"registry.example.com:443"}
        assert {seen.method for seen in proxy.requests} == {"CONNECT"}
        assert {seen.headers["Proxy-Authorization"] for seen in proxy.requests} == {"Basic YW5uOnMzY3JldA=="}
        assert {seen.headers["Proxy-Authorization"] for seen in server.requests} == {None}
        assert all(seen.headers["Host"] == "registry.example.com" for seen in server.requests)


def test_a_proxy_that_speaks_tls(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, names=("registry.example.com",))
    hosts: dict[str, str] = {}
    with (
        scripted(registry, certificates=certificates) as server,
        forwarding_proxy(hosts, certificates=certificates) as proxy,
    ):
        hosts["registry.example.com:443"] = server.host
        environment = {"HTTPS_PROXY": proxy.url, "HOME": "/nonexistent"}
        options = quick(plain_http=False, ca_file=certificates.ca_file)
        with Registry("registry.example.com", options, environment=environment) as client:
            assert client.manifest(parse_reference("registry.example.com/a:1")).raw == MANIFEST
        assert [seen.method for seen in proxy.requests] == ["CONNECT"]


def test_a_proxy_that_does_not_lead_there(tmp_path: Path) -> None:
    with forwarding_proxy({}) as proxy:
        environment = {"HTTPS_PROXY": f"http://{proxy.host}", "HOME": "/nonexistent"}
        with (
            Registry("registry.example.com", quick(plain_http=False, retries=1), environment=environment) as client,
            pytest.raises(RegistryError, match=r"the proxy to registry.example.com: tunnel connection failed: 502"),
        ):
            client.manifest(parse_reference("registry.example.com/a:1"))
        assert len(proxy.requests) == 2
    with (
        Registry("registry.example.com", quick(plain_http=False, retries=0), environment=environment) as client,
        pytest.raises(RegistryError, match=r"the proxy to registry.example.com: connection refused"),
    ):
        client.manifest(parse_reference("registry.example.com/a:1"))
