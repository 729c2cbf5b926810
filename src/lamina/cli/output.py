"""Tables and JSON, as ``zfs`` prints them."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lamina.pool.names import printable


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    header: str
    right: bool = False
    width: int = 0
    """The least width; the header and the cells may make it wider."""


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, scripted: bool = False) -> None:
    """Print rows under headers, two spaces between columns; ``scripted``: no headers, one tab between columns.

    A last column that is aligned to the left is not padded. Cells are made :func:`printable` here.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if scripted:
        sys.stdout.write("".join("\t".join(row) + "\n" for row in cells))
        return
    widths = [max(column.width, len(column.header)) for column in columns]
    for row in cells:
        for index, cell in enumerate(row):
            if len(cell) > widths[index]:
                widths[index] = len(cell)
    cells.insert(0, [column.header for column in columns])
    last = len(columns) - 1
    lines = []
    for row in cells:
        parts = []
        for index, (cell, column) in enumerate(zip(row, columns, strict=True)):
            if column.right:
                parts.append(cell.rjust(widths[index]))
            else:
                parts.append(cell if index == last else cell.ljust(widths[index]))
        lines.append("  ".join(parts) + "\n")
    sys.stdout.write("".join(lines))


def print_json(command: str, body: Mapping[str, object]) -> None:
    """Print one line of JSON: ``output_version`` as OpenZFS has it, then ``body``."""
    import json

    document = {"output_version": {"command": f"lamina {command}", "vers_major": 0, "vers_minor": 1}, **body}
    print(json.dumps(document, separators=(",", ":")))


def complain(message: str) -> None:
    """Print one line on standard error, safe for a terminal."""
    sys.stdout.flush()
    print(printable(message), file=sys.stderr)


def refuse(error: Exception, status: int = 1) -> int:
    """Print why something was refused, with what is in the way one name a line; returns the exit status."""
    for line in str(error).split("\n"):
        complain(line)
    return status
