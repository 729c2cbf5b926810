"""Unmounting what a verb with ``-f`` is about to move or destroy."""

from collections.abc import Iterable


def unmount(names: Iterable[str]) -> None:
    """Unmount those of these datasets and snapshots that are mounted, by force. Raises ``MountError``, ``Busy``."""
    from lamina.mount import mounts, umount

    wanted = set(names)
    # The last mount first: one may lie below another.
    for one in reversed(mounts()):
        if one.source in wanted:
            umount(str(one.mountpoint), force=True)
