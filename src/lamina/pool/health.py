"""How a pool is: what the last scrub found, what is damaged, which errors were seen."""

from typing import TYPE_CHECKING

from lamina.pool.freeing import freeing
from lamina.pool.reports import PoolStatus, ScanStatus
from lamina.pool.scrubs import SCANNING, Scrubs

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

ONLINE, DEGRADED = "ONLINE", "DEGRADED"


def health(pool: "Pool") -> str:
    """``DEGRADED`` where something is known to be damaged that could not be repaired."""
    return DEGRADED if Scrubs(pool._catalogue, pool.path).damaged() else ONLINE


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
        capacity=pool.space().capacity,
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
