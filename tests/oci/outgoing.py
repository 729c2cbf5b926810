"""What tests of export, push and migrate share: pools with images, random stacks of layers, trees to compare."""

import contextlib
import hashlib
import random
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lamina.cli import main
from lamina.fs.imagearea import AREA_KEY, ImageArea
from lamina.fs.types import ROOT_INO
from lamina.fs.view import StoredTree
from lamina.pool import Pool
from tests.oci.building import (
    BuiltImage,
    Item,
    directory,
    file,
    hard_link,
    layer,
    opaque,
    symlink,
    whiteout,
    write_layout,
    xattr,
)


def call(*words: object) -> int:
    """Run a command line in this process; its exit status."""
    return main([str(word) for word in words])


def put(tank: Pool, image: BuiltImage, name: str, scratch: Path) -> BuiltImage:
    """Have an image in the pool."""
    from lamina.oci.incoming.files import DirectoryFiles
    from lamina.oci.incoming.importing import import_images
    from lamina.oci.incoming.origins import FilesOrigin

    layout = write_layout(scratch / f"layout-{hashlib.sha256(name.encode()).hexdigest()[:12]}", {"one": image})
    import_images(tank, FilesOrigin(DirectoryFiles(layout), "oci-dir"), name)
    return image


def stored(tank: Pool, name: str) -> StoredTree:
    tree = tank.tree(name)
    assert isinstance(tree, StoredTree)
    return tree


def area(tank: Pool, name: str) -> ImageArea:
    return ImageArea(stored(tank, name))


def rootfs_items(tank: Pool, name: str) -> list[tuple[bytes, bytes]]:
    """All items of the root file system: equal lists are equal trees, to the last byte."""
    return list(stored(tank, name).reader.items(b"", AREA_KEY))


def listing(tree: StoredTree) -> dict[bytes, tuple[object, ...]]:
    """Everything about a tree but inode numbers, by path."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}

    def walk(path: bytes, ino: int) -> None:
        inode = tree.inode(ino)
        if not stat.S_ISDIR(inode.mode):
            first.setdefault(ino, path)
        times = (inode.mtime_ns, inode.atime_ns, inode.ctime_ns)
        target = tree.readlink(ino) if stat.S_ISLNK(inode.mode) else b""
        data = hashlib.sha256(tree.read(ino, 0, inode.size)).digest() if stat.S_ISREG(inode.mode) else b""
        holes = inode.size - sum(extent.length for extent in tree.extents(ino)) if stat.S_ISREG(inode.mode) else 0
        found[path] = (
            *(inode.mode, inode.uid, inode.gid, inode.nlink, inode.size, inode.rdev, *times),
            *(target, data, holes, first.get(ino), tuple(sorted(tree.xattrs(ino).items()))),
        )
        if stat.S_ISDIR(inode.mode):
            for entry in sorted(tree.readdir(ino), key=lambda one: one.name):
                walk(path + b"/" + entry.name, entry.ino)

    walk(b"", ROOT_INO)
    return found


@contextlib.contextmanager
def podman_store() -> Iterator[tuple[str, str]]:
    """(root, runroot) of a store of podman's that is empty; runroots have short paths."""
    with tempfile.TemporaryDirectory(prefix="p-") as found:
        yield f"{found}/s", f"{found}/r"


def random_stack(seed: int, layers: int = 4) -> list[bytes]:
    """Layers that change each other: files, links, whiteouts, opaque directories, attributes, in any order."""
    chance = random.Random(seed)
    names = [f"d{number}" for number in range(3)] + ["d0/e", "d1/f", "d0/e/g"]
    known: set[str] = set()
    found = []
    for _ in range(layers):
        items: list[Item] = []
        here: set[str] = set()
        for _ in range(chance.randrange(3, 14)):
            folder = chance.choice(["", *names])
            path = f"{folder}/x{chance.randrange(8)}".lstrip("/")
            if path in here:
                continue
            kind = chance.randrange(8)
            if kind <= 3:
                size = chance.choice([0, 10, 700, 40_000, 300_000])
                more = {"pax": xattr("user.n", chance.randbytes(5).hex().encode())} if chance.random() < 0.2 else {}
                data = chance.randbytes(size // 2) + b"a" * (size - size // 2)
                items.append(file(path, data, uid=chance.randrange(9), mode=chance.choice([0o644, 0o4755]), **more))
            elif kind == 4:
                items.append(symlink(path, chance.choice(["x1", "../y", "/etc/z"])))
            elif kind == 5 and here:
                target = chance.choice(sorted(here))
                if any(item.name == target and item.type == tarfile.REGTYPE for item in items):
                    items.append(hard_link(path, target))
            elif kind == 6 and known:
                items.append(whiteout(chance.choice(sorted(known))))
                continue
            elif kind == 7 and folder:
                items.append(directory(folder, mode=chance.choice([0o755, 0o700])))
                items.append(opaque(folder))
                continue
            here.add(path)
        known |= here
        found.append(layer(*items))
    return found
