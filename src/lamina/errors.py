"""The one tree of exceptions. Every message is a single line that says what to do next.

``exit_status`` is what the command line ends with: 1 for an operation that failed, 2 for wrong usage
(the classes OpenZFS uses). ``errno`` is what the FUSE server answers where the error reaches a mount.
"""

import errno


class LaminaError(Exception):
    """Base of all errors that lamina raises on purpose."""

    exit_status = 1
    errno = errno.EIO
    uncertain = False
    """Whether what failed may turn out to be done: a commit is in the log, but was not said to be on the disk."""


class UsageError(LaminaError):
    """The words typed make no command: exit status 2."""

    exit_status = 2
    errno = errno.EINVAL


class InvalidName(LaminaError):
    """A pool, dataset or snapshot name that OpenZFS's rules refuse."""

    errno = errno.EINVAL


class PropertyError(LaminaError):
    """An unknown property, a read-only one, or a value it does not take."""

    errno = errno.EINVAL


class NotFound(LaminaError):
    """A pool, dataset, snapshot, path or inode that does not exist."""

    errno = errno.ENOENT


class AlreadyExists(LaminaError):
    """A name that is taken."""

    errno = errno.EEXIST


class Busy(LaminaError):
    """Something is mounted, locked or has dependants."""

    errno = errno.EBUSY


class AccessDenied(LaminaError):
    """The caller may not read or write the pool."""

    errno = errno.EACCES


class UnsupportedPool(LaminaError):
    """A pool of a newer version, with unknown features, or a directory that is no pool."""


class DamagedMarker(UnsupportedPool):
    """``pool.json`` makes no sense: recovery writes it anew."""


class NoSpace(LaminaError):
    """The disk is full; the pool stays as it was at the last commit."""

    errno = errno.ENOSPC


class DamagedData(LaminaError):
    """Stored bytes do not match their checksum, are cut short or are missing. Never returned as data."""


class SourceError(LaminaError):
    """The input of an import cannot be taken: a damaged tar, a member outside the tree, a vanished root."""


class MountError(LaminaError):
    """A mount could not be made or undone."""


class StreamError(LaminaError):
    """A stream that is cut, changed, of another kind, or does not fit the pool: nothing of it was kept."""
