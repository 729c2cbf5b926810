"""What can be done with names that share trees: the part of ``Pool`` for snapshots, clones, holds and destroying.

Each method is the face of a function in a module of its own, which is imported when it is first called.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from lamina.pool.reports import DestroyPlan

if TYPE_CHECKING:
    from lamina.pool.lineage.holds import Hold
    from lamina.pool.pool import Pool

Names = list[str]


class Lineage:
    """The base of ``Pool``, and of nothing else."""

    @property
    def _whole(self) -> "Pool":
        return cast("Pool", self)

    def destroy(
        self,
        name: str,
        *,
        recursive: bool = False,
        clones: bool = False,
        defer: bool = False,
        dry_run: bool = False,
        measure: bool | None = None,
    ) -> DestroyPlan:
        """Destroy a dataset, snapshots or a bookmark (``dataset#name``).

        Snapshots are ``dataset@name``, several names with commas between them, or ranges, ``dataset@first%last``, of
        which either end may be missing. ``recursive``: also the snapshots and datasets below; of snapshots, those of
        the same names in all datasets below. ``clones``: also all clones, wherever they are, with all that depends on
        them. ``defer``: a snapshot that is held or cloned goes with its last hold or clone. ``measure``: find out what
        the pool gets back, which takes longer; unless told, that is done for a ``dry_run`` only.

        Raises ``NotFound``, ``InvalidName``, ``Busy`` (children, clones, holds, mounts).
        """
        from lamina.pool.lineage.destroying import destroy

        measure = dry_run if measure is None else measure
        return destroy(
            self._whole, name, recursive=recursive, clones=clones, defer=defer, dry_run=dry_run, measure=measure
        )

    def destroy_snapshots(
        self, names: Sequence[str], *, dry_run: bool = False, defer: bool = False, measure: bool = True
    ) -> DestroyPlan:
        """Destroy many snapshots by full name, all or none. Raises ``NotFound``, ``InvalidName``, ``Busy``."""
        from lamina.pool.lineage.destroying import destroy_snapshots

        return destroy_snapshots(self._whole, names, dry_run=dry_run, defer=defer, measure=measure)

    def rename(
        self, old: str, new: str, *, parents: bool = False, recursive: bool = False, dry_run: bool = False
    ) -> Names:
        """Rename a dataset with all below it, or a snapshot within its dataset (``recursive``: below it too).

        Returns the old names of what moves. Raises ``NotFound``, ``AlreadyExists``, ``InvalidName``, ``Busy``.
        """
        from lamina.pool.lineage.renaming import rename

        return rename(self._whole, old, new, parents=parents, recursive=recursive, dry_run=dry_run)

    def snapshot(
        self, names: Sequence[str], *, recursive: bool = False, properties: Mapping[str, str] | None = None
    ) -> Names:
        """Take snapshots of heads, all at one moment or none; ``recursive``: of all datasets below too.

        ``properties`` are user properties. Returns the full names. Raises ``NotFound``, ``AlreadyExists`` (a line for
        each), ``InvalidName``, ``PropertyError``.
        """
        from lamina.pool.lineage.snapshots import snapshot

        return snapshot(self._whole, names, recursive=recursive, properties=properties or {})

    def rollback(
        self, name: str, *, destroy_newer: bool = False, destroy_clones: bool = False, dry_run: bool = False
    ) -> Names:
        """Take the head of a dataset back to a snapshot.

        Newer snapshots and bookmarks are in the way: ``destroy_newer`` destroys them, ``destroy_clones`` also the
        clones of these. Returns the names of what goes. Raises ``NotFound``, ``InvalidName``, ``Busy``.
        """
        from lamina.pool.lineage.snapshots import rollback

        return rollback(self._whole, name, destroy_newer=destroy_newer, destroy_clones=destroy_clones, dry_run=dry_run)

    def clone(
        self, snapshot: str, dataset: str, properties: Mapping[str, str] | None = None, *, parents: bool = False
    ) -> Names:
        """Make a dataset that begins as a snapshot; ``parents``: with those missing above. Returns the names made.

        Raises ``NotFound``, ``AlreadyExists``, ``InvalidName``, ``PropertyError``.
        """
        from lamina.pool.lineage.clones import clone

        return clone(self._whole, snapshot, dataset, properties or {}, parents=parents)

    def promote(self, dataset: str, *, dry_run: bool = False) -> Names:
        """Make a clone the owner of its origin and the snapshots before it; what was cloned becomes its clone.

        Returns the old names of the snapshots that move. Raises ``NotFound``, ``AlreadyExists`` (a snapshot's name is
        taken), ``LaminaError`` (no clone).
        """
        from lamina.pool.lineage.clones import promote

        return promote(self._whole, dataset, dry_run=dry_run)

    def hold(self, tag: str, names: Sequence[str], *, recursive: bool = False) -> None:
        """Put a hold on snapshots, all or none; ``recursive``: on those of the same names below too.

        A held snapshot cannot be destroyed. Raises ``NotFound``, ``AlreadyExists`` (the tag), ``InvalidName``.
        """
        from lamina.pool.lineage.holds import hold

        hold(self._whole, tag, names, recursive=recursive)

    def release(self, tag: str, names: Sequence[str], *, recursive: bool = False) -> None:
        """Take holds away, all or none; a snapshot whose destruction was deferred goes with its last.

        Raises ``NotFound``, ``LaminaError`` (no such tag).
        """
        from lamina.pool.lineage.holds import release

        release(self._whole, tag, names, recursive=recursive)

    def holds(self, names: Sequence[str], *, recursive: bool = False) -> "Sequence[Hold]":
        """The holds on snapshots, by name and tag. Raises ``NotFound``, ``InvalidName``."""
        from lamina.pool.lineage.holds import holds

        return holds(self._whole, names, recursive=recursive)

    def bookmark(self, source: str, name: str) -> None:
        """Make a bookmark ``dataset#name`` of a snapshot or of another bookmark: it outlives the snapshot.

        Raises ``NotFound``, ``AlreadyExists``, ``InvalidName``, ``LaminaError`` (of another dataset).
        """
        from lamina.pool.lineage.bookmarks import bookmark

        bookmark(self._whole, source, name)
