"""Syncs whose far side is a thread, over pipes that can be cut and listened to."""

import contextlib
import io
import os
import threading
from dataclasses import dataclass, field
from typing import IO, Any

import pytest

from lamina.errors import LaminaError
from lamina.replication.sync.places import parse_place
from lamina.replication.sync.serving import serve
from lamina.replication.sync.session import Session, SyncReport
from lamina.replication.sync.terms import Terms

_BUFFER = 1 << 18


@dataclass
class Wire:
    """What connects the two sides. ``there`` and ``back``: bytes after which it is cut, in each direction.

    ``heard``: what has come from the far side; ``passed`` counts both directions over all connections.
    """

    there: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)
    connections: int = 0
    passed: list[int] = field(default_factory=lambda: [0, 0])
    failures: list[BaseException | None] = field(default_factory=list)
    during: Any = None
    """Called with the bytes that have gone there, before more go."""


class _Cut:
    def __init__(self, *files: IO[bytes]) -> None:
        self.files = files
        self.happened = False

    def now(self) -> None:
        self.happened = True
        for file in self.files:
            with contextlib.suppress(OSError):
                file.close()


class _There(io.RawIOBase):
    """The near end of what goes to the far side."""

    def __init__(self, wire: Wire, raw: IO[bytes], cut: list[_Cut], left: int | None) -> None:
        self._wire, self._raw, self._cuts, self._left = wire, raw, cut, left

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        if self._wire.during is not None:
            self._wire.during(self._wire.passed[0])
        if self._left is not None and len(piece) > self._left:
            piece, whole = piece[: self._left], False
        else:
            whole = True
        with contextlib.suppress(ValueError):
            self._raw.write(piece)
        self._wire.passed[0] += len(piece)
        if self._left is not None:
            self._left -= len(piece)
        if not whole:
            self._cuts[0].now()
            raise BrokenPipeError
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError):
                self._raw.close()
        super().close()


class _Back(io.RawIOBase):
    """The near end of what comes from the far side."""

    def __init__(self, wire: Wire, raw: IO[bytes], cut: list[_Cut], left: int | None) -> None:
        self._wire, self._raw, self._cuts, self._left = wire, raw, cut, left

    def readable(self) -> bool:
        return True

    def readinto(self, view: Any) -> int:
        if self._left == 0:
            self._cuts[0].now()
            return 0
        size = len(view) if self._left is None else min(len(view), self._left)
        try:
            data = os.read(self._raw.fileno(), size)
        except (OSError, ValueError):
            return 0
        view[: len(data)] = data
        self._wire.passed[1] += len(data)
        if self._left is not None:
            self._left -= len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError):
                self._raw.close()
        super().close()


class ThreadRemote:
    """Stands for a lamina elsewhere."""

    wire = Wire()
    body: Any = staticmethod(serve)

    def __init__(self, host: str | None, words: list[str], ssh: str | None = None) -> None:
        assert words == ["__sync"]
        wire = self.wire
        wire.connections += 1
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        near_in: IO[bytes] = io.FileIO(from_read, "rb")
        near_out: IO[bytes] = io.FileIO(to_write, "wb")
        cut = [_Cut(near_in, near_out)]
        self.requests: IO[bytes] = io.BufferedWriter(_There(wire, near_out, cut, _next(wire.there)), 4096)
        self.answers: IO[bytes] = io.BufferedReader(_Back(wire, near_in, cut, _next(wire.back)), _BUFFER)
        self.status: int | None = None
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(to_read, from_write), daemon=True)
        self._thread.start()

    def _run(self, to_read: int, from_write: int) -> None:
        requests = io.BufferedReader(io.FileIO(to_read, "rb"), _BUFFER)
        answers = io.BufferedWriter(io.FileIO(from_write, "wb"), _BUFFER)
        with requests, contextlib.suppress(OSError), answers:
            try:
                self._failed = self.body(requests, answers)
            except BaseException as error:
                self._failed = error
                raise

    def complaint(self) -> str:
        from lamina.errors import ConnectionLost

        if self._failed is None or isinstance(self._failed, ConnectionLost):
            return ""
        return str(self._failed).splitlines()[-1]

    def close(self, patience: float = 5.0) -> None:
        for stream in (self.requests, self.answers):
            with contextlib.suppress(OSError, ValueError):
                stream.close()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the far side hangs"
        self.status = int(self._failed is not None)
        if not self.wire.failures or self.wire.failures[-1] is not self._failed:
            self.wire.failures.append(self._failed)


def _next(cuts: list[int]) -> int | None:
    return cuts.pop(0) if cuts else None


def sync(
    source: str, destination: str, *, wire: Wire | None = None, retries: int = 0, body: Any = None, **terms: Any
) -> SyncReport:
    """One sync over pipes; a far side where a place has a host, else the destination is the far one all the same."""
    one, other = parse_place(source), parse_place(destination)
    remote: Any = type("Remote", (ThreadRemote,), {"wire": wire or Wire(), "body": staticmethod(body or serve)})
    asked = Terms(one.name, other.name, **terms)
    return Session(one, other, asked, retries=retries, sleep=lambda _: None, connect=remote).run()


def refused(source: str, destination: str, **terms: Any) -> str:
    """What a sync is refused with."""
    with pytest.raises(LaminaError) as caught:
        sync(source, destination, **terms)
    return str(caught.value)
