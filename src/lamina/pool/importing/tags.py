"""Tags: the images of a repository by name. A repository is a dataset, a tag a snapshot of kind ``image``.

A tag that moves keeps the tree that it had as ``@sha256-…``, after the digest of its manifest (or config), while that
is cloned, held or mounted: it is renamed where it stands, so that its clones, holds and properties stay with it. Else
the tree loses the name as if it had been destroyed.
"""

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from lamina.errors import AlreadyExists, InvalidName, LaminaError, NotFound
from lamina.pool import files
from lamina.pool.catalogue import Catalogue, Change, SnapshotRow
from lamina.pool.figures.limits import Guard
from lamina.pool.lineage.destroying import Doomed, carry_out
from lamina.pool.lineage.renaming import missing_above
from lamina.pool.names import check_name, check_snapshot_name, pool_of_name, printable, split_snapshot
from lamina.pool.ownproperties import own_properties
from lamina.pool.reports import DestroyPlan
from lamina.store.lease import running

if TYPE_CHECKING:
    from lamina.pool.pool import Pool

IMAGE = "image"


def images_dataset(pool: "Pool") -> str:
    """The dataset below which images go that are not told where to (the pool's property ``images``)."""
    return own_properties(pool)["images"][0]


def find_tag(catalogue: Catalogue, name: str, verb: str) -> SnapshotRow | None:
    """The image of this full name, if there is one. Raises ``LaminaError`` for a snapshot that is none."""
    row = catalogue.find_snapshot(name)
    if row is not None and row.kind != IMAGE:
        raise LaminaError(f"cannot {verb} '{name}': it is a snapshot, not an image; 'lamina destroy' is for those")
    return row


def move_tag(pool: "Pool", change: Change, name: str, root: int, taken: int) -> int:
    """Have ``name`` be the image of the tree ``root``, in a change of names; the row of its snapshot.

    Missing datasets are made, and the dataset's head follows the image; ``taken`` is what it took in, in bytes. Where
    the tag is that tree already nothing changes. Raises ``LaminaError`` where the name is a snapshot's.
    """
    catalogue = pool._catalogue
    old = find_tag(catalogue, name, "move")
    if old is not None and old.root == root:
        return old.id
    dataset, tag = split_snapshot(name)
    assert tag is not None
    add_missing(catalogue, change, dataset)
    if old is not None:
        _let_go(pool, change, dataset, old)
    number = catalogue.dataset(dataset).id
    snapshot = catalogue.add_snapshot(change, number, tag, IMAGE, root, taken)
    catalogue.set_head(change, number, root, snapshot, taken)
    return snapshot


def add_missing(catalogue: Catalogue, change: Change, dataset: str) -> None:
    """Make a dataset and those above it, as far as they are not there."""
    if catalogue.find_dataset(dataset) is None:
        for one in [*missing_above(catalogue, dataset), dataset]:
            catalogue.add_dataset(change, one, {})


def _let_go(pool: "Pool", change: Change, dataset: str, old: SnapshotRow) -> None:
    """Take its name from an image: another one while something needs it, else it goes."""
    if _is_needed(pool, f"{dataset}@{old.name}", old):
        pool._catalogue.rename_snapshot(change, old.id, _spare_name(pool, dataset, old))
    else:
        carry_out(pool._catalogue, change, Doomed([old]))


def _is_needed(pool: "Pool", name: str, row: SnapshotRow) -> bool:
    """Whether an image is cloned, held or mounted, or another process shows its tree."""
    database = pool._database
    for sql in ("SELECT 1 FROM dataset WHERE origin = ? LIMIT 1", "SELECT 1 FROM hold WHERE snapshot = ? LIMIT 1"):
        if database.query(sql, (row.id,)):
            return True
    if name in pool._mounted():
        return True
    # What a mount in another namespace, or of a whole pool, shows is told by its pins.
    pinning = {lease for (lease,) in database.query("SELECT lease FROM pin WHERE root = ?", (row.root,))}
    return bool(pinning) and any(
        lease.name in pinning and lease.kind == "read" and lease.pid != os.getpid()
        for lease in running(pool.path / files.LEASES, database)
    )


def _spare_name(pool: "Pool", dataset: str, row: SnapshotRow) -> str:
    """A free name for an image that loses its tag, after the digest that registries know it by."""
    wanted = "sha256-" + _digest(pool, row)
    found, count = wanted, 1
    while pool._catalogue.find_snapshot(f"{dataset}@{found}") is not None:
        count += 1
        found = f"{wanted}-{count}"
    return found


def _digest(pool: "Pool", row: SnapshotRow) -> str:
    """Hexadecimal SHA-256 of the manifest, else of the config, else of the key of the tree's root."""
    image = None
    if row.root is not None:
        try:
            image = pool.image_index.row(row.root)
        except LaminaError:
            image = None  # it makes no sense, or cannot be read: its tree still has a key
    if image is not None:
        return (image.manifest or image.config).removeprefix("sha256:")
    located = pool.store.locate_ids([row.root] if row.root is not None else [])
    return sha256(located[0].key if located else b"").hexdigest()


# -- what people ask for ------------------------------------------------------------------------------------------


def tag_image(pool: "Pool", existing: str, new_name: str, force: bool = False) -> bool:
    """Give an image, or what a dataset's head shows, another name; whether anything changed.

    The tree is shared, nothing is copied; missing datasets are made. ``force`` moves a tag that is there. The head of
    the new name's dataset follows it only where that was empty, or followed the tag. Raises ``AlreadyExists``,
    ``NotFound``, ``InvalidName``, ``NoSpace``.
    """
    check_name(existing, "open")
    check_snapshot_name(new_name, "create")
    dataset, tag = split_snapshot(new_name)
    assert tag is not None
    if pool_of_name(dataset) != pool.name:
        raise NotFound(f"cannot create '{new_name}': it is not in the pool of '{printable(existing)}', '{pool.name}'")
    catalogue = pool._catalogue

    def planned() -> tuple[int, SnapshotRow | None]:
        root = pool.root(existing)
        if root is None:
            raise LaminaError(f"cannot tag '{existing}': it is empty")
        old = catalogue.find_snapshot(new_name)
        if old is not None and not force and (old.kind, old.root) != (IMAGE, root):
            hint = "it is another image; -f moves the tag" if old.kind == IMAGE else "dataset already exists"
            raise AlreadyExists(f"cannot create '{new_name}': {hint}")
        return root, find_tag(catalogue, new_name, "move")

    root, old = planned()
    if old is not None and old.root == root:
        return False
    guard = Guard(catalogue, pool._free())
    with pool._writer() as writer, catalogue.change(writer) as change:
        root, old = planned()
        if old is not None and old.root == root:
            return False
        add_missing(catalogue, change, dataset)
        row = catalogue.dataset(dataset)
        follows = row.head is None or (old is not None and row.follows == old.id)
        if old is not None:
            _let_go(pool, change, dataset, old)
        taken = _taken(catalogue, row.id, root)
        number = catalogue.add_snapshot(change, row.id, tag, IMAGE, root, taken)
        if follows:
            catalogue.set_head(change, row.id, root, number, taken)
        guard.check([dataset], f"cannot create '{new_name}'")
    return True


def _taken(catalogue: Catalogue, dataset: int, root: int) -> int:
    """Logical bytes that a tag takes in: nothing where its dataset has the tree already."""
    if catalogue.database.query("SELECT 1 FROM snapshot WHERE dataset = ? AND root = ? LIMIT 1", (dataset, root)):
        return 0
    rows = catalogue.database.query("SELECT data_bytes FROM tree WHERE root = ?", (root,))
    return int(rows[0][0]) if rows else 0


def remove_tag(pool: "Pool", name: str, *, dry_run: bool = False) -> DestroyPlan:
    """Destroy one image by its full name. Raises ``NotFound``, ``InvalidName``, ``Busy`` (holds, clones, mounts)."""
    return remove_tags(pool, [name], dry_run=dry_run)


def remove_tags(pool: "Pool", names: Sequence[str], *, dry_run: bool = False) -> DestroyPlan:
    """The same for several, all or none; the report says what the pool gets back."""
    for name in names:
        if "@" not in name:
            check_name(name, "destroy")
            raise InvalidName(f"cannot destroy '{name}': it is a dataset, not an image; 'lamina destroy' is for those")
        check_snapshot_name(name, "destroy")
        find_tag(pool._catalogue, name, "destroy")
    return pool.destroy_snapshots(list(dict.fromkeys(names)), dry_run=dry_run)
