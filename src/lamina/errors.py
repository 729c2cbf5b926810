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


class MissingObjects(StreamError):
    """A stream that came whole, and with it not all that a snapshot needs: a sender that thought some were there."""


class ConnectionLost(LaminaError):
    """The other side of a sync went away before its end: what has come is kept, another try goes on from there."""


class FarError(LaminaError):
    """What the other side of a sync refused with, in its own words."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        """``again``: it may go well if everything is asked about in full."""
        super().__init__(message)
        self.again = again


class OciError(LaminaError):
    """A container image, or what holds it, that cannot be taken: damaged, of an unknown kind, not what was asked."""


class RegistryError(OciError):
    """A registry that cannot be reached, refuses, or answers what it should not. ``status``: HTTP's, if it answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AuthError(RegistryError):
    """A registry wants to know who asks, or does not let this user do it."""

    errno = errno.EACCES


class Disconnected(RegistryError):
    """The way to a registry failed or broke before an answer was whole: the same may work a moment later."""


class NotTls(RegistryError):
    """A registry that answers, but does not speak TLS."""
