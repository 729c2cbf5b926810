"""A far side that is no lamina, or a bad one: one clear line, nothing changed, and an honest sync then works."""

import os
import random
from collections.abc import Callable
from typing import IO

import pytest

from lamina.errors import LaminaError
from lamina.pool import Pool
from lamina.replication.stream import FRAME, MAX_PAYLOAD
from lamina.replication.sync.inventory import Inventory
from lamina.replication.sync.protocol import GREETING, MAGIC, Channel, Say
from lamina.replication.sync.serving import serve
from tests.pool.trees import Library
from tests.replication.kit import same_datasets, sound, state
from tests.replication.sync.kit import refused, sync

FLIPS = int(os.environ.get("LAMINA_KILLS", "10"))
Body = Callable[[IO[bytes], IO[bytes]], object]


def saying(data: bytes) -> Body:
    def body(requests: IO[bytes], answers: IO[bytes]) -> None:
        answers.write(data)
        answers.flush()
        while requests.read1(1 << 16):  # type: ignore[attr-defined]
            pass

    return body


def speaking(act: Callable[[Channel], None]) -> Body:
    """A far side that begins as it should."""

    def body(requests: IO[bytes], answers: IO[bytes]) -> None:
        channel = Channel(requests, answers)
        channel.greet()
        channel.flush()
        channel.hear(Say.REQUEST)
        try:
            act(channel)
            channel.flush()
        except LaminaError:
            pass

    return body


def endless(kind: Say, payload: bytes) -> Callable[[Channel], None]:
    def act(channel: Channel) -> None:
        Inventory("far", 1, 5).tell(channel)
        while True:
            channel.say(kind, payload)

    return act


def forged(length: int, number: int, kind: int = 65) -> bytes:
    return GREETING.pack(MAGIC, 1, 1) + FRAME.pack(kind, length, number) + bytes(8)


def answering(answer: bytes, verdict: bytes = b'{"lines":[]}') -> Callable[[Channel], None]:
    """An honest inventory of a pool that has something, and another answer than it should."""

    def act(channel: Channel) -> None:
        Inventory("far", 1, 100).tell(channel)
        channel.flush()
        while channel.hear(*Say).kind is not Say.CANDIDATES:
            pass
        channel.say(Say.VERDICT, verdict)
        channel.say(Say.ANSWER, answer)
        channel.flush()
        while True:
            channel.hear(*Say)

    return act


INVENTORY = b'{"pool":"far","guid":1,"objects":5,"datasets":%b,"roots":%b}'

PUSHED: dict[str, tuple[Body, str]] = {
    "nothing": (lambda requests, answers: None, "the other side is no lamina that syncs"),
    "a banner": (saying(b"Welcome to nas!\n"), "is no lamina that syncs; it said 'Welcome to nas!'"),
    "control bytes": (saying(b"\x1b[2J\x07evil\n"), r"it said '\\x1b\[2J\\x07evil'"),
    "another version": (
        saying(GREETING.pack(MAGIC, 7, 9)),
        "the other side syncs in versions 7 to 9, this lamina in 1",
    ),
    "half a greeting": (lambda requests, answers: answers.write(MAGIC), "is no lamina that syncs"),
    "a huge frame": (saying(forged(MAX_PAYLOAD + 1, 0)), "makes no sense: at byte 12 is no frame 0"),
    "a wrong number": (saying(forged(2, 1) + b"{}"), "makes no sense: at byte 12 is no frame 0"),
    "a wrong checksum": (saying(forged(2, 0) + b"{}"), "checksum mismatch: what the other side said at byte 12"),
    "random bytes": (saying(GREETING.pack(MAGIC, 1, 1) + random.Random(1).randbytes(9999)), "makes no sense"),
    "another frame": (speaking(lambda channel: channel.say(Say.GO, {})), "comes a frame of type 75"),
    "no JSON": (speaking(lambda channel: channel.say(Say.INVENTORY, b"[")), "does not hold what it should"),
    "a list": (speaking(lambda channel: channel.say(Say.INVENTORY, b"[1]")), "does not hold what it should"),
    "many datasets": (
        speaking(lambda channel: channel.say(Say.INVENTORY, INVENTORY % (b"9999999999", b"0"))),
        "'datasets' in the frame at byte 12 makes no sense",
    ),
    "endless roots": (speaking(endless(Say.ROOTS, bytes(8))), "comes a frame of type 67"),
    "endless verdicts": (
        speaking(endless(Say.VERDICT, b'{"lines":[["kept",0,"x"]]}')),
        "the other side says more than 0 MiB of names; sync fewer datasets at once",
    ),
    "no verdict": (speaking(answering(b"", b"{}")), "makes no sense: the verdict at byte"),
    "a strange line": (speaking(answering(b"", b'{"lines":[["kept"]]}')), "makes no sense: a line of its verdict"),
    "too long an answer": (speaking(answering(bytes(5000))), "it answers what it was not asked"),
    "bits that nobody asked for": (speaking(answering(b"\xff" * 3)), "it answers what it was not asked"),
    "an error": (speaking(lambda channel: channel.fail("no \x1b[31mroom")), r"^nas: no \\x1b\[31mroom$"),
    "an empty error": (speaking(lambda channel: channel.say(Say.ERROR, b"{}")), "^nas: it failed without a word$"),
}


@pytest.mark.parametrize("name", PUSHED)
def test_a_bad_receiver(tank: Pool, back: Pool, library: Library, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, message = PUSHED[name]
    monkeypatch.setattr("lamina.replication.sync.protocol.MOST_TALK", 100_000)
    tank.import_image(library[2].path, "tank/i@1")
    before = state(tank)
    with pytest.raises(LaminaError, match=message):
        sync("tank/i", "nas:back/i", body=body)
    assert state(tank) == before
    sync("tank/i", "nas:back/i")
    same_datasets(tank, "tank/i", back, "back/i")


def lying(requests: IO[bytes], answers: IO[bytes]) -> object:
    """A receiver that says of everything that it has it."""
    with pytest.MonkeyPatch.context() as patch:
        from lamina.replication.sync import receiver

        class Boasting(receiver.Answers):  # type: ignore[name-defined,misc]
            def frames(self) -> object:
                count = self._count
                yield bytes([0xFF] * (count // 8)) + (bytes([(1 << count % 8) - 1]) if count % 8 else b"")

        patch.setattr(receiver, "Answers", Boasting)
        return serve(requests, answers)


def test_a_receiver_that_boasts(tank: Pool, back: Pool, library: Library) -> None:
    """It says that it has what it has not: no snapshot appears there; asked in full it has to tell the truth."""
    back.import_image(library[1].path, "back/x@1")
    tank.import_image(library[2].path, "tank/i@1")
    said = refused("tank/i", "nas:back/i", body=lying)
    assert "cannot be told by the beginnings of keys" in said
    assert not back.exists("back/i")
    sync("tank/i", "nas:back/i")
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)


def begin(**members: object) -> bytes:
    import json

    value: dict[str, object] = {
        **{"pool": "t", "pool_guid": 1, "name": "t/i", "snapshot": "", "package": False, "from": None},
        **{"datasets": 1, "snapshots": 0, "objects": 0, "bytes": 0, "resume": None, "features": []},
    }
    return json.dumps(value | members).encode()


DATASET = b'{"name":"","guid":5,"origin":null,"properties":null}'


def proposing(*frames: tuple[Say, bytes], rest: bytes = b"") -> Body:
    def act(channel: Channel) -> None:
        Inventory.hear(channel)
        for kind, payload in frames:
            channel.say(kind, payload)
        channel.flush()
        while channel.hear(*Say).kind is not Say.VERDICT:
            pass
        if rest:
            channel.write(rest)

    return speaking(act)


def question(objects: int, width: int = 6) -> tuple[Say, bytes]:
    return Say.QUESTION, b'{"objects":%d,"width":%d}' % (objects, width)


PULLED: dict[str, tuple[Body, str]] = {
    "no dataset": (proposing((Say.BEGIN, begin(datasets=0))), "'datasets' in the frame"),
    "a feature": (proposing((Say.BEGIN, begin(features=["x"]))), "features that this lamina does not know: x"),
    "a named top": (
        proposing((Say.BEGIN, begin()), (Say.DATASET, DATASET.replace(b'""', b'"a"'))),
        "a dataset comes twice, or out of place",
    ),
    "a climbing name": (
        proposing(
            (Say.BEGIN, begin(datasets=2)),
            (Say.DATASET, DATASET),
            (Say.DATASET, DATASET.replace(b'""', b'"../x"')),
            question(0),
        ),
        "the connection to 'nas:tank/i' ended",
    ),
    "a wide key": (proposing((Say.BEGIN, begin()), (Say.DATASET, DATASET), question(5, 99)), "'width' in the frame"),
    "a narrow key": (proposing((Say.BEGIN, begin()), (Say.DATASET, DATASET), question(5, 0)), "'width' in the frame"),
    "too many questions": (
        proposing((Say.BEGIN, begin()), (Say.DATASET, DATASET), question(1), (Say.CANDIDATES, bytes(60))),
        "it asks more than it said",
    ),
    "a cut key": (
        proposing((Say.BEGIN, begin()), (Say.DATASET, DATASET), question(2), (Say.CANDIDATES, bytes(7))),
        "a question is cut short",
    ),
    "an endless question": (
        proposing((Say.BEGIN, begin()), (Say.DATASET, DATASET), question(1 << 40)),
        "'objects' in the frame",
    ),
    "names of no dataset": (
        proposing((Say.BEGIN, begin()), (Say.DATASET, DATASET), (Say.GONE, b'{"dataset":4,"snapshots":[["",7]]}')),
        "makes no sense: the names at byte",
    ),
    "roots that nobody has": (
        proposing((Say.BEGIN, begin()), (Say.DATASET, DATASET), (Say.ROOTS, bytes(8)), question(0)),
        "a tree that was here has been destroyed meanwhile",
    ),
    "half a root": (
        proposing((Say.BEGIN, begin()), (Say.DATASET, DATASET), (Say.ROOTS, bytes(9)), question(0)),
        "makes no sense: the roots at byte",
    ),
    "garbage after the verdict": (
        proposing((Say.BEGIN, begin()), (Say.DATASET, DATASET), question(0), rest=bytes(4000)),
        "makes no sense",
    ),
}


@pytest.mark.parametrize("name", PULLED)
def test_a_bad_sender(tank: Pool, back: Pool, library: Library, name: str) -> None:
    body, message = PULLED[name]
    tank.import_image(library[2].path, "tank/i@1")
    before = state(back)
    with pytest.raises(LaminaError, match=message):
        sync("nas:tank/i", "back/i", body=body)
    after = state(back)
    assert {key: one for key, one in after.items() if key != "packs"} == {
        key: one for key, one in before.items() if key != "packs"
    }
    sync("nas:tank/i", "back/i")
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)


@pytest.mark.parametrize("seed", range(FLIPS))
def test_flipped_bytes(tank: Pool, back: Pool, library: Library, seed: int) -> None:
    """A byte that comes otherwise than it was sent, anywhere: refused, or of no meaning; never a wrong snapshot."""
    tank.import_image(library[2].path, "tank/i@1")
    rng = random.Random(seed)

    class Flipping:
        def __init__(self, answers: IO[bytes]) -> None:
            self._answers = answers
            self._at = rng.randrange(rng.choice([500, 5_000, 100_000]))

        def write(self, data: bytes) -> int:
            changed = bytearray(data)
            if 0 <= self._at < len(data):
                changed[self._at] ^= 1 << rng.randrange(8)
            self._at -= len(data)
            return self._answers.write(bytes(changed))

        def flush(self) -> None:
            self._answers.flush()

    def body(requests: IO[bytes], answers: IO[bytes]) -> object:
        return serve(requests, Flipping(answers))  # type: ignore[arg-type]

    try:
        sync("nas:tank/i", "back/i", body=body)
    except LaminaError as error:
        assert "internal" not in str(error)
        assert not back.exists("back/i@1")
    sync("nas:tank/i", "back/i")
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)
