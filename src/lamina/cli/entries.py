"""What ``list`` and ``get`` share: which datasets and snapshots are meant, and their form in JSON."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lamina.cli.command import Arguments
from lamina.cli.output import complain
from lamina.cli.pools import Pools
from lamina.errors import LaminaError, NotFound, UsageError
from lamina.pool.names import check_name, pool_of_name, printable
from lamina.pool.properties import PROPERTIES, find_property, format_value, is_user_property, native_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import Entry, Pool, PropertyValue

_TYPES = {
    "filesystem": ("filesystem",),
    "fs": ("filesystem",),
    "snapshot": ("snapshot",),
    "snap": ("snapshot",),
    "image": ("image",),
    "bookmark": ("bookmark",),
    "all": ("filesystem", "snapshot", "bookmark"),
}


@dataclass(slots=True)
class Selection:
    """Entries by pool, in the order in which they are shown; ``failed`` when an operand could not be found."""

    groups: list[tuple["Pool", list["Entry"]]] = field(default_factory=list)
    failed: bool = False

    def __bool__(self) -> bool:
        return any(entries for _, entries in self.groups)


def parse_types(arguments: Arguments) -> tuple[str, ...]:
    """Return the types that ``-t`` names, empty when it was not given."""
    types: dict[str, None] = {}
    for word in arguments.lists("type"):
        if word not in _TYPES:
            raise UsageError(f"invalid type '{word}'")
        types.update(dict.fromkeys(_TYPES[word]))
    return tuple(types)


def parse_depth(arguments: Arguments) -> int | None:
    """Return the number given with ``-d``."""
    word = arguments.value("depth")
    if word is None:
        return None
    if not (word.isascii() and word.isdigit() and len(word) <= 9):
        raise UsageError(f"invalid depth '{word}': a number of levels, 0 or more, is expected")
    return int(word)


def parse_properties_list(words: Sequence[str], extra: Collection[str] = ()) -> list[str]:
    """Return full names for the words of ``-o`` or of ``get``; words in ``extra`` stay as they are."""
    names = []
    for word in words:
        if word in extra:
            names.append(word)
        elif find_property(word) or is_user_property(word):
            names.append(native_name(word))
        else:
            raise UsageError(f"bad property list: invalid property '{word}'")
    return names


def select(
    pools: Pools, operands: Sequence[str], *, types: Sequence[str], recursive: bool, depth: int | None
) -> Selection:
    """Find what the operands name; an operand that names nothing is one line on standard error.

    Without operands it is everything in every pool. ``types`` empty means filesystems below a dataset, and whatever
    an operand itself is.
    """
    selection = Selection()
    if not operands:
        for pool in pools.everything():
            if isinstance(pool, LaminaError):
                complain(str(pool))
                selection.failed = True
            else:
                _add(selection, pool, [pool.name], types or ("filesystem",), True, depth)
        return selection
    roots: dict[str, list[str]] = {}
    for name in operands:
        try:
            if "#" not in name:
                check_name(name)
            if not pools.of(name).exists(name):
                raise NotFound(f"cannot open '{printable(name)}': dataset does not exist")
        except LaminaError as error:
            complain(str(error))
            selection.failed = True
        else:
            roots.setdefault(pool_of_name(name), []).append(name)
    for pool_name in sorted(roots):
        # The same operand twice is shown once, and operands come in the order of names, as in OpenZFS.
        names = sorted(set(roots[pool_name]))
        pool = pools.of(pool_name)
        if types:
            _add(selection, pool, names, types, recursive, depth)
            continue
        for mark, type_ in (("@", "snapshot"), ("#", "bookmark")):
            named = [name for name in names if mark in name]
            if named:
                _add(selection, pool, named, (type_,), False, None)
        datasets = [name for name in names if "@" not in name and "#" not in name]
        if datasets:
            _add(selection, pool, datasets, ("filesystem",), recursive, depth)
    _merge(selection)
    return selection


def _add(
    selection: Selection, pool: "Pool", names: list[str], types: Sequence[str], recursive: bool, depth: int | None
) -> None:
    asked = tuple(dict.fromkeys("snapshot" if word == "image" else word for word in types))
    entries = pool.list(names, recursive=recursive, depth=depth, types=asked)
    if "image" in types and "snapshot" not in types:
        entries = [entry for entry in entries if entry.type != "snapshot" or entry.kind == "image"]
    selection.groups.append((pool, entries))


def _merge(selection: Selection) -> None:
    """Join groups of the same pool, each entry once, in OpenZFS's order: a dataset, its snapshots, the next."""
    joined: dict[str, tuple[Pool, dict[str, Entry]]] = {}
    for pool, entries in selection.groups:
        joined.setdefault(pool.name, (pool, {}))[1].update((entry.name, entry) for entry in entries)
    if len(joined) < len(selection.groups):
        selection.groups = [(pool, sorted(found.values(), key=_order)) for pool, found in joined.values()]


def _order(entry: "Entry") -> tuple[str, int, int]:
    dataset = entry.name.partition("@")[0].partition("#")[0]
    return dataset, ("filesystem", "snapshot", "bookmark").index(entry.type), entry.id


def entry_json(
    pool: "Pool", entry: "Entry", values: Mapping[str, "PropertyValue"], *, parsable: bool, numbers: bool
) -> dict[str, object]:
    """Return an entry as ``zfs list -j`` and ``zfs get -j`` print it; ``numbers`` is ``--json-int``."""
    return {
        "name": entry.name,
        "type": entry.type.upper(),
        "pool": pool.name,
        "properties": {
            name: {"value": _json_value(name, value, parsable, numbers), "source": source_json(value.source)}
            for name, value in values.items()
        },
    }


def _json_value(name: str, value: "PropertyValue", parsable: bool, numbers: bool) -> str | int | float:
    if numbers and name in PROPERTIES and isinstance(value.value, int | float):
        return value.value
    return format_value(name, value.value, parsable or numbers)


def source_json(source: str) -> dict[str, str]:
    """Return a source, ``inherited from tank``, as ``{"type": "INHERITED", "data": "tank"}``."""
    kind, _, data = source.partition(" from ")
    if kind == "-":
        kind = "none"
    return {"type": kind.upper(), "data": data or "-"}
