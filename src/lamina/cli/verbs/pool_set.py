"""``lamina pool set``."""

from lamina.cli.command import Arguments, Command
from lamina.cli.typed import command
from lamina.cli.verbs.set import parse_assignments
from lamina.errors import UsageError


def run(arguments: Arguments) -> int:
    """Set a property of a pool."""
    words = arguments.operands
    if not words:
        raise UsageError("missing property=value argument")
    if len(words) == 1:
        raise UsageError("missing pool name")
    if len(words) > 2:
        raise UsageError("too many pool names")
    from lamina.pool import Pool

    properties = parse_assignments(words[:1])
    with Pool.open(words[1], write=True) as pool:
        pool.command = command()
        pool.set_own_properties(properties)
    return 0


COMMAND = Command(
    name="pool set",
    synopsis=("pool set <property=value> <pool>",),
    summary="set a property of a pool",
    description="""
Sets a property of the pool itself. Properties of datasets are set with 'lamina set'. An empty value takes it away.

  comment  up to 32 printable ASCII characters, shown by 'lamina pool get' and 'pool import'
  images   where 'lamina image pull' puts what is not told where to go (default: tank/images)""",
    examples=(
        ("Note what it is for", "lamina pool set comment='team vision' tank"),
        ("Pull images to another place", "lamina pool set images=tank/registry tank"),
    ),
    run=run,
    operands="pool",
)
