"""``sync --prune``: what the source's retention has destroyed goes at the destination, and nothing else does."""

import pytest

from lamina.pool import Pool
from tests.pool.trees import Library
from tests.replication.kit import receive, same_datasets, send, sound, state
from tests.replication.sync.kit import sync


def snapshots(pool: Pool, name: str) -> list[str]:
    return [one.name.partition("@")[2] for one in pool.list([name], types=("snapshot",))]


@pytest.fixture
def both(tank: Pool, back: Pool, library: Library) -> Pool:
    """Five snapshots on both sides."""
    for number in range(5):
        tank.import_image(library[1 + number].path, f"tank/i@{number}")
    sync("tank/i", "nas:back/i")
    return tank


@pytest.mark.parametrize("words", [("tank/i", "nas:back/i"), ("nas:tank/i", "back/i")])
def test_what_retention_dropped(both: Pool, back: Pool, words: tuple[str, str]) -> None:
    both.destroy_snapshots(["tank/i@0", "tank/i@2"])
    both.snapshot(["tank/i@5"])
    sync(*words)
    assert snapshots(back, "back/i") == ["0", "1", "2", "3", "4", "5"]
    report = sync(*words, prune=True)
    assert report.done.destroyed == ["back/i@0", "back/i@2"]
    same_datasets(both, "tank/i", back, "back/i")
    before = state(back)
    assert sync(*words, prune=True).done.destroyed == []
    assert state(back) == before
    back.gc()
    sound(back)


def test_what_was_received_by_a_plain_stream(tank: Pool, back: Pool, library: Library) -> None:
    for number in range(3):
        tank.import_image(library[1 + number].path, f"tank/i@{number}")
    receive(back, send(tank, "tank/i@2", recursive=True), "back/i")
    tank.destroy("tank/i@1")
    assert sync("tank/i", "back/i", prune=True).done.destroyed == ["back/i@1"]


def test_what_is_the_destinations_own_stays(both: Pool, back: Pool) -> None:
    back.snapshot(["back/i@mine"])
    both.destroy_snapshots(["tank/i@3"])
    assert sync("tank/i", "back/i", prune=True).done.destroyed == ["back/i@3"]
    assert "mine" in snapshots(back, "back/i")


def test_what_is_held_cloned_or_came_from_elsewhere_stays(both: Pool, back: Pool, library: Library) -> None:
    back.hold("legal", ["back/i@0"])
    back.clone("back/i@1", "back/clone")
    both.destroy_snapshots(["tank/i@0", "tank/i@1", "tank/i@2"])
    report = sync("tank/i", "back/i", prune=True)
    assert report.done.destroyed == ["back/i@2"]
    assert report.done.kept == [
        "'back/i@0' is gone at the source and stays: it is held",
        "'back/i@1' is gone at the source and stays: it has clones",
    ]
    assert snapshots(back, "back/i") == ["0", "1", "3", "4"]
    # The same guids, but of another dataset: nothing of what came from there is this source's to destroy.
    receive(both, send(back, "back/i@4"), "tank/j")
    both.set(["tank/j"], {"org:x": "1"})
    report = sync("tank/j", "back/i", prune=True)
    assert report.done.destroyed == []


def test_nothing_in_common(both: Pool, back: Pool, library: Library) -> None:
    """All that the source had is gone, and made anew under the same names: nothing here is touched."""
    both.destroy_snapshots([f"tank/i@{number}" for number in range(5)])
    both.snapshot(["tank/i@0"])
    before = snapshots(back, "back/i")
    with pytest.raises(Exception, match="destination has snapshots"):
        sync("tank/i", "back/i", prune=True, force=True)
    assert snapshots(back, "back/i") == before


def test_a_name_that_is_used_again(both: Pool, back: Pool) -> None:
    both.destroy_snapshots(["tank/i@1"])
    both.snapshot(["tank/i@1"])
    with pytest.raises(Exception, match="cannot restore to back/i@1: destination already exists"):
        sync("tank/i", "back/i")
    assert sync("tank/i", "back/i", prune=True).done.destroyed == ["back/i@1"]
    same_datasets(both, "tank/i", back, "back/i")
    sound(back)


def test_an_image_that_was_made_anew(both: Pool, back: Pool, library: Library) -> None:
    """The newest image is gone at the source, and another has its tag: the head here goes back to the one before."""
    both.destroy("tank/i@4")
    both.import_image(library[2].path, "tank/i@4")
    with pytest.raises(Exception, match=r"has been modified\nsince most recent snapshot; -F takes it back"):
        sync("tank/i", "back/i")
    assert sync("tank/i", "back/i", prune=True).done.destroyed == ["back/i@4"]
    same_datasets(both, "tank/i", back, "back/i")
    both.destroy("tank/i@4")
    both.import_image(library[5].path, "tank/i@5")
    assert sync("tank/i", "back/i", prune=True).done.destroyed == ["back/i@4"]
    same_datasets(both, "tank/i", back, "back/i")
    sound(back)


def test_datasets_stay(both: Pool, back: Pool, library: Library) -> None:
    both.create_dataset("tank/top")
    for name in ("a", "b"):
        both.import_image(library[2].path, f"tank/top/{name}@1")
        both.import_image(library[3].path, f"tank/top/{name}@2")
    sync("tank/top", "back/top", recursive=True)
    both.destroy("tank/top/a", recursive=True)
    both.destroy("tank/top/b@1")
    report = sync("tank/top", "back/top", recursive=True, prune=True)
    assert report.done.destroyed == ["back/top/b@1"]
    assert snapshots(back, "back/top/a") == ["1", "2"]


def test_without_the_option_nothing_goes(both: Pool, back: Pool) -> None:
    both.destroy_snapshots(["tank/i@0"])
    sync("tank/i", "back/i")
    assert "0" in snapshots(back, "back/i")
