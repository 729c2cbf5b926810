"""What chunk sizes and levels would store: unique and compressed bytes of the corpus for a table of settings.

Files above the packing limit are cut and hashed whole; of the distinct chunks, those whose key falls into a sample are
compressed and the sum is scaled up. Nothing is written but the report.
"""

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import zstandard
from blake3 import blake3
from pyfastcdc import FastCDC

from benchmarks import options
from benchmarks.report import Report
from lamina.ingest.content import SMALL
from lamina.store.chunker import BUFFER, chunks_of
from lamina.store.codec import MAX_OBJECT

SAMPLE = 16
"""One chunk in this many is compressed."""


@dataclass(frozen=True)
class Setting:
    """A way to cut: average, least size in bytes, and FastCDC's normalisation."""

    average: int
    least: int
    normalisation: Literal[0, 1, 2, 3] = 1


SETTINGS = [
    Setting(64 << 10, 32 << 10),
    Setting(128 << 10, 32 << 10),
    Setting(128 << 10, 64 << 10),
    Setting(128 << 10, 64 << 10, 2),
    Setting(256 << 10, 128 << 10),
    Setting(512 << 10, 128 << 10),
]


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__, images="2.4.1,2.5.1,2.6.0,2.7.1,2.8.0")
    parser.add_argument("--levels", default="3,6,9", metavar="N,N", help="zstd levels (default: 3,6,9)")
    arguments = parser.parse_args()
    levels = [int(level) for level in arguments.levels.split(",")]
    chosen = options.images(arguments.corpus, arguments.images)
    with Report("chunking", {"images": [image.version for image in chosen]}, [], out=arguments.out) as report:
        rows: list[dict[str, object]] = []
        for setting in SETTINGS:
            row = {**asdict(setting), **measure(setting, [image.path for image in chosen], levels)}
            rows.append(row)
            print(row, flush=True)
            report.facts["settings"] = rows


def measure(setting: Setting, images: list[Path], levels: list[int]) -> dict[str, object]:
    """Unique bytes, chunks, and stored bytes by level."""
    chunker = FastCDC(
        setting.average,
        min_size=setting.least,
        max_size=min(setting.average * 8, MAX_OBJECT),
        normalized_chunking=setting.normalisation,
        seed=0,
    )
    compressors = {level: zstandard.ZstdCompressor(level=level) for level in levels}
    buffer = bytearray(BUFFER)
    seen: set[bytes] = set()
    unique = 0
    sampled = 0
    stored = dict.fromkeys(levels, 0)
    began = time.process_time()
    for image in images:
        for path in _files(image):
            with open(path, "rb", buffering=0) as file:
                for chunks in chunks_of(file.readinto, chunker, buffer):
                    for _, view in chunks:
                        key = blake3(view).digest()[:16]
                        if key in seen:
                            continue
                        seen.add(key)
                        unique += len(view)
                        if key[0] % SAMPLE == 0:
                            sampled += len(view)
                            for level, compressor in compressors.items():
                                stored[level] += min(len(compressor.compress(view)), len(view))
    scale = unique / max(sampled, 1)
    return {
        "unique_bytes": unique,
        "chunks": len(seen),
        **{f"zstd_{level}_bytes": round(size * scale) for level, size in stored.items()},
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def _files(root: Path) -> Iterator[str]:
    seen: set[int] = set()
    for directory, _, names in os.walk(root):
        for name in sorted(names):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size > SMALL and status.st_ino not in seen:
                seen.add(status.st_ino)
                yield path


if __name__ == "__main__":
    main()
