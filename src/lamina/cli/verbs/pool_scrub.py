"""``lamina pool scrub``."""

import os
import time

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain
from lamina.cli.progress import ProgressBar
from lamina.errors import LaminaError, PropertyError, UsageError
from lamina.pool.names import printable
from lamina.pool.units import format_size, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool.scrubbing.scrubs import Scan

_WAIT_SECONDS = 0.2


def run(arguments: Arguments) -> int:
    """Start, pause, stop or wait for scrubs, or repair."""
    stop, pause, wait = (arguments.has(word) for word in ("stop", "pause", "wait"))
    source, rate = arguments.value("repair-from"), _rate(arguments.value("rate"))
    if stop and pause:
        raise UsageError("invalid option combination: -s and -p are mutually exclusive")
    if wait and (stop or pause):
        raise UsageError("invalid option combination: -w cannot be used with -p or -s")
    if source is not None and (stop or pause or wait):
        raise UsageError("invalid option combination: --repair-from cannot be used with -s, -p or -w")
    if arguments.has("ssh") and source is None:
        raise UsageError("invalid option combination: -e needs --repair-from")
    if rate is not None and (stop or pause):
        raise UsageError("invalid option combination: --rate cannot be used with -s or -p")
    if not arguments.operands:
        raise UsageError("missing pool name argument")
    failed = False
    for name in dict.fromkeys(arguments.operands):
        try:
            if source is not None:
                failed |= not _repair(name, source, arguments.value("ssh"))
            else:
                _one(name, stop=stop, pause=pause, rate=rate)
        except LaminaError as error:
            complain(str(error))
            failed = True
    if wait and not failed:
        for name in dict.fromkeys(arguments.operands):
            _wait(name)
    return 1 if failed else 0


def _rate(word: str | None) -> int | None:
    if word is None:
        return None
    try:
        return parse_size(word)
    except PropertyError as error:
        raise UsageError(f"invalid rate: {error}; bytes a second are expected, such as 100M") from None


def _one(name: str, *, stop: bool, pause: bool, rate: int | None) -> None:
    from lamina.pool import Pool
    from lamina.pool.scrubbing.scrub import scrub, scrubs_of

    with Pool.open(name, write=True) as pool:
        scrubs = scrubs_of(pool)
        if stop:
            scrubs.cancel(pool.name)
        elif pause:
            scrubs.pause(pool.name)
        elif scrubs.begin(pool.name, rate):
            return
        elif os.environ.get("LAMINA_BACKGROUND", "").lower() in ("off", "0", "no"):
            bar = ProgressBar(f"scrubbing {pool.name}", saving=False, counting=False)
            try:
                scrub(pool, lambda scan: _show(bar, pool.name, scan))
            finally:
                bar.clear()
        else:
            from lamina.pool.scrubbing.detached import start_scrubber

            start_scrubber(pool)


def _show(bar: ProgressBar, name: str, scan: "Scan") -> None:
    from lamina.pool import Progress

    bar.update(name, Progress(0, min(scan.examined, scan.total), 0, 0, None, scan.total, False))


def _wait(name: str) -> None:
    """Until the scrub is over, paused or canceled. Raises ``LaminaError`` where its process ended before."""
    from lamina.pool import Pool
    from lamina.pool.scrubbing.scrub import scrubs_of
    from lamina.pool.scrubbing.scrubs import SCANNING

    with Pool.open(name) as pool:
        scrubs = scrubs_of(pool)
        bar = ProgressBar(f"scrubbing {pool.name}", saving=False, counting=False)
        try:
            while (scan := scrubs.last()) is not None and scan.state == SCANNING:
                if not scrubs.is_running(scan):
                    if scrubs.last() != scan:  # it has just ended, or another took over
                        continue
                    why = scrubs.message()
                    raise LaminaError(
                        f"the process that scrubbed {pool.name} has ended{': ' + why if why else ''}; "
                        f"'lamina pool scrub {pool.name}' goes on where it was"
                    )
                _show(bar, pool.name, scan)
                time.sleep(_WAIT_SECONDS)
        finally:
            bar.clear()


def _repair(name: str, source: str, ssh: str | None) -> bool:
    """Repair one pool; whether nothing is damaged any more."""
    from lamina.pool import Pool
    from lamina.pool.scrubbing.repair import repair_from

    with Pool.open(name, write=True) as pool:
        bar = ProgressBar(f"repairing {pool.name}", saving=False, counting=False)
        try:
            report = repair_from(
                pool,
                source,
                ssh=ssh,
                progress=lambda done, total: _show_repair(bar, pool.name, done, total),
                scrubbing=lambda scan: _show(bar, pool.name, scan),
            )
        finally:
            bar.clear()
        if not report.repaired and not report.left:
            print(f"{pool.name}: nothing is damaged")
            return True
        stored = format_size(report.stored)
        print(f"{pool.name}: repaired {_count(report.repaired)} ({stored}) from {printable(source)}")
        if report.left:
            complain(
                f"{pool.name}: {_count(report.left)} still damaged or missing; "
                f"'lamina pool status -v {pool.name}' names the files"
            )
        return not report.left


def _show_repair(bar: ProgressBar, name: str, done: int, total: int) -> None:
    from lamina.pool import Progress

    bar.update(name, Progress(0, done, 0, 0, None, total, False))


def _count(number: int) -> str:
    return f"{number} object{'' if number == 1 else 's'}"


COMMAND = Command(
    name="pool scrub",
    synopsis=(
        "pool scrub [-s | -p] [-w] [--rate bytes] <pool> ...",
        "pool scrub --repair-from <source> [-e command] <pool> ...",
    ),
    summary="verify all data, mend what is damaged",
    description="""
Reads everything that a pool stores from the disk and proves it: every object by its BLAKE3 key, every record by its
checksum and header. What is damaged and lies in another place too (tree nodes and names do, data where 'copies' is 2
or 3) is mended at once. 'lamina pool status' shows how far the scrub is and what it found; with -v it names the files
that are damaged, by snapshot and path.

The scrub runs in the background; the command returns at once. Imports, mounts and everything else go on beside it.
Objects that are stored while it runs are not read: they were just written. A scrub that was paused, or whose process
ended, goes on where it was when it is started again. With LAMINA_BACKGROUND=off in the environment it runs in the
foreground.

With --repair-from, what is damaged or missing is taken from elsewhere, in the foreground. SOURCE is

    another pool                    its name or its directory
    a pool on another host          [user@]host:POOL; ssh runs $LAMINA_REMOTE (lamina) there
    the files that were imported    a directory, or a tar archive of them

Whatever comes is proved by its key before it is kept. From files, data is taken by the ranges that the tree tells; tree
nodes need the files unchanged in all their times and numbers, since they are made by importing once more. Where no
damage is known, the pool is scrubbed first. The exit status is 1 as long as something is still damaged.

What cannot be repaired is not shared with new images: importing the same data again heals it.""",
    options=(
        Option("s", "stop", "stop the scrub; the next one begins anew"),
        Option("p", "pause", "pause the scrub; the next start goes on with it"),
        Option("w", "wait", "wait until the scrub has ended, and show how far it is"),
        Option(
            "",
            "rate",
            "read at most this many bytes a second, such as 100M; 0 for no bound. Also for a scrub that runs",
            "bytes",
        ),
        Option("", "repair-from", "take what is damaged from SOURCE", "source", "path"),
        Option("e", "ssh", "the ssh command to use, with its options (default: $LAMINA_SSH, else ssh)", "command"),
    ),
    examples=(
        ("Verify a pool, without being in the way", "lamina pool scrub --rate 50M tank"),
        ("Verify it and wait", "lamina pool scrub -w tank"),
        ("From a replica", "lamina pool scrub --repair-from backup@nas:vault tank"),
        ("From the image's files", "lamina pool scrub --repair-from /srv/rootfs tank"),
    ),
    exit_status="0  Done, or started; what a scrub finds does not change the status.\n"
    "1  It could not be started, paused or stopped; after --repair-from: something is still damaged.\n"
    "2  Wrong usage.",
    run=run,
    operands="pool",
)
