"""Mount options: the words after ``-o``, as mount(8) has them."""

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.errors import UsageError

# Flags of mount(2), <linux/mount.h>.
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_NODIRATIME = 2048
MS_NOATIME = 1024
MS_NOSYMFOLLOW = 256
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24

_SET = {
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "nosymfollow": MS_NOSYMFOLLOW,
    "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
}
_CLEAR = {
    "suid": MS_NOSUID,
    "dev": MS_NODEV,
    "exec": MS_NOEXEC,
    "atime": MS_NOATIME,
    "diratime": MS_NODIRATIME,
    "symfollow": MS_NOSYMFOLLOW,
    "norelatime": MS_RELATIME,
    "nostrictatime": MS_STRICTATIME,
}
_NOTHING = frozenset(("ro", "defaults", "async", "default_permissions", "auto", "noauto", "user", "nouser", "_netdev"))
_ROOT_ONLY = frozenset(("suid", "dev"))


@dataclass(slots=True)
class MountOptions:
    """What the options of a mount come to. Always read-only, and the kernel always checks permissions."""

    flags: int = MS_RDONLY
    allow_other: bool = False
    posix_acl: bool = False
    read_ahead_kib: int | None = None
    cache_mib: int | None = None
    words: tuple[str, ...] = ()
    """The words to hand to fusermount3."""


def parse_options(options: Sequence[str], *, root: bool) -> MountOptions:
    """Read ``-o`` values, each one or several words with commas between; a later word overrides an earlier one.

    Root's mounts have ``dev``, ``suid``, ``exec`` and ``allow_other`` unless told otherwise, as a file system of
    mount(8) has: a container image must run from them for every user. Others get ``nodev`` and ``nosuid`` from
    fusermount3 whatever they say. Raises ``UsageError``.
    """
    found = MountOptions(allow_other=root)
    handed: dict[str, None] = {}
    for word in (w.strip() for option in options for w in option.split(",")):
        if not word or word in _NOTHING or word.startswith("x-"):
            continue
        name, has_value, value = word.partition("=")
        if word in _ROOT_ONLY and not root:
            raise UsageError(f"option '{word}' is for root only: mount as root, or leave it out")
        if word in _SET:
            found.flags |= _SET[word]
            handed[word] = None
        elif word in _CLEAR:
            found.flags &= ~_CLEAR[word]
            handed = {w: None for w in handed if _SET.get(w) != _CLEAR[word]}
        elif word == "allow_other":
            found.allow_other = True
        elif word == "noallow_other":
            found.allow_other = False
        elif word == "acl":
            found.posix_acl = True
        elif word == "noacl":
            found.posix_acl = False
        elif word == "rw":
            raise UsageError("option 'rw': this version of lamina mounts read-only; leave the option out")
        elif name == "read_ahead_kb" and has_value:
            found.read_ahead_kib = _number(name, value, 0, 1 << 20)
        elif name == "cache_mb" and has_value:
            found.cache_mib = _number(name, value, 1, 1 << 20)
        else:
            raise UsageError(f"unknown mount option '{_shown(word)}'; known are {', '.join(known_options())}")
    found.words = tuple(handed)
    return found


def known_options() -> list[str]:
    """Every option that changes something, for messages and completion."""
    return sorted(
        (
            *(*_SET, *_CLEAR, "ro", "defaults", "default_permissions", "allow_other", "noallow_other", "acl", "noacl"),
            *("read_ahead_kb=KIB", "cache_mb=MIB"),
        )
    )


def _number(name: str, value: str, low: int, high: int) -> int:
    if value.isascii() and value.isdigit() and low <= int(value[:12]) <= high:
        return int(value)
    raise UsageError(f"option '{name}' takes a number from {low} to {high}, not '{_shown(value)}'")


def _shown(word: str) -> str:
    return word.encode("unicode_escape").decode("ascii")
