"""``lamina pool gc``."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import complain, print_json
from lamina.errors import LaminaError, UsageError
from lamina.pool.names import printable
from lamina.pool.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool.collecting.gc import GcProgress
    from lamina.pool.reports import GcReport

_REDRAW_SECONDS = 0.1


def run(arguments: Arguments) -> int:
    """Collect garbage in pools, one after the other."""
    from lamina.pool import Pool, pool_names

    if arguments.has("background"):
        return _in_background(arguments.operands)
    dry_run = arguments.has("dry-run")
    failed = False
    reports: list[GcReport] = []
    for name in dict.fromkeys(arguments.operands) or sorted(pool_names()):
        try:
            with Pool.open(name, write=not dry_run) as pool:
                shown = _Shown(pool.name)
                try:
                    wait = 0.0 if arguments.has("no-wait") else None
                    report = pool.gc(dry_run=dry_run, wait=wait, progress=shown.update)
                finally:
                    shown.clear()
        except LaminaError as error:
            complain(str(error))
            failed = True
            continue
        reports.append(report)
        if not arguments.has("json"):
            _print(report, arguments.has("verbose"))
    if arguments.has("json"):
        print_json("pool gc", {"pools": {report.name: asdict(report) for report in reports}})
    elif not reports and not failed:
        complain("no pools available")
    return 1 if failed else 0


def _in_background(operands: list[str]) -> int:
    import os
    from pathlib import Path

    from lamina.pool.collecting.background import SWITCH, collect_in_background

    if len(operands) != 1:
        raise UsageError("--background needs one pool")
    # Closing the pool would start the next one, and so on for ever where something cannot be freed. Whoever lets go of
    # more while this one runs is served by it or by its last look; whoever does so later starts another.
    os.environ[SWITCH] = "off"
    collect_in_background(Path(operands[0]) if "/" in operands[0] else operands[0])
    return 0


def _print(report: "GcReport", verbose: bool) -> None:
    if report.dry_run:
        print(f"{report.name}: would free {format_size(report.stored)} in {_count(report.objects, 'object')}")
    else:
        print(f"{report.name}: freed {format_size(report.stored)} in {_count(report.objects, 'object')}")
        if verbose:
            rows = (
                ("given back to the disk", format_size(report.given)),
                ("packs removed", str(report.packs)),
                ("moved out of packs mostly dead", format_size(report.moved)),
                ("still to be freed", format_size(report.freeing)),
                ("seconds", f"{report.seconds:.1f}"),
            )
            for what, value in rows:
                print(f"\t{what:<30}  {value}")
    if report.waiting_for:
        freeing = format_size(report.freeing)
        print(f"{report.name}: {freeing} not before {_processes(report.waiting_for)} finished importing")
    if report.mounted and (verbose or report.dry_run):
        mounted = format_size(report.mounted)
        print(f"{report.name}: {mounted} not before what {_processes(report.mounted_by)} mounted is unmounted")


def _processes(pids: Sequence[int]) -> str:
    return f"{'process' if len(pids) == 1 else 'processes'} {', '.join(map(str, pids))}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


class _Shown:
    """What is being done, on standard error: waiting as a line that stays, steps as one that is drawn over."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._bar = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = 0.0
        self._visible = False
        self._waiting: tuple[str, tuple[int, ...]] | None = None

    def update(self, progress: "GcProgress") -> None:
        """Show a step."""
        if progress.waiting_for:
            self._wait(progress)
            return
        now = time.monotonic()
        if self._bar and now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            percent = f"  {min(100 * progress.done // progress.total, 100)}%" if progress.total else ""
            sys.stderr.write(f"\r{printable(self._pool)}: {progress.step}{percent}\x1b[K")
            sys.stderr.flush()
            self._visible = True

    def _wait(self, progress: "GcProgress") -> None:
        if self._waiting == (progress.step, progress.waiting_for):
            return
        self._waiting = (progress.step, progress.waiting_for)
        self.clear()
        what = "collects garbage already" if progress.step == "queueing" else "may be sharing what is left to free"
        processes = _processes(progress.waiting_for)
        complain(f"waiting for {processes} in '{self._pool}', which {what}; Ctrl-C leaves the rest for later")

    def clear(self) -> None:
        """Remove the line."""
        if self._visible:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._visible = False


COMMAND = Command(
    name="pool gc",
    synopsis=("pool gc [-nvj] [--no-wait] [pool] ...", "pool gc --background <pool>"),
    summary="free what nothing refers to any more",
    description="""
Frees what no dataset, snapshot or mount refers to any more, and gives its space back to the file system. This happens
by itself, in the background, after every destroy; the command does it now, in all pools or the ones named, and also
finds what broken imports left behind.

What is mounted stays until it is unmounted, and what a running import may be sharing until the import has ended: the
command waits for it, or with --no-wait leaves that part for later. 'lamina pool get freeing' says how much is still to
come. It can be interrupted at any time, and works on a full disk.

Dead parts of packs are given back as holes where the file system has them. What is left in packs that are mostly dead
is moved to others, one pack at a time, as far as there is room.

With LAMINA_BACKGROUND=off in the environment nothing is freed in the background.""",
    options=(
        Option("n", "dry-run", "change nothing; say what would be freed, and what that would wait for"),
        Option("v", "verbose", "also say what the file system got back and how"),
        Option("", "no-wait", "wait for nobody: what running imports may share is left for later"),
        Option("", "background", "what runs by itself after a destroy: quiet, at low priority"),
        JSON,
    ),
    examples=(
        ("How much would come back?", "lamina pool gc -n tank"),
        ("Free it, and wait until it is done", "lamina pool gc tank"),
    ),
    exit_status="0 when all that may be freed is freed; 1 where a pool could not be collected.",
    run=run,
    operands="pool",
)
