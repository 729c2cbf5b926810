"""Two sends and a receive into a pool that is mounted and imports, all at once, each a process of its own."""

import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from lamina.pool import Pool
from tests.mount.conftest import fuse_missing
from tests.pool.trees import write_tree
from tests.replication.kit import contents, receive, same_datasets, send, sound
from tests.replication.machines import make_programs

SIZE = 6_000_000
"""Bytes of each tree: more than pipes hold, so that each side has to wait for the other."""


@pytest.fixture
def lamina(place: Path) -> Path:
    if (reason := fuse_missing()) is not None:
        pytest.skip(reason)
    return make_programs(place) / "lamina"


@pytest.fixture
def mountpoint(place: Path, lamina: Path) -> Iterator[Path]:
    where = place / "mnt"
    where.mkdir()
    yield where
    subprocess.run([lamina, "umount", "-f", where], capture_output=True)


class Process:
    """A command line that has come half-way; ``finish`` gives or takes the other half."""

    def __init__(self, stack: ExitStack, words: list[str | Path], data: bytes | None = None) -> None:
        pipe = subprocess.PIPE
        self._stdin = pipe if data is not None else None
        self._process = stack.enter_context(
            subprocess.Popen(words, stdin=self._stdin, stdout=pipe, stderr=subprocess.PIPE)
        )
        stack.callback(self._process.kill)
        self._data = data
        if data is not None:
            self._input.write(data[: len(data) // 2])
            self._input.flush()
            self._got = b""
        else:
            self._got = self._output.read(SIZE // 2)

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def finish(self) -> bytes:
        """Go on to the end; what it wrote."""
        assert self._process.poll() is None, "it ended half-way"
        assert self._process.stderr is not None
        if self._data is not None:
            self._input.write(self._data[len(self._data) // 2 :])
            self._input.close()
        self._got += self._output.read()
        said = self._process.stderr.read()
        assert (self._process.wait(60), said) == (0, b"")
        return self._got


class Reading(threading.Thread):
    """Compares what is mounted with what it was made from, again and again."""

    def __init__(self, mounted: Path, source: Path) -> None:
        super().__init__()
        self.times = 0
        self.wrong: list[str] = []
        self._words: list[str | Path] = ["diff", "-r", "--no-dereference", source, mounted]
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.is_set() and not self.wrong:
            done = subprocess.run(self._words, capture_output=True, text=True)
            if done.returncode:
                self.wrong.append(done.stdout + done.stderr)
            self.times += 1

    def stop(self) -> None:
        self._end.set()
        self.join()


def test_all_at_once(tank: Pool, back: Pool, place: Path, lamina: Path, mountpoint: Path) -> None:
    def tree(name: str) -> Path:
        return write_tree(place / name, {f"d/{at}": os.urandom(SIZE // 12) for at in range(12)}).path

    sources = {name: tree(name) for name in ("own1", "own2", "coming", "new")}
    for name in ("own1", "own2"):
        back.import_image(sources[name], f"back/{name}@1")
    tank.import_image(sources["coming"], "tank/coming@1")
    stream = send(tank, "tank/coming@1")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(sources["new"], arcname=".")
    back.close()
    subprocess.run([lamina, "mount", "-R", "back", mountpoint], check=True)
    reading = Reading(mountpoint / "own1@1", sources["own1"])
    reading.start()
    with ExitStack() as stack:
        stack.callback(reading.stop)
        words: list[list[str | Path]] = [
            [lamina, "send", "back/own1@1"],
            [lamina, "send", "back/own2@1"],
            [lamina, "receive", "back/copy"],
            [lamina, "image", "import", "-q", "-", "back/new@1"],
        ]
        data = [None, None, stream, archive.getvalue()]
        running = [Process(stack, one, given) for one, given in zip(words, data, strict=True)]
        # All four are in the middle now. What is sent may be destroyed, and space be freed.
        subprocess.run([lamina, "destroy", "back/own2@1"], check=True)
        subprocess.run([lamina, "pool", "gc", "back"], check=True, stdout=subprocess.DEVNULL)
        seen = reading.times
        received, imported = running[2], running[3]
        received.finish()
        imported.finish()
        first, second = running[0].finish(), running[1].finish()
        while reading.times < seen + 2:
            reading.join(0.01)
    assert reading.wrong == []
    for name, source in (("copy@1", "coming"), ("new@1", "new")):
        subprocess.run(["diff", "-r", "--no-dereference", sources[source], mountpoint / name], check=True)
    for name, sent in (("own1", first), ("own2", second)):
        receive(tank, sent, f"tank/{name}")
        assert not tank.verify(f"tank/{name}@1", sources[name])
    with Pool.open("back", write=True) as pool:
        same_datasets(tank, "tank/coming", pool, "back/copy")
        assert contents(pool, "back/own1@1") == contents(tank, "tank/own1@1")
        sound(pool)
