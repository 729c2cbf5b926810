"""``lamina pool recover``."""

from dataclasses import asdict

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import complain, print_json
from lamina.cli.progress import ProgressBar
from lamina.cli.typed import command
from lamina.errors import UsageError
from lamina.pool.names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool.recovery.recover import RecoverReport


def run(arguments: Arguments) -> int:
    """Recover one pool."""
    if not arguments.operands:
        raise UsageError("missing pool name or directory argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    from lamina.pool.recovery.recover import recover_pool

    what = arguments.operands[0]
    dry_run = arguments.has("dry-run")
    bar = ProgressBar(f"recovering {what}", saving=False, counting=False)
    if arguments.has("json"):
        bar.enabled = False
    try:
        report = recover_pool(
            what,
            dry_run=dry_run,
            force=arguments.has("force"),
            command=command(),
            progress=lambda figures: bar.update(what, figures),
        )
    finally:
        bar.clear()
    if arguments.has("json"):
        document = {**asdict(report), "path": str(report.path), "kept": str(report.kept) if report.kept else None}
        print_json("pool recover", {"pools": {report.name: {**document, "dry_run": dry_run}}})
    else:
        _print(report, dry_run)
    return 1 if report.lines else 0


def _print(report: "RecoverReport", dry_run: bool) -> None:
    name = printable(report.name)
    would = "would restore" if dry_run else "restored"
    print(
        f"{name}: {would} {_count(report.datasets, 'dataset')}, {_count(report.snapshots, 'snapshot')} and "
        f"{_count(report.bookmarks, 'bookmark')} up to txg {report.txg}, {_count(report.objects, 'object')} and "
        f"{_count(report.copies, 'copy', 'copies')} of them in {_count(report.packs, 'pack')}"
    )
    if report.kept is not None:
        print(f"{name}: what was left of the catalogue is '{printable(str(report.kept))}'")
    for line in (*report.notes, *report.lines):
        complain(f"{name}: {line}")


def _count(number: int, what: str, many: str = "") -> str:
    return f"{number} {what if number == 1 else many or what + 's'}"


COMMAND = Command(
    name="pool recover",
    synopsis=("pool recover [-fnj] <pool | directory>",),
    summary="rebuild a pool's catalogue from its packs",
    description="""
Rebuilds the catalogue of a pool, 'catalogue.db', where it is lost or damaged: from the packs alone come back all
objects, datasets, snapshots, images, properties, holds, bookmarks and the history. 'pool.json' is written anew if that
is lost. A pool that is not known on this machine is named by its directory, with a '/' in it.

All packs are read, which takes as long as reading them takes. The new catalogue is made beside the old one and takes
its place at the end; until then nothing is changed. What was left of the old one is kept as catalogue.db.damaged-N and
can be removed once all is well.

What cannot be brought back as it was is said, a line each on standard error, and so is damage that may have cost
something. A snapshot of which objects are missing
is restored, and reading what is missing fails; one whose root is lost is left out. Names that were changed by commands
whose records are lost are as they were before.

Nobody else may use the pool meanwhile.""",
    options=(
        Option("n", "dry-run", "change nothing; say what would be restored"),
        Option("f", "force", "also where nothing is wrong with the catalogue, or not so that it shows"),
        JSON,
    ),
    examples=(
        ("The catalogue is gone", "lamina pool recover tank"),
        ("What is in these packs?", "lamina pool recover -n /mnt/rescued/tank"),
    ),
    exit_status="0  All is back.\n1  Something is lost, or nothing could be recovered.\n2  Wrong usage.",
    run=run,
    operands="pool path",
)
