"""Streams made to use up memory, received by a process that has little: it says what is wrong, and ends."""

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from blake3 import blake3

from lamina.ingest.tasks import Workers
from lamina.pool import Pool
from lamina.replication.incoming import Intaking
from lamina.replication.stream import Frame, Piece, StreamWriter
from tests.replication.forging import record
from tests.replication.kit import state
from tests.replication.machines import SOURCE

LIMIT = 240 << 20
"""Bytes of address space: four fifths of it are taken once Python and its libraries are loaded and threads run."""

Write = Callable[[StreamWriter], None]


def frame(writer: StreamWriter, kind: Frame, /, **value: Any) -> None:
    writer.frame(kind, json.dumps(value, separators=(",", ":")).encode())


def begin(writer: StreamWriter, datasets: int = 1) -> None:
    frame(
        writer,
        Frame.BEGIN,
        **{"pool": "p", "pool_guid": 1, "name": "p/i", "snapshot": "s", "package": True, "from": None},
        **{"datasets": datasets, "snapshots": 1, "objects": 1 << 60, "bytes": 1 << 60, "resume": None, "features": []},
    )


def dataset(writer: StreamWriter, name: str = "", properties: dict[str, str] | None = None) -> None:
    frame(writer, Frame.DATASET, name=name, guid=5, origin=None, properties=properties)


def snapshot(writer: StreamWriter) -> None:
    begin(writer)
    dataset(writer)
    frame(
        writer,
        Frame.SNAPSHOT,
        **{"dataset": 0, "name": "s", "guid": 9, "creation": 1, "kind": "snapshot", "taken": 0, "root": "11" * 32},
        **{"from": None, "objects": 1 << 60, "bytes": 1, "properties": {}, "holds": {}},
    )


def tiny_objects(writer: StreamWriter) -> None:
    snapshot(writer)
    for number in range(20_000):
        writer.frame(Frame.OBJECT, record(number.to_bytes(4, "big"), 1))


def bombs(writer: StreamWriter) -> None:
    """2 GB in 270 KB."""
    snapshot(writer)
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    for number in range(2000):
        data = number.to_bytes(4, "big") + bytes(1_044_476)
        payload = record(compressor.compress(data), 1, 1, decoded=len(data), key=blake3(data).digest())
        writer.frame(Frame.OBJECT, payload)


def many_properties(writer: StreamWriter) -> None:
    begin(writer, 100_000)
    properties = {f"u:{number:05x}": "" for number in range(100_000)}
    for number in range(100):
        dataset(writer, f"d{number}" if number else "", properties)


def many_snapshots(writer: StreamWriter) -> None:
    begin(writer)
    dataset(writer)
    for number in range(400):
        pairs = [["s" * 200, (1 << 62) + number * 4096 + one] for one in range(4096)]
        frame(writer, Frame.KEPT, dataset=0, snapshots=pairs)


def much_json(writer: StreamWriter) -> None:
    begin(writer)
    writer.frame(Frame.DATASET, b'{"name":"","guid":5,"x":[' + b"{}," * 690_000 + b"0]}")


def endless_frames(writer: StreamWriter) -> None:
    """Frames of a later version, which may be passed by."""
    begin(writer)
    for _ in range(200):
        writer.frame(200, bytes(2 << 20))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (tiny_objects, "incomplete stream: it ends at byte"),
        (bombs, "incomplete stream: it ends at byte"),
        (many_properties, "the stream has said more of datasets, properties and snapshots than is held in memory"),
        (many_snapshots, "the stream has said more of datasets, properties and snapshots than is held in memory"),
        (much_json, "incomplete stream: it ends at byte"),
        (endless_frames, "incomplete stream: it ends at byte"),
    ],
)
@pytest.mark.parametrize("options", [[], ["-n"]])
def test_a_process_with_little_memory(back: Pool, write: Write, words: str, options: list[str]) -> None:
    before = state(back)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))

    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-m", "lamina", "receive", *options, "back/x"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, preexec_fn=limit, text=False
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            write(StreamWriter(process.stdin))
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        said = process.stderr.read().decode()
        assert process.wait() == 1
    assert said.startswith("cannot receive") and words in said and said.count("\n") == 1
    assert state(back) == before


def test_few_objects_wait_however_small() -> None:
    """Nobody takes them: what waits is bounded by what it takes in memory, not by its payloads."""
    workers = Workers(0)
    taking = Intaking(None, workers, lambda: None)
    for number in range(60_000):
        payload = record(number.to_bytes(4, "big"), 1)
        taking.add(Piece(Frame.OBJECT, payload[:56], 0, number, payload[56:]))
        assert sum(group.count for group in taking._groups) <= 24_576 + 256
    assert taking.objects == 60_000
    workers.close()
