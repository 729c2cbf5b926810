"""``lamina help``."""

from lamina.cli.command import Arguments, Command
from lamina.cli.commands import COMMANDS, load, resolve
from lamina.cli.manual import manual, topic
from lamina.errors import UsageError


def run(arguments: Arguments) -> int:
    """Print the overview, the manual of a verb, or the list of properties."""
    words = arguments.operands
    page = topic(words)
    if page is None:
        found = resolve(words)
        if found is None or found[1] or found[0] not in COMMANDS:
            raise UsageError(f"no help for '{' '.join(words)}': a command or 'properties' is expected")
        page = manual(load(found[0]))
    print(page)
    return 0


COMMAND = Command(
    name="help",
    synopsis=("help [command | properties]",),
    summary="show the manual of a verb",
    description="""
Shows the list of commands, the manual of one, or the list of properties. 'lamina COMMAND --help' does the same.""",
    examples=(("The manual of list", "lamina help list"), ("All properties", "lamina help properties")),
    run=run,
    operands="verb",
)
