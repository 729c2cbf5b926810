"""A store without a pool around it: database, packs and leases in a directory."""

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.store.backend import LocalBackend
from lamina.store.codec import Buffer, Compression
from lamina.store.database import Database
from lamina.store.objects import Location, ObjectStore
from lamina.store.record import Record, pack_name, scan_pack
from lamina.store.writer import StoreWriter

GUID = 0x1122334455667788
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes user or mounts: needs root")


class Shop:
    """A store in ``path``. ``generation`` is what the pool would count up at commits."""

    def __init__(self, path: Path, *, write: bool = True, mode: int = 0o600) -> None:
        self.path = path
        self.mode = mode
        self.generation = 0
        self.epoch = 0
        if not (path / "catalogue.db").exists():
            (path / "packs").mkdir(parents=True)
            (path / "leases").mkdir()
            self.database = Database.create(path / "catalogue.db", "", mode)
        else:
            self.database = Database(path / "catalogue.db", write=write)
        self.backend = LocalBackend(path / "packs", mode)
        self.store = ObjectStore(self.database, self.backend)

    def writer(self, copies: int = 1, node_copies: int = 1) -> StoreWriter:
        generation, epoch = (lambda: self.generation), (lambda: self.epoch)
        return StoreWriter(self.store, self.path / "leases", GUID, generation, epoch, self.mode, copies, node_copies)

    def put(self, data: Buffer, compression: Compression | None = None, kind: int = 1) -> bytes:
        """Store one object and commit it."""
        writer = self.writer()
        key = writer.put(data, kind, compression) if compression else writer.put(data, kind)
        with writer.commit():
            pass
        writer.close()
        return key

    def rows(self) -> dict[bytes, Location]:
        """Of all objects but name records."""
        found = self.database.query("SELECT key FROM object WHERE kind != 4")
        return self.store.locate([key for (key,) in found])

    def packs(self) -> dict[int, tuple[str, int, str | None]]:
        rows = self.database.query("SELECT id, state, size, lease FROM pack")
        return {number: (state, size, lease) for number, state, size, lease in rows}

    def leases(self) -> list[str]:
        return sorted(os.listdir(self.path / "leases"))

    def pack_path(self, number: int) -> Path:
        return self.path / "packs" / pack_name(number)

    def scanned(self) -> dict[tuple[int, int], Record]:
        """All records of all packs by (pack, payload offset), up to the size that the database gives."""
        found = {}
        for number, (_, size, _) in self.packs().items():
            if size:
                data = self.pack_path(number).read_bytes()[:size]
                assert len(data) == size
                for record in scan_pack(data, GUID):
                    found[number, record.offset] = record
        return found

    def check(self) -> int:
        """Every row is found in its pack as it says and reads back to its key; how many there are."""
        records = self.scanned()
        rows = self.rows()
        for key, row in rows.items():
            record = records[row.pack, row.offset]
            told = (row.key, row.kind, row.codec, row.stored, row.decoded, row.checksum % (1 << 64))
            assert told == (record.key, record.kind, record.codec, record.stored, record.decoded, record.checksum)
            assert len(self.store.get(key, verify=True)) == row.decoded
        for name in self.backend.list():
            assert int(name.split(".")[0]) in self.packs(), f"{name} has no row"
        return len(rows)

    def close(self) -> None:
        self.backend.close()
        self.database.close()


def in_child(function: Callable[[], object], uid: int | None = None) -> str:
    """Run in a forked process, as another user if told: ``repr`` of the result, or the exception's type and text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            signal.alarm(120)  # rather than wait for ever
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            try:
                answer = repr(function())
            except Exception as error:
                answer = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            os.write(writing, answer.encode()[:60000])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        text = answers.read().decode()
    os.waitpid(pid, 0)
    return text
