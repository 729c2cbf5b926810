"""The arguments every benchmark takes, and the checks before hours are spent."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGES = {
    "mksquashfs": "squashfs-tools",
    "squashfuse": "squashfuse",
    "borg": "borgbackup",
    "restic": "restic",
    "fusermount3": "fuse3",
    "mmdebstrap": "mmdebstrap",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "containerd": "containerd",
    "ctr": "containerd",
    "docker-registry": "docker-registry",
}
"""Debian package of each program a benchmark may need."""


def parser(description: str | None, *, images: str = "") -> argparse.ArgumentParser:
    """An argument parser with ``--scratch --runs --out``, and ``--corpus --images`` where default images are given."""
    made = argparse.ArgumentParser(description=description)
    if images:
        made.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="where img-VERSION directories lie")
        made.add_argument("--images", default=images, metavar="V,V", help="versions to use (default: %(default)s)")
    made.add_argument(
        "--scratch", type=Path, required=True, metavar="DIR", help="pools and peers' output, then removed"
    )
    made.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each task (default: %(default)s)")
    made.add_argument("--out", type=Path, metavar="FILE", help="JSON to write (default: results/NAME.json)")
    return made


@dataclass(frozen=True, slots=True)
class Image:
    """One root file system of the corpus."""

    version: str
    path: Path


def images(corpus: Path, versions: str) -> list[Image]:
    """The chosen images, in the order given; a missing one ends the program with a clear line."""
    chosen = [Image(version, corpus / f"img-{version}") for version in versions.split(",") if version]
    for image in chosen:
        if not image.path.is_dir():
            sys.exit(f"{image.path} is not there: build it with python -m benchmarks.corpus {corpus} {image.version}")
    if not chosen:
        sys.exit("--images names no image")
    return chosen


def need(programs: Sequence[str], *, root: bool = False) -> None:
    """End the program unless these can be run; ``root`` where caches are dropped or the kernel mounts."""
    missing = [PACKAGES.get(name, name) for name in programs if shutil.which(name) is None]
    if missing:
        sys.exit(f"missing: run apt-get install {' '.join(missing)}")
    if root and os.geteuid() != 0:
        sys.exit("this benchmark drops caches and mounts: run it as root")


def need_space(path: Path, wanted: int) -> None:
    """End the program where the disk of ``path`` has fewer than ``wanted`` bytes free."""
    free = shutil.disk_usage(path).free
    if free < wanted:
        sys.exit(
            f"{path} has {free / 1e9:.1f} GB free, this needs about {wanted / 1e9:.1f} GB: choose another --scratch"
        )


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A new directory below ``parent``, removed at the end with all that is in it (never through a mount)."""
    parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="lamina-bench.", dir=parent))
    try:
        yield made
    finally:
        remove(made)


def remove(path: Path) -> None:
    """Delete a tree or a file that a benchmark made. A mount left below it ends the program instead."""
    inside = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    if any(point == str(path) or point.startswith(f"{path}/") for point in inside):
        sys.exit(f"something is still mounted below {path}: unmount it, then remove the directory")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
