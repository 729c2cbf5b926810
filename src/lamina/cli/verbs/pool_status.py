"""``lamina pool status``."""

import time
from collections.abc import Sequence

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import complain, print_json
from lamina.cli.verbs.pool_list import open_pools
from lamina.pool.names import printable
from lamina.pool.reports import NEAR_FULL
from lamina.pool.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import PoolStatus
    from lamina.pool.reports import ScanStatus


def run(arguments: Arguments) -> int:
    """Show the state of pools."""
    pools, failed = open_pools(arguments.operands)
    verbose, only_sick = arguments.has("verbose"), arguments.has("unhealthy")
    found: list[PoolStatus] = []
    guids: dict[str, int] = {}
    damage: dict[str, list[str]] = {}
    for pool in pools:
        with pool:
            status = pool.status()
            found.append(status)
            guids[pool.name] = pool.guid
            if verbose and status.errors:
                damage[pool.name] = [str(one) for one in pool.damage()]
    if arguments.has("json"):
        exact = arguments.has("parsable")
        documents = {one.name: _as_json(one, guids[one.name], damage.get(one.name), exact) for one in found}
        print_json("pool status", {"pools": documents})
        return 1 if failed else 0
    if only_sick:
        sick = [one for one in found if one.state != "ONLINE" or one.errors or any(_counts(one))]
        if found and not sick:
            names = arguments.operands
            print(f"pool '{names[0]}' is healthy" if len(names) == 1 else "all pools are healthy")
        found = sick
    elif not found and not failed:
        complain("no pools available")
    exact = arguments.has("parsable")
    print("\n".join(_page(one, verbose, damage.get(one.name, []), exact) for one in found), end="")
    return 1 if failed else 0


def _counts(status: "PoolStatus") -> tuple[int, int, int]:
    return status.read_errors, status.write_errors, status.checksum_errors


def _page(status: "PoolStatus", verbose: bool, damage: Sequence[str], exact: bool) -> str:
    lines = [f"  pool: {status.name}", f" state: {status.state}", *_advice(status)]
    if status.scan is not None:
        lines += _scan(status.scan, status.name)
    if status.freeing:
        lines.append(f"freeing: {format_size(status.freeing)} of what was destroyed, still to be given back")
    lines += ["config:", "", *_table(status, exact), ""]
    if verbose:
        lines += [
            f"\tpacks      {status.packs}",
            f"\tobjects    {status.objects}",
            f"\tdatasets   {status.datasets}",
            f"\tsnapshots  {status.snapshots}",
            "",
        ]
    if not status.errors:
        lines.append("errors: No known data errors")
    elif verbose:
        lines += ["errors: Permanent errors have been detected in the following files:", ""]
        lines += [f"        {one}" for one in damage]
    else:
        lines.append(f"errors: {status.errors} data errors, use '-v' for a list")
    return "\n".join(lines) + "\n"


def _advice(status: "PoolStatus") -> list[str]:
    """What is wrong and what to do, in the words of zpool where they fit."""
    if status.errors:
        return [
            "status: One or more devices has experienced an error resulting in data",
            "\tcorruption.  Applications may be affected.",
            "action: Take what is damaged from where it is whole with",
            f"\t'lamina pool scrub --repair-from SOURCE {status.name}', or import the images",
            "\tconcerned again.  Otherwise destroy them.",
        ]
    if any(_counts(status)):
        return [
            "status: One or more devices has experienced an unrecoverable error.  An",
            "\tattempt was made to correct the error.  Applications are unaffected.",
            "action: Determine if the device needs to be replaced, and clear the errors",
            f"\tusing 'lamina pool clear {status.name}'.",
        ]
    if status.capacity >= NEAR_FULL:
        return [
            f"status: The pool is {status.capacity}% full.  Once no space is left but a small",
            "\treserve, nothing can be imported; reading and destroying go on.",
            "action: Destroy what is not needed ('lamina list -r -t all -o name,used,unique",
            f"\t{status.name}' shows what gives space back), or move the pool to a larger disk.",
        ]
    return []


def _scan(scan: "ScanStatus", name: str) -> list[str]:
    """The lines of the last scrub, as ``print_scan_scrub_resilver_status`` of zpool writes them."""
    if scan.state == "finished":
        took, when = _duration(scan.seconds), _when(scan.ended)
        return [f"  scan: scrub repaired {format_size(scan.repaired)} in {took} with {scan.errors} errors on {when}"]
    if scan.state == "canceled":
        return [f"  scan: scrub canceled on {_when(scan.ended)}"]
    lines = [f"  scan: scrub in progress since {_when(scan.started)}"]
    if scan.state == "paused":
        lines = [f"  scan: scrub paused since {_when(scan.ended)}", f"\tscrub started on {_when(scan.started)}"]
    rate = scan.examined / scan.seconds if scan.seconds else 0.0
    scanned = f"\t{format_size(scan.examined)} / {format_size(scan.total)} scanned"
    done = 100 * scan.examined / scan.total if scan.total else 0.0
    progress = f"\t{format_size(scan.repaired)} repaired, {done:.2f}% done"
    if scan.state == "scanning":
        if rate:
            scanned += f" at {format_size(int(rate))}/s"
            progress += f", {_duration(int((scan.total - scan.examined) / rate))} to go"
        else:
            progress += ", no estimated completion time"
    lines += [scanned, progress]
    if scan.state == "interrupted":
        why = f": {printable(scan.message)}" if scan.message else ""
        lines.append(f"\tits process has ended{why}; 'lamina pool scrub {name}' goes on with it")
    return lines


def _when(seconds: int | None) -> str:
    """``Mon Nov 23 11:54:59 2026``, in English, as ctime(3)."""
    try:
        return time.ctime(seconds or 0)
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _duration(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} days {clock}" if days else clock


def _table(status: "PoolStatus", exact: bool) -> list[str]:
    """The pool and its one device, the directory, with zpool's columns."""
    counts = [str(count) if exact or count < 1024 else format_size(count) for count in _counts(status)]
    rows = [["NAME", "STATE", "READ", "WRITE", "CKSUM"]]
    rows += [[name, status.state, *counts] for name in (status.name, f"  {printable(str(status.path))}")]
    width = max(10, *(len(row[0]) for row in rows))
    return [
        f"\t{name:<{width}}  {state:<8} {read:>5} {write:>5} {checksum:>5}"
        for name, state, read, write, checksum in rows
    ]


def _as_json(status: "PoolStatus", guid: int, damage: Sequence[str] | None, exact: bool) -> dict[str, object]:
    document: dict[str, object] = {"name": status.name, "state": status.state, "pool_guid": str(guid)}
    document["path"] = str(status.path)
    advice = " ".join(line.strip() for line in _advice(status))
    if advice:
        what, _, action = advice.partition(" action: ")
        document |= {"status": what.removeprefix("status: "), "action": action}
    if status.scan is not None:
        document["scan_stats"] = _scan_json(status.scan, exact)
    errors = dict(zip(("read_errors", "write_errors", "checksum_errors"), map(str, _counts(status)), strict=True))
    path = printable(str(status.path))
    device = {"name": path, "vdev_type": "file", "state": status.state, **errors}
    document["vdevs"] = {
        status.name: {
            "name": status.name,
            "vdev_type": "root",
            "state": status.state,
            **errors,
            "vdevs": {path: device},
        }
    }
    document |= {
        "packs": status.packs,
        "objects": status.objects,
        "datasets": status.datasets,
        "snapshots": status.snapshots,
        "error_count": str(status.errors),
        "freeing": str(status.freeing),
    }
    if damage is not None:
        document["errlist"] = damage
    return document


def _scan_json(scan: "ScanStatus", exact: bool) -> dict[str, str]:
    """With the words of OpenZFS 2.3 (``scan_stats``)."""

    def size(value: int) -> str:
        return str(value) if exact else format_size(value)

    def when(value: int | None) -> str:
        return "-" if value is None else str(value) if exact else _when(value)

    ended = scan.ended if scan.state in ("finished", "canceled") else None
    return {
        "function": "SCRUB",
        "state": {"scanning": "SCANNING", "paused": "SCANNING", "interrupted": "SCANNING"}.get(
            scan.state, scan.state.upper()
        ),
        "start_time": when(scan.started),
        "end_time": when(ended),
        "to_examine": size(scan.total),
        "examined": size(scan.examined),
        "processed": size(scan.repaired),
        "errors": str(scan.errors),
        "scrub_pause": when(scan.ended if scan.state == "paused" else None),
        "seconds": str(scan.seconds),
        "rate": size(scan.rate),
        "interrupted": "yes" if scan.state == "interrupted" else "no",
    }


COMMAND = Command(
    name="pool status",
    synopsis=("pool status [-vxpPj] [pool] ...",),
    summary="show the state of pools",
    description="""
Shows the state of pools: ONLINE, or DEGRADED where something is damaged that could not be repaired; how far the last
scrub is or what it found; what is wrong and what to do. A pool that is 90 % full or more says so.

READ and CKSUM count places of objects that scrubs could not read, or that were not what they should be; WRITE those
that could not be written anew. 'lamina pool clear' sets them back.

With -v every file that is damaged is named, in each snapshot and dataset that shows it. <metadata> stands before files
that cannot be reached because the tree node that tells of them is damaged; <0x..> for what has no name any more.""",
    options=(
        Option("v", "verbose", "name the files that are damaged; also how many packs, objects and datasets there are"),
        Option("x", "unhealthy", "only pools with something wrong"),
        Option("p", "parsable", "exact numbers"),
        Option("P", "full-paths", "accepted for scripts written for zpool; paths are always whole"),
        JSON,
    ),
    examples=(
        ("Is anything wrong?", "lamina pool status -x"),
        ("Which files are damaged?", "lamina pool status -v tank"),
    ),
    run=run,
    operands="pool",
)
