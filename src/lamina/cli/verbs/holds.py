"""``lamina holds``."""

from lamina.cli.command import JSON, JSON_INT, SCRIPTED, Arguments, Command, Option
from lamina.cli.output import Column, complain, print_json, print_table
from lamina.cli.pools import Pools
from lamina.errors import LaminaError, UsageError
from lamina.pool.units import format_date

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool.lineage.holds import Hold


def run(arguments: Arguments) -> int:
    """List the holds on snapshots."""
    if not arguments.operands:
        raise UsageError("missing snapshot argument")
    found: dict[tuple[str, str], Hold] = {}
    status = 0
    with Pools() as pools:
        for name in arguments.operands:
            try:
                some = pools.of(name).holds([name], recursive=arguments.has("recursive"))
            except LaminaError as error:
                complain(str(error))
                status = 1
            else:
                found |= {(one.snapshot, one.tag): one for one in some}
    numbers = arguments.has("json-int")
    exact = numbers or arguments.has("parsable")

    def time(hold: "Hold") -> str:
        return str(hold.creation) if exact else format_date(hold.creation)

    if numbers or arguments.has("json"):
        holds: dict[str, dict[str, str | int]] = {}
        for one in found.values():
            holds.setdefault(one.snapshot, {})[one.tag] = one.creation if numbers else time(one)
        print_json("holds", {"holds": holds})
    elif found or not status:
        print_table(
            [Column("NAME"), Column("TAG"), Column("TIMESTAMP")],
            ([one.snapshot, one.tag, time(one)] for one in found.values()),
            scripted=arguments.has("scripted"),
        )
    return status


COMMAND = Command(
    name="holds",
    synopsis=("holds [-rHp] [-j [--json-int]] <dataset>@<snapshot> ...",),
    summary="list holds",
    description="""
Lists the tags on snapshots, and since when they are there. The property userrefs counts them.""",
    options=(
        Option("r", "recursive", "also the snapshots of that name of all datasets below"),
        SCRIPTED,
        Option("p", "parsable", "times in seconds since 1970"),
        JSON,
        JSON_INT,
    ),
    examples=(
        ("Who keeps this snapshot?", "lamina holds tank/images/pytorch@2.8.0"),
        ("How many holds have the snapshots of a dataset?", "lamina list -t snapshot -o name,userrefs tank/images"),
    ),
    run=run,
    operands="all-snapshots",
)
