"""``lamina pool status``."""

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import complain, print_json
from lamina.cli.verbs.pool_list import open_pools
from lamina.pool.names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import PoolStatus


def run(arguments: Arguments) -> int:
    """Show the state of pools."""
    pools, failed = open_pools(arguments.operands)
    found: list[PoolStatus] = []
    guids: dict[str, int] = {}
    for pool in pools:
        with pool:
            found.append(pool.status())
            guids[pool.name] = pool.guid
    if arguments.has("json"):
        print_json("pool status", {"pools": {one.name: _as_json(one, guids[one.name]) for one in found}})
        return 1 if failed else 0
    if arguments.has("unhealthy"):
        sick = [one for one in found if one.state != "ONLINE" or one.errors]
        if found and not sick:
            names = arguments.operands
            print(f"pool '{names[0]}' is healthy" if len(names) == 1 else "all pools are healthy")
        found = sick
    elif not found and not failed:
        complain("no pools available")
    print("\n".join(_page(one, arguments.has("verbose")) for one in found), end="")
    return 1 if failed else 0


def _page(status: "PoolStatus", verbose: bool) -> str:
    lines = [f"  pool: {status.name}", f" state: {status.state}"]
    if status.state != "ONLINE" or status.errors:
        lines += [
            "status: Some of the stored data is damaged or missing. What is damaged is never",
            "\treturned: reading it fails.",
            "action: Find the images concerned with 'lamina image verify', import them again,",
            "\tand destroy the damaged ones.",
        ]
    lines += ["config:", "", f"\t{'NAME':<10}  {'STATE':<8}  PATH"]
    lines += [f"\t{status.name:<10}  {status.state:<8}  {printable(str(status.path))}", ""]
    if verbose:
        lines += [
            f"\tpacks      {status.packs}",
            f"\tobjects    {status.objects}",
            f"\tdatasets   {status.datasets}",
            f"\tsnapshots  {status.snapshots}",
            "",
        ]
    if status.errors:
        lines.append(f"errors: {status.errors} data errors")
    else:
        lines.append("errors: No known data errors")
    return "\n".join(lines) + "\n"


def _as_json(status: "PoolStatus", guid: int) -> dict[str, object]:
    return {
        "name": status.name,
        "state": status.state,
        "pool_guid": str(guid),
        "path": str(status.path),
        "packs": status.packs,
        "objects": status.objects,
        "datasets": status.datasets,
        "snapshots": status.snapshots,
        "error_count": str(status.errors),
    }


COMMAND = Command(
    name="pool status",
    synopsis=("pool status [-vxj] [pool] ...",),
    summary="show the state of pools",
    description="""
Shows the state of pools: ONLINE, or what is wrong and what to do.""",
    options=(
        Option("v", "verbose", "also how many packs, objects, datasets and snapshots there are"),
        Option("x", "unhealthy", "only pools with something wrong"),
        JSON,
    ),
    examples=(("Is anything wrong?", "lamina pool status -x"),),
    run=run,
    operands="pool",
)
