"""``lamina destroy``."""

from collections.abc import Iterable

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain
from lamina.cli.pools import Pools
from lamina.errors import Busy, NotFound, UsageError
from lamina.pool.names import check_name, printable, split_snapshot
from lamina.pool.units import format_size


def run(arguments: Arguments) -> int:
    """Destroy one dataset, or one or more snapshots of one dataset."""
    if not arguments.operands:
        raise UsageError("missing dataset argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    name = arguments.operands[0]
    recursive, dry_run = arguments.has("recursive"), arguments.has("dry-run")
    check_name(name, "destroy")
    dataset, snapshot = split_snapshot(name)
    with Pools(write=not dry_run) as pools:
        pool = pools.of(name)
        if snapshot is not None and pool.exists(dataset) and not pool.exists(name) and not recursive:
            raise NotFound(
                f"cannot open '{printable(name)}': snapshot does not exist; 'lamina list -t snapshot "
                f"{printable(dataset)}' shows those that do"
            )
        try:
            if arguments.has("verbose") or arguments.has("parsable") or dry_run:
                plan = pool.destroy(name, recursive=recursive, dry_run=True)
                _print_plan(arguments, plan.names, plan.reclaim)
            if not dry_run:
                pool.destroy(name, recursive=recursive)
        except Busy as error:
            # What is in the way is named, one a line.
            for line in str(error).split("\n"):
                complain(line)
            return error.exit_status
    return 0


def _print_plan(arguments: Arguments, names: Iterable[str], reclaim: int) -> None:
    dry_run = arguments.has("dry-run")
    if arguments.has("parsable"):
        for one in names:
            print(f"destroy\t{one}")
        print(f"reclaim\t{reclaim}")
    elif arguments.has("verbose"):
        would = "would" if dry_run else "will"
        for one in names:
            print(f"{would} destroy {one}")
        print(f"{would} reclaim {format_size(reclaim)}")


COMMAND = Command(
    name="destroy",
    synopsis=("destroy [-fnprv] <dataset>", "destroy [-nprv] <dataset>@<snapshot>"),
    summary="destroy a dataset or a snapshot",
    description="""
Destroys a dataset or a snapshot; an image is a snapshot. There is no way back.

A dataset that has children or snapshots is destroyed only with -r. 'lamina destroy -nv' says what would go and what
the pool would get back: space that other images share is not counted.""",
    options=(
        Option("r", "recursive", "also destroy everything below; of a snapshot: the snapshots of that name below"),
        Option("n", "dry-run", "change nothing; with -v or -p say what would be destroyed"),
        Option("v", "verbose", "say what is destroyed and how much space that gives back"),
        Option("p", "parsable", "say it for scripts: columns separated by one tab, bytes"),
        Option("f", "force", "accepted for scripts written for zfs; what is mounted must be unmounted first"),
    ),
    examples=(
        ("What would it give back?", "lamina destroy -nv tank/images/pytorch@2.5.1"),
        ("A dataset with all its images", "lamina destroy -r tank/images/old"),
    ),
    run=run,
    operands="dataset snapshot",
)
