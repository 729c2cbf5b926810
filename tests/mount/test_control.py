"""Mounting, unmounting, listing: what is refused and in which words; users who are not root."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import lamina.errors
from lamina.errors import Busy, LaminaError, MountError, NotFound, UsageError
from lamina.mount import mounts, umount
from lamina.mount.control import check_mountpoint, find_mount
from lamina.mount.daemon import MountJob
from lamina.mount.mountinfo import parse_mountinfo
from lamina.mount.options import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, parse_options
from tests.mount.conftest import Mounter, fuse_missing
from tests.mount.fake import FakePool, FakeTree, write_names

ROOT = Path(__file__).resolve().parents[2]


def simple() -> FakeTree:
    tree = FakeTree()
    tree.file(1, b"f", b"hello")
    return tree


def test_listing(mounter: Mounter) -> None:
    root = mounter(simple(), options=["noexec"])
    (mount,) = [m for m in mounts() if m.mountpoint == str(root)]
    assert mount.source == "tank/x@s"
    assert {"ro", "noexec", "allow_other", "default_permissions"} <= set(mount.options.split(","))
    assert mount.pid is not None and Path(f"/proc/{mount.pid}/comm").read_text() == "lamina-mount\n"
    umount("tank/x@s")
    assert not [m for m in mounts() if m.mountpoint == str(root)]


def test_octal_escapes() -> None:
    line = b"40 1 0:52 / /mnt/a\\040b\\134c\\011d rw,nodev shared:1 - fuse.lamina tank/with\\040space ro,user_id=0\n"
    other = b"41 1 0:53 / /mnt/fuse.lamina rw - ext4 /dev/sda rw\n42 1 0:54 / /x rw - fuse.laminar t rw\nshort\n"
    (mount,) = parse_mountinfo(other + line)
    assert (mount.source, mount.mountpoint, mount.device) == ("tank/with space", "/mnt/a b\\c\td", "0:52")
    assert mount.options == "rw,nodev,user_id=0"


def test_mount_point_with_odd_name(mounter: Mounter, tmp_path: Path) -> None:
    where = tmp_path / "a b\\c\n\u00e9"
    where.mkdir()
    (tmp_path / "mnt0").symlink_to(where)
    mounter(simple())
    assert (where / "f").read_bytes() == b"hello"
    umount(tmp_path / "mnt0")
    assert not (where / "f").exists()


@pytest.mark.parametrize(("make", "message"), [(False, "no such directory"), (True, "not a directory")])
def test_bad_mount_point(tmp_path: Path, make: bool, message: str) -> None:
    where = tmp_path / "x"
    if make:
        where.touch()
    with pytest.raises(MountError, match=f"cannot mount '{where}': {message}"):
        check_mountpoint("tank/x", str(where))


def test_mounted_twice(mounter: Mounter) -> None:
    root = mounter(simple())
    with pytest.raises(MountError, match=r"cannot mount 'tank/x@s': filesystem already mounted"):
        check_mountpoint("tank/x@s", str(root))
    mounter(simple())  # elsewhere is fine
    with pytest.raises(MountError, match=r"mounted on .*; name one of these"):
        find_mount("tank/x@s")


def test_nothing_mounted(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot unmount 'tank/none': not currently mounted"):
        umount("tank/none")
    with pytest.raises(NotFound, match="not currently mounted"):
        umount(tmp_path)


def test_busy(mounter: Mounter) -> None:
    root = mounter(simple())
    held = os.open(root / "f", os.O_RDONLY)
    with pytest.raises(Busy, match=r"cannot unmount '.*': pool or dataset is busy"):
        umount(root)
    assert os.read(held, 10) == b"hello"
    umount(root, lazy=True)
    assert os.pread(held, 10, 0) == b"hello"
    os.close(held)


def test_force(mounter: Mounter) -> None:
    root = mounter(simple())
    held = os.open(root, os.O_RDONLY)
    umount(root, force=True)
    with pytest.raises(OSError) as caught:
        os.listdir(held)
    assert caught.value.errno == errno.ENOTCONN
    os.close(held)


def test_errors_of_the_daemon_reach_the_caller(mounter: Mounter, tmp_path: Path) -> None:
    mounter(simple())
    with pytest.raises(NotFound, match="cannot open 'tank/none': dataset does not exist"):
        mounter(simple(), "tank/none")
    with pytest.raises(NotFound, match="cannot open 'tank/x@none': dataset does not exist"):
        mounter(simple(), "tank/x@none")

    def broken() -> FakePool:
        raise RuntimeError("a bug")

    (tmp_path / "m").mkdir()
    options = parse_options([], root=True)
    with pytest.raises(MountError, match="RuntimeError: a bug"):
        MountJob(broken, "tank/x@s", str(tmp_path / "m"), options).run_detached()
    (tmp_path / "file").touch()
    job = MountJob(
        lambda: FakePool(tmp_path / "names.json", {"*": simple()}),
        "tank/x@s",
        str(tmp_path / "m"),
        options,
        log_path=tmp_path / "file" / "log",
    )
    with pytest.raises(MountError, match="cannot open log file"):
        job.run_detached()


def test_every_error_class_crosses_the_pipe(tmp_path: Path) -> None:
    for name in dir(lamina.errors):
        kind = getattr(lamina.errors, name)
        if isinstance(kind, type) and issubclass(kind, LaminaError):

            def fail(kind: type[LaminaError] = kind) -> FakePool:
                raise kind("why: \u00e9")

            with pytest.raises(kind, match="why: é"):
                MountJob(fail, "t", str(tmp_path), parse_options([], root=True)).run_detached()


def test_options() -> None:
    root = parse_options([], root=True)
    assert root.flags == MS_RDONLY and root.allow_other
    user = parse_options(["allow_other,noexec"], root=False)
    assert user.flags == MS_RDONLY | MS_NOEXEC and user.allow_other
    assert not parse_options([], root=False).allow_other
    mixed = parse_options(["nosuid,nodev", "suid", "x-anything=1,,ro"], root=True)
    assert mixed.flags == MS_RDONLY | MS_NODEV and mixed.flags & MS_NOSUID == 0
    assert not parse_options(["noallow_other"], root=True).allow_other
    assert parse_options(["cache_mb=8", "read_ahead_kb=0"], root=True).cache_mib == 8


@pytest.mark.parametrize("word", ["bogus", "rw", "cache_mb=", "cache_mb=0", "cache_mb=x", "fd=3", "bad\x1b[0m"])
def test_bad_options(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(["nosuid", word], root=True)
    assert caught.value.exit_status == 2 and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("word", ["suid", "dev"])
def test_options_for_root_only(word: str) -> None:
    with pytest.raises(UsageError, match="for root only"):
        parse_options([word], root=False)


SERVE = """
import sys
sys.path[:0] = [{src!r}, {root!r}]
from pathlib import Path
from lamina.errors import LaminaError
from lamina.mount.control import check_mountpoint
from lamina.mount.daemon import MountJob
from lamina.mount.options import parse_options
from tests.mount.fake import FakePool, FakeTree
import os
tree = FakeTree()
tree.file(1, b"f", b"hello", uid=os.getuid())
names, where, options = sys.argv[1:4]
try:
    job = MountJob(
        lambda: FakePool(Path(names), {{"*": tree}}),
        "tank/x@s",
        check_mountpoint("tank/x@s", where),
        parse_options([options], root=os.geteuid() == 0),
        log_path=Path(sys.argv[4]),
    )
    job.run() if sys.argv[5] == "foreground" else job.run_detached()
except LaminaError as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""


def serve_script() -> str:
    return SERVE.format(src=str(ROOT / "src"), root=str(ROOT))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground(tmp_path: Path, number: signal.Signals) -> None:
    reason = fuse_missing()
    if reason:
        pytest.skip(reason)
    write_names(tmp_path / "names", {"tank/x@s": ("snapshot", 3)})
    where = tmp_path / "m"
    where.mkdir()
    command = [sys.executable, "-c", serve_script(), tmp_path / "names", where, "", tmp_path / "log", "foreground"]
    server = subprocess.Popen(command)
    until = time.monotonic() + 10
    while not (where / "f").exists():
        assert time.monotonic() < until and server.poll() is None
        time.sleep(0.02)
    (mount,) = [m for m in mounts() if m.mountpoint == str(where)]
    assert mount.pid == server.pid
    server.send_signal(number)
    assert server.wait(10) == 0
    assert not (where / "f").exists()


UNPRIVILEGED = """
set -e
mount --make-rprivate /
mknod -m 666 {dir}/fuse c 10 229
mount --bind {dir}/fuse /dev/fuse
mount --bind {prefix} {dir}/python
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all {dir}/python/{python} {script}
"""


def test_user_who_is_not_root(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Through fusermount3, in a mount namespace of its own where /dev/fuse is open to everybody."""
    reason = fuse_missing()
    if reason:
        pytest.skip(reason)
    import shutil
    import tempfile

    if not shutil.which("fusermount3") or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("needs fusermount3, setpriv and unshare")
    base = Path(tempfile.mkdtemp(prefix="lamina-user-"))
    try:
        base.chmod(0o755)
        # The interpreter may lie where others cannot reach it.
        (base / "python").mkdir()
        python = Path(os.path.realpath(sys.executable)).relative_to(os.path.realpath(sys.base_prefix))
        home = base / "home"
        home.mkdir()
        os.chown(home, 65534, 65534)
        write_names(base / "names", {"tank/x@s": ("snapshot", 3)})
        for child in (ROOT / "src/lamina", ROOT / "tests/mount"):
            shutil.copytree(child, base / child.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
        (base / "serve.py").write_text(SERVE.format(src=str(base / "src"), root=str(base)))
        (base / "test.py").write_text(
            textwrap.dedent(f"""
            import os, subprocess, sys
            sys.path[:0] = [{str(base / "src")!r}]
            os.environ["HOME"] = {str(home)!r}
            os.environ.pop("XDG_RUNTIME_DIR", None)
            from lamina.mount import mounts, umount
            where = {str(home / "m")!r}
            os.mkdir(where)
            def serve(options, place=where):
                subprocess.run([sys.executable, {str(base / "serve.py")!r}, {str(base / "names")!r}, place, options,
                    {str(home / "log")!r}, "detached"], check=True)
            serve("suid")
            serve("allow_other")
            serve("", "/usr")
            serve("noexec")
            def here(): return [mount for mount in mounts() if mount.mountpoint == where]
            (mount,) = here()
            words = mount.options.split(",")
            print(mount.source, mount.mountpoint == where, mount.pid is not None)
            print([w for w in ("ro", "nosuid", "nodev", "noexec") if w not in words])
            print(open(where + "/f").read(), os.stat(where + "/f").st_uid)
            held = open(where + "/f")
            try: umount(where)
            except Exception as error: print(type(error).__name__)
            held.close()
            umount(where)
            print(here())
        """)
        )
        script = UNPRIVILEGED.format(dir=base, prefix=sys.base_prefix, python=python, script=base / "test.py")
        done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60)
        lines = done.stdout.splitlines()
        assert done.returncode == 0, done.stdout + done.stderr
        assert lines[0] == "UsageError: option 'suid' is for root only: mount as root, or leave it out"
        if lines[1].startswith("MountError"):  # the usual /etc/fuse.conf refuses allow_other
            assert "user_allow_other" in lines[1]
        assert lines[2].startswith("MountError: cannot mount 'tank/x@s' on '/usr': ")
        assert lines[3:] == ["tank/x@s True True", "[]", "hello 65534", "Busy", "[]"]
    finally:
        shutil.rmtree(base)


def children_of_this_process() -> set[str]:
    """Process numbers, those that ended and were not waited for included (proc(5))."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        found.update((task / "children").read_text().split())
    return found


def test_mounting_leaves_nothing_behind_in_the_caller(mounter: Mounter) -> None:
    before, children = set(os.listdir("/proc/self/fd")), children_of_this_process()
    threads = threading.active_count()
    mounter(simple())
    assert set(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() <= threads
    assert children_of_this_process() <= children  # those of other tests may end meanwhile
