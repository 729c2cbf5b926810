"""``lamina __scrub``: the process that scrubs in the background."""

from pathlib import Path

from lamina.cli.command import Arguments, Command
from lamina.errors import UsageError


def run(arguments: Arguments) -> int:
    """Scrub the pool in a directory."""
    if len(arguments.operands) != 1:
        raise UsageError("one pool directory is expected")
    from lamina.pool.scrubbing.detached import scrub_detached

    scrub_detached(Path(arguments.operands[0]))
    return 0


COMMAND = Command(
    name="__scrub",
    synopsis=("__scrub <directory>",),
    summary="scrub a pool; started by 'lamina pool scrub'",
    description="Scrubs the pool in DIRECTORY, as 'lamina pool scrub' has prepared it.",
    run=run,
)
