"""Snapshots, clones, holds and destroys of several processes at once."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import AlreadyExists, Busy, LaminaError, NotFound
from lamina.pool import Pool
from lamina.pool.figures.accounting import Accounting
from tests.pool.names import copied, names, rows
from tests.pool.processes import run
from tests.pool.records import compare_with_catalogue

Step = Callable[[Pool], object]


def cloned(pool: Pool) -> None:
    """What some of the steps need."""
    pool.clone("tank/images@2", "tank/c")
    pool.hold("old", ["tank/images/base@1"])


# (what one process does, what another does just before its transaction, refusal)
OVERTAKEN: list[tuple[Step, Step, type[LaminaError], str]] = [
    (
        lambda pool: pool.snapshot(["tank/a@x", "tank/images@x"]),
        lambda pool: pool.snapshot(["tank/images@x"]),
        AlreadyExists,
        "cannot create snapshot 'tank/images@x': dataset already exists",
    ),
    (
        lambda pool: pool.snapshot(["tank/a@x"], recursive=True),
        lambda pool: pool.destroy("tank/a", recursive=True),
        NotFound,
        "cannot open 'tank/a': dataset does not exist",
    ),
    (
        lambda pool: pool.clone("tank/images@1", "tank/new"),
        lambda pool: pool.destroy("tank/images@1"),
        NotFound,
        "cannot open 'tank/images@1': dataset does not exist",
    ),
    (
        lambda pool: pool.clone("tank/images@1", "tank/a/x/new", parents=True),
        lambda pool: pool.create_dataset("tank/a/x/new", parents=True) and pool.destroy("tank/images@1"),
        NotFound,
        "cannot open 'tank/images@1': dataset does not exist",
    ),
    (
        lambda pool: pool.destroy("tank/images@1"),
        lambda pool: pool.clone("tank/images@1", "tank/new"),
        Busy,
        "cannot destroy 'tank/images@1': snapshot has dependent clones",
    ),
    (
        lambda pool: pool.destroy("tank/images@1"),
        lambda pool: pool.hold("x", ["tank/images@1"]),
        Busy,
        "cannot destroy snapshot tank/images@1: it's being held.",
    ),
    (
        lambda pool: pool.destroy("tank/images@1"),
        lambda pool: pool.rename("tank/images@1", "other"),
        NotFound,
        "could not find any snapshots to destroy; check snapshot names.",
    ),
    (
        lambda pool: pool.destroy_snapshots(["tank/images@1"]),
        lambda pool: pool.destroy("tank/images@1"),
        NotFound,
        "cannot destroy snapshot tank/images@1: dataset does not exist",
    ),
    (
        lambda pool: pool.destroy("tank/c"),
        lambda pool: pool.snapshot(["tank/c@x"]),
        Busy,
        "cannot destroy 'tank/c': filesystem has children",
    ),
    (
        lambda pool: pool.rollback("tank/images@2"),
        lambda pool: pool.snapshot(["tank/images@3"]),
        Busy,
        "cannot rollback to 'tank/images@2': more recent snapshots or bookmarks exist",
    ),
    (
        lambda pool: pool.rollback("tank/a@x", destroy_newer=True),
        lambda pool: pool.clone("tank/a@y", "tank/new"),
        Busy,
        "cannot rollback to 'tank/a@x': clones of previous snapshots exist",
    ),
    (
        lambda pool: pool.promote("tank/c"),
        lambda pool: pool.promote("tank/c"),
        LaminaError,
        "cannot promote 'tank/c': not a cloned filesystem",
    ),
    (
        lambda pool: pool.promote("tank/c"),
        lambda pool: pool.snapshot(["tank/c@1"]),
        AlreadyExists,
        "cannot promote 'tank/c': conflicting snapshot '1' from parent 'tank/images@2'",
    ),
    (
        lambda pool: pool.hold("x", ["tank/images@1"]),
        lambda pool: pool.hold("x", ["tank/images@1"]),
        AlreadyExists,
        "cannot hold snapshot 'tank/images@1': tag already exists on this dataset",
    ),
    (
        lambda pool: pool.release("old", ["tank/images/base@1"]),
        lambda pool: pool.release("old", ["tank/images/base@1"]),
        LaminaError,
        "cannot release hold from snapshot 'tank/images/base@1': no such tag on this dataset",
    ),
    (
        lambda pool: pool.bookmark("tank/images@1", "tank/images#b"),
        lambda pool: pool.destroy("tank/images@1"),
        NotFound,
        "cannot open 'tank/images@1': dataset does not exist",
    ),
    (
        lambda pool: pool.bookmark("tank/images@1", "tank/images#b"),
        lambda pool: pool.bookmark("tank/images@2", "tank/images#b"),
        AlreadyExists,
        "cannot create bookmark 'tank/images#b': bookmark exists",
    ),
    (
        lambda pool: pool.rename("tank/images@1", "tank/images@x", recursive=True),
        lambda pool: pool.snapshot(["tank/images/base@x"]),
        AlreadyExists,
        "cannot rename 'tank/images/base@1': dataset already exists",
    ),
    (
        lambda pool: pool.rename("tank/images", "tank/a/moved"),
        lambda pool: pool.destroy("tank/a", recursive=True),
        NotFound,
        "cannot create 'tank/a/moved': parent does not exist",
    ),
]


@pytest.mark.parametrize(("step", "before", "kind", "words"), OVERTAKEN, ids=[case[3][:60] for case in OVERTAKEN])
def test_what_was_asked_is_asked_again_in_the_transaction(
    filled: Pool, monkeypatch: pytest.MonkeyPatch, step: Step, before: Step, kind: type[LaminaError], words: str
) -> None:
    cloned(filled)
    if "tank/a@x" in words:
        filled.snapshot(["tank/a@x"])
        filled.snapshot(["tank/a@y"])
    real = Pool._writer
    seen: list[object] = []

    def overtaken(self: Pool, *arguments: object) -> object:
        monkeypatch.setattr(Pool, "_writer", real)
        with Pool.open("tank", write=True) as other:
            before(other)
        seen.append(rows(filled))
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Pool, "_writer", overtaken)
    with pytest.raises(kind) as caught:
        step(filled)
    assert str(caught.value).startswith(words)
    assert seen == [rows(filled)]
    compare_with_catalogue(filled)


def test_random_steps_of_several_processes(template: Path, place: Path) -> None:
    copied(template, place / "tank").close()

    def change(seed: int) -> int:
        generator = random.Random(seed)
        done = 0
        with Pool.open("tank", write=True) as pool:
            for _ in range(50):
                dataset = generator.choice(["tank/images", "tank/a", "tank/c1", "tank/c2", "tank/a/c3"])
                other = generator.choice(["tank/c1", "tank/c2", "tank/a/c3"])
                name = f"{dataset}@{generator.choice('123')}"
                some = generator.random() < 0.5
                steps: list[Callable[[], object]] = [
                    lambda n=name: pool.snapshot([n]),  # type: ignore[misc]
                    lambda n=name: pool.snapshot([n], recursive=True),  # type: ignore[misc]
                    lambda n=name, o=other: pool.clone(n, o, parents=True),  # type: ignore[misc]
                    lambda n=name, o=other: pool.clone(n, o, parents=True),  # type: ignore[misc]
                    lambda o=other: pool.promote(o),  # type: ignore[misc]
                    lambda n=name, s=some: pool.rollback(n, destroy_newer=s, destroy_clones=s),  # type: ignore[misc]
                    lambda n=name, s=some: pool.hold("x", [n], recursive=s),  # type: ignore[misc]
                    lambda n=name, s=some: pool.release("x", [n], recursive=s),  # type: ignore[misc]
                    lambda n=name: pool.destroy(n, defer=True),  # type: ignore[misc]
                    lambda n=name, s=some: pool.destroy(f"{n}%3", recursive=s),  # type: ignore[misc]
                    lambda o=other, s=some: pool.destroy(o, clones=s),  # type: ignore[misc]
                    lambda n=name, d=dataset: pool.bookmark(n, f"{d}#b"),  # type: ignore[misc]
                    lambda d=dataset: pool.destroy(f"{d}#b"),  # type: ignore[misc]
                    lambda n=name, s=some: pool.rename(n, "2", recursive=s),  # type: ignore[misc]
                ]
                try:
                    generator.choice(steps)()
                    done += 1
                except (AlreadyExists, NotFound, Busy):
                    pass
                except LaminaError as error:
                    assert "not a cloned filesystem" in str(error) or "no such tag" in str(error), error
        return done

    children = [run(change, 1), run(change, 2), run(change, 3)]
    assert min(child.result(120.0) for child in children) > 3
    with Pool.open("tank", write=True) as pool:
        assert pool._database.query("PRAGMA foreign_key_check") == []
        free = (
            "SELECT s.id FROM snapshot s WHERE s.defer AND s.id NOT IN (SELECT snapshot FROM hold) "
            "AND s.id NOT IN (SELECT origin FROM dataset WHERE origin IS NOT NULL)"
        )
        assert pool._database.query(free) == []
        assert pool._database.query("SELECT * FROM lease") == []
        assert Accounting(pool._catalogue).figures() == Accounting(pool._catalogue).compute()
        for name in names(pool, "filesystem", "snapshot"):
            assert pool.tree(name).totals.inodes > 0
        compare_with_catalogue(pool)
