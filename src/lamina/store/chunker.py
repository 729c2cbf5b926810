"""Content-defined chunking (FastCDC), and the rule for holes."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lamina.store.codec import MAX_OBJECT

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

HOLE_ALIGN = 4096
HOLE_MIN = 64 << 10
"""A run of zeros of at least this many bytes, cut to multiples of ``HOLE_ALIGN``, is a hole: the same whether the
source knew it for one or not."""

BUFFER = 4 << 20
_ZEROS = bytes(HOLE_MIN)
_STEP = HOLE_MIN // 2
_GLANCE = 64

ReadInto = Callable[[memoryview], int]
"""Fills a view as far as it can; returns the bytes read, 0 at the end."""


def make_chunker(recordsize: int) -> "FastCDC":
    """A chunker whose chunks average ``recordsize`` bytes; cut points depend on nothing but the bytes and that size.

    FastCDC as of 2020 (Xia et al., IEEE TPDS 31(9)), normalisation 1: min is half and max eight times the average,
    against the paper's quarter, so that fewer bytes are scanned. ``benchmarks/chunking.py`` compares settings.
    """
    from pyfastcdc import FastCDC

    average = max(4096, min(recordsize, 1 << 19))
    return FastCDC(average, min_size=average // 2, max_size=min(average * 8, MAX_OBJECT), normalized_chunking=1, seed=0)


def zero_runs(buffer: bytearray, start: int, end: int) -> list[tuple[int, int]]:
    """Runs of at least ``HOLE_MIN`` zeros in ``buffer[start:end]``, as (start, end), each as long as it goes."""
    runs: list[tuple[int, int]] = []
    # A run that is long enough holds a whole step from some probe on: a search for all its zeros would look at every
    # byte, this looks at a few in each step.
    probe = start
    while probe + _STEP <= end:
        if buffer[probe : probe + _GLANCE] != _ZEROS[:_GLANCE] or buffer[probe : probe + _STEP] != _ZEROS[:_STEP]:
            probe += _STEP
            continue
        floor = max(start, probe - _STEP)
        position = floor + len(buffer[floor:probe].rstrip(b"\0"))
        stop = probe + _STEP
        while stop < end:
            block = buffer[stop : min(stop + HOLE_MIN, end)]
            zeros = len(block) - len(block.lstrip(b"\0"))
            stop += zeros
            if zeros < len(block):
                break
        if stop - position >= HOLE_MIN:
            runs.append((position, stop))
        start = probe = stop
    return runs


def data_parts(segments: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """The (start, end) parts of a file of ``size`` bytes between gaps that are holes by the rule.

    ``segments`` are the (start, end) that may hold data, ascending; what lies between is zeros. Parts are aligned.
    """
    parts: list[tuple[int, int]] = []
    position = 0  # where the part that is being made begins
    reached = 0
    for start, end in (*segments, (size, size)):
        first = start if start == size else start - start % HOLE_ALIGN
        last = reached + -reached % HOLE_ALIGN
        if first - last >= HOLE_MIN:
            if last > position:
                parts.append((position, last))
            position = first
        reached = end
    if size > position:
        parts.append((position, size))
    return parts


def chunks_of(
    read_into: ReadInto,
    chunker: "FastCDC",
    buffer: bytearray,
    offset: int = 0,
    *,
    hole_before: bool = False,
    hole_after: bool = False,
) -> Iterator[list[tuple[int, memoryview]]]:
    """Chunks of a stream, a list for each filling of ``buffer``: (file offset in bytes, bytes).

    ``read_into`` fills a view and returns the bytes read, 0 at the end. ``offset`` is the file offset of the first
    byte, a multiple of ``HOLE_ALIGN``. The views are valid until the next list is asked for. Holes are left out: zeros
    at the start belong to a ``hole_before``, zeros at the end to a ``hole_after``. What is given does not depend on how
    the bytes fall into ``buffer``, which holds ``BUFFER`` bytes or at least several chunks.
    """
    view = memoryview(buffer)
    filled = 0
    ended = False
    cutter = _Cutter(buffer, chunker, hole_before, hole_after)
    while not ended:
        while not ended and filled < len(view):
            count = read_into(view[filled:])
            ended = count == 0
            filled += count
        cut: list[tuple[int, memoryview]] = []
        done = cutter.cut(filled, offset, cut, ended)
        yield cut
        tail = bytes(view[done:filled])
        offset += done
        filled = len(tail)
        view[:filled] = tail


class _Cutter:
    """Cuts fillings of a buffer. ``_in_hole``: what lies just before the buffer's first byte is a hole."""

    def __init__(self, buffer: bytearray, chunker: "FastCDC", hole_before: bool, hole_after: bool) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._chunker = chunker
        self._in_hole = hole_before
        self._hole_after = hole_after

    def cut(self, filled: int, offset: int, out: list[tuple[int, memoryview]], ended: bool) -> int:
        """Append the chunks to ``out``; returns how many bytes are done with: the last chunk or hole may go on."""
        done = 0
        if self._in_hole:
            zeros = self._leading(filled)
            if zeros == filled:
                return filled if ended else filled - (offset + filled) % HOLE_ALIGN
            done = zeros - (offset + zeros) % HOLE_ALIGN
            self._in_hole = False
        for start, end in zero_runs(self._buffer, done, filled):
            first = start + -(offset + start) % HOLE_ALIGN
            last = end - (offset + end) % HOLE_ALIGN
            if last - first >= HOLE_MIN:
                self._chunks(done, first, first, offset, out)
                done = last
                self._in_hole = end == filled
        if self._in_hole:
            return done  # what is left is less than a block of zeros: at the end of the file, the hole's too
        # Zeros at the end may turn out to be a hole's beginning: no chunk may reach into that yet.
        zeros = self._trailing(done, filled)
        border = filled - zeros + -(offset + filled - zeros) % HOLE_ALIGN if zeros else filled
        if ended:
            stop = min(border, filled) if self._hole_after else filled
            self._chunks(done, stop, stop, offset, out)
            return filled
        return self._chunks(done, filled, min(border, filled - 1), offset, out)

    def _chunks(self, start: int, end: int, limit: int, offset: int, out: list[tuple[int, memoryview]]) -> int:
        """Cut ``[start:end]`` into chunks as far as they end by ``limit``; returns where the last of those ends."""
        done = start
        for chunk in self._chunker.cut_buf(self._view[start:end]):
            if done + chunk.length > limit:
                break
            out.append((offset + done, self._view[done : done + chunk.length]))
            done += chunk.length
        return done

    def _leading(self, filled: int) -> int:
        position = 0
        while position < filled:
            block = self._buffer[position : min(position + HOLE_MIN, filled)]
            zeros = len(block) - len(block.lstrip(b"\0"))
            position += zeros
            if zeros < len(block):
                break
        return position

    def _trailing(self, start: int, filled: int) -> int:
        """Zeros at the end; there are less than a hole's, or ``zero_runs`` would have found them."""
        block = self._buffer[max(start, filled - HOLE_MIN - 2 * HOLE_ALIGN) : filled]
        return len(block) - len(block.rstrip(b"\0"))
