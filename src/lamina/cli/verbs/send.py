"""``lamina send``."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain, refuse
from lamina.cli.pools import Pools
from lamina.errors import AccessDenied, LaminaError, NoSpace, UsageError
from lamina.pool.names import check_snapshot_name, printable
from lamina.pool.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import Pool
    from lamina.replication.planning import Part, Plan, Request
    from lamina.replication.tokens import Token

PIPE_BYTES = 1 << 20
"""What a pipe is asked to hold: fewer switches between the two sides (pipe(7))."""


def run(arguments: Arguments) -> int:
    """Send one snapshot, or a package of them."""
    word = arguments.value("token")
    _check(arguments, word)
    dry_run = arguments.has("dry-run")
    if not dry_run and sys.stdout.isatty():
        complain("Error: Stream can not be written to a terminal.")
        complain("You must redirect standard output.")
        return 1
    from lamina.replication.sending import planned
    from lamina.replication.tokens import parse_token

    asked: Request | Token = parse_token(word) if word is not None else _request(arguments)
    name = asked.name if word is not None else arguments.operands[0]  # type: ignore[union-attr]
    try:
        with _opened(name, dry_run) as pool, planned(pool, asked) as plan:
            return _send(arguments, pool, plan, asked)
    except BrokenPipeError:
        _give_up_output()
        return 1
    except LaminaError as error:
        if isinstance(error, UsageError):
            raise
        return refuse(error)


def _check(arguments: Arguments, token: str | None) -> None:
    bases = arguments.values("from") + arguments.values("all-from")
    if len(bases) > 1:
        raise UsageError("-i and -I name one snapshot to start from")
    if token is not None:
        if bases or arguments.operands or any(arguments.has(one) for one in ("recursive", "properties", "holds")):
            raise UsageError("a resume token says all that is to be sent: -t takes no other options than -n, -v, -P")
        return
    if not arguments.operands:
        raise UsageError("missing snapshot argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    if arguments.has("skip-missing") and not arguments.has("recursive"):
        raise UsageError("-s is for -R")


def _request(arguments: Arguments) -> "Request":
    from lamina.replication.planning import Request

    name = arguments.operands[0]
    if "@" not in name:
        with Pools() as pools:
            pools.of(name).entry(name)
        raise LaminaError(
            f"cannot send '{printable(name)}': it is no snapshot; 'lamina snapshot {printable(name)}@NAME' takes one"
        )
    check_snapshot_name(name, "open")
    return Request(
        snapshot=name,
        base=arguments.value("from") or arguments.value("all-from"),
        between=arguments.has("all-from"),
        recursive=arguments.has("recursive"),
        properties=arguments.has("properties"),
        holds=arguments.has("holds"),
        skip_missing=arguments.has("skip-missing"),
    )


@contextmanager
def _opened(name: str, dry_run: bool) -> "Iterator[Pool]":
    """The pool of a snapshot: writable where that is possible, so that what is sent can be pinned."""
    if not dry_run:
        pools = Pools(write=True)
        try:
            pool = pools.of(name)
        except (AccessDenied, NoSpace):
            pass
        else:
            with pools:
                yield pool
            return
    with Pools() as pools:
        yield pools.of(name)


def _send(arguments: Arguments, pool: "Pool", plan: "Plan", asked: object) -> int:
    dry_run, parsable = arguments.has("dry-run"), arguments.has("parsable")
    verbose = arguments.has("verbose") or parsable
    for skipped in plan.skipped:
        complain(f"skipping dataset {skipped}: no snapshot {skipped}@{plan.begin.snapshot} exists")
    if verbose:
        lines = [*_token_lines(asked), *_estimates(plan, parsable)]
        print("\n".join(lines), file=sys.stdout if dry_run else sys.stderr)
    if not dry_run:
        from lamina.replication.sending import write_stream

        progress = _Lines(parsable) if verbose else _Bar(plan)
        sink = _sink()
        try:
            write_stream(pool, plan, sink, progress.report)
            sink.flush()
        finally:
            progress.close()
    return 1 if plan.skipped else 0


def _token_lines(asked: object) -> list[str]:
    from lamina.replication.tokens import Token

    if not isinstance(asked, Token):
        return []
    lines = ["resume token contents:", f"\tobjects = {asked.objects}", f"\tbytes = {asked.bytes}"]
    lines += [f"\ttoguid = {asked.guid:#x}", f"\ttoname = {printable(asked.name)}"]
    return [*lines, f"\tfromguid = {asked.source:#x}"] if asked.source is not None else lines


def _estimates(plan: "Plan", parsable: bool) -> list[str]:
    """What is sent, a line each, in zfs's words; the sizes are exact here."""
    lines = []
    for part in plan.parts:
        if parsable:
            what = f"full\t{part.name}" if part.base is None else f"incremental\t{part.base}\t{part.name}"
            lines.append(f"{what}\t{part.size}")
            continue
        base = f"@{part.base}" if part.base is not None and not {"@", "#"} & set(part.base) else part.base
        what = f"full send of {part.name}" if base is None else f"send from {base} to {part.name}"
        lines.append(f"{what} estimated size is {format_size(part.size)}")
    total = f"size\t{plan.size}" if parsable else f"total estimated size is {format_size(plan.size)}"
    return [*lines, total]


def _sink() -> BinaryIO:
    with suppress(OSError, ValueError, ImportError, AttributeError):
        import fcntl

        fcntl.fcntl(sys.stdout.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return sys.stdout.buffer


def _give_up_output() -> None:
    """Nobody reads any more: what Python still holds must not be written at its exit."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


class _Lines:
    """How far it has come, once a second, as ``zfs send -v`` says it."""

    def __init__(self, parsable: bool) -> None:
        self._parsable = parsable
        self._name = ""
        self._next = 0.0

    def report(self, part: "Part", sent: int, total: int) -> None:
        now = time.monotonic()
        if part.name != self._name:
            self._name, self._next = part.name, now + 1
            if not self._parsable:
                print(f"TIME        SENT   SNAPSHOT {part.name}", file=sys.stderr)
        elif now >= self._next:
            self._next = now + 1
            clock = time.strftime("%H:%M:%S")
            line = (
                f"{clock}\t{sent}\t{part.name}" if self._parsable else f"{clock}   {format_size(sent):>5}   {part.name}"
            )
            print(line, file=sys.stderr)

    def close(self) -> None:
        pass


class _Bar:
    """A progress bar where the stream goes into a file: where it goes into a pipe, the other side says more."""

    def __init__(self, plan: "Plan") -> None:
        import stat

        from lamina.cli.progress import ProgressBar

        self._bar = ProgressBar(f"{plan.begin.name}@{plan.begin.snapshot}", saving=False, counting=False)
        self._total = plan.size
        is_file = False
        with suppress(OSError, ValueError):
            is_file = stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
        self._bar.enabled = self._bar.enabled and is_file

    def report(self, part: "Part", sent: int, total: int) -> None:
        if self._bar.enabled:
            from lamina.ingest.progress import Progress

            self._bar.update("send", Progress(0, total, 0, 0, None, self._total, False))

    def close(self) -> None:
        self._bar.clear()


COMMAND = Command(
    name="send",
    synopsis=(
        "send [-RLPcehnpsvw] [-i|-I <snapshot>] <dataset>@<snapshot>",
        "send [-LPcehnpvw] [-i <dataset>#<bookmark>] <dataset>@<snapshot>",
        "send [-nPv] -t <receive_resume_token>",
    ),
    summary="write a snapshot, or what changed since another, as a stream",
    description="""
Writes a snapshot to standard output as a stream, for 'lamina receive' on this or another machine, or to be kept as a
file: a file made so is a backup. Standard output must not be a terminal.

Data goes as it is stored: compressed, and each piece once, however many files share it. With -i only what the other
snapshot does not have is sent; whoever receives it must have that one. It is an earlier snapshot of the same dataset, a
bookmark of one, or what a clone was made of. -I also sends all snapshots between the two.

-R sends a dataset with all below it: all snapshots up to the one that is named, properties, clones as clones, images.
With -i or -I it brings such a copy up to date; 'lamina receive -F' then also renames and destroys what was renamed and
destroyed here.

What is sent stays in the pool until it is sent, even if it is destroyed meanwhile. Every piece is checked when it is
read, and the stream has checksums of its own. It is not encrypted: pipe it through ssh, age or gpg.

-n with -v or -P says how large the stream is, to the byte. A stream that 'lamina receive -s' did not get whole goes on
with -t and the token that 'lamina get receive_resume_token' shows there.""",
    options=(
        Option("R", "recursive", "send the dataset with all below it: snapshots, properties, clones"),
        Option("i", "from", "send what changed since this snapshot or bookmark", "snapshot"),
        Option("I", "all-from", "the same, with all snapshots in between", "snapshot"),
        Option("n", "dry-run", "send nothing; with -v or -P say what would be sent"),
        Option("v", "verbose", "say what is sent, and once a second how far it has come"),
        Option("P", "parsable", "say it for scripts: columns separated by one tab, bytes"),
        Option("p", "properties", "send the properties of the dataset and the snapshots too (-R does)"),
        Option("h", "holds", "send holds too"),
        Option("s", "skip-missing", "with -R, leave out datasets that lack the snapshot, rather than refuse"),
        Option("t", "token", "go on with a stream that was cut", "receive_resume_token"),
        Option("L", "large-block", "accepted for scripts written for zfs"),
        Option("e", "embed", "accepted for scripts written for zfs"),
        Option("c", "compressed", "accepted for scripts written for zfs: data always goes compressed"),
        Option("w", "raw", "accepted for scripts written for zfs"),
    ),
    examples=(
        ("A copy on another machine", "lamina send -R tank/images@monday | ssh edge lamina receive backup/images"),
        (
            "What changed since",
            "lamina send -R -i @monday tank/images@tuesday | ssh edge lamina receive -F backup/images",
        ),
        ("A backup, encrypted", "lamina send -R tank@monday | age -r KEY > tank-monday.age"),
        ("How large would it be?", "lamina send -nv -i @monday tank/images@tuesday"),
    ),
    exit_status="0  The stream is written whole.\n"
    "1  It is not, or -s left something out; a line on standard error says why.\n2  Wrong usage.",
    run=run,
    operands="all-snapshots",
)
