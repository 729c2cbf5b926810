"""Builds the images that everything is measured on: real PyTorch-CUDA root file systems, one directory each.

Each is Debian 12 with Python 3.11, PyTorch and its CUDA libraries, torchvision, JupyterLab and pandas: 5.6 to 7.1 GB,
42,000 files. All five take 31 GB. Needs root, mmdebstrap and pip. What is already built is kept, so an interrupted
build goes on where it stopped.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import options

TORCHVISION = {"2.4.1": "0.19.1", "2.5.1": "0.20.1", "2.6.0": "0.21.0", "2.7.1": "0.22.1", "2.8.0": "0.23.0"}
"""The torchvision release that goes with each torch release of the corpus."""

DEBIAN_SUITE = "bookworm"
DEBIAN_PACKAGES = (
    "python3",
    "python3-pip",
    "python3-venv",
    "ca-certificates",
    "openssh-server",
    "git",
    "curl",
    "locales",
)
PYTHON_PACKAGES = ("jupyterlab==4.4.*", "pandas==2.2.3")
# pip takes wheels of exactly the platforms named, so every baseline a wheel may be built for is.
PLATFORMS = (
    *(f"manylinux_{glibc}_x86_64" for glibc in ("2_28", "2_27", "2_24", "2_17", "2_12", "2_5")),
    *(f"manylinux{year}_x86_64" for year in ("2014", "2010", "1")),
)
IMAGE_BYTES = 7_500_000_000


def main() -> None:
    """Parse the arguments and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, metavar="DIR", help="where img-VERSION directories are made")
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=f"torch versions ({' '.join(TORCHVISION)})")
    arguments = parser.parse_args()
    versions = arguments.versions or list(TORCHVISION)
    if unknown := [version for version in versions if version not in TORCHVISION]:
        parser.error(f"no such version: {' '.join(unknown)}; known are {' '.join(TORCHVISION)}")
    wanted = [version for version in versions if not (arguments.corpus / f"img-{version}").is_dir()]
    if not wanted:
        print(f"{arguments.corpus}: all there")
        return
    if os.geteuid() != 0:
        sys.exit("building root file systems needs root")
    options.need(["mmdebstrap"])
    arguments.corpus.mkdir(parents=True, exist_ok=True)
    options.need_space(arguments.corpus, IMAGE_BYTES * len(wanted))
    base = _base(arguments.corpus)
    for version in wanted:
        _image(arguments.corpus, base, version)


def _base(corpus: Path) -> Path:
    """The Debian system that every image starts from."""
    base = corpus / "base"
    if not base.is_dir():
        part = _fresh(corpus / "base.part")
        print("building the Debian base", flush=True)
        include = f"--include={','.join(DEBIAN_PACKAGES)}"
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", include, DEBIAN_SUITE, str(part)], check=True)
        part.rename(base)
    return base


def _image(corpus: Path, base: Path, version: str) -> None:
    image = corpus / f"img-{version}"
    part = _fresh(corpus / f"img-{version}.part")
    print(f"building {image}", flush=True)
    subprocess.run(["cp", "-a", str(base), str(part)], check=True)
    site = part / "usr/local/lib/python3.11/dist-packages"
    site.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    target = ["--no-cache-dir", "--only-binary=:all:", "--python-version", "311", "--target", str(site)]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    torch = [f"torch=={version}", f"torchvision=={TORCHVISION[version]}"]
    subprocess.run([*pip, *target, *platforms, *torch, *PYTHON_PACKAGES], check=True)
    part.rename(image)


def _fresh(part: Path) -> Path:
    if part.exists():
        options.remove(part)
    return part


if __name__ == "__main__":
    main()
