"""Making and undoing mounts: mount(2) and umount2(2) for root, fusermount3 for everybody else."""

import errno
import os
import stat
from collections.abc import Sequence

from lamina.errors import Busy, MountError, NotFound
from lamina.mount.mountinfo import FSTYPE, Mount, mounts
from lamina.mount.options import MS_NOEXEC, MountOptions

_DEVICE = "/dev/fuse"
# Flags of umount2(2).
MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
_READ_AHEAD_KIB = 2048
"""What the kernel reads ahead of a sequential reader; its default is 128."""


def check_mountpoint(source: str, mountpoint: str) -> str:
    """The absolute path of a directory that ``source`` can be mounted on. Raises ``MountError``."""
    try:
        real = os.path.realpath(mountpoint)
        mode = os.stat(real).st_mode
    except FileNotFoundError:
        raise MountError(f"cannot mount '{mountpoint}': no such directory; create it first") from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountError(
                f"cannot mount '{mountpoint}': an earlier mount there has lost its server; "
                f"run: lamina umount {mountpoint}"
            ) from None
        raise MountError(f"cannot mount '{mountpoint}': {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise MountError(f"cannot mount '{mountpoint}': not a directory")
    for mount in mounts():
        if mount.mountpoint == real and mount.source == source:
            raise MountError(f"cannot mount '{source}': filesystem already mounted")
    return real


def attach(source: str, mountpoint: str, root_mode: int, options: MountOptions) -> int:
    """Mount, and return the descriptor to serve it from. Raises ``MountError``."""
    if os.geteuid() == 0:
        return _attach_root(source, mountpoint, root_mode, options)
    return _attach_user(source, mountpoint, options)


def _attach_root(source: str, mountpoint: str, root_mode: int, options: MountOptions) -> int:
    try:
        device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(
            f"cannot mount '{source}': {_DEVICE}: {error.strerror}; load the kernel module fuse, "
            f"or give the container the device (--device {_DEVICE})"
        ) from None
    data = f"fd={device},rootmode={root_mode:o},user_id={os.getuid()},group_id={os.getgid()},default_permissions"
    if options.allow_other:
        data += ",allow_other"
    code = _libc_mount(source, mountpoint, FSTYPE, options.flags, data)
    if code:
        os.close(device)
        hint = "; mounting needs CAP_SYS_ADMIN (--cap-add SYS_ADMIN for a container)" if code == errno.EPERM else ""
        raise MountError(f"cannot mount '{source}' on '{mountpoint}': {os.strerror(code)}{hint}")
    return device


def _libc_mount(source: str, target: str, fstype: str, flags: int, data: str) -> int:
    """mount(2); 0 or the errno."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    done: int = libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(fstype),
        ctypes.c_ulong(flags),
        ctypes.c_char_p(os.fsencode(data)),
    )
    return ctypes.get_errno() if done else 0


def _attach_user(source: str, mountpoint: str, options: MountOptions) -> int:
    import array
    import socket
    import subprocess

    # libfuse's fusermount3 takes "\" as the escape of "," in a value (util/fusermount.c).
    fsname = source.replace("\\", "\\\\").replace(",", "\\,")
    words = ["ro", "nosuid", "nodev", f"fsname={fsname}", "subtype=lamina", "default_permissions"]
    if options.flags & MS_NOEXEC:
        words.append("noexec")
    if options.allow_other:
        words.append("allow_other")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        try:
            done = subprocess.run(
                [_fusermount(), "-o", ",".join(words), "--", mountpoint],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
        except FileNotFoundError:
            raise MountError(
                f"cannot mount '{source}': fusermount3 is not installed; install the package fuse3, or mount as root"
            ) from None
        theirs.close()
        if done.returncode:
            raise MountError(f"cannot mount '{source}' on '{mountpoint}': {_first_line(done.stderr)}")
        _, controls, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
        for level, kind, body in controls:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                device = array.array("i", body[:4])[0]
                os.set_inheritable(device, False)
                return device
    raise MountError(f"cannot mount '{source}': fusermount3 did not hand over the device")


def _fusermount() -> str:
    import shutil

    return shutil.which("fusermount3") or shutil.which("fusermount") or "fusermount3"


def _first_line(text: bytes) -> str:
    from lamina.mount.log import printable

    lines = text.decode("utf-8", "backslashreplace").strip().splitlines()
    return printable(lines[0]) if lines else "fusermount3 failed without a message"


def raise_read_ahead(device: str, kib: int | None) -> None:
    """Let the kernel read more ahead on the mount with that ``major:minor``; without effect for whom it is refused.

    The INIT handshake cannot lift it above the default of 128 KiB.
    """
    try:
        with open(f"/sys/class/bdi/{device}/read_ahead_kb", "w", encoding="ascii") as file:
            file.write(str(_READ_AHEAD_KIB if kib is None else kib))
    except OSError:
        pass


def detach(mountpoint: str, *, force: bool = False, lazy: bool = False) -> None:
    """Unmount a path. Raises ``Busy`` or ``MountError``."""
    if os.geteuid() == 0:
        _detach_root(mountpoint, force=force, lazy=lazy)
    else:
        _detach_user(mountpoint, lazy=lazy or force)


def _detach_root(mountpoint: str, *, force: bool, lazy: bool) -> None:
    code = _umount2(mountpoint, UMOUNT_NOFOLLOW | (MNT_FORCE if force else 0) | (MNT_DETACH if lazy else 0))
    if code == errno.EBUSY and force:
        # The connection is cut, so that what is still open fails; the place in the tree is freed now.
        code = _umount2(mountpoint, UMOUNT_NOFOLLOW | MNT_DETACH)
    if code == errno.EBUSY:
        raise Busy(f"cannot unmount '{mountpoint}': pool or dataset is busy")
    if code == errno.EINVAL:
        raise MountError(f"cannot unmount '{mountpoint}': not currently mounted")
    if code:
        raise MountError(f"cannot unmount '{mountpoint}': {os.strerror(code)}")


def _umount2(mountpoint: str, flags: int) -> int:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.umount2(os.fsencode(mountpoint), flags) else 0


def _detach_user(mountpoint: str, *, lazy: bool) -> None:
    import subprocess

    command = [_fusermount(), "-u", *(["-z"] if lazy else []), "--", mountpoint]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise MountError(f"cannot unmount '{mountpoint}': fusermount3 is not installed") from None
    if done.returncode:
        text = _first_line(done.stderr)
        if "busy" in text.lower():
            raise Busy(f"cannot unmount '{mountpoint}': pool or dataset is busy")
        raise MountError(f"cannot unmount '{mountpoint}': {text}")


def find_mount(what: str) -> Mount:
    """The mount meant by a mount point or by the name of what is mounted. Raises ``NotFound`` or ``MountError``."""
    known = mounts()
    # A mount whose server is gone cannot be stat'ed: only the directory above is resolved.
    head, tail = os.path.split(os.path.abspath(what))
    path = os.path.join(os.path.realpath(head), tail) if tail else os.path.realpath(head)
    for mount in reversed(known):
        if mount.mountpoint in (path, what):
            return mount
    named = [mount for mount in known if mount.source == what]
    if not named:
        named = [mount for mount in known if mount.mountpoint == os.path.realpath(what)]
    if not named:
        raise NotFound(f"cannot unmount '{what}': not currently mounted")
    if len(named) > 1:
        places = ", ".join(f"'{mount.mountpoint}'" for mount in named)
        raise MountError(f"cannot unmount '{what}': it is mounted on {places}; name one of these")
    return named[0]


def wait_for_end(pids: Sequence[int], seconds: float) -> bool:
    """Wait until servers have ended, so that what they held in the pool is free. False when one has not."""
    import time

    until = time.monotonic() + seconds
    for pid in pids:
        while _alive(pid):
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
    return True


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
