"""Against Debian's docker-registry: plain, with passwords, with tokens, with TLS; as a mirror."""

import io
import json
import os
import random
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import AuthError, RegistryError
from lamina.oci.registry.client import Registry
from lamina.oci.registry.options import Mirror, Options
from lamina.oci.registry.reference import Reference, parse_reference
from tests.oci.registry.kit import MANIFEST_TYPE, Notices, blob_of, digest_of, quick
from tests.oci.registry.scripted import Exchange, scripted
from tests.oci.registry.servers import (
    RunningRegistry,
    TokenService,
    make_certificates,
    need,
    running_registry,
    sign,
)

DATA = random.Random(3).randbytes(2_500_000)
BLOB = blob_of(DATA)
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'


def manifest_of(*layers: bytes) -> bytes:
    def descriptor(kind: str, data: bytes) -> dict[str, Any]:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest_of(data), "size": len(data)}

    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor("config.v1+json", CONFIG),
            "layers": [descriptor("layer.v1.tar", layer) for layer in layers],
        }
    ).encode()


def whole_life(registry: Registry) -> None:
    """Push an image, ask for it in all ways, mount it elsewhere, pull it."""
    reference = parse_reference(f"{registry.host}/some/image:1.0")
    assert registry.head_manifest(reference) is None
    assert not registry.has_blob("some/image", BLOB.digest)
    registry.push_blob("some/image", BLOB.digest, BLOB.size, lambda: io.BytesIO(DATA))
    assert registry.push_blob("some/image", None, None, lambda: io.BytesIO(CONFIG)).digest == digest_of(CONFIG)
    assert registry.has_blob("some/image", BLOB.digest)
    raw = manifest_of(DATA)
    digest = registry.put_manifest(reference, raw, MANIFEST_TYPE)
    assert digest == digest_of(raw)
    assert registry.manifest(reference) == registry.manifest(reference.at(digest)) == (raw, MANIFEST_TYPE, digest)
    head = registry.head_manifest(reference)
    assert head is not None and (head.digest, head.size, head.media_type) == (digest, len(raw), MANIFEST_TYPE)
    assert registry.mount_blob("other/image", BLOB.digest, "some/image")
    assert registry.has_blob("other/image", BLOB.digest)
    assert not registry.mount_blob("other/image", digest_of(b"nowhere"), "some/image")
    with registry.blob("other/image", BLOB) as blob:
        assert blob.read() == DATA
    assert registry.tags("some/image") == ["1.0"]
    with pytest.raises(RegistryError) as caught:
        registry.manifest(reference.tagged("none"))
    assert caught.value.status == 404


@pytest.mark.parametrize("chunk", [None, 700_000])
def test_plain(tmp_path: Path, chunk: int | None) -> None:
    with running_registry(tmp_path) as server, Registry(server.host, Options(chunk_size=chunk)) as registry:
        whole_life(registry)


def test_passwords(tmp_path: Path, home: Path) -> None:
    with running_registry(tmp_path, users={"ann": "s3cret"}) as server:
        with Registry(server.host, quick(username="ann", password="s3cret")) as registry:
            whole_life(registry)
        reference = parse_reference(f"{server.host}/some/image:1.0")
        for options in (quick(), quick(username="ann", password="wr0ng"), quick(username="eve", password="s3cret")):
            with Registry(server.host, options) as registry, pytest.raises(AuthError) as caught:
                registry.manifest(reference)
            assert "docker login" in str(caught.value)
            assert not any(secret in str(caught.value) for secret in ("s3cret", "wr0ng"))
        (home / ".docker").mkdir()
        entry = {"auth": "YW5uOnMzY3JldA=="}
        (home / ".docker/config.json").write_text(json.dumps({"auths": {server.host: entry}}))
        with Registry(server.host, quick()) as registry:
            assert registry.manifest(reference).media_type == MANIFEST_TYPE


def test_the_file_that_podman_writes(tmp_path: Path) -> None:
    need("skopeo")
    with running_registry(tmp_path, users={"ann": "s3cret"}) as server:
        login = ["skopeo", "login", "--tls-verify=false", "--authfile", str(tmp_path / "auth.json")]
        login += ["--username", "ann", "--password-stdin", server.host]
        subprocess.run(login, input=b"s3cret", check=True, capture_output=True, timeout=60)
        with Registry(server.host, quick(authfile=tmp_path / "auth.json")) as registry:
            whole_life(registry)


def test_tls(tmp_path: Path, home: Path) -> None:
    with running_registry(tmp_path, tls=True) as server:
        assert server.ca_file is not None
        reference = parse_reference(f"{server.host}/some/image:1.0")
        with Registry(server.host, Options(ca_file=server.ca_file)) as registry:
            whole_life(registry)
        with Registry(server.host, Options(tls_verify=False)) as registry:
            registry.manifest(reference)
        with Registry(server.host, Options()) as registry, pytest.raises(RegistryError, match=r"cannot trust .*--ca-f"):
            registry.manifest(reference)
        for directory in (tmp_path / "given", home / ".config/containers/certs.d" / server.host):
            directory.mkdir(parents=True)
            shutil.copy(server.ca_file, directory / "ca.crt")
            cert_dir = directory if directory.name == "given" else None
            with Registry(server.host, Options(cert_dir=cert_dir)) as registry:
                registry.manifest(reference)
        _, _, port = server.host.rpartition(":")
        with Registry(f"localhost:{port}", Options(ca_file=server.ca_file)) as registry:
            registry.manifest(Reference(registry.host, "some/image", "1.0"))


class Tokens:
    """A server of tokens whose registry believes it; gives what is asked for unless a test says otherwise."""

    def __init__(self, directory: Path) -> None:
        self.certificates = make_certificates(directory)
        self.lifetime = 300.0
        self.asked: list[list[str]] = []

    def __call__(self, exchange: Exchange) -> None:
        if exchange.seen.authorization not in (None, "Basic YW5uOnMzY3JldA=="):
            exchange.json({"details": "incorrect username or password"}, 401)
            return
        scopes = exchange.seen.query.get("scope", [])
        self.asked.append(scopes)
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            allowed = actions.split(",") if exchange.seen.authorization else ["pull"]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        claims = {"iss": "test", "aud": "registry.example.com", "sub": "ann", "jti": os.urandom(8).hex()}
        token = sign(self.certificates, claims | {"exp": now + 60, "nbf": now - 60, "iat": now, "access": access})
        exchange.json({"token": token, "access_token": token, "expires_in": self.lifetime})


def test_tokens(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens")
    with scripted(tokens) as service:
        believed = TokenService(f"{service.url}/token", "registry.example.com", "test", tokens.certificates.certificate)
        with running_registry(tmp_path, tokens=believed) as server:
            with Registry(server.host, quick(username="ann", password="s3cret")) as registry:
                whole_life(registry)
                assert len(tokens.asked) < 12
            reference = parse_reference(f"{server.host}/some/image:1.0")
            with Registry(server.host, quick()) as registry:
                assert registry.manifest(reference).media_type == MANIFEST_TYPE
                with pytest.raises(AuthError, match=r"cannot push blob .*docker login"):
                    registry.push_blob("some/image", BLOB.digest, BLOB.size, lambda: io.BytesIO(DATA))
            with (
                Registry(server.host, quick(username="ann", password="wr0ng")) as registry,
                pytest.raises(AuthError, match="incorrect username or password"),
            ):
                registry.manifest(reference)
            tokens.lifetime = 0.01  # each request wants a new one
            with Registry(server.host, quick(username="ann", password="s3cret")) as registry:
                assert registry.tags("some/image") == ["1.0"]
                assert registry.manifest(reference).media_type == MANIFEST_TYPE


def test_going_on_where_a_blob_was_cut(tmp_path: Path) -> None:
    """The connections are cut by a server between; docker-registry answers to Range."""
    with running_registry(tmp_path) as server, Registry(server.host, quick()) as registry:
        registry.push_blob("a", BLOB.digest, BLOB.size, lambda: io.BytesIO(DATA))
        notices = Notices()
        with scripted(lambda exchange: relayed(exchange, server, 600_000)) as between:
            with Registry(between.host, quick(), notice=notices) as cut, cut.blob("a", BLOB) as blob:
                assert blob.read() == DATA
            assert len(between.requests) == 5
        assert len(notices) == 4


def relayed(exchange: Exchange, server: RunningRegistry, most: int) -> None:
    from http.client import HTTPConnection

    connection = HTTPConnection(server.host, timeout=30)
    headers = {name: value for name, value in exchange.seen.headers.items() if name == "Range"}
    connection.request(exchange.method, exchange.seen.target, headers=headers)
    with connection.getresponse() as answer:
        exchange.head(answer.status, dict(answer.getheaders()))
        exchange.write(answer.read(most))
    exchange.cut()


def test_many_blobs_at_once(tmp_path: Path) -> None:
    blobs = [random.Random(number).randbytes(200_000 + number) for number in range(24)]
    running, pool = running_registry(tmp_path), ThreadPoolExecutor(6)
    with running as server, Registry(server.host, quick()) as registry, pool:
        list(pool.map(lambda data: registry.push_blob("a", digest_of(data), None, lambda: io.BytesIO(data)), blobs))

        def read(data: bytes) -> bytes:
            with registry.blob("a", blob_of(data)) as stream:
                return stream.read()

        assert list(pool.map(read, blobs)) == blobs


def test_many_tags(tmp_path: Path) -> None:
    with running_registry(tmp_path) as server, Registry(server.host, quick()) as registry:
        registry.push_blob("a", None, None, lambda: io.BytesIO(CONFIG))
        reference = Reference(server.host, "a", "x")
        names = sorted(f"v{number}" for number in range(30))
        for name in names:
            registry.put_manifest(reference.tagged(name), manifest_of(), MANIFEST_TYPE)
        assert sorted(registry.tags("a")) == names


def test_a_pull_through_cache_as_a_mirror(tmp_path: Path) -> None:
    with running_registry(tmp_path) as server:
        with Registry(server.host, quick()) as registry:
            whole_life(registry)
        with running_registry(tmp_path, name="mirror", proxied=server.url) as mirror:
            mirrors = (Mirror(server.host, mirror.host),)
            notices = Notices()
            with Registry(server.host, quick(plain_http=False, mirrors=mirrors), notice=notices) as registry:
                reference = parse_reference(f"{server.host}/some/image:1.0")
                assert registry.manifest(reference).media_type == MANIFEST_TYPE
                with registry.blob("some/image", BLOB) as blob:
                    assert blob.read() == DATA
            assert notices == []
            deadline = time.monotonic() + 30
            while not mirror.blob_file(BLOB.digest).exists():  # it keeps what it sent a moment later
                assert time.monotonic() < deadline, "the mirror was not asked"
                time.sleep(0.02)
