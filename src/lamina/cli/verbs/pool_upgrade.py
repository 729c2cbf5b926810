"""``lamina pool upgrade``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain
from lamina.cli.typed import command
from lamina.errors import LaminaError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool.recovery.upgrade import Upgrade

_VERSIONS = ((1, "Initial lamina version"), (2, "Feature flags, copies of tree nodes, records of all names"))


def run(arguments: Arguments) -> int:
    """Say what can be upgraded, or upgrade."""
    if arguments.has("verbose"):
        if arguments.operands or arguments.has("all"):
            raise UsageError("-v option is incompatible with other arguments")
        _print_features()
        return 0
    if arguments.has("all") and arguments.operands:
        raise UsageError("-a option should not be used along with a pool name")
    if arguments.has("all") or arguments.operands:
        return _upgrade(arguments.operands)
    return _print_pools()


def _print_features() -> None:
    from lamina.pool import features

    print("This system supports feature flags of pools.\n")
    print("The following features are supported:\n\nFEAT DESCRIPTION\n" + "-" * 61)
    for feature in features.ALL:
        print(f"{feature.name}\n     {feature.description}")
    print("\nThe following versions of the catalogue are supported:\n")
    print("VER  DESCRIPTION\n---  " + "-" * 56)
    for number, what in _VERSIONS:
        print(f"{number:2}   {what}")


def _found() -> "tuple[list[Upgrade], bool]":
    from lamina.pool import pool_names
    from lamina.pool.recovery.upgrade import examine

    found, failed = [], False
    for name in sorted(pool_names()):
        try:
            found.append(examine(name))
        except LaminaError as error:
            complain(str(error))
            failed = True
    return found, failed


def _print_pools() -> int:
    found, failed = _found()
    print("This system supports feature flags of pools.\n")
    old = [one for one in found if one.version < _VERSIONS[-1][0]]
    lacking = [one for one in found if one not in old and one.missing]
    if old:
        print("The following pools are formatted with legacy version numbers and have to be upgraded before use:\n")
        print("VER  POOL\n---  ------------")
        for one in old:
            print(f"{one.version:2}   {one.name}")
        print()
    if lacking:
        print("Some supported features are not enabled on the following pools:\n")
        print("POOL  FEATURE\n---------------")
        for one in lacking:
            print(one.name)
            for feature in one.missing:
                print(f"      {feature.name}")
        print()
    if old or lacking:
        print("'lamina pool upgrade <pool>' upgrades one, 'lamina pool upgrade -a' all.")
    elif found:
        print("Every pool has all supported features enabled.")
    return 1 if failed else 0


def _upgrade(names: list[str]) -> int:
    from lamina.pool.recovery.upgrade import upgrade_pool

    failed = False
    if not names:
        found, failed = _found()
        names = [one.name for one in found]
    print("This system supports feature flags of pools.\n")
    for name in dict.fromkeys(names):
        try:
            done = upgrade_pool(name, command=command())
        except LaminaError as error:
            complain(str(error))
            failed = True
            continue
        if not done.needed:
            print(f"Pool '{name}' already has all supported features enabled.")
            continue
        if done.version < _VERSIONS[-1][0]:
            print(f"Successfully upgraded '{name}' from version {done.version} to feature flags.")
        if done.missing:
            print(f"Enabled the following features on '{name}':")
            for feature in done.missing:
                print(f"  {feature.name}")
    return 1 if failed else 0


COMMAND = Command(
    name="pool upgrade",
    synopsis=("pool upgrade [-v]", "pool upgrade [-a | <pool> ...]"),
    summary="bring pools of an older lamina up to date",
    description="""
Without a pool, lists the pools that an older lamina made and what they lack. With one, or -a for all, gives them what
this version has: their catalogue is changed in one step, and new features are enabled. It takes seconds, whatever the
size; nobody else may use the pool meanwhile. An older lamina cannot open the pool afterwards.

Data that is there already is not rewritten: tree nodes written before are not kept twice until a scrub copies them.""",
    options=(
        Option("v", "verbose", "list the features and versions that this lamina knows"),
        Option("a", "all", "upgrade all pools"),
    ),
    examples=(("What would be upgraded?", "lamina pool upgrade"), ("Upgrade", "lamina pool upgrade tank")),
    run=run,
    operands="pool",
)
