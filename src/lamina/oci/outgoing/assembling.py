"""From parts of chunks to a stream of bytes: chunks are read and decoded ahead by threads, the order stays."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lamina.errors import DamagedData
from lamina.pool.names import printable

_AHEAD = 16
"""Chunks decoded ahead, 1 MiB each at most."""
_KEPT = 32
"""Chunks remembered: small files share them with their neighbours."""
_MOST_WAITING = 4096
_GATHERED = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """``length`` bytes of the chunk ``key`` from ``start``; ``path`` is the file they belong to, for messages."""

    key: bytes
    start: int
    length: int
    path: bytes


def assembled(parts: Iterable[bytes | Piece], chunk: Callable[[bytes], bytes], threads: int = 2) -> Iterator[bytes]:
    """The bytes of ``parts`` in order, about 1 MiB at a time; ``chunk`` gives a chunk by its key, from any thread.

    Raises ``DamagedData``, which names the file.
    """
    coming = iter(parts)
    waiting: deque[tuple[bytes | Piece, Future[bytes] | None, bool]] = deque()
    known: OrderedDict[bytes, Future[bytes]] = OrderedDict()
    ahead = 0
    gathered: list[bytes] = []
    size = 0
    workers = ThreadPoolExecutor(threads, "assemble")
    try:
        more = True
        while True:
            while more and ahead < _AHEAD and len(waiting) < _MOST_WAITING:
                part = next(coming, None)
                if part is None:
                    more = False
                elif isinstance(part, Piece):
                    future = known.get(part.key)
                    fresh = future is None
                    if future is None:
                        future = known[part.key] = workers.submit(chunk, part.key)
                        ahead += 1
                        if len(known) > _KEPT:
                            known.popitem(last=False)
                    else:
                        known.move_to_end(part.key)
                    waiting.append((part, future, fresh))
                else:
                    waiting.append((part, None, False))
            if not waiting:
                break
            first, result, fresh = waiting.popleft()
            ahead -= fresh
            data = first if isinstance(first, bytes) else _cut(first, result)
            gathered.append(data)
            size += len(data)
            if size >= _GATHERED:
                yield b"".join(gathered)
                gathered, size = [], 0
        if gathered:
            yield b"".join(gathered)
    finally:
        workers.shutdown(wait=True, cancel_futures=True)


def _cut(piece: Piece, result: "Future[bytes] | None") -> bytes:
    assert result is not None
    path = printable(piece.path.decode("utf-8", "backslashreplace"))
    try:
        data = result.result()
    except DamagedData as error:
        raise DamagedData(f"'{path}' cannot be read: {error}") from None
    if len(data) < piece.start + piece.length:
        raise DamagedData(f"'{path}' cannot be read: it reaches beyond its chunk {piece.key.hex()}")
    if piece.start == 0 and piece.length == len(data):
        return data
    return data[piece.start : piece.start + piece.length]
