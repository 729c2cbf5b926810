"""What snapshots, clones and their like cost inside the process, on an image of real size: rows, not copies.

A real root file system (``--image``), or a simulated one of as many files and objects. Every call is a method of
``Pool``, from its beginning until it is durable. ``--others`` images fill the pool beside it.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import LaminaPool
from benchmarks.measure import data_bytes
from benchmarks.report import Report

POOL = "benchsnapshots"
DATASET = f"{POOL}/images/real"
IMAGE, TAG, CLONE = f"{DATASET}@1", f"{DATASET}@run", f"{POOL}/clone"
LIMIT = 10.0
"""Milliseconds that each may take."""


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__)
    parser.set_defaults(runs=50)
    parser.add_argument(
        "--image",
        type=Path,
        metavar="DIR",
        help="a root file system, such as an img-VERSION (default: a simulated one)",
    )
    parser.add_argument("--others", type=int, default=20, metavar="N", help="(default: %(default)s)")
    arguments = parser.parse_args()
    named = {"image": arguments.image and arguments.image.name, "others": arguments.others, "runs": arguments.runs}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("snapshots", named, out=arguments.out) as report,
    ):
        os.environ["LAMINA_POOLS"] = str(scratch / "pool.known")
        pool = LaminaPool(POOL, scratch / "pool")
        pool.create()
        if arguments.image:
            report.facts["image_bytes"] = data_bytes(arguments.image)
            pool.take_in(arguments.image, "images/real", "1")
        _fill(pool.path, arguments.others, simulate=not arguments.image)
        for background in ("off", "on"):
            os.environ["LAMINA_BACKGROUND"] = background
            _measure(report, pool.path, f"background {background}", arguments.runs)
        for one in TASKS:
            for background in ("off", "on"):
                series = report.series(one, f"background {background}", unit="ms")
                report.target(f"{one}, background {background}: ms", series.median, LIMIT, at_least=False)
        pool.delete()


TASKS = (
    "snapshot",
    "clone",
    "rollback",
    "promote",
    "destroy of a snapshot",
    "destroy of a clone",
    "destroy of an image",
)


def _fill(path: Path, others: int, *, simulate: bool) -> None:
    from benchmarks.simulated import Simulation, fill_quickly
    from lamina.pool.pool import Pool

    with Pool.open(path, write=True) as pool:
        fill_quickly(pool)
        simulation = Simulation(pool)
        base = last = simulation.image(IMAGE if simulate else f"{POOL}/base@1", None)
        for number in range(others):
            last = simulation.image(f"{POOL}/others/repo{number // 10}@{number}", last)
            simulation.forget([base, last])


def _measure(report: Report, path: Path, who: str, runs: int) -> None:
    from lamina.pool.figures.accounting import Accounting
    from lamina.pool.pool import Pool

    def timed(task: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        report.series(task, who, unit="ms").add((time.perf_counter() - began) * 1e3)

    with Pool.open(path, write=True) as pool:
        accounting = Accounting(pool._catalogue)
        for number in range(runs):
            timed("snapshot", lambda: pool.snapshot([TAG]))
            timed("figures after a snapshot", accounting.refresh)
            timed("clone", lambda: pool.clone(TAG, CLONE))
            timed("figures after a clone", accounting.refresh)
            timed("promote", lambda: pool.promote(CLONE))
            pool.promote(DATASET)
            timed("destroy of a clone", lambda: pool.destroy(CLONE))
            timed("rollback", lambda: pool.rollback(TAG))
            timed("destroy of a snapshot", lambda: pool.destroy(TAG))
            timed("figures after a destroy", accounting.refresh)
            if number % 5 == 0 and (images := pool.images(f"{POOL}/others")):
                timed("destroy of an image", lambda name=images[0].name: pool.destroy(name))  # type: ignore[misc]
                timed("figures after a destroy of an image", accounting.refresh)


if __name__ == "__main__":
    main()
