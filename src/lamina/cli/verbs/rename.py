"""``lamina rename``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.pools import Pools
from lamina.cli.unmounting import unmount
from lamina.errors import InvalidName, UsageError
from lamina.pool.names import (
    check_dataset_name,
    check_name,
    check_snapshot_name,
    pool_of_name,
    printable,
    split_snapshot,
)


def run(arguments: Arguments) -> int:
    """Rename one dataset or snapshot."""
    if not arguments.operands:
        raise UsageError("missing source dataset argument")
    if len(arguments.operands) == 1:
        raise UsageError("missing target dataset argument")
    if len(arguments.operands) > 2:
        raise UsageError("too many arguments")
    old, new = arguments.operands
    recursive, parents = arguments.has("recursive"), arguments.has("parents")
    check_name(old)
    dataset, snapshot = split_snapshot(old)
    if snapshot is None:
        if recursive:
            raise UsageError("source dataset must be a snapshot when -r is given")
        check_dataset_name(new)
        if "/" not in new:
            raise InvalidName(f"cannot create '{new}': missing dataset name")
    else:
        if parents:
            raise UsageError("-p is not for snapshots: a snapshot stays in its dataset")
        if "@" not in new:
            # `rename tank/a@x y` and `rename tank/a@x @y` stay in the dataset.
            new = f"{dataset}@{new}"
        elif new.startswith("@"):
            new = dataset + new
        check_snapshot_name(new, "create")
        if split_snapshot(new)[0] != dataset:
            raise InvalidName(f"cannot rename to '{printable(new)}': snapshots must be part of same dataset")
    with Pools(write=True) as pools:
        pool = pools.of(old)
        if pool_of_name(new) != pool_of_name(old):
            pools.of(new, f"cannot create '{new}': no such pool '{pool_of_name(new)}'")
            raise InvalidName(f"cannot rename to '{new}': datasets must be within same pool")
        if arguments.has("force"):
            unmount(pool.rename(old, new, parents=parents, recursive=recursive, dry_run=True))
        pool.rename(old, new, parents=parents, recursive=recursive)
    return 0


COMMAND = Command(
    name="rename",
    synopsis=(
        "rename [-fpu] <dataset> <dataset>",
        "rename [-fr] <dataset>@<snapshot> <[dataset]@<snapshot>|snapshot>",
    ),
    summary="rename a dataset or a snapshot",
    description="""
Gives a dataset another name, which may be elsewhere in the same pool, or a snapshot another name in its dataset.
Everything below a dataset moves with it. No data is copied.""",
    options=(
        Option("p", "parents", "create the missing datasets above the new name"),
        Option("r", "recursive", "rename the snapshots of that name below as well"),
        Option("u", "unmounted", "accepted for scripts written for zfs: renaming never mounts again"),
        Option("f", "force", "unmount what is mounted first"),
    ),
    examples=(
        ("Move a dataset", "lamina rename tank/scratch tank/images/scratch"),
        ("A better tag", "lamina rename tank/images/pytorch@latest 2.8.0"),
    ),
    run=run,
    operands="dataset snapshot",
)
