"""``lamina __objects``: gives objects by key to a pool that is being repaired from here."""

import sys
from pathlib import Path

from lamina.cli.command import Arguments, Command
from lamina.errors import UsageError


def run(arguments: Arguments) -> int:
    """Answer keys on standard input with records on standard output."""
    if len(arguments.operands) != 1:
        raise UsageError("one pool is expected")
    from lamina.pool import Pool
    from lamina.pool.scrubbing.sources import serve

    word = arguments.operands[0]
    with Pool.open(Path(word) if "/" in word else word) as pool:
        serve(pool, sys.stdin.buffer, sys.stdout.buffer)
    return 0


COMMAND = Command(
    name="__objects",
    synopsis=("__objects <pool>",),
    summary="give objects by key; run over ssh by 'lamina pool scrub --repair-from host:pool'",
    description="Reads keys from standard input and answers each with a record, until the input ends.",
    run=run,
)
