"""``lamina rollback``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import refuse
from lamina.cli.pools import Pools
from lamina.cli.unmounting import unmount
from lamina.errors import Busy, UsageError
from lamina.pool.names import check_snapshot_name, split_snapshot


def run(arguments: Arguments) -> int:
    """Roll one dataset back."""
    if not arguments.operands:
        raise UsageError("missing dataset argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    name = arguments.operands[0]
    check_snapshot_name(name, "open")
    newer, clones = arguments.has("newer"), arguments.has("clones")
    with Pools(write=True) as pools:
        pool = pools.of(name)
        try:
            if arguments.has("force"):
                names = pool.rollback(name, destroy_newer=newer, destroy_clones=clones, dry_run=True)
                unmount([split_snapshot(name)[0], *names])
            pool.rollback(name, destroy_newer=newer, destroy_clones=clones)
        except Busy as error:
            return refuse(error)
    return 0


COMMAND = Command(
    name="rollback",
    synopsis=("rollback [-rRf] <dataset>@<snapshot>",),
    summary="take a dataset back to a snapshot",
    description="""
Makes a dataset what it was when the snapshot was taken. What was changed since is lost, unless a snapshot keeps it.

Without -r it must be the newest snapshot: newer ones, and bookmarks of them, are in the way, and -r destroys them.
Clones of newer snapshots need -R. The datasets below are left as they are.""",
    options=(
        Option("r", "newer", "destroy the snapshots and bookmarks that are newer"),
        Option("R", "clones", "destroy these, and all clones of them with everything that depends on those"),
        Option("f", "force", "unmount the dataset, and what is destroyed, first"),
    ),
    examples=(
        ("After an experiment", "lamina rollback tank/datasets@before"),
        ("Although there are newer snapshots", "lamina rollback -r tank/datasets@before"),
    ),
    run=run,
    operands="all-snapshots",
)
