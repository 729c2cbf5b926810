"""Options that verbs which take container images in have in common: the pool, layers at once, a layer's limit."""

from typing import TypeVar

from lamina.cli.command import Arguments
from lamina.errors import NotFound, PropertyError, UsageError
from lamina.pool.names import pool_of_name, printable
from lamina.pool.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.pools import Pools
    from lamina.pool import Pool

Default = TypeVar("Default", int, None)

_MOST_JOBS = 64


def one_image(arguments: Arguments) -> str:
    """The one image that is named. Raises ``UsageError``."""
    if not arguments.operands:
        raise UsageError("missing image argument")
    if len(arguments.operands) > 1:
        raise UsageError("too many arguments")
    return arguments.operands[0]


def holder_of(pools: "Pools", name: str) -> "Pool":
    """The pool of an image that is to be looked at. Raises ``NotFound``, which says where to look."""
    return pools.of(name, f"cannot open '{name}': no such image; 'lamina image list' shows those that there are")


def pool_meant(given: str | None, dest: str | None, doing: str) -> str:
    """The pool of DEST, of ``--pool``, or the only one there is; ``doing``: as in "no pool to pull into".

    Raises ``UsageError``, ``NotFound``.
    """
    if dest is not None:
        if given is not None and given != pool_of_name(dest):
            raise UsageError(f"DEST is in the pool '{printable(pool_of_name(dest))}': leave out --pool")
        return pool_of_name(dest)
    if given is not None:
        return given
    from lamina.pool import pool_names

    known = sorted(pool_names())
    if not known:
        raise NotFound(f"no pool to {doing}: make one with 'lamina pool create NAME DIRECTORY'")
    if len(known) > 1:
        raise UsageError(f"there are several pools ({', '.join(known)}): say which with --pool, or name DEST")
    return known[0]


def jobs_of(arguments: Arguments, default: Default) -> int | Default:
    """What ``--jobs`` says. Raises ``UsageError``."""
    word = arguments.value("jobs")
    if word is None:
        return default
    if not (word.isascii() and word.isdigit() and 1 <= int(word) <= _MOST_JOBS):
        raise UsageError(f"invalid number of jobs '{printable(word)}': 1 to {_MOST_JOBS} is expected")
    return int(word)


def layer_limit_of(arguments: Arguments) -> int | None:
    """What ``--max-layer-size`` says, in bytes. Raises ``UsageError``."""
    word = arguments.value("max-layer-size")
    if word is None:
        return None
    try:
        return parse_size(word)
    except PropertyError as error:
        raise UsageError(f"invalid --max-layer-size: {error}") from None
