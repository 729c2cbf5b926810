"""``lamina mount``."""

import os
from pathlib import Path

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import complain, print_json
from lamina.cli.pools import Pools
from lamina.errors import LaminaError, MountError, NotFound, UsageError
from lamina.pool.names import check_name, pool_of_name, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import Pool


def run(arguments: Arguments) -> int:
    """Mount something, or list what is mounted."""
    operands = arguments.operands
    if arguments.has("all"):
        if operands:
            raise UsageError("too many arguments")
        if arguments.has("foreground"):
            raise UsageError("-a and -f exclude each other: one process serves one mount")
        return _mount_all(arguments)
    if arguments.has("pool"):
        if len(operands) != 2:
            raise UsageError("-R needs a pool and a directory")
        return _mount(arguments, operands[0], operands[1], whole_pool=True)
    if not operands:
        return _list(arguments)
    if len(operands) > 2:
        raise UsageError("too many arguments")
    return _mount(arguments, operands[0], operands[1] if len(operands) == 2 else None)


def _list(arguments: Arguments) -> int:
    from lamina.mount import mounts

    found = mounts()
    if arguments.has("json"):
        documents = [{"filesystem": one.source, "mountpoint": str(one.mountpoint), "pid": one.pid} for one in found]
        print_json("mount", {"mounts": documents})
    else:
        for one in found:
            print(f"{printable(one.source):<30}  {printable(str(one.mountpoint))}")
    return 0


def _mount(arguments: Arguments, name: str, directory: str | None, *, whole_pool: bool = False) -> int:
    check_name(name)
    # The pool is closed before the server starts: it forks, and opens the pool for itself.
    with Pools() as pools:
        pool = pools.of(name)
        if whole_pool and name != pool_of_name(name):
            raise UsageError(f"-R mounts a whole pool: '{name}' is a dataset or a snapshot")
        if not pool.exists(name):
            raise NotFound(f"cannot open '{printable(name)}': dataset does not exist")
        path = pool.path
        mountpoint = _own_mountpoint(pool, name) if directory is None else Path(directory)
    if directory is None:
        _check_unmounted(name)
        _make(name, mountpoint)
    _serve(arguments, path, name, mountpoint, whole_pool)
    return 0


def _serve(arguments: Arguments, pool: Path, name: str, mountpoint: Path, whole_pool: bool = False) -> None:
    from lamina.mount import mount

    mount(
        pool,
        name,
        mountpoint,
        options=[option for option in arguments.lists("options") if option],
        foreground=arguments.has("foreground"),
        whole_pool=whole_pool,
        log_path=arguments.value("log"),
    )


def _own_mountpoint(pool: "Pool", name: str) -> Path:
    if "@" in name:
        raise UsageError(f"missing directory to mount '{name}' on")
    value = pool.get(name, ["mountpoint"])["mountpoint"].value
    if value in (None, "none"):
        raise MountError(
            f"cannot mount '{name}': no mountpoint set; name a directory, or run 'lamina set mountpoint=DIR {name}'"
        )
    if value == "legacy":
        raise MountError(f"cannot mount '{name}': legacy mountpoint; name a directory to mount it on")
    return Path(str(value))


def _check_unmounted(name: str) -> None:
    from lamina.mount import mounts

    if any(one.source == name for one in mounts()):
        raise MountError(f"cannot mount '{name}': filesystem already mounted")


def _make(name: str, mountpoint: Path) -> None:
    try:
        mountpoint.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MountError(
            f"cannot mount '{name}': failed to create mountpoint '{printable(os.fspath(mountpoint))}': {error.strerror}"
        ) from None


def _mount_all(arguments: Arguments) -> int:
    from lamina.mount import mounts

    failed = False
    jobs: list[tuple[Path, str, Path]] = []
    with Pools() as pools:
        for pool in pools.everything():
            if isinstance(pool, LaminaError):
                complain(str(pool))
                failed = True
                continue
            entries = pool.list([pool.name], recursive=True, types=("filesystem",))
            for entry, values in zip(entries, pool.get_many(entries, ["mountpoint", "referenced"]), strict=True):
                value = values["mountpoint"].value
                # A dataset that only holds others would cover their mount points with an empty, read-only directory.
                if isinstance(value, str) and value not in ("none", "legacy") and values["referenced"].value:
                    jobs.append((pool.path, entry.name, Path(value)))
    mounted = {one.source for one in mounts()}
    for path, name, mountpoint in jobs:
        if name in mounted:
            continue
        try:
            _make(name, mountpoint)
            _serve(arguments, path, name, mountpoint)
        except LaminaError as error:
            complain(str(error))
            failed = True
    return 1 if failed else 0


COMMAND = Command(
    name="mount",
    synopsis=(
        "mount [-j]",
        "mount [-f] [-o option[,...]] [-L file] <dataset>@<snapshot> <directory>",
        "mount [-f] [-o option[,...]] [-L file] <dataset> [directory]",
        "mount [-f] [-o option[,...]] [-L file] -R <pool> <directory>",
        "mount [-o option[,...]] -a",
    ),
    summary="mount a snapshot, a dataset or a whole pool; list mounts",
    description="""
Without operands it lists what is mounted.

Mounts a snapshot (an image is one) on a directory, for reading. A dataset is mounted with its newest content, on the
directory named or on its property mountpoint; its snapshots are then found in .zfs/snapshot. -R mounts a whole pool:
every dataset is a directory, with every snapshot below it.

A process in the background serves the mount until 'lamina umount'. It needs no root: fusermount3 does what a user may
not.

What a mount has shown stays readable until it is unmounted, even if it is destroyed; its space comes back then. A user
who may not write to the pool mounts without that: what is destroyed under such a mount cannot be read any more once it
is freed.""",
    options=(
        Option(
            "o",
            "options",
            "mount options, as of mount(8): allow_other, dev, suid, exec, atime and their no... forms, and others",
            "option[,...]",
            "=allow_other noallow_other dev nodev suid nosuid exec noexec acl ro",
        ),
        Option("f", "foreground", "stay in the foreground; Ctrl-C unmounts"),
        Option("a", "all", "mount every dataset that has a mountpoint and holds something"),
        Option("R", "pool", "mount a whole pool"),
        Option("L", "log", "write what goes wrong in the server to this file", "file", "path"),
        JSON,
    ),
    examples=(
        ("Run from an image", "lamina mount tank/images/pytorch@2.8.0 /mnt/img"),
        ("For everybody on the machine", "lamina mount -o allow_other tank/images/pytorch@2.8.0 /mnt/img"),
        ("All images at once", "lamina mount -R tank /mnt/tank"),
    ),
    run=run,
    operands="dataset snapshot path",
)
