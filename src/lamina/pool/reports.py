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


@dataclass(frozen=True, slots=True)
class PoolSpace:
    """Space of a pool in bytes; ``capacity`` in percent."""

    size: int
    allocated: int
    free: int
    capacity: int
    dedupratio: float
    health: str


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What a pool holds."""

    name: str
    state: str
    path: str
    packs: int
    objects: int
    datasets: int
    snapshots: int
    errors: int


@dataclass(frozen=True, slots=True)
class DestroyPlan:
    """What a destroy takes away, in order, and the bytes that nothing else refers to afterwards."""

    names: list[str]
    reclaim: int
