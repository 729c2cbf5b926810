"""``lamina set``."""

from lamina.cli.command import Arguments, Command
from lamina.cli.output import complain
from lamina.cli.pools import Pools
from lamina.errors import LaminaError, NotFound, PropertyError, UsageError
from lamina.pool.names import check_name, pool_of_name, printable


def run(arguments: Arguments) -> int:
    """Set one or more properties on one or more datasets."""
    words = arguments.operands
    if not words:
        raise UsageError("missing arguments")
    count = 0
    while count < len(words) and "=" in words[count]:
        count += 1
    if count == 0:
        _refuse(words[0])
    names = words[count:]
    if not names:
        raise UsageError("missing dataset name(s)")
    if any("=" in name for name in names):
        raise UsageError("invalid argument order: every property=value comes before the first dataset")
    properties = parse_assignments(words[:count])
    failed = False
    with Pools(write=True) as pools:
        groups: dict[str, list[str]] = {}
        for name in dict.fromkeys(names):
            try:
                check_name(name)
                if not pools.of(name).exists(name):
                    raise NotFound(f"cannot open '{printable(name)}': dataset does not exist")
            except LaminaError as error:
                complain(str(error))
                failed = True
            else:
                groups.setdefault(pool_of_name(name), []).append(name)
        for pool_name, found in groups.items():
            pools.of(pool_name).set(found, properties)
    return 1 if failed else 0


def _refuse(word: str) -> None:
    """The first word is no ``property=value``: then it is a dataset, and if it is none, that is what is wrong."""
    absent = f"cannot open '{printable(word)}': dataset does not exist"
    check_name(word)
    with Pools() as pools:
        if not pools.of(word, absent).exists(word):
            raise NotFound(absent)
    raise UsageError(f"missing property=value argument before '{printable(word)}'")


def parse_assignments(words: list[str]) -> dict[str, str]:
    """Return the properties of ``name=value`` words; the same one twice is refused."""
    properties: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"missing '=' for property=value argument '{word}'")
        if name in properties:
            raise PropertyError(f"property '{printable(name)}' specified multiple times")
        properties[name] = value
    return properties


COMMAND = Command(
    name="set",
    synopsis=("set <property=value> ... <dataset|snapshot> ...",),
    summary="set properties",
    description="""
Sets properties on datasets. Either all of the properties are set on all of the datasets of a pool, or none.

What is changed takes effect for data that is written from now on. On a snapshot only user properties can be set.""",
    examples=(
        ("Compress harder from now on", "lamina set compression=zstd-9 tank/images"),
        ("Several at once", "lamina set compression=lz4 recordsize=256K tank/images tank/scratch"),
        ("Note something", "lamina set com.example:team=vision tank/images"),
    ),
    run=run,
    operands="assignment dataset snapshot",
    shows_properties=True,
)
