"""``lamina pool destroy``."""

import sys

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain
from lamina.cli.verbs.pool_export import unmount_all
from lamina.errors import LaminaError, UsageError
from lamina.pool.names import printable


def run(arguments: Arguments) -> int:
    """Destroy one pool."""
    if not arguments.operands:
        raise UsageError("missing pool argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    from lamina.pool.recovery.removing import destroy_pool

    name = arguments.operands[0]
    if not arguments.has("force") and sys.stdin.isatty() and sys.stderr.isatty():
        _ask(name)
    if arguments.has("force"):
        unmount_all(name)
    left = destroy_pool(name)
    if left.foreign:
        shown = ", ".join(f"'{printable(one)}'" for one in left.foreign[:3]) + (", …" if left.foreign[3:] else "")
        complain(f"'{printable(str(left.path))}' stays: {shown} in it is none of lamina's")
    return 0


def _ask(name: str) -> None:
    """Have the name typed once more. Raises ``LaminaError`` where it is another one."""
    sys.stderr.write(
        f"This destroys the pool '{printable(name)}'{_contents(name)}. There is no way back.\n"
        "Type the pool's name to go on: "
    )
    sys.stderr.flush()
    if sys.stdin.readline().strip() != name:
        raise LaminaError(f"cannot destroy '{printable(name)}': the name was not typed; nothing was changed")


def _contents(name: str) -> str:
    """What a pool holds, as far as that can be seen: a damaged one can be destroyed too."""
    from lamina.pool import Pool

    try:
        with Pool.open(name) as pool:
            status = pool.status()
    except LaminaError as error:
        return f", which cannot be opened ({error})"
    where = printable(str(status.path))
    return f" in '{where}': {status.datasets} datasets, {status.snapshots} snapshots"


COMMAND = Command(
    name="pool destroy",
    synopsis=("pool destroy [-f] <pool>",),
    summary="destroy a pool with all that is in it",
    description="""
Destroys a pool: all datasets, snapshots and images in it. There is no way back. On a terminal the pool's name has to be
typed once more, unless -f is given.

A pool of which something is mounted, or that another process has open, is refused. Only files that lamina made are
removed; if there are others in the pool's directory, they stay, and it stays with them. A destruction that was broken
off is finished by the same command.""",
    options=(Option("f", "force", "ask nothing; unmount what is mounted, although it is in use"),),
    examples=(("For good", "lamina pool destroy tank"),),
    run=run,
    operands="pool",
)
