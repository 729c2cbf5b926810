"""Programs that unpack images, run on layouts and archives in a directory of the test's own."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


def need(*programs: str) -> None:
    """Skip the test where a program is not installed, or the user is not root."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    if os.geteuid() != 0:
        pytest.skip("needs root")


def run(*command: str | Path) -> str:
    """Run a program; its output. Fails the test with what it said where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}{done.stdout}"
    return done.stdout


def umoci_unpack(layout: Path, tag: str, bundle: Path) -> Path:
    """The root file system of an image of an OCI layout, as umoci makes it."""
    run("umoci", "unpack", "--image", f"{layout}:{tag}", bundle)
    return bundle / "rootfs"


class Containerd:
    """A containerd of the test's own, with the native snapshotter: plain directories, no overlays."""

    def __init__(self, directory: Path, socket: Path) -> None:
        self._directory = directory
        self._socket = socket
        self._count = 0

    def ctr(self, *words: str | Path) -> str:
        """Run ``ctr`` on it."""
        return run("ctr", "--address", self._socket, "--namespace", "tests", *words)

    def load(self, archive: Path, base: str = "example.org/image") -> list[str]:
        """Import and unpack the images of an archive; their names."""
        before = set(self.names())
        self.ctr("images", "import", "--snapshotter", "native", "--base-name", base, archive)
        return sorted(set(self.names()) - before)

    def names(self) -> list[str]:
        return self.ctr("images", "list", "-q").split()

    def unpacked(self, diff_ids: Sequence[str]) -> Path:
        """The root file system of layers that were loaded, to be read only."""
        chain = diff_ids[0]
        for diff_id in diff_ids[1:]:
            chain = "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
        self._count += 1
        view = f"view-{self._count}"
        self.ctr("snapshots", "--snapshotter", "native", "view", view, chain)
        words = self.ctr("snapshots", "--snapshotter", "native", "mounts", "TARGET", view).split()
        # "mount -t bind SOURCE TARGET -o ro,rbind": the source is the directory itself.
        return Path(words[words.index("TARGET") - 1])


_NO_SWEEPS = (
    '[plugins."io.containerd.gc.v1.scheduler"]\nmutation_threshold = 1000000\nschedule_delay = "1h"\n'
    'startup_delay = "1h"\n'
)
"""Views have no lease: they must not be swept while somebody looks at them."""


@contextlib.contextmanager
def containerd(directory: Path, *, sweeps: bool = False) -> Iterator[Containerd]:
    """Run a containerd on a socket in ``directory``, a short path. ``sweeps``: it collects what nothing names."""
    directory.mkdir(parents=True, exist_ok=True)
    socket = directory / "c.sock"
    config = directory / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", '
        '"io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", '
        '"io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.overlayfs", '
        '"io.containerd.internal.v1.opt"]\n'
        f'[grpc]\naddress = "{socket}"\n[ttrpc]\naddress = "{socket}.ttrpc"\n' + ("" if sweeps else _NO_SWEEPS)
    )
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(["containerd", "--config", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(["ctr", "--address", str(socket), "version"], capture_output=True, check=False).returncode:
            assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.1)
        yield Containerd(directory, socket)
    finally:
        process.terminate()
        process.wait()
