"""Tags move and go; what is cloned, held or mounted keeps a name; nothing that packs would not bring back."""

import os
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import AlreadyExists, Busy, InvalidName, LaminaError, NotFound, PropertyError
from lamina.mount import mount, umount
from lamina.pool import Pool, files
from lamina.pool.importing.tags import (
    add_missing,
    find_tag,
    images_dataset,
    move_tag,
    remove_tag,
    remove_tags,
    tag_image,
)
from lamina.pool.recovery.recover import recover_pool
from lamina.store.lease import Lease
from tests.mount.conftest import fuse_missing
from tests.pool.example import impatient
from tests.pool.layered import Layer, config_of, manifest_of, put_image
from tests.pool.records import compare_with_catalogue
from tests.pool.trees import write_tree

__all__ = ["impatient"]


def layer(number: int) -> Layer:
    return Layer([b"recipe %d" % number])


def put(pool: Pool, name: str, number: int, *, manifest: bool = True) -> int:
    """An image that is of this number alone; the row of its root."""
    put_image(pool, name, {"f": b"file %d" % number}, [layer(number)], manifest=b"" if manifest else None)
    root = pool.root(name)
    assert root is not None
    return root


def kept_name(number: int) -> str:
    return "sha256-" + sha256(manifest_of([layer(number).diff_id({})])).hexdigest()


@pytest.fixture
def repository(pool: Pool) -> Pool:
    """Images of the numbers 1, 2 and 3 in ``tank/r``; the head shows the last."""
    for number in (1, 2, 3):
        put(pool, f"tank/r@{number}", number)
    return pool


def move(pool: Pool, name: str, root: int, taken: int = 5) -> int:
    with pool._writer() as writer, pool._catalogue.change(writer) as change:
        return move_tag(pool, change, name, root, taken)


def tags(pool: Pool, dataset: str = "tank/r") -> dict[str, int | None]:
    """Roots by tag."""
    return {entry.name.partition("@")[2]: pool.root(entry.name) for entry in pool.images(dataset)}


def check(pool: Pool) -> None:
    """Names are in order, and the packs would bring them back."""
    assert pool.check().problems == []
    compare_with_catalogue(pool)


def follows(pool: Pool, dataset: str = "tank/r") -> str | None:
    row = pool._catalogue.dataset(dataset)
    return None if row.follows is None else pool._catalogue.snapshot_by_id(row.follows).name


# -- moving -------------------------------------------------------------------------------------------------------


def test_a_tag_that_moves_lets_its_tree_go(repository: Pool) -> None:
    before = tags(repository)
    row = repository._catalogue.find_snapshot("tank/r@1")
    move(repository, "tank/r@1", before["3"] or 0)
    assert tags(repository) == {"2": before["2"], "3": before["3"], "1": before["3"]}
    assert repository.root("tank/r") == before["3"] and follows(repository) == "1"
    now = repository._catalogue.find_snapshot("tank/r@1")
    assert row is not None and now is not None and now.guid != row.guid and now.taken == 5
    check(repository)
    repository.gc()
    assert repository._database.query("SELECT count(*) FROM tree WHERE root = ?", (before["1"],)) == [(0,)]
    check(repository)


def test_to_the_tree_that_it_has_nothing_changes(repository: Pool) -> None:
    row = repository._catalogue.find_snapshot("tank/r@1")
    assert row is not None
    assert move(repository, "tank/r@1", row.root or 0) == row.id
    assert repository._catalogue.find_snapshot("tank/r@1") == row and follows(repository) == "3"


def test_a_name_that_is_new(repository: Pool) -> None:
    root = repository.root("tank/r@1") or 0
    move(repository, "tank/a/b@x", root)
    assert repository.root("tank/a/b") == root and follows(repository, "tank/a/b") == "x"
    check(repository)


def test_a_snapshot_is_no_tag(repository: Pool) -> None:
    repository.snapshot(["tank/r@daily"])
    with pytest.raises(LaminaError, match="cannot move 'tank/r@daily': it is a snapshot, not an image"):
        move(repository, "tank/r@daily", repository.root("tank/r@1") or 0)
    assert find_tag(repository._catalogue, "tank/r@gone", "move") is None


def hold(pool: Pool) -> None:
    pool.hold("keep", ["tank/r@1"])


def clone(pool: Pool) -> None:
    pool.clone("tank/r@1", "tank/clone")


def both(pool: Pool) -> None:
    hold(pool)
    clone(pool)


@pytest.mark.parametrize("need", [hold, clone, both], ids=["hold", "clone", "both"])
def test_what_is_needed_keeps_its_tree_under_a_digest(repository: Pool, need: Any) -> None:
    """The snapshot is the same one, with its guid, holds, clones and properties."""
    repository.set(["tank/r@1"], {"com.example:note": "mine"})
    need(repository)
    before, row = tags(repository), repository._catalogue.find_snapshot("tank/r@1")
    move(repository, "tank/r@1", before["2"] or 0)
    name = kept_name(1)
    assert tags(repository) == {name: before["1"], "2": before["2"], "3": before["3"], "1": before["2"]}
    kept = repository._catalogue.find_snapshot(f"tank/r@{name}")
    assert row is not None and kept is not None and (kept.id, kept.guid, kept.taken) == (row.id, row.guid, row.taken)
    assert repository.get(f"tank/r@{name}", ["com.example:note"])["com.example:note"].value == "mine"
    assert follows(repository) == "1"
    check(repository)
    # Once nothing needs it, it goes like any other.
    with pytest.raises(Busy):
        remove_tag(repository, f"tank/r@{name}")
    if need is not hold:
        repository.destroy("tank/clone")
    if need is not clone:
        repository.release("keep", [f"tank/r@{name}"])
    remove_tag(repository, f"tank/r@{name}")
    assert name not in tags(repository)
    check(repository)


def test_the_name_after_a_digest(pool: Pool, tmp_path: Path) -> None:
    """Of the manifest, else of the config, else of the tree; a name that is taken gets a number."""
    last = put(pool, "tank/r@last", 9)
    put(pool, "tank/r@config", 2, manifest=False)
    put(pool, "tank/r@bad", 3)
    pool.import_image(write_tree(tmp_path / "plain", {"a": b"x"}).path, "tank/r@plain")
    put_image(pool, "tank/r@odd", {"f": b"odd"}, [layer(5)], config=b"{}")
    names = ("config", "plain", "odd")
    pool.hold("keep", [f"tank/r@{name}" for name in names])
    keys = {name: pool.store.locate_ids([pool.root(f"tank/r@{name}") or 0])[0].key for name in names}
    for name in names:
        move(pool, f"tank/r@{name}", last)
    wanted = {"sha256-" + sha256(keys[name]).hexdigest() for name in ("plain", "odd")}
    wanted.add("sha256-" + sha256(config_of([layer(2).diff_id({})])).hexdigest())
    assert {name for name in tags(pool) if name.startswith("sha256-")} == wanted
    # The same tree again, held again.
    for number in (2, 3):
        put_image(pool, f"tank/r@again{number}", {"f": b"file 2"}, [layer(2)], manifest=None)
        pool.hold("keep", [f"tank/r@again{number}"])
        move(pool, f"tank/r@again{number}", last)
        name = "sha256-" + sha256(config_of([layer(2).diff_id({})])).hexdigest()
        assert f"{name}-{number}" in tags(pool)
    check(pool)


def test_what_is_mounted_keeps_its_tree(repository: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tags(repository)
    monkeypatch.setattr("lamina.pool.mounted.mounted", lambda _: {"tank/r@1": "/mnt"})
    for name in ("1", "2"):
        move(repository, f"tank/r@{name}", before["3"] or 0)
    assert tags(repository)[kept_name(1)] == before["1"] and kept_name(2) not in tags(repository)
    with pytest.raises(Busy, match="is mounted"):
        monkeypatch.setattr("lamina.pool.mounted.mounted", lambda _: {f"tank/r@{kept_name(1)}": "/mnt"})
        remove_tag(repository, f"tank/r@{kept_name(1)}")


@pytest.mark.parametrize(
    ("kind", "own", "kept"), [("read", False, True), ("read", True, False), ("write", False, False)]
)
def test_what_another_process_shows_keeps_its_tree(repository: Pool, kind: str, own: bool, kept: bool) -> None:
    """A mount in another namespace is seen by its pins; what this process pins for itself is none."""
    before = tags(repository)
    directory = repository.path / files.LEASES
    lease = Lease(directory, repository._database, repository._catalogue.epoch, kind=kind)
    with repository._database.transaction():
        repository._database.execute("INSERT INTO pin(lease, root) VALUES (?, ?)", (lease.name, before["1"]))
        if not own:
            repository._database.execute("UPDATE lease SET pid = 1 WHERE name = ?", (lease.name,))
    move(repository, "tank/r@1", before["3"] or 0)
    assert (kept_name(1) in tags(repository)) == kept
    lease.close()
    move(repository, "tank/r@2", before["3"] or 0)
    assert kept_name(2) not in tags(repository)


@pytest.mark.skipif(fuse_missing() is not None, reason="no file system can be mounted here")
@pytest.mark.parametrize("head", [False, True])
def test_a_mount_shows_what_it_showed(place: Path, head: bool) -> None:
    """Of the tag, or of the head that shows its tree."""
    name = f"tags-{os.getpid()}-{head}"
    where = place / "mnt"
    where.mkdir()
    with Pool.create(name, place / "pool") as pool:
        first = put(pool, f"{name}/r@1", 1)
        last = put(pool, f"{name}/other@1", 2)
    mount(name, f"{name}/r" if head else f"{name}/r@1", where)  # forks: nobody here has the catalogue open
    try:
        with Pool.open(name, write=True) as pool:
            move(pool, f"{name}/r@1", last)
            assert tags(pool, f"{name}/r") == {kept_name(1): first, "1": last}
            pool.gc(wait=0)
        assert (where / "f").read_bytes() == b"file 1" and os.listdir(where) == ["f"]
    finally:
        umount(where)
    with Pool.open(name, write=True) as pool:
        remove_tag(pool, f"{name}/r@{kept_name(1)}")
        assert pool.check().problems == []


def test_a_deferred_one_goes_with_its_hold(repository: Pool) -> None:
    repository.hold("keep", ["tank/r@1"])
    repository.destroy("tank/r@1", defer=True)
    move(repository, "tank/r@1", repository.root("tank/r@3") or 0)
    assert kept_name(1) in tags(repository)
    repository.release("keep", [f"tank/r@{kept_name(1)}"])
    assert sorted(tags(repository)) == ["1", "2", "3"]
    check(repository)


def test_snapshots_of_a_tag_count_what_it_took_in(pool: Pool) -> None:
    """As with destroy: what a snapshot shares with the tag is still stored, so it is counted there."""
    put(pool, "tank/r@1", 1)
    pool.snapshot(["tank/r@s"])
    last = put(pool, "tank/other@1", 2)
    assert pool._catalogue.snapshots(pool._catalogue.dataset("tank/r").id)[1].taken == 0
    move(pool, "tank/r@1", last)
    taken = {row.name: row.taken for row in pool._catalogue.snapshots(pool._catalogue.dataset("tank/r").id)}
    assert taken == {"s": len(b"file 1"), "1": 5}
    check(pool)


def test_moved_tags_are_recovered(repository: Pool, place: Path) -> None:
    repository.hold("keep", ["tank/r@1"])
    before = repository.store.locate_ids([repository.root("tank/r@1") or 0])[0].key
    for name in ("1", "2"):
        move(repository, f"tank/r@{name}", repository.root("tank/r@3") or 0)
    tag_image(repository, "tank/r@3", "tank/new@x")
    remove_tag(repository, "tank/r@3")
    repository.set_own_properties({"images": "tank/elsewhere"})
    names = sorted(tags(repository))
    repository.close()
    for suffix in ("", "-wal", "-shm"):
        (place / "tank" / f"catalogue.db{suffix}").unlink(missing_ok=True)
    assert recover_pool("tank").lines == []
    with Pool.open("tank", write=True) as pool:
        assert sorted(tags(pool)) == names and sorted(tags(pool, "tank/new")) == ["x"]
        kept = pool.root(f"tank/r@{kept_name(1)}")
        assert pool.store.locate_ids([kept or 0])[0].key == before
        assert [one.tag for one in pool.holds([f"tank/r@{kept_name(1)}"])] == ["keep"]
        assert images_dataset(pool) == "tank/elsewhere"
        assert pool.image("tank/new@x") is not None
        assert pool.check().problems == []


# -- tagging ------------------------------------------------------------------------------------------------------


def test_another_name_for_an_image(repository: Pool) -> None:
    assert tag_image(repository, "tank/r@1", "tank/r@stable")
    assert not tag_image(repository, "tank/r@1", "tank/r@stable")
    assert repository.root("tank/r@stable") == repository.root("tank/r@1")
    assert repository.image("tank/r@stable") == repository.image("tank/r@1")
    assert follows(repository) == "3", "the head is still the newest import"
    row = repository._catalogue.find_snapshot("tank/r@stable")
    assert row is not None and row.taken == 0
    check(repository)


def test_another_repository(repository: Pool) -> None:
    assert tag_image(repository, "tank/r@1", "tank/deep/down@x")
    assert (
        repository.root("tank/deep/down") == repository.root("tank/r@1")
        and follows(repository, "tank/deep/down") == "x"
    )
    row = repository._catalogue.find_snapshot("tank/deep/down@x")
    assert row is not None and row.taken == len(b"file 1")
    remove_tag(repository, "tank/r@1")
    assert repository.image("tank/deep/down@x") is not None
    check(repository)


def test_a_head_can_be_tagged(repository: Pool) -> None:
    assert tag_image(repository, "tank/r", "tank/r@newest")
    assert repository.root("tank/r@newest") == repository.root("tank/r@3")
    repository.create_dataset("tank/empty")
    with pytest.raises(LaminaError, match="cannot tag 'tank/empty': it is empty"):
        tag_image(repository, "tank/empty", "tank/r@x")


def test_a_tag_that_is_there(repository: Pool) -> None:
    with pytest.raises(AlreadyExists, match="cannot create 'tank/r@2': it is another image; -f moves the tag"):
        tag_image(repository, "tank/r@1", "tank/r@2")
    repository.hold("keep", ["tank/r@2"])
    before = tags(repository)
    assert tag_image(repository, "tank/r@1", "tank/r@2", force=True)
    assert tags(repository) == {"1": before["1"], "2": before["1"], "3": before["3"], kept_name(2): before["2"]}
    assert follows(repository) == "3"
    assert tag_image(repository, "tank/r@1", "tank/r@3", force=True)
    assert follows(repository) == "3" and repository.root("tank/r") == before["1"], "the head followed the tag"
    check(repository)


@pytest.mark.parametrize("force", [False, True])
def test_what_cannot_be_tagged(repository: Pool, force: bool) -> None:
    repository.snapshot(["tank/r@daily"])
    before = tags(repository)
    for source, name, error, words in [
        ("tank/r@none", "tank/r@x", NotFound, "cannot open 'tank/r@none': dataset does not exist"),
        ("tank/r@1", "tank/r", InvalidName, "tank/r"),
        ("tank/r@1", "tank/r@a@b", InvalidName, "tank/r"),
        ("tank/r@1", "tank/r@a*b", InvalidName, "invalid character"),
        ("tank/r@1", "vault/r@1", NotFound, "cannot create 'vault/r@1': it is not in the pool of 'tank/r@1', 'tank'"),
        ("tank/r@1", "tank/r@daily", LaminaError, "tank/r@daily': (it is a snapshot|dataset already exists)"),
    ]:
        with pytest.raises(error, match=words):
            tag_image(repository, source, name, force)
    assert tags(repository) == before
    check(repository)


def test_a_quota_holds(repository: Pool) -> None:
    repository.create_dataset("tank/small", {"quota": "1M"})
    put_image(repository, "tank/big@1", {"f": bytes(range(256)) * 20_000}, [], manifest=None)
    repository.import_image(write_tree(repository.path.parent / "w", {"x": _noise()}).path, "tank/big@2")
    with pytest.raises(LaminaError, match="quota"):
        tag_image(repository, "tank/big@2", "tank/small@x")
    assert tags(repository, "tank/small") == {}


def _noise() -> bytes:
    return random.Random(1).randbytes(3 << 20)


# -- histories ----------------------------------------------------------------------------------------------------


class Shelf:
    """What tags must be: roots by name, and which names are held or cloned."""

    def __init__(self, pool: Pool, roots: dict[int, int]) -> None:
        self.pool = pool
        self.numbers = {root: number for number, root in roots.items()}
        self.tags: dict[str, int] = {}
        self.held: set[str] = set()
        self.clones: dict[str, str] = {}

    def move(self, name: str, root: int) -> None:
        old = self.tags.get(name)
        if old == root:
            return
        if old is not None and (name in self.held or name in self.clones.values()):
            dataset, _, _ = name.partition("@")
            spare = wanted = f"{dataset}@{kept_name(self.numbers[old])}"
            count = 1
            while spare in self.tags:
                count += 1
                spare = f"{wanted}-{count}"
            self.tags[spare] = old
            if name in self.held:
                self.held.add(spare)
            self.clones = {clone: spare if origin == name else origin for clone, origin in self.clones.items()}
        self.held.discard(name)
        self.tags[name] = root

    def step(self, generator: random.Random, at: int) -> None:
        """One random change, in the pool and here."""
        pool = self.pool
        tagged = sorted(self.tags)
        name = f"tank/{generator.choice('ab')}@{generator.choice('xyz')}"
        root = generator.choice(sorted(self.numbers))
        some = generator.choice(tagged) if tagged else ""
        what = generator.choice(["move", "move", "move", "tag", "hold", "release", "clone", "unclone", "remove"])
        if what == "move" or not some:
            move(pool, name, root)
            self.move(name, root)
        elif what == "tag":
            tag_image(pool, some, name, force=True)
            self.move(name, self.tags[some])
        elif what == "hold" and some not in self.held:
            pool.hold("keep", [some])
            self.held.add(some)
        elif what == "release" and self.held:
            some = generator.choice(sorted(self.held))
            pool.release("keep", [some])
            self.held.discard(some)
        elif what == "clone":
            pool.clone(some, f"tank/clone{at}")
            self.clones[f"tank/clone{at}"] = some
        elif what == "unclone" and self.clones:
            some = generator.choice(sorted(self.clones))
            pool.destroy(some)
            del self.clones[some]
        elif what == "remove":
            if some in self.held or some in self.clones.values():
                with pytest.raises(Busy):
                    remove_tag(pool, some)
            else:
                remove_tag(pool, some)
                del self.tags[some]

    def compare(self) -> None:
        pool = self.pool
        there = {entry.name: pool.root(entry.name) for entry in pool.images() if not entry.name.startswith("tank/keep")}
        assert there == self.tags
        assert {name for name in there if pool.holds([name])} == self.held
        origins = {row.name: row.origin for row in pool._catalogue.datasets() if row.origin is not None}
        assert set(origins) == set(self.clones)
        for clone, number in origins.items():
            row = pool._catalogue.snapshot_by_id(number or 0)
            assert f"{pool._catalogue.dataset_by_id(row.dataset).name}@{row.name}" == self.clones[clone]


@pytest.mark.parametrize("seed", range(4))
def test_histories(pool: Pool, seed: int) -> None:
    roots = {number: put(pool, f"tank/keep@{number}", number) for number in range(4)}
    shelf = Shelf(pool, roots)
    generator = random.Random(seed)
    for at in range(60):
        shelf.step(generator, at)
        shelf.compare()
    check(pool)
    pool.gc()
    check(pool)


# -- removing -----------------------------------------------------------------------------------------------------


def test_removing(repository: Pool) -> None:
    assert remove_tag(repository, "tank/r@1", dry_run=True).names == ["tank/r@1"]
    plan = remove_tags(repository, ["tank/r@1", "tank/r@3", "tank/r@1"])
    assert sorted(plan.names) == ["tank/r@1", "tank/r@3"] and plan.reclaim > 0
    assert list(tags(repository)) == ["2"] and repository.root("tank/r") == repository.root("tank/r@2")
    check(repository)


def test_what_cannot_be_removed(repository: Pool) -> None:
    repository.snapshot(["tank/r@daily"])
    repository.hold("keep", ["tank/r@1"])
    repository.clone("tank/r@2", "tank/clone")
    before = tags(repository)
    for name, error, words in [
        ("tank/r@1", Busy, "it's being held. Run 'lamina holds -r tank/r@1' to see holders"),
        ("tank/r@2", Busy, "cannot destroy 'tank/r@2': snapshot has dependent clones"),
        ("tank/r@daily", LaminaError, "cannot destroy 'tank/r@daily': it is a snapshot, not an image"),
        ("tank/r", InvalidName, "cannot destroy 'tank/r': it is a dataset, not an image"),
        ("tank/r@none", NotFound, "dataset does not exist"),
        ("tank/r@1%3", InvalidName, "cannot destroy"),
    ]:
        with pytest.raises(error, match=words):
            remove_tags(repository, ["tank/r@3", name])
    assert tags(repository) == before


# -- the pool's place for images ----------------------------------------------------------------------------------


def test_the_images_property(pool: Pool, place: Path) -> None:
    assert images_dataset(pool) == "tank/images"
    assert pool.own_properties()["images"] == ("tank/images", "default")
    for value in ("tank/registry/mirror", "tank"):
        pool.set_own_properties({"images": value})
        assert images_dataset(pool) == value and pool.own_properties()["images"] == (value, "local")
    for value in ("vault/images", "tank/", "tank/a*b", "tank/a@b", "tank//a"):
        with pytest.raises(PropertyError, match="'images' must be"):
            pool.set_own_properties({"images": value})
    assert pool.check().problems == []
    pool.set_own_properties({"images": ""})
    assert images_dataset(pool) == "tank/images"
    with Pool.create("other", place / "other", own_properties={"images": "other/x"}) as made:
        assert images_dataset(made) == "other/x"
        assert made.check().problems == []


def test_missing_datasets(pool: Pool) -> None:
    with pool._writer() as writer, pool._catalogue.change(writer) as change:
        add_missing(pool._catalogue, change, "tank/a/b/c")
        add_missing(pool._catalogue, change, "tank/a/b")
    assert [entry.name for entry in pool.list(recursive=True)] == ["tank", "tank/a", "tank/a/b", "tank/a/b/c"]
    check(pool)
