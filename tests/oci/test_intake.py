"""Layers taken in at once: each fetched once, what the pool has not at all; any reason to stop ends all of it."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from lamina.errors import OciError, SourceError
from lamina.oci.formats.models import OCI_LAYER
from lamina.oci.incoming.intake import Streams, check_image, run_together, take_image, take_layers
from lamina.oci.incoming.source import Image, LayerBlob
from lamina.oci.incoming.states import COMPLETE, DOWNLOADING, EXISTS, STORING, WAITING
from lamina.pool import Pool
from tests.oci.building import BuiltImage, digest_of, docker_archive, file, layer
from tests.oci.taking import Tank

TARS = [layer(file(f"file{number}", bytes([number + 1]) * 40_000 * (number + 1))) for number in range(4)]


class Watched:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.layers: Sequence[tuple[str, int | None]] = ()
        self.seen: dict[str, list[str]] = {}
        self.done: dict[str, int] = {}

    def begin(self, layers: Sequence[tuple[str, int | None]]) -> None:
        self.layers = layers

    def update(self, digest: str, state: str, done: int) -> None:
        states = self.seen.setdefault(digest, [])
        if not states or states[-1] != state:
            states.append(state)
        self.done[digest] = done

    def say(self, text: str) -> None:
        raise AssertionError(text)


class Session:
    """A pool in memory."""

    def __init__(self, *there: str) -> None:
        self.there = set(there)
        self.taken: dict[str, bytes] = {}
        self.reason: BaseException | None = None

    def has(self, diff_id: str) -> bool:
        return diff_id in self.there or diff_id in self.taken

    def add(self, tar: BinaryIO, diff_id: str | None, label: str) -> str:
        data = tar.read()
        found = digest_of(data)
        if diff_id not in (None, found):
            raise SourceError(f"layer {label} is {found}")
        self.taken[found] = data
        return found

    def check(self) -> None:
        if self.reason is not None:
            raise self.reason


def blob(tar: bytes, open_: Callable[[], Any] | None = None) -> LayerBlob:
    return LayerBlob(digest_of(tar), digest_of(tar), len(tar), OCI_LAYER, open_ or partial(io.BytesIO, tar))


class Stuck(io.RawIOBase):
    """A stream whose bytes never come; closing it wakes whoever waits, as with a socket."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.woken = threading.Event()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        self.waiting.set()
        assert self.woken.wait(20), "nobody closed it"
        raise ValueError("closed")

    def close(self) -> None:
        self.woken.set()
        super().close()


def test_each_layer_once_and_none_that_is_there() -> None:
    opened: list[int] = []

    def open_(number: int) -> BinaryIO:
        opened.append(number)
        return io.BytesIO(TARS[number])

    layers = [blob(TARS[number], partial(open_, number)) for number in (0, 1, 0, 2, 1, 3)]
    session, watched = Session(digest_of(TARS[2])), Watched()
    take_layers(session, layers, watcher=watched)
    assert sorted(opened) == [0, 1, 3]
    assert session.taken == {digest_of(TARS[number]): TARS[number] for number in (0, 1, 3)}
    assert list(watched.layers) == [(digest_of(TARS[number]), len(TARS[number])) for number in (0, 1, 2, 3)]
    assert watched.seen[digest_of(TARS[2])] == [EXISTS]
    for number in (0, 1, 3):
        states = watched.seen[digest_of(TARS[number])]
        assert states == [state for state in (WAITING, DOWNLOADING, STORING, COMPLETE) if state in states]
        assert {WAITING, DOWNLOADING, COMPLETE} <= set(states)
        assert watched.done[digest_of(TARS[number])] == len(TARS[number])


def test_nothing_to_fetch() -> None:
    session = Session(*map(digest_of, TARS))
    take_layers(session, [blob(tar, lambda: pytest.fail("it was opened")) for tar in TARS])
    take_layers(session, [])
    assert not session.taken


def test_layers_come_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=20)

    def open_(tar: bytes) -> BinaryIO:
        barrier.wait()
        return io.BytesIO(tar)

    take_layers(Session(), [blob(tar, partial(open_, tar)) for tar in TARS[:3]], jobs=3)


def test_no_more_at_the_same_time_than_asked_for() -> None:
    lock, running, most = threading.Lock(), 0, 0

    class Counted(io.BytesIO):
        def close(self) -> None:
            nonlocal running
            with lock:
                running -= not self.closed
            super().close()

    def open_(tar: bytes) -> BinaryIO:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        return Counted(tar)

    take_layers(Session(), [blob(tar, partial(open_, tar)) for tar in TARS], jobs=2)
    assert most == 2 and running == 0


def test_a_failure_ends_those_that_wait() -> None:
    stuck = [Stuck(), Stuck()]

    def fail() -> BinaryIO:
        for one in stuck:
            one.waiting.wait(20)
        raise OciError("the registry is gone")

    layers = [blob(tar, lambda one=one: one) for tar, one in zip(TARS[2:], stuck, strict=True)]  # type: ignore[misc]
    later = blob(TARS[0], lambda: pytest.fail("it was begun after the failure"))
    before = threading.active_count()
    with pytest.raises(OciError, match="the registry is gone"):
        take_layers(Session(), [*layers, blob(TARS[1], fail), later])
    assert all(one.closed for one in stuck)
    assert threading.active_count() == before


def test_a_reason_to_stop_ends_those_that_wait() -> None:
    stuck = [Stuck(), Stuck()]
    session = Session()

    def interrupt() -> None:
        for one in stuck:
            one.waiting.wait(20)
        session.reason = KeyboardInterrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    layers = [blob(tar, lambda one=one: one) for tar, one in zip(TARS, stuck, strict=False)]  # type: ignore[misc]
    with pytest.raises(KeyboardInterrupt):
        take_layers(session, layers)
    thread.join()
    assert all(one.closed for one in stuck) and not session.taken


def test_what_is_opened_after_the_end_is_closed_at_once() -> None:
    streams = Streams()
    before, after = io.BytesIO(), io.BytesIO()
    streams.opened(before)
    streams.give_up()
    with pytest.raises(OciError):
        streams.opened(after)
    assert before.closed and after.closed


def test_errors_that_nobody_expected_come_through() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_together([broken] * 5, 2, Streams(), lambda: None)


@pytest.mark.parametrize("number", range(4))
def test_the_layer_is_verified(number: int) -> None:
    good = blob(TARS[0])
    bad, message = [
        (replace(good, digest=digest_of(b"x")), "is damaged or not what it should be"),
        (replace(good, size=5), "is longer than the 5 bytes"),
        (replace(good, size=1 << 40), "is cut short"),
        (replace(good, diff_id=digest_of(b"x")), f"is {good.diff_id}"),
    ][number]
    with pytest.raises((OciError, SourceError), match=message):
        take_layers(Session(), [bad])


# -- images -------------------------------------------------------------------------------------------------------


def image_of(built: BuiltImage) -> Image:
    layers = [
        LayerBlob(diff_id, digest_of(data), len(data), built.layer_type, partial(io.BytesIO, data))
        for diff_id, data in zip(built.diff_ids, map(built.blob, built.layers), strict=True)
    ]
    return Image(built.config, built.manifest, layers)


def test_config_manifest_and_layers_say_the_same() -> None:
    built = BuiltImage(TARS[:2])
    image = image_of(built)
    assert check_image(image).digest == built.image_id
    other = image_of(BuiltImage(TARS[2:]))
    first, second = image.layers
    for wrong, message in (
        (replace(image, config=other.config), f"layer 1 is {first.diff_id}, but the config names"),
        (replace(image, manifest=other.manifest), "but the manifest names"),
        (replace(image, manifest=b'{"schemaVersion":2,"manifests":[]}'), "an index came where"),
        (replace(image, layers=[first]), "has 1 layers, but its config names 2"),
        (replace(image, layers=[second, first]), "layer 1 is"),
        (replace(image, layers=[replace(first, digest=second.digest), second]), "but the manifest names"),
        (replace(image, layers=[replace(first, size=1), second]), "has 1 bytes, but the manifest says"),
        (replace(image, layers=[replace(first, media_type="x"), second]), "unknown media type 'x'"),
    ):
        with pytest.raises(OciError, match=message):
            check_image(wrong)
    assert check_image(replace(image, manifest=None, layers=[replace(first, digest=None, size=None), second]))


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tank:
    return Tank(tmp_path, monkeypatch, capsys)


def test_an_image_is_taken_and_a_second_shares(tank: Tank) -> None:
    one, two = BuiltImage(TARS[:2]), BuiltImage([*TARS[:2], TARS[3]])
    with Pool.open(tank.path, write=True) as pool:
        take_image(pool, image_of(one), "tank/images/a@1", limit=1 << 20)
        watched = Watched()
        report = take_image(pool, image_of(two), "tank/images/a@2", jobs=1, watcher=watched)
        assert report.name == "tank/images/a@2" and report.files == 3
    states = [watched.seen[digest_of(two.blob(tar))][0] for tar in two.layers]
    assert states == [EXISTS, EXISTS, WAITING]
    tank.holds("tank/images/a@1", one, one.manifest)
    tank.holds("tank/images/a@2", two, two.manifest)


def test_a_failure_in_the_middle_leaves_no_trace(tank: Tank) -> None:
    before = tank.traces()
    built = BuiltImage(TARS)
    image = image_of(built)

    class Cut(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            raise OSError(104, "Connection reset by peer")

    broken = [*image.layers[:-1], replace(image.layers[-1], open=Cut)]
    message = r"cannot read layer .*: Connection reset by peer"
    with Pool.open(tank.path, write=True) as pool, pytest.raises(OciError, match=message):
        take_image(pool, replace(image, layers=broken), "tank/images/a@1")
    assert tank.traces() == before


def test_ctrl_c_while_an_archive_comes_leaves_no_trace(tank: Tank) -> None:
    before = tank.traces()
    data = docker_archive({"a:1": BuiltImage(TARS)}, old=True)
    command = [sys.executable, "-m", "lamina", "image", "import", "-", "tank/a@1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy()) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(data[:300_000])
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with Pool.open(tank.path) as pool:
                if pool.store.database.query("SELECT 1 FROM lease"):
                    break
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b"interrupted\n"
    assert tank.traces() == before
