"""``lamina clone``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.pools import Pools
from lamina.cli.verbs.set import parse_assignments
from lamina.errors import InvalidName, UsageError
from lamina.pool.names import check_dataset_name, check_snapshot_name, pool_of_name


def run(arguments: Arguments) -> int:
    """Clone one snapshot."""
    if not arguments.operands:
        raise UsageError("missing source dataset argument")
    if len(arguments.operands) == 1:
        raise UsageError("missing target dataset argument")
    if len(arguments.operands) > 2:
        raise UsageError("too many arguments")
    snapshot, dataset = arguments.operands
    properties = parse_assignments(arguments.values("property"))
    check_snapshot_name(snapshot, "open")
    check_dataset_name(dataset)
    with Pools(write=True) as pools:
        pool = pools.of(snapshot)
        if pool_of_name(dataset) != pool_of_name(snapshot):
            pool.entry(snapshot)
            pools.of(dataset, f"cannot create '{dataset}': no such pool '{pool_of_name(dataset)}'")
            raise InvalidName(f"cannot create '{dataset}': source and target pools differ")
        pool.clone(snapshot, dataset, properties, parents=arguments.has("parents"))
    return 0


COMMAND = Command(
    name="clone",
    synopsis=("clone [-pu] [-o property=value] ... <dataset>@<snapshot> <dataset>",),
    summary="make a dataset that begins as a snapshot",
    description="""
Makes a dataset whose content is that of a snapshot. It takes no space until it changes, and it is done at once,
whatever the size.

The snapshot is the clone's origin: it cannot be destroyed while the clone is there. 'lamina promote' turns that
round.""",
    options=(
        Option("p", "parents", "also create the missing datasets above; a dataset that exists already is no error"),
        Option("o", "property", "set a property; can be given more than once", "property=value", "assignment"),
        Option("u", "unmounted", "accepted for scripts written for zfs: cloning never mounts"),
    ),
    examples=(
        ("Try something on an image", "lamina clone tank/images/pytorch@2.8.0 tank/containers/exp1"),
        ("Which clones are there of a snapshot?", "lamina get clones tank/images/pytorch@2.8.0"),
    ),
    run=run,
    operands="all-snapshots dataset",
    shows_properties=True,
)
