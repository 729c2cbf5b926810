"""``lamina list``."""

from collections.abc import Sequence

from lamina.cli.command import JSON, JSON_INT, PARSABLE, SCRIPTED, TYPE, Arguments, Command, Option
from lamina.cli.entries import Selection, entry_json, parse_depth, parse_properties_list, parse_types, select
from lamina.cli.output import Column, complain, print_json, print_table
from lamina.cli.pools import Pools
from lamina.errors import UsageError
from lamina.pool.properties import PROPERTIES, SPACE_COLUMNS, format_value

_DEFAULT = ("name", "used", "available", "referenced", "mountpoint")
TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import Entry, Pool, PropertyValue

Row = tuple["Pool", "Entry", dict[str, "PropertyValue"]]


def run(arguments: Arguments) -> int:
    """List datasets and snapshots as a table or as JSON."""
    types = parse_types(arguments)
    depth = parse_depth(arguments)
    columns = _columns(arguments)
    sort = _sort_keys(arguments)
    recursive = arguments.has("recursive") or depth is not None
    below = not {"snapshot", "image", "bookmark"}.isdisjoint(types)
    if below and arguments.operands and not recursive:
        # `list -t snapshot DATASET` means the snapshots of the dataset, as in OpenZFS; so do bookmarks.
        recursive, depth = True, 1
    with Pools() as pools:
        selection = select(pools, arguments.operands, types=types, recursive=recursive, depth=depth)
        return show(arguments, selection, columns, sort, "list")


def show(
    arguments: Arguments, selection: Selection, columns: Sequence[str], sort: Sequence[tuple[str, bool]], verb: str
) -> int:
    """Print a selection; ``sort`` holds (property, descending), the first the most important."""
    wanted = list(dict.fromkeys(name for name in (*columns, *(name for name, _ in sort)) if name != "name"))
    rows: list[Row] = []
    for pool, entries in selection.groups:
        found = pool.get_many(entries, wanted)
        rows.extend((pool, entry, values) for entry, values in zip(entries, found, strict=True))
    for name, descending in reversed(sort):
        _sort(rows, name, descending)
    parsable = arguments.has("parsable")
    if arguments.has("json") or arguments.has("json-int"):
        shown = [name for name in columns if name != "name"]
        datasets = {
            entry.name: entry_json(
                pool,
                entry,
                {name: values[name] for name in shown},
                parsable=parsable,
                numbers=arguments.has("json-int"),
            )
            for pool, entry, values in rows
        }
        print_json(verb, {"datasets": datasets})
    elif rows:
        print_table(
            [_column(name) for name in columns],
            ([_cell(name, entry, values, parsable) for name in columns] for _, entry, values in rows),
            scripted=arguments.has("scripted"),
        )
    elif not selection.failed:
        complain("no datasets available")
    return 1 if selection.failed else 0


def _cell(name: str, entry: "Entry", values: dict[str, "PropertyValue"], parsable: bool) -> str:
    return entry.name if name == "name" else format_value(name, values[name].value, parsable)


def _column(name: str) -> Column:
    found = PROPERTIES.get(name)
    if found is None:
        return Column(name.upper())
    return Column(found.header, found.right_aligned, found.width)


def _columns(arguments: Arguments) -> list[str]:
    columns: list[str] = []
    for word in arguments.lists("columns"):
        if word == "space":
            columns += ["name", *SPACE_COLUMNS]
        elif word == "all":
            columns += ["name", *PROPERTIES]
        else:
            columns += parse_properties_list([word], extra=("name",))
    return columns or list(_DEFAULT)


def _sort_keys(arguments: Arguments) -> list[tuple[str, bool]]:
    keys = []
    for option, word in arguments.given:
        if option in ("sort", "reverse-sort"):
            try:
                (name,) = parse_properties_list([word], extra=("name",))
            except UsageError:
                raise UsageError(f"invalid property '{word}'") from None
            keys.append((name, option == "reverse-sort"))
    return keys


def _sort(rows: list[Row], name: str, descending: bool) -> None:
    def value(row: Row) -> str | int | float | None:
        return row[1].name if name == "name" else row[2][name].value

    # Rows without the property come last in both directions.
    present = [row for row in rows if value(row) is not None]
    absent = [row for row in rows if value(row) is None]
    found = PROPERTIES.get(name)
    numeric = found is not None and found.kind not in ("index", "string", "path")
    if numeric:
        present.sort(key=lambda row: _number(value(row)), reverse=descending)
    else:
        present.sort(key=lambda row: str(value(row)), reverse=descending)
    rows[:] = present + absent


def _number(value: str | int | float | None) -> float | int:
    return value if isinstance(value, int | float) else 0


COMMAND = Command(
    name="list",
    synopsis=(
        "list [-Hp] [-j [--json-int]] [-r|-d max] [-o property[,...]] [-s property] ...",
        "    [-S property] ... [-t type[,...]] [dataset|snapshot|bookmark] ...",
    ),
    summary="list datasets, snapshots and images with their space",
    description="""
Shows one line for each dataset. Without operands it shows every dataset of every pool. With operands it shows just
those; -r adds what lies below them.

The columns are NAME, USED, AVAIL, REFER and MOUNTPOINT unless -o names others. 'lamina help properties' lists what
can be shown.

Snapshots, images and bookmarks are shown when they are named or when -t asks for them.""",
    options=(
        Option("r", "recursive", "also show everything below the operands"),
        Option("d", "depth", "like -r, but at most this many levels below: 1 is the dataset and its children", "max"),
        Option(
            "o",
            "columns",
            "columns to show: properties, short names such as lrefer, user properties; 'space' for where the space"
            " is, 'all' for every property",
            "property[,...]",
            completes="column",
        ),
        Option("s", "sort", "sort by a property, ascending; given again, it breaks ties", "property", "column"),
        Option("S", "reverse-sort", "sort by a property, descending", "property", "column"),
        TYPE,
        SCRIPTED,
        PARSABLE,
        JSON,
        JSON_INT,
    ),
    examples=(
        ("Everything in the pool tank, snapshots and images too", "lamina list -r -t all tank"),
        ("Where the space is", "lamina list -r -o space tank"),
        ("The images that cost most, exact bytes, for a script", "lamina list -t image -S unique -Hp -o name,unique"),
    ),
    run=run,
    operands="dataset snapshot",
    shows_properties=True,
)
