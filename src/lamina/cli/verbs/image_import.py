"""``lamina image import``."""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.imageflags import jobs_of, layer_limit_of
from lamina.cli.output import Column, complain, print_json, print_table
from lamina.cli.progress import ProgressBar, summary_rows
from lamina.cli.typed import command
from lamina.errors import (
    AlreadyExists,
    InvalidName,
    LaminaError,
    NotFound,
    OciError,
    UsageError,
)
from lamina.pool.names import check_snapshot_name, pool_of_name, printable

if TYPE_CHECKING:
    from lamina.ingest.progress import Progress
    from lamina.oci.incoming.importing import Choice
    from lamina.oci.incoming.origins import Format
    from lamina.pool import ImportReport, Pool

_COLUMNS = (
    Column("IMAGE"),
    *(Column(header, right=True, width=5) for header in ("FILES", "LOGICAL", "NEW", "STORED", "RATIO", "SECONDS")),
)


class _Cancelled(Exception):
    """Raised inside an import from its progress callback, when another one failed or Ctrl-C was typed."""


@dataclass(frozen=True, slots=True)
class _How:
    """What the options say of each image."""

    format: "Format"
    choice: "Choice"
    bar: ProgressBar
    words: str | None


def run(arguments: Arguments) -> int:
    """Import one or more images."""
    pairs = _pairs(arguments.operands)
    format_ = _format(arguments.value("format"))
    jobs = jobs_of(arguments, 1)
    choice = _choice(arguments, len(pairs))
    _check([name for _, name in pairs if name is not None])
    json = arguments.has("json")
    bar = ProgressBar(pairs[0][1] or pairs[0][0] if len(pairs) == 1 else f"{len(pairs)} images")
    if arguments.has("quiet") or json:
        bar.enabled = False
    try:
        reports, failures = _import_all(pairs, _How(format_, choice, bar, command()), min(jobs, len(pairs)))
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


_Pair = tuple[str, str | None]
"""A source and the image's name; None where the source is to say it."""


def _pairs(operands: list[str]) -> list[_Pair]:
    if not operands:
        raise UsageError("missing source argument")
    if len(operands) == 1:
        return [(operands[0], None)]
    if len(operands) % 2:
        raise UsageError(f"missing image name for source '{operands[-1]}'")
    pairs: list[_Pair] = list(zip(operands[::2], operands[1::2], strict=True))
    names = operands[1::2]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"image name '{name}' is given more than once")
    if operands[::2].count("-") > 1:
        raise UsageError("standard input ('-') can be one image only")
    return pairs


def _format(word: str | None) -> "Format":
    from lamina.oci.incoming.origins import FORMATS

    for known in FORMATS:
        if word in (None, known):
            return known
    raise UsageError(
        f"invalid format '{printable(word or '')}': {', '.join(FORMATS[:-1])} or {FORMATS[-1]} is expected"
    )


def _choice(arguments: Arguments, sources: int) -> "Choice":
    from lamina.oci.formats.platforms import parse_platform
    from lamina.oci.incoming.importing import Choice

    image, platform = arguments.value("image"), arguments.value("platform")
    if image is not None and sources > 1:
        raise UsageError("--image chooses one image of one source: import several sources one after the other")
    most = layer_limit_of(arguments)
    return Choice(image, None if platform is None else parse_platform(platform), limit=most)


def _check(names: list[str]) -> None:
    """Refuse all that can be known beforehand, so that nothing is imported before a typing error is found."""
    for name in names:
        if "@" not in name:
            raise InvalidName(
                f"cannot import '{printable(name)}': missing '@' delimiter in snapshot name; "
                f"an image is named dataset@tag, such as '{printable(name)}@latest'"
            )
        check_snapshot_name(name, "import")
    from lamina.pool import pool_names, pool_of

    known = pool_names()
    for name in names:
        if pool_of_name(name) not in known:
            raise NotFound(f"cannot import '{name}': no such pool '{pool_of_name(name)}'")
    for pool_name in dict.fromkeys(map(pool_of_name, names)):
        with pool_of(pool_name) as pool:
            for name in names:
                if pool_of_name(name) == pool_name and pool.exists(name):
                    raise AlreadyExists(f"cannot import '{name}': dataset already exists")


def _import_all(pairs: list[_Pair], how: _How, jobs: int) -> tuple[list["ImportReport"], list[LaminaError]]:
    """Import every pair; after the first failure none is begun and those that run are given up."""
    stop = threading.Event()
    if jobs == 1:
        reports: list[ImportReport] = []
        for number, (source, name) in enumerate(pairs, 1):
            if len(pairs) > 1:
                how.bar.begin(f"{number}/{len(pairs)} {name}")
            try:
                reports.append(_import(source, name, how, stop))
            except LaminaError as error:
                return reports, [error]
        return reports, []
    with ThreadPoolExecutor(max_workers=jobs) as executor:
        futures: list[Future[ImportReport]] = []
        try:
            futures += [executor.submit(_import, source, name, how, stop) for source, name in pairs]
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


def _import(source: str, name: str | None, how: _How, stop: threading.Event) -> "ImportReport":
    def progress(figures: "Progress") -> None:
        if stop.is_set():
            raise _Cancelled
        how.bar.update(name or source, figures)

    if stop.is_set():
        raise _Cancelled
    from lamina.oci.incoming.importing import named_error

    try:
        return _take(source, name, how, progress)
    except OciError as error:
        raise named_error(error, f"'{printable(name or source)}'") from error


def _take(source: str, name: str | None, how: _How, progress: "Callable[[Progress], None]") -> "ImportReport":
    from lamina.oci.incoming.origins import RootOrigin, open_origin
    from lamina.pool import pool_of

    platform = how.choice.platform
    with open_origin(source, how.format, platform=None if platform is None else str(platform)) as origin:
        if isinstance(origin, RootOrigin):
            _check_root(source, name, how.choice)
        # Every import has a pool of its own: a pool's handle belongs to one thread.
        with pool_of(name or _only_pool(source), write=True) as pool:
            pool.command = how.words
            if isinstance(origin, RootOrigin):
                assert name is not None
                return pool.import_image(origin.source, name, progress=progress, format=origin.format)
            from lamina.oci.incoming.importing import import_images

            return import_images(pool, origin, name or partial(_name, pool, source), how.choice, progress=progress)


def _check_root(source: str, name: str | None, choice: "Choice") -> None:
    """A root file system says nothing of itself, and there is nothing to choose."""
    if name is None:
        raise UsageError(f"missing image name for source '{printable(source)}'")
    if choice.image is not None or choice.platform is not None:
        raise UsageError(f"'{printable(source)}' is a root file system: there is no image or platform to choose")


def _only_pool(source: str) -> str:
    """The pool that is meant where no name says it."""
    from lamina.pool import pool_names

    known = sorted(pool_names())
    if not known:
        raise NotFound("no pool to import into: make one with 'lamina pool create NAME DIRECTORY'")
    if len(known) > 1:
        raise UsageError(
            f"missing image name for source '{printable(source)}': there are several pools ({', '.join(known)})"
        )
    return known[0]


def _name(pool: "Pool", source: str, hint: str | None) -> str:
    """The name in the pool of an image by the name that it has in its archive."""
    from lamina.oci.incoming.importing import name_for
    from lamina.pool.importing.tags import images_dataset

    name = name_for(images_dataset(pool), hint, f"'{printable(source)}'")
    check_snapshot_name(name, "import")
    if pool.exists(name):
        raise AlreadyExists(f"cannot import '{name}': dataset already exists")
    return name


COMMAND = Command(
    name="image import",
    synopsis=(
        "image import [-jq] [-f format] [-J number] [--image image] [--platform os/arch[/variant]]",
        "    [--max-layer-size size] <source> [<dataset>@<tag>] [<source> <dataset>@<tag>] ...",
    ),
    summary="take container images into the pool",
    description="""
Takes images into the pool. Each SOURCE becomes the image DATASET@TAG; the datasets it needs are created. SOURCE is

  a directory tree, or a tar of one (GNU or PAX): a root file system
  an archive of 'docker save', 'podman save', skopeo, crane, 'ctr images export'
  an OCI layout, as a directory or as an archive
  - for a tar or an archive on standard input
  docker-daemon:IMAGE, containers-storage:IMAGE, containerd://[NAMESPACE/]IMAGE:
    an image of an engine on this machine

Tars and archives may be compressed (gzip, zstd, xz, bzip2). What a SOURCE is, its first members tell; --format says it
where they do not. Docker's socket is /var/run/docker.sock, or DOCKER_HOST's; podman's store may be named as skopeo does
it, containers-storage:[DRIVER@ROOT+RUNROOT]IMAGE; containerd is asked through ctr, which heeds CONTAINERD_ADDRESS and
CONTAINERD_NAMESPACE.

Everything of a root file system is kept: owners, modes, times to the nanosecond, hard links, extended attributes,
device nodes, holes. Only data that no other image in the pool has is stored. Of a container image also its config, its
manifest and the exact bytes of its layers are kept. Layers are checked against their digests, and those that the pool
has are not read. Where one source is imported and its image says its name, DATASET@TAG may be left out: the image is
then the one that 'lamina image pull' would make, IMAGES/REPOSITORY@TAG.

Files that change or vanish while they are read are left out, and each is a warning. After a failure or Ctrl-C nothing
of the image is in the pool; images that were finished before stay.

The table at the end: FILES, LOGICAL (bytes of all files), NEW (bytes that the pool did not have), STORED (bytes that
were written for them), RATIO (LOGICAL to STORED), SECONDS.""",
    options=(
        Option(
            *("f", "format", "take SOURCE for auto, dir, tar, oci-dir, oci-archive or docker-archive (default auto)"),
            *("format", "=auto dir tar oci-dir oci-archive docker-archive"),
        ),
        Option(
            "", "image", "which image of several: its name, its digest (or seven digits of it), or its number", "image"
        ),
        Option(
            *(
                "J",
                "jobs",
                "import this many at the same time (default 1); images that share data share best one by one",
            ),
            "number",
        ),
        Option(
            "",
            "max-layer-size",
            "the most that a layer may be, unpacked (default: 250 times its size, 1G to 64G)",
            "size",
        ),
        Option("", "platform", "which image of several platforms (default: this machine's)", "os/arch[/variant]"),
        Option("q", "quiet", "no progress, no table"),
        JSON,
    ),
    examples=(
        ("A directory tree", "lamina image import /srv/rootfs tank/images/pytorch@2.8.0"),
        ("From a container engine", "docker export box | lamina image import - tank/images/box@today"),
        ("An image, with its layers", "docker save app:v2 | lamina image import - tank/images/app@v2"),
        ("The same, from Docker itself", "lamina image import docker-daemon:app:v2 tank/images/app@v2"),
        ("One of an archive's images", "lamina image import --image app:v2 all.tar tank/images/app@v2"),
        ("Several", "lamina image import a.tar tank/images/base@a b.tar tank/images/base@b"),
    ),
    exit_status="0  All images are in the pool, whole.\n"
    "1  An import failed, or files were left out of an image (which is in the pool then);\n"
    "   each is a line on standard error.\n2  Wrong usage.",
    run=run,
    operands="path image",
)
