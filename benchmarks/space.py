"""How much disk the whole corpus takes: every image into one pool, next to squashfs and borg.

One contestant at a time: what it stored is measured, then deleted before the next begins.
"""

import json
import time
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import BorgRepository, LaminaPool, squash
from benchmarks.measure import allocated_bytes, apparent_bytes, data_bytes
from benchmarks.options import Image
from benchmarks.report import Report

TASK = "all images"


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__, images="2.4.1,2.5.1,2.6.0,2.7.1,2.8.0")
    parser.add_argument("--peers", default="", metavar="P,P", help="squashfs and borg, slow (default: none)")
    arguments = parser.parse_args()
    peers = [name for name in arguments.peers.split(",") if name]
    if unknown := set(peers) - {"squashfs", "borg"}:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    options.need(["mksquashfs"] * ("squashfs" in peers) + ["borg"] * ("borg" in peers))
    chosen = options.images(arguments.corpus, arguments.images)

    named = {"images": [image.version for image in chosen], "peers": peers}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("space", named, ["mksquashfs", "borg"], out=arguments.out) as report,
    ):
        sizes = {image.version: data_bytes(image.path) for image in chosen}
        total = sum(sizes.values())
        report.facts["source_bytes"] = sizes
        report.facts["source_total_bytes"] = total
        options.need_space(scratch, total // 2)
        _lamina(report, chosen, sizes, scratch)
        if "squashfs" in peers:
            _squashfs(report, chosen, scratch)
        if "borg" in peers:
            _borg(report, chosen, sizes, scratch)


def _lamina(report: Report, chosen: list[Image], sizes: dict[str, int], scratch: Path) -> None:
    pool = LaminaPool("benchspace", scratch / "pool")
    pool.create()
    steps: list[dict[str, object]] = []
    began = time.perf_counter()
    for image in chosen:
        cost = pool.take_in(image.path, "images/pytorch", image.version)
        report.series(f"import {image.version}", "lamina", work_bytes=sizes[image.version]).add(cost)
        stored = allocated_bytes(pool.path)
        steps.append({"image": image.version, "pool_bytes": stored, **_summary(cost.stdout)})
        print(f"lamina {image.version}: {cost.seconds:.0f} s, pool {stored / 1e9:.2f} GB", flush=True)
    report.facts["lamina_steps"] = steps
    _stored(report, "lamina", [pool.path], time.perf_counter() - began)
    used = "used,compressratio,dedupratio,reduction,logicalused"
    report.facts["lamina_properties"] = pool.call("get", "-H", "-p", used, pool.name).stdout.splitlines()
    pool.delete()


def _summary(stdout: str) -> dict[str, object]:
    found = json.loads(stdout)
    row = found[0] if isinstance(found, list) else found
    return {f"lamina_{name}": value for name, value in row.items() if isinstance(value, int | float)}


def _squashfs(report: Report, chosen: list[Image], scratch: Path) -> None:
    out = scratch / "all.squashfs"
    cost = squash([image.path for image in chosen], out)
    _stored(report, "squashfs", [out], cost.seconds)
    options.remove(out)


def _borg(report: Report, chosen: list[Image], sizes: dict[str, int], scratch: Path) -> None:
    repository = BorgRepository(scratch / "borg")
    repository.create()
    began = time.perf_counter()
    for image in chosen:
        cost = repository.take_in(image.path, image.version)
        report.series(f"import {image.version}", "borg", work_bytes=sizes[image.version]).add(cost)
    # The repository alone: its cache can be made again from it.
    _stored(report, "borg", [repository.path], time.perf_counter() - began)
    options.remove(repository.path)


def _stored(report: Report, who: str, paths: list[Path], seconds: float) -> None:
    allocated = sum(allocated_bytes(path) for path in paths)
    source = report.facts["source_total_bytes"]
    assert isinstance(source, int)
    report.series(TASK, who, work_bytes=source).add(seconds, stored_bytes=allocated)
    report.facts[f"{who}_bytes"] = {
        "allocated": allocated,
        "apparent": sum(apparent_bytes(path) for path in paths),
        "saved_percent": round(100 * (1 - allocated / source), 1),
    }
    print(f"{who}: {allocated / 1e9:.2f} GB of {source / 1e9:.2f} GB", flush=True)
    if who == "lamina":
        # 11.5 GB of the corpus's 30.8 GB; the same share of whatever was chosen.
        report.target("pool bytes / source bytes", allocated / source, 11.5 / 30.8, at_least=False)


if __name__ == "__main__":
    main()
