"""Streams that are cut and go on: what has come is kept, nothing is named before all is there."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamina.errors import Busy, LaminaError, NotFound, StreamError
from lamina.pool import Pool
from lamina.pool.partials import find_partial
from lamina.replication.saving import drop_saved
from lamina.replication.stream import Frame
from lamina.replication.tokens import parse_token
from tests.pool.processes import run
from tests.pool.trees import Library, many_files, write_tree
from tests.replication import minimal_reader
from tests.replication.forging import RECORD, borders, frames, stream
from tests.replication.kit import contents, receive, same_datasets, send, sound, state

KILLS = int(os.environ.get("LAMINA_KILLS", "12"))


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are handed on a few at a time, so that a small stream passes every state that a large one does."""
    monkeypatch.setattr("lamina.replication.incoming._GROUP_OBJECTS", 2)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 4)


def token(pool: Pool, name: str) -> str | None:
    value = pool.get(name, ["receive_resume_token"])["receive_resume_token"].value
    assert value is None or isinstance(value, str)
    return value


def cut(pool: Pool, data: bytes, name: str) -> str | None:
    """Receive what is cut, and keep what has come; the token."""
    with pytest.raises(StreamError) as caught:
        receive(pool, data, name, resumable=True)
    if not pool.exists(name):
        assert "is saved" not in str(caught.value)
        return None
    found = token(pool, name)
    assert (found is None) == ("is saved" not in str(caught.value))
    if found is not None:
        assert str(caught.value).endswith(
            "\nPartially received snapshot is saved.\n"
            f"A resuming stream can be generated on the sending system by running:\n    lamina send -t {found}"
        )
    return found


def test_cut_and_gone_on_with(tank: Pool, back: Pool, library: Library, small_groups: None) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    tank.import_image(library[3].path, "tank/i@2")
    receive(back, send(tank, "tank/i@1"), "back/i")
    data = send(tank, "tank/i@2", base="@1", properties=True)
    edges = borders(data)
    for at in sorted({*edges[2:], *(edge - 7 for edge in edges[3:])} - {len(data)}):
        before = state(back)
        word = cut(back, data[:at], "back/i")
        objects = sum(edge <= at for edge in edges[5:-2])
        if word is None:
            assert objects == 0 and state(back) == before
            continue
        saved = parse_token(word)
        assert minimal_reader.token(word)["after"] == saved.after
        assert (saved.objects, saved.name) == (objects, "tank/i@2")
        back.gc()
        assert not back.exists("back/i@2")
        with pytest.raises(Busy, match="contains partially-complete state from"):
            receive(back, data, "back/i")
        rest = send(tank, saved)
        read = minimal_reader.read(rest)
        assert (
            read.begin["resume"]["after"] == saved.after and len(read.objects) == len(edges) - 7 - objects
        )  # header, four other frames
        receive(back, rest, "back/i", resumable=True)
        assert token(back, "back/i") is None
        assert contents(back, "back/i@2") == contents(tank, "tank/i@2")
        back.rollback("back/i@1", destroy_newer=True)
        back.gc()
        assert state(back)["partial"] == []
    sound(back)


def test_cut_many_times(tank: Pool, back: Pool, library: Library, small_groups: None) -> None:
    """A new dataset, cut again and again; gc runs in between, the sender renames."""
    tank.import_image(library[4].path, "tank/i@1")
    rng = random.Random(4)
    data = send(tank, "tank/i@1", holds=True, properties=True)
    cuts = 0
    saved = None
    while True:
        edges = borders(data)
        if cuts == 5 or len(edges) < 8:
            break
        at = edges[rng.choice([5, 5, 6])] + rng.randrange(100)
        word = cut(back, data[:at], "back/new")
        if word is None:
            continue
        cuts += 1
        assert back.list(["back/new"], types=("snapshot",)) == []
        back.gc()
        saved = parse_token(word)
        if cuts == 2:
            tank.rename("tank/i", "tank/moved")
        data = send(tank, saved)
    receive(back, data, "back/new")
    assert cuts > 2 and saved is not None
    same_datasets(tank, "tank/moved" if cuts > 1 else "tank/i", back, "back/new")
    sound(back)


def test_damage_keeps_what_came_before_it(tank: Pool, back: Pool, library: Library, small_groups: None) -> None:
    tank.import_image(library[4].path, "tank/i@1")
    data = send(tank, "tank/i@1")
    edges = borders(data)
    middle = (edges[8] + edges[9]) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    word = cut(back, flipped, "back/i")
    assert word is not None and parse_token(word).objects == 3 + 1
    # An object that is not what its key says, in a frame that is right: the group that it is in is not kept.
    parts = frames(data)
    kind, payload = parts[8]
    assert kind == Frame.OBJECT
    parts[8] = (kind, payload[:-1] + bytes([payload[-1] ^ 1]))
    word = cut(back, stream(parts), "back/j")
    assert word is not None and parse_token(word).objects == 4
    receive(back, send(tank, parse_token(word)), "back/j")
    assert contents(back, "back/j@1") == contents(tank, "tank/i@1")


def test_a_package_goes_on_with_one_snapshot(tank: Pool, back: Pool, library: Library, small_groups: None) -> None:
    for number in range(2, 5):
        tank.import_image(library[number].path, f"tank/i@{number}")
    tank.set(["tank/i"], {"u:x": "1"})
    data = send(tank, "tank/i@4", recursive=True)
    word = cut(back, data[:-700], "back/i")
    assert word is not None
    assert [one.name for one in back.list(["back/i"], types=("snapshot",))] == ["back/i@2", "back/i@3"]
    receive(back, send(tank, parse_token(word)), "back/i")
    same_datasets(tank, "tank/i", back, "back/i", properties=True)
    sound(back)


def test_a_clone_goes_on(tank: Pool, back: Pool, library: Library, small_groups: None) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    tank.clone("tank/i@1", "tank/c")
    tank.import_image(library[4].path, "tank/c@2")
    receive(back, send(tank, "tank/i@1"), "back/i")
    data = send(tank, "tank/c@2", base="tank/i@1")
    word = cut(back, data[: len(data) * 2 // 3], "back/c")
    assert word is not None and back.get("back/c", ["origin"])["origin"].value == "back/i@1"
    receive(back, send(tank, parse_token(word)), "back/c")
    assert contents(back, "back/c@2") == contents(tank, "tank/c@2")
    word = cut(back, data[: len(data) * 2 // 3], "back/d")
    drop_saved(back, "back/d")
    assert not back.exists("back/d")
    sound(back)


def test_dropping_what_was_kept(tank: Pool, back: Pool, library: Library, small_groups: None) -> None:
    tank.import_image(library[4].path, "tank/i@1")
    back.create_dataset("back/there")
    back.gc()
    before = back._database.query("SELECT count(*) FROM object WHERE kind < 4")
    data = send(tank, "tank/i@1")
    for name in ("back/there", "back/d/made"):
        if name == "back/there":
            with pytest.raises(StreamError, match="is saved"):
                receive(back, data[:-900], name, resumable=True, force=True)
        else:
            back.create_dataset("back/d")
            with pytest.raises(StreamError, match="is saved"):
                receive(back, data[:-900], "back/d/made", resumable=True)
        back.gc()
        assert back._database.query("SELECT count(*) FROM object WHERE kind < 4") > before
        drop_saved(back, name)
        assert back.space().freeing > 0
        back.gc()
        assert back._database.query("SELECT count(*) FROM object WHERE kind < 4") == before
    assert back.exists("back/there") and not back.exists("back/d/made")
    with pytest.raises(LaminaError, match="'back/there' does not have any resumable receive state to abort"):
        drop_saved(back, "back/there")
    with pytest.raises(NotFound, match="cannot open 'back/none': dataset does not exist"):
        drop_saved(back, "back/none")
    sound(back)


def test_a_dataset_that_is_destroyed_takes_along_what_was_kept(
    tank: Pool, back: Pool, library: Library, small_groups: None
) -> None:
    tank.import_image(library[4].path, "tank/i@1")
    assert cut(back, send(tank, "tank/i@1")[:-900], "back/i") is not None
    back.destroy("back/i")
    back.gc()
    assert back._database.query("SELECT count(*) FROM object WHERE kind < 4") == [(0,)]
    assert back._database.query("SELECT count(*) FROM partial") == [(0,)]


def test_what_the_sender_can_not_go_on_with(tank: Pool, back: Pool, library: Library, small_groups: None) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    tank.import_image(library[3].path, "tank/i@2")
    receive(back, send(tank, "tank/i@1"), "back/i")
    data = send(tank, "tank/i@2", base="@1")
    word = cut(back, data[:-900], "back/i")
    assert word is not None
    saved = parse_token(word)
    tank.bookmark("tank/i@1", "tank/i#b")
    tank.destroy("tank/i@1")
    rest = send(tank, saved)  # the bookmark knows what the receiver has
    tank.destroy("tank/i#b")
    with pytest.raises(LaminaError, match=r"cannot resume send: incremental source 0x[0-9a-f]+ no longer exists"):
        send(tank, saved)
    tank.destroy("tank/i@2")
    with pytest.raises(LaminaError, match="cannot resume send: 'tank/i@2' used in the initial send no longer exists"):
        send(tank, saved)
    with pytest.raises(NotFound, match="destination 'back/other' does not exist"):
        receive(back, rest, "back/other")
    back.create_dataset("back/other")
    with pytest.raises(StreamError, match="goes on with one that was cut, of which 'back/other' has nothing"):
        receive(back, rest, "back/other")
    receive(back, rest, "back/i")
    assert not back.verify("back/i@2", library[3].path)


def test_what_never_becomes_whole_is_not_kept(tank: Pool, back: Pool, library: Library, small_groups: None) -> None:
    tank.import_image(library[4].path, "tank/i@1")
    parts = frames(send(tank, "tank/i@1"))
    del parts[5]
    before = state(back)
    with pytest.raises(StreamError, match=r"is not whole|it lacks") as caught:
        receive(back, stream(parts), "back/i", resumable=True)
    assert "is saved" not in str(caught.value)
    assert state(back) == before


# -- killed ---------------------------------------------------------------------------------------------------------


NOTED = 100_000
"""Bytes after which the receiver notes what has come, in the test below."""


class Deadly:
    """A stream whose reader is killed, with all its threads, as it asks for more than the first ``end`` bytes."""

    def __init__(self, data: bytes, end: int) -> None:
        self.data = data
        self.end = end
        self.at = 0

    def read(self, size: int = -1, /) -> bytes:
        if self.at + size > self.end:
            os.kill(os.getpid(), signal.SIGKILL)
        part = self.data[self.at : self.at + size]
        self.at += len(part)
        return part


def killed_at(path: Path, end: int, name: str, resumable: bool) -> None:
    """Receive the beginning of a stream in a process of its own, which is killed there."""
    from lamina.replication.destination import ReceiveOptions
    from lamina.replication.receiving import receive_stream

    with Pool.open("back", write=True) as pool:
        receive_stream(pool, Deadly(path.read_bytes(), end), name, ReceiveOptions(resumable=resumable))


def noted(data: bytes) -> list[tuple[int, int]]:
    """Where a receiver of a stream notes what has come, and how many objects that are then."""
    found = []
    objects = stored = before = 0
    for edge, (kind, payload) in zip(borders(data)[2:], frames(data), strict=True):
        if kind == Frame.OBJECT:
            objects += 1
            stored += len(payload) - RECORD.size - 4
            whole = objects - objects % 2  # in groups of two, see ``small_groups``
            if stored - before >= NOTED and whole:
                found.append((edge, whole))
                before = stored
    return found


def test_killed_receives(
    tank: Pool, back: Pool, place: Path, small_groups: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 anywhere in the stream: nothing half-made is seen; with ``-s`` it goes on from what was noted."""
    monkeypatch.setattr("lamina.replication.saving._SECONDS", 3600.0)
    monkeypatch.setattr("lamina.replication.saving._BYTES", NOTED)
    tank.import_image(many_files(place / "source", 60, 20_000, 3).path, "tank/i@1")
    (place / "stream").write_bytes(data := send(tank, "tank/i@1"))
    notes = noted(data)
    assert len(notes) > 5
    # Spread over the stream; then all of it, before it is found to end; then right where something was just noted.
    places = [len(data) * number // KILLS + 16 for number in range(KILLS)]
    for number, end in enumerate([*places, len(data), len(data), notes[0][0], notes[-1][0]]):
        resumable = number % 3 > 0
        name = f"back/k{number}"
        assert run(killed_at, place / "stream", end, name, resumable).died() == signal.SIGKILL
        kept = [objects for edge, objects in notes if edge <= end] if resumable else []
        with Pool.open("back", write=True) as pool:
            assert not pool.exists(f"{name}@1")
            assert pool.exists(name) == bool(kept)
            pool.gc()
            if kept:
                partial = find_partial(pool._catalogue, pool._catalogue.dataset(name).id)
                assert partial is not None
                saved = parse_token(partial.token)
                assert saved.objects == kept[-1]
                receive(pool, send(tank, saved), name, resumable=True)
                assert not pool.verify(f"{name}@1", place / "source")
                pool.destroy(name, recursive=True)
                pool.gc()
            assert pool._database.query("SELECT count(*) FROM object WHERE kind < 4") == [(0,)]
            assert len(pool._database.query("SELECT * FROM lease")) <= 1  # its own
    receive(back, data, "back/after")
    sound(back)


def test_interrupted_receives(tank: Pool, back: Pool, place: Path) -> None:
    """Ctrl-C leaves the pool as it was; with ``-s`` it says how to go on."""
    tank.import_image(
        write_tree(place / "source", {"a": os.urandom(900_000), "b": os.urandom(900_000)}).path, "tank/i@1"
    )
    data = send(tank, "tank/i@1")
    before = state(back)
    back.close()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for options in ([], ["-s"]):
        command = [sys.executable, "-m", "lamina", "receive", *options, "back/i"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
            assert process.stdin is not None and process.stderr is not None
            process.stdin.write(data[: len(data) - 2000])
            process.stdin.flush()
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            said = process.stderr.read().decode()
        with Pool.open("back", write=True) as pool:
            if not options:
                assert said == "interrupted\n"
                assert state(pool) == before
            else:
                word = token(pool, "back/i")
                assert word is not None and f"    lamina send -t {word}\n" in said and said.endswith("interrupted\n")
                receive(pool, send(tank, parse_token(word)), "back/i")
                assert not pool.verify("back/i@1", place / "source")
