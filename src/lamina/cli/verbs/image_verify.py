"""``lamina image verify``."""

from pathlib import Path

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import complain, print_json
from lamina.cli.pools import Pools
from lamina.cli.progress import ProgressBar
from lamina.errors import SourceError, UsageError
from lamina.pool.names import check_snapshot_name, printable


def run(arguments: Arguments) -> int:
    """Compare an image with a directory tree."""
    against = arguments.value("against")
    if not arguments.operands:
        raise UsageError("missing image argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    if against is None:
        raise UsageError("missing --against with the directory to compare with")
    name = arguments.operands[0]
    check_snapshot_name(name, "verify")
    directory = Path(against)
    if not directory.is_dir():
        raise SourceError(f"cannot verify '{name}': '{printable(against)}' is not a directory")
    bar = ProgressBar(f"verifying {name}", saving=False)
    if arguments.has("quiet") or arguments.has("json"):
        bar.enabled = False
    try:
        with Pools() as pools:
            differences = pools.of(name).verify(name, directory, progress=lambda figures: bar.update(name, figures))
    finally:
        bar.clear()
    if arguments.has("json"):
        found = [{"path": printable(one.path, backslash=True), "what": printable(one.what)} for one in differences]
        print_json("image verify", {"image": name, "against": against, "differences": found})
    else:
        for one in differences:
            print(f"{printable(one.path, backslash=True)}: {printable(one.what)}")
        count = len(differences)
        if not count:
            if not arguments.has("quiet"):
                print(f"{name} and {printable(against)} are the same")
        else:
            complain(f"{count} difference{'s' if count > 1 else ''} between {name} and {against}")
    return 1 if differences else 0


COMMAND = Command(
    name="image verify",
    synopsis=("image verify [-jq] --against <directory> <dataset>@<tag>",),
    summary="compare an image with a directory, byte for byte",
    description="""
Compares an image with a directory tree: the contents of every file and all metadata that an import keeps. Each
difference is one line on standard output, PATH: WHAT, with control bytes and backslashes in the path as escapes.""",
    options=(
        Option("a", "against", "the directory to compare with", "directory", "path"),
        Option("q", "quiet", "say nothing when there is no difference"),
        JSON,
    ),
    examples=(("After an import", "lamina image verify --against /srv/rootfs tank/images/pytorch@2.8.0"),),
    exit_status="0  No difference.\n1  There are differences, or the comparison failed.\n2  Wrong usage.",
    run=run,
    operands="snapshot",
)
