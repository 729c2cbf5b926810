"""Small trees to import, that share files with each other as images do."""

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A tree on disk; ``data_bytes`` is what its files hold, each hard-linked one once, holes left out."""

    path: Path
    data_bytes: int


Library = tuple[Source, ...]


def blob(seed: int, size: int) -> bytes:
    """Bytes that are the same for the same seed; odd seeds compress, even ones do not."""
    generator = random.Random(seed)
    if seed % 2 == 0:
        return generator.randbytes(size)
    word = generator.randbytes(24).hex().encode()
    return (word * (size // len(word) + 1))[:size]


_BLOBS = [(n, size) for n, size in enumerate((0, 900, 5_000, 7_000, 20_000, 33_000, 60_000, 90_000, 140_000, 260_000))]


def make_library(parent: Path) -> Library:
    """Seven trees: the first is empty, the second alone in the world, the others pick from the same ten files."""
    generator = random.Random(7)
    made = [write_tree(parent / "empty", {}), write_tree(parent / "alone", {"only": blob(1000, 50_000)})]
    for number in range(5):
        chosen = sorted(generator.sample(_BLOBS, 6))
        files = {f"lib/d{at % 2}/f{seed}": blob(seed, size) for at, (seed, size) in enumerate(chosen)}
        files[f"etc/own{number}"] = blob(2000 + number, 3_000)
        made.append(write_tree(parent / f"t{number}", files, links={"lib/again": min(files)}))
    # The first look at a directory sets its access time (relatime), which is imported: two looks, so that it stays.
    for _ in range(2):
        time.sleep(0.02)
        for source in made:
            list(os.walk(source.path))
    return tuple(made)


def write_tree(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Source:
    """Write files below ``path``, hard links and a symbolic link beside them."""
    path.mkdir(parents=True)
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
        os.utime(path / name, ns=(10**18, 10**18 + len(data)))
    for name, target in (links or {}).items():
        os.link(path / target, path / name)
    if files:
        os.symlink("etc/nowhere", path / "link")
    return Source(path, sum(len(data) for data in files.values()))


def many_files(path: Path, count: int, size: int, seed: int) -> Source:
    """``count`` files of ``size`` incompressible bytes each."""
    generator = random.Random(seed)
    return write_tree(path, {f"d{n % 7}/f{n}": generator.randbytes(size) for n in range(count)})
