"""Images to another place on this machine: lamina send | lamina receive beside rsync -aHAX, borg and restic copy.

Three steps: the first image, the next version, and that with one small file changed. Bytes are those that would go over
the wire: the stream; what rsync says it sent; what a borg or restic repository has grown by. restic copies from a
repository that has the image already, as lamina does; borg and rsync read the files.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import BorgRepository, LaminaPool, ResticRepository, lamina_command
from benchmarks.measure import Cost, apparent_bytes, data_bytes, run
from benchmarks.report import Report

STEPS = ("first image", "next version", "one file changed")
_DATASET = "images/pytorch"


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__, images="2.7.1,2.8.0")
    parser.add_argument("--peers", default="rsync,borg,restic", help="of these, those to run beside (default: all)")
    arguments = parser.parse_args()
    peers = [peer for peer in arguments.peers.split(",") if peer]
    options.need(peers)
    chosen = options.images(arguments.corpus, arguments.images)
    os.environ["LAMINA_BACKGROUND"] = "off"  # what is measured is the command
    named = {"images": [image.version for image in chosen], "runs": arguments.runs, "peers": peers}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("replication", named, peers, out=arguments.out) as report,
    ):
        first, following = chosen[0].path, scratch / "next"
        size = data_bytes(first)
        options.need_space(scratch, size * 4)
        # A copy, so that a file in it can be changed.
        subprocess.run(["cp", "-a", str(chosen[1].path), str(following)], check=True)
        sources = (first, following, following)
        _lamina(report, scratch, sources, arguments.runs)
        for peer, step in (("rsync", _rsync), ("borg", _borg), ("restic", _restic)):
            if peer in peers:
                _restore(following, chosen[1].path)
                step(report, scratch, sources)
        _targets(report)


def _change(tree: Path) -> None:
    """Change one small file."""
    path = tree / "etc" / "debian_version"
    path.write_text("changed\n")


def _restore(tree: Path, source: Path) -> None:
    path = "etc/debian_version"
    shutil.copy2(source / path, tree / path)


# -- lamina ---------------------------------------------------------------------------------------------------------


def _lamina(report: Report, scratch: Path, sources: tuple[Path, Path, Path], runs: int) -> None:
    source = LaminaPool("benchsend", scratch / "source")
    target = LaminaPool("benchback", scratch / "target")
    source.create()
    tags = ("first", "next", "changed")
    stored: list[int] = []
    for tag, tree in zip(tags, sources, strict=True):
        if tag == "changed":
            _change(tree)
        before = _stored(source)
        source.take_in(tree, _DATASET, tag)
        stored.append(_stored(source) - before)
    report.facts["stored_bytes"] = dict(zip(STEPS, stored, strict=True))
    for _ in range(runs):
        target.create()
        for number, step in enumerate(STEPS):
            base = [] if not number else ["-i", f"@{tags[number - 1]}"]
            snapshot = f"benchsend/{_DATASET}@{tags[number]}"
            size = int(source.call("send", "-nP", *base, snapshot).stdout.split()[-1])
            cost = _pipe(source, target, [*base, snapshot])
            report.series(step, "lamina", work_bytes=size).add(cost, stored_bytes=size)
            print(
                f"{step}, lamina: {cost.seconds:.2f} s, {size:,} bytes, {size / 1e6 / cost.seconds:.0f} MB/s",
                flush=True,
            )
        target.delete()
    source.delete()


def _pipe(source: LaminaPool, target: LaminaPool, words: list[str]) -> Cost:
    """``lamina send WORDS | lamina receive``, each side with its own known pools."""
    lamina = " ".join(lamina_command())
    known = (f"LAMINA_POOLS={pool.path}.known {lamina}" for pool in (source, target))
    line = f"{next(known)} send {' '.join(words)} | {next(known)} receive benchback/copy"
    return run(["bash", "-c", f"set -o pipefail; {line}"])


def _stored(pool: LaminaPool) -> int:
    return int(pool.call("get", "-Hpo", "value", "used", pool.name).stdout)


# -- peers ----------------------------------------------------------------------------------------------------------


def _rsync(report: Report, scratch: Path, sources: tuple[Path, Path, Path]) -> None:
    """Twice the same tree is looked at whole: rsync compares sizes and times of all files."""
    target = scratch / "rsync"

    def copy(tree: Path) -> tuple[Cost, int]:
        cost = run(["rsync", "-aHAX", "--delete", "--no-inc-recursive", "--stats", f"{tree}/", f"{target}/"])
        sent = re.search(r"Total bytes sent: ([\d,]+)", cost.stdout)
        return cost, int(sent[1].replace(",", "")) if sent else 0

    _steps(report, "rsync", sources, copy)
    options.remove(target)


def _borg(report: Report, scratch: Path, sources: tuple[Path, Path, Path]) -> None:
    repository = BorgRepository(scratch / "borg")
    repository.create()

    def copy(tree: Path) -> tuple[Cost, int]:
        before = apparent_bytes(repository.path)
        cost = repository.take_in(tree, f"a{before}")
        return cost, apparent_bytes(repository.path) - before

    _steps(report, "borg", sources, copy)
    options.remove(repository.path)


def _restic(report: Report, scratch: Path, sources: tuple[Path, Path, Path]) -> None:
    here, there = ResticRepository(scratch / "restic"), ResticRepository(scratch / "restic-copy")
    here.create()
    run(
        ["restic", "init", "--repository-version", "2", "--copy-chunker-params", "--from-repo", scratch / "restic"],
        env=_restic_env(there.path),
    )

    def copy(tree: Path) -> tuple[Cost, int]:
        here.take_in(tree, "image")
        before = apparent_bytes(there.path)
        cost = run(["restic", "copy", "--from-repo", here.path], env=_restic_env(there.path))
        return cost, apparent_bytes(there.path) - before

    _steps(report, "restic copy", sources, copy)
    options.remove(here.path)
    options.remove(there.path)


def _restic_env(path: Path) -> dict[str, str]:
    return {
        "RESTIC_REPOSITORY": str(path),
        "RESTIC_PASSWORD": "benchmark",
        "RESTIC_FROM_PASSWORD": "benchmark",
        "RESTIC_CACHE_DIR": str(path) + ".cache",
    }


def _steps(
    report: Report, who: str, sources: tuple[Path, Path, Path], copy: Callable[[Path], tuple[Cost, int]]
) -> None:
    for step, tree in zip(STEPS, sources, strict=True):
        if step == STEPS[2]:
            _change(tree)
        cost, sent = copy(tree)
        report.series(step, who, work_bytes=sent).add(cost, stored_bytes=sent)
        print(f"{step}, {who}: {cost.seconds:.2f} s, {sent:,} bytes", flush=True)


def _targets(report: Report) -> None:
    stored = report.facts["stored_bytes"]
    assert isinstance(stored, dict)
    for step in STEPS[:2]:
        ours = report.series(step, "lamina")
        report.target(f"{step}: bytes sent / bytes stored", ours.stored_bytes[0] / stored[step], 1.02, at_least=False)
        report.target(f"{step}: MB of stored data a second", ours.rate, 500, at_least=True)
        report.target(f"{step}: peak memory of either side, MB", max(ours.peak_rss_bytes) / 1e6, 200, at_least=False)
    report.target("one file changed: seconds", report.series(STEPS[2], "lamina").median, 0.5, at_least=False)


if __name__ == "__main__":
    main()
