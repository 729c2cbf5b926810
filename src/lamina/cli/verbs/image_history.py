"""``lamina image history``."""

import time

from lamina.cli.command import JSON, SCRIPTED, Arguments, Command, Option
from lamina.cli.imageflags import holder_of, one_image
from lamina.cli.output import Column, print_json, print_table
from lamina.cli.pools import Pools
from lamina.pool.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.oci.inspecting import Step

_LONGEST = 45
"""Columns of CREATED BY, as Docker cuts it."""
_COLUMNS = (Column("CREATED"), Column("CREATED BY"), Column("SIZE", right=True, width=5), Column("COMMENT"))


def run(arguments: Arguments) -> int:
    """Print how one image was made."""
    name = one_image(arguments)
    from lamina.oci.inspecting import history, open_image

    with Pools() as pools:
        pool = holder_of(pools, name)
        steps = history(open_image(pool, name))
    steps.reverse()
    if arguments.has("json"):
        print_json("image history", {"image": name, "history": [_as_json(step) for step in steps]})
        return 0
    now = time.time()
    whole, exact = arguments.has("no-trunc"), arguments.has("parsable")
    print_table(_COLUMNS, [_row(step, now, whole, exact) for step in steps], scripted=arguments.has("scripted"))
    return 0


def _row(step: "Step", now: float, whole: bool, exact: bool) -> list[str]:
    from lamina.oci.inspecting import seconds_of

    seconds = seconds_of(step.created) if step.created else None
    created = "-" if seconds is None else f"{ago(now - seconds)} ago"
    if exact:
        created = step.created or "-"
    by = " ".join(step.created_by.split()) if not whole else step.created_by
    if not whole and len(by) > _LONGEST:
        by = by[: _LONGEST - 1] + "…"
    size = 0 if step.layer is None else step.layer.tar_size
    return [created, by or "-", str(size) if exact else format_size(size), step.comment]


def _as_json(step: "Step") -> dict[str, object]:
    layer = step.layer
    return {
        "created": step.created or None,
        "created_by": step.created_by,
        "author": step.author,
        "comment": step.comment,
        "empty_layer": step.empty,
        "diff_id": layer.diff_id if layer is not None else None,
        "size": layer.tar_size if layer is not None else 0,
    }


def ago(seconds: float) -> str:
    """A stretch of time as Docker words it (go-units, HumanDuration)."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(whole / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for most, unit, one in ((48, 1, "hours"), (24 * 14, 24, "days"), (24 * 60, 24 * 7, "weeks")):
        if hours < most:
            return f"{hours // unit} {one}"
    if hours < 24 * 365 * 2:
        return f"{hours // (24 * 30)} months"
    return f"{hours // (24 * 365)} years"


COMMAND = Command(
    name="image history",
    synopsis=("image history [-Hjp] [--no-trunc] <dataset>@<tag>",),
    summary="show how an image was made, step by step",
    description="""
Prints the steps that made an image, the last one first: when, by which command, the bytes of the layer's tar (0 where
it made no layer) and the builder's comment. It is what 'docker history' shows; a builder need not write it. Of layers
that the history does not tell of, only the size is shown.""",
    options=(
        Option("", "no-trunc", "whole commands"),
        SCRIPTED,
        Option("p", "parsable", "exact: times as the image has them, bytes"),
        JSON,
    ),
    examples=(
        ("Which step made it so big?", "lamina image history tank/images/debian@12"),
        ("The commands in full", "lamina image history --no-trunc tank/images/debian@12"),
    ),
    run=run,
    operands="all-images",
)
