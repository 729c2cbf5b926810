"""``lamina sync``."""

import sys

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import complain, print_json, refuse
from lamina.cli.typed import command
from lamina.cli.verbs.set import parse_assignments
from lamina.errors import LaminaError, PropertyError, UsageError
from lamina.pool.names import printable
from lamina.pool.properties import native_name, parse_properties
from lamina.pool.units import format_size, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.replication.sync.places import Place
    from lamina.replication.sync.report import Outlook
    from lamina.replication.sync.session import SyncReport
    from lamina.replication.sync.terms import Terms

_RETRIES = 3
_FLAGS = ("recursive", "prune", "force", "parents", "holds")


def run(arguments: Arguments) -> int:
    """Sync one dataset, or one with all below it."""
    from lamina.replication.sync.places import parse_place

    if len(arguments.operands) < 2:
        raise UsageError("a source and a destination are expected")
    if len(arguments.operands) > 2:
        raise UsageError("too many arguments")
    source, destination = (parse_place(word) for word in arguments.operands)
    if source.host is not None and destination.host is not None:
        raise UsageError("one of the two has to be on this machine; run it on one of the hosts")
    if "#" in source.name:
        raise UsageError(f"'{source.shown}' is a bookmark: a dataset or snapshot is expected")
    if "@" in destination.name or "#" in destination.name:
        raise UsageError(f"'{destination.shown}' is no dataset: snapshots keep the names that they have")
    retries = _number(arguments.value("retries"))
    terms = _terms(arguments, source, destination)
    try:
        return _sync(arguments, source, destination, terms, retries)
    except KeyboardInterrupt as error:
        for note in getattr(error, "__notes__", ()):
            complain(note)
        raise
    except LaminaError as error:
        if isinstance(error, UsageError):
            raise
        return refuse(error)


def _number(word: str | None) -> int:
    if word is None:
        return _RETRIES
    if not (word.isascii() and word.isdigit() and len(word) < 7):
        raise UsageError(f"invalid number of retries '{printable(word)}'")
    return int(word)


def _terms(arguments: Arguments, source: "Place", destination: "Place") -> "Terms":
    from lamina.replication.sync.terms import Terms

    prefix = "cannot receive: "
    properties = parse_assignments(arguments.values("property"))
    stored = parse_properties(properties, prefix=prefix)
    excluded: list[str] = []
    for word in arguments.values("exclude"):
        try:
            excluded.append(native_name(word))
        except PropertyError as error:
            raise PropertyError(prefix + str(error)) from None
    both = sorted(set(excluded) & stored.keys())
    if both:
        raise UsageError(f"property '{both[0]}' is given both with -o and with -x")
    rate = 0
    if (asked := arguments.value("rate")) is not None:
        try:
            rate = parse_size(asked)
        except PropertyError as error:
            raise UsageError(f"invalid rate: {error}; bytes a second are expected, such as 10M") from None
    return Terms(
        source.name,
        destination.name,
        **{flag: arguments.has(flag) for flag in _FLAGS},
        dry_run=arguments.has("dry-run"),
        verbose=arguments.has("verbose"),
        rate=rate,
        properties=properties,
        excluded=tuple(excluded),
        command=command(),
    )


def _sync(arguments: Arguments, source: "Place", destination: "Place", terms: "Terms", retries: int) -> int:
    from lamina.cli.progress import ProgressBar
    from lamina.ingest.progress import Progress
    from lamina.replication.sync.session import Session

    quiet, json = arguments.has("quiet"), arguments.has("json")
    verbose = arguments.has("verbose") and not json
    bar = ProgressBar(f"{source.shown} to {destination.shown}", saving=False, counting=False)
    if quiet or json:
        bar.enabled = False

    def progress(done: int, total: int) -> None:
        if bar.enabled:
            bar.update("sync", Progress(0, done, 0, 0, None, total, False))

    def tell(line: str) -> None:
        bar.clear()
        if not quiet:
            complain(line)

    def outlook(found: "Outlook") -> None:
        bar.clear()
        if (verbose or terms.dry_run) and not json:
            print("\n".join(_lines(found, terms.dry_run)), flush=True)

    session = Session(
        source,
        destination,
        terms,
        ssh=arguments.value("ssh"),
        retries=retries,
        outlook=outlook,
        progress=progress,
        tell=tell,
    )
    try:
        report = session.run()
    finally:
        bar.clear()
    return _told(report, terms, quiet=quiet, json=json, verbose=verbose)


def _lines(found: "Outlook", dry_run: bool) -> list[str]:
    """What will be done, a line each, in zfs's words; the sizes are exact."""
    lines = []
    for part in found.parts:
        base = f"@{part.base}" if part.base is not None and not {"@", "#"} & set(part.base) else part.base
        what = f"full send of {part.name}" if base is None else f"send from {base} to {part.name}"
        lines.append(f"{what} estimated size is {format_size(part.size)}")
    lines.append(f"total estimated size is {format_size(found.size)}")
    would = "would " if dry_run else ""
    lines += [f"{would}rename {line}" for line in found.verdict.renamed]
    lines += [f"{would}destroy {name}" for name in found.verdict.destroyed]
    return lines + found.verdict.kept


def _told(report: "SyncReport", terms: "Terms", *, quiet: bool, json: bool, verbose: bool) -> int:
    done, found = report.done, report.outlook
    assert found is not None
    refused = found.verdict.refused
    for why in dict.fromkeys(refused.values()):
        refuse(LaminaError(why))
    for warning in done.warnings:
        complain(f"warning: {warning}")
    if json:
        print_json("sync", {"sync": _as_json(report, terms)})
    elif not quiet and not terms.dry_run:
        if verbose:
            for line in (*(f"renamed {one}" for one in done.renamed), *(f"destroyed {one}" for one in done.destroyed)):
                print(line)
        gone = f", {_count(len(done.destroyed), 'snapshot')} destroyed" if done.destroyed else ""
        rate = format_size(int(report.streamed / report.seconds)) if report.seconds else "0B"
        print(
            f"{_count(done.snapshots, 'snapshot')}{gone}, {_count(found.objects, 'object')}, "
            f"{format_size(report.streamed + report.negotiated)} in {report.seconds:.2f} seconds ({rate}/sec)"
        )
    sys.stdout.flush()
    return 1 if refused else 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _as_json(report: "SyncReport", terms: "Terms") -> dict[str, object]:
    done, found = report.done, report.outlook
    assert found is not None
    verdict = found.verdict
    return {
        "dry_run": terms.dry_run,
        "snapshots": found.snapshots if terms.dry_run else done.snapshots,
        "objects": found.objects,
        "stored_bytes": found.stored,
        "stream_bytes": found.size if terms.dry_run else report.streamed,
        "negotiated_bytes": report.negotiated,
        "round_trips": report.rounds,
        "tries": report.tries,
        "seconds": round(report.seconds, 3),
        "destroyed": verdict.destroyed if terms.dry_run else done.destroyed,
        "renamed": verdict.renamed if terms.dry_run else done.renamed,
        "kept": verdict.kept if terms.dry_run else done.kept,
        "refused": list(dict.fromkeys(verdict.refused.values())),
        "warnings": done.warnings,
    }


COMMAND = Command(
    name="sync",
    synopsis=(
        "sync [-rFnvqphu] [--prune] [-e command] [-o property=value] ... [-x property] ...",
        "     [--rate bytes] [--retries n] [--json] <dataset>[@<snapshot>] [[user@]host:]<dataset>",
        "sync [options] [user@]host:<dataset>[@<snapshot>] <dataset>",
    ),
    summary="bring a dataset here or on another host up to date, sending only what is not there",
    description="""
Brings snapshots of a dataset to another pool: on this machine, or on a host that ssh reaches and that has lamina. All
snapshots that are younger than the newest one that both have are sent, or all there are; of SRC@SNAPSHOT that one
alone, or with -r those up to it. What is not in a snapshot is not sent.

The two sides first find out what is missing. Data that the other pool has, in whichever dataset, does not travel: an
image whose libraries are there as parts of another image sends what is new. It goes as it is stored, compressed, and
is proved there piece by piece; a snapshot appears when all of it is there. A snapshot that is there is passed by, one
that was renamed here is renamed there.

A sync that is cut keeps what has come: it tries again, and the same command later goes on from there. A destination
that was changed since the snapshot that both have is left alone, with exit status 1, unless -F takes it back to it
first, destroying its newer snapshots.

With -r the datasets below, properties and clones come too, as with 'lamina send -R'. With --prune a snapshot that the
source has destroyed, by its retention say, is destroyed at the destination too: only one that came from there by sync
or receive, of a dataset that still has a snapshot in common with the source, and never one that is held, cloned or
mounted. Datasets are never destroyed.

On the host 'lamina' is run, or what LAMINA_REMOTE says, through ssh, or what -e or LAMINA_SSH says. A name with a
colon before the first slash is on a host.""",
    options=(
        Option("r", "recursive", "with all datasets below, their properties, clones as clones"),
        Option("", "prune", "destroy snapshots there that came from the source and are gone at it"),
        Option("F", "force", "take the destination back to the newest snapshot that both have"),
        Option("p", "parents", "make missing datasets above the destination"),
        Option("n", "dry-run", "change nothing; say what would be sent, renamed and destroyed"),
        Option("v", "verbose", "say what is sent, renamed and destroyed"),
        Option("q", "quiet", "no progress bar, no summary"),
        Option("h", "holds", "send holds too"),
        Option("o", "property", "set a property there; can be given more than once", "property=value", "assignment"),
        Option("x", "exclude", "leave a property as it is there, whatever the source says", "property", "property"),
        Option("e", "ssh", "the ssh command to use, with its options (default: $LAMINA_SSH, else ssh)", "command"),
        Option("", "rate", "send at most this many bytes a second, such as 10M", "bytes"),
        Option("", "retries", f"tries in a row that may get nowhere (default: {_RETRIES})", "n"),
        Option("s", "resumable", "accepted for scripts: a sync always keeps what has come"),
        Option("u", "unmounted", "accepted for scripts written for zfs: receiving never mounts"),
        JSON,
    ),
    examples=(
        ("To another machine", "lamina sync tank/images/pytorch backup@nas:vault/pytorch"),
        ("All of it, each night, by the source's retention", "lamina sync -r --prune -q tank/images nas:vault/images"),
        ("One image from there", "lamina sync gpu1:tank/images/pytorch@2.6.0 tank/images/pytorch"),
        ("What would it do?", "lamina sync -rn --prune tank/images nas:vault/images"),
        ("Through another port, slowly", 'lamina sync -e "ssh -p 2222" --rate 5M tank/a nas:vault/a'),
    ),
    exit_status="0  All is there.\n"
    "1  It is not, or a dataset was refused; a line on standard error says why.\n2  Wrong usage.",
    run=run,
    operands="all-snapshots",
    shows_properties=True,
)
