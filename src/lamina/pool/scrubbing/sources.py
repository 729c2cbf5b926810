"""Where damaged objects can be had by key: another pool here, or one on another host.

Over ssh the other side runs ``lamina __objects POOL``, which this module serves too: after a line of greeting it reads
keys of 32 bytes and answers each with a record as it stands in a pack (``store/record.py``), in any order; a header of
kind 0 and no payload says that it has no such object. Nothing that comes is believed: whoever asks proves it by its
key.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from lamina.errors import DamagedData, SourceError
from lamina.pool.names import printable
from lamina.pool.remote import RemoteLamina
from lamina.store.codec import MAX_OBJECT
from lamina.store.record import RECORD_HEADER, Record, parse_record_header, record_header
from lamina.store.verifying import Place, Verifier

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

GREETING = b"lamina objects 1\n"
KEY = 32
_AT_ONCE = 512
_MOST_STORED = MAX_OBJECT
"""No payload is longer: what does not shrink is stored as it is."""

Fetched = tuple[Record, bytes]


class ObjectSource(Protocol):
    """Gives objects by key."""

    def fetch(self, keys: Sequence[bytes]) -> Iterator[Fetched]:
        """Those of ``keys`` that it has. Nothing of it is proved. Raises ``SourceError``."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...


class PoolSource:
    """A pool that is open here."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._verifier = Verifier(pool.store.backend, pool.guid)

    def fetch(self, keys: Sequence[bytes]) -> Iterator[Fetched]:
        """See ``ObjectSource``; here from whichever place is whole."""
        store = self._pool.store
        for start in range(0, len(keys), _AT_ONCE):
            for location in store.locate(keys[start : start + _AT_ONCE]).values():
                if not location.stored:
                    continue
                for where in (location, *store.copies(location)):
                    with contextlib.suppress(DamagedData):
                        payload = self._verifier.payload(Place(where, 0, None, False))
                        checksum = where.checksum % (1 << 64)
                        yield (
                            Record(where.kind, where.codec, where.stored, where.decoded, checksum, where.key, 0),
                            payload,
                        )
                        break

    def close(self) -> None:
        """See ``ObjectSource``."""
        self._pool.close()


def serve(pool: "Pool", requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer keys on ``requests`` until it ends."""
    source = PoolSource(pool)
    answers.write(GREETING)
    answers.flush()
    rest = b""
    while data := os.read(requests.fileno(), _AT_ONCE * KEY):
        data = rest + data
        whole = len(data) // KEY * KEY
        rest = data[whole:]
        asked = {data[at : at + KEY] for at in range(0, whole, KEY)}
        for record, payload in source.fetch(sorted(asked)):
            answers.write(_header(record))
            answers.write(payload)
            asked.discard(record.key)
        for key in sorted(asked):
            answers.write(record_header(0, 0, 0, 0, 0, key))
        answers.flush()


def _header(record: Record) -> bytes:
    return record_header(record.kind, record.codec, record.stored, record.decoded, record.checksum, record.key)


class HostSource:
    """A pool on another host, reached through ssh(1) or what stands for it."""

    def __init__(self, host: str, pool: str, ssh: str | None) -> None:
        """``ssh``: the command line to use instead, with its options; default ``LAMINA_SSH``, else ``ssh``.

        On the other side ``LAMINA_REMOTE`` (default ``lamina``) is run. Raises ``SourceError``.
        """
        self._shown = printable(f"{host}:{pool}")
        if not host or host.startswith("-") or not pool:
            raise SourceError(f"cannot repair from '{self._shown}': [user@]host:pool is expected")
        self._remote = RemoteLamina(host, ["__objects", "--", pool], ssh)
        self._requests, self._answers = self._remote.requests, self._remote.answers
        if self._answers.read(len(GREETING)) != GREETING:
            self.close()
            raise SourceError(self._failed("the other side is no lamina that gives objects"))

    def fetch(self, keys: Sequence[bytes]) -> Iterator[Fetched]:
        """See ``ObjectSource``."""
        # From a thread: the other side may be answering while it is still being asked.
        asking = threading.Thread(target=self._ask, args=(b"".join(keys),), daemon=True)
        asking.start()
        asked = set(keys)
        while asked:
            try:
                record = parse_record_header(self._read(RECORD_HEADER), 0)
            except DamagedData as error:
                raise SourceError(self._failed(f"what it sent is no record: {error}")) from None
            if record.key not in asked or record.stored > _MOST_STORED or record.decoded > MAX_OBJECT:
                raise SourceError(self._failed("it sent what was not asked for"))
            asked.discard(record.key)
            if record.kind:
                yield record, self._read(record.stored)
        asking.join()

    def _ask(self, keys: bytes) -> None:
        with contextlib.suppress(OSError):  # the reader finds out that the other side has gone
            self._requests.write(keys)
            self._requests.flush()

    def _read(self, size: int) -> bytes:
        data = self._answers.read(size)
        if len(data) < size:
            raise SourceError(self._failed("the connection ended"))
        return data

    def _failed(self, what: str) -> str:
        """A message with the last line that the other side, or ssh, has complained with."""
        said = self._remote.complaint()
        return f"cannot repair from '{self._shown}': {what}" + (f": {said}" if said else "")

    def close(self) -> None:
        """See ``ObjectSource``."""
        self._remote.close()


def open_source(word: str, ssh: str | None) -> "ObjectSource | Path":
    """What ``word`` names: a pool's name or directory, ``[user@]host:POOL``, or a directory or archive of files.

    Raises ``SourceError`` where it is none.
    """
    from lamina.pool import files, registry
    from lamina.pool.pool import Pool

    if "/" not in word and registry.find(word) is not None:
        return PoolSource(Pool.open(word))
    host, colon, rest = word.partition(":")
    if colon and "/" not in host:
        return HostSource(host, rest, ssh)
    path = Path(word)
    if path.is_dir():
        return PoolSource(Pool.open(path)) if (path / files.MARKER).exists() else path
    if path.exists():
        return path
    raise SourceError(
        f"cannot repair from '{printable(word)}': it is no pool that this machine knows, and no such file or directory"
    )


Opened = Callable[[], "ObjectSource | Path"]
