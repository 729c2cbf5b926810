"""``lamina image export``."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.imageflags import one_image
from lamina.cli.output import complain, print_json
from lamina.cli.progress import ProgressBar
from lamina.errors import AccessDenied, NoSpace, UsageError
from lamina.pool.names import check_snapshot_name, printable

if TYPE_CHECKING:
    from lamina.oci.outgoing.export import ExportReport, Format
    from lamina.oci.registry.reference import Reference
    from lamina.pool import Pool


def run(arguments: Arguments) -> int:
    """Export one image."""
    name = one_image(arguments)
    format_ = _format(arguments.value("format"))
    output = arguments.value("output")
    json = arguments.has("json")
    if output is None:
        if format_ == "oci-dir":
            raise UsageError("oci-dir is a directory: name it with -o")
        output = "-"
    if output == "-" and json:
        raise UsageError("standard output is the archive: -j needs -o FILE")
    from lamina.oci.outgoing.export import default_packing, export_image
    from lamina.oci.outgoing.packing import parse_packing

    compression = arguments.value("compression") or default_packing(format_)
    packing = parse_packing(compression, arguments.value("level"), arguments.value("jobs"))
    anew = arguments.has("compression") or arguments.has("level")
    tag = _tag(arguments.value("tag"), format_)
    check_snapshot_name(name, "export")
    if output == "-" and sys.stdout.isatty():
        complain("standard output is a terminal: redirect it, or name a file with -o")
        return 1
    bar = ProgressBar(name, saving=False, counting=False)
    bar.enabled = bar.enabled and not (arguments.has("quiet") or json)
    with _opened(name) as pool:
        reference = tag or _own_name(pool, name, format_)
        try:
            report = export_image(
                *(pool, name, output, format_, packing), anew=anew, reference=reference, progress=_shown(bar, name)
            )
        finally:
            bar.clear()
    for warning in report.warnings:
        complain(f"warning: {printable(name)}: {warning}")
    if json:
        print_json("image export", {"images": {name: _as_json(report, output)}})
    return 1 if report.warnings else 0


def _opened(name: str) -> "Pool":
    """The image's pool: writable where that is possible, so that what is exported can be pinned."""
    from lamina.pool import pool_of

    try:
        return pool_of(name, write=True)
    except (AccessDenied, NoSpace):
        return pool_of(name)


def _format(word: str | None) -> "Format":
    from lamina.oci.outgoing.export import FORMATS

    for known in FORMATS:
        if word in (None, known):
            return known
    raise UsageError(f"invalid format '{word}': {', '.join(FORMATS)} are known")


def _tag(word: str | None, format_: "Format") -> "Reference | None":
    if word is None:
        return None
    if format_ == "rootfs-tar":
        raise UsageError("a tar of a root file system has no name in it: --tag is for the other formats")
    from lamina.oci.registry.reference import parse_reference

    reference = parse_reference(word)
    if reference.digest is not None:
        raise UsageError("--tag is a name such as debian:12; digests follow from what is exported")
    return reference


def _own_name(pool: "Pool", name: str, format_: "Format") -> "Reference | None":
    """The name in the archive where --tag gives none."""
    if format_ == "rootfs-tar":
        return None
    from lamina.oci.outgoing.naming import reference_of

    found = reference_of(pool, name)
    if found is None:
        complain(f"note: '{printable(name)}' would be no name for a container engine: --tag gives the image one")
    return found


def _shown(bar: ProgressBar, name: str) -> "Callable[[int, int], None]":
    from lamina.ingest.progress import Progress

    def progress(done: int, total: int) -> None:
        bar.update(name, Progress(0, done, 0, 0, None, total, False))

    return progress


def _as_json(report: "ExportReport", output: str) -> dict[str, object]:
    return {
        "output": output,
        "format": report.format,
        "id": report.config,
        "manifest": report.manifest,
        "layers": [
            {"diff_id": one.diff_id, "digest": one.digest, "tar_size": one.tar_size, "size": one.size}
            for one in report.layers
        ],
        "bytes": report.bytes,
        "seconds": round(report.seconds, 3),
        "warnings": report.warnings,
    }


COMMAND = Command(
    name="image export",
    synopsis=(
        "image export [-jq] [-f oci-archive|oci-dir|docker-archive|rootfs-tar] [-o file|-]",
        "    [--tag reference] [--compression gzip|zstd|none] [--level number] [-J number]",
        "    <dataset>@<tag>",
    ),
    summary="write an image into a file for other programs",
    description="""
Writes an image as a file, to standard output, or into a directory:

  oci-archive     an OCI image layout as a tar, for podman, skopeo, ctr, buildah
  oci-dir         the same as a directory; a layout that is there gets one image more
  docker-archive  what 'docker save' writes: for docker load, podman load, skopeo, ctr
  rootfs-tar      the flattened root file system as one tar, for tar(1), docker import

The image keeps its ID and its layers their diff IDs: the config is the original's, byte for byte, and every layer's tar
is compared with its diff ID as it is written. The digests of compressed layers depend on the compression, which is
gzip in OCI's formats and none in the others; the same image gives the same bytes each time. The manifest is the
original's where its layers have the digests that stand in it, which is so for layers that were never compressed.

A snapshot that is no image, or one that was imported from a directory, becomes an image of one layer with a minimal
config.

A file appears under its name when it is whole. Where compressed layers go to standard output they are compressed twice,
since their sizes stand before them; with -o they are not.""",
    options=(
        Option(
            *("f", "format", "what to write (default oci-archive)", "format"),
            completes="=oci-archive oci-dir docker-archive rootfs-tar",
        ),
        Option(
            "o", "output", "the file or directory to write; - is standard output, which is the default", "file", "path"
        ),
        Option(
            "", "tag", "the image's name in the archive (default: its dataset below the pool's images)", "reference"
        ),
        Option(
            *("", "compression", "how layers are compressed: gzip, zstd or none", "compression"),
            completes="=gzip zstd none",
        ),
        Option("", "level", "how hard to compress: gzip 1 to 9 (default 3), zstd 1 to 19 (default 3)", "number"),
        Option("J", "jobs", "threads that compress (default: one a processor)", "number"),
        Option("q", "quiet", "no progress"),
        JSON,
    ),
    examples=(
        ("Into Docker", "lamina image export -f docker-archive tank/images/app@v1 | docker load"),
        ("A file for Podman", "lamina image export -o app.tar tank/images/app@v1"),
        ("Several in one layout", "lamina image export -f oci-dir -o layout --tag app:v2 tank/images/app@v2"),
        ("Unpacked", "lamina image export -f rootfs-tar tank/images/app@v1 | tar -xp --numeric-owner -C /srv/root"),
    ),
    exit_status="0  The image is written, whole.\n"
    "1  It is not, or sockets were left out; a line on standard error says which.\n"
    "2  Wrong usage.",
    run=run,
    operands="all-images",
)
