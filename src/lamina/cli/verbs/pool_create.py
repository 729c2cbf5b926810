"""``lamina pool create``."""

import os

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.typed import command
from lamina.cli.verbs.set import parse_assignments
from lamina.errors import AlreadyExists, PropertyError, UsageError
from lamina.pool.names import check_pool_name, printable
from lamina.pool.ownproperties import check_properties
from lamina.pool.properties import find_property, is_user_property, parse_properties


def run(arguments: Arguments) -> int:
    """Make a directory a pool."""
    if not arguments.operands:
        raise UsageError("missing pool name argument")
    if len(arguments.operands) == 1:
        raise UsageError("missing directory argument")
    if len(arguments.operands) > 2:
        raise UsageError("too many arguments")
    from lamina.pool import Pool, pool_names

    name, path = arguments.operands
    mode = _mode(arguments.value("mode"))
    properties = parse_assignments(arguments.values("property"))
    own = parse_assignments(arguments.values("pool-property"))
    check_pool_name(name)
    for key in properties:
        if not find_property(key) and not is_user_property(key):
            raise PropertyError(f"property '{printable(key)}' is not a valid filesystem property")
    parse_properties(properties, prefix=f"cannot create '{name}': ")
    check_properties(name, own, "create")
    if arguments.has("dry-run"):
        if name in pool_names():
            raise AlreadyExists(f"cannot create '{name}': pool already exists")
        if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
            raise AlreadyExists(f"cannot create '{name}': '{printable(path)}' exists and is not an empty directory")
        print(f"would create '{name}' in {printable(os.path.abspath(path))}")
        return 0
    Pool.create(
        name,
        path,
        group=arguments.value("group"),
        mode=mode,
        properties=properties,
        own_properties=own,
        command=command(),
    ).close()
    return 0


def _mode(word: str | None) -> int | None:
    if word is None:
        return None
    if not word or len(word) > 5 or set(word) - set("01234567"):
        raise UsageError(f"invalid mode '{word}': octal digits are expected, such as 750")
    return int(word, 8)


COMMAND = Command(
    name="pool create",
    synopsis=(
        "pool create [-n] [-o property=value] ... [-O file-system-property=value] ...",
        "    [-g group] [-m mode] <pool> <directory>",
    ),
    summary="make a directory a pool",
    description="""
Makes DIRECTORY, which does not exist or is empty, a pool of the name POOL. All its data will lie there.

Who may read the pool is decided here. By default only its owner; with -g the members of the group can list and mount
what is in it, without being able to write.""",
    options=(
        Option(
            "O",
            "property",
            "set a property of the pool's root dataset; can be given more than once",
            "property=value",
            "assignment",
        ),
        Option(
            "o",
            "pool-property",
            "set a property of the pool itself: comment, images",
            "property=value",
            "=comment= images=",
        ),
        Option("g", "group", "the group whose members may read the pool", "group"),
        Option("m", "mode", "permissions of the pool's directory, octal, such as 750", "mode"),
        Option("n", "dry-run", "change nothing; say what would be done"),
    ),
    examples=(
        ("A pool", "lamina pool create tank /data/tank"),
        ("One for the whole team", "lamina pool create -g ml -O compression=zstd-9 tank /data/tank"),
    ),
    run=run,
    operands="none path",
)
