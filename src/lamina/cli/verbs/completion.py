"""``lamina completion``."""

from lamina.cli.command import Arguments, Command
from lamina.cli.completion import SCRIPTS
from lamina.errors import UsageError


def run(arguments: Arguments) -> int:
    """Print a completion script."""
    if len(arguments.operands) != 1:
        raise UsageError("missing shell argument" if not arguments.operands else "too many arguments")
    shell = arguments.operands[0]
    if shell not in SCRIPTS:
        raise UsageError(f"no completion for '{shell}': bash, zsh or fish is expected")
    print(SCRIPTS[shell], end="")
    return 0


COMMAND = Command(
    name="completion",
    synopsis=("completion bash|zsh|fish",),
    summary="print a completion script for a shell",
    description="""
Prints a script that lets a shell complete commands, options, properties and the names of datasets, snapshots and
pools that are there at that moment.""",
    examples=(
        ("bash, for this user", "lamina completion bash > ~/.local/share/bash-completion/completions/lamina"),
        ("zsh, in a directory of $fpath", "lamina completion zsh > ~/.zfunc/_lamina"),
        ("fish", "lamina completion fish > ~/.config/fish/completions/lamina.fish"),
    ),
    run=run,
    operands="=bash zsh fish",
)
