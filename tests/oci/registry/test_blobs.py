"""Blobs on their way here: cut, stalled, gone on with, and stopped from outside."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import OciError, RegistryError
from lamina.oci.registry.client import Registry
from lamina.oci.registry.options import Mirror
from tests.oci.registry.kit import Blob, Notices, blob_of, client, quick
from tests.oci.registry.scripted import Exchange, Scripted, scripted
from tests.oci.registry.servers import make_certificates

DATA = random.Random(1).randbytes(300_000)
BLOB = blob_of(DATA)


def begin_of(exchange: Exchange) -> int:
    return int((exchange.seen.headers["Range"] or "bytes=0-")[6:-1])


def begins(server: Scripted) -> list[int]:
    return [int((seen.headers["Range"] or "bytes=0-")[6:-1]) for seen in server.requests]


def part(exchange: Exchange, most: int | None = None, *, data: bytes = DATA, ranges: bool = True) -> None:
    """Send the blob from where it is asked for, ``most`` bytes of it, and cut what is left."""
    begin = begin_of(exchange) if ranges else 0
    said = {"Content-Length": str(len(data) - begin)}
    if begin:
        said["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
    exchange.head(206 if begin else 200, said)
    exchange.write(data[begin:] if most is None else data[begin : begin + most])
    if most is not None:
        exchange.cut()


def read(registry: Registry, blob: Blob = BLOB) -> bytes:
    with registry.blob("a", blob) as stream:
        return stream.read()


def test_a_blob() -> None:
    with scripted(part) as server, client(server) as registry:
        stream = registry.blob("a/b", BLOB)
        assert server.requests == []
        assert stream.read(10) == DATA[:10]
        buffer = bytearray(1000)
        assert stream.readinto(buffer) == 1000 and buffer == DATA[10:1010]  # type: ignore[attr-defined]
        assert stream.read() == DATA[1010:]
        assert stream.read(1) == b""
        stream.close()
        stream.close()
        assert server.paths() == [f"/v2/a/b/blobs/{BLOB.digest}"]


def test_a_blob_of_nothing_and_a_digest_that_is_none() -> None:
    with scripted(part) as server, client(server) as registry:
        assert read(registry, Blob(BLOB.digest, 0)) == b""
        with pytest.raises(OciError):
            registry.blob("a", Blob("sha256:../../x", 3))


def test_cut_again_and_again() -> None:
    notices = Notices()
    with scripted(lambda exchange: part(exchange, 50_000)) as server, client(server, notices) as registry:
        assert read(registry) == DATA
        assert begins(server) == [0, *range(50_000, 300_000, 50_000)]
    assert len(notices) == 5 and "going on at byte 50000" in notices[0]


def test_a_server_that_knows_no_ranges() -> None:
    def handle(exchange: Exchange) -> None:
        part(exchange, 100_000 * len(exchange.server.requests), ranges=False)

    with scripted(handle) as server, client(server) as registry:
        assert read(registry) == DATA
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "content_range",
    ["", "bytes 0-299999/300000", "bytes 100000-299999/300001", "bytes 100000-400000/400001", "bytes x", "x 1-1/2"],
)
def test_ranges_that_make_no_sense(content_range: str) -> None:
    def handle(exchange: Exchange) -> None:
        if begin_of(exchange):
            exchange.reply(206, DATA[100_000:], Content_Range=content_range)
        elif len(exchange.server.requests) == 1:
            part(exchange, 100_000)
        else:
            part(exchange)

    with scripted(handle) as server, client(server) as registry:
        assert read(registry) == DATA
        assert [bool(seen.headers["Range"]) for seen in server.requests] == [False, True, False]


def test_a_range_of_unknown_whole() -> None:
    def handle(exchange: Exchange) -> None:
        if begin := begin_of(exchange):
            exchange.reply(206, DATA[begin:], Content_Range=f"bytes {begin}-{len(DATA) - 1}/*")
        else:
            part(exchange, 1000)

    with scripted(handle) as server, client(server) as registry:
        assert read(registry) == DATA


def test_a_range_that_is_refused() -> None:
    def handle(exchange: Exchange) -> None:
        if begin_of(exchange):
            exchange.reply(416)
        else:
            part(exchange, 1000 if len(exchange.server.requests) == 1 else None)

    with scripted(handle) as server, client(server) as registry:
        assert read(registry) == DATA


def test_no_byte_more_is_given_up() -> None:
    def handle(exchange: Exchange) -> None:
        part(exchange, 0 if begin_of(exchange) else 1000)

    with scripted(handle) as server, client(server) as registry:
        with pytest.raises(RegistryError, match=r"cannot read blob sha256:.*cut") as caught:
            read(registry)
        assert BLOB.digest in str(caught.value)
        assert len(server.requests) == 4


def test_a_server_that_cuts_always_at_the_same_place() -> None:
    with scripted(lambda exchange: part(exchange, 1000, ranges=False)) as server, client(server) as registry:
        with pytest.raises(RegistryError):
            read(registry)
        assert len(server.requests) == 4


def test_a_stall() -> None:
    def handle(exchange: Exchange) -> None:
        if begin_of(exchange):
            part(exchange)
        else:
            exchange.head(200, {"Content-Length": str(len(DATA))})
            exchange.write(DATA[:1000])
            exchange.hang()

    notices = Notices()
    with scripted(handle) as server, client(server, notices, read_timeout=1.0) as registry:
        assert read(registry) == DATA
        assert len(server.requests) == 2
    assert "nothing came for 1 s: going on at byte 1000" in notices[0]


def test_a_trickle_is_a_stall() -> None:
    def handle(exchange: Exchange) -> None:
        if begin_of(exchange):
            part(exchange)
            return
        exchange.head(200, {"Content-Length": str(len(DATA))})
        for byte in DATA[:2000]:
            exchange.write(bytes([byte]))
            if exchange.server.over.wait(0.02):
                break
        exchange.cut()

    notices = Notices()
    with scripted(handle) as server, client(server, notices, read_timeout=1.0) as registry:
        assert read(registry) == DATA
        assert len(server.requests) == 2
    assert "bytes in 1." in notices[0] and "going on at byte" in notices[0]


def test_a_stall_for_ever() -> None:
    with scripted(lambda exchange: exchange.hang()) as server, client(server, retries=1, read_timeout=0.2) as registry:
        with pytest.raises(RegistryError, match=r"cannot read blob .* nothing came for 0\.2 s"):
            read(registry)
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_errors_in_between(status: int) -> None:
    def handle(exchange: Exchange) -> None:
        number = len(exchange.server.requests)
        if number in (1, 3):
            exchange.error(status, Retry_After="0")
        else:
            part(exchange, 1000 if number == 2 else None)

    with scripted(handle) as server, client(server) as registry:
        assert read(registry) == DATA


@pytest.mark.parametrize(("status", "said"), [(404, "does not have it"), (403, "denies"), (500, "fails"), (418, "418")])
def test_errors_for_ever(status: int, said: str) -> None:
    with scripted(lambda exchange: exchange.error(status)) as server, client(server) as registry:
        with pytest.raises(RegistryError, match=f"cannot read blob {BLOB.digest}: .*{said}") as caught:
            read(registry)
        assert caught.value.status == status and str(caught.value).count("cannot") == 1
        assert len(server.requests) == (4 if status == 500 else 1)


def test_a_wait_too_long_is_given_up() -> None:
    with scripted(lambda exchange: exchange.error(429, Retry_After="9999")) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="too many requests"):
            read(registry)
        assert len(server.requests) == 1


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_length_other_than_the_manifests(wrong: int) -> None:
    with scripted(part) as server, client(server) as registry:
        with pytest.raises(RegistryError, match=f"has 300000 bytes at .*, its manifest says {300000 + wrong}"):
            read(registry, Blob(BLOB.digest, len(DATA) + wrong))
        assert len(server.requests) == 1


def chunked(exchange: Exchange, data: bytes = DATA) -> None:
    exchange.head(200, {"Transfer-Encoding": "chunked"})
    for begin in range(0, len(data), 7000):
        piece = data[begin : begin + 7000]
        exchange.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    exchange.write(b"0\r\n\r\n")


def test_chunks() -> None:
    with scripted(chunked) as server, client(server) as registry:
        assert read(registry) == DATA
        with pytest.raises(RegistryError, match="longer"):
            read(registry, Blob(BLOB.digest, len(DATA) - 1))


def test_chunks_that_end_too_early() -> None:
    def handle(exchange: Exchange) -> None:
        if begin_of(exchange):
            part(exchange)
        else:
            chunked(exchange, DATA[:20_000])

    with scripted(handle) as server, client(server) as registry:
        assert read(registry) == DATA
        assert begins(server) == [0, 20_000]


def test_old_http() -> None:
    def handle(exchange: Exchange) -> None:
        exchange.head(200, {})
        exchange.write(DATA if len(exchange.server.requests) > 1 else DATA[:1000])

    with scripted(handle, http10=True) as server, client(server) as registry:
        assert read(registry) == DATA
        assert len(server.requests) == 2


def test_a_redirect_is_asked_for_anew_each_time() -> None:
    """Addresses of stores are signed and run out: going on begins at the registry."""

    def store(exchange: Exchange) -> None:
        part(exchange, 100_000)

    with (
        scripted(store) as elsewhere,
        scripted(lambda exchange: exchange.reply(307, Location=f"{elsewhere.url}/x?signed=1")) as server,
        client(server) as registry,
    ):
        assert read(registry) == DATA
        assert len(server.requests) == len(elsewhere.requests) == 3
        assert begins(elsewhere) == [0, 100_000, 200_000]


def test_a_mirror_that_breaks_off_is_gone_on_with_elsewhere() -> None:
    def breaking(exchange: Exchange) -> None:
        part(exchange, 0 if begin_of(exchange) else 1000)

    notices = Notices()
    with scripted(breaking) as mirror, scripted(part) as server:
        mirrors = (Mirror(server.host, mirror.host, "", plain_http=True),)
        with client(server, notices, mirrors=mirrors) as registry:
            assert read(registry) == DATA
        assert begins(server) == [1000]
    assert f"{server.host} is asked instead of {mirror.host}" in notices[-1]


def test_a_mirror_without_the_blob() -> None:
    with scripted(lambda exchange: exchange.error(404)) as mirror, scripted(part) as server:
        with client(server, mirrors=(Mirror(server.host, mirror.host, "", plain_http=True),)) as registry:
            assert read(registry) == DATA
        assert len(mirror.requests) == 1


def test_several_at_once_share_connections() -> None:
    peers: set[int] = set()

    def handle(exchange: Exchange) -> None:
        peers.add(exchange._handler.client_address[1])
        part(exchange)

    with scripted(handle) as server, client(server) as registry, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: read(registry), range(24))) == [DATA] * 24
    assert len(peers) <= 4


@pytest.mark.parametrize("tls", [False, True])
def test_stopping_from_outside_ends_a_read(tls: bool, tmp_path: Path) -> None:
    """What Ctrl-C does while other threads wait for the network."""

    def handle(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": str(len(DATA))})
        exchange.write(DATA[:1000])
        exchange.hang()

    certificates = make_certificates(tmp_path) if tls else None
    options = quick(plain_http=not tls, ca_file=certificates.ca_file if certificates else None, read_timeout=30.0)
    with scripted(handle, certificates=certificates) as server, Registry(server.host, options) as registry:
        blob = registry.blob("a", BLOB)
        assert blob.read(1000) == DATA[:1000]
        failures: list[BaseException] = []

        def wait() -> None:
            try:
                blob.read(1)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        registry.close()
        thread.join(10)
        assert not thread.is_alive()
        assert [str(error) for error in failures] == ["the transfer was stopped"]
        blob.close()
        with pytest.raises(RegistryError, match="stopped"):
            read(registry)


def test_stopping_from_outside_ends_a_wait() -> None:
    notices = Notices()
    with scripted(lambda exchange: exchange.error(503, Retry_After="30")) as server:
        registry = client(server, notices)
        failures: list[str] = []

        def wait() -> None:
            try:
                read(registry)
            except RegistryError as error:
                failures.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        assert notices.came.wait(10)
        registry.close()
        thread.join(10)
        assert failures == ["the transfer was stopped"]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 5000),
    st.lists(st.tuples(st.sampled_from(["cut", "range", "whole", "500", "wrong"]), st.integers(0, 3000)), max_size=6),
    st.integers(1, 2000),
)
def test_any_sequence_of_failures(size: int, failures: list[tuple[str, int]], step: int) -> None:
    """Whatever happens in between: either the very bytes come, in order, or an error."""
    data = random.Random(size).randbytes(size)
    left = list(failures)

    def handle(exchange: Exchange) -> None:
        kind, number = left.pop(0) if left else ("range", size)
        if kind == "500":
            exchange.error(500)
        elif kind == "wrong":
            exchange.reply(206, data[number:], Content_Range=f"bytes {number}-{size - 1}/{size}")
        elif kind == "whole":
            part(exchange, number, data=data, ranges=False)
        else:
            part(exchange, number, data=data)

    with scripted(handle) as server, client(server, retries=8) as registry, registry.blob("a", blob_of(data)) as stream:
        got = bytearray()
        try:
            while piece := stream.read(step):
                got += piece
        except RegistryError:
            assert data.startswith(got) and any(kind == "wrong" for kind, _ in failures)
        else:
            assert got == data
