"""Sums of sizes over sets of objects, next to adding them up one by one."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64

from lamina.pool.figures.sums import NOTHING, Sizes, Sum
from lamina.store.database import Database

ROWS = 3000


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Objects 1 to 3000, every 97th gone."""
    with Database.create(Path(tmp_path_factory.mktemp("sums")) / "db", "") as made:
        generator = random.Random(1)
        with made.transaction():
            made.execute("INSERT INTO pack(id, state, size) VALUES (1, 'sealed', 0)")
            made.execute_many(
                "INSERT INTO object(id, key, pack, offset, stored, decoded, kind, codec, checksum) "
                "VALUES (?, ?, 1, 0, ?, ?, 1, 0, 0)",
                [
                    (n, generator.randbytes(32), generator.randrange(1 << 20), generator.randrange(1 << 20))
                    for n in range(1, ROWS + 1)
                    if n % 97
                ],
            )
        yield made


def brute(database: Database, objects: set[int]) -> tuple[int, int]:
    rows = database.query("SELECT id, stored, decoded FROM object")
    return (sum(s for n, s, _ in rows if n in objects), sum(d for n, _, d in rows if n in objects))


runs = st.tuples(st.integers(1, ROWS), st.integers(1, 400)).map(lambda run: range(run[0], min(sum(run), ROWS + 1)))
sets = st.lists(st.one_of(runs, st.integers(1, ROWS).map(lambda one: [one])), max_size=30).map(
    lambda some: {number for one in some for number in one}
)


@given(sets)
def test_sums_are_those_of_each_row(database: Database, objects: set[int]) -> None:
    assert Sizes(database).sums(BitMap64(objects)) == brute(database, objects)


@given(sets, sets)
def test_a_known_sum_makes_no_difference(database: Database, before: set[int], after: set[int]) -> None:
    """Also where rows that were counted are gone: gc is often faster than accounting."""
    sizes = Sizes(database)
    objects = BitMap64(number for number in after if number % 97)  # what is reached is there
    known = sizes.sum(BitMap64(before))
    gone = brute(database, {number for number in before if number % 97 == 0})
    assert gone == (0, 0)
    found = sizes.sum(objects, known)
    assert (found.stored, found.decoded) == brute(database, set(objects))
    assert found.objects is None or found.objects == objects


def test_what_was_counted_and_is_gone_is_not_taken_off_twice(database: Database) -> None:
    """A set that was summed while all its rows were there."""
    sizes = Sizes(database)
    row = 97 * 5
    before = BitMap64(range(row - 400, row + 400))
    stored, decoded = sizes.sums(before)
    known = Sum(stored + 1000, decoded + 2000, before)  # as if the row had been there, with these sizes
    after = before - BitMap64([row])
    found = sizes.sum(after, known)
    assert (found.stored, found.decoded) == sizes.sums(after)


def test_no_objects_are_nothing(database: Database) -> None:
    assert Sizes(database).sum(BitMap64()) == NOTHING == Sizes(database).sum(BitMap64(), Sum(1, 2, BitMap64([1])))
