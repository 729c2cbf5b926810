"""``lamina hold``; and what ``lamina release`` shares with it."""

from collections.abc import Callable

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain
from lamina.cli.pools import Pools
from lamina.errors import LaminaError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import Pool


def run(arguments: Arguments) -> int:
    """Put a hold on snapshots."""
    if arguments.operands and arguments.operands[0].startswith("."):
        raise UsageError("tag may not start with '.'")
    recursive = arguments.has("recursive")
    return each(arguments, lambda pool, tag, name: pool.hold(tag, [name], recursive=recursive))


def each(arguments: Arguments, act: "Callable[[Pool, str, str], None]") -> int:
    """Act on every snapshot named, after the tag; one that is refused does not keep the others from it."""
    if not arguments.operands:
        raise UsageError("missing tag argument")
    tag, *names = arguments.operands
    if not names:
        raise UsageError("missing snapshot argument")
    status = 0
    with Pools(write=True) as pools:
        for name in names:
            try:
                act(pools.of(name), tag, name)
            except LaminaError as error:
                complain(str(error))
                status = 1
    return status


RECURSIVE = Option("r", "recursive", "also the snapshots of that name of all datasets below")

COMMAND = Command(
    name="hold",
    synopsis=("hold [-r] <tag> <dataset>@<snapshot> ...",),
    summary="keep snapshots from being destroyed",
    description="""
Puts a tag on snapshots. A snapshot that has one cannot be destroyed until 'lamina release' has taken the last away:
'lamina destroy' refuses, and 'lamina destroy -d' waits for it. Rolling back over it is refused too.""",
    options=(RECURSIVE,),
    examples=(
        ("Keep what is being copied elsewhere", "lamina hold backup tank/images/pytorch@2.8.0"),
        ("On everything below", "lamina hold -r audit tank@2026-11-23"),
    ),
    run=run,
    operands="tag all-snapshots",
)
