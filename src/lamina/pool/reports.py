"""What long operations report when they are done."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import took in. Bytes of file data: in all, new to the pool, and as stored; ``warnings`` are files left
    out."""

    name: str
    files: int
    logical_bytes: int
    new_logical_bytes: int
    stored_bytes: int
    seconds: float
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs at a path below the root."""

    path: bytes
    what: str


NEAR_FULL = 90
"""Percent of a pool's size (``capacity``) from which on it warns."""


@dataclass(frozen=True, slots=True)
class PoolSpace:
    """Space of a pool in bytes; ``capacity`` in percent; ``freeing``: stored bytes that gc has still to give back."""

    size: int
    allocated: int
    free: int
    capacity: int
    dedupratio: float
    health: str
    freeing: int = 0


@dataclass(frozen=True, slots=True)
class ScanStatus:
    """The last scrub: bytes, seconds since 1970, ``seconds`` that it read, ``rate`` in bytes a second (0: no bound).

    ``state``: scanning, paused, finished, canceled, or interrupted where its process ended, perhaps with a ``message``.
    """

    state: str
    started: int
    ended: int | None
    examined: int
    total: int
    repaired: int
    errors: int
    seconds: int
    rate: int
    message: str


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What a pool holds, and how it is. ``errors``: damaged objects; the others count what was seen and perhaps mended.

    ``capacity``: percent of its size that is taken.
    """

    name: str
    state: str
    path: str
    packs: int
    objects: int
    datasets: int
    snapshots: int
    errors: int
    freeing: int = 0
    read_errors: int = 0
    write_errors: int = 0
    checksum_errors: int = 0
    scan: ScanStatus | None = None
    capacity: int = 0


@dataclass(frozen=True, slots=True)
class DestroyPlan:
    """What a destroy takes away, in order, and the bytes that nothing else refers to afterwards (0 unless measured).

    ``deferred``: snapshots that are held or cloned, and go with their last hold or clone.
    """

    names: list[str]
    reclaim: int
    deferred: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a garbage collection freed, or with ``dry_run`` would free.

    ``objects`` and ``stored``: objects deleted and their payloads' bytes. ``given``: bytes that the file system got
    back; ``packs``: pack files removed; ``moved``: bytes copied out of packs that were mostly dead. ``freeing``: stored
    bytes that are still to come, once the processes ``waiting_for`` have finished. ``mounted``: stored bytes that no
    name refers to any more and only mounts keep, those that ``mounted_by`` serve.
    """

    name: str
    dry_run: bool
    objects: int
    stored: int
    given: int
    packs: int
    moved: int
    freeing: int
    waiting_for: list[int]
    mounted: int
    mounted_by: list[int]
    seconds: float
