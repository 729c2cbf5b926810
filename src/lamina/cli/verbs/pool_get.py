"""``lamina pool get``."""

from lamina.cli.command import JSON, PARSABLE, SCRIPTED, Arguments, Command, Option
from lamina.cli.output import Column, print_json, print_table
from lamina.cli.verbs.pool_list import FEATURES, open_pools, pool_properties, pool_values, sourced
from lamina.errors import UsageError

_FIELDS = ("name", "property", "value", "source")


def run(arguments: Arguments) -> int:
    """Show properties of pools, one a line."""
    if not arguments.operands:
        raise UsageError("missing property argument")
    word, *names = arguments.operands
    wanted = pool_properties(word.split(","), flags=FEATURES)
    fields: list[str] = []
    for field in arguments.lists("fields"):
        if field != "all" and field not in _FIELDS:
            raise UsageError(f"invalid column name '{field}'")
        fields += _FIELDS if field == "all" else (field,)
    fields = fields or list(_FIELDS)
    pools, failed = open_pools(names)
    documents: dict[str, object] = {}
    rows: list[list[str]] = []
    for pool in pools:
        with pool:
            values = pool_values(pool, arguments.has("parsable"))
            sources = {name: source for name, (_, source) in pool.own_properties().items()}
        documents[pool.name] = {
            "name": pool.name,
            "properties": {name: sourced(values[name], sources.get(name, "-")) for name in wanted},
        }
        for name in wanted:
            cells = {"name": pool.name, "property": name, "value": values[name], "source": sources.get(name, "-")}
            rows.append([cells[field] for field in fields])
    if arguments.has("json"):
        print_json("pool get", {"pools": documents})
    elif rows:
        print_table([Column(field.upper()) for field in fields], rows, scripted=arguments.has("scripted"))
    return 1 if failed else 0


COMMAND = Command(
    name="pool get",
    synopsis=('pool get [-Hpj] [-o "all" | field[,...]] <"all" | property[,...]> [pool] ...',),
    summary="show properties of a pool",
    description="""
Shows properties of pools: size, allocated, free, freeing, capacity, dedupratio, health, guid, path, comment,
images, and a feature@NAME for each feature flag of the format.""",
    options=(
        Option("o", "fields", "fields to show: name, property, value, source", "field[,...]", f"={' '.join(_FIELDS)}"),
        SCRIPTED,
        PARSABLE,
        JSON,
    ),
    examples=(("Free bytes, for a script", "lamina pool get -Hp -o value free tank"),),
    run=run,
    operands="pool-properties pool",
)
