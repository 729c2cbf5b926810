"""``lamina release``."""

from lamina.cli.command import Arguments, Command
from lamina.cli.verbs.hold import RECURSIVE, each


def run(arguments: Arguments) -> int:
    """Take a hold away from snapshots."""
    recursive = arguments.has("recursive")
    return each(arguments, lambda pool, tag, name: pool.release(tag, [name], recursive=recursive))


COMMAND = Command(
    name="release",
    synopsis=("release [-r] <tag> <dataset>@<snapshot> ...",),
    summary="take holds away",
    description="""
Takes a tag off snapshots. One that was to be destroyed by 'lamina destroy -d' goes with its last tag, unless it has
clones.""",
    options=(RECURSIVE,),
    examples=(("The copy is done", "lamina release backup tank/images/pytorch@2.8.0"),),
    run=run,
    operands="tag all-snapshots",
)
