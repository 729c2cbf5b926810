"""The progress bar of long work: one line on standard error, only where that is a terminal."""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from lamina.pool.names import printable
from lamina.pool.units import format_ratio, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.ingest.progress import Progress

_REDRAW_SECONDS = 0.1
_RATE_SECONDS = 5.0
"""Over how long the rate is averaged: steady enough to read, young enough to be true."""


class ProgressBar:
    """Bytes, files, rate, saving so far and time left of one or more jobs, redrawn ten times a second.

    Jobs may report from several threads. Where ``stream`` is no terminal nothing is ever written.
    """

    def __init__(
        self,
        label: str,
        *,
        saving: bool = True,
        counting: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``saving``: whether the work stores something, so that what is saved can be shown; ``counting``: files."""
        self._saving = saving
        self._counting = counting
        self._label = printable(label)
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, Progress] = {}
        self._started = self._drawn = clock()
        self._mark = (self._started, 0)
        self._rate = 0.0
        self._visible = False
        self.enabled = self._stream.isatty() and os.environ.get("TERM") != "dumb"

    def begin(self, label: str) -> None:
        """Start anew: other work under another label."""
        with self._lock:
            self._label = printable(label)
            self._jobs.clear()
            self._started = self._clock()
            self._mark = (self._started, 0)
            self._rate = 0.0

    def update(self, job: str, progress: "Progress") -> None:
        """Take a job's figures; redraw when the last time is long enough ago."""
        if not self.enabled:
            return
        with self._lock:
            self._jobs[job] = progress
            now = self._clock()
            if now - self._drawn >= _REDRAW_SECONDS:
                self._drawn = now
                self._stream.write("\r" + self.line(self._width(), now) + "\x1b[K")
                self._stream.flush()
                self._visible = True

    def clear(self) -> None:
        """Remove the line, so that something else can be printed; the next update brings it back."""
        with self._lock:
            if self._visible:
                self._stream.write("\r\x1b[K")
                self._stream.flush()
                self._visible = False

    def line(self, width: int, now: float) -> str:
        """Return the line for a terminal of ``width`` columns; what matters least is left out first."""
        jobs = self._jobs.values()
        done = sum(job.bytes for job in jobs)
        files = sum(job.files for job in jobs)
        stored = sum(job.stored for job in jobs)
        totals = [job.total_bytes for job in jobs]
        total = sum(size for size in totals if size is not None) if None not in totals else None
        rate = self._measure(done, now)
        saved = f"saved {max(0, 100 * (done - stored) // done)}%" if done and self._saving else ""
        amount = format_size(done) if not total else f"{format_size(done)}/{format_size(total)}"
        speed = f"{format_size(int(rate))}/s"
        left = f"{_duration((total - done) / rate)} left" if total and rate > 0 and total >= done else ""
        percent = f"{min(100, 100 * done // total)}%" if total else ""
        count = f"{files} files" if self._counting else ""
        # The most important first: as many as fit are kept, shown in the order of the last tuple.
        chosen: list[str] = []
        room = width - 1
        for part in (amount, percent, speed, left, saved, count, self._label):
            if part and len(part) + 2 <= room:
                chosen.append(part)
                room -= len(part) + 2
        shown = [part for part in (self._label, percent, amount, count, speed, saved, left) if part in chosen]
        line = "  ".join(shown)
        if total and room >= 12:
            cells = min(room - 4, 30)
            filled = min(cells, cells * done // total)
            bar = f"[{'#' * filled}{' ' * (cells - filled)}]"
            at = 1 if shown and shown[0] == self._label else 0
            line = "  ".join([*shown[:at], bar, *shown[at:]])
        return line[: width - 1]

    def _measure(self, done: int, now: float) -> float:
        since, before = self._mark
        elapsed = now - since
        if elapsed >= 1.0:
            # The older the figure, the less it counts.
            weight = min(1.0, elapsed / _RATE_SECONDS) if self._rate else 1.0
            self._rate += weight * ((done - before) / elapsed - self._rate)
            self._mark = (now, done)
        if self._rate:
            return self._rate
        return done / (now - self._started) if now > self._started else 0.0

    def _width(self) -> int:
        try:
            # A terminal that does not know its size says 0.
            return max(20, os.get_terminal_size(self._stream.fileno()).columns or 80)
        except (OSError, ValueError):
            return 80


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"


def summary_rows(reports: Mapping[str, tuple[int, int, int, int, float]]) -> list[list[str]]:
    """Return the rows of the table after an import.

    Of each name: files, logical bytes, new logical bytes, stored bytes, seconds. More than one name gets a total;
    its seconds are the longest, since imports may run side by side.
    """
    rows = [_summary_row(name, *figures) for name, figures in reports.items()]
    if len(rows) > 1:
        columns = list(zip(*reports.values(), strict=True))
        files, logical, new, stored = (sum(int(value) for value in column) for column in columns[:4])
        rows.append(_summary_row("total", files, logical, new, stored, max(columns[4])))
    return rows


def _summary_row(name: str, files: int, logical: int, new: int, stored: int, seconds: float) -> list[str]:
    # What is all there already stores a few hundred bytes of names: the ratio is then beside the point.
    ratio = "-" if not stored else ">999x" if logical >= 1000 * stored else format_ratio(logical / stored)
    return [name, str(files), format_size(logical), format_size(new), format_size(stored), ratio, f"{seconds:.1f}"]
