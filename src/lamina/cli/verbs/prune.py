"""``lamina prune``."""

from collections.abc import Iterable, Sequence

from lamina.cli.command import JSON, JSON_INT, Arguments, Command, Option
from lamina.cli.output import Column, print_json, print_table, refuse
from lamina.cli.pools import Pools
from lamina.errors import LaminaError, PropertyError, UsageError
from lamina.pool.names import check_dataset_name, printable
from lamina.pool.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.policy.periods import Zone
    from lamina.policy.pruning import Plan, Selection, Target
    from lamina.pool import Pool
    from lamina.pool.rules import Retention

_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def run(arguments: Arguments) -> int:
    """Destroy the snapshots that no rule keeps, or say what would be destroyed and why."""
    import time

    from lamina.policy.periods import open_zone

    rules, selection = _rules(arguments), _selection(arguments)
    if arguments.has("all"):
        _check_all(arguments)
    elif not rules:
        raise UsageError(
            "no rule says what to keep: give --keep-last, --keep-daily or another of the --keep options, or --all"
        )
    elif not arguments.operands:
        raise UsageError("missing dataset argument")
    for name in arguments.operands:
        check_dataset_name(name, "prune")
    zone = open_zone(arguments.value("timezone"))
    status = 0
    dry_run = arguments.has("dry-run")
    plans: list[Plan] = []
    with Pools(write=not dry_run) as pools:
        for pool, names in _pools(pools, arguments.operands):
            if isinstance(pool, LaminaError):
                status = refuse(pool)
                continue
            try:
                plans.append(_prune(arguments, pool, names, rules, selection, int(time.time()), zone))
            except LaminaError as error:
                # What could be pruned in other pools is.
                status = refuse(error)
    _show(arguments, plans)
    return status


def _rules(arguments: Arguments) -> "Retention":
    from lamina.pool.rules import Retention, parse_count, parse_duration

    counts: dict[str, int] = {}
    within = None
    for option, typed in arguments.given:
        if not option.startswith("keep-"):
            continue
        name = option.removeprefix("keep-")
        try:
            if name == "within":
                within = parse_duration(typed)
            else:
                counts[name] = parse_count(typed)
        except PropertyError as error:
            raise UsageError(f"bad value for '--{option}': {error}") from None
    return Retention(**counts, within=within)


def _selection(arguments: Arguments) -> "Selection":
    from lamina.policy.pruning import Selection
    from lamina.pool.rules import parse_prefix

    try:
        prefix = parse_prefix(arguments.value("prefix") or "")
    except PropertyError as error:
        raise UsageError(f"bad value for '--prefix': {error}") from None
    return Selection(prefix, arguments.value("match") or "*")


def _check_all(arguments: Arguments) -> None:
    for option, _ in arguments.given:
        if option.startswith("keep-") or option == "prefix":
            raise UsageError(f"--all and --{option} exclude each other: --all goes by the property retention")


def _pools(pools: Pools, operands: Sequence[str]) -> "Iterable[tuple[Pool | LaminaError, list[str]]]":
    """Pools with what is named of each; all of them when nothing is named."""
    if not operands:
        return [(pool, []) for pool in pools.everything()]
    found: dict[Pool, list[str]] = {}
    for name in dict.fromkeys(operands):
        pool = pools.of(name)
        pool.entry(name)  # all that is named is there before anything is destroyed
        found.setdefault(pool, []).append(name)
    return list(found.items())


def _prune(
    arguments: Arguments,
    pool: "Pool",
    names: list[str],
    rules: "Retention",
    selection: "Selection",
    now: int,
    zone: "Zone",
) -> "Plan":
    from lamina.policy import pruning

    targets: list[Target]
    if arguments.has("all"):
        targets = pruning.property_targets(pool, names, pattern=selection.pattern)
    else:
        recursive = arguments.has("recursive")
        targets = pruning.named_targets(pool, names, rules, selection, recursive=recursive)
    images, figures = arguments.has("images"), _explains(arguments)
    if arguments.has("dry-run"):
        return pruning.plan(pool, targets, now, zone, images=images, figures=figures)
    return pruning.prune(pool, targets, now, zone, images=images, figures=figures)


def _explains(arguments: Arguments) -> bool:
    return any(arguments.has(option) for option in ("dry-run", "verbose", "json", "json-int"))


def _show(arguments: Arguments, plans: "Sequence[Plan]") -> None:
    if not _explains(arguments):
        return
    decisions = [one for plan in plans for one in plan.decisions]
    used = {name: size for plan in plans for name, size in plan.used.items()}
    reclaim = sum(plan.reclaim for plan in plans)
    numbers = arguments.has("json-int")
    exact = arguments.has("parsable") or numbers

    def size(value: int) -> str:
        return str(value) if exact else format_size(value)

    if numbers or arguments.has("json"):
        snapshots = {
            one.snapshot.name: {
                "action": "keep" if one.keep else "remove",
                "used": used[one.snapshot.name] if numbers else size(used[one.snapshot.name]),
                "creation": one.snapshot.creation if numbers else str(one.snapshot.creation),
                "reasons": [
                    {"rule": reason.rule, "note": reason.note, "place": reason.place, "limit": reason.limit}
                    for reason in one.reasons
                ],
            }
            for one in decisions
        }
        body = {"dry_run": arguments.has("dry-run"), "reclaim": reclaim if numbers else size(reclaim)}
        print_json("prune", {"snapshots": snapshots, **body})
        return
    scripted = arguments.has("scripted")
    if decisions:
        print_table(
            (Column("NAME"), Column("USED", True, 5), Column("ACTION", width=6), Column("REASON")),
            (
                (
                    one.snapshot.name,
                    size(used[one.snapshot.name]),
                    "keep" if one.keep else "remove",
                    ", ".join(map(str, one.reasons)),
                )
                for one in decisions
            ),
            scripted=scripted,
        )
    if not scripted:
        doomed = sum(not one.keep for one in decisions)
        done = ("would destroy", "would reclaim") if arguments.has("dry-run") else ("destroyed", "reclaimed")
        print(f"{done[0]} {doomed} of {len(decisions)} snapshot{'' if len(decisions) == 1 else 's'}")
        print(f"{done[1]} {size(reclaim)}")
        if arguments.has("all") and not decisions:
            where = printable(" ".join(arguments.operands)) or "any pool"
            print(f"no snapshot in {where} is covered by the property retention; see 'lamina help prune'")


def _keep(rule: str, what: str) -> Option:
    return Option("", f"keep-{rule}", f"keep the newest snapshot of each of the last N {what} that have one", "N")


COMMAND = Command(
    name="prune",
    synopsis=(
        "prune [-nvrHp] [-j [--json-int]] --keep-<rule> N ... [--prefix text] [--match pattern]",
        "      [--images] [--timezone zone] <dataset> ...",
        "prune [-nvHp] [-j [--json-int]] --all [--match pattern] [--images] [--timezone zone]",
        "      [dataset] ...",
    ),
    summary="destroy old snapshots by rules of what to keep",
    description="""
Destroys the snapshots of a dataset that no rule keeps. At least one rule is needed. With -n nothing is changed, and a
line a snapshot says what would happen and why: 'daily 3 of 7: 2026-11-20' is the third of the seven days that
--keep-daily 7 keeps.

Each dataset is looked at by itself. Rules are independent, a snapshot may be kept by several. --keep-daily 7 keeps the
newest snapshot of each of the last 7 days that have one: days without snapshots do not count. This is what restic
forget does; borg prune counts a snapshot for one rule only. Hours, days, ISO weeks (from Monday), months and years are
those of the time zone; a day may have 23 or 25 hours. --keep-within goes by the time now. Which of two snapshots is
newer is told by their order of creation, not by the clock.

Never removed: what is held, what a clone comes from, what is mounted, images (unless --images is given), and what was
made in the future of this machine's clock. Held, mounted and cloned ones count for the rules like any other.

--all takes the rules from the property retention of each dataset, at and below the datasets named, or in every pool:
retention=last=3,daily=7,weekly=4,within=10d. The property is inherited whole. It is about automatic snapshots, unless
it names another prefix: retention=daily=7,prefix=nightly-; an empty prefix means every snapshot. The newest automatic
snapshot of a schedule in force stays, as do those of the current periods.

A duration is numbers with y, m (months), w, d or h, the largest first: 10d, 48h, 1y6m. Days and longer go by the
calendar.""",
    options=(
        Option("n", "dry-run", "change nothing; say of each snapshot what would happen and why"),
        Option("v", "verbose", "say of each snapshot what happens and why"),
        Option("r", "recursive", "also all datasets below"),
        Option("", "keep-last", "keep the N newest snapshots", "N"),
        _keep("hourly", "hours"),
        _keep("daily", "days"),
        _keep("weekly", "weeks"),
        _keep("monthly", "months"),
        _keep("yearly", "years"),
        Option("", "keep-within", "keep every snapshot that is younger", "duration"),
        Option("", "prefix", "only snapshots whose name after the @ begins with this", "text"),
        Option("", "match", "only snapshots whose name after the @ fits this pattern, with * ? [abc]", "pattern"),
        Option("", "images", "images too"),
        Option("", "all", "the rules are those of the property retention, at and below the datasets named"),
        Option("", "timezone", "whose days and hours, such as Europe/Berlin or UTC; default: local time", "zone"),
        Option("H", "scripted", "with -n or -v, for scripts: no header, columns separated by one tab, no sums"),
        Option("p", "parsable", "exact numbers of bytes"),
        JSON,
        JSON_INT,
    ),
    examples=(
        (
            "What would go, and why?",
            "lamina prune -n -r --keep-last 3 --keep-daily 7 --keep-weekly 4 --prefix daily- tank/images",
        ),
        ("Keep the five newest images of a repository", "lamina prune --keep-last 5 --images tank/images/pytorch"),
        ("Say it once, for everything below", "lamina set retention=last=3,daily=7,weekly=4 tank"),
        ("Do what was said", "lamina prune --all tank"),
    ),
    run=run,
    operands="dataset",
)
