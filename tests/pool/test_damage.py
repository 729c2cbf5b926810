"""Packs that lost or changed bytes: named by verify, never returned, and the rest stays readable."""

import os
from pathlib import Path

import pytest

from lamina.errors import DamagedData
from lamina.fs.view import path_of
from lamina.pool import Pool
from tests.pool.trees import Source, blob, write_tree

FILES = {f"dir/f{number}": blob(2 * number, 150_000) for number in range(1, 9)}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Eight files that share nothing."""
    return write_tree(tmp_path / "source", FILES)


@pytest.fixture
def image(pool: Pool, source: Source, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool whose one image lies in many packs, the tree in the last; opened anew by its user."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 200_000)
    pool.import_image(source.path, "tank/i@1")
    assert len(list((pool.path / "packs").iterdir())) > 6
    return pool


def packs_of(pool: Pool, name: str) -> list[tuple[Path, int, int]]:
    """(file, offset, length) of each chunk of a file."""
    tree = pool.tree("tank/i@1")
    keys = [extent.key for extent in tree.extents(path_of(tree, name.encode()))]
    found = pool.store.locate(keys)
    return [(pool.path / "packs" / f"{found[k].pack:08d}.pack", found[k].offset, found[k].stored) for k in keys]


def check(pool: Pool, source: Source) -> set[str]:
    """Read everything: the files that cannot be read. Those that can hold what was put in, and verify agrees."""
    tree = pool.tree("tank/i@1")
    damaged = set()
    for name, data in FILES.items():
        ino = path_of(tree, name.encode())
        try:
            assert tree.read(ino, 0, len(data)) == data
        except DamagedData as error:
            assert "\n" not in str(error)
            damaged.add(name)
    differences = pool.verify("tank/i@1", source.path)
    assert {difference.path.decode() for difference in differences} == damaged
    assert all("is damaged: " in difference.what for difference in differences)
    return damaged


def test_nothing_is_wrong_at_first(image: Pool, source: Source) -> None:
    assert check(image, source) == set()


@pytest.mark.parametrize("where", [0.0, 0.5, 0.999])
def test_a_flipped_byte(image: Pool, source: Source, where: float) -> None:
    path, offset, length = packs_of(image, "dir/f3")[-1]
    with open(path, "r+b") as pack:
        pack.seek(offset + int(where * length))
        byte = pack.read(1)[0]
        pack.seek(-1, os.SEEK_CUR)
        pack.write(bytes([byte ^ 0x20]))
    assert check(image, source) == {"dir/f3"}


def test_a_pack_cut_short(image: Pool, source: Source) -> None:
    path, offset, length = packs_of(image, "dir/f5")[0]
    os.truncate(path, offset + length - 1)
    assert "dir/f5" in check(image, source) != set(FILES)


def test_a_missing_pack(image: Pool, source: Source) -> None:
    path, _, _ = packs_of(image, "dir/f5")[0]
    path.unlink()
    with Pool.open("tank") as again:
        found = check(again, source)
    assert "dir/f5" in found != set(FILES)


def test_a_damaged_tree(image: Pool, source: Source) -> None:
    tree = image.tree("tank/i@1")
    top = image.store.locate([next(key for key, _ in tree.reader.nodes())])  # type: ignore[attr-defined]
    (location,) = top.values()
    for place in (location, *image.store.copies(location)):
        assert image.verify("tank/i@1", source.path) == []  # as long as one copy is good
        with open(image.path / "packs" / f"{place.pack:08d}.pack", "r+b") as pack:
            pack.seek(place.offset)
            pack.write(b"\xff" * 8)
    differences = image.verify("tank/i@1", source.path)
    assert [difference.path for difference in differences] == [b"."]
    assert "is damaged: " in differences[0].what
    with pytest.raises(DamagedData):
        image.tree("tank/i@1").inode(1)


def test_work_goes_on_beside_a_lost_pack(image: Pool, source: Source, tmp_path: Path) -> None:
    """Names can be destroyed, other images imported and read."""
    packs_of(image, "dir/f1")[0][0].unlink()
    other = write_tree(tmp_path / "other", {"x": blob(100, 90_000)})
    image.import_image(other.path, "tank/j@1")
    assert not image.verify("tank/j@1", other.path)
    image.destroy("tank/i@1")
    assert [entry.name for entry in image.images()] == ["tank/j@1"]
