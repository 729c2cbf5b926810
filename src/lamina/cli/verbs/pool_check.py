"""``lamina pool check``."""

from dataclasses import asdict

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import complain, print_json
from lamina.cli.progress import ProgressBar
from lamina.cli.typed import command
from lamina.cli.verbs.pool_list import open_pools
from lamina.errors import LaminaError
from lamina.pool.names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool.checking.check import CheckReport


def run(arguments: Arguments) -> int:
    """Check pools, one after the other."""
    failed = arguments.has("save-names") and not _save_names(arguments.operands)
    pools, missing = open_pools(arguments.operands)
    failed |= missing
    reports: list[CheckReport] = []
    for pool in pools:
        bar = ProgressBar(f"checking {pool.name}", saving=False, counting=False)
        if arguments.has("json"):
            bar.enabled = False
        name = pool.name
        try:
            with pool:
                reports.append(
                    pool.check(
                        headers=arguments.has("headers"),
                        progress=lambda figures, bar=bar, name=name: bar.update(name, figures),
                    )
                )
        finally:
            bar.clear()
        if not arguments.has("json"):
            _print(reports[-1], arguments.has("verbose"))
    if arguments.has("json"):
        print_json("pool check", {"pools": {report.name: asdict(report) for report in reports}})
    elif not reports and not failed:
        complain("no pools available")
    return 1 if failed or any(report.problems for report in reports) else 0


def _save_names(operands: list[str]) -> bool:
    """Write records of all names in pools; whether all could be written."""
    from lamina.pool import Pool, pool_names

    done = True
    for name in dict.fromkeys(operands) or sorted(pool_names()):
        try:
            with Pool.open(name, write=True) as pool:
                pool.command = command()
                pool.save_names()
        except LaminaError as error:
            complain(str(error))
            done = False
    return done


def _print(report: "CheckReport", verbose: bool) -> None:
    for problem in report.problems:
        print(f"{report.name}: {printable(problem)}")
    if not report.problems:
        print(f"{report.name}: no problems found")
    if verbose:
        for note in report.notes:
            print(f"\t{printable(note)}")
        print(
            f"\tchecked {report.trees} trees, {report.objects} objects and {report.packs} packs "
            f"in {report.seconds:.1f} s"
        )


COMMAND = Command(
    name="pool check",
    synopsis=("pool check [-vj] [--headers] [--save-names] [pool] ...",),
    summary="compare a pool's catalogue, packs, trees and names with each other",
    description="""
Checks pools without reading the data of files: that the catalogue and the packs agree, that every tree is whole and
makes a file system, that the figures are right, that second copies are where they should be, and that the name records
in the packs would bring back exactly the names that there are. Each problem is one line, with what to do about it.

It takes seconds, and can be run while others use the pool. Whether the data itself is intact, 'lamina pool scrub' says.

The packs hold a backup of the catalogue's names: a record of all of them, in two packs, and the changes since. With -v
it is said how old it is; 'lamina pool recover' goes back to it and takes in all later changes. It is written by itself;
--save-names does it now, which also mends records that are damaged.""",
    options=(
        Option("v", "verbose", "also say what was checked, what is dead, and how old the backup of names is"),
        Option(
            "", "headers", "look at the headers of all records in the packs, not only those of tree nodes and names"
        ),
        Option("", "save-names", "first write a record of all names, as the catalogue has them, into the packs"),
        JSON,
    ),
    examples=(
        ("Is everything in order?", "lamina pool check"),
        ("All that is known", "lamina pool check -v --headers tank"),
    ),
    exit_status="0  No problems.\n1  There are problems, or a pool could not be checked.\n2  Wrong usage.",
    run=run,
    operands="pool",
)
