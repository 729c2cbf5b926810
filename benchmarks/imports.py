"""How fast and with how much memory an image comes in: lamina and mksquashfs in turn, at the same level.

Each run makes a fresh pool and takes in one image that is new to it, then a full copy of that image under another
name (so nothing but its bytes can say that it is already there), then lets mksquashfs pack the same image. The source
is read once before each, so that all start with the same page cache; with --cold it is dropped instead.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import LaminaPool, squash
from benchmarks.measure import Cost, allocated_bytes, data_bytes, drop_caches, read_everything
from benchmarks.report import Report

NEW = "new image"
AGAIN = "image already there"


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__, images="2.8.0,2.7.1")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each import")
    arguments = parser.parse_args()
    options.need(["mksquashfs"], root=arguments.cold)
    chosen = options.images(arguments.corpus, arguments.images)
    prepare: Callable[[Path], None] = (lambda _: drop_caches()) if arguments.cold else read_everything

    named = {"images": [image.version for image in chosen], "runs": arguments.runs, "cold": arguments.cold}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("imports", named, ["mksquashfs"], out=arguments.out) as report,
    ):
        for image in chosen:
            size = data_bytes(image.path)
            options.need_space(scratch, size * 2)
            copy = scratch / "copy"
            subprocess.run(["cp", "-a", str(image.path), str(copy)], check=True)
            for _ in range(arguments.runs):
                _one_run(report, image.version, image.path, copy, scratch, size, prepare)
            options.remove(copy)
        _targets(report, [image.version for image in chosen])


def _one_run(
    report: Report, version: str, source: Path, copy: Path, scratch: Path, size: int, prepare: Callable[[Path], None]
) -> None:
    pool = LaminaPool("benchimport", scratch / "pool")
    pool.create()
    prepare(source)
    cost = pool.take_in(source, "images/pytorch", version)
    _add(report, f"{NEW} {version}", "lamina", cost, size, allocated_bytes(pool.path))
    prepare(copy)
    cost = pool.take_in(copy, "images/again", version)
    _add(report, f"{AGAIN} {version}", "lamina", cost, size, allocated_bytes(pool.path))
    pool.delete()

    packed = scratch / "image.squashfs"
    prepare(source)
    cost = squash([source], packed)
    _add(report, f"{NEW} {version}", "mksquashfs", cost, size, allocated_bytes(packed))
    options.remove(packed)


def _add(report: Report, task: str, who: str, cost: Cost, size: int, stored: int) -> None:
    report.series(task, who, work_bytes=size).add(cost, stored_bytes=stored)
    print(f"{task}, {who}: {cost.seconds:.1f} s, {size / 1e6 / cost.seconds:.0f} MB/s", flush=True)


def _targets(report: Report, versions: list[str]) -> None:
    for version in versions:
        ours, peer = report.series(f"{NEW} {version}", "lamina"), report.series(f"{NEW} {version}", "mksquashfs")
        again = report.series(f"{AGAIN} {version}", "lamina")
        report.target(f"{version}: new data, rate / mksquashfs's", ours.rate / peer.rate, 1.0, at_least=True)
        report.target(f"{version}: already there, rate / mksquashfs's", again.rate / peer.rate, 5.0, at_least=True)
        peak = max(*ours.peak_rss_bytes, *again.peak_rss_bytes)
        report.target(f"{version}: peak memory of the largest process, MB", peak / 1e6, 400, at_least=False)
        tree = max(*ours.peak_tree_bytes, *again.peak_tree_bytes)
        report.target(f"{version}: peak memory of all processes together, MB", tree / 1e6, 400, at_least=False)


if __name__ == "__main__":
    main()
