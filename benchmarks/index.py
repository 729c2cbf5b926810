"""How much memory an import takes when the pool already holds much: an empty pool next to one of 8,000,000 objects.

The rows are synthetic (1 TB of unique data has about so many), the import is real. The catalogue takes about 1.5 GB.
"""

import multiprocessing
import os
import sqlite3
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import LaminaPool
from benchmarks.measure import allocated_bytes, data_bytes
from benchmarks.report import Report

CHUNK_BYTES = 131072
_INSERT = """
INSERT INTO object(key, pack, offset, stored, decoded, kind, codec, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__, images="2.8.0")
    parser.add_argument("--rows", type=int, default=8_000_000, metavar="N", help="(default: %(default)s)")
    arguments = parser.parse_args()
    image = options.images(arguments.corpus, arguments.images)[0]
    named = {"image": image.version, "rows": arguments.rows, "runs": arguments.runs}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("index", named, out=arguments.out) as report,
    ):
        size = data_bytes(image.path)
        options.need_space(scratch, size + 250 * arguments.rows)
        for rows in (0, arguments.rows):
            for run in range(arguments.runs):
                pool = LaminaPool("benchindex", scratch / "pool")
                pool.create()
                if rows:
                    began = time.perf_counter()
                    # Apart: a child's peak memory starts from this process's, which so stays small.
                    filling = multiprocessing.Process(target=_fill, args=(_catalogue(pool.path), rows))
                    filling.start()
                    filling.join()
                    if filling.exitcode:
                        raise SystemExit("filling the catalogue failed")
                    report.facts["fill_seconds"] = round(time.perf_counter() - began, 1)
                    report.facts["catalogue_bytes"] = allocated_bytes(_catalogue(pool.path))
                cost = pool.take_in(image.path, "images/pytorch", str(run))
                report.series("import", f"into {rows:,} objects", work_bytes=size).add(cost)
                pool.delete()
        empty = report.series("import", "into 0 objects")
        full = report.series("import", f"into {arguments.rows:,} objects")
        largest = (max(full.peak_rss_bytes) - max(empty.peak_rss_bytes)) / 1e6
        report.target("peak memory above an empty pool's, MB", largest, 100, at_least=False)
        report.target("peak memory of all processes, MB", max(full.peak_tree_bytes) / 1e6, 400, at_least=False)


def _catalogue(pool: Path) -> Path:
    for path in sorted(pool.rglob("*")):
        if path.is_file():
            with open(path, "rb") as opened:
                if opened.read(16) == b"SQLite format 3\0":
                    return path
    raise SystemExit(f"no catalogue found in {pool}")


def _fill(catalogue: Path, rows: int) -> None:
    """Rows as an import would leave them, of one sealed pack that is never read."""
    connection = sqlite3.connect(catalogue, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -200000")
    connection.execute("BEGIN IMMEDIATE")
    pack = connection.execute("INSERT INTO pack(state, size) VALUES ('sealed', ?)", (rows * CHUNK_BYTES,)).lastrowid
    assert pack is not None
    connection.execute("COMMIT")
    left = _rows(rows, pack)
    while batch := list(islice(left, 200_000)):  # not one transaction: the log would hold all of it
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_INSERT, batch)
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _rows(count: int, pack: int) -> Iterator[tuple[bytes, int, int, int, int, int, int, int]]:
    # Keys spread over the whole range like real ones, but ascending: the index is built in order, which is quick.
    step = (1 << 64) // count
    for number in range(count):
        key = (number * step).to_bytes(8, "big") + os.urandom(24)
        yield key, pack, number * CHUNK_BYTES, CHUNK_BYTES // 2, CHUNK_BYTES, 1, 1, number


if __name__ == "__main__":
    main()
