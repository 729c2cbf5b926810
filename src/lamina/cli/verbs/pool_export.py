"""``lamina pool export``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain
from lamina.cli.typed import command
from lamina.errors import LaminaError, UsageError


def run(arguments: Arguments) -> int:
    """Export pools, one after the other."""
    from lamina.pool import pool_names
    from lamina.pool.recovery.moving import export_pool

    if arguments.has("all"):
        if arguments.operands:
            raise UsageError("too many arguments")
        names = sorted(pool_names())
    elif not arguments.operands:
        raise UsageError("missing pool argument")
    else:
        names = list(dict.fromkeys(arguments.operands))
    failed = False
    for name in names:
        try:
            if arguments.has("force"):
                unmount_all(name)
            export_pool(name, command=command())
        except LaminaError as error:
            complain(str(error))
            failed = True
    return 1 if failed else 0


def unmount_all(pool: str) -> None:
    """Undo all mounts of a pool, whatever is in use there."""
    from lamina.mount import mounts, umount
    from lamina.pool import registry
    from lamina.pool.names import pool_of_name
    from lamina.pool.recovery.alone import lease_holders

    path = registry.find(pool)
    servers = lease_holders(path) if path is not None else set()
    # The last first: one may lie below another. Another pool of the same name may be mounted, by somebody else.
    for one in reversed(mounts()):
        if pool_of_name(one.source) == pool and one.pid in servers:
            umount(one.mountpoint, force=True)


COMMAND = Command(
    name="pool export",
    synopsis=("pool export [-f] <pool> ...", "pool export [-f] -a"),
    summary="give a pool up, so that its directory can be moved",
    description="""
Forgets where a pool is, after having made sure that nobody uses it and that all of it is in its files. Its directory
can then be moved or copied, to another disk or another machine, and be taken in with 'lamina pool import'. Nothing in
it is changed.

A pool of which something is mounted, or that another process has open, is refused. A pool whose directory is gone is
just forgotten.""",
    options=(
        Option("f", "force", "unmount what is mounted, although it is in use"),
        Option("a", "all", "all pools that this machine knows"),
    ),
    examples=(("Move a pool", "lamina pool export tank"),),
    run=run,
    operands="pool",
)
