"""Real mounts of in-memory trees. Without a usable /dev/fuse these tests are skipped."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.mount import mounts, umount
from lamina.mount.control import check_mountpoint
from lamina.mount.daemon import MountJob
from lamina.mount.options import parse_options
from tests.mount.fake import FakePool, FakeTree, write_names

Mounter = Callable[..., Path]


def fuse_missing() -> str | None:
    """Why no file system can be mounted here, or None."""
    if os.geteuid() != 0:
        return "mounting needs root here"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    return None


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "mount.log"


@pytest.fixture
def mounter(tmp_path: Path, log_path: Path) -> Iterator[Mounter]:
    """``mounter(trees, name, names=…, options=…, whole_pool=…)`` mounts and returns the mount point."""
    reason = fuse_missing()
    if reason is not None:
        pytest.skip(reason)
    made: list[Path] = []

    def mount_it(
        trees: dict[str, FakeTree] | FakeTree,
        name: str = "tank/x@s",
        *,
        names: dict[str, tuple[str, int]] | None = None,
        options: list[str] | None = None,
        whole_pool: bool = False,
        properties: dict[str, object] | None = None,
    ) -> Path:
        listed = tmp_path / "names.json"
        write_names(
            listed, names or {"tank": ("filesystem", 1), "tank/x": ("filesystem", 2), "tank/x@s": ("snapshot", 3)}
        )
        where = tmp_path / f"mnt{len(made)}"
        where.mkdir(exist_ok=True)
        pool = FakePool(listed, {"*": trees} if isinstance(trees, FakeTree) else trees, properties)
        job = MountJob(
            lambda: pool,
            name,
            check_mountpoint(name, str(where)),
            parse_options(options or [], root=True),
            whole_pool=whole_pool,
            log_path=log_path,
        )
        job.run_detached()
        made.append(where)
        return where

    yield mount_it
    for where in made:
        if any(m.mountpoint == str(where) for m in mounts()):
            umount(where, force=True)
    assert not [m for m in mounts() if m.mountpoint.startswith(str(tmp_path))]
