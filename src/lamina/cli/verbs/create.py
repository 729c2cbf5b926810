"""``lamina create``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.pools import Pools
from lamina.cli.verbs.set import parse_assignments
from lamina.errors import UsageError
from lamina.pool.names import check_dataset_name, pool_of_name, printable


def run(arguments: Arguments) -> int:
    """Create one dataset."""
    if not arguments.operands:
        raise UsageError("missing filesystem argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    name = arguments.operands[0]
    properties = parse_assignments(arguments.values("property"))
    check_dataset_name(name)
    dry_run, parents = arguments.has("dry-run"), arguments.has("parents")
    absent = f"cannot create '{name}': no such pool '{pool_of_name(name)}'"
    with Pools(write=not dry_run) as pools:
        made = pools.of(name, absent).create_dataset(name, properties, parents=parents, dry_run=dry_run)
    if arguments.has("parsable"):
        for one in made:
            print(f"create\t{one}")
            _print_properties(one == name, properties, "property\t{}\t{}")
    elif arguments.has("verbose"):
        for one in made:
            print(f"{'would create' if dry_run else 'create'} {one}")
            _print_properties(one == name, properties, "\t{}={}")
    return 0


def _print_properties(own: bool, properties: dict[str, str], form: str) -> None:
    # Parents that -p makes get no properties of their own: they inherit.
    for key, value in properties.items() if own else ():
        print(printable(form.format(key, value)).replace("\\t", "\t"))


COMMAND = Command(
    name="create",
    synopsis=("create [-Pnpuv] [-o property=value] ... <dataset>",),
    summary="create a dataset",
    description="""
Creates a dataset, such as tank/images. Its properties are inherited from the datasets above it unless -o sets them.

Nothing is mounted. 'lamina image import' creates the datasets it needs by itself.""",
    options=(
        Option("p", "parents", "also create the missing datasets above; a dataset that exists already is no error"),
        Option("o", "property", "set a property; can be given more than once", "property=value", "assignment"),
        Option("n", "dry-run", "change nothing; say with -v what would be done"),
        Option("v", "verbose", "say what is created"),
        Option("P", "parsable", "say it for scripts: columns separated by one tab"),
        Option("u", "unmounted", "accepted for scripts written for zfs: creating never mounts"),
    ),
    examples=(
        ("A dataset for images, compressed well", "lamina create -o compression=zstd-9 tank/images"),
        ("With everything above it", "lamina create -p tank/teams/vision/images"),
    ),
    run=run,
    operands="dataset",
    shows_properties=True,
)
