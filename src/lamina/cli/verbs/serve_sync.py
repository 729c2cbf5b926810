"""``lamina __sync``: the far side of ``lamina sync``."""

import sys
from typing import IO

from lamina.cli.command import Arguments, Command
from lamina.cli.output import refuse
from lamina.errors import ConnectionLost, UsageError

_BUFFER = 1 << 20


def run(arguments: Arguments) -> int:
    """Speak the protocol of syncs on standard input and output."""
    if arguments.operands:
        raise UsageError("too many arguments")
    if sys.stdin.isatty() or sys.stdout.isatty():
        raise UsageError("it is run by 'lamina sync' on another machine, not by hand")
    from lamina.replication.sync.serving import serve

    requests: IO[bytes] = open(0, "rb", _BUFFER, closefd=False)  # noqa: SIM115 - for as long as the process runs
    answers: IO[bytes] = open(1, "wb", _BUFFER, closefd=False)  # noqa: SIM115
    failed = serve(requests, answers)
    try:
        answers.close()
    except OSError:
        failed = failed or ConnectionLost("nobody listens any more")
    if failed is None:
        return 0
    # Where the connection is lost, nobody is there to be told.
    return 1 if isinstance(failed, ConnectionLost) else refuse(failed)


COMMAND = Command(
    name="__sync",
    synopsis=("__sync",),
    summary="speak the protocol of syncs; run over ssh by 'lamina sync'",
    description="Reads what is to be synced from standard input, and does the far side's part (docs/sync.md).",
    run=run,
)
