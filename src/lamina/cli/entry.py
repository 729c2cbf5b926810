"""``main``: finds the verb, runs it, and turns every way of failing into one line and an exit status.

0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 the reader of a pipe went away.
``LAMINA_DEBUG=1`` in the environment shows tracebacks.
"""

import os
import sys

from lamina.cli.typed import running
from lamina.errors import LaminaError, UsageError

_HELP_WORDS = ("-h", "--help", "-?")
ISSUES = "please report it with the traceback that LAMINA_DEBUG=1 shows"


def main(argv: list[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit status. Raises nothing."""
    words = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A character that the locale's encoding lacks must not end the command.
            reconfigure(errors="backslashreplace")
    try:
        try:
            status = _dispatch(words)
            sys.stdout.flush()
            return status
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else 1
        except BrokenPipeError:
            return _quiet_pipe()
        except BaseException as error:
            if os.environ.get("LAMINA_DEBUG", "0") not in ("", "0"):
                import traceback

                traceback.print_exc()
            return _report(error)
    except BrokenPipeError:
        return _quiet_pipe()
    except KeyboardInterrupt:
        return 130


def _dispatch(words: list[str]) -> int:
    from lamina.cli import commands

    if not words:
        return _unknown("missing command")
    if words[0] in _HELP_WORDS:
        return commands.load("help").run(commands.load("help").parse(words[1:]))
    if words[0] in ("-V", "--version"):
        words = ["version", *words[1:]]
    found = commands.resolve(words)
    if found is None:
        if words[0] in commands.GROUPS:
            if len(words) == 2 and words[1] in _HELP_WORDS:
                return commands.load("help").run(commands.load("help").parse(words[:1]))
            problem = f"unrecognized command '{' '.join(words[:2])}'" if words[1:] else f"missing {words[0]} command"
            return _unknown(problem, words[0])
        return _unknown(f"unrecognized command '{words[0]}'")
    verb, rest = found
    options = rest[: rest.index("--")] if "--" in rest else rest
    command = commands.load(verb)
    asking = set(_HELP_WORDS) - {f"-{option.short}" for option in command.options}  # zfs diff and zfs send have a -h
    if verb not in commands.HIDDEN and not asking.isdisjoint(options):
        return commands.load("help").run(commands.load("help").parse([verb]))
    try:
        with running((*verb.split(), *rest)):
            return command.run(command.parse(rest))
    except UsageError as error:
        sys.stdout.flush()
        _complain(str(error))
        print("usage:", file=sys.stderr)
        for line in command.usage():
            print(f"\t{line}", file=sys.stderr)
        print(f"\nfor the manual, run: lamina help {verb}", file=sys.stderr)
        return error.exit_status


def _unknown(problem: str, group: str = "") -> int:
    from lamina.cli.manual import overview

    _complain(problem)
    print(overview(group), file=sys.stderr)
    return UsageError.exit_status


def _report(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        _complain("interrupted")
        return 130
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()  # what was wrong with standard output is being reported, or is about to be
    if isinstance(error, LaminaError):
        _complain(str(error))
        return error.exit_status
    if isinstance(error, OSError):
        where = f"'{os.fsdecode(error.filename)}': " if isinstance(error.filename, str | bytes) else ""
        _complain(f"lamina: {where}{error.strerror or error}")
        return 1
    if isinstance(error, ModuleNotFoundError):
        _complain(f"lamina: the Python module '{error.name}' is missing; install lamina again with its dependencies")
        return 1
    if isinstance(error, MemoryError):
        _complain("lamina: out of memory")
        return 1
    _complain(f"lamina: internal error: {type(error).__name__}: {error}; {ISSUES}")
    return 1


def _complain(message: str) -> None:
    try:
        from lamina.pool.names import printable

        shown = printable(message)
    except Exception:
        # An installation that is not whole must still be able to say so.
        shown = message.encode("unicode_escape", "surrogatepass").decode("ascii")
    print(shown, file=sys.stderr)


def _quiet_pipe() -> int:
    _discard_output()
    return 141


def _discard_output() -> None:
    """Python flushes standard output once more at exit and would complain there."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
