"""Images to another pool by lamina sync, over what stands for ssh on this machine: bytes both ways, seconds, memory.

Four steps: the first image into an empty pool; the next version, to another dataset of a pool that got the one before
by sync; the same to a pool that imported the one before by itself, from a tar; one small file changed. What travels is
compared with what the receiving pool has grown by. Trees that change are overlays of the corpus.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import LaminaPool, lamina_command
from benchmarks.measure import Cost, run
from benchmarks.report import Report

STEPS = ("first image", "next version", "next version, imported before", "one file changed", "nothing new")
_SSH = """#!/bin/sh
# Stands for ssh(1): a host, and a line for the shell there.
shift
exec sh -c "$*"
"""


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__, images="2.5.1,2.6.0")
    arguments = parser.parse_args()
    options.need(["tar"], root=True)
    old, new = options.images(arguments.corpus, arguments.images)[:2]
    os.environ["LAMINA_BACKGROUND"] = "off"  # what is measured is the command
    named = {"images": [old.version, new.version], "runs": arguments.runs}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("sync", named, ["lamina"], out=arguments.out) as report,
    ):
        options.need_space(scratch, 10 << 30)
        wire = _Wire(report, scratch)
        with _overlay(new.path, scratch) as tree:
            wire.source.create()
            wire.source.take_in(old.path, "images/pytorch", "old")
            wire.source.take_in(tree, "images/pytorch", "new")
            (tree / "etc" / "debian_version").write_text("changed\n")
            wire.source.take_in(tree, "images/pytorch", "changed")
        for _ in range(arguments.runs):
            target = wire.target("benchback")
            wire.measure(STEPS[0], "old", target, "first")
            wire.measure(STEPS[1], "new", target, "other")
            wire.measure(STEPS[3], "changed", target, "other")
            wire.measure(STEPS[4], "changed", target, "other")
            target.delete()
        target = wire.target("benchown")
        tar = f"tar -C {old.path} -cf - . | {wire.line(target)} image import -q - benchown/elsewhere@old"
        run(["bash", "-c", f"set -o pipefail; {tar}"])
        wire.measure(STEPS[2], "new", target, "copy")
        target.delete()
        wire.source.delete()
        _targets(report)


@contextmanager
def _overlay(lower: Path, scratch: Path) -> Iterator[Path]:
    """A tree that can be changed without a copy of all of it."""
    parts = [scratch / "overlay" / name for name in ("upper", "work", "tree")]
    for part in parts:
        part.mkdir(parents=True)
    upper, work, tree = parts
    words = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", words, str(tree)], check=True)
    try:
        yield tree
    finally:
        subprocess.run(["umount", str(tree)], check=True)


class _Wire:
    """Measures syncs from one pool to others, which know nothing of each other but by the protocol."""

    def __init__(self, report: Report, scratch: Path) -> None:
        self._report = report
        self._scratch = scratch
        self.source = LaminaPool("benchsource", scratch / "source")
        self._ssh = scratch / "ssh"
        self._ssh.write_text(_SSH)
        self._ssh.chmod(0o755)

    def target(self, name: str) -> LaminaPool:
        """An empty pool to sync to."""
        made = LaminaPool(name, self._scratch / name)
        made.create()
        return made

    def line(self, pool: LaminaPool) -> str:
        """The shell's words for lamina as the machine of a pool knows it."""
        return f"env LAMINA_POOLS={pool.path}.known {' '.join(lamina_command())}"

    def measure(self, step: str, tag: str, target: LaminaPool, dataset: str) -> None:
        """One sync of a snapshot."""
        before = _stored(target)
        cost = self._sync(tag, target, dataset)
        found = json.loads(cost.stdout)["sync"]
        grown = _stored(target) - before
        wire = found["stream_bytes"] + found["negotiated_bytes"]
        series = self._report.series(step, "lamina", work_bytes=wire)
        series.add(cost, stored_bytes=grown)
        kept = {name: found[name] for name in ("objects", "stored_bytes", "stream_bytes", "negotiated_bytes")}
        self._report.facts[step] = {
            **kept,
            "round_trips": found["round_trips"],
            "session_seconds": found["seconds"],
            "target_grown_by": grown,
        }
        print(
            f"{step}: {cost.seconds:.2f} s, {wire:,} bytes for {grown:,} stored, {found['negotiated_bytes']:,} "
            f"negotiated, {found['round_trips']} round trips, {found['objects']:,} objects, "
            f"peak {cost.peak_rss_bytes / 1e6:.0f} MB",
            flush=True,
        )

    def _sync(self, tag: str, target: LaminaPool, dataset: str) -> Cost:
        words = [*lamina_command(), "sync", "--json", f"benchsource/images/pytorch@{tag}"]
        env = {
            "LAMINA_POOLS": f"{self.source.path}.known",
            "LAMINA_SSH": str(self._ssh),
            "LAMINA_REMOTE": self.line(target),
        }
        return run([*words, f"far:{target.name}/{dataset}"], env=env)


def _stored(pool: LaminaPool) -> int:
    return int(pool.call("get", "-Hpo", "value", "used", pool.name).stdout)


def _targets(report: Report) -> None:
    for step in STEPS[:3]:
        ours = report.series(step, "lamina")
        ratio = ours.work_bytes / ours.stored_bytes[0]
        report.target(f"{step}: bytes both ways / bytes stored there", ratio, 1.02, at_least=False)
        report.target(f"{step}: peak memory of either side, MB", max(ours.peak_rss_bytes) / 1e6, 200, at_least=False)
    report.target("one file changed: seconds", report.series(STEPS[3], "lamina").median, 0.5, at_least=False)


if __name__ == "__main__":
    main()
