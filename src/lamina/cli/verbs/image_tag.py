"""``lamina image tag``."""

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.pools import Pools
from lamina.errors import UsageError
from lamina.pool.names import check_snapshot_name, printable, split_snapshot


def run(arguments: Arguments) -> int:
    """Give one image another name."""
    if not arguments.operands:
        raise UsageError("missing image argument")
    if len(arguments.operands) == 1:
        raise UsageError("missing new name")
    if len(arguments.operands) > 2:
        raise UsageError("too many arguments")
    old, new = arguments.operands
    if "@" not in new:
        # A dataset alone: the image keeps its tag there.
        new = f"{new}@{split_snapshot(old)[1] or ''}"
    elif new.startswith("@"):
        new = split_snapshot(old)[0] + new
    from lamina.oci.inspecting import check_image

    with Pools(write=True) as pools:
        pool = pools.of(old, f"cannot tag '{printable(old)}': no such image; 'lamina image list' shows those there are")
        check_image(pool, old, "tag")
        check_snapshot_name(new, "create")
        from lamina.pool.importing.tags import tag_image

        tag_image(pool, old, new, arguments.has("force"))
    return 0


COMMAND = Command(
    name="image tag",
    synopsis=("image tag [-f] <dataset>@<tag> <dataset>[@<tag>]|@<tag>",),
    summary="give an image another name",
    description="""
Gives an image another name beside the one it has, in its own dataset or in another of the same pool, which is made
where it is missing. Nothing is copied. A dataset alone as the new name keeps the tag, @TAG alone the dataset.

A tag that is another image already is moved only with -f: the image that it was stays as DATASET@sha256-... while it
is held, cloned or mounted, or else goes.""",
    options=(Option("f", "force", "move a tag that is another image"),),
    examples=(
        ("What runs in production", "lamina image tag tank/images/app@v12 @production"),
        ("The next one", "lamina image tag -f tank/images/app@v13 @production"),
        ("In another dataset", "lamina image tag tank/images/app@v13 tank/team/app"),
    ),
    run=run,
    operands="all-images dataset",
)
