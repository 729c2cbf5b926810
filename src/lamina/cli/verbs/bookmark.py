"""``lamina bookmark``."""

from lamina.cli.command import Arguments, Command
from lamina.cli.output import refuse
from lamina.cli.pools import Pools
from lamina.errors import InvalidName, NotFound, UsageError
from lamina.pool.names import pool_of_name, printable


def run(arguments: Arguments) -> int:
    """Make one bookmark."""
    if not arguments.operands:
        raise UsageError("missing source argument")
    if len(arguments.operands) == 1:
        raise UsageError("missing bookmark argument")
    if len(arguments.operands) > 2:
        raise UsageError("too many arguments")
    source, name = arguments.operands
    # Either may leave out the dataset of the other.
    if source.startswith(("@", "#")):
        source = name.partition("#")[0] + source
    elif name.startswith("#"):
        name = source.replace("#", "@").partition("@")[0] + name
    if "@" not in source and "#" not in source:
        raise UsageError(f"'{printable(source)}' is neither a snapshot nor a bookmark")
    with Pools(write=True) as pools:
        try:
            pool = pools.of(source)
            pool.entry(source)
        except NotFound as error:
            # As in zfs, the words are taken for wrong.
            return refuse(error, UsageError.exit_status)
        if pool_of_name(name) != pool.name:
            raise InvalidName(f"cannot create bookmark '{printable(name)}': bookmark is in a different pool")
        pool.bookmark(source, name)
    return 0


COMMAND = Command(
    name="bookmark",
    synopsis=("bookmark <dataset>@<snapshot>|<dataset>#<bookmark> <[dataset]#<bookmark>>",),
    summary="remember a snapshot without keeping it",
    description="""
A bookmark, tank/images#sent, remembers which snapshot there was and when. It keeps nothing of what the snapshot held
and stays when that is destroyed. 'lamina list -t bookmark' lists bookmarks, 'lamina destroy tank/images#sent' destroys
one.

It can be made in the snapshot's dataset, or in a clone that has come out of it later.""",
    examples=(
        ("Remember what was sent", "lamina bookmark tank/images@sent tank/images#sent"),
        ("The same, shorter", "lamina bookmark tank/images@sent '#sent'"),
    ),
    run=run,
    operands="all-snapshots",
)
