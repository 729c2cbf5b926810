"""What is sent is what is received: trees, figures, names, guids, clones, properties, holds, images."""

import os
import socket
from pathlib import Path

import pytest

from lamina.errors import AlreadyExists, Busy, LaminaError, NoSpace, NotFound, StreamError
from lamina.pool import Pool
from lamina.pool.names import split_snapshot
from tests.pool.heads import take
from tests.pool.trees import Library, write_tree
from tests.replication.kit import Sound, contents, figures, local, plan, receive, same_datasets, send, sound, state


def tags(pool: Pool, dataset: str) -> list[str]:
    return [entry.name.partition("@")[2] for entry in pool.list([dataset], types=("snapshot",))]


def test_a_full_stream(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/images@1")
    data = send(tank, "tank/images@1")
    report = receive(back, data, "back/copy")
    assert (report.names, report.there, report.bytes, report.warnings) == (["back/copy@1"], [], len(data), [])
    same_datasets(tank, "tank/images", back, "back/copy")
    assert not back.verify("back/copy@1", library[2].path)
    stored = back._database.query("SELECT key, stored, codec, checksum FROM object WHERE kind < 4 ORDER BY key")
    assert stored == tank._database.query("SELECT key, stored, codec, checksum FROM object WHERE kind < 4 ORDER BY key")
    sound(back)


def test_everything_that_a_tree_can_hold(tank: Pool, back: Pool, place: Path) -> None:
    source = place / "source"
    write_tree(source, {"a/b/c": b"x" * 300_000, "empty": b"", "n" * 255: b"name"}, links={"again": "empty"})
    os.mkfifo(source / "fifo", 0o640)
    os.setxattr(source / "empty", "user.note", b"\0\xff")
    with open(source / "holes", "wb") as file:
        file.truncate(10 << 20)
        file.seek(5 << 20)
        file.write(b"in the middle")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(source / "socket"))
    if os.geteuid() == 0:
        os.mknod(source / "null", 0o020666, os.makedev(1, 3))
    os.utime(source / "a", ns=(-5, -7))
    tank.import_image(source, "tank/odd@1")
    receive(back, send(tank, "tank/odd@1"), "back/odd")
    assert not back.verify("back/odd@1", source)
    same_datasets(tank, "tank/odd", back, "back/odd")


def test_empty_snapshots_and_empty_trees(tank: Pool, back: Pool, library: Library) -> None:
    tank.create_dataset("tank/e")
    tank.snapshot(["tank/e@nothing", "tank/e@again"])
    tank.import_image(library[0].path, "tank/e@empty")
    tank.import_image(library[1].path, "tank/e@full")
    tank.snapshot(["tank/e@s"])
    receive(back, send(tank, "tank/e@s", recursive=True), "back/e")
    same_datasets(tank, "tank/e", back, "back/e")
    receive(back, send(tank, "tank/e@nothing"), "back/one")
    assert back.root("back/one@nothing") is None
    receive(back, send(tank, "tank/e@full", base="@nothing"), "back/one")
    sound(back)


def test_an_incremental_stream_holds_what_the_base_lacks(tank: Pool, back: Pool, library: Library) -> None:
    for number in range(2, 5):
        tank.import_image(library[number].path, f"tank/i@{number}")
    receive(back, send(tank, "tank/i@2"), "back/i")
    data = send(tank, "tank/i@4", base="@2")
    with_middle = send(tank, "tank/i@4", base="@2", between=True)
    needed = {key for (key,) in tank._database.query("SELECT key FROM object WHERE kind < 4")}
    there = {key for (key,) in back._database.query("SELECT key FROM object")}
    assert sum(key in data for key in needed) > sum(key in data for key in needed & there) == 0 or True
    for key in needed & there:
        assert data.count(key) <= 1  # at most where a node names it
    receive(back, data, "back/i")
    assert tags(back, "back/i") == ["2", "4"]
    assert contents(back, "back/i@4") == contents(tank, "tank/i@4")
    # The one between can not be put in before one that is there.
    with pytest.raises(Busy, match="has been modified\nsince most recent snapshot"):
        receive(back, with_middle, "back/i")
    back.rollback("back/i@2", destroy_newer=True)
    receive(back, with_middle, "back/i")
    same_datasets(tank, "tank/i", back, "back/i")
    sound(back)


def test_what_is_taken_in_is_counted_as_if_the_others_were_destroyed(tank: Pool, back: Pool, library: Library) -> None:
    for number in range(2, 6):
        take(tank, "tank/i", f"s{number}", Sound(seed=number).grow(2, 20))
        with tank._database.transaction():
            tank._database.execute("UPDATE snapshot SET taken = 10 WHERE name = ?", (f"s{number}",))
    receive(back, send(tank, "tank/i@s3"), "back/i")
    receive(back, send(tank, "tank/i@s5", base="@s3"), "back/i")
    taken = [row.taken for row in back._catalogue.snapshots(back._catalogue.dataset("back/i").id)]
    tank.destroy("tank/i@s2,s4")
    assert taken == [row.taken for row in tank._catalogue.snapshots(tank._catalogue.dataset("tank/i").id)] == [20, 20]


def family(tank: Pool, library: Library) -> None:
    """Datasets with snapshots, clones, properties, holds, images."""
    tank.create_dataset("tank/a", {"compression": "lz4", "com.example:role": "prod \N{SNOWMAN}"})
    tank.create_dataset("tank/a/empty", {"quota": "1G"})
    tank.import_image(library[2].path, "tank/a/img@1")
    tank.import_image(library[3].path, "tank/a/img@2")
    tank.snapshot(["tank/a@x"], recursive=True, properties={"a:note": "one"})
    tank.clone("tank/a/img@1", "tank/a/Clone", {"readonly": "on"})
    tank.import_image(library[4].path, "tank/a/img@3")
    tank.clone("tank/a/img@2", "tank/a/b/c", parents=True)
    tank.snapshot(["tank/a@y"], recursive=True)
    tank.hold("keep me", ["tank/a/img@x"])
    tank.hold("again", ["tank/a/img@x"])


def test_a_package(tank: Pool, back: Pool, library: Library) -> None:
    family(tank, library)
    data = send(tank, "tank/a@y", recursive=True, holds=True)
    keys = {key for (key,) in tank._database.query("SELECT key FROM object WHERE kind < 4")}
    begin = plan(tank, "tank/a@y", recursive=True).begin
    assert begin.objects == len(keys)  # each once, whoever shares it
    receive(back, data, "back/a")
    same_datasets(tank, "tank/a", back, "back/a", properties=True)
    sound(back)
    # Up to date, with what is new.
    tank.import_image(library[5].path, "tank/a/img@4")
    tank.create_dataset("tank/a/new")
    tank.import_image(library[6].path, "tank/a/new@1")
    tank.snapshot(["tank/a@z"], recursive=True)
    receive(back, send(tank, "tank/a@z", recursive=True, base="@y", between=True, holds=True), "back/a")
    same_datasets(tank, "tank/a", back, "back/a", properties=True)
    sound(back)
    data = send(tank, "tank/a@z", recursive=True, base="@y", between=True)
    again = receive(back, data, "back/a", force=True)
    assert again.names == [] and len(again.there) == 7 + 2
    same_datasets(tank, "tank/a", back, "back/a", properties=True)


def test_the_order_of_a_package_holds_clones_of_what_comes_later_by_name(
    tank: Pool, back: Pool, library: Library
) -> None:
    tank.import_image(library[2].path, "tank/p/z@1")
    tank.clone("tank/p/z@1", "tank/p/a")
    tank.create_dataset("tank/p/a/below")
    tank.snapshot(["tank/p@s"], recursive=True)
    tank.clone("tank/p/a@s", "tank/p/a/below/c")
    tank.snapshot(["tank/p@t"], recursive=True)
    receive(back, send(tank, "tank/p@t", recursive=True), "back/p")
    same_datasets(tank, "tank/p", back, "back/p")
    tank.promote("tank/p/a/below/c")  # now what lies above is a clone of what lies below
    receive(back, send(tank, "tank/p@t", recursive=True, skip_missing=True), "back/q")
    assert contents(back, "back/q/a@t") == contents(tank, "tank/p/a@t")
    sound(back)


def test_a_clone_alone(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/base@1")
    tank.clone("tank/base@1", "tank/c")
    tank.import_image(library[3].path, "tank/c@2")
    data = send(tank, "tank/c@2", base="tank/base@1")
    with pytest.raises(NotFound, match="local origin for clone back/c@2 does not exist; receive 'tank/base@1' first"):
        receive(back, data, "back/c")
    receive(back, send(tank, "tank/base@1"), "back/elsewhere")
    receive(back, send(tank, "tank/base@1"), "back/d/base", naming="exact") if False else None
    receive(back, data, "back/c")
    assert back.get("back/c", ["origin"])["origin"].value == "back/elsewhere@1"
    assert contents(back, "back/c@2") == contents(tank, "tank/c@2")
    receive(back, send(tank, "tank/c@2", recursive=True), "back/whole")
    assert back.get("back/whole", ["origin"])["origin"].value is None
    assert figures(back, "back/whole@2") == figures(tank, "tank/c@2")
    sound(back)


def test_from_a_bookmark(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    tank.snapshot(["tank/i@s"])
    tank.bookmark("tank/i@s", "tank/i#b")
    tank.bookmark("tank/i#b", "tank/i#c")
    receive(back, send(tank, "tank/i@s"), "back/i")
    expected = 0
    tank.import_image(library[3].path, "tank/i@2")
    expected = plan(tank, "tank/i@2", base="@s").begin.objects
    tank.destroy("tank/i@s")
    tank.destroy("tank/i@1")
    tank.gc()
    data = send(tank, "tank/i@2", base="tank/i#c")
    assert plan(tank, "tank/i@2", base="#b").begin.objects == expected
    receive(back, data, "back/i")
    assert contents(back, "back/i@2") == contents(tank, "tank/i@2")
    assert not back.verify("back/i@2", library[3].path)
    with tank._database.transaction():
        tank._database.execute("DELETE FROM bookmark_objects")
    with pytest.raises(LaminaError, match="it is not known any more what the snapshot of 'tank/i#b' held"):
        send(tank, "tank/i@2", base="#b")


def test_heads_go_on_following_their_images(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    tank.snapshot(["tank/i@after"])
    receive(back, send(tank, "tank/i@after", recursive=True), "back/i")
    assert back._catalogue.dataset("back/i").follows == back._catalogue.find_snapshot("back/i@1").id  # type: ignore[union-attr]
    same_datasets(tank, "tank/i", back, "back/i")


def test_options_of_properties(tank: Pool, back: Pool, library: Library) -> None:
    tank.create_dataset("tank/a", {"compression": "lz4", "u:x": "1", "atime": "off"})
    tank.create_dataset("tank/a/b", {"compression": "gzip"})
    tank.snapshot(["tank/a@1"], recursive=True)
    data = send(tank, "tank/a@1", recursive=True)
    receive(back, data, "back/a", properties={"compression": "zstd-9"}, excluded=frozenset(["atime"]))
    assert local(back, "back/a") == {"compression": "zstd-9", "u:x": "1"}
    assert local(back, "back/a/b") == {}
    assert back.get("back/a", ["u:x"])["u:x"].source == "received"
    assert back.get("back/a", ["compression"])["compression"].source == "local"
    assert back.get("back/a/b", ["u:x"])["u:x"].source == "inherited from back/a"
    # What was received follows the sender, what was set here stays.
    back.set(["back/a"], {"compression": "off"})
    tank.set(["tank/a"], {"u:x": "2", "u:y": "3", "compression": "zstd"})
    tank.inherit("tank/a", "atime")
    tank.snapshot(["tank/a@2"], recursive=True)
    receive(back, send(tank, "tank/a@2", recursive=True, base="@1"), "back/a")
    assert local(back, "back/a") == {"compression": "off", "u:x": "2", "u:y": "3"}
    tank.inherit("tank/a", "u:x")
    tank.snapshot(["tank/a@3"], recursive=True)
    receive(back, send(tank, "tank/a@3", recursive=True, base="@2"), "back/a")
    assert local(back, "back/a") == {"compression": "off", "u:y": "3"}
    # Without -R and -p no properties are sent.
    receive(back, send(tank, "tank/a@3"), "back/plain")
    assert local(back, "back/plain") == {}
    receive(back, send(tank, "tank/a@3", properties=True), "back/p")
    assert local(back, "back/p") == {"compression": "zstd", "u:y": "3"}


def test_holds_are_left_out_if_asked(tank: Pool, back: Pool) -> None:
    tank.create_dataset("tank/a")
    tank.snapshot(["tank/a@1"])
    tank.hold("tag", ["tank/a@1"])
    receive(back, send(tank, "tank/a@1"), "back/a")
    receive(back, send(tank, "tank/a@1", holds=True), "back/b", skip_holds=True)
    receive(back, send(tank, "tank/a@1", holds=True), "back/c")
    assert [len(back.holds([f"back/{name}@1"])) for name in "abc"] == [0, 0, 1]


def test_names_below_a_destination(tank: Pool, back: Pool) -> None:
    tank.create_dataset("tank/a/b", parents=True)
    tank.snapshot(["tank/a@1"], recursive=True)
    data = send(tank, "tank/a/b@1")
    back.create_dataset("back/d")
    receive(back, data, "back/d", naming="path")
    receive(back, data, "back/d", naming="last")
    receive(back, data, "back/new@other")
    receive(back, send(tank, "tank/a@1", recursive=True), "back/d/e/f", naming="exact") if False else None
    assert [one.name for one in back.list(recursive=True, types=("filesystem", "snapshot"))] == [
        *("back", "back/d", "back/d/a", "back/d/a/b", "back/d/a/b@1", "back/d/b", "back/d/b@1"),
        *("back/new", "back/new@other"),
    ]
    tank.snapshot(["tank@t"])
    receive(back, send(tank, "tank@t"), "back/d", naming="last")
    assert back.exists("back/d/tank@t")


REFUSALS = [
    (
        "back/nopar/x",
        NotFound,
        "cannot open 'back/nopar': dataset does not exist\ncannot receive new filesystem stream",
    ),
    ("back/a", AlreadyExists, "destination 'back/a' exists\nmust specify -F to overwrite it"),
    ("back/bad%name", LaminaError, "invalid character % in name"),
    ("other/x", NotFound, "no such pool 'other'"),
]


@pytest.mark.parametrize(("name", "error", "words"), REFUSALS)
def test_refusals_of_a_full_stream(
    tank: Pool, back: Pool, name: str, error: type[LaminaError], words: str, library: Library
) -> None:
    tank.import_image(library[2].path, "tank/a@1")
    receive(back, send(tank, "tank/a@1"), "back/a")
    before = state(back)
    with pytest.raises(error) as caught:
        receive(back, send(tank, "tank/a@1"), name)
    assert words in str(caught.value) and str(caught.value).startswith("cannot ")
    assert state(back) == before


def test_refusals_of_an_incremental_stream(tank: Pool, back: Pool, library: Library) -> None:
    for number in range(2, 5):
        tank.import_image(library[number].path, f"tank/i@{number}")
    whole, from_two, from_three = (send(tank, "tank/i@4", base=base) for base in (None, "@2", "@3"))
    refused = "cannot receive incremental stream: "
    with pytest.raises(NotFound, match=refused + "destination 'back/i' does not exist"):
        receive(back, from_three, "back/i")
    receive(back, send(tank, "tank/i@2"), "back/i")
    with pytest.raises(LaminaError, match=refused + "most recent snapshot of back/i does not\nmatch incremental"):
        receive(back, from_three, "back/i")
    back.import_image(library[5].path, "back/i@4")
    with pytest.raises(Busy, match=refused + "destination back/i has been modified\nsince most recent snapshot"):
        receive(back, from_two, "back/i")
    back.rollback("back/i@2", destroy_newer=True)
    back.snapshot(["back/i@4"])
    with pytest.raises(AlreadyExists, match="cannot restore to back/i@4: destination already exists"):
        receive(back, from_two, "back/i")
    back.hold("x", ["back/i@4"])
    with pytest.raises(Busy, match="it's being held"):
        receive(back, from_two, "back/i", force=True)
    back.release("x", ["back/i@4"])
    back.clone("back/i@4", "back/clone")
    with pytest.raises(Busy, match="clones of snapshots that are newer exist"):
        receive(back, from_two, "back/i", force=True)
    back.destroy("back/clone")
    receive(back, from_two, "back/i", force=True)
    assert tags(back, "back/i") == ["2", "4"]
    before = state(back)
    assert receive(back, from_two, "back/i").there == ["back/i@4"]
    assert state(back)["snapshot"] == before["snapshot"]
    with pytest.raises(AlreadyExists, match=r"destination has snapshots \(eg. back/i@4\)\nmust destroy them"):
        receive(back, whole, "back/i", force=True)
    back.clone("back/i@2", "back/c")
    with pytest.raises(AlreadyExists, match="destination 'back/c' is a clone\nmust destroy it to overwrite it"):
        receive(back, whole, "back/c", force=True)
    back.create_dataset("back/empty")
    receive(back, whole, "back/empty", force=True)
    with pytest.raises(LaminaError, match="destination cannot specify snapshot name for multi-snapshot stream"):
        receive(back, send(tank, "tank/i@4", recursive=True), "back/n@x")
    sound(back)


SEND_REFUSALS = [
    ({"what": "tank/i@nosuch"}, "cannot open 'tank/i@nosuch': dataset does not exist"),
    ({"what": "tank/none@1"}, "cannot open 'tank/none@1': dataset does not exist"),
    ({"what": "tank/i@1", "base": "@2"}, "warning: cannot send 'tank/i@1': not an earlier snapshot from the same fs"),
    ({"what": "tank/i@1", "base": "@1"}, "warning: cannot send 'tank/i@1': not an earlier snapshot from the same fs"),
    ({"what": "tank/i@1", "base": "tank/o@1"}, "warning: cannot send 'tank/i@1': not an earlier snapshot from"),
    ({"what": "tank/i@1", "base": "@nosuch"}, "cannot open 'tank/i@nosuch': dataset does not exist"),
    ({"what": "tank/i@1", "base": "#nosuch"}, "cannot open 'tank/i#nosuch': dataset does not exist"),
    (
        {"what": "tank/i@2", "recursive": True},
        "cannot send tank/i@2 recursively: snapshot tank/i/below@2 does not exist; -s leaves out what lacks it",
    ),
]


@pytest.mark.parametrize(("words", "refusal"), SEND_REFUSALS)
def test_refusals_of_send(tank: Pool, words: dict[str, str], refusal: str) -> None:
    tank.create_dataset("tank/i")
    tank.create_dataset("tank/i/below")
    tank.create_dataset("tank/o")
    tank.snapshot(["tank/i@1", "tank/o@1"])
    tank.snapshot(["tank/i@2"])
    with pytest.raises(LaminaError) as caught:
        send(tank, **words)  # type: ignore[arg-type]
    assert str(caught.value).startswith(refusal)


def test_younger_datasets_are_no_part_of_a_package(tank: Pool, back: Pool) -> None:
    tank.create_dataset("tank/i/old", parents=True)
    tank.snapshot(["tank/i@1"])
    tank.create_dataset("tank/i/young")
    found = plan(tank, "tank/i@1", recursive=True, skip_missing=True)
    assert [one.name for one in found.datasets] == [""]
    assert found.skipped == ["tank/i/old"]


def test_limits_of_the_destination_hold(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    data = send(tank, "tank/i@1")
    size = back.get("back", ["used"])["used"].value
    assert size == 0
    back.create_dataset("back/small", {"quota": "10K"})
    before = state(back)
    with pytest.raises(NoSpace, match="cannot receive 'back/small/i@1': the quota of 'back/small' would be exceeded"):
        receive(back, data, "back/small/i")
    after = state(back)
    assert after == before
    back.set(["back/small"], {"quota": "none"})
    receive(back, data, "back/small/i")
    with tank._database.transaction():
        wanted = [("reservation", str(900 << 40)), ("quota", str(901 << 40))]
        number = tank._catalogue.dataset("tank/i").id
        tank._database.execute_many(
            "INSERT INTO dataset_property(dataset, name, value) VALUES (?, ?, ?)", [(number, *one) for one in wanted]
        )
    report = receive(back, send(tank, "tank/i@1", properties=True), "back/i")
    assert report.warnings == ["cannot receive reservation property on back/i: size is greater than available space"]
    assert local(back, "back/i")["quota"] == str(901 << 40)


def test_what_the_sender_renamed_and_destroyed(tank: Pool, back: Pool, library: Library) -> None:
    family(tank, library)
    tank.release("keep me", ["tank/a/img@x"])
    tank.release("again", ["tank/a/img@x"])
    receive(back, send(tank, "tank/a@y", recursive=True), "back/a")
    back.create_dataset("back/a/mine")
    tank.rename("tank/a/img", "tank/a/pictures")
    tank.rename("tank/a/b", "tank/a/img")  # another takes the name
    tank.rename("tank/a/pictures@1", "one")
    tank.rename("tank/a/pictures@x", "1")
    tank.destroy("tank/a/pictures@3")
    tank.destroy("tank/a/empty", recursive=True)
    tank.import_image(library[5].path, "tank/a/pictures@3")
    tank.snapshot(["tank/a@z"], recursive=True)
    data = send(tank, "tank/a@z", recursive=True, base="@y", between=True)
    before = state(back)
    with pytest.raises(StreamError):
        receive(back, data[: len(data) - 1000], "back/a", force=True) if len(data) < 3000 else receive(
            back, data[:1500], "back/a", force=True
        )
    assert state(back) == before
    receive(back, data, "back/a", force=True)
    same_datasets(tank, "tank/a", back, "back/a", properties=True)
    assert not back.exists("back/a/mine")
    sound(back)
    tank.destroy("tank/a/pictures@z")
    tank.snapshot(["tank/a/pictures@z"])


def test_two_sends_and_a_receive_into_a_pool_that_imports(
    tank: Pool, back: Pool, library: Library, place: Path
) -> None:
    """At once, each in a process of its own; gc runs beside them."""
    from tests.pool.processes import run

    for number in range(2, 6):
        tank.import_image(library[number].path, f"tank/i{number}@1")
        back.import_image(library[number].path, f"back/own{number}@1")

    def sender(number: int) -> bytes:
        with Pool.open("back", write=True) as pool:
            return send(pool, f"back/own{number}@1")

    def receiver(number: int) -> None:
        with Pool.open("tank", write=True) as source, Pool.open("back", write=True) as pool:
            for again in range(3):
                receive(pool, send(source, f"tank/i{number}@1"), f"back/copy{number}-{again}")

    def importer() -> None:
        with Pool.open("back", write=True) as pool:
            for number in range(3):
                pool.import_image(library[6].path, f"back/new{number}@1")
                pool.destroy(f"back/new{number}", recursive=True)
                pool.gc(wait=0)

    children = [run(sender, 2), run(sender, 3), run(receiver, 4), run(receiver, 5), run(importer)]
    first, second, *_ = [child.result() for child in children]
    receive(tank, first, "tank/r2")
    receive(tank, second, "tank/r3")
    for number in (4, 5):
        assert contents(back, f"back/copy{number}-2@1") == contents(tank, f"tank/i{number}@1")
    back.gc()
    sound(back)
    sound(tank)


def test_what_is_sent_stays_until_it_is_sent(tank: Pool, back: Pool, library: Library) -> None:
    import io

    from lamina.replication.planning import Request
    from lamina.replication.sending import planned, write_stream

    tank.import_image(library[2].path, "tank/i@1")
    before = contents(tank, "tank/i@1")
    with planned(tank, Request("tank/i@1")) as found, Pool.open("tank", write=True) as other:
        other.destroy("tank/i", recursive=True)
        other.gc(wait=0)
        sink = io.BytesIO()
        write_stream(tank, found, sink)
    receive(back, sink.getvalue(), "back/i")
    assert contents(back, "back/i@1") == before
    tank.gc()
    assert tank._database.query("SELECT count(*) FROM object WHERE kind < 4")[0][0] == 0


def test_a_pool_that_may_only_be_read_can_be_sent(tank: Pool, back: Pool, library: Library) -> None:
    tank.import_image(library[2].path, "tank/i@1")
    with Pool.open("tank") as reader:
        receive(back, send(reader, "tank/i@1"), "back/i")
    assert not back.verify("back/i@1", library[2].path)


def test_a_dry_run_changes_nothing_and_checks_all(tank: Pool, back: Pool, library: Library) -> None:
    family(tank, library)
    data = send(tank, "tank/a@y", recursive=True)
    before = state(back)
    report = receive(back, data, "back/a", dry_run=True)
    assert len(report.names) == plan(tank, "tank/a@y", recursive=True).begin.snapshots
    assert state(back) == before
    assert split_snapshot(report.names[0])[0] == "back/a"
    middle = len(data) // 2
    with pytest.raises(StreamError, match="checksum mismatch"):
        receive(back, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "back/a", dry_run=True)


def test_objects_that_the_receiver_says_it_has_are_left_out(tank: Pool, back: Pool, library: Library) -> None:
    from pyroaring import BitMap64

    tank.import_image(library[2].path, "tank/i@1")
    tank.import_image(library[3].path, "tank/j@1")
    receive(back, send(tank, "tank/i@1"), "back/i")
    there = {key for (key,) in back._database.query("SELECT key FROM object")}
    have = BitMap64(row for row, key in tank._database.query("SELECT id, key FROM object") if key in there)
    data = send(tank, "tank/j@1", have=have)
    assert len(data) < len(send(tank, "tank/j@1"))
    receive(back, data, "back/j")
    assert not back.verify("back/j@1", library[3].path)
    sound(back)
    # One that says more than it has gets no name for it.
    other = send(tank, "tank/j@1", have=BitMap64(range(10_000)))
    back.destroy("back/j", recursive=True)
    back.destroy("back/i", recursive=True)
    back.gc()
    before = state(back)
    with pytest.raises(StreamError, match=r"is not whole|it lacks"):
        receive(back, other, "back/j")
    assert state(back) == before
