"""``lamina unmount`` and ``lamina umount``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain
from lamina.errors import LaminaError, UsageError


def run(arguments: Arguments) -> int:
    """Undo mounts."""
    from lamina.mount import mounts, umount

    force, lazy = arguments.has("force"), arguments.has("lazy")
    if arguments.has("all"):
        if arguments.operands:
            raise UsageError("too many arguments")
        # The last mount first: one may lie below another.
        targets = [str(one.mountpoint) for one in reversed(mounts())]
    elif not arguments.operands:
        raise UsageError("missing filesystem argument")
    else:
        targets = arguments.operands
    failed = False
    for target in targets:
        try:
            umount(target, force=force, lazy=lazy)
        except LaminaError as error:
            complain(str(error))
            failed = True
    return 1 if failed else 0


COMMAND = Command(
    name="unmount",
    synopsis=("unmount [-fl] <dataset|snapshot|directory> ...", "unmount [-fl] -a"),
    summary="undo a mount",
    description="""
Undoes mounts, named by what is mounted or by the directory. While something is in use there, it is refused.""",
    options=(
        Option("f", "force", "unmount although something is in use; what is in use fails from then on"),
        Option("l", "lazy", "take the mount away now, end it when nothing is in use any more"),
        Option("a", "all", "unmount everything that lamina mounted"),
    ),
    examples=(("Undo a mount", "lamina umount /mnt/img"),),
    run=run,
    operands="mount path",
)
