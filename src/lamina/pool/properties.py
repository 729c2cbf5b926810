"""The properties of datasets and snapshots: one table, and what each property's values look like.

Names, aliases, column headers, value lists and refusals are OpenZFS's (module/zcommon/zfs_prop.c,
lib/libzfs/libzfs_dataset.c, libzfs_util.c). A property that lamina does not honour is not in the table, so that
setting it is refused and promises nothing.

Three forms of a value:

- *typed*: what a person wrote, ``128K``, ``none``;
- *stored*: one canonical string, ``131072``, ``0``: what :func:`parse_value` returns and the catalogue keeps;
- *raw*: what Python works with, ``131072`` as int: :func:`raw_value` makes it of the stored form,
  :func:`format_value` prints it.

Errors are :class:`~lamina.errors.PropertyError` with the bare reason; who knows the verb puts
``cannot set property for 'NAME': `` before it (the ``prefix`` of :func:`parse_properties`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from lamina.errors import PropertyError
from lamina.pool.names import printable
from lamina.pool.units import format_date, format_ratio, format_size, parse_size

Kind = Literal["size", "ratio", "date", "number", "index", "string", "path", "rules"]
Raw = int | float | str | None

MAX_USER_PROPERTY_NAME = 255
"""Longest user property name in bytes (ZAP_MAXNAMELEN - 1)."""

MAX_USER_PROPERTY_VALUE = 8191
"""Longest user property value in bytes (ZFS_MAXPROPLEN - 1)."""

MIN_RECORDSIZE = 512
MAX_RECORDSIZE = 1024 * 1024

_ZSTD_FAST = (*range(1, 11), *range(20, 101, 10), 500, 1000)
_ON_OFF = ("on", "off")
_OF_BOOKMARKS = ("type", "creation", "createtxg", "guid")
_TYPES = ("filesystem", "snapshot", "bookmark")
_COMPRESSION = (
    *("on", "off", "gzip", *(f"gzip-{level}" for level in range(1, 10)), "zle", "lz4"),
    *("zstd", *(f"zstd-{level}" for level in range(1, 20))),
    *("zstd-fast", *(f"zstd-fast-{level}" for level in _ZSTD_FAST)),
)
_COMPRESSION_HELP = (
    "on | off | gzip | gzip-[1-9] | zle | lz4 | zstd | zstd-[1-19] | zstd-fast | "
    "zstd-fast-[1-10,20,30,40,50,60,70,80,90,100,500,1000]"
)
_RETENTION_HELP = "none | last=N,hourly=N,daily=N,weekly=N,monthly=N,yearly=N,within=1y6m2w10d3h,prefix=TEXT"


@dataclass(frozen=True, slots=True)
class Property:
    """One native property."""

    name: str
    header: str
    """The column's title in tables."""
    kind: Kind
    values: str
    """What the value looks like, for help and for refusals: ``<size>``, ``on | off``."""
    aliases: tuple[str, ...] = ()
    default: str | None = None
    """Stored form of the default; None where there is none (read-only properties)."""
    settable: bool = False
    inheritable: bool = False
    filesystem: bool = True
    snapshot: bool = False
    choices: tuple[str, ...] = ()
    """What an ``index`` property takes; the longest sets the width of its column."""

    @property
    def readonly(self) -> bool:
        """Whether ``set`` refuses it."""
        return not self.settable

    @property
    def right_aligned(self) -> bool:
        """Whether its column is aligned to the right: numbers are, dates are not."""
        return self.kind in ("size", "ratio", "number")

    @property
    def width(self) -> int:
        """The least width of its column, as OpenZFS's zprop_width."""
        if self.right_aligned:
            return max(len(self.header), 5)
        return max(len(self.header), *(len(choice) for choice in self.choices), 0)

    @property
    def fixed_width(self) -> bool:
        """Whether no printed value can be wider than :attr:`width` (parsable values can)."""
        return self.kind in ("size", "ratio", "number", "index")

    def applies_to(self, entry_type: str) -> bool:
        """Whether an entry of this type, ``filesystem``, ``snapshot`` or ``bookmark``, has the property."""
        if entry_type == "bookmark":
            return self.name in _OF_BOOKMARKS
        return self.snapshot if entry_type == "snapshot" else self.filesystem


def _size(name: str, header: str, *aliases: str, snapshot: bool = False) -> Property:
    return Property(name, header, "size", "<size>", aliases, snapshot=snapshot)


def _ratio(name: str, header: str, values: str, *aliases: str, snapshot: bool = False) -> Property:
    return Property(name, header, "ratio", values, aliases, snapshot=snapshot)


def _switch(name: str, header: str, default: str, *aliases: str) -> Property:
    return Property(name, header, "index", "on | off", aliases, default, True, True, choices=_ON_OFF)


def _limit(name: str, header: str, *aliases: str) -> Property:
    return Property(name, header, "size", "<size> | none", aliases, "0", True)


# In the order of `get all`: OpenZFS's, with lamina's own at the end.
_TABLE = (
    Property("type", "TYPE", "index", "filesystem | snapshot | bookmark", snapshot=True, choices=_TYPES),
    Property("creation", "CREATION", "date", "<date>", snapshot=True),
    _size("used", "USED", snapshot=True),
    _size("available", "AVAIL", "avail"),
    _size("referenced", "REFER", "refer", snapshot=True),
    _ratio("compressratio", "RATIO", "<1.00x or higher if compressed>", "ratio", snapshot=True),
    Property("mounted", "MOUNTED", "index", "yes | no", snapshot=True, choices=("yes", "no")),
    Property("origin", "ORIGIN", "string", "<snapshot>"),
    _limit("quota", "QUOTA"),
    _limit("reservation", "RESERV", "reserv"),
    Property(
        *("recordsize", "RECSIZE", "size", "512 to 1M, power of 2", ("recsize",), "131072"),
        settable=True,
        inheritable=True,
    ),
    Property("mountpoint", "MOUNTPOINT", "path", "<path> | legacy | none", (), "none", True, True),
    Property(
        *("compression", "COMPRESS", "index", _COMPRESSION_HELP, ("compress",), "on"),
        settable=True,
        inheritable=True,
        choices=_COMPRESSION,
    ),
    Property(
        *("copies", "COPIES", "index", "1 | 2 | 3", (), "1"),
        settable=True,
        inheritable=True,
        choices=("1", "2", "3"),
    ),
    _switch("atime", "ATIME", "on"),
    _switch("readonly", "RDONLY", "off", "rdonly"),
    Property(
        *("snapdir", "SNAPDIR", "index", "hidden | visible", (), "hidden"),
        settable=True,
        inheritable=True,
        choices=("hidden", "visible"),
    ),
    Property("createtxg", "CREATETXG", "number", "<uint64>", snapshot=True),
    _limit("refquota", "REFQUOTA"),
    _limit("refreservation", "REFRESERV", "refreserv"),
    Property("guid", "GUID", "number", "<uint64>", snapshot=True),
    Property("receive_resume_token", "RESUMETOK", "string", "<string token>"),
    _size("usedbysnapshots", "USEDSNAP", "usedsnap"),
    _size("usedbydataset", "USEDDS", "usedds"),
    _size("usedbychildren", "USEDCHILD", "usedchild"),
    _size("usedbyrefreservation", "USEDREFRESERV", "usedrefreserv"),
    Property(
        *("defer_destroy", "DEFER_DESTROY", "index", "on | off"), filesystem=False, snapshot=True, choices=_ON_OFF
    ),
    Property("userrefs", "USERREFS", "number", "<count>", filesystem=False, snapshot=True),
    _ratio("refcompressratio", "REFRATIO", "<1.00x or higher if compressed>", "refratio", snapshot=True),
    Property("clones", "CLONES", "string", "<dataset>[,...]", filesystem=False, snapshot=True),
    _size("logicalused", "LUSED", "lused"),
    _size("logicalreferenced", "LREFER", "lrefer", snapshot=True),
    _size("unique", "UNIQUE", snapshot=True),
    _ratio("dedupratio", "DEDUP", "<1.00x or higher if shared>", "dedup"),
    _ratio("reduction", "REDUCTION", "<1.00x or higher if saved>"),
    Property("retention", "RETENTION", "rules", _RETENTION_HELP, (), "none", True, True),
    Property(
        *("autosnapshot", "AUTOSNAPSHOT", "rules", "none | hourly,daily,weekly,monthly", (), "none"),
        settable=True,
        inheritable=True,
        choices=("none", "hourly", "daily", "weekly", "monthly"),
    ),
)

PROPERTIES: Mapping[str, Property] = {property_.name: property_ for property_ in _TABLE}
"""Every native property by its name, in the order of ``get all``."""

_BY_ALIAS = {alias: property_ for property_ in _TABLE for alias in (property_.name, *property_.aliases)}

SPACE_COLUMNS = ("available", "used", "usedbysnapshots", "usedbydataset", "usedbyrefreservation", "usedbychildren")
"""The columns of ``list -o space``, after the name."""


def find_property(name: str) -> Property | None:
    """Return the native property of this name or alias, whatever the case of the letters; None when there is none."""
    return _BY_ALIAS.get(name) or _BY_ALIAS.get(name.lower())


def is_user_property(name: str) -> bool:
    """Whether ``name`` has the form of a user property: lower-case ``module:property`` (zfs_prop_user)."""
    return ":" in name and all(character in "abcdefghijklmnopqrstuvwxyz0123456789-_.:" for character in name)


def native_name(name: str) -> str:
    """Return the full name of a property or alias; a user property stays; PropertyError for anything else."""
    found = find_property(name)
    if found is not None:
        return found.name
    if is_user_property(name):
        return name
    raise PropertyError(f"invalid property '{printable(name)}'")


def properties_for(entry_type: str) -> list[Property]:
    """Return the native properties that an entry of this type has, in order."""
    return [property_ for property_ in _TABLE if property_.applies_to(entry_type)]


def parse_value(name: str, typed: str) -> str:
    """Return the stored form of a typed value of a settable property, or raise PropertyError with the reason."""
    found = find_property(name)
    if found is None:
        return _parse_user(native_name(name), typed)
    if found.readonly:
        raise PropertyError(f"'{found.name}' is readonly")
    if found.kind == "index":
        if typed not in found.choices:
            raise PropertyError(f"'{found.name}' must be one of '{found.values}'")
        return typed
    if found.kind == "path":
        return _parse_path(found, typed)
    if found.kind == "rules":
        from lamina.pool.rules import stored_form

        return stored_form(found.name, typed)
    size = 0 if typed == "none" else parse_size(printable(typed))
    if found.name == "recordsize" and not (MIN_RECORDSIZE <= size <= MAX_RECORDSIZE and size.bit_count() == 1):
        raise PropertyError(
            f"'recordsize' must be power of 2 from {format_size(MIN_RECORDSIZE)} to {format_size(MAX_RECORDSIZE)}"
        )
    if found.name in ("quota", "refquota") and size == 0 and typed != "none":
        raise PropertyError("use 'none' to disable quota/refquota")
    return str(size)


def _parse_path(found: Property, typed: str) -> str:
    if typed in ("none", "legacy"):
        return typed
    if not typed.startswith("/"):
        raise PropertyError(f"'{found.name}' must be an absolute path, 'none', or 'legacy'")
    if any(len(part) > 255 for part in _utf8(found.name, typed).split(b"/")):
        raise PropertyError(f"component of '{found.name}' is too long")
    return typed


def _parse_user(name: str, typed: str) -> str:
    if len(name) > MAX_USER_PROPERTY_NAME:
        raise PropertyError(f"property name '{name}' is too long")
    if len(_utf8(name, typed)) > MAX_USER_PROPERTY_VALUE:
        raise PropertyError("property value too long")
    return typed


def _utf8(name: str, typed: str) -> bytes:
    try:
        return typed.encode("utf-8")
    except UnicodeEncodeError:
        raise PropertyError(f"the value of '{name}' is not valid UTF-8") from None


def parse_properties(
    typed: Mapping[str, str] | Iterable[tuple[str, str]], *, entry_type: str = "filesystem", prefix: str = ""
) -> dict[str, str]:
    """Return stored values by full name, all checked before any is returned.

    ``prefix`` goes before the reason of a refusal: ``cannot create 'tank/a': ``. The checks come in OpenZFS's order:
    only user properties can be set on a snapshot; then the name; then whether it is read-only; then the value.
    """
    stored: dict[str, str] = {}
    pairs = typed.items() if isinstance(typed, Mapping) else typed
    for name, value in pairs:
        try:
            if entry_type == "bookmark":
                raise PropertyError("bookmarks have no properties that can be set")
            if entry_type == "snapshot" and (find_property(name) or not is_user_property(name)):
                raise PropertyError("this property can not be modified for snapshots")
            full = native_name(name)
            if full in stored:
                raise PropertyError(f"property '{full}' specified multiple times")
            stored[full] = parse_value(full, value)
        except PropertyError as error:
            raise PropertyError(prefix + str(error)) from None
    return stored


def check_inherit(name: str) -> str:
    """Return the full name of a property that can be inherited, or raise PropertyError with what to do instead."""
    full = native_name(name)
    found = PROPERTIES.get(full)
    if found is not None and found.readonly:
        raise PropertyError(f"{full} property is read-only")
    if found is not None and not found.inheritable:
        clear = format_value(full, raw_value(full, found.default))
        raise PropertyError(f"'{full}' property cannot be inherited; use 'lamina set {full}={clear}' to clear")
    return full


def inherited_value(name: str, stored: str, source: str, dataset: str) -> str:
    """Return what ``dataset`` gets of the value ``stored`` that is set on ``source``, a dataset above it.

    Only a mount point changes on the way down: ``/data`` on ``tank`` is ``/data/a/b`` on ``tank/a/b``.
    """
    if name != "mountpoint" or stored in ("none", "legacy"):
        return stored
    below = dataset[len(source) :].lstrip("/")
    return stored if not below else f"{stored.rstrip('/')}/{below}"


def default_value(name: str) -> str | None:
    """Return the stored form of a property's default, None where it has none."""
    found = PROPERTIES.get(name)
    return None if found is None else found.default


def raw_value(name: str, stored: str | None) -> Raw:
    """Return the raw form of a stored value: bytes as int, everything else a string."""
    found = PROPERTIES.get(name)
    if stored is not None and found is not None and found.kind == "size":
        return int(stored)
    return stored


def format_value(name: str, raw: Raw, parsable: bool = False) -> str:
    """Return a raw value as `get` and `list` print it; ``parsable`` is their ``-p``. None is ``-``."""
    if raw is None:
        return "-"
    found = PROPERTIES.get(name)
    if isinstance(raw, str) or found is None:
        return str(raw)
    if found.kind == "size":
        if found.settable and found.default == "0" and raw == 0 and not parsable:  # a limit
            return "none"
        return str(int(raw)) if parsable else format_size(int(raw))
    if found.kind == "ratio":
        return format_ratio(raw, parsable)
    if found.kind == "date" and not parsable:
        return format_date(int(raw))
    return str(raw)


def describe_properties() -> str:
    """Return the table of properties that help prints: PROPERTY, EDIT, INHERIT, VALUES; read-only ones first."""
    lines = [f"{'PROPERTY':<20}  EDIT  INHERIT   VALUES", ""]
    for found in sorted(_TABLE, key=lambda one: (one.settable, one.name)):
        edit, inherit = ("YES" if flag else "NO" for flag in (found.settable, found.inheritable))
        lines.append(f"{found.name:<20}  {edit:>4}  {inherit:>7}   {found.values}")
    return "\n".join(lines)
