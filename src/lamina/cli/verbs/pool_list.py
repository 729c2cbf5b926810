"""``lamina pool list``, and the properties of pools for ``lamina pool get``."""

from collections.abc import Sequence

from lamina.cli.command import JSON, PARSABLE, SCRIPTED, Arguments, Command, Option
from lamina.cli.output import Column, complain, print_json, print_table
from lamina.errors import LaminaError, UsageError
from lamina.pool import features
from lamina.pool.units import format_ratio, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import Pool

_COLUMNS = {
    "name": Column("NAME"),
    "size": Column("SIZE", True, 5),
    "allocated": Column("ALLOC", True, 5),
    "free": Column("FREE", True, 5),
    "freeing": Column("FREEING", True, 7),
    "capacity": Column("CAP", True, 5),
    "dedupratio": Column("DEDUP", True, 5),
    "health": Column("HEALTH", True, 8),
    "guid": Column("GUID", True, 20),
    "path": Column("PATH"),
    "comment": Column("COMMENT"),
    "images": Column("IMAGES"),
}
_SHORT = {"alloc": "allocated", "cap": "capacity", "dedup": "dedupratio"}
_DEFAULT = ("name", "size", "allocated", "free", "capacity", "dedupratio", "health")

PROPERTIES = tuple(name for name in _COLUMNS if name != "name")
"""What ``pool get`` shows, in order, before the features."""
FEATURES = tuple(f"feature@{feature.name}" for feature in features.ALL)


def run(arguments: Arguments) -> int:
    """List pools."""
    columns = pool_properties(arguments.lists("columns"), extra=("name",)) or list(_DEFAULT)
    parsable = arguments.has("parsable")
    pools, failed = open_pools(arguments.operands)
    try:
        values = {pool.name: pool_values(pool, parsable) for pool in pools}
    finally:
        for pool in pools:
            pool.close()
    if arguments.has("json"):
        documents = {
            name: {"name": name, "properties": {key: sourced(found[key]) for key in columns if key != "name"}}
            for name, found in values.items()
        }
        print_json("pool list", {"pools": documents})
    elif values:
        rows = [[found[name] for name in columns] for found in values.values()]
        print_table([_COLUMNS[name] for name in columns], rows, scripted=arguments.has("scripted"))
    elif not failed:
        print("no pools available")  # on standard output, as zpool list does
    return 1 if failed else 0


def sourced(value: str, source: str = "-") -> dict[str, object]:
    """Return a pool's value as JSON."""
    return {"value": value, "source": {"type": "NONE" if source == "-" else source.upper(), "data": "-"}}


def pool_properties(words: Sequence[str], extra: tuple[str, ...] = (), flags: tuple[str, ...] = ()) -> list[str]:
    """Return full names of pool properties; ``all`` is every one, the ``extra`` first and the ``flags`` last."""
    names: list[str] = []
    for word in words:
        name = _SHORT.get(word, word)
        if word == "all":
            names += [*extra, *PROPERTIES, *flags]
        elif name in PROPERTIES or name in extra or name in flags:
            names.append(name)
        else:
            raise UsageError(f"bad property list: invalid property '{word}'; there are {', '.join(PROPERTIES)}")
    return names


def open_pools(names: Sequence[str]) -> tuple[list["Pool"], bool]:
    """Open the named pools, or all that are known; what cannot be opened is one line, and the flag is set."""
    from lamina.pool import Pool, pool_names

    pools: list[Pool] = []
    failed = False
    for name in dict.fromkeys(names) or sorted(pool_names()):
        try:
            pools.append(Pool.open(name))
        except LaminaError as error:
            complain(str(error))
            failed = True
    return pools, failed


def pool_values(pool: "Pool", parsable: bool) -> dict[str, str]:
    """Return every property of a pool as it is printed."""
    space = pool.space()

    def size(value: int) -> str:
        return str(value) if parsable else format_size(value)

    return {
        "name": pool.name,
        "size": size(space.size),
        "allocated": size(space.allocated),
        "free": size(space.free),
        "freeing": size(space.freeing) if space.freeing else "0",  # as zpool has it
        "capacity": f"{space.capacity}{'' if parsable else '%'}",
        "dedupratio": format_ratio(space.dedupratio, parsable),
        "health": space.health,
        "guid": str(pool.guid),
        "path": str(pool.path),
        **{name: value for name, (value, _) in pool.own_properties().items()},
    }


COMMAND = Command(
    name="pool list",
    synopsis=("pool list [-Hpj] [-o property[,...]] [pool] ...",),
    summary="list pools and their space",
    description="""
Lists pools: SIZE (what the file system below could give the pool), ALLOC (what the pool takes, everything included),
FREE, CAP (percent used), DEDUP (how often data is shared) and HEALTH.""",
    options=(
        Option(
            "o",
            "columns",
            f"columns to show: name, {', '.join(PROPERTIES)}",
            "property[,...]",
            f"=name {' '.join(PROPERTIES)}",
        ),
        SCRIPTED,
        PARSABLE,
        JSON,
    ),
    examples=(("How full is it?", "lamina pool list -Hp -o capacity tank"),),
    run=run,
    operands="pool",
)
