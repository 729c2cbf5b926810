"""``lamina inherit``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain
from lamina.cli.pools import Pools
from lamina.errors import LaminaError, PropertyError, UsageError
from lamina.pool.names import check_name
from lamina.pool.properties import check_inherit, find_property, is_user_property


def run(arguments: Arguments) -> int:
    """Clear a property on datasets, so that they inherit it."""
    if not arguments.operands:
        raise UsageError("missing property argument")
    word, *names = arguments.operands
    if not find_property(word) and not is_user_property(word):
        raise UsageError(f"invalid property '{word}'")
    if not names:
        raise UsageError("missing dataset argument")
    try:
        name = check_inherit(word)
    except PropertyError as error:
        complain(str(error))
        return error.exit_status
    failed = False
    with Pools(write=True) as pools:
        for dataset in names:
            try:
                check_name(dataset)
                pools.of(dataset).inherit(dataset, name, recursive=arguments.has("recursive"))
            except LaminaError as error:
                complain(str(error))
                failed = True
    return 1 if failed else 0


COMMAND = Command(
    name="inherit",
    synopsis=("inherit [-rS] <property> <dataset|snapshot> ...",),
    summary="clear a property, so that it is inherited",
    description="""
Clears a property that was set on the datasets. They then have the value of the nearest dataset above that sets it, or
the default. A user property that is set nowhere above is gone.""",
    options=(
        Option("r", "recursive", "also clear it on everything below"),
        Option("S", "received", "accepted for scripts written for zfs; there are no received values to go back to"),
    ),
    examples=(("Use the parent's compression again, everywhere below", "lamina inherit -r compression tank/images"),),
    run=run,
    operands="property dataset snapshot",
    shows_properties=True,
)
