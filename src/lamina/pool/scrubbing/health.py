"""How a pool is: what the last scrub found, what is damaged, which errors were seen."""

import contextlib
from typing import TYPE_CHECKING

from lamina.errors import DamagedData
from lamina.pool.collecting.freeing import freeing
from lamina.pool.figures.accounting import Accounting
from lamina.pool.files import CATALOGUE
from lamina.pool.reports import PoolSpace, PoolStatus, ScanStatus
from lamina.pool.scrubbing.scrubs import SCANNING, Scrubs

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

ONLINE, DEGRADED = "ONLINE", "DEGRADED"


def health(pool: "Pool") -> str:
    """``DEGRADED`` where something is known to be damaged that could not be repaired."""
    return DEGRADED if Scrubs(pool._catalogue, pool.path).damaged() else ONLINE


def space(pool: "Pool") -> PoolSpace:
    """See ``Pool.space``."""
    taken, free = _allocated(pool), pool._free()
    root = pool._catalogue.dataset(pool.name).id
    dedup = Accounting(pool._catalogue).datasets([root])[root].dedupratio()
    return PoolSpace(taken + free, taken, free, _percent(taken, free), dedup, health(pool), freeing(pool._catalogue))


def capacity(pool: "Pool") -> int:
    """See ``Pool.capacity``."""
    return _percent(_allocated(pool), pool._free())


def _percent(taken: int, free: int) -> int:
    return taken * 100 // max(taken + free, 1)


def _allocated(pool: "Pool") -> int:
    """Bytes of disk that the packs and the catalogue take."""
    allocated = 0
    backend = pool.store.backend
    for name in backend.list():
        with contextlib.suppress(DamagedData):  # others remove packs
            allocated += backend.allocated(name)
    for path in pool.path.glob(CATALOGUE + "*"):
        with contextlib.suppress(OSError):  # and logs
            allocated += pool.store.database.disk.stat(path).st_blocks * 512
    return allocated


def pool_status(pool: "Pool") -> PoolStatus:
    """See ``Pool.status``."""
    database = pool.store.database
    packs, objects, datasets, snapshots = (
        int(database.query(f"SELECT count(*) FROM {table}")[0][0])
        for table in ("pack", "object", "dataset", "snapshot")
    )
    scrubs = Scrubs(pool._catalogue, pool.path)
    damaged, counts = scrubs.damaged(), scrubs.counts()
    return PoolStatus(
        name=pool.name,
        state=DEGRADED if damaged else ONLINE,
        path=str(pool.path),
        packs=packs,
        objects=objects,
        datasets=datasets,
        snapshots=snapshots,
        errors=damaged,
        freeing=freeing(pool._catalogue),
        read_errors=counts.read,
        write_errors=counts.write,
        checksum_errors=counts.checksum,
        scan=scan_status(pool),
        capacity=capacity(pool),
    )


def scan_status(pool: "Pool") -> ScanStatus | None:
    """The last scrub."""
    scrubs = Scrubs(pool._catalogue, pool.path)
    scan = scrubs.last()
    if scan is None:
        return None
    state = scan.state
    if state == SCANNING and not scrubs.is_running(scan):
        state = "interrupted"
    return ScanStatus(
        state=state,
        started=scan.started,
        ended=scan.ended,
        examined=min(scan.examined, scan.total),
        total=scan.total,
        repaired=scan.repaired,
        errors=scan.errors,
        seconds=scan.seconds,
        rate=scan.rate,
        message=scrubs.message(),
    )
