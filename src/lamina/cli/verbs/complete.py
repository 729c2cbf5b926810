"""``lamina __complete``: what may stand at the cursor. Called by the scripts of :mod:`lamina.cli.completion`.

Never prints an error: a completion that cannot be made is empty.
"""

from collections.abc import Callable, Iterable

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.commands import COMMANDS, GROUPS, load, resolve
from lamina.errors import LaminaError

_PATH = ":path"


class _AllWords(Command):
    """Every word is an operand here, also those that look like options."""

    __slots__ = ()

    def parse(self, words: list[str]) -> Arguments:
        return Arguments(operands=words)


def run(arguments: Arguments) -> int:
    """Print the candidates for the last word."""
    try:
        for candidate in candidates(arguments.operands or [""]):
            if candidate.isprintable():
                print(candidate)
    except (LaminaError, OSError):
        pass  # a pool that cannot be read offers no names
    return 0


def candidates(words: list[str]) -> list[str]:
    """Return what may stand in place of the last of ``words``."""
    *before, current = words
    found = resolve(before) if before else None
    if found is None:
        return _verbs(before, current)
    verb, given = found
    if verb not in COMMANDS:
        return []
    command = load(verb)
    pending = _pending_option(command, given)
    if pending is not None:
        return _of_kind(pending.completes, current, "")
    if current.startswith("-") and "--" not in given:
        return _matching(_option_words(command), current)
    return _operands(command, given, current)


def _verbs(before: list[str], current: str) -> list[str]:
    prefix = " ".join(before)
    if not before:
        firsts = [verb.partition(" ")[0] for verb in COMMANDS]
        return _matching(dict.fromkeys([*firsts, "umount"]), current)
    if prefix in GROUPS:
        return _matching([verb[len(prefix) + 1 :] for verb in COMMANDS if verb.startswith(prefix + " ")], current)
    return []


def _option_words(command: Command) -> list[str]:
    words = []
    for option in command.options:
        words += [f"-{option.short}"] if option.short else []
        words.append(f"--{option.long}")
    return [*words, "--help"]


def _pending_option(command: Command, given: list[str]) -> Option | None:
    """The option whose value the cursor stands on, when the word before is that option."""
    if not given or "--" in given or not given[-1].startswith("-"):
        return None
    last = given[-1]
    for option in command.options:
        if option.metavar and last == f"--{option.long}":
            return option
        # In -rHo only the last letter can still wait for a value, and only if none before it takes one.
        if option.metavar and option.short and not last.startswith("--") and last.endswith(option.short):
            valued = {one.short for one in command.options if one.metavar and one.short}
            if not valued & set(last[1:-1]):
                return option
    return None


def _operands(command: Command, given: list[str], current: str) -> list[str]:
    try:
        count = len(command.parse(given).operands)
    except LaminaError:
        return []
    kinds = command.operands
    if command.name in ("get", "pool get", "inherit") and count == 0:
        return _of_kind("column" if command.name == "get" else kinds.split()[0], current, "")
    if command.name == "image import":
        return _of_kind("path" if count % 2 == 0 else "image", current, "")
    if command.name == "pool create":
        return [_PATH] if count == 1 else []
    if command.name == "set":
        assigned = count and all("=" in word for word in command.parse(given).operands)
        kinds = "assignment dataset snapshot" if assigned else "assignment" if not count else "dataset snapshot"
    elif command.name in ("get", "inherit"):
        kinds = "dataset snapshot"
    elif command.name == "pool get":
        kinds = "pool"
    elif command.name in ("hold", "release", "clone", "image push", "image migrate"):
        # One word of the first kind, then the other.
        kinds = kinds.split()[min(count, 1)]
    elif command.name == "pool set":
        kinds = "pool" if count else "=comment= images="
    elif command.name == "mount":
        kinds = "path" if count else "dataset snapshot"
    elif command.name in ("image tag", "image pull"):
        # The image or reference, then where it goes.
        kinds = "image" if count else kinds.split()[0]
    elif command.name == "help":
        return _verbs(command.parse(given).operands, current) + _matching(["properties"] if not count else [], current)
    if kinds.startswith("="):
        return _of_kind(kinds, current, "")
    return [one for kind in kinds.split() for one in _of_kind(kind, current, "@" if "snapshot" in kinds else "")]


def _of_kind(kind: str, current: str, _hint: str) -> list[str]:
    if kind.startswith("="):
        return _in_list(kind[1:].split(), current)
    complete = _KINDS.get(kind)
    return [] if complete is None else complete(current)


def _matching(words: Iterable[str], current: str) -> list[str]:
    return [word for word in words if word.startswith(current)]


def _in_list(words: Iterable[str], current: str) -> list[str]:
    """Complete the last word of a list with commas."""
    head, comma, last = current.rpartition(",")
    return [head + comma + word for word in words if word.startswith(last)]


def _columns(current: str) -> list[str]:
    from lamina.pool.properties import PROPERTIES

    names = [alias for found in PROPERTIES.values() for alias in (found.name, *found.aliases)]
    return _in_list(["name", "all", "space", *names], current)


def _settable(current: str) -> list[str]:
    from lamina.pool.properties import PROPERTIES

    return _matching([found.name for found in PROPERTIES.values() if found.settable], current)


def _assignments(current: str) -> list[str]:
    from lamina.pool.properties import find_property

    name, equals, _ = current.partition("=")
    if not equals:
        return [f"{word}=" for word in _settable(current)]
    found = find_property(name)
    return [] if found is None else _matching([f"{name}={choice}" for choice in found.choices], current)


def _pools(current: str) -> list[str]:
    from lamina.pool import pool_names

    return _matching(sorted(pool_names()), current)


def _pool_properties(current: str) -> list[str]:
    from lamina.cli.verbs.pool_list import PROPERTIES

    return _in_list(["all", *PROPERTIES], current)


def _entries(current: str, types: tuple[str, ...]) -> list[str]:
    from lamina.pool import pool_names, pool_of
    from lamina.pool.names import pool_of_name

    names: list[str] = []
    for name in sorted(pool_names()):
        # Only the pools that can match are opened.
        if name.startswith(current) or name == pool_of_name(current):
            with pool_of(name) as pool:
                names += [entry.name for entry in pool.list([name], recursive=True, types=types)]
    return _matching(names, current)


def _datasets(current: str) -> list[str]:
    return _entries(current, ("filesystem",))


def _snapshots(current: str) -> list[str]:
    # Thousands of snapshots are offered only where the dataset is clear.
    return _entries(current, ("snapshot",)) if "@" in current else []


def _all_snapshots(current: str) -> list[str]:
    return _entries(current, ("snapshot",))


def _all_images(current: str) -> list[str]:
    return _entries(current, ("image",))


def _image_columns(current: str) -> list[str]:
    from lamina.cli.verbs.image_list import IMAGE_COLUMNS

    head, comma, last = current.rpartition(",")
    own = [head + comma + word for word in IMAGE_COLUMNS if word.startswith(last)]
    return list(dict.fromkeys([*own, *_columns(current)]))


def _new_images(current: str) -> list[str]:
    return [] if "@" in current else [f"{name}@" for name in _datasets(current)]


def _mounts(current: str) -> list[str]:
    from lamina.mount import mounts

    return _matching(dict.fromkeys(word for one in mounts() for word in (one.source, str(one.mountpoint))), current)


_KINDS: dict[str, Callable[[str], list[str]]] = {
    "column": _columns,
    "property": _settable,
    "assignment": _assignments,
    "pool": _pools,
    "pool-properties": _pool_properties,
    "dataset": _datasets,
    "snapshot": _snapshots,
    "all-snapshots": _all_snapshots,
    "all-images": _all_images,
    "image-column": _image_columns,
    "image": _new_images,
    "mount": _mounts,
    "path": lambda _: [_PATH],
}

COMMAND = _AllWords(name="__complete", synopsis=("__complete [word] ...",), summary="", description="", run=run)
