"""``lamina image push``."""

from typing import TYPE_CHECKING

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.imageflags import jobs_of
from lamina.cli.layerprogress import LayerLines
from lamina.cli.output import complain, print_json
from lamina.cli.registryflags import REGISTRY_FLAGS, registry_options_of
from lamina.cli.typed import command
from lamina.errors import AccessDenied, NoSpace, UsageError
from lamina.pool.names import check_snapshot_name, printable
from lamina.pool.units import format_size

if TYPE_CHECKING:
    from lamina.oci.outgoing.push import PushReport
    from lamina.pool import Pool


def run(arguments: Arguments) -> int:
    """Push one image."""
    if len(arguments.operands) < 2:
        raise UsageError(f"missing {'reference' if arguments.operands else 'image'} argument")
    if len(arguments.operands) > 2:
        raise UsageError("too many arguments")
    name, text = arguments.operands
    from lamina.oci.incoming.states import COMPLETE, DOWNLOADING, EXISTS, WAITING
    from lamina.oci.outgoing.packing import parse_packing
    from lamina.oci.outgoing.push import MOUNTED, push
    from lamina.oci.registry.reference import parse_reference

    reference = parse_reference(text)
    if reference.digest is not None:
        raise UsageError("the digest follows from what is pushed: name a tag")
    compression = arguments.value("compression")
    packing = parse_packing(compression or "gzip", arguments.value("level"), None)
    jobs = jobs_of(arguments, None)
    check_snapshot_name(name, "push")
    options = registry_options_of(arguments, reference.host)
    from lamina.oci.registry.client import Registry

    words = {
        WAITING: "Preparing",
        DOWNLOADING: "Pushing",
        EXISTS: "Layer already exists",
        MOUNTED: "Mounted",
        COMPLETE: "Pushed",
    }
    silent = arguments.has("quiet") or arguments.has("json")
    lines = LayerLines(quiet=silent, words=words)
    with (
        _opened(name) as pool,
        Registry(reference.host, options, repository=reference.repository, notice=lines.say) as registry,
    ):
        if not silent:
            print(f"The push refers to repository [{reference.name}]", flush=True)
        anew = compression is not None or arguments.has("level")
        try:
            report = push(pool, registry, name, reference, packing, anew=anew, jobs=jobs, watcher=lines)
        finally:
            lines.finish()
    for warning in report.warnings:
        complain(f"warning: {printable(name)}: {warning}")
    if arguments.has("json"):
        print_json("image push", {"images": {name: _as_json(report)}})
    elif silent:
        print(report.digest)
    else:
        sent = f"{format_size(report.sent)} sent" if report.sent else "nothing sent"
        print(f"{reference.tag}: digest: {report.digest} size: {report.size} ({sent})")
    return 1 if report.warnings else 0


def _opened(name: str) -> "Pool":
    """The image's pool: writable where that is possible, so that what is pushed can be pinned and remembered."""
    from lamina.pool import pool_of

    try:
        pool = pool_of(name, write=True)
    except (AccessDenied, NoSpace):
        return pool_of(name)
    pool.command = command()
    return pool


def _as_json(report: "PushReport") -> dict[str, object]:
    return {
        "reference": report.reference,
        "digest": report.digest,
        "size": report.size,
        "id": report.config,
        "layers": [
            {"diff_id": one.diff_id, "digest": one.digest, "size": one.size, "status": one.how} for one in report.layers
        ],
        "sent": report.sent,
        "seconds": round(report.seconds, 3),
        "warnings": report.warnings,
    }


COMMAND = Command(
    name="image push",
    synopsis=(
        "image push [-jq] [-J number] [--compression gzip|zstd|none] [--level number]",
        "    [registry options] <dataset>@<tag> <reference>",
    ),
    summary="push an image to a registry",
    description="""
Brings an image from the pool to a registry, under the name REFERENCE: registry.example.com:5000/team/app:v2. Without
a host it is Docker Hub's, without a tag it is :latest.

What the registry has is not sent: compressed layers that the image came with, or that were made here before, are asked
for by their digests, and mounted from the repositories of the same registry that images of this pool came from or went
to. The others are compressed while they are sent, several at once and without temporary files; what they became is
remembered. So of the next version of an image only the new layers are compressed and sent.

The image keeps its ID. If the registry has, or gets, every layer as the original manifest names it, that manifest is
pushed unchanged, and the digest is the original's; else a new one is made of it. --compression or --level ask for
layers that are compressed so, whatever else there is.

A snapshot that is no image becomes one of a single layer, as with 'lamina image export'. The tag appears when all that
it needs is there. Credentials are those of 'docker login' and 'podman login'.""",
    options=(
        Option(
            *("", "compression", "how layers are compressed: gzip, zstd or none", "compression"),
            completes="=gzip zstd none",
        ),
        Option("", "level", "how hard to compress: gzip 1 to 9 (default 3), zstd 1 to 19 (default 3)", "number"),
        Option("J", "jobs", "layers at the same time (default 3, with zstd 1)", "number"),
        *REGISTRY_FLAGS,
        Option("q", "quiet", "print only the digest"),
        JSON,
    ),
    examples=(
        ("To a registry in the house", "lamina image push tank/images/app@v2 registry.example.com:5000/team/app:v2"),
        (
            "With a password from a file",
            "lamina image push --username ann --password-stdin tank/app@v2 example.com/app < token",
        ),
        ("As zstd", "lamina image push --compression zstd tank/images/app@v2 registry.example.com/app:v2"),
    ),
    exit_status="0  The image is in the registry, under its tag.\n"
    "1  It is not, or sockets were left out; a line on standard error says which.\n"
    "2  Wrong usage.",
    run=run,
    operands="all-images reference",
)
