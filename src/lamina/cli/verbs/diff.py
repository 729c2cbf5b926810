"""``lamina diff``."""

import re
import stat
import sys
from collections.abc import Iterator

from lamina.cli.command import JSON, PARSABLE, SCRIPTED, Arguments, Command, Option
from lamina.cli.output import Column, print_json, print_table
from lamina.cli.pools import Pools
from lamina.cli.progress import ProgressBar
from lamina.errors import UsageError
from lamina.pool.names import printable
from lamina.pool.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.fs.diff import Change
    from lamina.pool.lineage.differences import Comparison, FolderSums

_LETTERS = {
    stat.S_IFBLK: "B",
    stat.S_IFCHR: "C",
    stat.S_IFDIR: "/",
    stat.S_IFIFO: "|",
    stat.S_IFLNK: "@",
    stat.S_IFREG: "F",
    stat.S_IFSOCK: "=",
}
"""As zfs-diff(8) has them."""
_GRAPHIC = re.compile(rb"[!-\[\]-~]*")
_DEPTH = 3
_NS = 1_000_000_000


def run(arguments: Arguments) -> int:
    """Compare two states."""
    operands = arguments.operands
    if not operands:
        raise UsageError("must provide at least one snapshot name")
    if len(operands) > 2:
        raise UsageError("too many arguments")
    depth = _depth(arguments)
    from lamina.pool.lineage.differences import Comparison, endpoints

    old, new = endpoints(operands[0], operands[1] if len(operands) == 2 else None)
    with Pools() as pools:
        comparison = Comparison(pools.of(old), old, pools.of(new), new)
        if arguments.has("stat"):
            _print_sums(arguments, comparison, depth)
        elif arguments.has("json"):
            _print_json(arguments, comparison)
        else:
            layout = _Layout(arguments, comparison.mountpoint)
            for change in comparison.changes(times=not arguments.has("ignore-times")):
                sys.stdout.write(layout.line(change))
    return 0


def _depth(arguments: Arguments) -> int:
    word = arguments.value("depth")
    if word is None:
        return _DEPTH
    if not arguments.has("stat"):
        raise UsageError("-d says how deep the folders of --stat go: give --stat too")
    if not (word.isascii() and word.isdigit() and len(word) <= 9):
        raise UsageError(f"invalid depth '{word}': a number of levels, 0 or more, is expected")
    return int(word)


class _Layout:
    """How a change is written: ``[time TAB] type TAB [file type TAB] path``."""

    def __init__(self, arguments: Arguments, mountpoint: bytes) -> None:
        self._times = arguments.has("timestamps")
        self._types = arguments.has("classify")
        self._arrow = "\t" if arguments.has("scripted") else " -> "
        self._plain = arguments.has("no-escape")
        self._mountpoint = mountpoint.rstrip(b"/")

    def line(self, change: "Change") -> str:
        columns = [_ctime(change)] if self._times else []
        columns.append(change.kind)
        if self._types:
            columns.append(file_type(change.inode.mode))
        path = self.path(change.path)
        columns.append(self.path(change.old_path) + self._arrow + path if change.old_path else path)
        if change.links:
            columns.append(f"({change.links:+d})")
        return "\t".join(columns) + "\n"

    def path(self, path: bytes) -> str:
        return escaped(self._mountpoint + path, self._plain)


def escaped(path: bytes, plain: bool = False) -> str:
    r"""A path as ``zfs diff`` writes it, what is no printable ASCII as ``\0ooo``.

    Or ``plain``: as it is, but for what could act on a terminal.
    """
    if plain:
        return printable(path, backslash=True)
    if _GRAPHIC.fullmatch(path):
        return path.decode()
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte != 0x5C else f"\\{byte:04o}" for byte in path)


def file_type(mode: int) -> str:
    """The character of ``-F`` for a file's mode."""
    return _LETTERS.get(stat.S_IFMT(mode), "?")


def _ctime(change: "Change") -> str:
    seconds, nanoseconds = divmod(change.inode.ctime_ns, _NS)
    return f"{seconds:10d}.{nanoseconds:09d}"


# -- JSON and sums ----------------------------------------------------------------------------------------------------


def _print_json(arguments: Arguments, comparison: "Comparison") -> None:
    """One document, written as the changes come."""
    import json

    version = {"command": "lamina diff", "vers_major": 0, "vers_minor": 1}
    head = json.dumps({"output_version": version, "old": comparison.old_name, "new": comparison.new_name})
    sys.stdout.write(head[:-1] + ', "changes": [')
    comma = ""
    for change in comparison.changes(times=not arguments.has("ignore-times")):
        document = dict(_json_fields(change, comparison.mountpoint.rstrip(b"/")))
        sys.stdout.write(comma + json.dumps(document, separators=(",", ":")))
        comma = ",\n"
    sys.stdout.write("]}\n")


def _json_fields(change: "Change", mountpoint: bytes) -> Iterator[tuple[str, object]]:
    yield "change", str(change.kind)
    yield "type", file_type(change.inode.mode)
    yield from _json_path("path", mountpoint + change.path)
    if change.old_path:
        yield from _json_path("old_path", mountpoint + change.old_path)
    if change.links:
        yield "links", change.links
    yield "ctime", _ctime(change).strip()


def _json_path(field: str, path: bytes) -> Iterator[tuple[str, object]]:
    """JSON holds text: of a path that is none, its bytes come too."""
    try:
        yield field, path.decode()
    except UnicodeDecodeError:
        import base64

        yield field, path.decode("utf-8", "replace")
        yield f"{field}_base64", base64.b64encode(path).decode()


def _print_sums(arguments: Arguments, comparison: "Comparison", depth: int) -> None:
    bar = ProgressBar(f"comparing {comparison.new_name}", saving=False)
    if arguments.has("json"):
        bar.enabled = False
    try:
        sums = comparison.sums(
            depth,
            times=not arguments.has("ignore-times"),
            progress=lambda figures: bar.update(comparison.new_name, figures),
        )
    finally:
        bar.clear()
    if arguments.has("json"):
        folders = [
            dict(
                _json_path("folder", one.path),
                files=one.files,
                added=one.added,
                removed=one.removed,
                changed=one.changed,
                new=one.new,
            )
            for one in sums
        ]
        print_json("diff", {"old": comparison.old_name, "new": comparison.new_name, "folders": folders})
        return
    columns = [Column(name, right=True) for name in ("ADDED", "REMOVED", "CHANGED", "NEW", "FILES")]
    rows = [_row(one, exact=arguments.has("parsable"), plain=arguments.has("no-escape")) for one in sums]
    print_table([*columns, Column("FOLDER")], rows, scripted=arguments.has("scripted"))


def _row(sums: "FolderSums", *, exact: bool, plain: bool) -> list[str]:
    sizes = [sums.added, sums.removed, sums.changed, sums.new]
    return [*(str(size) if exact else format_size(size) for size in sizes), str(sums.files), escaped(sums.path, plain)]


COMMAND = Command(
    name="diff",
    synopsis=(
        "diff [-FHhjt] [--ignore-times] <snapshot> [<snapshot>|<dataset>]",
        "diff --stat [-Hhjp] [--ignore-times] [-d <depth>] <snapshot> [<snapshot>|<dataset>]",
    ),
    summary="show what differs between a snapshot and another state",
    description="""
Shows which files differ between a snapshot and a later one, or what the dataset is now. Each is one line, what
happened and the path:

    +  the path is there only in the second state
    -  it is there only in the first
    M  modified: contents, owner, mode, times or attributes;
       a directory also when a name in it came or went
    R  renamed: old path -> new path; below a directory that was
       renamed, also what was modified

A file that has more names than before, or fewer, is M with the difference at the end, as in (+1). Access and change
times alone are no difference.

Without a second operand the snapshot is compared with its dataset as it is now. The second may be any snapshot
or dataset, also of another dataset or pool: then files are compared by path and by all that they hold. Renamed
files are told only where the second state came from the first by changes; two images never did, each was imported
for itself. Of one history the first operand is the earlier state. @NAME stands for a snapshot of the other operand's
dataset.

Paths begin at the root of the file system, or at its mount point where it is mounted. What is no printable
ASCII character is written as \\0 and three octal digits.

With --stat, bytes by folder, in all files of a folder and of those below it: ADDED with files that are new, REMOVED
with files that are gone, CHANGED in those that are on both sides (only the chunks that differ), the number of FILES,
and NEW, what the second state takes in the pool beside the first: compressed chunks that the first does not have.""",
    options=(
        Option("F", "classify", "show the type of each file: B C / | @ F =, as 'zfs diff' does"),
        SCRIPTED,
        Option("h", "no-escape", "show paths as they are; control characters are escaped all the same"),
        Option("t", "timestamps", "show the change time of each file first"),
        Option("", "ignore-times", "a file whose modification time alone differs is the same"),
        Option("", "stat", "show bytes by folder"),
        Option(
            "d", "depth", f"with --stat: folders at most this many levels below the root (default {_DEPTH})", "depth"
        ),
        PARSABLE,
        JSON,
    ),
    examples=(
        ("What did I change since this morning?", "lamina diff tank/containers/exp1@morning"),
        ("Between two snapshots", "lamina diff tank/datasets@before @after"),
        ("What does the new image bring, apart from new dates?", "lamina diff --ignore-times IMAGE@2.7.1 @2.8.0"),
        ("Where does its space go?", "lamina diff --stat -d 6 tank/images/pytorch@2.7.1 @2.8.0"),
    ),
    exit_status="0  Both could be read, whether they differ or not.\n1  They could not be compared.\n2  Wrong usage.",
    run=run,
    operands="dataset snapshot",
)
