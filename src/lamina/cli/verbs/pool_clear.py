"""``lamina pool clear``."""

from lamina.cli.command import Arguments, Command
from lamina.errors import UsageError


def run(arguments: Arguments) -> int:
    """Forget the counts of errors of one pool."""
    if not arguments.operands:
        raise UsageError("missing pool name")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    from lamina.pool import Pool

    with Pool.open(arguments.operands[0], write=True) as pool:
        pool.clear_errors()
    return 0


COMMAND = Command(
    name="pool clear",
    synopsis=("pool clear <pool>",),
    summary="forget the counts of errors",
    description="""
Sets the counts of errors that 'lamina pool status' shows back to 0.

What is damaged stays known as damaged: it is not shared with new images, and 'lamina pool status -v' names it until it
is repaired, imported again or destroyed. The next scrub counts what it finds.""",
    examples=(("After the disk was replaced", "lamina pool clear tank"),),
    run=run,
    operands="pool",
)
