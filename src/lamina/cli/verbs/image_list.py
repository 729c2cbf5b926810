"""``lamina image list``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lamina.cli.command import JSON, JSON_INT, PARSABLE, SCRIPTED, Arguments, Command, Option
from lamina.cli.entries import Selection, entry_json, parse_properties_list
from lamina.cli.output import Column, complain, print_json, print_table
from lamina.cli.pools import Pools
from lamina.errors import LaminaError
from lamina.pool.names import check_name, printable
from lamina.pool.properties import PROPERTIES, Raw, format_value
from lamina.pool.units import format_date, format_ratio, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import Entry, Pool, PropertyValue
    from lamina.pool.figures.accounting import Figures
    from lamina.pool.importing.imageindex import ImageRow

_DEFAULT = ("name", "logicalreferenced", "referenced", "unique", "creation")


@dataclass(slots=True)
class _Row:
    """An image with all that was asked of it; ``own`` are the values of the columns that only images have."""

    pool: "Pool"
    entry: "Entry"
    values: Mapping[str, "PropertyValue"]
    own: dict[str, Raw]

    def raw(self, name: str) -> Raw:
        if name == "name":
            return self.entry.name
        return self.own[name] if name in self.own else self.values[name].value


@dataclass(frozen=True, slots=True)
class _ImageColumn:
    """A column that only images have; ``take`` gets what the index and the accounting know of one."""

    column: Column
    help: str
    show: Callable[[Raw, bool], str]
    take: Callable[["ImageRow | None", "Figures | None"], Raw]
    needs: str
    """``index`` or ``figures``."""


def _digest(raw: Raw, parsable: bool) -> str:
    return "-" if raw is None else str(raw) if parsable else str(raw)[:19]


def _plain(raw: Raw, parsable: bool) -> str:
    return "-" if raw is None else str(raw)


def _size(raw: Raw, parsable: bool) -> str:
    return "-" if not isinstance(raw, int) else str(raw) if parsable else format_size(raw)


def _ratio(raw: Raw, parsable: bool) -> str:
    return "-" if not isinstance(raw, int | float) else format_ratio(raw, parsable)


def _date(raw: Raw, parsable: bool) -> str:
    return "-" if not isinstance(raw, int) else str(raw) if parsable else format_date(raw)


def _id(raw: Raw, parsable: bool) -> str:
    # Twelve digits are what people copy; scripts get the whole digest.
    return "-" if raw is None else str(raw) if parsable else str(raw).partition(":")[2][:12]


def _created(row: "ImageRow | None", _: "Figures | None") -> Raw:
    from lamina.oci.inspecting import seconds_of

    return seconds_of(row.created) if row is not None and row.created else None


def _platform(row: "ImageRow | None", _: "Figures | None") -> Raw:
    return f"{row.os}/{row.architecture}" if row is not None and row.os and row.architecture else None


def _reduction(_: "ImageRow | None", one: "Figures | None") -> Raw:
    from lamina.pool.figures.accounting import ratio

    return ratio(one.logicalreferenced, one.referenced) if one is not None else None


def _deduplication(_: "ImageRow | None", one: "Figures | None") -> Raw:
    from lamina.pool.figures.accounting import ratio

    return ratio(one.logicalreferenced, one.refdecoded) if one is not None else None


IMAGE_COLUMNS: Mapping[str, _ImageColumn] = {
    "id": _ImageColumn(
        *(Column("ID"), "the image ID: the SHA-256 of the config", _id),
        *(lambda row, _: row.config if row is not None else None, "index"),
    ),
    "digest": _ImageColumn(
        *(Column("DIGEST"), "the digest of the manifest", _digest),
        *(lambda row, _: row.manifest if row is not None else None, "index"),
    ),
    "layers": _ImageColumn(
        *(Column("LAYERS", True), "how many layers it has", _plain),
        *(lambda row, _: len(row.layers) if row is not None else None, "index"),
    ),
    "platform": _ImageColumn(
        *(Column("PLATFORM"), "system and architecture that it is for", _plain, _platform, "index")
    ),
    "created": _ImageColumn(*(Column("CREATED"), "when it was built, as its config says", _date, _created, "index")),
    "shared": _ImageColumn(
        *(Column("SHARED", True, 5), "stored bytes that it has in common with others", _size),
        *(lambda _, one: one.referenced - one.unique if one is not None else None, "figures"),
    ),
    "dedupratio": _ImageColumn(
        *(Column("DEDUP", True, 5), "what sharing saves within the image", _ratio, _deduplication, "figures")
    ),
    "reduction": _ImageColumn(
        *(Column("REDUCTION", True), "LREFER to REFER: compression and sharing together", _ratio),
        *(_reduction, "figures"),
    ),
}
_ALIASES = {"dedup": "dedupratio"}
_ALL = (
    *("name", "id", "digest", "platform", "layers", "created", "creation", "logicalreferenced", "referenced"),
    *("shared", "unique", "refcompressratio", "dedupratio", "reduction"),
)


def run(arguments: Arguments) -> int:
    """List images, of everything or below the named datasets."""
    columns = _columns(arguments.lists("columns"))
    sort = [
        (_columns([word])[0], option == "reverse-sort")
        for option, word in arguments.given
        if option in ("sort", "reverse-sort")
    ]
    selection = Selection()
    with Pools() as pools:
        if not arguments.operands:
            for pool in pools.everything():
                if isinstance(pool, LaminaError):
                    complain(str(pool))
                    selection.failed = True
                else:
                    selection.groups.append((pool, list(pool.images())))
        for name in dict.fromkeys(arguments.operands):
            try:
                check_name(name)
                pool = pools.of(name)
                selection.groups.append((pool, list(pool.images(name))))
            except LaminaError as error:
                complain(str(error))
                selection.failed = True
        names = list(dict.fromkeys((*columns, *(name for name, _ in sort))))
        rows = [row for pool, entries in selection.groups for row in _rows(pool, entries, names)]
        for name, descending in reversed(sort):
            _sort(rows, name, descending)
        _show(arguments, rows, columns, selection.failed)
    return 1 if selection.failed else 0


def _columns(words: Sequence[str]) -> list[str]:
    columns: list[str] = []
    for word in words:
        known = _ALIASES.get(word.lower(), word.lower())
        if word == "all":
            columns += _ALL
        elif known in IMAGE_COLUMNS:
            columns.append(known)
        else:
            columns += parse_properties_list([word], extra=("name",))
    return columns or list(_DEFAULT)


def _rows(pool: "Pool", entries: list["Entry"], names: Sequence[str]) -> list[_Row]:
    own = [name for name in names if name in IMAGE_COLUMNS]
    wanted = [name for name in names if name not in IMAGE_COLUMNS and name != "name"]
    found = pool.get_many(entries, wanted)
    needs = {IMAGE_COLUMNS[name].needs for name in own}
    figures: Mapping[int, Figures] = {}
    if "figures" in needs:
        from lamina.oci.usage import image_figures

        figures = image_figures(pool, entries, unique="shared" in own)
    index: dict[int, ImageRow | None] = {}
    if "index" in needs:
        from lamina.oci.inspecting import image_rows

        index = image_rows(pool, entries)
    return [
        _Row(
            *(pool, entry, values),
            {name: IMAGE_COLUMNS[name].take(index.get(entry.id), figures.get(entry.id)) for name in own},
        )
        for entry, values in zip(entries, found, strict=True)
    ]


def _sort(rows: list[_Row], name: str, descending: bool) -> None:
    present = [row for row in rows if row.raw(name) is not None]
    absent = [row for row in rows if row.raw(name) is None]
    numeric = all(isinstance(row.raw(name), int | float) for row in present)
    present.sort(key=lambda row: row.raw(name) if numeric else str(row.raw(name)), reverse=descending)  # type: ignore[arg-type,return-value]
    rows[:] = present + absent


def _show(arguments: Arguments, rows: Sequence[_Row], columns: Sequence[str], failed: bool) -> None:
    parsable = arguments.has("parsable")
    if arguments.has("json") or arguments.has("json-int"):
        numbers = arguments.has("json-int")
        print_json(
            "image list", {"datasets": {row.entry.name: _as_json(row, columns, parsable, numbers) for row in rows}}
        )
    elif rows:
        print_table(
            [_column(name) for name in columns],
            ([_cell(row, name, parsable) for name in columns] for row in rows),
            scripted=arguments.has("scripted"),
        )
    elif not failed:
        complain("no datasets available")


def _as_json(row: _Row, columns: Sequence[str], parsable: bool, numbers: bool) -> dict[str, object]:
    properties = {name: row.values[name] for name in columns if name in row.values}
    document = entry_json(row.pool, row.entry, properties, parsable=parsable, numbers=numbers)
    known = document["properties"]
    assert isinstance(known, dict)
    for name, raw in row.own.items():
        exact = numbers and isinstance(raw, int | float)
        # A program wants whole digests.
        value = raw if exact else IMAGE_COLUMNS[name].show(raw, parsable or numbers or name in ("id", "digest"))
        known[name] = {"value": value, "source": {"type": "NONE", "data": "-"}}
    document["properties"] = {name: known[name] for name in columns if name != "name"}
    return document


def _column(name: str) -> Column:
    if name in IMAGE_COLUMNS:
        return IMAGE_COLUMNS[name].column
    found = PROPERTIES.get(name)
    return Column(name.upper()) if found is None else Column(found.header, found.right_aligned, found.width)


def _cell(row: _Row, name: str, parsable: bool) -> str:
    if name in row.own:
        return printable(IMAGE_COLUMNS[name].show(row.own[name], parsable))
    return row.entry.name if name == "name" else format_value(name, row.values[name].value, parsable)


COMMAND = Command(
    name="image list",
    synopsis=(
        "image list [-Hp] [-j [--json-int]] [-o column[,...]] [-s column] ... [-S column] ...",
        "    [dataset] ...",
    ),
    summary="list images and what each one costs",
    description="""
Lists images. LREFER is the size of an image's files, REFER the stored bytes of what it consists of, shared with
others or not, UNIQUE the stored bytes that only this image has: what destroying it would give back.

-o names other columns: properties, as for 'lamina list', and these of images alone, - for a plain root file system:

"""
    + "\n".join(f"  {name:<12}{found.help}" for name, found in IMAGE_COLUMNS.items())
    + """

'-o all' is all of these. 'lamina image du' adds the sizes up by repository.""",
    options=(
        Option(
            *("o", "columns", "columns to show; 'all' for everything that is known of images", "column[,...]"),
            completes="image-column",
        ),
        Option("s", "sort", "sort by a column, ascending; given again, it breaks ties", "column", "image-column"),
        Option("S", "reverse-sort", "sort by a column, descending", "column", "image-column"),
        SCRIPTED,
        PARSABLE,
        JSON,
        JSON_INT,
    ),
    examples=(
        ("The images below a dataset", "lamina image list tank/images"),
        ("What each one is", "lamina image list -o name,id,platform,layers,created"),
        ("The ones that would give back most", "lamina image list -S unique -o name,unique,shared,referenced"),
    ),
    run=run,
    operands="dataset",
)
