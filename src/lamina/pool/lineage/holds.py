"""Holds: tags on a snapshot that keep it from being destroyed. A deferred one goes when the last is released."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import AlreadyExists, InvalidName, LaminaError, NotFound
from lamina.pool.catalogue import Catalogue, SnapshotRow
from lamina.pool.lineage.snapshots import find_snapshots, with_below
from lamina.pool.names import check_snapshot_name, printable, split_snapshot

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

MAX_TAG_LENGTH = 255
"""Longest tag in bytes (ZAP_MAXNAMELEN - 1, dsl_userhold.c)."""

_AT_ONCE = 500
"""Parameters of one query: SQLite takes at least 999."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold; ``creation`` in seconds since 1970."""

    snapshot: str
    tag: str
    creation: int


def _snapshots(pool: "Pool", names: Sequence[str], recursive: bool, refused: str) -> dict[str, SnapshotRow]:
    """Rows by full name. ``refused`` is the beginning of a refusal, with a place for the name."""
    for name in names:
        if "@" not in name:
            raise InvalidName(f"'{printable(name)}' is not a snapshot")
        check_snapshot_name(name, "open")
    for dataset in dict.fromkeys(split_snapshot(name)[0] for name in names):
        pool._catalogue.dataset(dataset)
    if not recursive:
        found = find_snapshots(pool._catalogue, names)
        missing = next((name for name in names if name not in found), None)
    else:
        found, missing = {}, None
        for name in names:
            some = find_snapshots(pool._catalogue, with_below(pool._catalogue, name))
            missing = missing or (None if some else name)
            found.update(some)
    if missing is not None:
        raise NotFound(refused.format(missing) + "dataset does not exist")
    return found


def _check_tag(tag: str, refused: str) -> None:
    try:
        length = len(tag.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidName(refused + "the tag is not valid UTF-8") from None
    if not 0 < length <= MAX_TAG_LENGTH:
        raise InvalidName(refused + ("tag too long" if length else "the tag is empty"))


def hold(pool: "Pool", tag: str, names: Sequence[str], *, recursive: bool) -> None:
    """See ``Pool.hold``."""
    refused = "cannot hold snapshot '{}': "

    def found() -> dict[str, SnapshotRow]:
        rows = _snapshots(pool, names, recursive, refused)
        for name, row in rows.items():
            _check_tag(tag, refused.format(name))
            if _has(pool, row, tag):
                raise AlreadyExists(refused.format(name) + "tag already exists on this dataset")
        return rows

    found()
    with pool._writer() as writer, pool._catalogue.change(writer) as change:
        rows = found()
        pool._database.execute_many(
            "INSERT INTO hold(snapshot, tag, creation) VALUES (?, ?, ?)",
            [(row.id, tag, change.time) for row in rows.values()],
        )
        change.snapshots.update(row.id for row in rows.values())


def release(pool: "Pool", tag: str, names: Sequence[str], *, recursive: bool) -> None:
    """See ``Pool.release``."""
    from lamina.pool.lineage.destroying import destroying, drop_if_free

    refused = "cannot release hold from snapshot '{}': "

    def found() -> list[SnapshotRow]:
        rows = []
        for name in names:
            some = _snapshots(pool, [name], recursive, refused)
            tagged = [row for row in some.values() if _has(pool, row, tag)]
            if not tagged:
                raise LaminaError(refused.format(name) + "no such tag on this dataset")
            rows += tagged
        return rows

    found()
    with destroying(pool) as change:
        for row in found():
            pool._database.execute("DELETE FROM hold WHERE snapshot = ? AND tag = ?", (row.id, tag))
            change.snapshots.add(row.id)
            drop_if_free(pool._catalogue, change, row.id)


def holds(pool: "Pool", names: Sequence[str], *, recursive: bool) -> list[Hold]:
    """See ``Pool.holds``."""
    rows = _snapshots(pool, names, recursive, "cannot open '{}': ")
    by_id = {row.id: name for name, row in rows.items()}
    found: list[Hold] = []
    numbers = list(by_id)
    for at in range(0, len(numbers), _AT_ONCE):
        some = numbers[at : at + _AT_ONCE]
        marks = ", ".join("?" * len(some))
        for snapshot, tag, creation in pool._database.query(
            f"SELECT snapshot, tag, creation FROM hold WHERE snapshot IN ({marks})", some
        ):
            found.append(Hold(by_id[snapshot], tag, creation))
    places = {name: place for place, name in enumerate(rows)}
    return sorted(found, key=lambda one: (places[one.snapshot], one.tag))


def hold_counts(catalogue: Catalogue) -> dict[int, int]:
    """How many holds each held snapshot has, by row."""
    return dict(catalogue.database.query("SELECT snapshot, count(*) FROM hold GROUP BY snapshot"))


def _has(pool: "Pool", snapshot: SnapshotRow, tag: str) -> bool:
    # A tag that SQLite cannot take is on no snapshot.
    stored = tag.encode("utf-8", "replace").decode("utf-8")
    rows = pool._database.query("SELECT 1 FROM hold WHERE snapshot = ? AND tag = ?", (snapshot.id, stored))
    return stored == tag and bool(rows)
