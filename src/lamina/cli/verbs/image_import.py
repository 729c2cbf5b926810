"""``lamina image import``."""

import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from typing import TYPE_CHECKING, BinaryIO, Literal

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.output import Column, complain, print_json, print_table
from lamina.cli.progress import ProgressBar, summary_rows
from lamina.cli.typed import command
from lamina.errors import AlreadyExists, InvalidName, LaminaError, NotFound, UsageError
from lamina.pool.names import check_snapshot_name, pool_of_name, printable

if TYPE_CHECKING:
    from lamina.ingest.progress import Progress
    from lamina.pool import ImportReport

Format = Literal["auto", "dir", "tar"]

_FORMATS: tuple[Format, ...] = ("auto", "dir", "tar")
_COLUMNS = (
    Column("IMAGE"),
    *(Column(header, right=True, width=5) for header in ("FILES", "LOGICAL", "NEW", "STORED", "RATIO", "SECONDS")),
)


class _Cancelled(Exception):
    """Raised inside an import from its progress callback, when another one failed or Ctrl-C was typed."""


def run(arguments: Arguments) -> int:
    """Import one or more images."""
    pairs = _pairs(arguments.operands)
    format_ = _format(arguments.value("format"))
    jobs = _jobs(arguments.value("jobs"))
    _check(pairs)
    json = arguments.has("json")
    bar = ProgressBar(pairs[0][1] if len(pairs) == 1 else f"{len(pairs)} images")
    if arguments.has("quiet") or json:
        bar.enabled = False
    try:
        reports, failures = _import_all(pairs, format_, min(jobs, len(pairs)), bar)
    finally:
        bar.clear()
    for report in reports:
        for warning in report.warnings:
            complain(f"warning: {report.name}: {warning}")
    for failure in failures:
        complain(str(failure))
    _warn_of_full({pool_of_name(report.name) for report in reports})
    if json:
        print_json("image import", {"images": {report.name: _as_json(report) for report in reports}})
    elif reports and not arguments.has("quiet"):
        figures = {
            report.name: (
                report.files,
                report.logical_bytes,
                report.new_logical_bytes,
                report.stored_bytes,
                report.seconds,
            )
            for report in reports
        }
        print_table(_COLUMNS, summary_rows(figures))
    incomplete = any(report.warnings for report in reports)
    return max((failure.exit_status for failure in failures), default=1 if incomplete else 0)


def _warn_of_full(names: set[str]) -> None:
    """A line for each pool that is nearly full by now."""
    from lamina.pool import pool_of
    from lamina.pool.reports import NEAR_FULL

    for name in sorted(names):
        with pool_of(name) as pool:
            capacity = pool.capacity()
        if capacity >= NEAR_FULL:
            complain(f"warning: the pool '{name}' is {capacity}% full; 'lamina pool status {name}' says what to do")


def _as_json(report: "ImportReport") -> dict[str, object]:
    document: dict[str, object] = asdict(report)
    document["warnings"] = [printable(warning) for warning in report.warnings]
    return document


def _pairs(operands: list[str]) -> list[tuple[str, str]]:
    if not operands:
        raise UsageError("missing source argument")
    if len(operands) % 2:
        raise UsageError(f"missing image name for source '{operands[-1]}'")
    pairs = list(zip(operands[::2], operands[1::2], strict=True))
    names = [name for _, name in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"image name '{name}' is given more than once")
    if [source for source, _ in pairs].count("-") > 1:
        raise UsageError("standard input ('-') can be one image only")
    return pairs


def _format(word: str | None) -> Format:
    for known in _FORMATS:
        if word in (None, known):
            return known
    raise UsageError(f"invalid format '{word}': auto, dir or tar is expected")


def _jobs(word: str | None) -> int:
    if word is None:
        return 1
    if not (word.isascii() and word.isdigit() and 1 <= int(word) <= 64):
        raise UsageError(f"invalid number of jobs '{word}': 1 to 64 is expected")
    return int(word)


def _check(pairs: list[tuple[str, str]]) -> None:
    """Refuse all that can be known beforehand, so that nothing is imported before a typing error is found."""
    for _, name in pairs:
        if "@" not in name:
            raise InvalidName(
                f"cannot import '{printable(name)}': missing '@' delimiter in snapshot name; "
                f"an image is named dataset@tag, such as '{printable(name)}@latest'"
            )
        check_snapshot_name(name, "import")
    from lamina.pool import pool_names, pool_of

    known = pool_names()
    for _, name in pairs:
        if pool_of_name(name) not in known:
            raise NotFound(f"cannot import '{name}': no such pool '{pool_of_name(name)}'")
    for pool_name in dict.fromkeys(pool_of_name(name) for _, name in pairs):
        with pool_of(pool_name) as pool:
            for _, name in pairs:
                if pool_of_name(name) == pool_name and pool.exists(name):
                    raise AlreadyExists(f"cannot import '{name}': dataset already exists")


def _import_all(
    pairs: list[tuple[str, str]], format_: Format, jobs: int, bar: ProgressBar
) -> tuple[list["ImportReport"], list[LaminaError]]:
    """Import every pair; after the first failure none is begun and those that run are given up."""
    stop = threading.Event()
    words = command()
    if jobs == 1:
        reports: list[ImportReport] = []
        for number, (source, name) in enumerate(pairs, 1):
            if len(pairs) > 1:
                bar.begin(f"{number}/{len(pairs)} {name}")
            try:
                reports.append(_import(source, name, format_, bar, stop, words))
            except LaminaError as error:
                return reports, [error]
        return reports, []
    with ThreadPoolExecutor(max_workers=jobs) as executor:
        futures: list[Future[ImportReport]] = []
        try:
            futures += [executor.submit(_import, source, name, format_, bar, stop, words) for source, name in pairs]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Also on Ctrl-C: the executor waits for its threads, which leave their pools clean.
            if any(not future.done() or future.exception() is not None for future in futures if not future.cancelled()):
                stop.set()
            for future in futures:
                future.cancel()
    return _outcome(futures)


def _outcome(futures: list[Future["ImportReport"]]) -> tuple[list["ImportReport"], list[LaminaError]]:
    reports: list[ImportReport] = []
    failures: list[LaminaError] = []
    for future in futures:
        if future.cancelled():
            continue
        error = future.exception()
        if error is None:
            reports.append(future.result())
        elif isinstance(error, LaminaError):
            failures.append(error)
        elif not isinstance(error, _Cancelled):
            raise error
    return reports, failures


def _import(
    source: str, name: str, format_: Format, bar: ProgressBar, stop: threading.Event, words: str | None
) -> "ImportReport":
    def progress(figures: "Progress") -> None:
        if stop.is_set():
            raise _Cancelled
        bar.update(name, figures)

    if stop.is_set():
        raise _Cancelled
    from lamina.pool import pool_of

    # Every import has a pool of its own: a pool's handle belongs to one thread.
    with pool_of(name, write=True) as pool:
        pool.command = words
        return pool.import_image(_source(source), name, progress=progress, format=format_)


def _source(word: str) -> str | BinaryIO:
    if word != "-":
        return word
    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal: pipe a tar into it")
    return sys.stdin.buffer


COMMAND = Command(
    name="image import",
    synopsis=(
        "image import [-jq] [-f auto|dir|tar] [-J number]",
        "    <source> <dataset>@<tag> [<source> <dataset>@<tag>] ...",
    ),
    summary="take container images into the pool",
    description="""
Takes root file systems into the pool: SOURCE is a directory tree, a tar of one (GNU or PAX, also compressed), or -
for a tar on standard input. Each becomes the image DATASET@TAG; the datasets it needs are created.

Everything is kept: owners, modes, times to the nanosecond, hard links, extended attributes, device nodes, holes. Only
data that no other image in the pool has is stored.

Files that change or vanish while they are read are left out, and each is a warning. After a failure or Ctrl-C nothing
of the image is in the pool; images that were finished before stay.

The table at the end: FILES, LOGICAL (bytes of all files), NEW (bytes that the pool did not have), STORED (bytes that
were written for them), RATIO (LOGICAL to STORED), SECONDS.""",
    options=(
        Option(
            "f",
            "format",
            "take SOURCE for a directory or a tar, whatever it looks like",
            "auto|dir|tar",
            "=auto dir tar",
        ),
        Option(
            "J",
            "jobs",
            "import this many at the same time (default 1); images that share data share best one after another",
            "number",
        ),
        Option("q", "quiet", "no progress, no table"),
        JSON,
    ),
    examples=(
        ("A directory tree", "lamina image import /srv/rootfs tank/images/pytorch@2.8.0"),
        ("From a container engine", "docker export box | lamina image import - tank/images/box@today"),
        ("Several", "lamina image import a.tar tank/images/base@a b.tar tank/images/base@b"),
    ),
    exit_status="0  All images are in the pool, whole.\n"
    "1  An import failed, or files were left out of an image (which is in the pool then);\n"
    "   each is a line on standard error.\n2  Wrong usage.",
    run=run,
    operands="path image",
)
