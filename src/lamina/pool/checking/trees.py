"""Checking trees: all that names and mounts show is walked, each node once, and compared with what is kept of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.ingest.progress import Progress
from lamina.pool.checking.findings import Findings
from lamina.pool.checking.walking import Walker
from lamina.pool.figures.accounting import Accounting
from lamina.pool.figures.ledger import kept_generation, resized
from lamina.pool.figures.sums import Sizes

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

_SHOWN = 3
"""Lines about one tree, and names that are said to use it."""


def check_trees(pool: "Pool", findings: Findings, progress: Callable[[Progress], None] | None = None) -> None:
    """Every tree that something refers to, and the figures made of them."""
    users = _users(pool)
    rows = pool._database.query("SELECT root, data_bytes FROM tree ORDER BY root")
    wanted = [(root, size) for root, size in rows if root in users]
    total = sum(size for _, size in wanted)
    walker = Walker(pool.store)
    done = 0
    for count, (root, size) in enumerate(wanted):
        names = sorted(users[root])
        shown = ", ".join(f"'{name}'" for name in names[:_SHOWN]) + (", …" if names[_SHOWN:] else "")
        _check_tree(pool, findings, walker, root, shown)
        done += size
        if progress is not None:
            progress(Progress(count + 1, done, 0, 0, len(wanted), total, count + 1 == len(wanted)))
    findings.trees = len(wanted)
    if not findings.problems:  # else they are computed from what is wrong
        _check_figures(pool, findings)


def _users(pool: "Pool") -> dict[int, list[str]]:
    """Names of what shows each tree, by the row of its root."""
    users: dict[int, list[str]] = {}
    for root, name in pool._database.query(
        "SELECT s.root, d.name || '@' || s.name FROM snapshot s JOIN dataset d ON d.id = s.dataset "
        "WHERE s.root IS NOT NULL UNION ALL SELECT head, name FROM dataset WHERE head IS NOT NULL "
        "UNION ALL SELECT root, 'a mount' FROM pin"
    ):
        users.setdefault(root, []).append(name)
    return users


def _check_tree(pool: "Pool", findings: Findings, walker: Walker, root: int, shown: str) -> None:
    database = pool._database
    keys = database.query("SELECT key FROM object WHERE id = ?", (root,))
    rows = database.query(
        "SELECT inodes, files, directories, data_bytes, stored, decoded, objects FROM tree WHERE root = ?", (root,)
    )
    if not keys or not rows:
        findings.rebuild(f"the tree of {shown} is not in the index")
        return
    *kept, blob = rows[0]
    try:
        walked = walker.walk(keys[0][0])
    except DamagedData as error:
        findings.repair(f"the root of {shown} cannot be read: {error}")
        return
    for problem in walked.problems[:_SHOWN]:
        findings.repair(f"the tree of {shown}: {problem}")
    if walked.missing:
        findings.repair(f"{len(walked.missing)} objects that {shown} needs are missing")
    if not walked.whole:
        return  # what lies below is not known, so that nothing can be compared
    if not walked.problems and not walked.missing and not pool.image_index.is_right(root):
        findings.rebuild(f"what the catalogue says of the config and layers of {shown} is not what they are")
    totals = walked.totals
    stored, decoded = Sizes(database).sums(walked.objects)
    told = (totals.inodes, totals.files, totals.directories, totals.data_bytes, stored, decoded)
    names = ("inodes", "files", "directories", "data_bytes", "stored", "decoded")
    changed = bool(resized(database))
    for name, mine, other in zip(names, told, kept, strict=True):
        if mine != other and not (changed and name == "stored"):
            findings.rebuild(f"the catalogue says that the tree of {shown} has {other} {name}, it has {mine}")
    objects = BitMap64.deserialize(blob)
    if objects != walked.objects:
        lacking, beyond = len(walked.objects - objects), len(objects - walked.objects)
        findings.rebuild(
            f"the catalogue's list of the objects of {shown} lacks {lacking}, and has {beyond} that it does not reach"
        )


def _check_figures(pool: "Pool", findings: Findings) -> None:
    """Figures that are kept must be what they would be if they were computed now."""
    accounting = Accounting(pool._catalogue)
    if kept_generation(pool._database) != pool._catalogue.generation():
        return  # none are kept of what there is now
    kept, fresh = accounting.figures(), accounting.compute()
    names = {row.id: row.name for row in pool._catalogue.datasets()}
    for row in pool._catalogue.snapshots():
        if kept[1].get(row.id) != fresh[1].get(row.id):
            findings.rebuild(f"the figures kept of '{names.get(row.dataset)}@{row.name}' are not what they should be")
    for number, name in names.items():
        if kept[0].get(number) != fresh[0].get(number):
            findings.rebuild(f"the figures kept of '{name}' are not what they should be")
