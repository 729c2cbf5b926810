"""``lamina image du``."""

from lamina.cli.command import JSON, PARSABLE, SCRIPTED, Arguments, Command, Option
from lamina.cli.output import Column, complain, print_json, print_table
from lamina.cli.pools import Pools
from lamina.errors import LaminaError
from lamina.pool.names import check_name
from lamina.pool.units import format_ratio, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.oci.usage import RepositoryUsage
    from lamina.pool import Entry, Pool
    from lamina.pool.figures.repositories import Usage

_COLUMNS = (
    Column("NAME"),
    Column("IMAGES", right=True),
    *(Column(header, right=True, width=5) for header in ("LOGICAL", "ALONE", "STORED", "SHARED", "UNIQUE")),
    *(Column(header, right=True, width=5) for header in ("COMPRESS", "DEDUP")),
)


def run(arguments: Arguments) -> int:
    """Add up what images take, by repository."""
    failed = False
    shown: list[tuple[str, list[RepositoryUsage], Usage]] = []
    with Pools() as pools:
        wanted: dict[str, tuple[Pool, dict[int, Entry]]] = {}
        if not arguments.operands:
            for found in pools.everything():
                if isinstance(found, LaminaError):
                    complain(str(found))
                    failed = True
                else:
                    wanted[found.name] = (found, {one.id: one for one in found.images()})
        for name in arguments.operands:
            try:
                check_name(name)
                pool = pools.of(name)
                entries = wanted.setdefault(pool.name, (pool, {}))[1]
                entries.update((one.id, one) for one in pool.images(name))
            except LaminaError as error:
                complain(str(error))
                failed = True
        from lamina.oci.usage import usage

        for pool, chosen in wanted.values():
            if chosen:
                shown.append((pool.name, *usage(pool, list(chosen.values()))))
    _show(arguments, shown, failed)
    return 1 if failed else 0


def _show(arguments: Arguments, shown: "list[tuple[str, list[RepositoryUsage], Usage]]", failed: bool) -> None:
    every = arguments.has("all")
    if arguments.has("json"):
        pools = {
            name: {
                "repositories": {one.whole.name: _repository_json(one, every) for one in repositories},
                "total": _as_json(total),
            }
            for name, repositories, total in shown
        }
        print_json("image du", {"pools": pools})
        return
    exact = arguments.has("parsable")
    rows: list[list[str]] = []
    for name, repositories, total in shown:
        for one in repositories:
            if every:
                rows += [_row(image.name, image, exact) for image in one.images]
            rows.append(_row(one.whole.name, one.whole, exact))
        # One repository's line is its total.
        if len(repositories) > 1 and not arguments.has("scripted"):
            rows.append(_row("total" if len(shown) == 1 else f"total of {name}", total, exact))
    if rows:
        print_table(_COLUMNS, rows, scripted=arguments.has("scripted"))
    elif not failed:
        complain("no images available")


def _row(name: str, one: "Usage", exact: bool) -> list[str]:
    sizes = (one.logical, one.alone, one.stored, one.shared, one.unique)
    ratios = (one.compression, one.deduplication)
    return [
        name,
        str(one.images),
        *(str(size) if exact else format_size(size) for size in sizes),
        *(format_ratio(ratio, exact) for ratio in ratios),
    ]


def _repository_json(one: "RepositoryUsage", every: bool) -> dict[str, object]:
    document = _as_json(one.whole)
    if every:
        document["by_image"] = {image.name: _as_json(image) for image in one.images}
    return document


def _as_json(one: "Usage") -> dict[str, object]:
    return {
        "images": one.images,
        "logical": one.logical,
        "alone": one.alone,
        "stored": one.stored,
        "shared": one.shared,
        "unique": one.unique,
        "compressratio": one.compression,
        "dedupratio": one.deduplication,
    }


COMMAND = Command(
    name="image du",
    synopsis=("image du [-aHjp] [dataset|image] ...",),
    summary="add up what images take, by repository",
    description="""
Adds up what images take, a line for each repository (a dataset that holds images) and a total of each pool: LOGICAL
(bytes of all their files), ALONE (what they would take if each had a pool of its own), STORED (what they take
together), SHARED and UNIQUE (of that, what something else refers to as well, and what destroying these images would
give back), COMPRESS and DEDUP (what compression and sharing save, each by itself).

Every object is counted once in each line, so the lines of repositories that share data add up to more than the
total.""",
    options=(
        Option("a", "all", "a line for each image too"),
        SCRIPTED,
        PARSABLE,
        JSON,
    ),
    examples=(
        ("Where is the space?", "lamina image du"),
        ("Of one repository, image by image", "lamina image du -a tank/images/debian"),
    ),
    run=run,
    operands="dataset snapshot",
)
