"""What it takes to free one image out of several: how long, how much memory, and how much the disk gets back.

All images are imported into one pool. Then each run destroys one and collects garbage, with ``lamina pool gc`` as a
process of its own, checks that the others are as large as before, and imports the image again. A collection that finds
nothing to free is measured too: that is what it takes to look.
"""

import json
import os

from benchmarks import options
from benchmarks.contestants import LaminaPool
from benchmarks.measure import allocated_bytes, data_bytes, drop_caches
from benchmarks.report import Report

POOL = "benchgc"


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__, images="2.8.0,2.7.1,2.6.0,2.5.1,2.4.1")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each collection (root)")
    arguments = parser.parse_args()
    options.need([], root=arguments.cold)
    chosen = options.images(arguments.corpus, arguments.images)
    options.need_space(arguments.scratch, sum(data_bytes(image.path) for image in chosen) // 2)
    os.environ["LAMINA_BACKGROUND"] = "off"  # what is measured must not begin by itself
    named = {"images": [image.version for image in chosen], "runs": arguments.runs, "cold": arguments.cold}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("gc", named, out=arguments.out) as report,
    ):
        pool = LaminaPool(POOL, scratch / "pool")
        pool.create()
        for image in chosen:
            cost = pool.take_in(image.path, "images/pytorch", image.version)
            print(f"imported {image.version}: {cost.seconds:.0f} s, pool {allocated_bytes(pool.path) / 1e9:.2f} GB")
        freed: list[int] = []
        for number in range(arguments.runs):
            image = chosen[number % len(chosen)]
            _idle(report, pool)
            freed.append(_one_run(report, pool, image.version, arguments.cold))
            if number + 1 < arguments.runs:
                pool.take_in(image.path, "images/pytorch", image.version)
        report.facts["freed_bytes"] = freed
        collected = report.series("gc of one image", "lamina")
        report.target("gc of one image: seconds, worst", max(collected.values), 10, at_least=False)
        peak = max(collected.peak_rss_bytes)
        report.target("gc of one image: peak memory, MB", peak / 1e6, 300, at_least=False)
        pool.delete()


def _idle(report: Report, pool: LaminaPool) -> None:
    report.series("gc with nothing to free", "lamina").add(pool.call("pool", "gc", POOL))


def _one_run(report: Report, pool: LaminaPool, version: str, cold: bool) -> int:
    before = allocated_bytes(pool.path)
    report.series("destroy", "lamina").add(pool.call("destroy", f"{POOL}/images/pytorch@{version}"))
    if cold:
        drop_caches()
    cost = pool.call("pool", "gc", "--json", POOL)
    after = allocated_bytes(pool.path)
    report.series("gc of one image", "lamina").add(cost, stored_bytes=after)
    done = json.loads(cost.stdout)["pools"][POOL]
    print(
        f"gc after {version}: {cost.seconds:.1f} s, {cost.peak_rss_bytes / 1e6:.0f} MB; {done['objects']} objects of "
        f"{done['stored'] / 1e9:.2f} GB, disk got {(before - after) / 1e9:.2f} GB; {done['packs']} packs removed, "
        f"{done['moved'] / 1e6:.0f} MB moved",
        flush=True,
    )
    return before - after


if __name__ == "__main__":
    main()
