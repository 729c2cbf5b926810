"""Blobs and manifests on their way out: in one request, streamed, in pieces; cut, refused, mounted."""

import io
import random
import re
from typing import BinaryIO

import pytest

from lamina.errors import AuthError, OciError, RegistryError
from lamina.oci.registry.client import Registry
from lamina.oci.registry.reference import Reference
from tests.oci.registry.kit import MANIFEST, MANIFEST_TYPE, Notices, client, digest_of
from tests.oci.registry.scripted import Exchange, scripted

DATA = random.Random(2).randbytes(3_000_000)
DIGEST = digest_of(DATA)


class Taker:
    """A registry that takes blobs; the tests put themselves before it."""

    def __init__(self, *, relative: bool = False) -> None:
        self.uploads: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.relative = relative

    def __call__(self, exchange: Exchange) -> None:
        seen = exchange.seen
        if exchange.method == "POST":
            name = str(len(self.uploads))
            self.uploads[name] = b""
            self.accept(exchange, name, 202)
            return
        name = seen.path.rpartition("/")[2]
        assert seen.query["state"] == ["a+b/c"], "what the Location says is kept"
        if exchange.method == "PATCH":
            if span := seen.headers["Content-Range"]:
                begin, end = map(int, span.split("-"))
                assert (begin, end) == (len(self.uploads[name]), len(self.uploads[name]) + len(seen.body) - 1)
            self.uploads[name] += seen.body
            self.accept(exchange, name, 202)
        elif exchange.method == "PUT":
            data = self.uploads[name] + seen.body
            (digest,) = seen.query["digest"]
            if digest_of(data) != digest:
                exchange.error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            else:
                self.blobs[digest] = data
                exchange.reply(201)

    def accept(self, exchange: Exchange, name: str, status: int) -> None:
        base = "" if self.relative else exchange.server.url
        location = f"{base}/v2/a/blobs/uploads/{name}?state=a%2Bb%2Fc"
        exchange.reply(status, Location=location, OCI_Chunk_Min_Length="700000")


class Source:
    """Gives streams of the data and counts them."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.opened: list[io.BytesIO] = []

    def __call__(self) -> BinaryIO:
        self.opened.append(io.BytesIO(self.data))
        return self.opened[-1]


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(
    ("digest", "size", "chunk", "methods"),
    [
        (DIGEST, len(DATA), None, ["POST", "PUT"]),
        (None, None, None, ["POST", "PATCH", "PUT"]),
        (DIGEST, None, None, ["POST", "PATCH", "PUT"]),
        (DIGEST, len(DATA), 1_000_000, ["POST", "PATCH", "PATCH", "PATCH", "PUT"]),
        (None, None, 10, ["POST", *["PATCH"] * 5, "PUT"]),  # as large as the registry wants them at least
    ],
)
def test_ways(relative: bool, digest: str | None, size: int | None, chunk: int | None, methods: list[str]) -> None:
    taker, source, counts = Taker(relative=relative), Source(), list[int]()
    with scripted(taker) as server, client(server, chunk_size=chunk) as registry:
        pushed = registry.push_blob("a", digest, size, source, counts.append)
        assert (pushed.digest, pushed.size) == (DIGEST, len(DATA))
        assert [seen.method for seen in server.requests] == methods
        assert server.requests[0].path == "/v2/a/blobs/uploads/"
    assert taker.blobs == {DIGEST: DATA}
    assert counts == sorted(counts) and counts[-1] == len(DATA)
    (stream,) = source.opened
    assert stream.closed


def test_an_empty_blob() -> None:
    taker = Taker()
    with scripted(taker) as server, client(server) as registry:
        assert registry.push_blob("a", digest_of(b""), 0, Source(b"")).size == 0
        assert registry.push_blob("a", None, None, Source(b"")).digest == digest_of(b"")
    assert taker.blobs == {digest_of(b""): b""}


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
@pytest.mark.parametrize("how", ["cut", "500", "404", "503"])
def test_begun_anew_after_a_failure(method: str, how: str) -> None:
    taker, source, notices = Taker(), Source(), Notices()
    left = [2]

    def handle(exchange: Exchange) -> None:
        if exchange.method == method and left[0]:
            left[0] -= 1
            exchange.cut() if how == "cut" else exchange.error(int(how), "X", "try again")
        else:
            taker(exchange)

    with scripted(handle) as server, client(server, notices) as registry:
        if method == "POST" and how == "404":
            with pytest.raises(RegistryError, match="cannot push blob"):
                registry.push_blob("a", DIGEST, None, source)
            return
        registry.push_blob("a", DIGEST, None, source)
    assert taker.blobs == {DIGEST: DATA}
    assert len(source.opened) == (1 if method == "POST" else 3) and all(stream.closed for stream in source.opened)
    assert len(notices) == 2


def test_given_up_at_last() -> None:
    taker = Taker()

    def handle(exchange: Exchange) -> None:
        exchange.error(500, "X", "the disk is full") if exchange.method == "PUT" else taker(exchange)

    with scripted(handle) as server, client(server, retries=2) as registry:
        with pytest.raises(RegistryError, match=r"cannot push blob sha256:.*the disk is full") as caught:
            registry.push_blob("a", DIGEST, len(DATA), Source())
        assert caught.value.status == 500
        assert server.paths("PUT") == [f"/v2/a/blobs/uploads/{number}" for number in range(3)]


@pytest.mark.parametrize("status", [400, 413, 405])
def test_refused(status: int) -> None:
    taker = Taker()

    def handle(exchange: Exchange) -> None:
        exchange.error(status, "X", "not this one") if exchange.method == "PUT" else taker(exchange)

    with scripted(handle) as server, client(server) as registry:
        with pytest.raises(RegistryError, match=f"answers {status}: not this one"):
            registry.push_blob("a", DIGEST, len(DATA), Source())
        assert len(server.requests) == 2


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
@pytest.mark.parametrize("chunk", [None, 1_000_000])
def test_a_size_that_is_wrong(size: int, chunk: int | None) -> None:
    taker = Taker()
    with (
        scripted(taker) as server,
        client(server, chunk_size=chunk) as registry,
        pytest.raises(RegistryError, match=r"cannot push|what is to be pushed has 3000000 bytes"),
    ):
        registry.push_blob("a", DIGEST, size, Source())
    assert taker.blobs == {}


@pytest.mark.parametrize("size", [len(DATA), None])
def test_a_digest_that_is_wrong(size: int | None) -> None:
    taker = Taker()
    with scripted(taker) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="cannot push blob"):
            registry.push_blob("a", digest_of(b"other"), size, Source())
        with pytest.raises(OciError):
            registry.push_blob("a", "sha256:x", size, Source())
    assert taker.blobs == {}


def test_a_source_that_fails() -> None:
    class Broken(io.BytesIO):
        failure: Exception = OciError("the pool is damaged")

        def read(self, size: int | None = -1, /) -> bytes:
            raise self.failure

    class BrokenDisk(Broken):
        failure = OSError(5, "the pool is damaged")

    with scripted(Taker()) as server, client(server) as registry:
        for broken in (Broken, BrokenDisk):
            for size in (len(DATA), None):
                with pytest.raises(OciError, match="the pool is damaged"):
                    registry.push_blob("a", DIGEST, size, broken)
        assert len(server.paths("POST")) == 4


def test_a_token_that_runs_out_within_an_upload() -> None:
    taker, source = Taker(), Source()
    good: set[str] = set()

    def handle(exchange: Exchange) -> None:
        if exchange.path == "/token":
            good.add(f"t{len(exchange.server.requests)}")
            exchange.json({"token": f"t{len(exchange.server.requests)}", "expires_in": 300})
        elif (exchange.seen.authorization or "")[7:] not in good:
            exchange.error(401, WWW_Authenticate=f'Bearer realm="{exchange.server.url}/token"')
        else:
            taker(exchange)
            if len(taker.uploads) == 1:
                good.clear()  # after the first POST

    with scripted(handle) as server, client(server) as registry:
        registry.push_blob("a", DIGEST, len(DATA), source)
        tokens = [seen for seen in server.requests if seen.path == "/token"]
        assert [seen.query["scope"] for seen in tokens] == [["repository:a:pull,push"]] * 2
    assert taker.blobs == {DIGEST: DATA} and len(source.opened) == 2


def test_no_right_to_push() -> None:
    with scripted(lambda exchange: exchange.error(403, "DENIED", "not yours")) as server, client(server) as registry:
        with pytest.raises(AuthError, match=r"cannot push blob .*not yours.*docker login"):
            registry.push_blob("a", DIGEST, len(DATA), Source())
        assert len(server.requests) == 1


def test_uploads_elsewhere_do_not_get_the_login() -> None:
    taker = Taker()

    def handle(exchange: Exchange) -> None:
        if exchange.seen.authorization is None:
            exchange.error(401, WWW_Authenticate="Basic realm=x")
        else:
            exchange.reply(202, Location=f"{elsewhere.url}/v2/a/blobs/uploads/0?state=a%2Bb%2Fc")

    with (
        scripted(taker) as elsewhere,
        scripted(handle) as server,
        client(server, username="ann", password="s3cret") as registry,
    ):
        taker.uploads["0"] = b""
        registry.push_blob("a", DIGEST, len(DATA), Source())
        assert [seen.authorization for seen in elsewhere.requests] == [None]
    assert taker.blobs == {DIGEST: DATA}


@pytest.mark.parametrize("location", [None, "http://[", "ftp://example.com/x", "http://ann:pw@127.0.0.1/x"])
def test_places_to_upload_to_that_are_none(location: str | None) -> None:
    headers = {} if location is None else {"Location": location}
    with scripted(lambda exchange: exchange.reply(202, **headers)) as server, client(server) as registry:
        with pytest.raises(RegistryError):
            registry.push_blob("a", DIGEST, len(DATA), Source())
        assert len(server.requests) == 1


def test_an_upload_that_is_redirected_is_not_sent_twice() -> None:
    taker = Taker()

    def handle(exchange: Exchange) -> None:
        exchange.reply(307, Location="/elsewhere") if exchange.method == "PUT" else taker(exchange)

    with scripted(handle) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="redirects an upload"):
            registry.push_blob("a", DIGEST, len(DATA), Source())
        assert "/elsewhere" not in server.paths()


@pytest.mark.parametrize(("status", "mounted"), [(201, True), (202, False), (404, False), (405, False), (403, False)])
def test_mounting(status: int, mounted: bool) -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.method == "POST":
            exchange.reply(status, Location="/v2/a/blobs/uploads/7")
        else:
            exchange.reply(204)

    with scripted(handle) as server, client(server) as registry:
        assert registry.mount_blob("a", DIGEST, "library/b") == mounted
        assert server.requests[0].query == {"mount": [DIGEST], "from": ["library/b"]}
        assert [(seen.method, seen.path) for seen in server.requests[1:]] == (
            [("DELETE", "/v2/a/blobs/uploads/7")] if status == 202 else []
        )


@pytest.mark.parametrize(("status", "has"), [(200, True), (404, False)])
def test_asking_for_a_blob(status: int, has: bool) -> None:
    with scripted(lambda exchange: exchange.reply(status)) as server, client(server) as registry:
        assert registry.has_blob("a", DIGEST) == has
        assert (server.requests[0].method, server.requests[0].path) == ("HEAD", f"/v2/a/blobs/{DIGEST}")


def test_asking_for_a_blob_fails() -> None:
    with scripted(lambda exchange: exchange.reply(500)) as server, client(server) as registry:
        with pytest.raises(RegistryError) as caught:
            registry.has_blob("a", DIGEST)
        assert caught.value.status == 500


class TestManifests:
    @staticmethod
    def put(registry: Registry, target: str = "1") -> str:
        tag, digest = (None, target) if ":" in target else (target, None)
        return registry.put_manifest(Reference(registry.host, "a", tag, digest), MANIFEST, MANIFEST_TYPE)

    def test_put(self) -> None:
        said = {"Docker_Content_Digest": digest_of(MANIFEST)}
        with scripted(lambda exchange: exchange.reply(201, **said)) as server, client(server) as registry:
            assert self.put(registry) == self.put(registry, digest_of(MANIFEST)) == digest_of(MANIFEST)
            assert server.paths("PUT") == ["/v2/a/manifests/1", f"/v2/a/manifests/{digest_of(MANIFEST)}"]
            assert server.requests[0].body == MANIFEST
            assert server.requests[0].headers["Content-Type"] == MANIFEST_TYPE

    def test_another_digest(self) -> None:
        said = {"Docker_Content_Digest": "sha256:\x1b"}
        with scripted(lambda exchange: exchange.reply(201, **said)) as server, client(server) as registry:
            with pytest.raises(RegistryError, match=re.escape(r"took it as sha256:\x1b")):
                self.put(registry)
            with pytest.raises(RegistryError, match="the manifest's digest is"):
                self.put(registry, digest_of(b"x"))
            assert len(server.requests) == 1

    def test_refused(self) -> None:
        def handle(exchange: Exchange) -> None:
            exchange.error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")

        with (
            scripted(handle) as server,
            client(server) as registry,
            pytest.raises(RegistryError, match=r"cannot push .*/a:1: .*400: blob unknown to registry"),
        ):
            self.put(registry)

    def test_tried_again(self) -> None:
        def handle(exchange: Exchange) -> None:
            exchange.reply(201 if len(exchange.server.requests) == 3 else 502)

        with scripted(handle) as server, client(server) as registry:
            assert self.put(registry) == digest_of(MANIFEST)
            assert all(seen.body == MANIFEST for seen in server.requests)
