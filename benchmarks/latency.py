"""How soon small commands answer, and how little a small change stores.

- list, get: whole processes, on a pool with 1,000 snapshots of small trees
- mount: from starting ``lamina mount`` until the first file has been read
- directory: what one new name in a directory of 1,000,000 stores, in tree nodes (--entries N)
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import LaminaPool
from benchmarks.measure import drop_caches, run
from benchmarks.report import Report

DATASETS = 20
POOL = "benchlatency"
NEW_NAMES = 100
INDEX_ROW_BYTES = 120
"""About what the catalogue takes for an object: its row and its entry in the index by key."""


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__)
    parser.set_defaults(runs=20)
    parser.add_argument("--snapshots", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--entries", type=int, default=1_000_000, metavar="N", help="0 leaves the directory out")
    parser.add_argument(
        "--image", type=Path, metavar="DIR", help="a root file system for the mount, such as an img-VERSION"
    )
    arguments = parser.parse_args()
    options.need([], root=True)
    named = {"snapshots": arguments.snapshots, "runs": arguments.runs, "entries": arguments.entries}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("latency", named, out=arguments.out) as report,
    ):
        pool = _pool_of_snapshots(scratch, arguments.snapshots)
        _commands(report, pool, arguments.runs)
        snapshot, file = f"data0/set0@{0:04}", Path("file0")
        if arguments.image:
            pool.take_in(arguments.image, "images/real", "1")
            snapshot, file = "images/real@1", Path("etc/debian_version")
        _mount(report, pool, snapshot, file, scratch / "mnt", arguments.runs)
        pool.delete()
        if arguments.entries:
            _directory(report, arguments.entries)


def _pool_of_snapshots(scratch: Path, count: int) -> LaminaPool:
    """A pool of ``count`` imports of a tree of 20 files, one of which differs each time, over ``DATASETS`` datasets."""
    from lamina.pool import Pool

    driver = LaminaPool(POOL, scratch / "pool")
    driver.create()
    tree = scratch / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / f"file{number}").write_bytes(os.urandom(3000))
    with Pool.open(driver.path, write=True) as pool:
        for number in range(count):
            (tree / "file0").write_bytes(b"version %d\n" % number * 100)
            pool.import_image(tree, f"{POOL}/data{number % 4}/set{number % DATASETS}@{number:04}")
    return driver


def _commands(report: Report, pool: LaminaPool, runs: int) -> None:
    properties = "used,compressratio,logicalused"
    commands: dict[str, list[str]] = {
        "list": ["list"],
        "list -r -t all": ["list", "-r", "-t", "all", POOL],
        "get of a dataset": ["get", properties, f"{POOL}/data0"],
        "get -r of all": ["get", "-r", "-H", "-p", properties, POOL],
    }
    for _ in range(runs):
        report.series("bare python", "python3").add(run([sys.executable, "-c", "pass"]))
        for task, words in commands.items():
            report.series(task, "lamina").add(pool.call(*words))
    for task in commands:
        report.target(f"{task}: seconds", report.series(task, "lamina").median, 0.150, at_least=False)


def _mount(report: Report, pool: LaminaPool, snapshot: str, file: Path, at: Path, runs: int) -> None:
    for label in ("warm", "cold"):
        task = f"mount until the first read, {label}"
        for _ in range(runs):
            if label == "cold":
                drop_caches()
            began = time.perf_counter()
            with pool.mounted(snapshot, at):
                with open(at / file, "rb") as opened:
                    opened.read(1)
                report.series(task, "lamina").add(time.perf_counter() - began)
        report.target(f"{task}: seconds", report.series(task, "lamina").median, 0.300, at_least=False)


def _directory(report: Report, entries: int) -> None:
    """Encodes nodes as the store does, and counts what an update adds; the data of the new file is not counted."""
    from blake3 import blake3

    from lamina.fs import node, tree
    from lamina.fs.types import Inode
    from lamina.store.codec import DEFAULT, Coder
    from lamina.store.record import RECORD_HEADER

    coder = Coder()
    nodes: dict[bytes, tuple[int, int, bytes]] = {}
    sizes: list[int] = []

    def put(data: bytes) -> bytes:
        key = blake3(data).digest()
        if key not in nodes:
            codec, payload = coder.encode(data, DEFAULT)
            nodes[key] = (codec, len(data), bytes(payload))
            sizes.append(len(payload) + RECORD_HEADER + INDEX_ROW_BYTES)
        return key

    def get(key: bytes) -> bytes:
        codec, length, payload = nodes[key]
        return bytes(coder.decode(codec, payload, length))

    def inode(ino: int, mode: int) -> bytes:
        stamp = 1_700_000_000_000_000_000 + ino
        return node.pack_inode(Inode(ino, mode, 0, 0, 1, 0, stamp, stamp, stamp))

    def items() -> Iterator[tuple[bytes, bytes]]:
        yield node.inode_key(1), inode(1, 0o040755)
        names = sorted((node.name_cookie(name), name) for name in (b"sample-%08d.jpg" % at for at in range(entries)))
        last = 0
        for number, (cookie, name) in enumerate(names):
            last = max(cookie, last + 1)  # the ordinal of a name whose hash is taken
            yield node.number_key(1, node.DIRENT, last), node.pack_dirent(2 + number, 0o100000, name)
        for number in range(len(names)):
            yield node.inode_key(2 + number), inode(2 + number, 0o100644)

    began = time.perf_counter()
    height, top = tree.build(items(), put)
    report.facts["directory"] = {
        "entries": entries,
        "nodes": len(sizes),
        "stored_bytes": sum(sizes),
        "build_seconds": round(time.perf_counter() - began, 1),
    }
    reader = tree.TreeReader(get, height, top)
    task = f"one new name among {entries:,}"
    for number in range(NEW_NAMES):
        sizes.clear()
        name = b"new-%d" % number
        ino = entries + 2 + number
        edits: list[tuple[bytes, bytes | None]] = [
            (node.inode_key(1), inode(1 + number, 0o040755)),
            (node.number_key(1, node.DIRENT, node.name_cookie(name)), node.pack_dirent(ino, 0o100000, name)),
            (node.inode_key(ino), inode(ino, 0o100644)),
        ]
        tree.apply(reader, edits, put)
        report.series(task, "lamina", unit="KiB").add(sum(sizes) / 1024)
    worst = max(report.series(task, "lamina", unit="KiB").values)
    report.target(f"{task}: KiB stored, worst of {NEW_NAMES}", worst, 64, at_least=False)


if __name__ == "__main__":
    main()
