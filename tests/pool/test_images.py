"""Importing: names, heads, quotas, compression, what a failure leaves behind."""

import io
import tarfile
from pathlib import Path

import pytest

from lamina.errors import AlreadyExists, InvalidName, LaminaError, NoSpace, NotFound, SourceError
from lamina.pool import Pool, Progress
from lamina.pool.importing import images as images_module
from lamina.store.codec import Codec
from tests.pool.records import compare_with_catalogue
from tests.pool.trees import Library, blob, write_tree


def traces(pool: Pool) -> list[object]:
    """All that an import might leave: rows, and every file with its size."""
    tables = ("object", "pack", "tree", "lease", "dataset", "snapshot", "meta")
    files = [(path, path.stat().st_size) for path in sorted(pool.path.rglob("*")) if path.parent != pool.path]
    return [*(pool._database.query(f"SELECT * FROM {table}") for table in tables), files]


def used(pool: Pool, name: str) -> int:
    value = pool.get(name, ["used"])["used"].value
    assert isinstance(value, int)
    return value


def test_the_head_follows_the_newest_image(pool: Pool, library: Library) -> None:
    for number, tag in enumerate("123"):
        pool.import_image(library[2 + number].path, f"tank/i@{tag}")
        assert not pool.verify("tank/i", library[2 + number].path)
    pool.destroy("tank/i@2")
    assert not pool.verify("tank/i", library[4].path)
    pool.destroy("tank/i@3")
    assert not pool.verify("tank/i", library[2].path)
    assert pool.get("tank/i", ["referenced"]) == pool.get("tank/i@1", ["referenced"])
    pool.destroy("tank/i@1")
    assert pool.get("tank/i", ["referenced", "logicalused"])["referenced"].value == 0
    assert list(pool.tree("tank/i").readdir(1)) == []
    compare_with_catalogue(pool)


def test_import_to_a_name_that_exists(pool: Pool, library: Library) -> None:
    pool.import_image(library[2].path, "tank/i@1")
    before = traces(pool)
    with pytest.raises(AlreadyExists, match=r"^cannot create snapshot 'tank/i@1': dataset already exists$"):
        pool.import_image(library[3].path, "tank/i@1")
    assert traces(pool) == before


def test_a_name_that_is_taken_meanwhile(pool: Pool, library: Library) -> None:
    """Another process imports to the same name and is done first: this one's work is thrown away, the other's stays."""
    done: list[bool] = []

    def overtake(_: Progress) -> None:
        if not done:
            done.append(True)
            with Pool.open("tank", write=True) as other:
                other.import_image(library[2].path, "tank/i@1")

    with pytest.raises(AlreadyExists):
        pool.import_image(library[1].path, "tank/i@1", progress=overtake)
    assert not pool.verify("tank/i@1", library[2].path)
    assert pool._database.query("SELECT * FROM lease") == []
    pool.import_image(library[1].path, "tank/i@2")
    assert not pool.verify("tank/i@2", library[1].path)
    compare_with_catalogue(pool)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("tank/i", InvalidName), ("tank/i@", InvalidName), ("tank/i@a/b", InvalidName), ("tank//i@a", InvalidName)),
        *(("other/i@a", NotFound), ("tank/../i@a", InvalidName), ("tank/i@a@b", InvalidName), ("@a", InvalidName)),
    ],
)
def test_names_that_cannot_be(pool: Pool, library: Library, name: str, kind: type[LaminaError]) -> None:
    before = traces(pool)
    with pytest.raises(kind, match=r"^cannot create "):
        pool.import_image(library[2].path, name)
    assert traces(pool) == before


def test_sources_that_cannot_be(pool: Pool, library: Library, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tar\n" * 1000)
    before = traces(pool)
    for source, form in (
        *((tmp_path / "nosuch", "auto"), (tmp_path / "text", "auto"), (tmp_path / "text", "dir")),
        *((library[2].path, "tar"), (tmp_path / "no\x1bsuch", "auto")),
    ):
        with pytest.raises(SourceError) as caught:
            pool.import_image(source, "tank/i@1", format=form)
        assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
        assert traces(pool) == before


def test_a_quota_refuses_and_leaves_no_trace(pool: Pool, library: Library) -> None:
    pool.import_image(library[2].path, "tank/a/i@1")
    pool.set(["tank/a"], {"quota": str(used(pool, "tank/a") + 20_000)})
    before = traces(pool)
    with pytest.raises(
        NoSpace, match=r"^cannot import 'tank/a/i@2': the quota of 'tank/a' would be exceeded \([0-9.]+K\); raise it"
    ):
        pool.import_image(library[1].path, "tank/a/i@2")
    assert traces(pool) == before
    with pytest.raises(NoSpace):
        pool.import_image(library[1].path, "tank/a/new/dataset@2")
    assert traces(pool) == before
    # What is there already takes no more space, and other datasets are not bound.
    pool.import_image(library[2].path, "tank/a/i@again")
    pool.import_image(library[1].path, "tank/b@2")
    pool.set(["tank/a"], {"quota": "none"})
    pool.import_image(library[1].path, "tank/a/i@2")
    assert not pool.verify("tank/a/i@2", library[1].path)
    compare_with_catalogue(pool)


def test_a_quota_of_the_root_bounds_available(pool: Pool, library: Library) -> None:
    pool.import_image(library[2].path, "tank/a@1")
    before = used(pool, "tank")
    pool.set(["tank"], {"quota": str(before + 1000)})
    values = pool.get("tank/a", ["available", "quota"])
    assert (values["available"].value, values["quota"].value) == (1000, 0)
    pool.set(["tank/a"], {"quota": str(used(pool, "tank/a") + 10)})
    assert pool.get("tank/a", ["available"])["available"].value == 10


@pytest.mark.parametrize(
    ("value", "codec"),
    [
        *(("off", Codec.STORED), ("zle", Codec.STORED), ("lz4", Codec.LZ4), ("gzip-9", Codec.DEFLATE)),
        *(("on", Codec.ZSTD), ("zstd-19", Codec.ZSTD)),
    ],
)
def test_compression_is_that_of_the_dataset(pool: Pool, tmp_path: Path, value: str, codec: Codec) -> None:
    source = write_tree(tmp_path / "tree", {"text": blob(1, 400_000), "noise": blob(2, 200_000)})
    pool.create_dataset("tank/a", {"compression": value})
    pool.import_image(source.path, "tank/a/below@1")
    kinds = {row[0] for row in pool._database.query("SELECT codec FROM object WHERE kind = 1 AND stored < decoded")}
    assert kinds == ({codec} - {Codec.STORED})
    assert not pool.verify("tank/a/below@1", source.path)


@pytest.mark.parametrize("moment", [1, 2, 3, 5])
def test_an_interrupt_leaves_no_trace(
    pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    pool.import_image(library[2].path, "tank/i@1")
    before = traces(pool)
    calls = 0

    def interrupt(_: object, *__: object) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise KeyboardInterrupt

    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 1)
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 64 << 10)
    monkeypatch.setattr("lamina.ingest.progress.Tally.add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.import_image(library[3].path, "tank/new/i@2")
    assert traces(pool) == before
    monkeypatch.undo()


def test_an_error_while_naming_leaves_no_trace(pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.import_image(library[2].path, "tank/i@1")
    before = traces(pool)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(images_module.Intake, "check_commit", fail)
        with pytest.raises(KeyboardInterrupt):
            pool.import_image(library[3].path, "tank/i@2")
    assert traces(pool) == before
    pool.import_image(library[3].path, "tank/i@2")
    assert not pool.verify("tank/i@2", library[3].path)
    compare_with_catalogue(pool)


def test_a_directory_and_its_tar_are_one_image(pool: Pool, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "tree", {"a/b": blob(2, 100_000), "c": b"text"})
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(source.path, arcname=".")
    pool.import_image(source.path, "tank/i@dir")
    stream.seek(0)
    report = pool.import_image(stream, "tank/i@tar")
    assert (report.logical_bytes, report.new_logical_bytes, report.files) == (source.data_bytes, 0, 3)
    assert pool.get("tank/i@tar", ["logicalreferenced"])["logicalreferenced"].value == source.data_bytes


def test_images_of_the_root_dataset(pool: Pool, library: Library) -> None:
    pool.import_image(library[2].path, "tank@1")
    assert not pool.verify("tank@1", library[2].path) and not pool.verify("tank", library[2].path)
    assert pool.destroy("tank", recursive=True).names == ["tank@1"]
    assert used(pool, "tank") == 0
