"""The layers of an image on their way, a line for each, as ``docker pull`` shows them.

On a terminal the lines are redrawn in place, never more of them than fit. Elsewhere each change of a layer's state is a
line, once.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from lamina.oci.incoming.states import COMPLETE, DOWNLOADING, EXISTS, STORING, WAITING
from lamina.pool.names import printable
from lamina.pool.units import format_size

_REDRAW_SECONDS = 0.1
_BAR = 50
"""Cells of a bar where the terminal is wide enough, as Docker's."""
_LEAST_BAR = 10

_WORDS = {
    WAITING: "Waiting",
    DOWNLOADING: "Downloading",
    STORING: "Storing",
    EXISTS: "Already exists",
    COMPLETE: "Pull complete",
}


class _Layer:
    __slots__ = ("done", "state", "total")

    def __init__(self, total: int | None) -> None:
        self.state = WAITING
        self.done = 0
        self.total = total


class LayerLines:
    """Shows how far each layer is. May be told from several threads; ``quiet`` shows nothing."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        size: tuple[int, int] | None = None,
        words: Mapping[str, str] = _WORDS,
    ) -> None:
        """``size``: columns and rows of the terminal, asked for where it is None; ``words`` for the states."""
        self._words = words
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._size = size
        self.quiet = quiet
        self._drawing = not quiet and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._layers: dict[str, _Layer] = {}
        self._drawn = 0.0
        self._height = 0

    def begin(self, layers: Sequence[tuple[str, int | None]]) -> None:
        """The layers of the next image: digests, from the bottom up, with the bytes to download where known."""
        with self._lock:
            self._finish()
            self._layers = {digest: _Layer(total) for digest, total in layers}
            self._drawn = 0.0
            self._draw(force=True)

    def update(self, digest: str, state: str, done: int) -> None:
        """A layer has reached a state, with ``done`` bytes of it downloaded."""
        with self._lock:
            layer = self._layers.get(digest)
            if layer is None or self.quiet:
                return
            changed = layer.state != state
            layer.state, layer.done = state, done
            if self._drawing:
                self._draw(force=changed)
            elif changed and state != WAITING:
                self._write(f"{short(digest)}: {self._words[state]}\n")

    def say(self, text: str) -> None:
        """Print a line above those of the layers; nothing where it is quiet."""
        with self._lock:
            if self.quiet:
                return
            if self._drawing and self._height:
                self._write(f"\x1b[{self._height}A\r\x1b[J")
                self._height = 0
            self._write(printable(text) + "\n")
            self._draw(force=True)

    def finish(self) -> None:
        """Leave the lines as they are; what is printed next comes below them."""
        with self._lock:
            self._finish()

    # -- drawing --------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        if self._layers:
            self._draw(force=True)
        self._layers = {}
        self._height = 0

    def _draw(self, *, force: bool) -> None:
        now = self._clock()
        if not self._drawing or not self._layers or (not force and now - self._drawn < _REDRAW_SECONDS):
            return
        self._drawn = now
        columns, rows = self._size or self._terminal()
        lines = self.lines(columns, rows)
        up = f"\x1b[{self._height}A" if self._height else ""
        # Lines left over from a longer drawing are blanked, and stay part of the block.
        blank = [""] * (self._height - len(lines))
        self._write(up + "".join(f"\r{line}\x1b[K\n" for line in [*lines, *blank]))
        self._height = len(lines) + len(blank)

    def lines(self, columns: int, rows: int) -> list[str]:
        """The lines for a terminal of this size: one a layer, or those that move and a line that counts the others."""
        layers = list(self._layers.items())
        most = max(rows - 1, 2)
        if len(layers) <= most:
            return [_line(digest, layer, columns, self._words) for digest, layer in layers]
        moving = [one for one in layers if one[1].state in (DOWNLOADING, STORING)]
        waiting = [one for one in layers if one[1].state == WAITING]
        done = [one for one in layers if one[1].state in (EXISTS, COMPLETE)]
        chosen = dict((*moving, *waiting, *reversed(done))[: most - 1])
        shown = [_line(digest, layer, columns, self._words) for digest, layer in layers if digest in chosen]
        left = [layer.state for digest, layer in layers if digest not in chosen]
        counts = [
            f"{left.count(state)} {self._words[state].lower()}"
            for state in (DOWNLOADING, STORING, WAITING, EXISTS, COMPLETE)
            if state in left
        ]
        return [*shown, f"{len(left)} more: {', '.join(counts)}"[: columns - 1]]

    def _terminal(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        # A terminal that does not know its size says 0.
        return max(20, size.columns or 80), size.lines or 24

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def short(digest: str) -> str:
    """The first twelve digits of a digest, as Docker shows it."""
    return digest.partition(":")[2][:12] or digest[:12]


def _line(digest: str, layer: _Layer, columns: int, words: Mapping[str, str]) -> str:
    head = f"{short(digest)}: {words[layer.state]}"
    if layer.state != DOWNLOADING:
        return head[: columns - 1]
    if not layer.total:
        return f"{head}  {format_size(layer.done)}"[: columns - 1]
    amount = f"{format_size(layer.done)}/{format_size(layer.total)}"
    cells = min(_BAR, columns - 1 - len(head) - len(amount) - 5)
    if cells < _LEAST_BAR:
        return f"{head}  {amount}"[: columns - 1]
    filled = min(cells, cells * layer.done // layer.total)
    bar = ("=" * filled + ">")[:cells]
    return f"{head} [{bar.ljust(cells)}]  {amount}"
