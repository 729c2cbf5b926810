"""What lamina makes of layers is what umoci and containerd make of the same layout.

Where the two do not agree with each other, lamina follows containerd, but for these, each with its reason:

* The root's own member: lamina applies it, as umoci and Docker do; containerd leaves the root as it was.
* Extended attributes of a directory over a directory: the new ones alone, as with umoci, and with containerd's default
  snapshotter (overlayfs); its native one merges them.
* A whiteout of what its own layer has: it hides what is below only, as the specification says and umoci does;
  containerd lets the order decide.
* Names with ``..``, absolute names, links that climb above the root: refused; both clean them.
* Times of directories that a layer changes without saying so: as they were, as with umoci; the time of unpacking with
  containerd.

And containerd is followed, where umoci does otherwise: a hard link's header changes the file; the directories that a
whiteout stands in are made; global headers are passed over.
"""

import io
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from lamina.pool import Pool
from lamina.pool.importing.layered import LayeredImport
from lamina.pool.reports import Difference
from tests.ingest.archives import END, header, member, pax
from tests.ingest.layers import STACKS, LayerTar, Op, Oracle, Refused, is_below, split
from tests.oci.building import (
    BuiltImage,
    device,
    digest_of,
    directory,
    fifo,
    file,
    hard_link,
    layer,
    layout_archive,
    opaque,
    symlink,
    whiteout,
    write_layout,
    xattr,
)
from tests.oci.programs import Containerd, containerd, need, umoci_unpack

BASE = layer(
    directory("etc"),
    file("etc/passwd", b"root:x:0:0\n", mode=0o600, uid=5, gid=6),
    directory("usr"),
    directory("usr/lib", mode=0o2755, gid=9),
    file("usr/lib/large.so", bytes(range(256)) * 3000, mode=0o755),
    hard_link("usr/lib/linked.so", "usr/lib/large.so", mode=0o755),
    symlink("lib", "usr/lib"),
    symlink("abs", "/usr/lib"),
    directory("tmp", mode=0o1777),
    file("setuid", b"x", mode=0o4755),
    directory("opt"),
    file("opt/one", b"1"),
    directory("opt/sub"),
    file("opt/sub/two", b"2"),
)

STACKS_BY_NAME: dict[str, list[bytes]] = {
    "one layer": [BASE],
    "files over files": [BASE, layer(file("etc/passwd", b"other", mode=0o644), file("opt/sub/two", b"22"))],
    "whiteouts": [BASE, layer(whiteout("etc/passwd"), whiteout("opt"), whiteout("lib"), whiteout("never/was/there"))],
    "whiteout and again": [BASE, layer(whiteout("opt"), directory("opt", mode=0o700), file("opt/three", b"3"))],
    "opaque": [BASE, layer(directory("opt", mode=0o711), opaque("opt"), file("opt/three", b"3"))],
    "opaque in the middle": [BASE, layer(directory("opt/sub"), opaque("opt/sub")), layer(file("opt/sub/new"))],
    "types": [
        BASE,
        layer(file("opt", b"now a file"), directory("setuid"), file("setuid/below"), symlink("tmp", "opt")),
        layer(directory("tmp"), device("opt", 1, 3), fifo("abs")),
    ],
    "a directory over a link": [BASE, layer(directory("lib"), file("lib/own", b"o"))],
    "through links": [BASE, layer(file("lib/new", b"n"), file("abs/newer", b"nn"), whiteout("abs/large.so"))],
    "through a chain": [
        layer(directory("a"), symlink("a/b", "../c"), directory("c"), symlink("c/d", "/e/../f"), directory("f")),
        layer(directory("e"), file("a/b/d/deep", b"deep")),
    ],
    "through a link to nothing": [layer(symlink("l", "not/there")), layer(file("l/x", b"x"))],
    "hard links below": [
        BASE,
        layer(hard_link("again.so", "usr/lib/linked.so", mode=0o755), whiteout("usr/lib/large.so")),
        layer(hard_link("link", "lib")),
    ],
    "missing parents": [layer(file("a/b/c/d", b"d")), layer(file("a/b/x/y", b"y"))],
    "a link replaced": [BASE, layer(file("usr/lib/linked.so", b"alone now"))],
    "devices": [layer(device("null", 1, 3, mode=0o666), device("sda", 8, 0, block=True, mode=0o660), fifo("pipe"))],
    "attributes": [
        layer(file("a", b"a", pax=xattr("user.one", b"1")), file("b", b"b", pax=xattr("user.two", b"\x01\x02"))),
        layer(file("a", b"a", pax=xattr("user.other", b"2"))),
    ],
    "names": [layer(file("A"), file("a"), file("ä"), file("a\u0308"), file("\udcff"), file(" "), file("n" * 255))],
    "the same name twice": [layer(file("a", b"one"), hard_link("b", "a"), file("a", b"two"))],
    "dots": [layer(directory("./"), directory("./a"), file("./a//b", b"b"))],
    "old formats": [
        layer(directory("d" * 90), file("d" * 90 + "/" + "f" * 80, b"x"), format=tarfile.USTAR_FORMAT),
        layer(file("d" * 90 + "/" + "g" * 120, b"y", uid=3_000_000), format=tarfile.GNU_FORMAT),
    ],
    "sizes without data": [
        header(b"d/", 5, b"5", mode=0o755)
        + header(b"l", 700, b"2", link=b"d")
        + member(b"f", b"data")
        + member(b"g/", b"g")
        + END
    ],
    "no end": [member(b"a", b"x")],
    "one block of zeros": [member(b"a", b"x") + bytes(512)],
    "nothing": [b"", bytes(1024), bytes(10_240)],
    "sparse": [
        pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"300000"})
        + member(b"s", b"2\n0\n4\n200000\n5\n".ljust(512, b"\0") + b"headother")
        + END
    ],
    "many small files": [
        layer(*(file(f"d{n % 5}/f{n}", b"%d" % n * 50) for n in range(200))),
        layer(*(whiteout(f"d{n % 5}/f{n}") for n in range(0, 200, 3)), *(file(f"d{n % 5}/g{n}") for n in range(9))),
    ],
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    need("containerd", "ctr")
    with containerd(tmp_path_factory.mktemp("c")) as found:
        yield found


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    with Pool.create("tank", tmp_path / "tank") as made:
        yield made


COUNT = iter(range(10**9))


def taken(pool: Pool, tars: Sequence[bytes]) -> str:
    """The name of an image of these layers."""
    image = BuiltImage(tars)
    name = f"tank/image-{next(COUNT)}@v"
    with LayeredImport(pool, name.partition("@")[0]) as session:
        for tar in tars:
            if not session.has(digest_of(tar)):
                session.add(io.BytesIO(tar), digest_of(tar), "layer")
        session.commit(name, image.config, image.manifest, image.diff_ids)
    return name


def layout_of(place: Path, tars: Sequence[bytes]) -> Path:
    return write_layout(place / f"layout-{next(COUNT)}", {"v": BuiltImage(tars)})


def unlike(pool: Pool, name: str, root: Path, since: float, *, but_root: bool = False) -> list[Difference]:
    """How the image differs from what was unpacked, but for times of directories that unpacking itself has set."""
    found = []
    for difference in pool.verify(name, root):
        if difference.what.startswith("mtime is ") and difference.what.endswith(" there"):
            path = root / difference.path.decode("utf-8", "surrogateescape")
            if path.is_dir() and not path.is_symlink() and path.stat().st_mtime >= since - 1:
                continue
        if but_root and difference.path == b".":
            continue
        found.append(difference)
    return found


@pytest.mark.parametrize("name", [name for name in STACKS_BY_NAME if name not in ("nothing",)])
def test_containerd(daemon: Containerd, pool: Pool, tmp_path: Path, name: str) -> None:
    compare_containerd(daemon, pool, tmp_path, STACKS_BY_NAME[name])


def compare_containerd(daemon: Containerd, pool: Pool, place: Path, tars: Sequence[bytes]) -> None:
    since = time.time()
    archive = layout_archive(layout_of(place, tars), place / "archive.tar")
    daemon.load(archive, f"example.org/image-{next(COUNT)}")
    root = daemon.unpacked([digest_of(tar) for tar in tars])
    assert unlike(pool, taken(pool, tars), root, since, but_root=True) == []


UMOCI_DIFFERS = ("whiteouts", "nothing")


@pytest.mark.parametrize("name", [name for name in STACKS_BY_NAME if name not in UMOCI_DIFFERS])
def test_umoci(pool: Pool, tmp_path: Path, name: str) -> None:
    need("umoci")
    compare_umoci(pool, tmp_path, STACKS_BY_NAME[name])


def compare_umoci(pool: Pool, place: Path, tars: Sequence[bytes]) -> None:
    since = time.time()
    root = umoci_unpack(layout_of(place, tars), "v", place / f"bundle-{next(COUNT)}")
    assert unlike(pool, taken(pool, tars), root, since) == []


def test_umoci_makes_no_directories_for_whiteouts(pool: Pool, tmp_path: Path) -> None:
    """The one thing in which the stack of whiteouts differs."""
    need("umoci")
    tars = STACKS_BY_NAME["whiteouts"]
    root = umoci_unpack(layout_of(tmp_path, tars), "v", tmp_path / "bundle")
    assert unlike(pool, taken(pool, tars), root, 0) == [Difference(b"never", "is only in the snapshot")]


def test_layers_of_nothing(pool: Pool, tmp_path: Path) -> None:
    need("umoci")
    compare_umoci(pool, tmp_path, [*STACKS_BY_NAME["nothing"], layer(file("a"))])


def alike(stack: Sequence[LayerTar]) -> list[bytes]:
    """A random stack without what the two are known to do in other ways: see above."""
    oracle = Oracle()
    tars = []
    for one in stack:
        oracle.layer += 1
        kept: list[Op] = []
        hiding = [op for op in one.ops if b".wh." in op.path]
        for op in [*hiding, *(op for op in one.ops if op not in hiding)]:
            known = _known(oracle, op)
            if known is not None:
                oracle.put(known)
                kept.append(known)
        styles = tuple(style for style in one.styles if style.startswith("pax")) or ("pax",)
        tars.append(replace(one, ops=tuple(kept), globals=False, styles=styles).bytes())
    return tars


def _known(oracle: Oracle, op: Op) -> Op | None:
    """The member as all unpackers understand it; None where they do not."""
    parts = split(op.path)
    op = replace(op, mtime=op.mtime % 2**32)
    if op.kind not in ("file", "dir"):
        op = replace(op, xattrs=())
    if op.sparse == () or (op.kind == "dir" and not parts):
        return None
    op = replace(op, xattrs=tuple(pair for pair in op.xattrs if pair[0].startswith(b"user.") and op.kind == "file"))
    try:
        trial = Oracle()
        trial.things, trial.since, trial.layer = dict(oracle.things), dict(oracle.since), oracle.layer
        if parts and parts[-1].startswith(b".wh."):
            trial._below(parts[:-1], make=False)
        elif op.kind == "hard":
            wanted = split(op.target)
            target = (*trial._below(wanted[:-1], make=False), wanted[-1])
            path = (*trial._below(parts[:-1]), parts[-1])
            thing = oracle.things.get(target)
            if thing is None or thing.kind == "dir" or path == target or is_below(target, path):
                return None
            if trial.since.get(path) == trial.layer:
                return None
            return replace(op, mode=thing.mode, uid=thing.uid, gid=thing.gid, mtime=thing.mtime)
        elif parts:
            path = (*trial._below(parts[:-1]), parts[-1])
            both = op.kind == "dir" == trial.things.get(path, op).kind
            if trial.since.get(path) == trial.layer and not both:
                return None  # what a layer has itself is not replaced: containerd stumbles over lost directories
        put = Oracle()
        put.things, put.since, put.layer = dict(trial.things), dict(trial.since), trial.layer
        put.put(op)
    except (Refused, KeyError):
        return None
    return op


RANDOM = settings(
    max_examples=int(os.environ.get("LAMINA_STACKS", "8")),
    deadline=None,
    derandomize="LAMINA_STACKS" not in os.environ,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(STACKS)
@RANDOM
def test_random_stacks_by_umoci(pool: Pool, tmp_path: Path, stack: list[LayerTar]) -> None:
    need("umoci")
    compare_umoci(pool, tmp_path, alike(stack))


@given(STACKS)
@RANDOM
def test_random_stacks_by_containerd(daemon: Containerd, pool: Pool, tmp_path: Path, stack: list[LayerTar]) -> None:
    compare_containerd(daemon, pool, tmp_path, alike(stack))
