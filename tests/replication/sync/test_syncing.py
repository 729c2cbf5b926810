"""What a sync brings: snapshots with all that belongs to them, objects once, names in line; in few round trips."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from lamina.errors import UsageError
from lamina.pool import Pool
from lamina.replication.sync.places import Place, parse_place
from tests.pool.trees import Library, write_tree
from tests.replication.kit import contents, receive, same_datasets, send, sound, state
from tests.replication.sync.kit import refused, sync

FAR = pytest.mark.parametrize("far", ["push", "pull"])


def places(far: str, source: str, destination: str) -> tuple[str, str]:
    return (source, f"nas:{destination}") if far == "push" else (f"nas:{source}", destination)


def snapshots(pool: Pool, name: str) -> list[str]:
    return [one.name.partition("@")[2] for one in pool.list([name], types=("snapshot",))]


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("tank/a", Place(None, "tank/a")),
        ("tank/a:b@c", Place(None, "tank/a:b@c")),
        ("nas:tank/a", Place("nas", "tank/a")),
        ("me@nas:tank/a@s", Place("me@nas", "tank/a@s")),
        ("me@[::1]:tank", Place("me@::1", "tank")),
        ("[fe80::1%eth0]:tank", Place("fe80::1%eth0", "tank")),
    ],
)
def test_places(word: str, place: Place) -> None:
    assert parse_place(word) == place


@pytest.mark.parametrize("word", ["", ":tank", "nas:", "-oProxyCommand=x:tank"])
def test_what_is_no_place(word: str) -> None:
    with pytest.raises(UsageError):
        parse_place(word)


@FAR
def test_a_dataset_and_what_is_new(tank: Pool, back: Pool, library: Library, far: str) -> None:
    for number in (1, 2, 3):
        tank.import_image(library[number].path, f"tank/i@{number}")
    first = sync(*places(far, "tank/i", "back/i"))
    assert (first.done.snapshots, first.tries) == (3, 1)
    assert first.streamed == len(send(tank, "tank/i@3", recursive=True)) - _package(tank)
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)
    tank.import_image(library[4].path, "tank/i@4")
    second = sync(*places(far, "tank/i", "back/i"))
    assert second.done.snapshots == 1
    assert second.rounds <= 3
    same_datasets(tank, "tank/i", back, "back/i")
    before = state(back)
    third = sync(*places(far, "tank/i", "back/i"))
    assert (third.done.snapshots, third.outlook and third.outlook.objects) == (0, 0)
    assert state(back) == before, "nothing is written where nothing is new"
    assert second.negotiated < 4096 and third.negotiated < 4096


def _package(tank: Pool) -> int:
    """Bytes by which a package is longer than a stream of the same snapshots."""
    from tests.replication.kit import plan

    found = plan(tank, "tank/i@3", recursive=True)
    kept = sum(24 + len(one.payload()) for one in found.kept)
    import dataclasses

    begin = dataclasses.replace(found.begin, package=False, snapshot="")
    datasets = [dataclasses.replace(one, properties=None) for one in found.datasets]
    shorter = sum(len(a.payload()) - len(b.payload()) for a, b in zip(found.datasets, datasets, strict=True))
    return kept + shorter + len(found.begin.payload()) - len(begin.payload())


@FAR
def test_another_dataset_has_most_of_it(tank: Pool, back: Pool, library: Library, far: str) -> None:
    """The second image goes to another dataset: of what the first one has nothing travels."""
    back.import_image(library[2].path, "back/other@old")
    tank.import_image(library[2].path, "tank/elsewhere@x")
    tank.import_image(library[3].path, "tank/new@1")
    has = {key for (key,) in back._database.query("SELECT key FROM object")}
    wanted = tree_keys(tank, "tank/new@1")
    report = sync(*places(far, "tank/new", "back/new"))
    assert report.outlook is not None
    assert report.outlook.objects == len(wanted - has) < len(wanted)
    assert contents(tank, "tank/new@1") == contents(back, "back/new@1")
    sound(back)
    assert report.rounds <= 3


def tree_keys(pool: Pool, name: str) -> set[bytes]:
    from pyroaring import BitMap64

    root = pool.root(name)
    rows = pool._database.query("SELECT objects FROM tree WHERE root = ?", (root,))
    return {one.key for one in pool.store.locate_ids(list(BitMap64.deserialize(rows[0][0])))}


@FAR
def test_a_tree_that_is_known_is_not_asked_about(tank: Pool, back: Pool, library: Library, far: str) -> None:
    tank.import_image(library[2].path, "tank/a@1")
    receive(back, send(tank, "tank/a@1"), "back/elsewhere")
    tank.snapshot(["tank/a@2"])
    report = sync(*places(far, "tank/a@2", "back/b"))
    assert report.outlook is not None and report.outlook.objects == 0
    assert report.negotiated < 2048
    assert contents(back, "back/b@2") == contents(tank, "tank/a@2")


def test_an_empty_pool_is_asked_nothing(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/a@1")
    report = sync("tank/a", "nas:back/a")
    assert report.negotiated < 1600
    assert (report.rounds, report.done.snapshots) == (3, 1)


@FAR
def test_one_snapshot_alone(tank: Pool, back: Pool, library: Library, far: str) -> None:
    for number in (1, 2, 3, 4):
        tank.import_image(library[number].path, f"tank/i@{number}")
    sync(*places(far, "tank/i@2", "back/i"))
    assert snapshots(back, "back/i") == ["2"]
    sync(*places(far, "tank/i@4", "back/i"))
    assert snapshots(back, "back/i") == ["2", "4"]
    same = sync(*places(far, "tank/i@4", "back/i"))
    assert same.done.snapshots == 0
    assert contents(back, "back/i@4") == contents(tank, "tank/i@4")
    sound(back)


def family(tank: Pool, library: Library) -> None:
    """Datasets within each other, clones, holds, bookmarks, properties."""
    tank.create_dataset("tank/top", {"compression": "lz4"})
    tank.create_dataset("tank/top/box")
    tank.import_image(library[2].path, "tank/top/box/a@1")
    tank.import_image(library[3].path, "tank/top/box/a@2")
    tank.clone("tank/top/box/a@1", "tank/top/clone")
    tank.snapshot(["tank/top@all"], recursive=True)
    tank.import_image(library[4].path, "tank/top/clone@own")
    tank.set(["tank/top/clone"], {"org:note": "x"})
    tank.hold("keep", ["tank/top/box/a@2"])
    tank.bookmark("tank/top/box/a@2", "tank/top/box/a#mark")


@FAR
def test_all_below(tank: Pool, back: Pool, library: Library, far: str) -> None:
    family(tank, library)
    sync(*places(far, "tank/top", "back/copy"), recursive=True, holds=True)
    same_datasets(tank, "tank/top", back, "back/copy", properties=True)
    sound(back)
    before = state(back)
    assert sync(*places(far, "tank/top", "back/copy"), recursive=True, holds=True).done.snapshots == 0
    assert state(back) == before
    tank.import_image(library[5].path, "tank/top/box/a@3")
    tank.create_dataset("tank/top/late")
    tank.create_dataset("tank/top/late/er", {"org:word": "y"})
    tank.snapshot(["tank/top/box@first"])
    tank.set(["tank/top/clone"], {"org:note": "z"})
    tank.destroy("tank/top/box/a#mark")
    sync(*places(far, "tank/top", "back/copy"), recursive=True, holds=True)
    same_datasets(tank, "tank/top", back, "back/copy", properties=True)
    sound(back)


def test_all_below_up_to_a_snapshot(tank: Pool, back: Pool, library: Library) -> None:
    family(tank, library)
    sync("tank/top@all", "back/copy", recursive=True)
    assert snapshots(back, "back/copy/box/a") == ["1", "2", "all"]
    assert snapshots(back, "back/copy/clone") == ["all"]
    assert back.get("back/copy/clone", ["origin"])["origin"].value == "back/copy/box/a@1"
    sync("tank/top", "back/copy", recursive=True)
    same_datasets(tank, "tank/top", back, "back/copy")


def test_from_a_bookmark(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    sync("tank/i", "back/i")
    tank.bookmark("tank/i@1", "tank/i#was")
    tank.import_image(library[3].path, "tank/i@2")
    tank.destroy("tank/i@1")
    tank.gc()
    report = sync("tank/i", "back/i")
    assert report.done.snapshots == 1
    assert snapshots(back, "back/i") == ["1", "2"]
    assert contents(back, "back/i@2") == contents(tank, "tank/i@2")
    sound(back)


def test_parents(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    before = state(back)
    said = refused("tank/i", "nas:back/x/y/z")
    assert said == (
        "nas: cannot open 'back/x/y': dataset does not exist\n"
        "cannot receive new filesystem stream: unable to restore to destination"
    )
    assert state(back) == before
    sync("tank/i", "nas:back/x/y/z", parents=True)
    assert contents(back, "back/x/y/z@1") == contents(tank, "tank/i@1")


def test_an_empty_dataset_is_as_good_as_none(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    back.create_dataset("back/i", {"org:mine": "1"})
    sync("tank/i", "back/i")
    assert contents(back, "back/i@1") == contents(tank, "tank/i@1")
    assert back.get("back/i", ["org:mine"])["org:mine"].value == "1"


@FAR
def test_a_destination_that_went_its_own_way(tank: Pool, back: Pool, library: Library, far: str) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    sync(*places(far, "tank/i", "back/i"))
    back.import_image(library[3].path, "back/i@mine")
    tank.import_image(library[4].path, "tank/i@2")
    before = state(back)
    host = "nas: " if far == "push" else ""
    assert refused(*places(far, "tank/i", "back/i")) == (
        f"{host}cannot receive incremental stream: destination back/i has been modified\n"
        "since most recent snapshot; -F takes it back to the newest one that both have"
    )
    assert state(back) == before
    back.import_image(library[3].path, "back/other@mine")
    said = refused(*places(far, "tank/i", "back/other"))
    assert said.endswith("destination 'back/other' exists\nmust specify -F to overwrite it")
    sync(*places(far, "tank/i", "back/i"), force=True)
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)


def test_one_dataset_of_many_is_refused(tank: Pool, back: Pool, library: Library) -> None:
    for name in ("a", "b", "c"):
        tank.import_image(library[2].path, f"tank/top/{name}@1")
    sync("tank/top", "back/top", recursive=True)
    back.import_image(library[3].path, "back/top/b@mine")
    for name in ("a", "b", "c"):
        tank.import_image(library[4].path, f"tank/top/{name}@2")
    report = sync("tank/top", "back/top", recursive=True)
    assert report.outlook is not None
    assert list(report.outlook.verdict.refused.values()) == [
        "cannot receive incremental stream: destination back/top/b has been modified\n"
        "since most recent snapshot; -F takes it back to the newest one that both have"
    ]
    assert [snapshots(back, f"back/top/{name}") for name in "abc"] == [["1", "2"], ["1", "mine"], ["1", "2"]]
    for name in ("a", "c"):
        assert contents(back, f"back/top/{name}@2") == contents(tank, f"tank/top/{name}@2")
    sound(back)


def test_a_name_that_is_taken_stops_nothing_else(tank: Pool, back: Pool, library: Library) -> None:
    """Both sides make snapshots of the same name by themselves."""
    for name in ("a", "b"):
        tank.import_image(library[2].path, f"tank/top/{name}@1")
    sync("tank/top", "back/top", recursive=True)
    tank.snapshot(["tank/top/a@hourly", "tank/top/b@hourly", "tank/top/a@daily"])
    back.snapshot(["back/top/a@daily"])
    report = sync("tank/top", "back/top", recursive=True)
    assert report.outlook is not None
    assert list(report.outlook.verdict.refused.values()) == [
        "cannot restore to back/top/a@daily: destination already exists"
    ]
    assert snapshots(back, "back/top/b") == ["1", "hourly"]


def test_properties_there(tank: Pool, back: Pool, library: Library) -> None:
    family(tank, library)
    back.create_dataset("back/copy", {"org:mine": "1"})
    sync(
        *("tank/top", "nas:back/copy"),
        recursive=True,
        properties={"org:set": "2", "compression": "zstd-5"},
        excluded=("org:note",),
    )
    found = back.get("back/copy", ["org:set", "org:mine", "compression"])
    assert [one.value for one in found.values()] == ["2", "1", "zstd-5"]
    assert "org:note" not in back.get("back/copy/clone") or back.get("back/copy/clone")["org:note"].value in (None, "-")


def test_history_tells_what_was_typed(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    sync("tank/i", "nas:back/i", command="lamina sync tank/i nas:back/i")
    assert [line.command for line in back.history()][-1] == "lamina sync tank/i nas:back/i"


@FAR
def test_a_dry_run_says_exactly_what_would_be(tank: Pool, back: Pool, library: Library, far: str) -> None:
    family(tank, library)
    words = places(far, "tank/top", "back/copy")
    sync(*words, recursive=True)
    tank.import_image(library[5].path, "tank/top/box/a@3")
    tank.release("keep", ["tank/top/box/a@2"])
    tank.destroy("tank/top/box/a@2")
    tank.rename("tank/top/box/a@all", "tank/top/box/a@every")
    before = state(back)
    would = sync(*words, recursive=True, prune=True, dry_run=True).outlook
    assert state(back) == before
    report = sync(*words, recursive=True, prune=True)
    assert would is not None and report.outlook is not None
    assert [(one.name, one.base) for one in would.parts] == [("tank/top/box/a@3", "every")]
    assert (would.size, would.objects) == (report.outlook.size, report.outlook.objects)
    assert report.streamed == would.size
    assert would.verdict.destroyed == report.done.destroyed == ["back/copy/box/a@2"]
    assert would.verdict.renamed == report.done.renamed
    assert report.done.renamed == ["back/copy/box/a@all to back/copy/box/a@every"]
    same_datasets(tank, "tank/top", back, "back/copy")
    sound(back)


def test_renamed_in_a_ring(tank: Pool, back: Pool, library: Library) -> None:
    for number in (1, 2, 3):
        tank.import_image(library[number].path, f"tank/i@{number}")
    sync("tank/i", "back/i")
    for old, new in (("1", "x"), ("2", "1"), ("3", "2"), ("x", "3")):
        tank.rename(f"tank/i@{old}", f"tank/i@{new}")
    sync("tank/i", "back/i")
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)


def test_within_one_pool(tank: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    report = sync("tank/i", "tank/j")
    assert report.outlook is not None and report.outlook.objects == 0
    assert contents(tank, "tank/j@1") == contents(tank, "tank/i@1")
    sound(tank)


def test_what_is_damaged_there_comes_anew(
    tank: Pool, back: Pool, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree that both know is damaged there: what it lacks is asked about in full, and healed."""
    tank.import_image(library[2].path, "tank/i@1")
    sync("tank/i", "back/i")
    tank.import_image(library[3].path, "tank/i@2")
    shared = tree_keys(tank, "tank/i@1") & tree_keys(tank, "tank/i@2")
    location = next(one for one in back.store.locate(shared).values() if one.kind == 1)
    with back._database.transaction():
        back._database.execute("UPDATE object SET condemned = -1, stored = 0 WHERE id = ?", (location.id,))
    report = sync("tank/i", "back/i")
    assert report.tries == 2
    assert contents(back, "back/i@2") == contents(tank, "tank/i@2")


def test_a_key_that_begins_like_another(
    tank: Pool, back: Pool, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So few bytes of each key are sent that some are taken for others: a second try asks in full."""
    from lamina.replication.sync import proposal, sender

    with back._writer() as writer:
        for number in range(300):
            writer.put(b"%d" % number * 100, 1)
        writer.flush()
    for number in (1, 2, 3):
        tank.import_image(library[number].path, f"tank/i@{number}")
    monkeypatch.setattr(sender, "width", lambda asked, objects: 1)
    monkeypatch.setattr(proposal, "LEAST", 1)
    report = sync("tank/i", "back/i")
    assert report.tries == 2
    same_datasets(tank, "tank/i", back, "back/i")


def test_a_rate(tank: Pool, back: Pool, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.replication.sync import pacing

    waited: list[float] = []
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock[0] += seconds

    sink: list[bytes] = []
    take: Callable[[bytes], Any] = sink.append
    monkeypatch.setattr(time, "sleep", sleep)
    paced = pacing.Paced(type("Sink", (), {"write": staticmethod(take)})(), 100_000)
    for _ in range(10):
        paced.write(bytes(70_000))
    assert b"".join(sink) == bytes(700_000)
    assert sum(waited) == pytest.approx(7.0, abs=0.01)


def test_two_small_trees(tank: Pool, back: Pool, tmp_path: Any) -> None:
    """Empty trees, and a dataset whose head was never written."""
    tank.create_dataset("tank/e")
    tank.snapshot(["tank/e@empty"])
    tank.import_image(write_tree(tmp_path / "t", {"a": b"x"}).path, "tank/e@one")
    sync("tank/e", "back/e")
    same_datasets(tank, "tank/e", back, "back/e")
    sound(back)
