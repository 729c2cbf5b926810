"""Images to another machine: lamina send | lamina receive beside rsync -aHAX, borg and restic copy.

Three steps: the first image, the next version, and that with one small file changed. The other machine is a process of
its own behind a pipe in which all bytes are counted, in both directions. restic copies from a repository that has the
image already, as lamina sends from a pool that has it; borg and rsync read the files.
"""

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import options, wire
from benchmarks.contestants import BorgRepository, LaminaPool, ResticRepository, lamina_command
from benchmarks.measure import Cost, drop_caches, read_everything, run
from benchmarks.report import Report

STEPS = ("first image", "next version", "one file changed")
_DATASET = "images/pytorch"
_SFTP = "/usr/lib/openssh/sftp-server"
_FILE = "etc/debian_version"

Sources = tuple[Path, Path, Path]
Copy = Callable[[Path], Cost]


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__, images="2.7.1,2.8.0")
    parser.add_argument("--peers", default="rsync,borg,restic", help="of these, those to run beside (default: all)")
    arguments = parser.parse_args()
    peers = [peer for peer in arguments.peers.split(",") if peer]
    options.need(peers, root=True)
    chosen = options.images(arguments.corpus, arguments.images)
    os.environ["LAMINA_BACKGROUND"] = "off"  # what is measured is the command
    named = {"images": [image.version for image in chosen], "runs": arguments.runs, "peers": peers}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("replication", named, peers, out=arguments.out) as report,
    ):
        options.need_space(scratch, 16 << 30)
        with _changeable(chosen[1].path, scratch) as following:
            sources = (chosen[0].path, following, following)
            _lamina(report, scratch, sources, arguments.runs)
            for peer, step in (("rsync", _rsync), ("borg", _borg), ("restic", _restic)):
                if peer in peers:
                    _restore(following)
                    step(report, scratch, sources)
        _targets(report)


@contextmanager
def _changeable(tree: Path, scratch: Path) -> Iterator[Path]:
    """A view of a tree in which one file can be changed, without a copy of all of it: bind mounts (mount(8))."""
    where = scratch / "next"
    where.mkdir()
    shutil.copy2(tree / _FILE, scratch / "changed")
    (scratch / "changed").write_text("changed\n")
    run(["mount", "--bind", tree, where])
    try:
        run(["mount", "--make-private", where])  # else what is mounted in it would show up in the tree itself
        yield where
    finally:
        _restore(where)
        run(["umount", where])


def _change(tree: Path) -> None:
    """Put the changed file in the place of the other."""
    run(["mount", "--bind", tree.parent / "changed", tree / _FILE])


def _restore(tree: Path) -> None:
    if os.path.ismount(tree / _FILE) or (tree / _FILE).read_text() == "changed\n":
        run(["umount", tree / _FILE])


def _note(report: Report, step: str, who: str, cost: Cost, sent: wire.Wire, rate: int = 0) -> None:
    """One run. ``rate``: the bytes of work that a rate is of."""
    report.series(step, who, work_bytes=rate).add(cost)
    report.series(f"{step}: bytes on the wire", who, unit="B").add(sent.bytes)
    report.series(f"{step}: memory here", who, unit="B").add(sent.peak_here)
    report.series(f"{step}: memory there", who, unit="B").add(sent.peak_there)
    print(
        f"{step}, {who}: {cost.seconds:.2f} s, {sent.there:,} bytes there, {sent.back:,} back, "
        f"{sent.peak_here / 1e6:.0f} and {sent.peak_there / 1e6:.0f} MB of memory",
        flush=True,
    )


# -- lamina ---------------------------------------------------------------------------------------------------------


def _lamina(report: Report, scratch: Path, sources: Sources, runs: int) -> None:
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
            words = [*base, f"benchsend/{_DATASET}@{tags[number]}"]
            size = int(source.call("send", "-nP", *words).stdout.split()[-1])
            cost, sent = _pipe(scratch, source, target, words)
            if sent.there != size:
                raise SystemExit(f"'send -nP' said {size} bytes, {sent.there} came")
            _note(report, step, "lamina", cost, sent, size)
        target.delete()
    source.delete()


def _pipe(scratch: Path, source: LaminaPool, target: LaminaPool, words: list[str]) -> tuple[Cost, wire.Wire]:
    """``lamina send WORDS | lamina receive``, each side with its own known pools."""
    noted = scratch / "noted"
    lamina = lamina_command()
    send = shlex.join([*wire.words(noted, "--here"), *lamina, "send", *words])
    receive = shlex.join([*wire.words(noted), *lamina, "receive", "benchback/copy"])
    known = [f"LAMINA_POOLS={pool.path}.known" for pool in (source, target)]
    os.sync()
    cost = run(["bash", "-c", f"set -o pipefail; {known[0]} {send} | {known[1]} {receive}"])
    return cost, wire.read(noted)


def _stored(pool: LaminaPool) -> int:
    return int(pool.call("get", "-Hpo", "value", "used", pool.name).stdout)


# -- peers ----------------------------------------------------------------------------------------------------------


def _rsync(report: Report, scratch: Path, sources: Sources) -> None:
    """Twice the same tree is looked at whole: rsync compares sizes and times of all files."""
    target, noted = scratch / "rsync", scratch / "noted"
    remote = scratch / "rsync-there"
    # rsync calls it as ssh: HOST, then the command in words. It counts its bytes itself.
    remote.write_text(f'#!/bin/sh\nshift\nexec {shlex.join(wire.words(noted, "--there"))} "$@"\n')
    remote.chmod(0o755)

    def copy(tree: Path) -> Cost:
        words = ["rsync", "-aHAX", "--delete", "--no-inc-recursive", "--stats"]
        return run([*wire.words(noted, "--here"), *words, "-e", str(remote), f"{tree}/", f"there:{target}/"])

    _steps(report, "rsync", sources, noted, copy)
    options.remove(target)


def _borg(report: Report, scratch: Path, sources: Sources) -> None:
    repository, noted = BorgRepository(scratch / "borg"), scratch / "noted"
    repository.create()
    remote = scratch / "borg-there"
    remote.write_text(f'#!/bin/sh\nshift\nexec {shlex.join(wire.words(noted))} "$@"\n')
    remote.chmod(0o755)
    environment = {
        "BORG_RSH": str(remote),
        "BORG_BASE_DIR": str(scratch / "borg.home"),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
    }
    names = iter(("first", "next", "changed"))

    def copy(tree: Path) -> Cost:
        archive = f"ssh://there{repository.path}::{next(names)}"
        words = ["borg", "create", "-C", "zstd,3", archive, "."]
        return run([*wire.words(noted, "--here"), *words], env=environment, cwd=tree)

    _steps(report, "borg", sources, noted, copy)
    options.remove(repository.path)


def _restic(report: Report, scratch: Path, sources: Sources) -> None:
    here, noted = ResticRepository(scratch / "restic"), scratch / "noted"
    here.create()
    there = scratch / "restic-there"
    environment = {
        "RESTIC_REPOSITORY": f"sftp:there:{there}",
        "RESTIC_PASSWORD": "benchmark",
        "RESTIC_FROM_PASSWORD": "benchmark",
        "RESTIC_CACHE_DIR": f"{there}.cache",
    }
    sftp = ["-o", f"sftp.command={shlex.join([*wire.words(noted), _SFTP])}"]
    version = ["--repository-version", "2", "--copy-chunker-params", "--from-repo", str(here.path)]
    run(["restic", *sftp, "init", *version], env=environment)
    noted.write_text("")

    def copy(tree: Path) -> Cost:
        here.take_in(tree, "image")
        os.sync()
        noted.write_text("")
        words = ["restic", *sftp, "copy", "--from-repo", str(here.path)]
        return run([*wire.words(noted, "--here"), *words], env=environment)

    _steps(report, "restic copy", sources, noted, copy)
    options.remove(here.path)
    options.remove(there)


def _steps(report: Report, who: str, sources: Sources, noted: Path, copy: Copy) -> None:
    for step, tree in zip(STEPS, sources, strict=True):
        if step == STEPS[2]:
            _change(tree)
        else:
            drop_caches()
            read_everything(tree)  # so that all find it in the page cache, as far as that goes
        cost = copy(tree)
        sent = wire.read(noted)
        if told := re.search(r"Total bytes sent: ([\d,]+)\s+Total bytes received: ([\d,]+)", cost.stdout):
            sent.there, sent.back = (int(one.replace(",", "")) for one in told.groups())
        _note(report, step, who, cost, sent)


def _targets(report: Report) -> None:
    stored = report.facts["stored_bytes"]
    assert isinstance(stored, dict)
    for step in STEPS:
        ours = report.series(step, "lamina")
        report.target(f"{step}: bytes sent / bytes stored", ours.work_bytes / stored[step], 1.02, at_least=False)
        if step != STEPS[2]:
            report.target(f"{step}: MB of stored data a second", ours.rate, 500, at_least=True)
        for side in ("here", "there"):
            most = max(report.series(f"{step}: memory {side}", "lamina", unit="B").values) / 1e6
            report.target(f"{step}: peak memory {side}, MB", most, 200, at_least=False)
    report.target("one file changed: seconds", report.series(STEPS[2], "lamina").median, 0.5, at_least=False)


if __name__ == "__main__":
    main()
