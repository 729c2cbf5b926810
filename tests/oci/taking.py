"""A pool of a test's own, images imported into it by the command line, and what is left when that fails."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from lamina.cli import main
from lamina.pool import Pool
from lamina.pool.importing.imageindex import image_area
from tests.oci.building import BuiltImage


@dataclass
class Result:
    """What a command line did."""

    status: int
    out: str
    err: str


@contextmanager
def piped(data: bytes) -> Iterator[SimpleNamespace]:
    """Standard input that cannot be sought in."""
    reading, writing = os.pipe()

    def write() -> None:
        try:
            with open(writing, "wb") as stream:
                stream.write(data)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=write)
    thread.start()
    stream = open(reading, "rb")  # noqa: SIM115
    try:
        yield SimpleNamespace(isatty=lambda: False, buffer=stream, fileno=stream.fileno)
    finally:
        stream.close()
        thread.join()


class Tank:
    """The pool ``tank``."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("LAMINA_POOLS", str(place / "known"))
        self.path = place / "tank"
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self._last: list[object] | None = None
        """The traces, if nothing was done since that may have changed them."""
        assert self.run("pool", "create", "tank", str(self.path)).status == 0

    def run(self, *words: str | Path, stdin: bytes | None = None) -> Result:
        """Run a command line in this process."""
        self._capsys.readouterr()
        self._last = None
        if stdin is None:
            status = main([str(word) for word in words])
        else:
            with piped(stdin) as stream, self._monkeypatch.context() as patch:
                patch.setattr(sys, "stdin", stream)
                status = main([str(word) for word in words])
        said = self._capsys.readouterr()
        return Result(status, said.out, said.err)

    def take(self, *words: str | Path, stdin: bytes | None = None) -> None:
        """Import, which has to succeed."""
        done = self.run("image", "import", "-q", *words, stdin=stdin)
        assert (done.status, done.out) == (0, "") and not done.err, done.err

    def refused(self, *words: str | Path, stdin: bytes | None = None) -> str:
        """Import, which has to fail with one line and to leave no trace; the line."""
        before = self._last or self.traces()
        done = self.run("image", "import", *words, stdin=stdin)
        assert (done.status, done.out) == (1, ""), done.err
        assert done.err.count("\n") == 1 and done.err.isascii() and len(done.err) < 600, done.err
        self._last = self.traces()
        for one, other in zip(before, self._last, strict=True):
            assert one == other, f"{one} {other} {done.err}"
        return done.err.removesuffix("\n")

    def traces(self) -> list[object]:
        """All names, what is stored after a collection, who is at it, and temporary files."""
        with Pool.open(self.path, write=True) as pool:
            pool.gc()
            rows: list[object] = []
            for table in ("dataset", "snapshot", "tree", "lease", "pin", "blob", "object"):
                column = "count(*)" if table == "object" else "*"
                rows.append((table, pool.store.database.query(f"SELECT {column} FROM {table}")))
        rows.append(sorted(os.listdir(self.path / "tmp")))
        return rows

    def tar(self, name: str, diff_id: str) -> bytes:
        """A layer's tar as the pool gives it."""
        with Pool.open(self.path) as pool, image_area(pool, name).open_layer(diff_id) as stream:
            return stream.read()

    def holds(self, name: str, image: BuiltImage, manifest: bytes | None) -> None:
        """The image is there exactly: config, manifest, and each layer's tar."""
        with Pool.open(self.path) as pool:
            area = image_area(pool, name)
            assert area.config() == image.config
            assert area.manifest() == manifest
            assert set(area.layers()) == set(image.diff_ids)
        for tar, diff_id in zip(image.layers, image.diff_ids, strict=True):
            assert self.tar(name, diff_id) == tar

    def names(self) -> list[str]:
        """The images."""
        with Pool.open(self.path) as pool:
            rows = pool.store.database.query(
                "SELECT d.name, s.name FROM snapshot s JOIN dataset d ON d.id = s.dataset ORDER BY s.id"
            )
        return [f"{dataset}@{tag}" for dataset, tag in rows]
