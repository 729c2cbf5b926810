"""Images as buildah and umoci build them, of many layers with whiteouts: in the pool they are what umoci unpacks."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.oci.programs import need, run, umoci_unpack
from tests.oci.taking import Tank

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="builders work as root here")
STEPS = 8


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tank:
    return Tank(tmp_path, monkeypatch, capsys)


def step(root: Path, number: int) -> None:
    """What one step of a Dockerfile may do: add, replace, remove, link."""
    if number == 0:
        for name in ("etc", "usr/lib", "usr/share/doc", "opt/old/deep"):
            (root / name).mkdir(parents=True)
            (root / name / "file").write_text(name * 40)
        (root / "lib").symlink_to("usr/lib")
        (root / "usr/lib/big.so").write_bytes(os.urandom(300_000))
        os.link(root / "usr/lib/big.so", root / "usr/lib/big.so.1")
    elif number == 1:
        (root / "usr/share/doc/file").unlink()
        (root / "etc/file").write_text("changed")
    elif number == 2:
        subprocess.run(["rm", "-r", root / "opt/old"], check=True)
        (root / "opt/old").write_text("a file where a directory was")
    elif number == 3:
        (root / "opt/old").unlink()
        (root / "opt/old").mkdir()
        (root / "opt/old/new").write_text("and a directory again")
    else:
        (root / f"etc/step{number}").write_text(str(number) * 100)
        os.chmod(root / "usr/lib/big.so", 0o600 + number)
        os.chown(root / "etc/file", number, number)
        if number > 5:
            (root / f"etc/step{number - 1}").unlink()


def compare(tank: Tank, layout: Path, tag: str, place: Path) -> None:
    rootfs = umoci_unpack(layout, tag, place / "bundle")
    tank.take(layout, "tank/i@1")
    assert tank.run("image", "verify", "--against", rootfs, "tank/i@1").status == 0
    config = json.loads(tank.run("image", "inspect", "--config", "--raw", "tank/i@1").out)
    assert len(config["rootfs"]["diff_ids"]) == STEPS
    again = place / "again"
    assert tank.run("image", "export", "-f", "oci-dir", "-o", again, "tank/i@1").status == 0
    ids = [run("skopeo", "inspect", "--config", "--raw", f"oci:{one}") for one in (layout, again)]
    assert ids[0] == ids[1]


def test_buildah(tank: Tank, tmp_path: Path) -> None:
    need("buildah", "umoci", "skopeo")
    store = ["--root", tmp_path / "root", "--runroot", tmp_path / "run", "--storage-driver", "vfs"]
    base = "scratch"
    for number in range(STEPS):
        box = run("buildah", *store, "from", "--pull-never", base).strip()
        step(Path(run("buildah", *store, "mount", box).strip()), number)
        run("buildah", *store, "umount", box)
        base = f"localhost/built:{number}"
        run("buildah", *store, "commit", "--rm", "--quiet", box, base)
    layout = tmp_path / "layout"
    run("buildah", *store, "push", "--quiet", base, f"oci:{layout}:built")
    compare(tank, layout, "built", tmp_path)


def test_umoci(tank: Tank, tmp_path: Path) -> None:
    need("umoci", "skopeo")
    layout = tmp_path / "layout"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:built")
    for number in range(STEPS):
        bundle = tmp_path / f"bundle-{number}"
        root = umoci_unpack(layout, "built", bundle)
        step(root, number)
        run("umoci", "repack", "--image", f"{layout}:built", bundle)
    run("umoci", "gc", "--layout", layout)
    compare(tank, layout, "built", tmp_path)
