"""How fast an image reads from its mount: lamina, squashfuse and squashfs in the kernel in turn, and ext4 where named.

- sequential: ``dd`` of the image's largest file, cold
- walk: ``tar`` of everything into a pipe, cold
- import torch: ``chroot MOUNT python3 -c 'import torch'``, cold, then warm, next to the directory itself

For a cold run the file system is mounted anew and the kernel's caches are dropped. The import runs twice over: as the
image is (no byte code in it, so Python compiles, which hides the file system), and with byte code at hand in a tmpfs
(which does not).
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import LaminaPool, squash, squashfs_in_kernel, squashfuse
from benchmarks.measure import READ_ALL, Cost, data_bytes, drop_caches, run
from benchmarks.options import Image
from benchmarks.report import Report

CODE = "import torch; print(torch.__version__)"
# $1 the root, $2 a tmpfs with byte code or "", $3 the Python code. In a mount namespace of its own, so nothing is left
# mounted on the image; -B with no prefix, so nothing is ever written to it.
IN_IMAGE = """
if [ -n "$2" ]; then
  mount --bind "$2" "$1/mnt"
  exec chroot "$1" env PYTHONPYCACHEPREFIX=/mnt python3 -c "$3"
fi
exec chroot "$1" python3 -B -c "$3"
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the contestants' mounts of one image come from."""

    image: Image
    pool: LaminaPool
    snapshot: str
    packed: Path
    mount_point: Path

    def mount(self, who: str) -> AbstractContextManager[object]:
        """A fresh mount by one contestant."""
        at = self.mount_point
        match who:
            case "lamina":
                return self.pool.mounted(self.snapshot, at)
            case "squashfs":
                return squashfs_in_kernel(self.packed, at)
            case "squashfuse" | "squashfuse_ll":
                return squashfuse(self.packed, at, program=who)
            case "ext4":
                return nullcontext()
        raise ValueError(f"no such contestant: {who}")

    def root(self, who: str) -> Path:
        """Directory that holds the image's files for a contestant."""
        return self.image.path if who == "ext4" else self.mount_point


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__, images="2.8.0,2.7.1")
    tasks = "sequential,walk,torch"
    parser.add_argument("--tasks", default=tasks, metavar="T,T", help="what to measure (default: %(default)s)")
    parser.add_argument("--code", default=CODE, help="Python for the torch task (default: %(default)s)")
    arguments = parser.parse_args()
    todo = set(arguments.tasks.split(","))
    if unknown := todo - set(tasks.split(",")):
        parser.error(f"no such task: {', '.join(sorted(unknown))}")
    options.need(["mksquashfs", "squashfuse"], root=True)
    chosen = options.images(arguments.corpus, arguments.images)

    named = {"images": [image.version for image in chosen], "runs": arguments.runs, "tasks": sorted(todo)}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("read", named, ["mksquashfs", "squashfuse"], out=arguments.out) as report,
    ):
        for image in chosen:
            options.need_space(scratch, data_bytes(image.path))
            with _stage(image, scratch) as stage:
                if "sequential" in todo:
                    _sequential(report, stage, arguments.runs)
                if "walk" in todo:
                    _walk(report, stage, arguments.runs)
                if "torch" in todo:
                    _torch(report, stage, arguments.runs, arguments.code, scratch)


@contextmanager
def _stage(image: Image, scratch: Path) -> Iterator[Stage]:
    pool = LaminaPool("benchread", scratch / "pool")
    pool.create()
    pool.take_in(image.path, "images/pytorch", image.version)
    packed = scratch / "image.squashfs"
    squash([image.path], packed)
    yield Stage(image, pool, f"images/pytorch@{image.version}", packed, scratch / "mnt")
    options.remove(packed)
    pool.delete()


def _sequential(report: Report, stage: Stage, runs: int) -> None:
    largest = _largest_file(stage.image.path)
    size = os.path.getsize(largest)
    inside = largest.relative_to(stage.image.path)
    task = f"sequential {stage.image.version}"
    report.facts[task] = {"file": str(inside), "bytes": size}
    for _ in range(runs):
        for who in ("lamina", "squashfuse", "squashfuse_ll", "squashfs"):
            with stage.mount(who):
                _cold()
                cost = run(["dd", f"if={stage.root(who) / inside}", "of=/dev/null", "bs=1M", "status=none"])
                _add(report, task, who, cost, size)
    for who, limit in (("squashfuse", 1.5), ("squashfuse_ll", 1.5), ("squashfs", 1.0)):
        _faster(report, task, who, limit)


def _walk(report: Report, stage: Stage, runs: int) -> None:
    task = f"walk {stage.image.version}"
    size = data_bytes(stage.image.path)
    archives: dict[str, int] = {}
    for _ in range(runs):
        for who in ("lamina", "squashfs", "squashfuse_ll", "ext4"):
            with stage.mount(who):
                _cold()
                cost = run(["sh", "-c", READ_ALL, "sh", stage.root(who)])
                archives[who] = int(cost.stdout)
                _add(report, task, who, cost, size)
    if len(set(archives.values())) > 1:
        report.note(f"{task}: the archives differ in size, so the trees may: {archives}")
    _faster(report, task, "squashfs", 1.0)


def _torch(report: Report, stage: Stage, runs: int, code: str, scratch: Path) -> None:
    version = stage.image.version
    with _byte_code(stage, code, scratch) as byte_code:
        for label, prefix in (("as it is", ""), ("byte code at hand", str(byte_code))):
            cold, warm = f"import torch cold {version}, {label}", f"import torch warm {version}, {label}"
            for _ in range(runs):
                for who in ("lamina", "ext4", "squashfs"):
                    with stage.mount(who):
                        _cold()
                        if prefix:  # it stands for a part of the image that both have: never cold
                            subprocess.run(
                                ["sh", "-c", 'cat $(find "$1" -type f) >/dev/null', "sh", prefix], check=True
                            )
                        _add(report, cold, who, _in_image(stage, who, prefix, code))
                        _add(report, warm, who, _in_image(stage, who, prefix, code))
            for task, limit in ((cold, 1.25), (warm, 1.05)):
                ours, peer = report.series(task, "lamina"), report.series(task, "ext4")
                report.target(f"{task}: seconds / ext4's", ours.median / peer.median, limit, at_least=False)


@contextmanager
def _byte_code(stage: Stage, code: str, scratch: Path) -> Iterator[Path]:
    """A tmpfs that holds the byte code of everything ``code`` imports."""
    at = scratch / "pycache"
    at.mkdir()
    run(["mount", "-t", "tmpfs", "tmpfs", at])
    try:
        _in_image(stage, "ext4", str(at), code)
        yield at
    finally:
        run(["umount", at])
        at.rmdir()


def _in_image(stage: Stage, who: str, prefix: str, code: str) -> Cost:
    return run(["unshare", "--mount", "sh", "-e", "-c", IN_IMAGE, "sh", stage.root(who), prefix, code])


def _cold() -> None:
    """Nothing in the caches but the programs that do the reading: they are no part of what is measured."""
    drop_caches()
    run(["unshare", "--mount", "sh", "-c", "chroot / true; dd --version; tar --version; wc --version"])


def _add(report: Report, task: str, who: str, cost: Cost, size: int = 0) -> None:
    report.series(task, who, work_bytes=size).add(cost)
    rate = f", {size / 1e6 / cost.seconds:.0f} MB/s" if size else ""
    print(f"{task}, {who}: {cost.seconds:.2f} s{rate}", flush=True)


def _faster(report: Report, task: str, who: str, limit: float) -> None:
    ours, peer = report.series(task, "lamina"), report.series(task, who)
    report.target(f"{task}: rate / {who}'s", peer.median / ours.median, limit, at_least=True)


def _largest_file(root: Path) -> Path:
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return max(
        (path for path in found if not path.is_symlink() and path.is_file()), key=lambda path: path.stat().st_size
    )


if __name__ == "__main__":
    main()
