"""``lamina receive``."""

import sys
from contextlib import suppress
from typing import Any

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.output import complain, refuse
from lamina.cli.pools import Pools
from lamina.cli.verbs.send import PIPE_BYTES
from lamina.cli.verbs.set import parse_assignments
from lamina.errors import LaminaError, PropertyError, UsageError
from lamina.pool.names import pool_of_name, printable
from lamina.pool.properties import native_name, parse_properties

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import Pool
    from lamina.replication.destination import ReceiveOptions


def run(arguments: Arguments) -> int:
    """Receive one stream."""
    if not arguments.operands:
        raise UsageError("missing snapshot argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    name = arguments.operands[0]
    if arguments.has("abort"):
        return _abort(arguments, name)
    options = _options(arguments)
    if sys.stdin.isatty():
        complain("Error: Backup stream can not be read from a terminal.")
        complain("You must redirect standard input.")
        return 1
    try:
        with Pools(write=not options.dry_run) as pools:
            return _receive(pools.of(name, _absent(name)), name, options, arguments.has("verbose"))
    except KeyboardInterrupt as error:
        for note in getattr(error, "__notes__", ()):
            refuse(LaminaError(note))
        raise
    except LaminaError as error:
        return refuse(error)


def _absent(name: str) -> str:
    pool = printable(pool_of_name(name))
    return f"cannot open '{pool}': dataset does not exist\ncannot receive: unable to restore to destination"


def _abort(arguments: Arguments, name: str) -> int:
    if len(arguments.given) > 1:
        raise UsageError("-A takes no other options")
    from lamina.replication.saving import drop_saved

    with Pools(write=True) as pools:
        drop_saved(pools.of(name), name)
    return 0


def _options(arguments: Arguments) -> "ReceiveOptions":
    if arguments.has("tail") and arguments.has("path"):
        raise UsageError("-d and -e exclude each other")
    prefix = "cannot receive: "
    stored = parse_properties(parse_assignments(arguments.values("property")), prefix=prefix)
    excluded: set[str] = set()
    for word in arguments.values("exclude"):
        try:
            excluded.add(native_name(word))
        except PropertyError as error:
            raise PropertyError(prefix + str(error)) from None
    both = sorted(excluded & stored.keys())
    if both:
        raise UsageError(f"property '{both[0]}' is given both with -o and with -x")
    from lamina.replication.destination import ReceiveOptions

    return ReceiveOptions(
        force=arguments.has("force"),
        dry_run=arguments.has("dry-run"),
        resumable=arguments.has("resumable"),
        skip_holds=arguments.has("skip-holds"),
        naming="last" if arguments.has("tail") else "path" if arguments.has("path") else "exact",
        properties=stored,
        excluded=frozenset(excluded),
    )


def _receive(pool: "Pool", name: str, options: "ReceiveOptions", verbose: bool) -> int:
    from lamina.cli.progress import ProgressBar
    from lamina.ingest.progress import Progress
    from lamina.replication.receiving import receive_stream

    bar = ProgressBar(name, saving=False, counting=False)
    bar.enabled = bar.enabled and not verbose

    def progress(done: int, total: int) -> None:
        if bar.enabled:
            bar.update("receive", Progress(0, done, 0, 0, None, total, False))

    def tell(line: str) -> None:
        if verbose:
            print(line, flush=True)

    try:
        report = receive_stream(pool, _source(), name, options, progress=progress, tell=tell)
    finally:
        bar.clear()
    for warning in report.warnings:
        complain(f"warning: {warning}")
    for line in report.left:
        complain(line)
    return 1 if report.left else 0


def _source() -> Any:
    with suppress(OSError, ValueError, ImportError, AttributeError):
        import fcntl

        fcntl.fcntl(sys.stdin.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    # Without Python's own buffer: the receiver has a larger one.
    return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)


COMMAND = Command(
    name="receive",
    synopsis=(
        "receive [-vnsFhu] [-o property=value] ... [-x property] ... <dataset>[@<snapshot>]",
        "receive [-vnsFhu] [-o property=value] ... [-x property] ... [-d|-e] <dataset>",
        "receive -A <dataset>",
    ),
    summary="read a stream that 'lamina send' wrote into a pool",
    description="""
Reads a stream from standard input. A full stream makes the dataset that is named, with the snapshot; an incremental
one adds snapshots to a dataset that has the snapshot it starts from. With -d the dataset is made below the one that
is named, under the name that it had at the sender without the pool's, with -e under the last part of it.

Nothing is believed: each piece is kept only if its content is what its name says, and a snapshot appears only when
all that it needs is there. Pieces that the pool has are not stored again. A stream that is cut or damaged leaves the
pool as it was; of a stream of several snapshots those before the damage stay. With -s what has come is kept, and
'lamina send -t' goes on from there with the token that is printed then, and that is the property
receive_resume_token; -A drops it.

A dataset that was changed since the snapshot that an incremental stream starts from is not touched, unless -F takes
it back to it first, with all its newer snapshots destroyed. With -F a stream of 'send -R -i' also renames and
destroys datasets and snapshots as the sender did. A snapshot that is there already is passed by.

Guids, times of creation, kinds, holds and user properties of snapshots are kept. Properties of datasets come with
streams of send -R and -p; one that was set here stays as it is. Quotas and reservations here hold.""",
    options=(
        Option("F", "force", "go back to the snapshot that the stream starts from; with -R streams, follow the sender"),
        Option("n", "dry-run", "change nothing; read the stream and check every piece of it"),
        Option("v", "verbose", "say what is received"),
        Option("s", "resumable", "keep what has come of a stream that is cut, to go on with"),
        Option("A", "abort", "drop what -s has kept"),
        Option("d", "path", "below the dataset, under the sender's name without its pool"),
        Option("e", "tail", "below the dataset, under the last part of the sender's name"),
        Option("o", "property", "set a property; can be given more than once", "property=value", "assignment"),
        Option("x", "exclude", "leave a property as it is, whatever the stream says", "property", "property"),
        Option("h", "skip-holds", "leave out holds"),
        Option("u", "unmounted", "accepted for scripts written for zfs: receiving never mounts"),
    ),
    examples=(
        ("From another machine", "ssh gpu1 lamina send tank/images@monday | lamina receive backup/images"),
        ("A backup, back again", "lamina receive -d tank < tank-monday.lamina"),
        ("Is a backup whole?", "lamina receive -nv tank/none < tank-monday.lamina"),
        ("Give up a stream that was cut", "lamina receive -A backup/images"),
    ),
    exit_status="0  All is received.\n"
    "1  It is not, or with -F something had to stay that is gone at the sender;\n"
    "   a line on standard error says why.\n2  Wrong usage.",
    run=run,
    operands="dataset",
    shows_properties=True,
)
