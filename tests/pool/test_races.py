"""Several processes at one pool."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import AlreadyExists, Busy, LaminaError, NotFound
from lamina.pool import Pool
from lamina.pool.figures.accounting import Accounting
from lamina.store.record import Kind, scan_pack
from tests.pool.processes import run
from tests.pool.records import compare_with_catalogue
from tests.pool.trees import Library, Source, blob, write_tree

ROUNDS = 6


def overlapping(place: Path, number: int) -> list[Source]:
    """Two trees: half of each is in both, new to the pool."""
    shared = {f"shared/s{n}": blob(10_000 + 100 * number + 2 * n, 60_000) for n in range(8)}
    shared |= {f"shared/t{n}": random.Random(number * 50 + n).randbytes(9_000) for n in range(12)}
    return [
        write_tree(place / f"round{number}-{side}", shared | {f"own{n}": random.randbytes(40_000) for n in range(8)})
        for side in (1, 2)
    ]


def take_in(source: Path, name: str) -> str:
    """One import; a refusal is a result."""
    try:
        with Pool.open("tank", write=True) as pool:
            pool.import_image(source, name)
    except LaminaError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def test_two_imports_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 150_000)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 3)
    Pool.create("tank", place / "tank").close()
    kept: dict[str, Source] = {}
    for number in range(ROUNDS):
        sources = overlapping(place, number)
        names = [f"tank/r{number}/i{side}@1" for side in (1, 2)]
        children = [run(take_in, source.path, name) for source, name in zip(sources, names, strict=True)]
        assert [child.result() for child in children] == ["done", "done"]
        kept |= dict(zip(names, sources, strict=True))
    with Pool.open("tank", write=True) as pool:
        for name, source in kept.items():
            assert not pool.verify(name, source.path)
        for (key,) in pool._database.query("SELECT key FROM object"):
            pool.store.get(key, verify=True)
        counts: Counter[bytes] = Counter()
        for path in (pool.path / "packs").iterdir():
            counts.update(r.key for r in scan_pack(path.read_bytes(), pool.guid) if r.kind != Kind.NAMES)
        assert max(counts.values()) <= 2
        assert Accounting(pool._catalogue).figures() == Accounting(pool._catalogue).compute()
        assert pool._database.query("SELECT * FROM lease") == []
        compare_with_catalogue(pool)


def test_two_imports_to_one_name(place: Path) -> None:
    Pool.create("tank", place / "tank").close()
    for number in range(ROUNDS):
        sources = overlapping(place, number)
        name = f"tank/i@{number}"
        results = [child.result() for child in [run(take_in, source.path, name) for source in sources]]
        assert results.count("done") == 1
        refusal = f"AlreadyExists: cannot create snapshot '{name}': dataset already exists"
        assert refusal in results
        with Pool.open("tank") as pool:
            assert not pool.verify(name, sources[results.index("done")].path)
    with Pool.open("tank", write=True) as pool:
        compare_with_catalogue(pool)


def test_an_import_that_fails_beside_one_that_shares(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the failing one has put may be in use by the other: it must stay."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 150_000)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 3)
    Pool.create("tank", place / "tank").close()
    with Pool.open("tank", write=True) as pool:
        pool.create_dataset("tank/small", {"quota": "100K"})
    for number in range(ROUNDS):
        first, second = overlapping(place, number)
        children = [run(take_in, first.path, f"tank/small/i@{number}"), run(take_in, second.path, f"tank/i@{number}")]
        refusal, done = [child.result() for child in children]
        assert refusal.startswith("NoSpace: cannot import ") and done == "done"
        with Pool.open("tank") as pool:
            assert not pool.verify(f"tank/i@{number}", second.path)
            for (key,) in pool._database.query("SELECT key FROM object"):
                pool.store.get(key, verify=True)


def test_names_change_while_others_look(place: Path, library: Library) -> None:
    """List, get, read beside creating, renaming, setting, destroying: an answer or one line, no traceback."""
    with Pool.create("tank", place / "tank") as pool:
        pool.import_image(library[2].path, "tank/keep@1")

    def change(seed: int) -> int:
        generator = random.Random(seed)
        done = 0
        with Pool.open("tank", write=True) as pool:
            while done < 60:
                name = f"tank/{generator.choice('abc')}"
                other = f"tank/{generator.choice('abc')}/{generator.choice('xyz')}"
                steps: list[Callable[[], object]] = [
                    lambda n=name: pool.create_dataset(n),  # type: ignore[misc]
                    lambda n=other: pool.create_dataset(n),  # type: ignore[misc]
                    lambda n=other: pool.import_image(library[3].path, f"{n}@1"),  # type: ignore[misc]
                    lambda n=name, o=other: pool.rename(n, o),  # type: ignore[misc]
                    lambda n=other: pool.rename(f"{n}@1", "2"),  # type: ignore[misc]
                    lambda n=name, o=other: pool.set([n, o], {"user:x": "1", "atime": "off"}),  # type: ignore[misc]
                    lambda n=other: pool.set([f"{n}@1"], {"user:x": "1"}),  # type: ignore[misc]
                    lambda n=name: pool.inherit(n, "atime", recursive=True),  # type: ignore[misc]
                    lambda n=other: pool.inherit(f"{n}@1", "user:x"),  # type: ignore[misc]
                    lambda n=name: pool.destroy(n, recursive=True),  # type: ignore[misc]
                    lambda n=other: pool.destroy(f"{n}@1"),  # type: ignore[misc]
                ]
                try:
                    generator.choice(steps)()
                except (AlreadyExists, NotFound, Busy) as error:
                    assert "\n" not in str(error) or "has children" in str(error)
                except LaminaError as error:
                    assert "descendant" in str(error), error
                done += 1
        return done

    def look() -> int:
        rounds = 0
        ends = time.monotonic() + 2.0
        with Pool.open("tank") as pool:
            while time.monotonic() < ends:
                entries = pool.list(types=("filesystem", "snapshot"))
                try:
                    pool.get_many(entries, None)
                    pool.get_many(entries, ["used", "user:x", "compression"])
                except NotFound as error:
                    assert str(error).startswith("cannot open 'tank/")
                assert pool.tree("tank/keep@1").totals.data_bytes == library[2].data_bytes
                pool.space()
                pool.status()
                rounds += 1
        return rounds

    children = [run(change, 1), run(change, 2), run(look), run(look)]
    assert min(child.result() for child in children) > 10
    with Pool.open("tank", write=True) as pool:
        kept, computed = Accounting(pool._catalogue).figures(), Accounting(pool._catalogue).compute()
        assert kept[1] == computed[1]
        assert {number: kept[0].get(number) or computed[0][number] for number in computed[0]} == computed[0]
        compare_with_catalogue(pool)
