"""``lamina pool import``."""

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import complain, print_json
from lamina.cli.typed import command
from lamina.errors import LaminaError, UsageError
from lamina.pool.names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool.recovery.moving import FoundPool


def run(arguments: Arguments) -> int:
    """List pools that can be imported, or import some."""
    from lamina.pool.recovery.moving import find_pools, import_pool

    directories, operands = arguments.values("directory"), arguments.operands
    if arguments.has("all"):
        if operands:
            raise UsageError("too many arguments")
        failed = False
        for pool in find_pools(directories):
            try:
                import_pool(str(pool.path), command=command())
            except LaminaError as error:
                complain(str(error))
                failed = True
        return 1 if failed else 0
    if len(operands) > 2:
        raise UsageError("too many arguments")
    if operands:
        name = operands[1] if len(operands) == 2 else None
        import_pool(operands[0], name, directories=directories, new_guid=arguments.has("new-guid"), command=command())
        return 0
    if arguments.has("new-guid"):
        raise UsageError("missing pool argument")
    found = find_pools(directories)
    if arguments.has("json"):
        print_json("pool import", {"pools": [_as_json(pool) for pool in found]})
    elif found:
        print("\n".join(_page(pool) for pool in found), end="")
    else:
        complain("no pools available to import")
    return 0


def _page(pool: "FoundPool") -> str:
    lines = [f"   pool: {printable(pool.name)}", f"     id: {pool.guid}", f"  state: {pool.state}"]
    if pool.status:
        lines.append(f" status: {printable(pool.status)}")
    lines.append(f" action: {printable(pool.action)}")
    if pool.comment:
        lines.append(f"comment: {printable(pool.comment)}")
    lines += [" config:", "", f"\t{printable(pool.name):<10}  {pool.state:<8}  {printable(str(pool.path))}"]
    return "\n".join(lines) + "\n"


def _as_json(pool: "FoundPool") -> dict[str, object]:
    return {
        "name": pool.name,
        "pool_guid": str(pool.guid),
        "path": str(pool.path),
        "state": pool.state,
        "status": pool.status,
        "action": pool.action,
        "comment": pool.comment,
    }


COMMAND = Command(
    name="pool import",
    synopsis=(
        "pool import [-j] [-d dir] ...",
        "pool import [-fN] [-d dir] ... -a",
        "pool import [-fN] [-d dir] ... [--new-guid] <pool | id | directory> [newpool]",
    ),
    summary="take in a pool that was exported, moved or copied",
    description="""
Makes a pool known on this machine: one that was exported, or whose directory was brought here. Without a pool it lists
those that can be imported, with their state. With a second name the pool is renamed, with all that is in it.

Pools are looked for where they were exported, and beside those and the known ones; with -d in that directory and right
below it. A pool can also be named by its directory, with a '/' in it.

A copy of a pool that is known here has the same guid and is refused: with --new-guid it gets one of its own.""",
    options=(
        Option("d", "directory", "look in this directory; can be given more than once", "dir", "path"),
        Option("a", "all", "import all that are found"),
        Option("", "new-guid", "give the pool a guid of its own: for a copy of one that is known here"),
        Option("f", "force", "accepted for scripts written for zpool; nothing is refused that it could force"),
        Option("N", "no-mount", "accepted for scripts written for zpool; importing mounts nothing"),
        JSON,
    ),
    examples=(
        ("What could be imported?", "lamina pool import"),
        ("A disk from another machine", "lamina pool import -d /mnt/disk tank"),
        ("Under another name", "lamina pool import -d /mnt/disk tank archive"),
    ),
    run=run,
    operands="path",
)
