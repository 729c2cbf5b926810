"""What a verb is: its manual, its options, its code; and the parser of options that all verbs share.

Options are read as ``zfs`` reads them: short flags combine (``-rHp``), a value may be attached (``-d1``, ``-ospace``)
or follow, options and operands may be mixed, ``--`` ends the options and a lone ``-`` is an operand.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lamina.errors import UsageError


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a verb."""

    short: str
    """One letter, or empty."""
    long: str
    """The word after ``--``; also the key in :class:`Arguments`."""
    help: str
    metavar: str = ""
    """Name of the value in help; empty for a flag, which takes none."""
    completes: str = ""
    """What the shell offers for the value: ``property``, ``assignment``, ``type``, ``path``, or words after ``=``."""


@dataclass(slots=True)
class Arguments:
    """The words of a command line, sorted into options and operands."""

    options: dict[str, list[str]] = field(default_factory=dict)
    operands: list[str] = field(default_factory=list)
    given: list[tuple[str, str]] = field(default_factory=list)
    """Every option in the order typed, for the few whose order across options matters."""

    def add(self, long: str, value: str) -> None:
        """Take one option; a flag's value is empty."""
        self.options.setdefault(long, []).append(value)
        self.given.append((long, value))

    def has(self, long: str) -> bool:
        """Whether the option was given."""
        return long in self.options

    def values(self, long: str) -> list[str]:
        """All values of an option, in the order given."""
        return self.options.get(long, [])

    def value(self, long: str) -> str | None:
        """The last value of an option; None when it was not given."""
        values = self.options.get(long)
        return values[-1] if values else None

    def lists(self, long: str) -> list[str]:
        """All values of an option, split at commas."""
        return [word for value in self.values(long) for word in value.split(",")]


@dataclass(frozen=True, slots=True)
class Command:
    """One verb: manual and code in one place, so that they change together."""

    name: str
    synopsis: tuple[str, ...]
    """Usage lines without ``lamina``; see :meth:`usage`."""
    summary: str
    description: str
    run: Callable[[Arguments], int]
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    """Pairs of what is done and the command that does it."""
    exit_status: str = ""
    """What 0 and 1 mean, where it is more than done and failed."""
    operands: str = ""
    """What the shell offers for operands: words of :mod:`lamina.cli.verbs.complete`."""
    shows_properties: bool = False
    """Whether the manual ends with the table of properties."""

    def usage(self) -> list[str]:
        """The usage lines as they are printed; one that starts with a blank goes on from the line before."""
        return [line if line.startswith(" ") else f"lamina {line}" for line in self.synopsis]

    def parse(self, words: list[str]) -> Arguments:
        """Sort ``words`` into options and operands; UsageError for an option that the verb does not have."""
        shorts = {option.short: option for option in self.options if option.short}
        longs = {option.long: option for option in self.options}
        arguments = Arguments()
        queue = iter(words)
        for word in queue:
            if word == "--":
                arguments.operands.extend(queue)
            elif word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                option = longs.get(name)
                if option is None:
                    raise UsageError(f"invalid option '--{name}'")
                if equals and not option.metavar:
                    raise UsageError(f"option '--{name}' takes no value")
                if option.metavar and not equals:
                    value = _next(queue, f"--{name}")
                arguments.add(option.long, value)
            elif word.startswith("-") and len(word) > 1:
                self._parse_short(word, shorts, queue, arguments)
            else:
                arguments.operands.append(word)
        return arguments

    def _parse_short(self, word: str, shorts: dict[str, Option], queue: Iterator[str], arguments: Arguments) -> None:
        for index, letter in enumerate(word[1:], 1):
            option = shorts.get(letter)
            if option is None:
                raise UsageError(f"invalid option '{letter}'")
            if option.metavar:
                value = word[index + 1 :] or _next(queue, letter)
                arguments.add(option.long, value)
                return
            arguments.add(option.long, "")


def _next(queue: Iterator[str], name: str) -> str:
    value = next(queue, None)
    if value is None:
        raise UsageError(f"missing argument for '{name}' option")
    return value


TYPE = Option(
    *("t", "type", "what to show: filesystem, snapshot, image, bookmark, all", "type[,...]"),
    completes="=filesystem snapshot image bookmark all",
)
JSON = Option("j", "json", "print JSON")
JSON_INT = Option("", "json-int", "print JSON with numbers as numbers of bytes (implies --json)")
SCRIPTED = Option("H", "scripted", "for scripts: no header, columns separated by one tab")
PARSABLE = Option("p", "parsable", "exact numbers: bytes, seconds since 1970, ratios without x")
