"""What is done to a pool while its input and output is watched: commands, one after the other."""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.pool import Pool, registry
from lamina.pool.checking.check import check_pool
from lamina.pool.recovery.recover import recover_pool
from lamina.pool.recovery.removing import destroy_pool
from lamina.store.disk import Disk
from lamina.store.record import pack_name
from lamina.store.writer import StoreWriter
from tests.faults.oracle import names_and_contents, summary
from tests.pool.trees import blob, write_tree


@dataclass(frozen=True)
class Bench:
    """Where it happens: the pool's directory, what reaches its files, and trees to import."""

    path: Path
    disk: Disk
    trees: dict[str, Path]

    def open(self) -> Pool:
        return Pool.open(self.path, write=True, disk=self.disk)


Step = Callable[[Bench], None]
"""A command: all of it or nothing, and there when it has returned."""


@dataclass(frozen=True)
class Scenario:
    """``prepared`` is done before anybody watches; ``see`` is what users see of a pool, and has to stay.

    ``after`` is done to what a power loss left, as users are told to.
    """

    name: str
    prepared: list[Step]
    steps: list[Step] = field(default_factory=list)
    see: Callable[[Pool], dict[str, Any]] = names_and_contents
    after: Callable[[Path], None] | None = None


def make_trees(parent: Path) -> dict[str, Path]:
    """Three small trees: ``b`` shares most with ``a``, ``c`` nothing; ``d`` is one file."""
    common = {f"lib/f{seed}": blob(seed, size) for seed, size in ((2, 30_000), (3, 40_000), (4, 70_000), (6, 9_000))}
    made = {
        "a": {**common, "etc/a": blob(11, 900), "big": blob(12, 110_000)},
        "b": {**common, "etc/b": blob(21, 700), "big": blob(22, 50_000)},
        "c": {f"x/f{n}": blob(30 + n, 14_000) for n in range(8)},
        "d": {"one": blob(40, 20_000)},
    }
    return {name: write_tree(parent / name, files).path for name, files in made.items()}


Work = Callable[[Pool, Bench], object]


def on_pool(work: Work) -> Step:
    """A command that opens the pool, does its work and closes it."""

    def step(bench: Bench) -> None:
        with bench.open() as pool:
            work(pool, bench)

    return step


def create(bench: Bench) -> None:
    """``pool create``."""
    Pool.create("tank", bench.path, properties={"compression": "lz4"}, disk=bench.disk).close()


def take_in(tree: str, name: str) -> Step:
    """``image import``."""
    return on_pool(lambda pool, bench: pool.import_image(bench.trees[tree], name, jobs=2))


def destroy(name: str) -> Step:
    """``destroy -r``."""
    return on_pool(lambda pool, bench: pool.destroy(name, recursive=True))


def prop(name: str, **properties: str) -> Step:
    """``set``."""
    return on_pool(lambda pool, bench: pool.set([name], {key.replace("_", ":"): v for key, v in properties.items()}))


def inherit(name: str, prop_: str) -> Step:
    """``inherit``."""
    return on_pool(lambda pool, bench: pool.inherit(name, prop_))


def rename(old: str, new: str) -> Step:
    """``rename``."""
    return on_pool(lambda pool, bench: pool.rename(old, new))


def dataset(name: str) -> Step:
    """``create -p``."""
    return on_pool(lambda pool, bench: pool.create_dataset(name, parents=True))


def checkpoints(mode: str) -> Step:
    """Changes of a property with a checkpoint of the catalogue after each."""

    def work(pool: Pool, bench: Bench) -> None:
        pool._database.query(f"PRAGMA wal_checkpoint({mode})")

    return on_pool(work)


def several(*works: Work) -> list[Step]:
    """Commands of one process: the pool is opened once, so the log of the catalogue lives on between them."""
    held: list[Pool] = []

    def first(bench: Bench) -> None:
        held.append(bench.open())

    def of(work: Work) -> Step:
        def step(bench: Bench) -> None:
            work(held[0], bench)

        return step

    def last(bench: Bench) -> None:
        held.pop().close()

    return [first, *(of(work) for work in works), last]


def collect(pool: Pool, bench: Bench) -> None:
    """``pool gc``."""
    pool.gc()


def beside() -> list[Step]:
    """gc while another process may be sharing what is there: marks first, deletion after it is gone."""
    writers: list[StoreWriter] = []

    def writer_comes(pool: Pool, bench: Bench) -> None:
        writers.append(pool._writer().__enter__())

    def writer_goes(pool: Pool, bench: Bench) -> None:
        writers.pop().close()

    return several(
        writer_comes,
        lambda pool, bench: pool.destroy("tank/i@1"),
        lambda pool, bench: pool.gc(wait=0.0),
        lambda pool, bench: pool.import_image(bench.trees["a"], "tank/back@1"),
        lambda pool, bench: pool.destroy("tank/j", recursive=True),
        lambda pool, bench: pool.gc(wait=0.0),
        writer_goes,
        collect,
    )


def destroy_whole(bench: Bench) -> None:
    """``pool destroy``."""
    _know(bench)
    destroy_pool("tank", bench.disk)


def recover(bench: Bench) -> None:
    """``pool recover -f``."""
    recover_pool(bench.path, force=True, disk=bench.disk)


def recover_again(path: Path) -> None:
    """A recovery that was broken off says so, and is to be begun anew."""
    with Pool.open(path) as pool:
        unfinished = pool._catalogue.meta("recovery") is not None
        problems = check_pool(pool).problems
    assert bool(problems) == unfinished, problems
    if unfinished:
        recover_pool(path, force=True)


def _know(bench: Bench) -> None:
    """The pool of this name is the bench's."""
    with suppress(FileNotFoundError):
        registry.link("tank").unlink()  # type: ignore[union-attr]
    registry.add("tank", bench.path)


def harm_nodes(path: Path) -> None:
    """Damage the first places of tree nodes that have another."""
    query = "SELECT pack, offset FROM object WHERE kind = 2 AND id IN (SELECT object FROM copy) ORDER BY id LIMIT 4"
    with closing(sqlite3.connect(path / "catalogue.db")) as database:
        places = database.execute(query).fetchall()
    assert places
    for pack, offset in places:
        with open(path / "packs" / pack_name(pack), "r+b") as file:
            file.seek(offset + 9)
            byte = file.read(1)
            file.seek(offset + 9)
            file.write(bytes([byte[0] ^ 0x10]))


def scrub(pool: Pool, bench: Bench) -> None:
    """``pool scrub -w``."""
    pool.scrub()


def scrub_again(path: Path) -> None:
    """A scrub that was broken off is gone on with."""
    with Pool.open(path, write=True) as pool:
        assert pool.scrub().errors == 0


def scenarios() -> list[Scenario]:
    """All of them."""
    base: list[Step] = [create, take_in("a", "tank/i@1"), take_in("c", "tank/j@1"), dataset("tank/data/deep")]
    return [
        Scenario("create", [], [create, take_in("d", "tank/i@1")]),
        Scenario("import", base, [take_in("b", "tank/new/k@1"), take_in("a", "tank/i@again")]),
        Scenario("destroy", [*base, take_in("b", "tank/i@2")], [destroy("tank/i@1"), destroy("tank/j")]),
        Scenario(
            "properties",
            base,
            [
                prop("tank/i", compression="gzip-9", user_x="1"),
                prop("tank/i@1", user_y="2"),
                inherit("tank/i", "compression"),
                dataset("tank/data/more"),
            ],
        ),
        Scenario(
            "snapshots",
            [*base, take_in("b", "tank/i@2")],
            several(
                lambda pool, bench: pool.snapshot(["tank@s", "tank/j@s"], recursive=False),
                lambda pool, bench: pool.clone("tank/i@1", "tank/c"),
                lambda pool, bench: pool.hold("keep", ["tank/i@1"]),
                lambda pool, bench: pool.promote("tank/c"),
                lambda pool, bench: pool.bookmark("tank/i@2", "tank/i#mark"),
                lambda pool, bench: pool.release("keep", ["tank/c@1"]),
                lambda pool, bench: pool.snapshot(["tank/i@later"]),
                lambda pool, bench: pool.rollback("tank/i@2", destroy_newer=True),
            ),
        ),
        Scenario(
            "gc",
            [*base, take_in("b", "tank/i@2"), destroy("tank/i@1"), destroy("tank/j")],
            [on_pool(collect), take_in("c", "tank/j@2"), destroy("tank/i"), on_pool(collect)],
        ),
        Scenario("gc-beside", [*base, take_in("b", "tank/i@2")], beside()),
        Scenario("rename", base, [rename("tank/i", "tank/data/i"), rename("tank/j@1", "tank/j@one")]),
        Scenario(
            "scrub",
            [*base, take_in("b", "tank/i@2"), lambda bench: harm_nodes(bench.path)],
            [on_pool(scrub)],
            summary,
            scrub_again,
        ),
        Scenario("pool-destroy", base, [destroy_whole]),
        Scenario("recover", [*base, take_in("b", "tank/i@2"), destroy("tank/j")], [recover], summary, recover_again),
        Scenario(
            "checkpoint",
            base,
            several(
                lambda pool, bench: pool._database.query("PRAGMA wal_autocheckpoint = 3"),
                lambda pool, bench: pool.set(["tank/i"], {"compression": "off"}),
                lambda pool, bench: pool._database.query("PRAGMA wal_checkpoint(TRUNCATE)"),
                lambda pool, bench: pool.import_image(bench.trees["d"], "tank/j@2"),
                lambda pool, bench: pool._database.query("PRAGMA wal_checkpoint(RESTART)"),
                lambda pool, bench: pool.destroy("tank/i@1"),
                lambda pool, bench: pool.set(["tank/j"], {"compression": "zstd"}),
            ),
        ),
    ]


@dataclass(frozen=True)
class Command:
    """One command whose calls fail. ``work`` is what it does with an open pool, ``run`` the whole of it.

    ``harm`` is done to the pool before: then the command is one that mends, and may have to be run twice.
    """

    name: str
    prepared: list[Step]
    run: Step
    work: Work | None = None
    harm: Callable[[Path], None] | None = None


def _command(name: str, prepared: list[Step], work: Work) -> Command:
    return Command(name, prepared, on_pool(work), work)


def commands() -> list[Command]:
    """All of them."""
    base: list[Step] = [create, take_in("a", "tank/i@1")]
    two = [*base, take_in("b", "tank/i@2")]
    gone = [*two, take_in("c", "tank/j@1"), destroy("tank/i@1"), destroy("tank/j")]
    found = [
        Command("create", [], create),
        _command("import", base, lambda pool, bench: pool.import_image(bench.trees["b"], "tank/new/k@1", jobs=2)),
        _command("destroy", two, lambda pool, bench: pool.destroy("tank/i@1")),
        _command("set", base, lambda pool, bench: pool.set(["tank/i"], {"compression": "gzip-9", "user:x": "1"})),
        _command("rename", base, lambda pool, bench: pool.rename("tank/i", "tank/other")),
        _command("gc", gone, collect),
        Command("scrub", two, on_pool(scrub), scrub, harm_nodes),
        _command("clone", base, lambda pool, bench: pool.clone("tank/i@1", "tank/c")),
        _command("create-dataset", base, lambda pool, bench: pool.create_dataset("tank/data/deep", parents=True)),
    ]
    return found
