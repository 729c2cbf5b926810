"""Connections that are lost, at any byte and in either direction: what has come is kept, the next try goes on."""

import os
import random

import pytest

from lamina.errors import ConnectionLost, LaminaError
from lamina.pool import Pool
from tests.pool.trees import Library
from tests.replication.kit import contents, same_datasets, sound
from tests.replication.sync.kit import Wire, refused, sync

CUTS = int(os.environ.get("LAMINA_KILLS", "4"))


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are handed on a few at a time, so that a small stream passes every state that a large one does."""
    monkeypatch.setattr("lamina.replication.incoming._GROUP_OBJECTS", 2)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 4)


def made(tank: Pool, library: Library) -> None:
    for number in (1, 2, 3, 4):
        tank.import_image(library[number].path, f"tank/top/i@{number}")
    tank.clone("tank/top/i@2", "tank/top/clone")
    tank.import_image(library[5].path, "tank/top/clone@own")


@pytest.mark.parametrize("words", [("tank/top", "nas:back/top"), ("nas:tank/top", "back/top")])
@pytest.mark.parametrize("seed", range(CUTS))
def test_cut_anywhere_and_run_again(
    tank: Pool, back: Pool, library: Library, words: tuple[str, str], seed: int
) -> None:
    made(tank, library)
    rng = random.Random(seed)
    push = words[1].startswith("nas")
    # Each time it is cut somewhere else, in one of the two directions.
    for _ in range(4):
        there = rng.randrange(400_000 if push else 2_000) if rng.random() < 0.7 else None
        answers = rng.randrange(2_000 if push else 400_000) if there is None or rng.random() < 0.3 else None
        wire = Wire([there] if there is not None else [], [answers] if answers is not None else [])
        try:
            sync(*words, recursive=True, wire=wire)
        except LaminaError as error:
            assert "connection" in str(error) or "is no lamina that syncs" in str(error)
        back.gc()
        for tag in ("1", "2", "3", "4"):
            if back.exists(f"back/top/i@{tag}"):
                assert contents(back, f"back/top/i@{tag}") == contents(tank, f"tank/top/i@{tag}")
    sync(*words, recursive=True)
    same_datasets(tank, "tank/top", back, "back/top")
    assert back._database.query("SELECT count(*) FROM partial") == [(0,)]
    back.gc()
    sound(back)


def test_what_has_come_does_not_come_again(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[3].path, "tank/i@1")
    needs = sync("tank/i", "nas:back/i", dry_run=True).outlook
    assert needs is not None
    wire = Wire([needs.size * 9 // 10])
    with pytest.raises(ConnectionLost):
        sync("tank/i", "nas:back/i", wire=wire)
    assert not back.exists("back/i@1")
    back.gc()
    rest = sync("tank/i", "nas:back/i", dry_run=True).outlook
    assert rest is not None and rest.stored < needs.stored
    report = sync("tank/i", "nas:back/i")
    assert report.streamed == rest.size
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)


def test_a_token_of_it_is_good_for_send(tank: Pool, back: Pool, library: Library) -> None:
    """What a sync has kept, ``lamina send -t`` and ``receive`` can go on with."""
    from lamina.replication.tokens import parse_token
    from tests.replication.kit import receive, send

    back.import_image(library[2].path, "back/other@x")
    tank.import_image(library[3].path, "tank/i@1")
    needs = sync("tank/i", "nas:back/i", dry_run=True).outlook
    assert needs is not None
    with pytest.raises(ConnectionLost):
        sync("tank/i", "nas:back/i", wire=Wire([needs.size // 2]))
    token = back.get("back/i", ["receive_resume_token"])["receive_resume_token"].value
    assert isinstance(token, str)
    back.destroy("back/other", recursive=True)
    back.gc()
    receive(back, send(tank, parse_token(token)), "back/i")
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)


def test_another_snapshot_takes_over_what_has_come(tank: Pool, back: Pool, library: Library) -> None:
    """The snapshot that was coming is destroyed at the source before the next try."""
    tank.import_image(library[3].path, "tank/i@1")
    needs = sync("tank/i", "nas:back/i", dry_run=True).outlook
    assert needs is not None
    with pytest.raises(ConnectionLost):
        sync("tank/i", "nas:back/i", wire=Wire([needs.size * 2 // 3]))
    tank.snapshot(["tank/i@2"])
    tank.destroy("tank/i@1")
    report = sync("tank/i", "nas:back/i")
    assert report.done.stored < needs.stored
    assert contents(tank, "tank/i@2") == contents(back, "back/i@2")
    sound(back)


@pytest.mark.parametrize("words", [("tank/i", "nas:back/i"), ("nas:tank/i", "back/i")])
def test_it_tries_again_by_itself(tank: Pool, back: Pool, library: Library, words: tuple[str, str]) -> None:
    for number in (1, 2, 3):
        tank.import_image(library[number].path, f"tank/i@{number}")
    cuts = [60_000, 30_000, 90_000]
    wire = Wire(cuts) if words[1].startswith("nas") else Wire([], cuts)
    report = sync(*words, wire=wire, retries=3)
    assert (report.tries, wire.connections) == (4, 4)
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)


def test_it_gives_up(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[3].path, "tank/i@1")
    wire = Wire([3_000] * 10)
    said = refused("tank/i", "nas:back/i", wire=wire, retries=2)
    assert wire.connections == 3
    assert said.startswith("the connection to 'nas:back/i' ended")
