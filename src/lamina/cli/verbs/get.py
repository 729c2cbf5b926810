"""``lamina get``."""

from lamina.cli.command import JSON, JSON_INT, PARSABLE, SCRIPTED, TYPE, Arguments, Command, Option
from lamina.cli.entries import entry_json, parse_depth, parse_properties_list, parse_types, select
from lamina.cli.output import Column, print_json, print_table
from lamina.cli.pools import Pools
from lamina.errors import UsageError
from lamina.pool.properties import PROPERTIES, format_value

_FIELDS = ("name", "property", "value", "received", "source")
_DEFAULT_FIELDS = ("name", "property", "value", "source")
_SOURCES = ("local", "default", "inherited", "received", "temporary", "none")
TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import Entry, PropertyValue

Values = dict[str, "PropertyValue"]


def run(arguments: Arguments) -> int:
    """Show properties, one a line."""
    if not arguments.operands:
        raise UsageError("missing property argument")
    words, *operands = arguments.operands
    every = words == "all"
    asked = [] if every else _asked(words.split(","))
    fields = _fields(arguments)
    sources = _sources(arguments)
    types = parse_types(arguments)
    depth = parse_depth(arguments)
    recursive = arguments.has("recursive") or depth is not None
    if operands and types and not recursive and set(types) <= {"snapshot", "image", "bookmark"}:
        recursive, depth = True, 1
    if not types and (recursive or not operands):
        # Unlike `list`, `get -r` shows snapshots too, as in OpenZFS.
        types = ("filesystem", "snapshot", "bookmark")
    parsable = arguments.has("parsable")
    with Pools() as pools:
        selection = select(pools, operands, types=types, recursive=recursive, depth=depth)
        native = [name for name in asked if name != "name"]
        rows: list[list[str]] = []
        documents: dict[str, object] = {}
        for pool, entries in selection.groups:
            for entry, found in zip(entries, pool.get_many(entries, None if every else native), strict=True):
                values = _shown(entry, found, every, asked, sources)
                if not values:
                    continue
                for name, value in values.items():
                    cells = {
                        "name": entry.name,
                        "property": name,
                        "value": format_value(name, value.value, parsable),
                        "received": "-",
                        "source": value.source,
                    }
                    rows.append([cells[field] for field in fields])
                if arguments.has("json") or arguments.has("json-int"):
                    documents[entry.name] = entry_json(
                        pool, entry, values, parsable=parsable, numbers=arguments.has("json-int")
                    )
        if arguments.has("json") or arguments.has("json-int"):
            print_json("get", {"datasets": documents})
        elif rows:
            widths = {"value": _value_width(every, asked)}
            columns = [Column(field.upper(), width=widths.get(field, 0)) for field in fields]
            print_table(columns, rows, scripted=arguments.has("scripted"))
        return 1 if selection.failed else 0


def _asked(words: list[str]) -> list[str]:
    names: list[str] = []
    for word in words:
        names += PROPERTIES if word == "all" else parse_properties_list([word], extra=("name",))
    return list(dict.fromkeys(names))


def _shown(entry: "Entry", found: Values, every: bool, asked: list[str], sources: set[str]) -> Values:
    """The properties to print: of ``all`` those that have a value, else those asked for, ``-`` where absent."""
    if every:
        values = {name: value for name, value in found.items() if value.value is not None}
    else:
        from lamina.pool import PropertyValue

        values = {name: PropertyValue(entry.name, "-") if name == "name" else found[name] for name in asked}
    return {name: value for name, value in values.items() if _source_kind(value.source) in sources}


def _source_kind(source: str) -> str:
    return "none" if source == "-" else source.partition(" ")[0]


def _value_width(every: bool, asked: list[str]) -> int:
    names = PROPERTIES if every else asked
    return max((PROPERTIES[name].width if name in PROPERTIES else len(name) for name in names), default=0)


def _fields(arguments: Arguments) -> list[str]:
    fields: list[str] = []
    for word in arguments.lists("fields"):
        if word == "all":
            fields += _FIELDS
        elif word in _FIELDS:
            fields.append(word)
        else:
            raise UsageError(f"invalid column name '{word}'")
    return fields or list(_DEFAULT_FIELDS)


def _sources(arguments: Arguments) -> set[str]:
    words = arguments.lists("source")
    for word in words:
        if word not in _SOURCES:
            raise UsageError(f"invalid source '{word}'")
    return set(words or _SOURCES)


COMMAND = Command(
    name="get",
    synopsis=(
        'get [-rHp] [-j [--json-int]] [-d max] [-o "all" | field[,...]]',
        "    [-t type[,...]] [-s source[,...]]",
        '    <"all" | property[,...]> [dataset|snapshot] ...',
    ),
    summary="show properties and where their values come from",
    description="""
Shows one line for each property of each dataset. Without datasets it goes through every dataset and snapshot of every
pool.

SOURCE says where the value comes from: local (set on this dataset), inherited from NAME, default, or - for a value
that cannot be set.""",
    options=(
        Option("r", "recursive", "also show everything below the operands, snapshots too"),
        Option("d", "depth", "like -r, but at most this many levels below", "max"),
        Option(
            "o",
            "fields",
            "fields to show: name, property, value, received, source; 'all' for all of them",
            "field[,...]",
            "=name property value source all",
        ),
        TYPE,
        Option(
            "s",
            "source",
            "only values from these sources: local, default, inherited, none",
            "source[,...]",
            "=local default inherited none",
        ),
        SCRIPTED,
        PARSABLE,
        JSON,
        JSON_INT,
    ),
    examples=(
        ("What was saved", "lamina get used,logicalused,reduction,compressratio,dedupratio tank"),
        ("What was changed by hand, everywhere", "lamina get -r -s local all tank"),
        ("One number for a script", "lamina get -Hp -o value used tank/images"),
    ),
    run=run,
    operands="properties dataset snapshot",
    shows_properties=True,
)
