"""Syncs beside gc, imports and each other: what was said to be there is there when the snapshot gets its name."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lamina.errors import LaminaError
from lamina.pool import Pool
from tests.pool.trees import Library
from tests.replication.kit import contents, receive, same_datasets, send, sound
from tests.replication.sync.kit import Wire, sync


@contextmanager
def collecting(path: object) -> Iterator[None]:
    """gc in a loop, beside."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def loop() -> None:
        with Pool.open(str(path), write=True) as pool:
            while not stop.is_set():
                try:
                    pool.gc(wait=0.0)
                except LaminaError:
                    pass  # what is condemned waits for the sync
                except BaseException as error:
                    failures.append(error)
                    return

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not failures, failures


@pytest.mark.parametrize("words", [("tank/new", "nas:back/new"), ("nas:tank/new", "back/new")])
@pytest.mark.parametrize("known", [True, False])
def test_gc_while_it_is_negotiated(
    tank: Pool, back: Pool, library: Library, words: tuple[str, str], known: bool
) -> None:
    """The receiver says that it has something, whose last name goes in the same moment; gc runs all the time."""
    for round_ in range(3):
        gone: list[bool] = []
        tank.import_image(library[2].path, f"tank/new@{round_}a")
        if known:
            receive(back, send(tank, f"tank/new@{round_}a"), "back/old")
        else:
            back.import_image(library[3].path, "back/old@x")
        tank.import_image(library[3].path, f"tank/new@{round_}b")

        def during(passed: int, gone: list[bool] = gone) -> None:
            # The greeting has passed: the inventory is made, or is about to be.
            if not gone and passed > 300:
                gone.append(True)
                with Pool.open(back.path, write=True) as other:
                    other.destroy("back/old", recursive=True)

        with collecting(back.path):
            sync(*words, wire=Wire(during=during))
        if back.exists("back/old"):
            back.destroy("back/old", recursive=True)
        for tag in (f"{round_}a", f"{round_}b"):
            assert contents(back, f"back/new@{tag}") == contents(tank, f"tank/new@{tag}")
        back.gc()
        sound(back)


def test_many_snapshots_while_gc_runs(tank: Pool, back: Pool, library: Library) -> None:
    """What a later snapshot needs was promised before an earlier one got its name."""
    back.import_image(library[5].path, "back/old@x")
    for number in (1, 2, 3, 4, 5):
        tank.import_image(library[number].path, f"tank/i@{number}")
    done: list[bool] = []

    def during(passed: int) -> None:
        if not done and passed > 2000:
            done.append(True)
            with Pool.open(back.path, write=True) as other:
                other.destroy("back/old", recursive=True)

    with collecting(back.path):
        report = sync("tank/i", "nas:back/i", wire=Wire(during=during))
    assert done and report.done.snapshots == 5
    same_datasets(tank, "tank/i", back, "back/i")
    back.gc()
    sound(back)


def test_two_syncs_and_an_import_at_once(tank: Pool, back: Pool, library: Library) -> None:
    for number in (1, 2, 3):
        tank.import_image(library[number].path, f"tank/i@{number}")
    failures: list[BaseException] = []

    def one(word: str) -> None:
        try:
            sync("tank/i", word)
        except BaseException as error:
            failures.append(error)

    def importing() -> None:
        with Pool.open(back.path, write=True) as pool:
            pool.import_image(library[4].path, "back/other@1")

    threads = [
        *(threading.Thread(target=one, args=(word,)) for word in ("nas:back/i", "nas:back/j", "nas:back/i")),
        threading.Thread(target=importing),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    same_datasets(tank, "tank/i", back, "back/i")
    same_datasets(tank, "tank/i", back, "back/j")
    assert contents(back, "back/other@1")
    sound(back)


def test_the_same_sync_within_another(tank: Pool, back: Pool, library: Library) -> None:
    """Another sync of the same snapshots gets there first: the slower one finds them there."""
    for number in (2, 3):
        tank.import_image(library[number].path, f"tank/i@{number}")
    inner: list[int] = []

    def during(passed: int) -> None:
        if not inner and passed > 20_000:
            inner.append(0)
            inner.append(sync("tank/i", "nas:back/i").done.snapshots)

    report = sync("tank/i", "nas:back/i", wire=Wire(during=during))
    assert inner == [0, 2]
    assert report.done.snapshots <= 1
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)


def test_the_source_is_destroyed_while_it_is_sent(tank: Pool, back: Pool, library: Library) -> None:
    for number in (2, 3):
        tank.import_image(library[number].path, f"tank/i@{number}")
    before = contents(tank, "tank/i@3")
    done: list[bool] = []

    def during(passed: int) -> None:
        if not done and passed > 10_000:
            done.append(True)
            with Pool.open(tank.path, write=True) as other:
                other.destroy("tank/i", recursive=True)
                other.gc()

    sync("tank/i", "nas:back/i", wire=Wire(during=during))
    assert done and contents(back, "back/i@3") == before
    assert not tank._database.query("SELECT 1 FROM pin")
    sound(back)
