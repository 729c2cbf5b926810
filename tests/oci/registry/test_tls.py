"""Certificates, and when plain HTTP is spoken."""

import re
from pathlib import Path

import pytest

from lamina.errors import RegistryError
from lamina.oci.registry.client import Registry
from tests.oci.registry.kit import MANIFEST, client, manifest, pull, quick
from tests.oci.registry.scripted import forwarding_proxy, scripted


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"ca.crt": "nonsense"}, "holds no CA certificate in PEM form"),
        ({"me.cert": ""}, "'me.key' is missing"),
        ({"me.cert": "", "me.key": ""}, "are no certificate and its key"),
        ({"ca.crt/x": ""}, "cannot read"),
    ],
)
def test_certificates_that_cannot_be_used(files: dict[str, str], reason: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    options = quick(plain_http=False, cert_dir=tmp_path)
    with Registry("registry.example.com", options) as registry, pytest.raises(RegistryError, match=reason) as caught:
        pull(registry)
    assert str(tmp_path) in str(caught.value)


def test_ipv6() -> None:
    with scripted(manifest, ipv6=True) as server, client(server) as registry:
        assert pull(registry) == MANIFEST
        assert server.requests[0].headers["Host"] == server.host
    with (
        client(server, retries=0) as registry,
        pytest.raises(RegistryError, match=re.escape(f"cannot reach {server.host}:")),
    ):
        pull(registry)


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
