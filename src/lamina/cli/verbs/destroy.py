"""``lamina destroy``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import refuse
from lamina.cli.pools import Pools
from lamina.cli.unmounting import unmount
from lamina.errors import Busy, NotFound, UsageError
from lamina.pool.names import check_name, printable
from lamina.pool.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import DestroyPlan, Pool


def run(arguments: Arguments) -> int:
    """Destroy one dataset, one bookmark, or snapshots of one dataset."""
    if not arguments.operands:
        raise UsageError("missing dataset argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    name = arguments.operands[0]
    check_name(name.partition("@")[0].partition("#")[0], "destroy")
    dry_run = arguments.has("dry-run")
    with Pools(write=not dry_run) as pools:
        pool = pools.of(name)
        _check_there(arguments, pool, name)
        speaks = arguments.has("verbose") or arguments.has("parsable")
        how = {option: arguments.has(option) for option in ("recursive", "clones", "defer")}
        try:
            if speaks or dry_run or arguments.has("force"):
                plan = pool.destroy(name, **how, dry_run=True, measure=speaks)
                _print_plan(arguments, plan)
                if arguments.has("force") and not dry_run:
                    unmount(plan.names)
            if not dry_run:
                pool.destroy(name, **how)
        except Busy as error:
            return refuse(error)
    return 0


def _check_there(arguments: Arguments, pool: "Pool", name: str) -> None:
    """Say more than zfs where the one snapshot that is named is missing."""
    dataset, at, spec = name.partition("@")
    many = arguments.has("recursive") or arguments.has("clones") or "%" in spec or "," in spec
    if at and not many and pool.exists(dataset) and not pool.exists(name):
        check_name(name, "destroy")
        raise NotFound(
            f"cannot open '{printable(name)}': snapshot does not exist; 'lamina list -t snapshot "
            f"{printable(dataset)}' shows those that do"
        )


def _print_plan(arguments: Arguments, plan: "DestroyPlan") -> None:
    if arguments.has("parsable"):
        for one in (*plan.names, *plan.deferred):
            print(f"destroy\t{one}")
        print(f"reclaim\t{plan.reclaim}")
    elif arguments.has("verbose"):
        would = "would" if arguments.has("dry-run") else "will"
        for one in plan.names:
            print(f"{would} destroy {one}")
        for one in plan.deferred:
            print(f"{would} destroy {one} when nothing holds or clones it any more")
        print(f"{would} reclaim {format_size(plan.reclaim)}")


COMMAND = Command(
    name="destroy",
    synopsis=(
        "destroy [-fnpRrv] <dataset>",
        "destroy [-dfnpRrv] <dataset>@<snapshot>[%<snapshot>][,...]",
        "destroy <dataset>#<bookmark>",
    ),
    summary="destroy datasets, snapshots or a bookmark",
    description="""
Destroys a dataset, snapshots of a dataset, or a bookmark; an image is a snapshot. There is no way back.

Of snapshots, several may be named with commas between them, tank/a@x,y, and a range with %: tank/a@x%y is x, y and all
that were made between them, tank/a@%y all up to y, tank/a@x% all from x on.

A dataset that has children or snapshots is destroyed only with -r. A snapshot that has clones, or a dataset whose
snapshots have clones elsewhere, is destroyed only with -R, which destroys the clones too; 'lamina promote' saves a
clone. A snapshot that is held ('lamina hold') is not destroyed, but with -d as soon as that is over.

'lamina destroy -nv' says what would go and what the pool would get back: space that other images share is not
counted.""",
    options=(
        Option("r", "recursive", "also destroy everything below; of a snapshot: the snapshots of that name below"),
        Option("R", "clones", "also destroy all clones, wherever they are, with all that depends on them"),
        Option("d", "defer", "of snapshots that are held or cloned: destroy them when the last hold or clone goes"),
        Option("n", "dry-run", "change nothing; with -v or -p say what would be destroyed"),
        Option("v", "verbose", "say what is destroyed and how much space that gives back"),
        Option("p", "parsable", "say it for scripts: columns separated by one tab, bytes"),
        Option("f", "force", "unmount what is mounted first; what is in use there fails from then on"),
    ),
    examples=(
        ("What would it give back?", "lamina destroy -nv tank/images/pytorch@2.5.1"),
        ("A dataset with all its images", "lamina destroy -r tank/images/old"),
        ("All snapshots up to one, in all datasets below", "lamina destroy -r tank@%monday"),
    ),
    run=run,
    operands="dataset snapshot",
)
