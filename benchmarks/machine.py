"""Facts about the machine a figure was taken on, without which it means nothing."""

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

_VERSION_FLAGS = {
    "mksquashfs": "-version",
    "squashfuse": "--version",
    "squashfuse_ll": "--version",
    "borg": "--version",
    "restic": "version",
}
_LIBRARIES = ("zstandard", "blake3", "xxhash", "lz4", "pyroaring", "pyfastcdc")


def machine_facts() -> dict[str, object]:
    """CPU model, cores, memory in bytes, kernel and Python."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "python": platform.python_version(),
    }


def program_versions(programs: Sequence[str]) -> dict[str, str]:
    """What each installed program says of its version; lamina and the libraries that do its work always."""
    versions = {name: _program_version(name) for name in programs if shutil.which(name)}
    for library in ("lamina", *_LIBRARIES):
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    versions["lamina-commit"] = _commit()
    return versions


def filesystem_of(path: Path) -> str:
    """Type of the file system that holds ``path``, such as ``ext4``."""
    found = ""
    longest = -1
    target = str(path.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind = line.split()[:3]
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) > longest:
            found, longest = kind, len(point)
    return found


def _program_version(name: str) -> str:
    done = subprocess.run([name, _VERSION_FLAGS.get(name, "--version")], capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


def _commit() -> str:
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
