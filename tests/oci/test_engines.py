"""Images of Docker, containerd and Podman, taken from the engines themselves; and engines that are not there."""

import contextlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import LaminaError, NotFound, OciError
from lamina.oci.incoming.engines import (
    Containerd,
    ContainersStorage,
    DockerDaemon,
    _SocketConnection,
    engine_image,
    engine_of,
)
from lamina.oci.incoming.pipes import PolledStream, ProcessStream
from tests.oci.building import BuiltImage, directory, docker_archive, file, layer, whiteout, write_layout
from tests.oci.programs import need, run
from tests.oci.taking import Tank

IMAGE = BuiltImage(
    [
        layer(directory("etc"), file("etc/hosts", b"127.0.0.1"), file("big", os.urandom(300_000))),
        layer(whiteout("etc/hosts"), file("etc/motd", b"hello")),
    ]
)
OTHER = BuiltImage([layer(file("other", b"x"))])


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tank:
    return Tank(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A short path: those of sockets have at most 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="lamina-") as name:
        yield Path(name)


# -- containerd ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ctr(place: Path) -> Iterator[list[str]]:
    """A containerd of the test's own as a machine would have it; the words of its ``ctr``."""
    need("containerd", "ctr")
    socket_, config = place / "c.sock", place / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{place}/root"\nstate = "{place}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
        f'[grpc]\naddress = "{socket_}"\n[ttrpc]\naddress = "{socket_}.ttrpc"\n'
    )
    with open(place / "c.log", "wb") as log:
        process = subprocess.Popen(["containerd", "--config", str(config)], stdout=log, stderr=log)
    words = ["ctr", "--address", str(socket_), "--namespace", "tests"]
    try:
        deadline = time.monotonic() + 30
        while subprocess.run([*words, "version"], capture_output=True, check=False).returncode:
            assert process.poll() is None and time.monotonic() < deadline, (place / "c.log").read_text()
            time.sleep(0.1)
        for name, image in (("docker.io/library/app:1", IMAGE), ("docker.io/library/other:1", OTHER)):
            (place / "archive.tar").write_bytes(docker_archive({name: image}))
            run(*words, "images", "import", place / "archive.tar")
        yield words
    finally:
        process.terminate()
        process.wait()


def test_an_image_of_containerd(tank: Tank, ctr: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINERD_ADDRESS", ctr[2])
    tank.take("containerd://tests/docker.io/library/app:1", "tank/a@full")
    tank.take("--platform", "linux/amd64", "containerd://tests/app:1", "tank/a@platform")
    monkeypatch.setenv("CONTAINERD_NAMESPACE", "tests")
    tank.take("containerd://docker.io/library/app:1", "tank/a@namespace")
    tank.take("containerd://app:1")
    plain = BuiltImage(IMAGE.layers, "none")
    for name in ("tank/a@full", "tank/a@platform", "tank/a@namespace", "tank/images/app@1"):
        tank.holds(name, IMAGE, plain.manifest)
    message = tank.refused("containerd://nosuch:1", "tank/a@x")
    assert "containerd has no image 'nosuch:1' in the namespace 'tests'; 'ctr -n tests images ls' lists" in message


def test_containerd_lists_and_removes(ctr: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINERD_ADDRESS", f"unix://{ctr[2]}")
    found = Containerd("tests")
    images = {image.names: image for image in found.images()}
    assert set(images) == {("docker.io/library/app:1",), ("docker.io/library/other:1",)}
    assert all(image.id.startswith("sha256:") and image.size > 1000 for image in images.values())
    assert images[("docker.io/library/app:1",)].size > 300_000
    found.remove("other:1")
    assert run(*ctr, "images", "ls", "-q").split() == ["docker.io/library/app:1"]
    with pytest.raises(NotFound, match="has no image"):
        found.remove("other:1")


def test_a_containerd_that_is_not_there(tank: Tank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ctr") is None:
        pytest.skip("needs ctr")
    monkeypatch.setenv("CONTAINERD_ADDRESS", str(tmp_path / "none.sock"))
    message = tank.refused("containerd://app:1", "tank/a@x")
    assert message.endswith("none.sock; see that it runs, or set CONTAINERD_ADDRESS")


# -- Podman -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def storage(place: Path) -> str:
    """A store of its own with the image, as skopeo names it."""
    need("podman", "skopeo")
    store = f"[vfs@{place}/graph+{place}/run]"
    layout = write_layout(place / "layout", {"v1": IMAGE})
    run("skopeo", "copy", "-q", "--insecure-policy", f"oci:{layout}:v1", f"containers-storage:{store}example.org/app:1")
    return store


def test_an_image_of_podman(tank: Tank, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tank.take(f"containers-storage:{storage}example.org/app:1", "tank/a@1")
    tank.take(f"containers-storage:{storage}example.org/app:1")
    tank.take(f"containers-storage:{storage}@{IMAGE.image_id[7:]}", "tank/a@id")
    for name in ("tank/a@1", "tank/images/app@1", "tank/a@id"):
        tank.holds(name, IMAGE, None)
    assert "'podman' failed: " in tank.refused(f"containers-storage:{storage}nosuch:1", "tank/a@x")


def test_an_image_of_podman_s_store_by_skopeo(
    tank: Tank, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = tmp_path / "bin"
    only.mkdir()
    for program in ("skopeo",):
        (only / program).symlink_to(str(shutil.which(program)))
    monkeypatch.setenv("PATH", str(only))
    tank.take(f"containers-storage:{storage}example.org/app:1", "tank/a@1")
    tank.holds("tank/a@1", IMAGE, None)
    with pytest.raises(OciError, match="needs the program podman"):
        ContainersStorage().images()


def test_podman_lists_and_removes(storage: str, place: Path) -> None:
    found, rest = engine_of(f"containers-storage:{storage}") or pytest.fail("no engine")
    assert rest == ""
    (image,) = found.images()
    assert (image.names, image.id) == (("example.org/app:1",), IMAGE.image_id) and image.size > 300_000
    run(
        "podman",
        "--storage-driver",
        "vfs",
        "--root",
        place / "graph",
        "--runroot",
        place / "run",
        "tag",
        image.id,
        "b:2",
    )
    assert len(found.images()) == 1 and len(found.images()[0].names) == 2
    found.remove("b:2")
    assert found.images()[0].names == ("example.org/app:1",)


def test_a_program_that_is_not_there(tank: Tank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for word, program in (("containers-storage:a", "podman or skopeo"), ("containerd://a", "ctr")):
        assert f"needs the program {program}, which is not installed" in tank.refused(word, "tank/a@x")


# -- Docker -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def dockerd(place: Path) -> Iterator[Path]:
    """A Docker daemon of the test's own, without networks; its socket."""
    place.mkdir()
    path = place / "d.sock"
    words = ["dockerd", "--data-root", place / "data", "--exec-root", place / "exec", "--pidfile", place / "pid"]
    words += [
        "--storage-driver",
        "vfs",
        "--iptables=false",
        "--ip6tables=false",
        "--bridge=none",
        "-H",
        f"unix://{path}",
    ]
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(list(map(str, words)), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not answers(path):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip("dockerd does not run here: " + (place / "log").read_text()[-300:])
            time.sleep(0.2)
        yield path
    finally:
        process.terminate()
        process.wait()


def answers(path: Path) -> bool:
    try:
        DockerDaemon(str(path)).images()
    except OciError:
        return False
    return True


@pytest.fixture(scope="module")
def docker(place: Path) -> Iterator[Path]:
    need("dockerd")
    with dockerd(place / "d") as path:
        connection = _SocketConnection(str(path))
        connection.request("POST", "/images/load", docker_archive({"org/app:1": IMAGE, "other:1": OTHER}, old=True))
        assert connection.getresponse().read()
        yield path


def test_an_image_of_docker(tank: Tank, docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{docker}")
    tank.take("docker-daemon:org/app:1", "tank/a@1")
    tank.take("docker-daemon:org/app:1")
    tank.take(f"docker-daemon:{IMAGE.image_id}", "tank/a@id")
    for name in ("tank/a@1", "tank/images/org/app@1", "tank/a@id"):
        tank.holds(name, IMAGE, None)
    assert tank.refused("docker-daemon:nosuch:1", "tank/a@x") == (
        "Docker has no image 'nosuch:1'; 'docker images' lists what it has"
    )


def test_docker_lists_and_removes(docker: Path) -> None:
    found = DockerDaemon(str(docker))
    images = {image.names: image for image in found.images()}
    assert images[("org/app:1",)].id == IMAGE.image_id and images[("org/app:1",)].size > 300_000
    found.remove("other:1")
    assert [image.names for image in found.images()] == [("org/app:1",)]
    with pytest.raises(NotFound):
        found.remove("other:1")


def test_a_docker_that_is_not_there(tank: Tank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    message = tank.refused("docker-daemon:app:1", "tank/a@x")
    assert message.endswith("No such file or directory; see that it runs and that you may use it, or set DOCKER_HOST")
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
    assert "only a socket on this machine (unix:///...) is spoken to" in tank.refused("docker-daemon:a", "tank/a@x")


class Script(threading.Thread):
    """A server on a Unix socket that answers one request with the same bytes, and hangs up or waits."""

    def __init__(self, path: Path, answer: bytes, wait: bool = False) -> None:
        super().__init__(daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._answer = answer
        self._wait = wait
        self.sent = threading.Event()
        self.gone = threading.Event()
        self.start()

    def run(self) -> None:
        connection, _ = self._server.accept()
        with connection, self._server:
            connection.recv(65536)
            with contextlib.suppress(OSError):
                connection.sendall(self._answer)
                self.sent.set()
                if self._wait and not connection.recv(1):
                    self.gone.set()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "Docker does not answer on "),
        (b"garbage\r\n\r\n", "Docker does not answer on "),
        (b'HTTP/1.1 500 x\r\nContent-Length: 22\r\n\r\n{"message":"it \x1bbroke"}', "Docker refuses: it "),
        (b"HTTP/1.1 503 x\r\nContent-Length: 2\r\n\r\nno", "Docker refuses: it answered with status 503"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nabc", "Docker ended the connection before"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "has no 'manifest.json'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "tar is cut short"),
    ],
)
def test_a_docker_that_misbehaves(
    tank: Tank, place: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, message: str
) -> None:
    path = place / "scripted.sock"
    path.unlink(missing_ok=True)
    server = Script(path, answer)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    assert message in tank.refused("docker-daemon:app:1", "tank/a@x")
    server.join(10)


def test_an_export_that_never_goes_on_can_be_given_up(place: Path) -> None:
    path = place / "waiting.sock"
    server = Script(path, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", wait=True)
    stream = DockerDaemon(str(path)).export("app:1")
    assert stream.read(3) == b"abc"
    failed: list[BaseException] = []

    def read() -> None:
        try:
            if stream.read(1):
                failed.append(AssertionError("bytes"))
        except (OSError, ValueError, LaminaError, http.client.HTTPException):
            pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.1)
    stream.close()
    thread.join(10)
    assert not thread.is_alive() and not failed and server.gone.wait(10)


# -- words --------------------------------------------------------------------------------------------------------


def test_words_of_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_of("app.tar") is None and engine_of("docker-archive:x") is None
    for word in ("docker-daemon:", "containers-storage:", "containers-storage:[vfs@/a+/b]"):
        if shutil.which("podman") or word.startswith("docker"):
            with pytest.raises(OciError, match="names no image"):
                engine_image(word)
    if shutil.which("podman"):
        with pytest.raises(OciError, match=r"\[DRIVER@ROOT\+RUNROOT\] is expected"):
            engine_image("containers-storage:[vfs@/a")
        with pytest.raises(OciError, match="invalid image name '--help'"):
            ContainersStorage().export("--help")


def test_an_engine_s_image_has_no_format(tank: Tank) -> None:
    done = tank.run("image", "import", "-f", "tar", "docker-daemon:a", "tank/a@x")
    assert (done.status, done.err.splitlines()[0]) == (
        2,
        "'docker-daemon:a' is an image of an engine: leave out --format",
    )


# -- programs as streams ------------------------------------------------------------------------------------------


def test_what_a_program_writes() -> None:
    with ProcessStream(["sh", "-c", "printf abc; printf noise >&2"]) as stream:
        assert stream.readall() == b"abc"


def test_a_program_that_fails_at_the_end() -> None:
    with ProcessStream(["sh", "-c", "printf abc; echo first >&2; echo 'the \033reason' >&2; exit 3"]) as stream:
        assert stream.read(3) == b"abc"
        with pytest.raises(OciError, match=r"'sh' failed: the \\x1breason"):
            stream.read(1)
    with pytest.raises(OciError, match="cannot run '/nowhere': No such file or directory"):
        ProcessStream(["/nowhere"])


def test_a_program_that_never_ends_is_ended() -> None:
    stream = ProcessStream(["sh", "-c", "sleep 1000 & wait"])
    process = stream._process
    thread = threading.Thread(target=read, args=(stream,))
    thread.start()
    time.sleep(0.1)
    stream.close()
    thread.join(10)
    assert not thread.is_alive() and process.returncode == -9


def read(stream: io.RawIOBase) -> None:
    with contextlib.suppress(ValueError, OciError):
        stream.read(1)


def test_a_pipe_that_waits_can_be_closed() -> None:
    reading, writing = os.pipe()
    stream = PolledStream(reading)
    thread = threading.Thread(target=read, args=(stream,))
    thread.start()
    stream.close()
    thread.join(10)
    assert not thread.is_alive()
    os.write(writing, b"x")
    assert os.read(reading, 1) == b"x", "the descriptor is still open, and nothing was taken from it"
    os.close(reading)
    os.close(writing)


def test_lists_that_make_no_sense(place: Path) -> None:
    for answer, message in ((b"{}", "is none"), (b"[1]", "is not a JSON object"), (b"[" * 5000, "nested")):
        path = place / "list.sock"
        path.unlink(missing_ok=True)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
        Script(path, head + answer)
        with pytest.raises(OciError, match=message):
            DockerDaemon(str(path)).images()
    named = [{"Id": "sha256:1", "RepoTags": ["<none>:<none>"], "Size": 5}, {"Id": "2", "RepoTags": None, "Size": 0}]
    body = json.dumps(named).encode()
    path.unlink()
    Script(path, f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert [(image.names, image.id) for image in DockerDaemon(str(path)).images()] == [((), "sha256:1"), ((), "2")]
