"""What an import tells while it runs, and what it could not take."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of an import. Bytes are of file data; totals are None until they are known."""

    files: int
    bytes: int
    new: int
    stored: int
    total_files: int | None
    total_bytes: int | None
    done: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that was left out: its path below the imported root, and why."""

    path: bytes
    what: str


@dataclass
class Tally:
    """Counts of a running import, shared by its threads."""

    report: Callable[[int, int, bool], None] | None = None
    files: int = 0
    size: int = 0
    problems: list[Problem] = field(default_factory=list)
    inexact: bool = False
    """Whether objects were put that the tree does not reach: of files read twice, left out or replaced."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: float = 0.0

    def add(self, files: int, size: int) -> None:
        """``files`` more files and ``size`` more bytes have been read."""
        with self._lock:
            self.files += files
            self.size += size
            if self.report is None:
                return
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + 0.1
        self.report(self.files, self.size, False)

    def problem(self, path: bytes, what: str) -> None:
        """A file is left out."""
        with self._lock:
            self.problems.append(Problem(path, what))
            self.inexact = True
