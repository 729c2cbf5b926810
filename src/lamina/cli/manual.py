"""Manual pages and the overview, made from what the verbs say of themselves."""

import textwrap

from lamina.cli.command import Command, Option
from lamina.cli.commands import ALIASES, COMMANDS, GROUPS

_WIDTH = 79
_EXIT_STATUS = """\
0  Done.
1  The operation failed; one line on standard error says why.
2  Wrong usage."""

_TOPICS = "properties"


def overview(group: str = "") -> str:
    """Return the list of verbs, or of a group's verbs (``image``, ``pool``)."""
    lines = ["usage: lamina COMMAND ARGUMENT ...", "where COMMAND is one of:", ""]
    for verb, (_, summary) in COMMANDS.items():
        if not group or verb.startswith(group + " "):
            lines.append(f"    {verb:<14}  {summary}")
    lines += [
        "",
        "A dataset is named pool/[dataset/]*dataset[@snapshot]; an image is a snapshot, dataset@tag.",
        "",
        "For the manual of a command, run: lamina help COMMAND",
        "For the list of properties, run:  lamina help properties",
    ]
    return "\n".join(lines)


def manual(command: Command) -> str:
    """Return the manual page of a verb as plain text for a terminal of 80 columns."""
    aliases = [alias for alias, verb in ALIASES.items() if verb == command.name]
    parts = [
        _section("NAME", f"lamina {command.name} - {command.summary}"),
        _section("SYNOPSIS", "\n".join(command.usage()), wrap=False),
        _section("DESCRIPTION", command.description),
    ]
    if aliases:
        parts.append(_section("ALIAS", ", ".join(f"lamina {alias}" for alias in aliases)))
    if command.options:
        parts.append("OPTIONS\n" + "\n".join(_option(option) for option in command.options))
    if command.shows_properties:
        parts.append(_section("PROPERTIES", "For the list, run: lamina help properties"))
    if command.examples:
        text = "\n\n".join(f"{what}\n    {how}" for what, how in command.examples)
        parts.append(_section("EXAMPLES", text, wrap=False))
    parts.append(_section("EXIT STATUS", command.exit_status or _EXIT_STATUS, wrap=False))
    return "\n\n".join(parts)


def properties_manual() -> str:
    """Return the page about properties."""
    from lamina.pool.properties import PROPERTIES, describe_properties

    aliases = "\n".join(f"{', '.join(found.aliases):<16}{found.name}" for found in PROPERTIES.values() if found.aliases)
    return "\n\n".join(
        (
            _section("PROPERTIES", describe_properties(), wrap=False),
            _section("SHORT NAMES", aliases, wrap=False),
            _section("NOTES", _PROPERTY_NOTES),
        )
    )


_PROPERTY_NOTES = """\
Sizes are bytes, with units K, M, G, T, P, E (powers of 1024): 128K, 1.5T, 4096.

A value is set on the dataset (source local), comes from a dataset above it (inherited from NAME), or is the default. \
What is changed takes effect for data written from then on; data that is stored stays as it is.

compression: on is zstd-3. Data that does not shrink is stored as it is. zle is off here: runs of zeros take no space \
with any setting.

recordsize is the average size of the chunks that files are cut into. Smaller chunks find more that is shared, and \
make the catalogue larger and reading slower. Files are cut no finer than with 4K and no coarser than with 512K; a \
single chunk is never larger than 1 MiB - 4 KiB.

atime and readonly: mounts are read-only in this version, whatever they say; the values are kept.

copies is how often the data of files is kept, each time in another pack; tree nodes are kept once more, at most three \
times. Copies count in the pool's ALLOC only.

retention says which automatic snapshots are kept (last=3,daily=7,weekly=4,within=10d) and autosnapshot when they are \
taken (hourly, daily, weekly, monthly, yearly); 'lamina help prune' explains both.

mountpoint is none until it is set, and is inherited with the child's name appended. legacy means that \
'lamina mount -a' leaves the dataset alone.

User properties have a colon in their name (com.example:team=vision), up to 255 bytes of lower-case letters, digits \
and -_.: , and values of up to 8191 bytes. lamina keeps and inherits them and does nothing else with them."""


def _section(title: str, text: str, *, wrap: bool = True) -> str:
    blocks = []
    for block in text.split("\n\n"):
        # A block that is indented is laid out by hand.
        if wrap and not block.startswith(" "):
            block = textwrap.fill(" ".join(block.split()), _WIDTH - 4)
        blocks.append(textwrap.indent(block, "    "))
    return title + "\n" + "\n\n".join(blocks)


def _option(option: Option) -> str:
    names = [f"-{option.short}"] if option.short else []
    names.append(f"--{option.long}")
    metavar = f" {option.metavar}" if option.metavar else ""
    return (
        textwrap.indent(", ".join(names) + metavar, "    ")
        + "\n"
        + textwrap.indent(textwrap.fill(option.help, _WIDTH - 12), " " * 12)
    )


def topic(words: list[str]) -> str | None:
    """Return the page for ``help WORDS`` when it is not about one verb; None when there is no such page."""
    name = " ".join(words)
    if not name:
        return overview()
    if name in GROUPS:
        return overview(name)
    if name == _TOPICS:
        return properties_manual()
    return None
