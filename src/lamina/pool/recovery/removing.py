"""Destroying a pool: all that lamina made in its directory goes, and nothing else.

The marker is renamed first: from then on the directory is no pool, and nobody can open it half-gone. What a crash
leaves is finished by destroying it again.
"""

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from lamina.errors import NotFound
from lamina.pool import files, registry
from lamina.pool.names import printable
from lamina.pool.recovery.alone import alone
from lamina.store.disk import DISK, Disk, translated
from lamina.store.record import pack_number

_OWN = re.compile(
    rf"\.{re.escape(files.MARKER)}\.new|{re.escape(files.CATALOGUE)}(\.new|\.damaged-\d+)?(-wal|-shm|-journal)?"
)
"""Files of a pool's directory, but for the marker."""
_LEASE = re.compile(r"\d+-[0-9a-f]{12}")


@dataclass(slots=True)
class Removed:
    """What a destruction left: files that are none of lamina's, for whose sake the directory stays."""

    path: Path
    foreign: list[str] = field(default_factory=list)


def destroy_pool(name: str, disk: Disk = DISK) -> Removed:
    """Destroy a pool that nobody uses, or finish destroying it. Raises ``NotFound``, ``Busy``."""
    path = registry.find(name)
    if path is None:
        raise NotFound(f"cannot open '{printable(name)}': no such pool")
    begun = os.path.lexists(path / files.DESTROYING)
    if not begun and not os.path.lexists(path / files.MARKER):
        raise NotFound(
            f"cannot open '{printable(name)}': no pool in '{printable(str(path))}'; bring its directory back, or "
            f"forget it with 'lamina pool export {printable(name)}'"
        )
    if not begun:  # else its directories may be gone already
        files.check_writable(path, name)
    with alone(path, name, "destroy", disk):
        try:
            removed = _destroy(path, begun, disk)
        except OSError as error:
            raise translated(error, f"cannot destroy '{name}'; what is left goes when it is destroyed again") from error
        registry.remove(name)
    # Only now: as long as the pool is held, its directory is open.
    with contextlib.suppress(OSError):
        disk.rmdir(path)
        disk.sync_directory(path.parent)
    return removed


def _destroy(path: Path, begun: bool, disk: Disk) -> Removed:
    if not begun:
        disk.replace(path / files.MARKER, path / files.DESTROYING)
        disk.sync_directory(path)
    for directory, is_ours in ((files.PACKS, pack_number), (files.LEASES, _LEASE.fullmatch)):
        with contextlib.suppress(FileNotFoundError):
            for name in disk.listdir(path / directory):
                if is_ours(name):
                    disk.unlink(path / directory / name)
    for directory in (files.PACKS, files.LEASES, files.TEMPORARY):
        with contextlib.suppress(OSError):
            disk.rmdir(path / directory)
    for name in disk.listdir(path):
        if _OWN.fullmatch(name):
            disk.unlink(path / name)
    foreign = sorted(set(disk.listdir(path)) - {files.DESTROYING})
    disk.unlink(path / files.DESTROYING)
    disk.sync_directory(path)
    return Removed(path, foreign)
