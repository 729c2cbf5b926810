"""``lamina promote``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.pools import Pools
from lamina.cli.unmounting import unmount
from lamina.errors import UsageError
from lamina.pool.names import check_dataset_name


def run(arguments: Arguments) -> int:
    """Promote one clone."""
    if not arguments.operands:
        raise UsageError("missing clone filesystem argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    name = arguments.operands[0]
    check_dataset_name(name, "open")
    with Pools(write=True) as pools:
        pool = pools.of(name)
        if arguments.has("force"):
            unmount(pool.promote(name, dry_run=True))
        pool.promote(name)
    return 0


COMMAND = Command(
    name="promote",
    synopsis=("promote [-f] <clone>",),
    summary="make a clone the owner of the snapshots it comes from",
    description="""
Moves a clone's origin, and the snapshots before it, to the clone. The dataset that was cloned becomes a clone of it
and can then be destroyed. Snapshots keep their guid, creation, properties and holds; bookmarks stay where they are.

Refused while the clone has a snapshot of the name of one that would move: rename one of the two first.""",
    options=(Option("f", "force", "unmount the snapshots that move first"),),
    examples=(
        ("Keep the experiment, drop what it came from", "lamina promote tank/containers/exp1"),
        ("What does it come from now?", "lamina get origin tank/images/pytorch"),
    ),
    run=run,
    operands="dataset",
)
