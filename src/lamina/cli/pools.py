"""Opening the pools that names on the command line belong to."""

from types import TracebackType

from lamina.cli.typed import command
from lamina.errors import LaminaError, NotFound
from lamina.pool.names import pool_of_name, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.pool import Pool


class Pools:
    """Pools opened for one command; each once, all closed at the end of the ``with``."""

    def __init__(self, *, write: bool = False) -> None:
        self._write = write
        self._command = command()
        self._open: dict[str, Pool] = {}

    def __enter__(self) -> "Pools":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._open.values():
            pool.close()
        self._open.clear()

    def of(self, name: str, absent: str = "") -> "Pool":
        """Return the pool that the dataset or snapshot ``name`` lies in.

        ``absent`` is the message when this machine knows no such pool (default: the dataset does not exist).
        """
        from lamina.pool import pool_names, pool_of

        key = pool_of_name(name)
        pool = self._open.get(key)
        if pool is None:
            try:
                pool = pool_of(name, write=self._write)
            except NotFound:
                # A pool that is known but whose directory is gone has a message of its own, which says more.
                if key in pool_names():
                    raise
                raise NotFound(absent or f"cannot open '{printable(name)}': dataset does not exist") from None
            if self._write:
                pool.command = self._command
            self._open[key] = pool
        return pool

    def everything(self) -> "list[Pool | LaminaError]":
        """Return every pool that this machine knows, in the order of names, or why it cannot be opened."""
        from lamina.pool import pool_names

        found: list[Pool | LaminaError] = []
        for name in sorted(pool_names()):
            try:
                found.append(self.of(name))
            except LaminaError as error:
                found.append(error)
        return found
