"""Checking a pool without reading its data: the catalogue against the packs, the trees, the names and itself.

Scrub reads every byte; a check takes seconds. What it finds is told a line each, with what to do. While others change
the pool a look may fall between two states, so what is found is looked at again and told only if it stays.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lamina.errors import DamagedData
from lamina.ingest.progress import Progress
from lamina.pool.checking.findings import Findings
from lamina.pool.checking.names import check_names
from lamina.pool.checking.packs import check_packs
from lamina.pool.checking.trees import check_trees

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_ROUNDS = 4
_MOST = 1000
"""Lines of problems that are told."""

ProgressCallback = Callable[[Progress], None]


@dataclass(slots=True)
class CheckReport:
    """What a check found: ``problems`` with what to do about each, and ``notes`` of what is no problem."""

    name: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    objects: int = 0
    packs: int = 0
    trees: int = 0
    seconds: float = 0.0


def check_pool(pool: "Pool", *, headers: bool = False, progress: ProgressCallback | None = None) -> CheckReport:
    """Check a pool; ``headers``: the headers of all records, not only those of tree nodes and names."""
    started = time.monotonic()
    before = _version(pool)
    found = _look(pool, headers, progress)
    for _ in range(_ROUNDS):
        if not found.problems or _version(pool) == before:
            break
        before = _version(pool)
        again = _look(pool, headers, progress)
        again.problems = [problem for problem in again.problems if problem in found.problems]
        found = again
    problems = [f"{what}; {action}" for what, action in found.problems]
    if len(problems) > _MOST:
        problems[_MOST:] = [f"and {len(problems) - _MOST} problems more"]
    return CheckReport(
        pool.name, problems, found.notes, found.objects, found.packs, found.trees, time.monotonic() - started
    )


def _version(pool: "Pool") -> tuple[int, ...]:
    """What differs once another process, or this one, has changed the catalogue."""
    meta = pool._database.query("SELECT value FROM meta WHERE typeof(value) = 'integer' ORDER BY name")
    return (pool._database.query("PRAGMA data_version")[0][0], *(value for (value,) in meta))


def _look(pool: "Pool", headers: bool, progress: ProgressCallback | None) -> Findings:
    findings = Findings(pool.name)
    try:
        for (line,) in pool._database.query("PRAGMA quick_check(10)"):
            if line != "ok":
                findings.rebuild(f"the catalogue is damaged: {line}")
        if findings.problems:
            return findings  # whatever else it says means nothing
        check_names(pool, findings)
        check_packs(pool, findings, headers)
        check_trees(pool, findings, progress)
    except DamagedData as error:
        findings.rebuild(str(error))
    return findings
