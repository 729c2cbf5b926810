"""lamina's own FUSE server: snapshots, datasets and whole pools as read-only file systems.

>>> from lamina.mount import mount, mounts, umount
>>> mount("tank", "tank/images/pytorch@2.8.0", "/mnt/img")          # doctest: +SKIP
>>> umount("/mnt/img")                                               # doctest: +SKIP
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.mount.mountinfo import Mount, mounts

if TYPE_CHECKING:
    from lamina.mount.namespace import Source

__all__ = ["Mount", "mount", "mounts", "umount"]

_END_SECONDS = 5.0


def mount(
    pool: str | Path,
    name: str,
    mountpoint: str | Path,
    *,
    options: Sequence[str] = (),
    foreground: bool = False,
    whole_pool: bool = False,
    log_path: str | Path | None = None,
) -> None:
    """Mount a snapshot, a dataset (its head, with ``.zfs/snapshot``) or, with ``whole_pool``, every snapshot of a pool.

    ``pool`` is the pool's name or path, ``options`` are words of mount(8). Returns once the mount answers, and leaves
    a daemon that serves it; with ``foreground`` it serves in this process and returns after the unmount.
    Raises ``MountError``, ``UsageError``, ``NotFound`` and what opening the pool raises.
    """

    def open_source() -> "Source":
        from lamina.pool.collecting.pinning import open_pinned

        source: Source = open_pinned(pool)
        return source

    from lamina.mount.control import check_mountpoint
    from lamina.mount.daemon import MountJob
    from lamina.mount.options import parse_options

    parsed = parse_options(options, root=os.geteuid() == 0)
    where = check_mountpoint(name, os.fspath(mountpoint))
    log = None if log_path is None else Path(os.path.abspath(log_path))
    job = MountJob(open_source, name, where, parsed, whole_pool=whole_pool, log_path=log)
    if foreground:
        job.run()
    else:
        job.run_detached()


def umount(what: str | Path, *, force: bool = False, lazy: bool = False) -> None:
    """Unmount by mount point or by the name of what is mounted there.

    ``lazy`` frees the place in the tree now and the rest when the last file is closed; ``force`` also cuts off what is
    still open. Returns when the server has ended. Raises ``Busy``, ``NotFound`` and ``MountError``.
    """
    from lamina.mount.control import detach, find_mount, wait_for_end

    found = find_mount(os.fspath(what))
    detach(found.mountpoint, force=force, lazy=lazy)
    if found.pid is not None and not lazy:
        wait_for_end([found.pid], _END_SECONDS)
