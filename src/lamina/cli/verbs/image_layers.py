"""``lamina image layers``."""

from lamina.cli.command import JSON, PARSABLE, SCRIPTED, Arguments, Command
from lamina.cli.imageflags import holder_of, one_image
from lamina.cli.output import Column, print_json, print_table
from lamina.cli.pools import Pools
from lamina.pool.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.oci.usage import LayerUsage

_COLUMNS = (
    Column("DIFF ID"),
    Column("DIGEST"),
    Column("TYPE"),
    *(Column(header, right=True, width=5) for header in ("TAR", "COMPRESSED", "STORED", "UNIQUE")),
    Column("IMAGES", right=True),
)


def run(arguments: Arguments) -> int:
    """List the layers of one image."""
    name = one_image(arguments)
    from lamina.oci.inspecting import check_image
    from lamina.oci.usage import layer_usage

    with Pools() as pools:
        pool = holder_of(pools, name)
        check_image(pool, name)
        layers = layer_usage(pool, name)
    if arguments.has("json"):
        print_json("image layers", {"image": name, "layers": [_as_json(one) for one in layers]})
        return 0
    exact = arguments.has("parsable")
    print_table(_COLUMNS, [_row(one, exact) for one in layers], scripted=arguments.has("scripted"))
    return 0


def _row(one: "LayerUsage", exact: bool) -> list[str]:
    layer = one.layer

    def digest(text: str | None) -> str:
        return "-" if text is None else text if exact else text.partition(":")[2][:12]

    def size(number: int | None) -> str:
        return "-" if number is None else str(number) if exact else format_size(number)

    media_type = layer.media_type or "-"
    return [
        digest(layer.diff_id),
        digest(layer.digest),
        media_type if exact else _form(media_type),
        size(layer.tar_size),
        size(layer.size),
        size(one.stored),
        size(one.unique),
        str(one.images),
    ]


def _form(media_type: str) -> str:
    """The end of a layer's media type: ``tar+gzip``, ``tar.gzip``, ``tar``."""
    _, dot, tail = media_type.rpartition(".tar")
    return f"tar{tail}" if dot else media_type


def _as_json(one: "LayerUsage") -> dict[str, object]:
    layer = one.layer
    return {
        "diff_id": layer.diff_id,
        "digest": layer.digest,
        "media_type": layer.media_type,
        "tar_size": layer.tar_size,
        "size": layer.size,
        "stored": one.stored,
        "unique": one.unique,
        "images": one.images,
    }


COMMAND = Command(
    name="image layers",
    synopsis=("image layers [-Hjp] <dataset>@<tag>",),
    summary="list the layers of an image and what they take",
    description="""
Lists the layers of an image, the lowest first: DIFF ID (the digest of its tar), DIGEST (of the blob in a registry),
TYPE, TAR (bytes of the tar), COMPRESSED (bytes of the blob), STORED (what the data of the tar takes in the pool),
UNIQUE (of that, what nothing but this image refers to) and IMAGES (how many images of the pool have this layer).

A file that several layers have is stored once, so STORED of the layers may add up to more than the image takes. A
plain root file system has no layers.""",
    options=(SCRIPTED, PARSABLE, JSON),
    examples=(
        ("What do its layers cost?", "lamina image layers tank/images/debian@12"),
        ("Whole digests, bytes", "lamina image layers -Hp tank/images/debian@12"),
    ),
    run=run,
    operands="all-images",
)
