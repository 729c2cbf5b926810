"""The things compared: lamina through its command line, and its peers with the flags the comparison names."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Cost, run
from benchmarks.options import remove

SQUASHFS_FLAGS = ("-comp", "zstd", "-Xcompression-level", "3", "-b", "131072", "-no-progress", "-quiet", "-noappend")
SOURCE = Path(__file__).resolve().parent.parent / "src"


def lamina_command() -> list[str]:
    """The words that start lamina: the program beside this Python, the one on the PATH, or the source tree."""
    beside = Path(sys.executable).with_name("lamina")
    if beside.exists():
        return [str(beside)]
    if found := shutil.which("lamina"):
        return [found]
    start = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from lamina.cli import main; sys.exit(main())"
    return [sys.executable, "-c", start]


class LaminaPool:
    """A pool driven through the command line, as a user would; known to nobody else on the machine."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self._known = path.with_name(path.name + ".known")
        self._lamina = lamina_command()

    def create(self) -> None:
        """Make the pool with its default properties."""
        self.call("pool", "create", self.name, self.path)

    def call(self, *words: str | Path) -> Cost:
        """Run ``lamina WORDS`` and measure it."""
        return run([*self._lamina, *words], env={"LAMINA_POOLS": str(self._known)})

    def delete(self) -> None:
        """Remove the pool with all that is in it."""
        remove(self.path)
        remove(self._known)

    def take_in(self, source: Path, dataset: str, tag: str) -> Cost:
        """Import ``source`` as ``POOL/dataset@tag``; standard output is the JSON summary."""
        return self.call("image", "import", "--json", source, f"{self.name}/{dataset}@{tag}")

    @contextmanager
    def mounted(self, snapshot: str, at: Path) -> Iterator[Cost]:
        """``POOL/snapshot`` at the directory ``at``; yields what mounting cost."""
        at.mkdir(parents=True, exist_ok=True)
        cost = self.call("mount", f"{self.name}/{snapshot}", at)
        try:
            yield cost
        finally:
            self.call("umount", at)


def squash(sources: Sequence[Path], out: Path) -> Cost:
    """One squashfs of all ``sources`` at zstd-3, 128 KiB blocks, on every processor (its default)."""
    out.unlink(missing_ok=True)
    return run(["mksquashfs", *sources, out, *SQUASHFS_FLAGS])


@contextmanager
def squashfs_in_kernel(image: Path, at: Path) -> Iterator[None]:
    """The squashfs ``image`` loop-mounted by the kernel."""
    at.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", "squashfs", "-o", "loop,ro", image, at])
    try:
        yield
    finally:
        run(["umount", at])


@contextmanager
def squashfuse(image: Path, at: Path, *, program: str = "squashfuse") -> Iterator[None]:
    """The squashfs ``image`` served in user space by ``squashfuse`` or ``squashfuse_ll``."""
    at.mkdir(parents=True, exist_ok=True)
    run([program, image, at])
    try:
        yield
    finally:
        run(["umount", at])


class BorgRepository:
    """A borg repository without encryption, its cache and keys kept beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._env = {
            "BORG_BASE_DIR": str(path.with_name(path.name + ".home")),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }

    def create(self) -> None:
        """``borg init -e none``."""
        run(["borg", "init", "-e", "none", self.path], env=self._env)

    def take_in(self, source: Path, name: str) -> Cost:
        """``borg create -C zstd,3`` of the whole of ``source``."""
        return run(["borg", "create", "-C", "zstd,3", f"{self.path}::{name}", "."], env=self._env, cwd=source)

    def verify(self) -> Cost:
        """``borg check --verify-data``: all data decrypted, decompressed and hashed again."""
        return run(["borg", "check", "--verify-data", self.path], env=self._env)


class ResticRepository:
    """A restic repository of format 2, which compresses; its cache and password kept beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._env = {
            "RESTIC_REPOSITORY": str(path),
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(path.with_name(path.name + ".cache")),
        }

    def create(self) -> None:
        """``restic init``."""
        run(["restic", "init", "--repository-version", "2"], env=self._env)

    def take_in(self, source: Path, name: str) -> Cost:
        """``restic backup`` of the whole of ``source``, compressed as restic does by itself."""
        return run(["restic", "backup", "--quiet", "--tag", name, "."], env=self._env, cwd=source)

    def verify(self) -> Cost:
        """``restic check --read-data``: all packs read, decrypted, decompressed and hashed again."""
        return run(["restic", "check", "--read-data"], env=self._env)
