"""How fast everything that is stored is proved: lamina pool scrub, borg check --verify-data, restic check --read-data.

All three hold the same images. They take turns, each with a cold page cache; the rate is taken from the bytes that
each stores, since that is what has to be read. What others used of the machine meanwhile stands beside every run.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import BorgRepository, LaminaPool, ResticRepository
from benchmarks.measure import Cost, apparent_bytes, data_bytes, drop_caches
from benchmarks.report import Report

TASK = "prove all data"


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something that holds the images: bytes of its files, and what proves them."""

    who: str
    stored: int
    verify: Callable[[], Cost]


def main() -> None:
    """Parse the arguments and run."""
    arguments = options.parser(__doc__, images="2.8.0,2.7.1").parse_args()
    options.need(["borg", "restic"], root=True)
    chosen = options.images(arguments.corpus, arguments.images)
    os.environ["LAMINA_BACKGROUND"] = "off"  # the scrub is the command, so that it can be measured
    named = {"images": [image.version for image in chosen], "runs": arguments.runs}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("scrub", named, ["borg", "restic"], out=arguments.out) as report,
    ):
        size = sum(data_bytes(image.path) for image in chosen)
        options.need_space(scratch, size * 2)
        contestants = _build(chosen, scratch)
        report.facts["source_bytes"] = size
        report.facts["stored_bytes"] = {one.who: one.stored for one in contestants}
        noise: list[dict[str, object]] = []
        report.facts["noise"] = noise
        for _ in range(arguments.runs):
            for one in contestants:
                drop_caches()
                before, load = _busy_seconds(), os.getloadavg()[0]
                cost = one.verify()
                others = max(0.0, _busy_seconds() - before - cost.cpu_seconds) / cost.seconds
                noise.append({"who": one.who, "load_before": round(load, 2), "cores_used_by_others": round(others, 2)})
                report.series(TASK, one.who, work_bytes=one.stored).add(cost, stored_bytes=one.stored)
                print(
                    f"{one.who}: {cost.seconds:.1f} s, {one.stored / 1e6 / cost.seconds:.0f} MB/s, "
                    f"others used {others:.2f} cores",
                    flush=True,
                )
        _targets(report)


def _build(chosen: list[options.Image], scratch: Path) -> list[Contestant]:
    pool = LaminaPool("benchscrub", scratch / "pool")
    pool.create()
    borg, restic = BorgRepository(scratch / "borg"), ResticRepository(scratch / "restic")
    borg.create()
    restic.create()
    for image in chosen:
        pool.take_in(image.path, "images/pytorch", image.version)
        borg.take_in(image.path, image.version)
        restic.take_in(image.path, image.version)
        print(f"{image.version} is in", flush=True)
    return [
        Contestant("lamina", apparent_bytes(pool.path / "packs"), lambda: pool.call("pool", "scrub", pool.name)),
        Contestant("borg", apparent_bytes(borg.path), borg.verify),
        Contestant("restic", apparent_bytes(restic.path), restic.verify),
    ]


def _busy_seconds() -> float:
    """Processor time that all of the machine has used so far (proc(5), /proc/stat), idle and waiting left out."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = map(int, words[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _targets(report: Report) -> None:
    ours = report.series(TASK, "lamina")
    for peer in ("borg", "restic"):
        rate = report.series(TASK, peer).rate
        report.target(f"stored bytes a second, lamina / {peer}", ours.rate / rate, 1.0, at_least=True)
    report.target("peak memory, MB", max(ours.peak_rss_bytes) / 1e6, 300, at_least=False)


if __name__ == "__main__":
    main()
