"""The words of the command that runs, for the history of the pools that it changes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_WORDS: ContextVar[tuple[str, ...]] = ContextVar("words", default=())


@contextmanager
def running(words: Sequence[str]) -> Iterator[None]:
    """Note the words of a command line, without ``lamina``, for as long as it runs. Its other threads do not see it."""
    token = _WORDS.set(tuple(words))
    try:
        yield
    finally:
        _WORDS.reset(token)


def command() -> str | None:
    """The command as a shell would take it; None where none was typed."""
    import shlex

    words = _WORDS.get()
    return shlex.join(("lamina", *words)) if words else None
