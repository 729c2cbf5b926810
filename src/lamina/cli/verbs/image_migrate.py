"""``lamina image migrate``."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from lamina.cli.command import JSON, PARSABLE, SCRIPTED, Arguments, Command, Option
from lamina.cli.imageflags import layer_limit_of, pool_meant
from lamina.cli.output import Column, complain, print_json, print_table
from lamina.cli.pools import Pools
from lamina.cli.progress import ProgressBar
from lamina.errors import UsageError
from lamina.pool.names import check_dataset_name, printable
from lamina.pool.units import format_size

if TYPE_CHECKING:
    from lamina.oci.incoming.importing import Choice
    from lamina.oci.migrate.migrating import Migration, Result
    from lamina.oci.migrate.units import Unit

_COLUMNS = (
    Column("IMAGE"),
    *(Column(header, right=True, width=5) for header in ("SIZE", "STORED", "SAVED")),
    Column("RESULT"),
)

_TAKEN = ("migrated", "there", "left")
"""States of images that are in the pool."""


def run(arguments: Arguments) -> int:
    """Migrate the images of one source."""
    if not arguments.operands:
        raise UsageError("missing source argument")
    if len(arguments.operands) > 2:
        raise UsageError("too many arguments")
    word, dest = (*arguments.operands, None)[:2]
    assert word is not None
    if dest is not None:
        check_dataset_name(dest, "migrate")
    dry_run = arguments.has("dry-run")
    choice = _choice(arguments)
    pool_name = pool_meant(arguments.value("pool"), dest, "migrate to")
    from lamina.oci.migrate.migrating import FAILED, LEFT, How, Migration
    from lamina.oci.migrate.sources import open_source
    from lamina.pool.importing.tags import images_dataset

    bar = ProgressBar(word, saving=False)
    bar.enabled = bar.enabled and not (arguments.has("quiet") or arguments.has("json"))
    results: list[Result] = []
    with Pools(write=not dry_run) as pools:
        pool = pools.of(pool_name, f"cannot migrate to '{printable(pool_name)}': no such pool")
        source = open_source(word, choice.platform)
        how = How(dest or images_dataset(pool), arguments.has("delete-source"), arguments.has("all"), choice)
        units = source.units()
        migration = Migration(pool, source, how, **_watching(bar))  # type: ignore[arg-type]
        if dry_run:
            results = migration.plan(units)
            for result in results:
                _tell(result)
        else:
            try:
                _move(migration, units, results, bar)
            finally:
                bar.clear()
                # Also after Ctrl-C: what is done is done.
                _show(arguments, results)
    if dry_run:
        _show(arguments, results, dry_run=True)
    if not units and not arguments.has("json") and not arguments.has("quiet"):
        complain(f"{source.what} holds no images")
    return 1 if any(result.state in (FAILED, LEFT) and not _excused(result) for result in results) else 0


def _excused(result: "Result") -> bool:
    """Whether an image was left at its source on purpose."""
    return result.state == "left" and result.unit.kept is not None


def _move(migration: "Migration", units: "list[Unit]", results: "list[Result]", bar: ProgressBar) -> None:
    for result in migration.run(units):
        bar.clear()
        results.append(result)
        _tell(result)


def _tell(result: "Result") -> None:
    if result.why is not None:
        complain(f"{printable(result.label)}: {result.why}")


def _watching(bar: ProgressBar) -> dict[str, object]:
    from lamina.ingest.progress import Progress

    def progress(figures: Progress) -> None:
        bar.update("import", figures)

    def verified(done: int, total: int) -> None:
        bar.update("verify", Progress(0, done, 0, 0, None, total, False))

    return {"begin": bar.begin, "progress": progress, "verified": verified}


def _show(arguments: Arguments, results: "list[Result]", *, dry_run: bool = False) -> None:
    if arguments.has("json"):
        print_json("image migrate", {"images": [_as_json(result) for result in results]})
        return
    if arguments.has("quiet") or not results:
        return
    size = _exactly if arguments.has("parsable") else _roughly
    rows = [_row(result, size, dry_run) for result in results]
    done = [result for result in results if result.state in _TAKEN]
    if len(results) > 1 and not arguments.has("scripted"):
        figures = [sum(result.stored for result in done), sum(result.saved for result in done)]
        shown = ["-", "-"] if dry_run else [size(figure) for figure in figures]
        whole = size(sum(result.unit.size for result in done))
        rows.append(["total", whole, *shown, f"{len(done)} of {len(results)}"])
    print_table(_COLUMNS, rows, scripted=arguments.has("scripted"))


def _exactly(number: int) -> str:
    return str(number)


def _roughly(number: int) -> str:
    return format_size(number) if number >= 0 else f"-{format_size(-number)}"


def _row(result: "Result", size: Callable[[int], str], dry_run: bool) -> list[str]:
    known = result.state in _TAKEN and not dry_run
    figures = [size(result.stored), size(result.saved)] if known else ["-", "-"]
    word = {"there": "was there", "left": "not removed"}.get(result.state, result.state)
    if dry_run:
        word = {"migrated": "to migrate", "there": "is there"}.get(result.state, word)
    return [result.label, size(result.unit.size), *figures, f"{word}, removed" if result.removed else word]


def _as_json(result: "Result") -> dict[str, object]:
    touched = result.state in _TAKEN
    return {
        "image": printable(result.label),
        "id": result.unit.parts[0].ids[0] if len(result.unit.parts) == 1 and result.unit.parts[0].ids else None,
        "names": list(result.names),
        "state": result.state,
        "removed": result.removed,
        "size": result.unit.size,
        "stored": result.stored if touched else None,
        "saved": result.saved if touched else None,
        "why": printable(result.why) if result.why is not None else None,
    }


def _choice(arguments: Arguments) -> "Choice":
    from lamina.oci.formats.platforms import parse_platform
    from lamina.oci.incoming.importing import Choice

    platform = arguments.value("platform")
    return Choice(None, None if platform is None else parse_platform(platform), limit=layer_limit_of(arguments))


COMMAND = Command(
    name="image migrate",
    synopsis=(
        "image migrate [-Hjnpq] [--all] [--delete-source] [--platform os/arch]",
        "    [--max-layer-size size] [--pool pool] <source> [<dataset>]",
    ),
    summary="move the images of an engine, a layout or a folder of archives into the pool",
    description="""
Moves container images into the pool one by one. SOURCE is where they are:

  docker-daemon:            the images of Docker, over its socket (DOCKER_HOST)
  containers-storage:       those of Podman and Buildah; of another store with
                            containers-storage:[DRIVER@ROOT+RUNROOT]
  containerd://[NAMESPACE]  those of a namespace of containerd (CONTAINERD_ADDRESS)
  a directory               an OCI layout, or files that 'docker save' and others wrote
  a file                    one such file

Images become POOL/IMAGES/REPOSITORY@TAG, or go below DATASET. Each is imported, then every layer is read back from the
pool and compared with its diff ID; with --delete-source its original is removed before the next one begins: by Docker,
'podman rmi' or 'ctr images rm' themselves; of a layout the entry in its index and the blobs that no other entry needs;
of a folder the file. Nothing of the size of a layer is written anywhere else, so this works where the disk is nearly
full: then what frees most for the least space comes first, and what found no room is tried again at the end.

Without --delete-source nothing at the source changes. Images that containers use are skipped when originals are to be
removed. Images for several platforms are taken for one platform and never removed.

The command can be given again whatever ended it: what is in the pool already is verified, removed, and not read again.

The table: SIZE at the source, STORED in the pool for it, SAVED by not having it twice.""",
    options=(
        Option("n", "dry-run", "change nothing, say what would be migrated"),
        Option("", "delete-source", "remove each image at its source once it is verified in the pool"),
        Option("", "all", "also images without a name; they become IMAGES/untagged@ID"),
        Option("", "platform", "the platform to take, such as linux/arm64", "os/arch[/variant]"),
        Option(
            *("", "max-layer-size", "the most that a layer may be, unpacked (default: 250 times its size, 1G to 64G)"),
            metavar="size",
        ),
        Option("", "pool", "the pool, where several are known", "pool", "pool"),
        Option("q", "quiet", "no progress, no table"),
        SCRIPTED,
        PARSABLE,
        JSON,
    ),
    examples=(
        ("What Docker has, with a look first", "lamina image migrate -n docker-daemon:"),
        ("Make room: Docker's images into the pool", "lamina image migrate --delete-source docker-daemon:"),
        ("A folder of archives", "lamina image migrate /srv/images tank/archive"),
    ),
    exit_status="0  All images are in the pool, and removed if asked for, but for those skipped.\n"
    "1  Some failed, or could not be removed; each is a line on standard error.\n2  Wrong usage.",
    run=run,
    operands="path dataset",
)
