"""``lamina image rm``."""

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import print_json, refuse
from lamina.cli.pools import Pools
from lamina.errors import Busy, LaminaError, NotFound, UsageError
from lamina.pool.names import pool_of_name, printable
from lamina.pool.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import DestroyPlan


def run(arguments: Arguments) -> int:
    """Remove images."""
    if not arguments.operands:
        raise UsageError("missing image argument")
    dry_run = arguments.has("dry-run")
    plans: list[DestroyPlan] = []
    with Pools(write=not dry_run) as pools:
        wanted = _wanted(pools, list(dict.fromkeys(arguments.operands)), arguments.has("force"))
        try:
            # All of them are looked at before the first one goes.
            for pool_name, names in wanted.items():
                plans.append(pools.of(pool_name).destroy_snapshots(names, dry_run=True, measure=True))
            if not dry_run:
                for pool_name, names in wanted.items():
                    pools.of(pool_name).destroy_snapshots(names, measure=False)
        except Busy as error:
            return refuse(_in_image_words(error))
    names = [name for plan in plans for name in plan.names]
    reclaim = sum(plan.reclaim for plan in plans)
    if arguments.has("json"):
        print_json("image rm", {"dry_run": dry_run, "removed": names, "reclaim": reclaim})
    elif not arguments.has("quiet"):
        for name in names:
            print(f"{'would remove' if dry_run else 'removed'} {printable(name)}")
        if names:
            print(f"{'would give' if dry_run else 'gives'} back {format_size(reclaim)}")
    return 0


def _wanted(pools: Pools, names: list[str], force: bool) -> dict[str, list[str]]:
    """The images to remove, by pool; with ``force`` those that are not there are left out."""
    from lamina.oci.inspecting import check_image

    found: dict[str, list[str]] = {}
    for name in names:
        absent = f"cannot remove '{printable(name)}': no such image; 'lamina image list' shows those that there are"
        try:
            check_image(pools.of(name, absent), name, "remove")
        except NotFound:
            if not force:
                raise
        else:
            found.setdefault(pool_of_name(name), []).append(name)
    return found


def _in_image_words(error: Busy) -> LaminaError:
    """What is in the way; this verb has no -R, 'lamina destroy' has."""
    return Busy(str(error).replace("use '-R' to destroy", "'lamina destroy -R' would also destroy"))


COMMAND = Command(
    name="image rm",
    synopsis=("image rm [-fjnq] <dataset>@<tag> ...",),
    summary="remove images",
    description="""
Removes images, all of them or none, and says how much space that gives back: what other images share stays. Space
comes back in the background.

An image that is held ('lamina hold'), cloned or mounted is not removed. The dataset stays, with its properties, also
when its last image goes; 'lamina destroy -r' destroys a dataset with all its images.""",
    options=(
        Option("f", "force", "images that are not there are no error"),
        Option("n", "dry-run", "remove nothing, say what would be removed"),
        Option("q", "quiet", "say nothing"),
        JSON,
    ),
    examples=(
        ("What would it give back?", "lamina image rm -n tank/images/debian@11"),
        ("Two of them", "lamina image rm tank/images/debian@10 tank/images/debian@11"),
    ),
    run=run,
    operands="all-images",
)
