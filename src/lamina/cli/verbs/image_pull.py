"""``lamina image pull``."""

from dataclasses import asdict, dataclass
from typing import Any

from lamina.cli.command import JSON, Arguments, Command, Option
from lamina.cli.imageflags import jobs_of, layer_limit_of, pool_meant
from lamina.cli.layerprogress import LayerLines
from lamina.cli.output import Column, complain, print_json, print_table
from lamina.cli.pools import Pools
from lamina.cli.progress import summary_rows
from lamina.cli.registryflags import REGISTRY_FLAGS, registry_options_of
from lamina.errors import OciError, UsageError
from lamina.pool.names import printable, split_snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.oci.formats.platforms import Platform
    from lamina.oci.incoming.pull import Pulled
    from lamina.oci.registry.client import Registry
    from lamina.oci.registry.reference import Reference
    from lamina.pool import Pool

_JOBS = 3
"""Layers at the same time, as Docker has it."""
_COLUMNS = (
    Column("IMAGE"),
    *(Column(header, right=True, width=5) for header in ("FILES", "LOGICAL", "NEW", "STORED", "RATIO", "SECONDS")),
)


@dataclass(frozen=True, slots=True)
class _How:
    """What the options say of each image."""

    dest: str | None
    platform: "Platform | None"
    force: bool
    jobs: int
    limit: int | None


def run(arguments: Arguments) -> int:
    """Pull one image, or all tags of a repository."""
    if not arguments.operands:
        raise UsageError("missing reference argument")
    if len(arguments.operands) > 2:
        raise UsageError("too many arguments")
    from lamina.oci.formats.platforms import parse_platform
    from lamina.oci.registry.reference import parse_reference

    text, dest = (*arguments.operands, None)[:2]
    assert text is not None
    reference = parse_reference(text)
    every = arguments.has("all-tags")
    if every and (reference.digest or text.endswith(f":{reference.tag}")):
        raise UsageError("-a pulls all tags of a repository: name neither tag nor digest")
    if every and dest is not None and "@" in dest:
        raise UsageError("-a pulls all tags of a repository: DEST is a dataset, without a tag")
    word = arguments.value("platform")
    how = _How(
        dest,
        parse_platform(word) if word is not None else None,
        arguments.has("force"),
        jobs_of(arguments, _JOBS),
        layer_limit_of(arguments),
    )
    # What is wrong with the pool is said before a registry is asked.
    pool_name = pool_meant(arguments.value("pool"), dest, "pull into")
    options = registry_options_of(arguments, reference.host)
    from lamina.oci.registry.client import Registry

    lines = LayerLines(quiet=arguments.has("quiet") or arguments.has("json"))

    def connected() -> Registry:
        return Registry(reference.host, options, notice=lines.say)

    done: list[Pulled] = []
    failures: list[OciError] = []
    with Pools(write=True) as pools:
        pool = pools.of(pool_name, f"cannot pull '{printable(text)}': no such pool '{printable(pool_name)}'")
        wanted = [reference]
        if every:
            with connected() as registry:
                wanted = [reference.tagged(tag) for tag in registry.tags(reference.repository)]
        for one in wanted:
            try:
                with connected() as registry:
                    done.append(_pull(pool, registry, one, how, lines))
            except OciError as error:
                if not every:
                    raise
                complain(str(error))
                failures.append(error)
        full = pool.capacity()
    _warn_of_full(pool_name, full)
    _show(arguments, done)
    return max((failure.exit_status for failure in failures), default=0)


def _pull(pool: "Pool", registry: "Registry", reference: "Reference", how: _How, lines: LayerLines) -> "Pulled":
    from lamina.oci.incoming.pull import check_repository, pull, resolve, target
    from lamina.pool.importing.tags import images_dataset

    name = target(reference, how.dest, lambda: images_dataset(pool))
    if how.dest is None and not how.force:
        check_repository(pool, split_snapshot(name)[0], reference)
    if not lines.quiet:
        print(f"{reference.tag or reference.digest}: Pulling from {reference.name}", flush=True)
    resolved = resolve(registry, reference, how.platform)
    try:
        pulled = pull(*(pool, registry, resolved, name), force=how.force, jobs=how.jobs, limit=how.limit, watcher=lines)
    finally:
        lines.finish()
    if not lines.quiet:
        _tell(pulled)
    return pulled


def _tell(pulled: "Pulled") -> None:
    """What docker says after a pull, and what became of the image that the tag showed before."""
    resolved = pulled.resolved
    print(f"Digest: {resolved.digest}")
    state = "Image is up to date for" if pulled.report is None else "Downloaded newer image for"
    print(f"Status: {state} {resolved.reference}")
    if pulled.kept is not None:
        print(f"The image that was {printable(pulled.name)} before is {printable(pulled.kept)} now")
    elif pulled.moved:
        print(f"The image that was {printable(pulled.name)} before is gone; its space comes back")
    print(pulled.name, flush=True)


def _show(arguments: Arguments, done: "list[Pulled]") -> None:
    if arguments.has("json"):
        print_json("image pull", {"images": {one.name: _as_json(one) for one in done}})
        return
    if arguments.has("quiet"):
        for one in done:
            print(one.name)
        return
    figures = {
        one.name: (
            one.report.files,
            one.report.logical_bytes,
            one.report.new_logical_bytes,
            one.report.stored_bytes,
            one.report.seconds,
        )
        for one in done
        if one.report is not None
    }
    if figures:
        print_table(_COLUMNS, summary_rows(figures))


def _as_json(one: "Pulled") -> dict[str, Any]:
    resolved = one.resolved
    layers = [
        {
            "digest": layer.digest,
            "diff_id": diff_id,
            "size": layer.size,
            "downloaded": layer.digest in one.fetched,
        }
        for layer, diff_id in zip(resolved.manifest.layers, resolved.config.diff_ids, strict=True)
    ]
    return {
        "reference": str(resolved.reference),
        "digest": resolved.digest,
        "manifest": resolved.manifest.digest,
        "id": resolved.config.digest,
        "platform": str(resolved.config.platform),
        "status": "current" if one.report is None else "moved" if one.moved else "new",
        "kept": one.kept,
        "downloaded": one.downloaded,
        "layers": layers,
        "report": asdict(one.report) if one.report is not None else None,
    }


def _warn_of_full(name: str, capacity: int) -> None:
    from lamina.pool.reports import NEAR_FULL

    if capacity >= NEAR_FULL:
        complain(f"warning: the pool '{name}' is {capacity}% full; 'lamina pool status {name}' says what to do")


COMMAND = Command(
    name="image pull",
    synopsis=(
        "image pull [-fjq] [-J number] [--platform os/arch] [--pool pool] [registry options]",
        "    <reference> [<dataset>[@<tag>]]",
        "image pull -a [-fjq] [registry options] <reference> [<dataset>]",
    ),
    summary="pull an image from a registry",
    description="""
Takes an image from a registry into the pool. REFERENCE is what Docker takes: debian:12,
registry.example.com:5000/team/app, registry.example.com/org/app@sha256:...; without a host it is Docker Hub's, without
a tag it is :latest.

The image becomes POOL/IMAGES/REPOSITORY@TAG, where POOL is the only pool (or --pool) and IMAGES the pool's dataset for
images ('lamina pool get images'). DEST names another dataset, or dataset and tag.

Layers that the pool has, from whatever image, are not downloaded. The others are unpacked while they come, several at
once. The image appears when all digests have matched; after a failure or Ctrl-C nothing of it is in the pool.

A tag that is there already and is the same image is left alone. Else it moves: the image that it was stays as
DATASET@sha256-... while it is held, cloned or mounted, or else goes. An image that was imported, or pulled from another
repository, is replaced only with -f.

Of an image for several platforms this machine's is taken. Credentials are those of 'docker login' and 'podman login'.
A mirror, [REGISTRY=][http://]HOST[/PREFIX], is asked first. HTTPS_PROXY, HTTP_PROXY and NO_PROXY are heeded.""",
    options=(
        Option("a", "all-tags", "pull all tags of the repository"),
        Option("f", "force", "replace an image that came from elsewhere"),
        Option("J", "jobs", f"layers at the same time (default {_JOBS})", "number"),
        Option("", "platform", "the platform to take, such as linux/arm64", "os/arch[/variant]"),
        Option("", "pool", "the pool, where several are known", "pool", "pool"),
        *REGISTRY_FLAGS,
        Option("", "mirror", "ask this registry first; may be given again", "mirror"),
        Option(
            *("", "max-layer-size", "the most that a layer may be, unpacked (default: 250 times its size, 1G to 64G)"),
            metavar="size",
        ),
        Option("q", "quiet", "print only the image's name"),
        JSON,
    ),
    examples=(
        ("From Docker Hub", "lamina image pull python:3.12"),
        ("Under another name", "lamina image pull registry.example.com/org/app:v2 tank/apps/app@stable"),
        ("From a registry with its own CA", "lamina image pull --ca-file ca.pem registry.example.com/team/app"),
        ("In a script", "name=$(lamina image pull -q python:3.12)"),
    ),
    exit_status="0  The image is in the pool, as it is in the registry.\n"
    "1  It could not be pulled; with -a: not all could be.\n2  Wrong usage.",
    run=run,
    operands="image-reference",
)
