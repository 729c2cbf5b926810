"""Every figure of every name, after random histories, next to a brute-force walk."""

import os
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.pool import Pool
from lamina.pool.figures.accounting import Accounting, Figures
from lamina.pool.figures.reach import Sets
from lamina.store.database import Database
from tests.pool.machine import Histories
from tests.pool.model import ratio
from tests.pool.trees import Library

EXAMPLES = int(os.environ.get("LAMINA_HISTORIES", "30"))


def test_histories(library: Library) -> None:
    class WithLibrary(Histories):
        pass

    WithLibrary.library = library
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        WithLibrary,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_ratios_are_cut_and_never_below_one() -> None:
    assert [ratio(*pair) for pair in ((299, 100), (2999, 1000), (1, 2), (5, 0))] == [2.99, 2.99, 1.0, 1.0]


def test_unique_is_what_a_destroy_gives_back(pool: Pool, library: Library) -> None:
    shared, alone = library[2], library[1]
    pool.import_image(shared.path, "tank/a@1")
    pool.import_image(shared.path, "tank/b@1")
    pool.import_image(alone.path, "tank/b@2")
    values = pool.get("tank/a@1", ["unique", "used", "referenced"])
    assert (values["unique"].value, values["used"].value) == (0, 0)
    assert pool.destroy("tank/a@1", dry_run=True).reclaim == 0
    unique = pool.get("tank/b", ["unique"])["unique"].value
    assert pool.destroy("tank/b", recursive=True, measure=True).reclaim == unique
    assert pool.get("tank/a@1", ["unique"])["unique"].value == values["referenced"].value


def all_figures(pool: Pool) -> tuple[dict[int, Figures], dict[int, Figures]]:
    """As kept, or computed from what was kept."""
    return Accounting(pool._catalogue).figures()


def from_nothing(pool: Pool) -> tuple[dict[int, Figures], dict[int, Figures]]:
    """As computed without anything that was kept."""
    return Accounting(pool._catalogue).compute()


def kept(pool: Pool) -> list[list[object]]:
    """Everything that accounting has kept."""
    tables = ("reach", "figure", "share", "resized", "meta")
    return [pool._database.query(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables[:3]] + [
        pool._database.query(f"SELECT * FROM {table}") for table in tables[3:]
    ]


def some_names(pool: Pool, library: Library) -> None:
    """Images that share, a clone with a snapshot of its own, and one below it."""
    for number, source in enumerate(library[2:6]):
        pool.import_image(source.path, f"tank/i{number % 2}@{number}")
    pool.clone("tank/i0@0", "tank/i1/c")
    pool.snapshot(["tank/i1/c@s", "tank@s"])


def test_a_reader_that_may_not_write_computes_for_itself(
    pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_names(pool, library)
    before = kept(pool)
    with Pool.open("tank") as reader:
        monkeypatch.setattr("lamina.pool.figures.ledger.os.access", lambda path, mode: False)
        assert all_figures(reader) == from_nothing(reader)
        unique = reader.get("tank/i1@1", ["unique"])["unique"].value
        assert kept(pool) == before
        monkeypatch.undo()
        # One that may keeps what it computed, though it only reads, for whoever comes next.
        assert all_figures(reader) == from_nothing(reader)
        assert kept(pool) != before
        assert reader.get("tank/i1@1", ["unique"])["unique"].value == unique
        again = kept(pool)
        assert all_figures(reader) == from_nothing(reader)
        assert kept(pool) == again


def test_a_reader_does_not_wait_for_a_writer(pool: Pool, library: Library) -> None:
    """What it computed is not kept while another process writes."""
    some_names(pool, library)
    before = kept(pool)
    with Pool.open("tank") as reader, pool._database.transaction():
        assert all_figures(reader) == from_nothing(reader)
    assert kept(pool) == before


def test_a_change_costs_what_it_changes(pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trees that are looked at are those of the dataset in which something changed, not those of the others."""
    for number in range(12):
        pool.import_image(library[2 + number % 5].path, f"tank/i{number}@1")
        pool.clone(f"tank/i{number}@1", f"tank/c{number}")
    pool.import_image(library[3].path, "tank/i5@2")
    looked: list[int] = []
    real = Sets.trees

    def noted(self: Sets, roots: Iterable[int]) -> Iterator[tuple[int, BitMap64]]:
        roots = list(roots)
        looked.extend(roots)
        return real(self, roots)

    monkeypatch.setattr(Sets, "trees", noted)
    pool.get("tank", ["used"])
    assert not looked  # the import has brought the figures up to date
    pool.snapshot(["tank/i5@s"])
    assert not looked  # a snapshot does not: it has to be quick
    pool.get("tank", ["used"])
    own = {pool.root(f"tank/i5@{tag}") for tag in ("1", "2", "s")}
    assert set(looked) <= own and looked
    looked.clear()
    pool.list(types=("filesystem", "snapshot"))
    pool.get_many(pool.list(types=("filesystem", "snapshot")), ["used", "referenced", "available", "logicalused"])
    assert not looked


def test_many_snapshots_of_one_tree_are_one(pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.import_image(library[2].path, "tank/i@1")
    pool.snapshot([f"tank/i@s{number}" for number in range(200)])
    assert all_figures(pool) == from_nothing(pool)
    assert len(pool._database.query("SELECT * FROM share WHERE part = 'used'")) == 0
    pool.destroy_snapshots([f"tank/i@s{number}" for number in range(200)])
    assert all_figures(pool) == from_nothing(pool)


@pytest.mark.parametrize("stored", [1, 1 << 20])
def test_an_object_that_is_stored_anew_in_another_size(
    pool: Pool, library: Library, stored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repair, or an import under another compression that brings what was condemned."""
    some_names(pool, library)
    all_figures(pool)
    before = kept(pool)
    for key in [key for (key,) in pool._database.query("SELECT key FROM object WHERE kind = 1 LIMIT 3")]:
        with pool._database.transaction():
            pool._database.execute("UPDATE object SET stored = ? WHERE key = ?", (stored, key))
    with Pool.open("tank") as reader:
        monkeypatch.setattr("lamina.pool.figures.ledger.os.access", lambda path, mode: False)
        assert all_figures(reader) == from_nothing(reader)
        assert kept(pool)[:3] == before[:3]
        monkeypatch.undo()
        pool.snapshot(["tank/i0@more"])
        assert all_figures(reader) == from_nothing(reader)
    sizes = dict(pool._database.query("SELECT id, stored FROM object"))
    for root, total, objects in pool._database.query("SELECT root, stored, objects FROM tree"):
        assert total == sum(sizes[number] for number in BitMap64.deserialize(objects)), root
    assert pool._database.query("SELECT * FROM resized") == []


def test_a_root_that_is_made_anew_with_other_rows(pool: Pool, library: Library) -> None:
    """gc had deleted some of an image's objects when it came back: its root keeps its row, they get new ones."""
    some_names(pool, library)
    all_figures(pool)
    root = pool.root("tank/i0@0")
    ((blob, stored),) = pool._database.query("SELECT objects, stored FROM tree WHERE root = ?", (root,))
    objects = BitMap64.deserialize(blob)
    old = next(number for number in objects if number != root)
    with pool._database.transaction():
        columns = "pack, offset, stored, decoded, kind, codec, checksum"
        new = pool._database.execute(
            f"INSERT INTO object(key, {columns}) SELECT zeroblob(32), {columns} FROM object WHERE id = ?", (old,)
        )
        objects.remove(old)
        objects.add(new)
        names = "inodes, files, directories, data_bytes, stored, decoded"
        pool._database.execute(
            f"INSERT OR REPLACE INTO tree(root, {names}, objects) SELECT root, {names}, ? FROM tree WHERE root = ?",
            (objects.serialize(), root),
        )
        pool._catalogue.set_meta("generation", pool._catalogue.generation() + 1)
    assert all_figures(pool) == from_nothing(pool)
    assert pool.get("tank/i0@0", ["referenced"])["referenced"].value == stored


def test_figures_are_of_one_moment(pool: Pool, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process changes names, and gc takes what they reached, after any of the queries of a reader."""
    some_names(pool, library)
    real = Database.query
    asked = place = 0

    def overtaken(self: Database, sql: str, parameters: Sequence[object] = ()) -> list[object]:
        nonlocal asked
        found = real(self, sql, parameters)
        asked += 1
        if asked >= place and not self._depth:  # nobody comes in while it writes
            monkeypatch.setattr(Database, "query", real)
            change(pool, library, place)
        return found

    while asked >= place:
        asked, place = 0, place + 2
        pool.snapshot([f"tank/i0@s{place}", f"tank/i1/c@s{place}"])  # so that there is something to compute
        before = from_nothing(pool)
        with Pool.open("tank") as reader:
            monkeypatch.setattr(Database, "query", overtaken)
            found = all_figures(reader)
            monkeypatch.setattr(Database, "query", real)
            assert found in (before, from_nothing(pool))
            assert all_figures(reader) == from_nothing(pool)
    assert place > 30, asked


def change(pool: Pool, library: Library, number: int) -> None:
    """Let an image go and bring it, or another, back: in a dataset of its own, or beside others."""
    name = ("tank/x", "tank/i0")[number % 2]
    if pool.exists(f"{name}@x"):
        pool.destroy(f"{name}@x")
        pool.gc()
    else:
        pool.import_image(library[3 + number % 3].path, f"{name}@x")


def test_what_is_left_over_of_a_dataset_goes(pool: Pool, library: Library) -> None:
    some_names(pool, library)
    all_figures(pool)
    pool.destroy("tank/i1", recursive=True, clones=True)
    pool.rename("tank/i0", "tank/j")
    assert all_figures(pool) == from_nothing(pool)
    there = {number for (number,) in pool._database.query("SELECT id FROM dataset")}
    for table in ("reach", "figure", "share"):
        assert {number for (number,) in pool._database.query(f"SELECT dataset FROM {table}")} <= there


def test_what_names_reach(pool: Pool, library: Library) -> None:
    some_names(pool, library)
    pool.destroy("tank/i1@3")
    roots = {pool.root(entry.name) for entry in pool.list(types=("filesystem", "snapshot"))} - {None}
    whole = BitMap64()
    for root, objects in pool._database.query("SELECT root, objects FROM tree"):
        if root in roots:
            whole |= BitMap64.deserialize(objects)
    assert Accounting(pool._catalogue).reached() == whole


def test_a_set_that_cannot_be_read_is_one_line(pool: Pool, library: Library) -> None:
    some_names(pool, library)
    with pool._database.transaction():
        pool._database.execute("UPDATE tree SET objects = x'00', stamp = random()")
        pool._catalogue.set_meta("generation", pool._catalogue.generation() + 1)
    with pytest.raises(DamagedData, match="the catalogue is damaged") as caught:
        pool.get("tank", ["used"])
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in pool.list()] == ["tank", "tank/i0", "tank/i1", "tank/i1/c"]
