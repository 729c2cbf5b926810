"""``lamina pool history``."""

import time

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import complain, print_json
from lamina.cli.verbs.pool_list import open_pools
from lamina.pool.names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool.history import HistoryLine


def run(arguments: Arguments) -> int:
    """Show the history of pools."""
    pools, failed = open_pools(arguments.operands)
    documents: dict[str, object] = {}
    for pool in pools:
        with pool:
            lines = list(pool.history(internal=arguments.has("internal")))
        if arguments.has("json"):
            documents[pool.name] = {"name": pool.name, "history": [_as_json(line) for line in lines]}
            continue
        print(f"History for '{pool.name}':")
        for line in lines:
            print(_shown(line, arguments.has("long"), arguments.has("internal")))
        print()
    if arguments.has("json"):
        print_json("pool history", {"pools": documents})
    elif not pools and not failed:
        complain("no pools available")
    return 1 if failed else 0


def _shown(line: "HistoryLine", long: bool, internal: bool) -> str:
    when = time.strftime("%Y-%m-%d.%H:%M:%S", time.localtime(line.time))
    if line.internal:
        return f"{when} [txg:{line.txg}] {printable(line.command[1:-1])}"
    who = f" [user {printable(line.user)} on {printable(line.host)}:linux]" if long and line.user else ""
    number = f"[txg:{line.txg}] " if internal else ""
    return f"{when} {number}{printable(line.command)}{who}"


def _as_json(line: "HistoryLine") -> dict[str, object]:
    return {
        "time": line.time,
        "txg": line.txg,
        "user": line.user,
        "host": line.host,
        "command": line.command,
        "internal": line.internal,
    }


COMMAND = Command(
    name="pool history",
    synopsis=("pool history [-ilj] [pool] ...",),
    summary="show which commands have changed a pool",
    description="""
Shows every command that has changed the pool since it was made, oldest first, with its time.

The history lives in the pool. After 'lamina pool recover' the last 1000 commands before the last record of all names
are there, and all that came after.""",
    options=(
        Option("l", "long", "also who ran it, and on which machine"),
        Option("i", "internal", "also what happened without a command, and the transaction group of each line"),
        JSON,
    ),
    examples=(("Who destroyed it?", "lamina pool history -l tank"),),
    run=run,
    operands="pool",
)
