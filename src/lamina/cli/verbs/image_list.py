"""``lamina image list``."""

from lamina.cli.command import JSON, JSON_INT, PARSABLE, SCRIPTED, Arguments, Command
from lamina.cli.entries import Selection
from lamina.cli.output import complain
from lamina.cli.pools import Pools
from lamina.cli.verbs.list import show
from lamina.errors import LaminaError
from lamina.pool.names import check_name

_COLUMNS = ("name", "logicalreferenced", "referenced", "unique", "creation")


def run(arguments: Arguments) -> int:
    """List images, of everything or below the named datasets."""
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
        return show(arguments, selection, _COLUMNS, (), "image list")


COMMAND = Command(
    name="image list",
    synopsis=("image list [-Hp] [-j [--json-int]] [dataset] ...",),
    summary="list images and what each one costs",
    description="""
Lists images. LREFER is the size of an image's files, REFER the stored bytes of what it consists of, shared with
others or not, UNIQUE the stored bytes that only this image has: what destroying it would give back.""",
    options=(SCRIPTED, PARSABLE, JSON, JSON_INT),
    examples=(("The images below a dataset", "lamina image list tank/images"),),
    run=run,
    operands="dataset",
)
