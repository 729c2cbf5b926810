"""How commands answer as a pool grows: 10, 100 and 1,000 simulated images, then one dataset with 10,000 snapshots.

The images are derived, the formats real (``benchmarks/simulated.py``): 43,000 files and about 20,000 objects each, a
quarter of them new; repositories of ten tags, two snapshots and a clone each. All figures are of whole processes.
"""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import LaminaPool
from benchmarks.measure import CommandFailed, Cost, allocated_bytes, run
from benchmarks.report import Report

POOL = "benchgrowth"
TAGS = 10
FLAT, PROPORTIONAL = 2.0, 1.5
"""What is flat may take so many times as long in the largest pool as in the smallest; what is proportional so many
times as long an image as in the pool before."""
SMALL_FILES = 300
LONG = {"pool check": 1, "pool gc -n": 3}
"""Runs of tasks that take long."""


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__)
    parser.set_defaults(runs=7)
    parser.add_argument("--images", default="10,100,1000", metavar="N,N", help="(default: %(default)s)")
    parser.add_argument("--snapshots", type=int, default=10_000, metavar="N", help="0 leaves them out")
    arguments = parser.parse_args()
    options.need([], root=True)
    steps = [int(step) for step in arguments.images.split(",")]
    options.need_space(arguments.scratch, steps[-1] * 4_000_000)
    named = {"images": steps, "snapshots": arguments.snapshots, "runs": arguments.runs}
    os.environ["LAMINA_BACKGROUND"] = "off"  # a collection beside it would be in the figures
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("growth", named, out=arguments.out) as report,
    ):
        pool = LaminaPool(POOL, scratch / "pool")
        pool.create()
        tree = _small_tree(scratch / "tree")
        for run_ in range(arguments.runs):
            report.series("bare python", "python3").add(run([sys.executable, "-c", "pass"]))
            del run_
        for step in steps:
            began = time.perf_counter()
            _apart(_fill, pool.path, step)
            report.facts[f"{step} images"] = {
                "fill_seconds": round(time.perf_counter() - began, 1),
                "catalogue_bytes": allocated_bytes(pool.path / "catalogue.db"),
                **_counts(pool.path),
            }
            _measure(report, pool, f"{step} images", arguments.runs, tree, scratch / "mnt")
        _judge(report, [f"{step} images" for step in steps], steps)
        if arguments.snapshots:
            _apart(_many_snapshots, pool.path, arguments.snapshots)
            _measure_many(report, pool, arguments.snapshots, arguments.runs)
        pool.delete()


# -- filling: in processes of their own, so that this one stays small --------------------------------------------------


def _apart(work: Callable[[Path, int], None], path: Path, count: int) -> None:
    process = multiprocessing.get_context("fork").Process(target=work, args=(path, count))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("filling the pool failed")


def _fill(path: Path, count: int) -> None:
    """Images up to ``count`` in all."""
    from benchmarks.simulated import Simulation, fill_quickly
    from lamina.pool.pool import Pool

    with Pool.open(path, write=True) as pool:
        fill_quickly(pool)
        have = len(pool.images(f"{POOL}/images")) if pool.exists(f"{POOL}/images") else 0
        simulation = Simulation(pool, seed=have)
        # Each process begins with an image of its own, which all others of it come from.
        base = last = simulation.image(f"{POOL}/base@{have}", None)
        for number in range(have, count):
            repository = f"{POOL}/images/repo{number // TAGS:03}"
            last = simulation.image(f"{repository}@{number % TAGS}-{number}", base if number % TAGS == 0 else last)
            simulation.forget([base, last])
            if number % TAGS == TAGS - 1:
                pool.snapshot([f"{repository}@daily-1", f"{repository}@daily-2"])
                pool.clone(f"{repository}@daily-2", f"{POOL}/containers/exp{number // TAGS:03}", parents=True)


def _many_snapshots(path: Path, count: int) -> None:
    """Snapshots of one dataset, a change for a hundred of them."""
    from lamina.pool.pool import Pool

    with Pool.open(path, write=True) as pool:
        image = pool.images()[0].name
        pool.clone(image, f"{POOL}/many")
        for start in range(0, count, 100):
            pool.snapshot([f"{POOL}/many@daily-{number:05}" for number in range(start, min(start + 100, count))])


def _counts(path: Path) -> dict[str, int]:
    import sqlite3

    database = sqlite3.connect(f"file:{path}/catalogue.db?mode=ro", uri=True)
    try:
        return {
            f"{table}s": int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
            for table in ("object", "pack", "dataset", "snapshot")
        }
    finally:
        database.close()


def _small_tree(path: Path) -> Path:
    path.mkdir()
    for number in range(SMALL_FILES):
        (path / f"file{number}").write_bytes(os.urandom(20_000))
    return path


# -- measuring ---------------------------------------------------------------------------------------------------------

FLAT_TASKS = (
    "list",
    "list after a change",
    "get all of an image",
    "get all of a repository",
    "snapshot",
    "destroy of a snapshot",
    "mount until the first read",
    "import of 300 files",
)
GROWING_TASKS = ("list -r -t all", "pool gc -n", "pool scrub, started", "pool check")


def _measure(report: Report, pool: LaminaPool, who: str, runs: int, tree: Path, at: Path) -> None:
    repository = f"{POOL}/images/repo000"
    image = f"{repository}@0-0"
    for number in range(runs):
        tag = f"{repository}@run-{who.split()[0]}-{number}"
        commands: dict[str, Sequence[str | Path]] = {
            "list": ("list",),
            "list -r -t all": ("list", "-r", "-t", "all", POOL),
            "get all of an image": ("get", "all", image),
            "get all of a repository": ("get", "all", repository),
            "snapshot": ("snapshot", tag),
            "list after a change": ("list",),
            "destroy of a snapshot": ("destroy", tag),
            "import of 300 files": ("image", "import", "-q", tree, f"{POOL}/new/small@{who.split()[0]}-{number}"),
            "pool gc -n": ("pool", "gc", "-n", POOL),
            "pool check": ("pool", "check", POOL),
        }
        for task, words in commands.items():
            if number >= LONG.get(task, runs):
                continue
            cost = _tried(pool, words)
            if cost is not None:
                report.series(task, who).add(cost)
        if number < 3:
            _scrub(report, pool, who)
        began = time.perf_counter()
        with pool.mounted(image.removeprefix(POOL + "/"), at):
            os.stat(at / "dir-000002")
            report.series("mount until the first read", who).add(time.perf_counter() - began)
        (tree / "file0").write_bytes(os.urandom(20_000))


def _scrub(report: Report, pool: LaminaPool, who: str) -> None:
    """Until the command has started a scrub in the background; it is stopped then."""
    with _background():
        cost = _tried(pool, ("pool", "scrub", POOL))
    if cost is not None:
        report.series("pool scrub, started", who).add(cost)
        with contextlib.suppress(CommandFailed):  # it has finished already
            pool.call("pool", "scrub", "-s", POOL)


@contextlib.contextmanager
def _background() -> Iterator[None]:
    del os.environ["LAMINA_BACKGROUND"]
    try:
        yield
    finally:
        os.environ["LAMINA_BACKGROUND"] = "off"


def _tried(pool: LaminaPool, words: Sequence[str | Path]) -> Cost | None:
    """What a command costs; None where this lamina has none of that name."""
    try:
        return pool.call(*words)
    except CommandFailed as error:
        if "exit 2" in str(error):
            return None
        raise


def _judge(report: Report, pools: list[str], sizes: list[int]) -> None:
    for task in FLAT_TASKS:
        if report.has(task, *pools):
            # Of a machine that does other things too, the quickest run says most.
            first, last = (min(report.series(task, who).values) for who in (pools[0], pools[-1]))
            report.target(f"{task}: {pools[-1]} / {pools[0]}", last / first, FLAT, at_least=False)
    for task in GROWING_TASKS:
        for before, after, less, more in zip(pools, pools[1:], sizes, sizes[1:], strict=False):
            if report.has(task, before, after):
                growth = min(report.series(task, after).values) / min(report.series(task, before).values)
                report.target(
                    f"{task}: {after} / {before}, by image", growth * less / more, PROPORTIONAL, at_least=False
                )


def _measure_many(report: Report, pool: LaminaPool, count: int, runs: int) -> None:
    who = f"{count} snapshots"
    dataset = f"{POOL}/many"
    for number in range(runs):
        commands: dict[str, Sequence[str]] = {
            "list -t snapshot": ("list", "-t", "snapshot", dataset),
            "get used of one": ("get", "used", f"{dataset}@daily-{count // 2:05}"),
            "get all of one": ("get", "all", f"{dataset}@daily-{count // 2:05}"),
            "get -r used": ("get", "-r", "-H", "used", dataset),
            "prune -n": ("prune", "-n", "--keep-last", "100", "--prefix", "daily-", dataset),
            "snapshot": ("snapshot", f"{dataset}@run-{number}"),
            "list -t snapshot after a change": ("list", "-t", "snapshot", dataset),
            "destroy of a snapshot": ("destroy", f"{dataset}@run-{number}"),
        }
        for task, words in commands.items():
            report.series(task, who).add(pool.call(*words))
    for task in commands:
        report.target(f"{task}, {who}: seconds", report.series(task, who).median, 1.0, at_least=False)


if __name__ == "__main__":
    main()
