"""What images say of themselves: read once, kept with the tree, right wherever a tree came from."""

import io
import json
import random
import shutil
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from pyroaring import BitMap64

from lamina.errors import DamagedData, LaminaError, NoSpace
from lamina.fs.imagearea import CONFIG_INO, ImageArea
from lamina.fs.node import DIRENT, key_ino
from lamina.fs.view import StoredTree
from lamina.ingest.assemble import write_tree as assemble_tree
from lamina.pool import Pool
from lamina.pool.checking.walking import Walker
from lamina.pool.importing.imageindex import (
    Blob,
    blobs_of,
    diff_id_of,
    find_layer,
    image_area,
    image_of,
    remember_blob,
)
from lamina.pool.recovery.recover import recover_pool
from lamina.pool.scrubbing.damage import DamageFinder, lost_objects
from lamina.replication.nearby import KnownTree, compare
from lamina.store.record import Kind
from tests.pool.damaging import Spot, check_places, damage, flip, places, scrubbed
from tests.pool.example import impatient
from tests.pool.layered import Layer, config_of, manifest_of, put_image
from tests.pool.trees import blob, write_tree
from tests.replication.kit import receive, send

__all__ = ["impatient"]

FILES = {f"f{number}": blob(2 * number, 30_000 * number) for number in range(1, 5)}
BASE = Layer([b"header 1", "f1", b"header 2", "old", b"end"], {"old": blob(98, 20_000)})
TOP = Layer([b"recipe of the top", "f2", "f3", b"end"])


@pytest.fixture
def image(pool: Pool) -> Pool:
    """An image of two layers; the lower one has a file that is no more."""
    put_image(pool, "tank/i@1", FILES, [BASE, TOP])
    return pool


def queries(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Objects that are read from now on."""
    read: list[str] = []
    before = pool.store.get

    def noted(key: bytes, **more: bool) -> bytes:
        read.append(key.hex())
        return before(key, **more)

    monkeypatch.setattr(pool.store, "get", noted)
    return read


def check_layers(pool: Pool, name: str, files: Mapping[str, bytes], layers: list[Layer]) -> None:
    """The image has these layers, bit for bit, and the index says so."""
    area = image_area(pool, name)
    row = image_of(pool, name)
    assert row is not None
    tars = [layer.tar(files) for layer in layers]
    assert [layer.diff_id for layer in row.layers] == ["sha256:" + sha256(tar).hexdigest() for tar in tars]
    assert [layer.tar_size for layer in row.layers] == [len(tar) for tar in tars]
    assert row.config == "sha256:" + sha256(area.config()).hexdigest()
    for layer, tar in zip(row.layers, tars, strict=True):
        with area.open_layer(layer.diff_id) as stream:
            assert stream.read() == tar
        assert find_layer(pool, layer.diff_id) is not None


# -- what an image is ---------------------------------------------------------------------------------------------


def test_what_the_index_says(image: Pool) -> None:
    row = image.image("tank/i@1")
    assert row is not None and row == image_of(image, "tank/i")
    assert (row.os, row.architecture, row.created) == ("linux", "amd64", None)
    diff_ids = [BASE.diff_id(FILES), TOP.diff_id(FILES)]
    assert row.manifest == "sha256:" + sha256(manifest_of(diff_ids)).hexdigest()
    assert [(layer.position, layer.diff_id) for layer in row.layers] == list(enumerate(diff_ids))
    assert [layer.size for layer in row.layers] == [1000, 1001]
    assert row.layers[1].media_type == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert diff_id_of(image, row.layers[0].digest or "") == diff_ids[0]
    check_layers(image, "tank/i@1", FILES, [BASE, TOP])
    assert image.check().problems == []


def test_totals_are_those_of_the_files(image: Pool) -> None:
    values = image.get("tank/i@1", ["logicalreferenced"])
    assert values["logicalreferenced"].value == sum(map(len, FILES.values()))
    tree = image.tree("tank/i@1")
    assert (tree.totals.inodes, tree.totals.files, tree.totals.directories, tree.totals.next_ino) == (5, 4, 1, 6)


def test_a_plain_root_file_system(pool: Pool, tmp_path: Path) -> None:
    pool.import_image(write_tree(tmp_path / "plain", {"a": b"x"}).path, "tank/i@1")
    pool.create_dataset("tank/empty")
    assert pool.image("tank/i@1") is None and pool.image("tank/empty") is None
    for name in ("tank/i@1", "tank/empty"):
        with pytest.raises(LaminaError, match=f"'{name}' is a plain root file system: it has no layers"):
            image_area(pool, name)


def test_layers_of_any_kind(pool: Pool) -> None:
    """None at all, an empty tar, one layer twice, one piece many times, files of holes."""
    empty = Layer([])
    again = Layer([b"same", "f1", "f1", b"same", "f1"])
    put_image(pool, "tank/none@1", {}, [], manifest=None)
    put_image(pool, "tank/i@1", FILES, [empty, again])
    config = config_of([again.diff_id(FILES)] * 2)
    put_image(pool, "tank/twice@1", FILES, [again], config=config, manifest=None)
    row = pool.image("tank/none@1")
    assert row is not None and row.layers == () and row.manifest is None
    check_layers(pool, "tank/i@1", FILES, [empty, again])
    check_layers(pool, "tank/twice@1", FILES, [again, again])
    assert pool.check().problems == []


# -- filling ------------------------------------------------------------------------------------------------------


def test_trees_are_read_once(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        put_image(pool, f"tank/i@{number}", {"f": b"%d" % number}, [Layer([b"recipe %d" % number])])
    read = queries(pool, monkeypatch)
    wanted = Layer([b"recipe 3"]).diff_id({})
    assert find_layer(pool, wanted) == pool.root("tank/i@3")
    assert read
    with Pool.open("tank", write=True) as again:
        read = queries(again, monkeypatch)
        assert [again.image(f"tank/i@{number}") is not None for number in range(6)] == [True] * 6
        assert diff_id_of(again, "sha256:" + "0" * 64) is None and blobs_of(again, wanted)
        assert read == []
    put_image(pool, "tank/i@new", {}, [Layer([b"new"])])
    with Pool.open("tank", write=True) as again:
        assert find_layer(again, Layer([b"new"]).diff_id({})) == again.root("tank/i@new")


def test_a_reader_that_might_write_keeps_what_it_read(image: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool.open("tank") as reader:
        assert reader.image("tank/i@1") is not None
    with Pool.open("tank") as reader:
        read = queries(reader, monkeypatch)
        assert reader.image("tank/i@1") is not None
        assert read == []


def test_a_pool_that_cannot_be_written(image: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers; nothing is written."""
    monkeypatch.setattr("lamina.pool.importing.imageindex.os.access", lambda *_: False)
    with Pool.open("tank") as reader:
        check_layers(reader, "tank/i@1", FILES, [BASE, TOP])
        assert [row.root for row in reader.image_index.rows()] == [reader.root("tank/i@1")]
        row = reader.image("tank/i@1")
        assert row is not None and diff_id_of(reader, row.layers[1].digest or "") == row.layers[1].diff_id
        assert [one.digest for one in blobs_of(reader, row.layers[1].diff_id)] == [row.layers[1].digest]
        remember_blob(reader, "sha256:" + "5" * 64, row.layers[1].diff_id, "plain", 5)
        assert len(blobs_of(reader, row.layers[1].diff_id)) == 2
        assert diff_id_of(reader, "sha256:" + "5" * 64) == row.layers[1].diff_id
        assert reader._database.query("SELECT count(*) FROM image") == [(0,)]


def test_a_reader_who_might_write_keeps_it_for_the_next(image: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless somebody else is just writing: a reader never waits."""
    with image._database.transaction(), Pool.open("tank") as reader:
        check_layers(reader, "tank/i@1", FILES, [BASE, TOP])
    assert image._database.query("SELECT count(*) FROM image") == [(0,)]
    with Pool.open("tank") as reader:
        check_layers(reader, "tank/i@1", FILES, [BASE, TOP])
    with Pool.open("tank") as reader:
        read = queries(reader, monkeypatch)
        assert reader.image("tank/i@1") is not None and read == []


def test_rows_go_with_the_tree(image: Pool) -> None:
    diff_id = TOP.diff_id(FILES)
    assert find_layer(image, diff_id) is not None
    image.destroy("tank/i", recursive=True)
    image.gc()
    assert image._database.query("SELECT count(*) FROM image_layer") == [(0,)]
    assert find_layer(image, diff_id) is None
    put_image(image, "tank/i@1", FILES, [BASE, TOP])
    check_layers(image, "tank/i@1", FILES, [BASE, TOP])


def test_blobs_are_remembered(image: Pool) -> None:
    diff_id = TOP.diff_id(FILES)
    told = blobs_of(image, diff_id)
    zstd = Blob("sha256:" + "a" * 64, diff_id, "application/vnd.oci.image.layer.v1.tar+zstd", 77)
    remember_blob(image, zstd.digest, zstd.diff_id, zstd.media_type, zstd.size)
    remember_blob(image, zstd.digest, zstd.diff_id, zstd.media_type, zstd.size)
    with Pool.open("tank") as reader:
        assert set(blobs_of(reader, diff_id)) == {*told, zstd}
        assert diff_id_of(reader, zstd.digest) == diff_id
    image.destroy("tank/i", recursive=True)
    image.gc()
    assert blobs_of(image, diff_id) == [zstd]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE image_layer SET diff_id = 'sha256:' || hex(zeroblob(32)) WHERE position = 1",
        "UPDATE image_layer SET tar_size = tar_size + 1",
        "UPDATE image SET config = NULL",
        "DELETE FROM image_layer WHERE position = 1",
    ],
)
def test_an_index_that_is_wrong_is_found(image: Pool, statement: str) -> None:
    assert image.image("tank/i@1") is not None
    assert image.check().problems == []
    with image._database.transaction():
        image._database.execute(statement)
    (line,) = image.check().problems
    assert line.startswith("what the catalogue says of the config and layers of 'tank/i', 'tank/i@1' is not what they")


def test_a_full_disk_is_no_reason_not_to_look(image: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise NoSpace("no space left")

    with Pool.open("tank", write=True) as again:
        monkeypatch.setattr("lamina.pool.importing.imageindex._insert", full)
        check_layers(again, "tank/i@1", FILES, [BASE, TOP])


# -- what a hostile image says ------------------------------------------------------------------------------------


def config_with(**fields: Any) -> bytes:
    return config_of([BASE.diff_id(FILES), TOP.diff_id(FILES)], **fields)


def layers_told(**fields: Any) -> bytes:
    one = {"mediaType": "m", "digest": "sha256:" + "1" * 64, "size": 1} | fields
    return json.dumps({"layers": [one, one]}).encode()


BAD: list[tuple[bytes | None, bytes | None, str]] = [
    (b"", None, "its config is no JSON"),
    (b"[]", None, "its config is no JSON object"),
    (b"{}", None, "does not list the layers"),
    (b"\xff\xfe{", None, "its config is no JSON"),
    (b"[" * 200_000, None, "its config is no JSON"),
    (b'{"rootfs": {"diff_ids": [' + b"9" * 10_000 + b"]}}", None, "its config "),
    (b'{"rootfs": []}', None, "does not list the layers"),
    (b'{"rootfs": {"diff_ids": {}}}', None, "does not list the layers"),
    (b'{"rootfs": {"diff_ids": [1]}}', None, "names a layer that it does not have: 1"),
    (config_of(["sha256:" + "0" * 64]), None, "names a layer that it does not have"),
    (config_of(["\x1b[1m"]), None, "names a layer that it does not have"),
    (b" " * ((8 << 20) + 1), None, "the config of the image is longer than 8 MiB"),
    (None, b"{}", "its manifest does not list the layers"),
    (None, b'{"layers": []}', "its manifest does not list the layers"),
    (None, b'{"layers": [1, 2]}', "a layer without a digest"),
    (None, layers_told(digest="nothing"), "a layer without a digest"),
    (None, layers_told(digest="sha256:" + "1" * 64 + "\n"), "a layer without a digest"),
    (None, layers_told(size=-1), "a layer without a size"),
    (None, layers_told(size=1 << 63), "a layer without a size"),
    (None, layers_told(size=True), "a layer without a size"),
    (None, layers_told(size=1.5), "a layer without a size"),
    (None, b" " * ((4 << 20) + 1), "the manifest of the image is longer than 4 MiB"),
]


@pytest.mark.parametrize(("config", "manifest", "words"), BAD, ids=[f"{n}" for n in range(len(BAD))])
def test_one_that_makes_no_sense_is_refused_alone(
    pool: Pool, config: bytes | None, manifest: bytes | None, words: str
) -> None:
    put_image(pool, "tank/good@1", FILES, [BASE])
    put_image(pool, "tank/bad@1", FILES, [BASE, TOP], config=config, manifest=manifest)
    with pytest.raises(LaminaError, match=words) as caught:
        pool.image("tank/bad@1")
    assert str(caught.value).startswith("cannot read the image 'tank/bad@1': ") and str(caught.value).isprintable()
    check_layers(pool, "tank/good@1", FILES, [BASE])
    assert [row.root for row in pool.image_index.rows()] == [pool.root("tank/good@1")]


@pytest.mark.parametrize("value", [None, 5, "", "x" * 10_000, {"a": 1}])
def test_what_is_no_text_is_not_told(pool: Pool, value: object) -> None:
    put_image(pool, "tank/i@1", FILES, [BASE, TOP], config=config_with(os=value, created=value), manifest=None)
    row = pool.image("tank/i@1")
    assert row is not None and row.os is None and row.created is None and len(row.layers) == 2


def test_text_that_no_column_takes(pool: Pool) -> None:
    put_image(
        pool, "tank/i@1", FILES, [BASE, TOP], config=config_with(os="\ud800\0"), manifest=layers_told(mediaType=5)
    )
    row = pool.image("tank/i@1")
    assert row is not None and row.os == "??" and row.layers[0].media_type is None
    with Pool.open("tank") as again:
        assert again.image("tank/i@1") == row
    assert blobs_of(pool, row.layers[0].diff_id) == []


# -- layers that are not whole ------------------------------------------------------------------------------------


def chunk_with(pool: Pool, data: bytes) -> Spot:
    """The place of a chunk, by its bytes."""
    key = blake3(data).digest()
    return Spot(pool.store.locate([key])[key], 0)


def test_a_damaged_layer_is_not_found(image: Pool) -> None:
    lower, top = BASE.diff_id(FILES), TOP.diff_id(FILES)
    flip(image, chunk_with(image, b"header 2"))
    scrubbed(image)
    assert find_layer(image, lower) is None
    assert find_layer(image, top) == image.root("tank/i@1")


def test_what_gc_is_about_to_free_is_not_found(image: Pool) -> None:
    root = image.root("tank/i@1")
    top = TOP.diff_id(FILES)
    assert find_layer(image, top) == root
    for kind in (Kind.CHUNK, Kind.NODE):
        with image._database.transaction():
            image._database.execute("UPDATE object SET condemned = 5 WHERE kind = ?", (int(kind),))
        assert find_layer(image, top) is None
        with image._database.transaction():
            image._database.execute("UPDATE object SET condemned = NULL")
    assert find_layer(image, top) == root
    assert find_layer(image, "sha256:" + "0" * 64) is None and find_layer(image, "no digest") is None


def test_another_image_has_it_whole(image: Pool) -> None:
    """A node of the newer image is damaged: the layer is found in the older one."""
    put_image(image, "tank/j@1", {"f1": FILES["f1"], "f9": blob(9, 2_000_000)}, [BASE, Layer([b"q", "f9"] * 200)])
    assert find_layer(image, BASE.diff_id(FILES)) == image.root("tank/j@1")
    tree = image.tree("tank/j@1")
    assert isinstance(tree, StoredTree)
    for spot in places(image, image.store.locate([tree.root_key])[tree.root_key]):
        flip(image, spot)
    scrubbed(image)
    assert find_layer(image, BASE.diff_id(FILES)) == image.root("tank/i@1")


# -- comparing, damage, repair ------------------------------------------------------------------------------------


def test_images_are_compared_by_their_files(image: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers, config and manifest are no files; they are not even read."""
    generator = random.Random(3)
    long = Layer([generator.randbytes(40) for _ in range(3000)])
    other = Layer([b"another recipe", "f2"])
    put_image(image, "tank/i@same", FILES, [other], config=None)
    put_image(image, "tank/i@long", FILES, [other, long])
    put_image(image, "tank/i@more", FILES | {"f5": b"five"}, [other])
    assert list(image.diff("tank/i@1", "tank/i@same")) == []
    read = queries(image, monkeypatch)
    assert list(image.diff("tank/i@1", "tank/i@long")) == []
    assert len(read) <= 10
    changes = list(image.diff("tank/i@long", "tank/i@more"))
    assert [change.path for change in changes if not change.path.endswith(b"/") and change.path != b"/"] == [b"/f5"]


def test_verify_looks_at_files(image: Pool, tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    differences = image.verify("tank/i@1", tmp_path)
    assert not [one for one in differences if "content" in one.what or one.path.startswith(b"sha")]


def layer_name(layer: Layer) -> str:
    return f"tank/i@1:<layer {layer.diff_id(FILES)}>"


def test_damage_is_told_by_file_or_by_layer(image: Pool) -> None:
    """What a file holds is told as the file's, though a layer holds it too."""
    image.create_dataset("tank/other")
    flip(image, chunk_with(image, b"header 2"))
    flip(image, chunk_with(image, FILES["f2"]))
    flip(image, chunk_with(image, blob(98, 20_000)))
    scrubbed(image)
    told = {"/f2", f"<layer {BASE.diff_id(FILES)}>"}
    assert damage(image) == {f"{name}:{what}" for name in ("tank/i", "tank/i@1") for what in told}


def test_a_damaged_config(image: Pool) -> None:
    flip(image, chunk_with(image, config_with()))
    flip(image, chunk_with(image, manifest_of([BASE.diff_id(FILES), TOP.diff_id(FILES)])))
    scrubbed(image)
    assert {"tank/i@1:<config>", "tank/i@1:<manifest>"} <= damage(image)
    with pytest.raises(DamagedData, match="cannot read the image 'tank/i@1': object"):
        image.image("tank/i@1")


def wide(pool: Pool) -> Layer:
    """An image whose layers fill many nodes."""
    generator = random.Random(5)
    layer = Layer([generator.randbytes(40) for _ in range(2500)])
    put_image(pool, "tank/i@1", {f"f{n}": b"file %d" % n for n in range(400)}, [layer, TOP])
    return layer


def leaf_spots(pool: Pool) -> list[tuple[bytes, bytes, list[Spot]]]:
    """(first key, last key, places) of all leaves."""
    tree = pool.tree("tank/i@1")
    assert isinstance(tree, StoredTree)
    return [
        (node.keys[0], node.keys[-1], places(pool, pool.store.locate([key])[key]))
        for key, node in tree.reader.nodes()
        if node.level == 0
    ]


def test_a_damaged_node_of_a_layer(pool: Pool) -> None:
    """Each leaf in turn is lost: what it hides is told, files by path and layers by name."""
    layer = wide(pool)
    saved = {path: path.read_bytes() for path in (pool.path / "packs").iterdir()}
    leaves = leaf_spots(pool)
    assert len(leaves) > 8
    area = (1 << 62).to_bytes(8, "big")
    for first, last, some in leaves:
        for spot in some:
            flip(pool, spot)
        lost = lost_objects(pool._catalogue)
        lost.rows.add(some[0].location.id)
        lost.nodes |= {some[0].location.key}
        pool.store._ahead.clear()
        told = {str(one) for one in DamageFinder(pool._catalogue, pool.store, lost).everything()}
        in_layers = {line for line in told if "<metadata> <" in line}
        if first >= area:
            assert told == in_layers and told
        if last < area:
            assert not in_layers and told
        if first < area <= last:
            assert in_layers and told - in_layers
        if first[:8] == last[:8] == leaves[-2][0][:8]:
            assert told == {f"{name}:<metadata> <layer {layer.diff_id({})}>" for name in ("tank/i", "tank/i@1")}
        for path, data in saved.items():
            path.write_bytes(data)


def test_repair_from_another_pool(image: Pool, place: Path) -> None:
    with Pool.create("vault", place / "vault") as vault:
        put_image(vault, "vault/copy@1", FILES, [BASE, TOP])
    for data in (b"header 2", b"recipe of the top", blob(98, 20_000), config_with(), FILES["f1"]):
        flip(image, chunk_with(image, data))
    assert scrubbed(image).errors == 5
    report = image.repair("vault")
    assert (report.repaired, report.left) == (5, 0)
    assert damage(image) == set()
    check_places(image)
    check_layers(image, "tank/i@1", FILES, [BASE, TOP])
    assert image.check().problems == []


def test_repair_from_files_leaves_what_no_file_holds(image: Pool, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for name, data in FILES.items():
        (tmp_path / "files" / name).write_bytes(data)
    flip(image, chunk_with(image, b"header 2"))
    flip(image, chunk_with(image, FILES["f1"]))
    scrubbed(image)
    image.repair(str(tmp_path / "files"))
    assert damage(image) == {f"tank/i:<layer {BASE.diff_id(FILES)}>", layer_name(BASE)}


# -- elsewhere ----------------------------------------------------------------------------------------------------


@pytest.fixture
def other(place: Path) -> Iterator[Pool]:
    with Pool.create("vault", place / "vault") as made:
        yield made


def test_sent_and_received(image: Pool, other: Pool) -> None:
    receive(other, send(image, "tank/i@1"), "vault/i")
    check_layers(other, "vault/i@1", FILES, [BASE, TOP])
    put_image(image, "tank/i@2", FILES | {"f9": b"nine"}, [BASE, TOP, Layer([b"third", "f9"])])
    receive(other, send(image, "tank/i@2", base="tank/i@1"), "vault/i")
    check_layers(other, "vault/i@2", FILES | {"f9": b"nine"}, [BASE, TOP, Layer([b"third", "f9"])])
    put_image(image, "tank/i@3", FILES, [BASE])
    receive(other, send(image, "tank/i@3", base="tank/i@2"), "vault/i")
    check_layers(other, "vault/i@3", FILES, [BASE])
    assert other.check().problems == []


def test_a_tree_that_differs_little_is_not_walked(image: Pool) -> None:
    """What a stream brings is compared with what is known; the answer is that of a walk."""
    generator = random.Random(2)
    wide = Layer([generator.randbytes(40) for _ in range(1500)])
    files = {f"f{n}": b"file %d" % n for n in range(600)}
    more = Layer([b"one more"])
    for tag, files_of, layers in (
        ("a", files, [wide]),
        ("b", files | {"f3": b"changed"}, [wide]),
        ("c", files, [wide, more]),
        ("d", files, [more]),
    ):
        put_image(image, f"tank/n@{tag}", files_of, layers, manifest=None)
    roots = {tag: image.store.locate_ids([image.root(f"tank/n@{tag}") or 0])[0] for tag in "abcd"}
    rows = dict(image._database.query("SELECT root, objects FROM tree"))
    for one in "abcd":
        for other in "abcd":
            known = KnownTree(roots[one].key, BitMap64.deserialize(rows[roots[one].id]))
            found = compare(image.store, roots[other].key, known)
            assert found is not None
            assert found.objects == BitMap64.deserialize(rows[roots[other].id])
            assert found.totals == Walker(image.store).walk(roots[other].key).totals


def test_a_config_that_is_left_out_is_not_let_through(image: Pool) -> None:
    """Names and links add up without it: such a tree is walked, and refused."""
    tree = image.tree("tank/i@1")
    assert isinstance(tree, StoredTree)
    items = []
    for key, value in tree.reader.items():
        named = key[8] == DIRENT and value[9:] == b"config"
        if key_ino(key) != CONFIG_INO and not named:
            items.append((key, value))
    with image._writer() as writer:
        root, _ = assemble_tree(items, tree.totals.next_ino, writer)
        writer.flush()
        known = KnownTree(tree.root_key, BitMap64.deserialize(image._database.query("SELECT objects FROM tree")[0][0]))
        assert compare(image.store, root, known) is None
        assert Walker(image.store).walk(root).problems == ["its image has no config"]


def test_recovered(image: Pool, place: Path) -> None:
    image.close()
    for name in ("catalogue.db", "catalogue.db-wal", "catalogue.db-shm"):
        (place / "tank" / name).unlink(missing_ok=True)
    assert recover_pool("tank").lines == []
    with Pool.open("tank", write=True) as pool:
        check_layers(pool, "tank/i@1", FILES, [BASE, TOP])
        assert pool.check().problems == []


def test_a_copy_of_the_pool_has_them(image: Pool, place: Path) -> None:
    image.image("tank/i@1")
    image.close()
    shutil.copytree(place / "tank", place / "copy")
    with Pool.open(place / "copy") as pool:
        check_layers(pool, "tank/i@1", FILES, [BASE, TOP])


def test_the_stream_is_bytes(image: Pool) -> None:
    area = image_area(image, "tank/i@1")
    assert isinstance(area, ImageArea)
    with area.open_layer(BASE.diff_id(FILES)) as stream:
        assert io.BufferedReader(stream).read(8) == b"header 1"  # type: ignore[type-var]
