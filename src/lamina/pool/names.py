"""Names of pools, datasets and snapshots: OpenZFS's rules and OpenZFS's refusals.

The rules are those of ``entity_namecheck`` and ``pool_namecheck`` (OpenZFS 2.3, module/zcommon/zfs_namecheck.c)
and the order of the checks is theirs, so that a name with two faults is refused for the same one. A name is
``pool[/component]...[@snapshot]``; a component holds ASCII letters, digits, ``-``, ``_``, ``.``, ``:`` and space.
Lengths are bytes.

A check raises :class:`~lamina.errors.InvalidName` with the whole message, ``cannot VERB 'NAME': REASON``.
"""

from lamina.errors import InvalidName

MAX_NAME_LENGTH = 255
"""Longest dataset or snapshot name in bytes, pool and snapshot part included (ZFS_MAX_DATASET_NAME_LEN - 1)."""

MAX_POOL_NAME_LENGTH = 239
"""Longest pool name in bytes: ``POOL/$ORIGIN@$ORIGIN`` must fit in a name too (pool_namecheck)."""

_VALID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.: ")
_VALID_PATH = _VALID | {"/"}
_RESERVED_PREFIXES = ("mirror", "raidz", "draid", "spare")

_EMPTY = "empty component or misplaced '@' or '#' delimiter in name"
_TOO_LONG = "name is too long"
_MISSING_AT = "missing '@' delimiter in snapshot name"


def printable(text: str | bytes, *, backslash: bool = False) -> str:
    r"""Return ``text`` with everything that could act on a terminal written as an escape.

    Control bytes and bytes that are no UTF-8 become ``\xNN``; other characters that ``str.isprintable`` refuses
    (C1 controls, hidden and direction-changing ones, odd blanks) ``\uNNNN``; tab, newline and carriage return ``\t``,
    ``\n``, ``\r``. With ``backslash=True`` a backslash is doubled, which makes the result reversible; without, the
    function can be applied twice.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isprintable() and not (backslash and "\\" in text):
        return text
    return "".join(_escaped(character, backslash) for character in text)


def _escaped(character: str, backslash: bool) -> str:
    if character == "\\":
        return "\\\\" if backslash else character
    if character.isprintable():
        return character
    if character in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[character]
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that is no UTF-8 (surrogateescape)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def pool_of_name(name: str) -> str:
    """Return the pool's part of a dataset, snapshot or bookmark name: ``tank`` of ``tank/a@b``."""
    for index, character in enumerate(name):
        if character in "/@#":
            return name[:index]
    return name


def split_snapshot(name: str) -> tuple[str, str | None]:
    """Split ``a/b@c`` into ``("a/b", "c")``; a name without ``@`` gives ``(name, None)``."""
    dataset, delimiter, snapshot = name.partition("@")
    return dataset, snapshot if delimiter else None


def parent_of(name: str) -> str | None:
    """Return the dataset above: of a snapshot its dataset, of a dataset its parent, of a pool's root None."""
    dataset, snapshot = split_snapshot(name)
    if snapshot is not None:
        return dataset
    parent, slash, _ = dataset.rpartition("/")
    return parent if slash else None


def pool_name_error(name: str) -> str | None:
    """Return why ``name`` cannot be a new pool's name, in OpenZFS's words, or None when it can."""
    if len(_encoded(name)) > MAX_POOL_NAME_LENGTH:
        return _TOO_LONG
    for character in name:
        if character not in _VALID:
            return f"invalid character '{printable(character)}' in pool name"
    if not (name[:1].isascii() and name[:1].isalpha()):
        return "name must begin with a letter"
    if name == "log" or name.startswith(_RESERVED_PREFIXES):
        return "name is reserved"
    return None


def dataset_name_error(name: str) -> str | None:
    """Return why ``name`` cannot name a dataset, in OpenZFS's words, or None when it can."""
    if "@" in name:
        return "snapshot delimiter '@' is not expected here"
    return _entity_error(name)


def snapshot_name_error(name: str) -> str | None:
    """Return why ``name`` (``dataset@snapshot``) cannot name a snapshot, or None when it can."""
    if "@" not in name:
        return _MISSING_AT
    return _entity_error(name)


def check_pool_name(name: str, verb: str = "create") -> None:
    """Raise InvalidName unless ``name`` can be the name of a new pool."""
    _refuse(name, verb, pool_name_error(name))


def check_dataset_name(name: str, verb: str = "create") -> None:
    """Raise InvalidName unless ``name`` can name a dataset (a pool's root dataset included)."""
    _refuse(name, verb, dataset_name_error(name))


def check_snapshot_name(name: str, verb: str = "create snapshot") -> None:
    """Raise InvalidName unless ``name`` is ``dataset@snapshot`` and can name a snapshot."""
    _refuse(name, verb, snapshot_name_error(name))


def check_name(name: str, verb: str = "open") -> None:
    """Raise InvalidName unless ``name`` can name a dataset or a snapshot, whichever it looks like."""
    _refuse(name, verb, _entity_error(name))


def _refuse(name: str, verb: str, reason: str | None) -> None:
    if reason is not None:
        raise InvalidName(f"cannot {verb} '{printable(name)}': {reason}")


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _is_plain(name: str) -> bool:
    """Whether nothing can be wrong with a name: quick, because thousands of snapshots are checked at once."""
    head, at, tail = name.partition("@")
    return (
        0 < len(head) <= len(name) <= MAX_NAME_LENGTH
        and _VALID_PATH.issuperset(head)
        and _VALID.issuperset(tail)
        and bool(at) == bool(tail)
        and head[0] not in "/."
        and head[-1] != "/"
        and "//" not in head
        and "/." not in head
        and tail[:1] != "."
    )


def _entity_error(name: str) -> str | None:
    """OpenZFS's zfs_validate_name after its type checks, then entity_namecheck, in their order."""
    if _is_plain(name):
        return None
    if "#" in name:
        return "bookmark delimiter '#' is not expected here"
    if "%" in name:
        # '%' stands for ranges (destroy a@x%y) and for temporary names inside OpenZFS.
        return "invalid character % in name"
    if len(_encoded(name)) > MAX_NAME_LENGTH:
        return _TOO_LONG
    if name.startswith("/"):
        return "leading slash in name"
    if not name:
        return _EMPTY
    start = 0
    seen_delimiter = False
    while True:
        end = start
        while end < len(name) and name[end] not in "/@":
            end += 1
        if end == len(name) and name[end - 1] == "/":
            return "trailing slash in name"
        component = name[start:end]
        for character in component:
            if character not in _VALID:
                return f"invalid character '{printable(character)}' in name"
        delimiter = name[end : end + 1]
        if delimiter != "@":
            if component == ".":
                return "self reference, '.' is found in name"
            if component == "..":
                return "parent reference, '..' is found in name"
        else:
            if seen_delimiter:
                return "multiple '@' and/or '#' delimiters in name"
            seen_delimiter = True
        if not component:
            return _EMPTY
        if not delimiter:
            return None
        if delimiter == "/" and seen_delimiter:
            return "trailing slash in name"
        start = end + 1
