"""``lamina snapshot``."""

import time
from collections.abc import Iterable

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain, refuse
from lamina.cli.pools import Pools
from lamina.cli.verbs.set import parse_assignments
from lamina.errors import AlreadyExists, LaminaError, NotFound, UsageError
from lamina.pool.names import check_dataset_name, pool_of_name, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.policy.automatic import Automatic
    from lamina.pool import Pool

_ONLY_AUTO = ("dry-run", "verbose", "timezone", "always", "no-prune")


def run(arguments: Arguments) -> int:
    """Take snapshots, or those that are due by schedule."""
    if arguments.has("auto"):
        return _auto(arguments)
    for option in _ONLY_AUTO:
        if arguments.has(option):
            raise UsageError(f"--{option} is for --auto")
    names = arguments.operands
    if not names:
        raise UsageError("missing snapshot argument")
    for name in names:
        if "@" not in name:
            raise UsageError(f"missing '@' in '{printable(name)}': a snapshot is named dataset@snapshot")
    properties = parse_assignments(arguments.values("property"))
    recursive = arguments.has("recursive")
    with Pools(write=True) as pools:
        try:
            # Datasets first, as in zfs: where one is missing, the words are taken for wrong and the status is 2.
            found = {id(pool): pool for pool in (_pool(pools, name) for name in names)}
        except NotFound as error:
            return refuse(error, UsageError.exit_status)
        if len(found) > 1:
            raise LaminaError("cannot create snapshots : all must be in one pool")
        (pool,) = found.values()
        try:
            pool.snapshot(names, recursive=recursive, properties=properties)
        except (AlreadyExists, NotFound) as error:
            refuse(error)
            if recursive or len(names) > 1:
                complain("no snapshots were created")
            return error.exit_status
    return 0


def _pool(pools: Pools, name: str) -> "Pool":
    dataset = name.partition("@")[0]
    pool = pools.of(dataset)
    if not pool.exists(dataset):
        check_dataset_name(dataset, "open")
        raise NotFound(f"cannot open '{dataset}': dataset does not exist")
    return pool


def _auto(arguments: Arguments) -> int:
    from lamina.policy import automatic
    from lamina.policy.periods import open_zone

    if arguments.has("property") or arguments.has("recursive"):
        raise UsageError("--auto takes all datasets that the property autosnapshot covers, without -r and -o")
    zone = open_zone(arguments.value("timezone"))
    dry_run = arguments.has("dry-run")
    status = 0
    with Pools(write=not dry_run) as pools:
        for pool, roots in _roots(pools, arguments.operands):
            if isinstance(pool, LaminaError):
                status = refuse(pool)
                continue
            try:
                done = automatic.run(
                    pool,
                    int(time.time()),
                    roots=roots,
                    zone=zone,
                    always=arguments.has("always"),
                    prune=not arguments.has("no-prune"),
                    dry_run=dry_run,
                )
            except LaminaError as error:
                status = refuse(error)
            else:
                status = _show(done, dry_run, arguments.has("verbose")) or status
    return status


def _roots(pools: Pools, names: list[str]) -> "Iterable[tuple[Pool | LaminaError, list[str]]]":
    """Pools with what is named of each; all of them when nothing is named."""
    if not names:
        return [(pool, []) for pool in pools.everything()]
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        check_dataset_name(name, "create snapshots of")
        pools.of(name).entry(name)  # all that is named is there before anything is done
        found.setdefault(pool_of_name(name), []).append(name)
    return [(pools.of(pool), some) for pool, some in found.items()]


def _show(done: "Automatic", dry_run: bool, verbose: bool) -> int:
    if verbose:
        would = "would " if dry_run else ""
        for name in done.made:
            print(f"{would}create {name}")
        for name in done.unchanged:
            print(f"{name} is not needed: nothing has changed")
        for name in done.pruned.doomed:
            print(f"{would}destroy {name}")
        for name in done.ahead:  # not without -v: a timer would say it every few minutes
            complain(f"warning: '{name}' is of a time still to come: the clock was wrong when it was made, or is")
    for line in done.refused:
        complain(line)
    return 1 if done.refused else 0


COMMAND = Command(
    name="snapshot",
    synopsis=(
        "snapshot [-r] [-o property=value] ... <dataset>@<snapshot> ...",
        "snapshot --auto [-nv] [--always] [--no-prune] [--timezone zone] [dataset] ...",
    ),
    summary="take snapshots",
    description="""
Keeps what a dataset holds now under a name, tank/images@before. It takes no space of its own: only what the dataset
no longer holds, and the snapshot does, is charged to it later. What is mounted goes on.

Several snapshots, and with -r those of all datasets below, are of one moment: all are taken, or none.

--auto takes the snapshots that are due by the property autosnapshot (hourly, daily, weekly, monthly) and then destroys
old ones by the property retention, at and below the datasets named, or in every pool. It may run as often as you
like: a period that has its snapshot gets no second one. contrib/ has a systemd timer and a line for cron.""",
    options=(
        Option("r", "recursive", "also of all datasets below"),
        Option("o", "property", "set a user property on each; can be given more than once", "property=value"),
        Option("", "auto", "take those that are due by schedule, then destroy what retention does not keep"),
        Option("n", "dry-run", "with --auto: change nothing; say with -v what would be done"),
        Option("v", "verbose", "with --auto: say what is done"),
        Option("", "always", "with --auto: also of datasets that have not changed since the last one"),
        Option("", "no-prune", "with --auto: destroy nothing"),
        Option("", "timezone", "with --auto: whose days and hours, such as Europe/Berlin; default: local time", "zone"),
    ),
    examples=(
        ("Before an experiment", "lamina snapshot tank/datasets@before"),
        ("Everything below a dataset, at one moment", "lamina snapshot -r tank@before"),
        ("What is due by schedule, and what would go", "lamina snapshot --auto -nv tank"),
    ),
    run=run,
    operands="image",
)
