"""Layers are stored exactly, and flattened as the model of ``layers.py`` says; what nobody would unpack is refused."""

import os
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from lamina.errors import SourceError
from tests.ingest.archives import END, header, member
from tests.ingest.kit import Shop
from tests.ingest.layers import STACKS, LayerTar, Op, Oracle, Path, Refused, Seen, of_oracle, of_tree, tamed
from tests.ingest.recording import flatten, record, written_again

EXAMPLES = int(os.environ.get("LAMINA_STACKS", "50"))
"""Random stacks of layers for each test."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("flatten") / "shop")
    yield shop
    shop.close()


def unpacked(shop: Shop, *layers: tuple[Op, ...] | bytes) -> dict[Path, Seen]:
    """What layers become; all must come back as they were."""
    tars = [one if isinstance(one, bytes) else LayerTar(one).bytes() for one in layers]
    with record(shop, tars) as stored:
        for tar, layer in zip(tars, stored, strict=True):
            assert written_again(shop, layer) == tar
        return of_tree(flatten(shop, stored))


def modelled(*layers: tuple[Op, ...]) -> dict[Path, Seen]:
    oracle = Oracle()
    for ops in layers:
        oracle.apply(ops)
    return of_oracle(oracle)


@given(STACKS)
@settings(max_examples=EXAMPLES, deadline=None)
def test_random_stacks(shop: Shop, stack: list[LayerTar]) -> None:
    stack = tamed(stack)
    assert unpacked(shop, *(one.bytes() for one in stack)) == modelled(*(one.ops for one in stack))


@given(STACKS)
@settings(max_examples=EXAMPLES, deadline=None)
def test_random_stacks_that_may_be_wrong(shop: Shop, stack: list[LayerTar]) -> None:
    try:
        wanted = modelled(*(one.ops for one in stack))
    except Refused:
        with pytest.raises(SourceError):
            unpacked(shop, *(one.bytes() for one in stack))
        return
    assert unpacked(shop, *(one.bytes() for one in stack)) == wanted


# -- whiteouts ------------------------------------------------------------------------------------------------------


def file(path: bytes, text: bytes = b"x", **more: int) -> Op:
    return Op("file", path, text, **more)  # type: ignore[arg-type]


def folder(path: bytes, mode: int = 0o755, **more: int) -> Op:
    return Op("dir", path, mode=mode, **more)  # type: ignore[arg-type]


def names(found: dict[Path, Seen]) -> set[bytes]:
    return {b"/".join(path) for path in found}


LOWER = (folder(b"d"), file(b"d/low"), folder(b"d/s"), file(b"d/s/low"), file(b"other"))


@pytest.mark.parametrize("first", [True, False])
def test_a_whiteout_hides_what_lower_layers_have(shop: Shop, first: bool) -> None:
    """Wherever it stands in its layer."""
    upper = (file(b".wh.other"), file(b"other", b"new"), file(b"d/.wh.s"), file(b"d/s/up"))
    found = unpacked(shop, LOWER, upper if first else upper[::-1])
    assert names(found) == {b"", b"d", b"d/low", b"d/s", b"d/s/up", b"other"}
    assert found[(b"other",)].content == b"new"


@pytest.mark.parametrize("first", [True, False])
def test_an_opaque_directory_keeps_what_its_layer_has(shop: Shop, first: bool) -> None:
    opaque = (file(b"d/.wh..wh..opq"),)
    rest = (folder(b"d", 0o700), file(b"d/up"), file(b"d/s/up"))
    found = unpacked(shop, LOWER, opaque + rest if first else rest + opaque)
    assert names(found) == {b"", b"d", b"d/up", b"d/s", b"d/s/up", b"other"}
    assert found[(b"d",)].mode == 0o700


def test_an_opaque_root(shop: Shop) -> None:
    assert names(unpacked(shop, LOWER, (file(b"new"), file(b".wh..wh..opq")))) == {b"", b"new"}


def test_whiteouts_in_the_lowest_layer_and_of_nothing(shop: Shop) -> None:
    """They are no files, but the directories that they stand in are made, as containerd does."""
    found = unpacked(shop, (file(b"a/.wh.x"), file(b"a/b")), (file(b"c/.wh.y"), file(b".wh.z")))
    assert names(found) == {b"", b"a", b"a/b", b"c"}


def test_what_aufs_keeps_for_itself(shop: Shop) -> None:
    assert names(unpacked(shop, (file(b".wh..wh.aufs"), folder(b".wh..wh.orph"), file(b"a")))) == {b"", b"a"}


def test_a_whiteout_takes_away_one_name_of_several(shop: Shop) -> None:
    linked = (file(b"a", b"shared"), Op("hard", b"b", target=b"a"))
    found = unpacked(shop, linked, (file(b".wh.a"),), (Op("hard", b"c", target=b"b", mode=0o600),))
    assert names(found) == {b"", b"b", b"c"}
    assert found[(b"b",)].links == 2 and found[(b"b",)].mode == 0o600, "a link's header changes the file"


def test_a_hard_link_changes_attributes(shop: Shop) -> None:
    """Those that its header has; those that it does not have stay."""
    first = Op("file", b"a", b"x", xattrs=((b"user.both", b"old"), (b"user.old", b"old")))
    link = Op("hard", b"b", target=b"a", uid=3, mtime=9, xattrs=((b"user.both", b"new"), (b"user.new", b"new")))
    again = Op("hard", b"c", target=b"b", uid=4, mtime=8, xattrs=((b"user.new", b"newer"),))
    elsewhere = (folder(b"d"), Op("hard", b"d/one", target=b"c", uid=4, mtime=8), file(b".wh.b"))
    seen = unpacked(shop, (first,), (link, again), elsewhere)[(b"a",)]
    assert (seen.uid, seen.mtime, seen.links) == (4, 8, 3)
    assert seen.xattrs == ((b"user.both", b"new"), (b"user.new", b"newer"), (b"user.old", b"old"))


@pytest.mark.parametrize("name", [b".wh.", b"d/.wh.", b"d/.wh..", b"d/.wh..."])
def test_a_whiteout_of_what_can_be_no_name(shop: Shop, name: bytes) -> None:
    with pytest.raises(SourceError, match="whiteout of no name"):
        unpacked(shop, LOWER, (file(name),))


# -- directories, links ---------------------------------------------------------------------------------------------


def test_a_directory_over_a_directory_keeps_its_children(shop: Shop) -> None:
    upper = Op("dir", b"d", mode=0o1777, uid=5, mtime=77, xattrs=((b"user.new", b"1"),))
    found = unpacked(shop, (Op("dir", b"d", xattrs=((b"user.old", b"1"),)), *LOWER[1:]), (upper,))
    assert names(found) == {b"", b"d", b"d/low", b"d/s", b"d/s/low", b"other"}
    seen = found[(b"d",)]
    assert (seen.mode, seen.uid, seen.mtime, seen.xattrs) == (0o1777, 5, 77, ((b"user.new", b"1"),))


def test_types_that_replace_each_other(shop: Shop) -> None:
    found = unpacked(shop, LOWER, (file(b"d"), folder(b"other"), file(b"other/x")))
    assert names(found) == {b"", b"d", b"other", b"other/x"}
    found = unpacked(shop, (folder(b"t"), Op("sym", b"l", target=b"t")), (folder(b"l"), file(b"l/x")))
    assert found[(b"l",)].kind == "dir" and (b"t", b"x") not in found, "a directory replaces a link to one"


@pytest.mark.parametrize("target", [b"d/s", b"/d/s", b"./d//s", b"d/../d/s", b"other-link/s"])
def test_parents_that_are_links_are_followed_inside_the_root(shop: Shop, target: bytes) -> None:
    links = (Op("sym", b"link", target=target), Op("sym", b"other-link", target=b"/d"))
    found = unpacked(shop, (*LOWER, *links), (file(b"link/new", b"through"), file(b"link/.wh.low")))
    assert found[(b"d", b"s", b"new")].content == b"through"
    assert (b"d", b"s", b"low") not in found
    assert found[(b"link",)].kind == "sym"


def test_links_in_other_directories(shop: Shop) -> None:
    lower = (folder(b"d"), folder(b"e/d"), Op("sym", b"e/own", target=b"d"), Op("sym", b"e/root", target=b"/d"))
    found = unpacked(shop, lower, (file(b"e/own/x", b"own"), file(b"e/root/x", b"root")))
    assert found[(b"e", b"d", b"x")].content == b"own"
    assert found[(b"d", b"x")].content == b"root"


def test_what_came_through_a_link_is_of_its_layer(shop: Shop) -> None:
    """A whiteout of the directory behind the link leaves it."""
    found = unpacked(shop, (*LOWER, Op("sym", b"link", target=b"d/s")), (file(b"link/up"), file(b".wh.d")))
    assert names(found) == {b"", b"d", b"d/s", b"d/s/up", b"link", b"other"}


@pytest.mark.parametrize("style", ["gnu", "pax-0.0", "pax-0.1", "pax-1.0"])
def test_sparse_files(shop: Shop, style: str) -> None:
    """Small and large ones; their data is stored once, as it stands in the tar."""
    small = Op("file", b"small", sparse=((5, b"one", 1), (9000, b"two", 10)), size=10_000)
    large = Op("file", b"large", sparse=((1, b"a", 70_001), (300_000, b"b", 50_000), (900_000, b"c", 7)), size=10**6)
    tar = LayerTar((small, large), (style,)).bytes()
    found = unpacked(shop, tar)
    assert found[(b"small",)].content == small.content and found[(b"large",)].content == large.content
    with record(shop, [tar]) as stored:
        assert flatten(shop, stored).totals.data_bytes == 33 + 70_001 + 50_007


def test_a_link_to_what_is_not_there_is_followed_too(shop: Shop) -> None:
    found = unpacked(shop, (Op("sym", b"link", target=b"new/dir"),), (file(b"link/x"),))
    assert found[(b"new", b"dir", b"x")].kind == "file"
    assert found[(b"new",)].mode == 0o755


@pytest.mark.parametrize("target", [b"../outside", b"/..", b"d/../../x", b"../../../etc"])
def test_links_that_climb_above_the_root(shop: Shop, target: bytes) -> None:
    """To have them is fine, to write through them is not."""
    links = (*LOWER, Op("sym", b"link", target=target))
    assert unpacked(shop, links)[(b"link",)].content == target
    for behind in (file(b"link/x"), folder(b"link/x"), file(b"link/.wh.x"), Op("hard", b"h", target=b"link/x")):
        with pytest.raises(SourceError, match="climbs above the root"):
            unpacked(shop, links, (behind,))


def test_links_that_lead_in_a_ring(shop: Shop) -> None:
    with pytest.raises(SourceError, match="lead nowhere"):
        unpacked(shop, (Op("sym", b"a", target=b"b"), Op("sym", b"b", target=b"a")), (file(b"a/x"),))


@pytest.mark.parametrize("name", [b"../x", b"a/../x", b"/x", b"..", b"a/.."])
def test_names_outside(shop: Shop, name: bytes) -> None:
    for ops in ((file(name),), (folder(name),), (file(b"x"), Op("hard", b"h", target=name))):
        with pytest.raises(SourceError, match=r"'\.\.'|is absolute"):
            unpacked(shop, (folder(b"a"), file(b"x")), ops)


def test_hard_links_to_nothing_and_to_directories(shop: Shop) -> None:
    with pytest.raises(SourceError, match="which is not there"):
        unpacked(shop, LOWER, (Op("hard", b"h", target=b"d/none"),))
    with pytest.raises(SourceError, match="which is not there"):
        unpacked(shop, LOWER, (file(b".wh.other"), Op("hard", b"h", target=b"other")))
    with pytest.raises(SourceError, match="link to a directory"):
        unpacked(shop, LOWER, (Op("hard", b"h", target=b"d/s"),))


def test_a_member_below_a_file(shop: Shop) -> None:
    for upper in (file(b"other/x"), folder(b"other/x")):
        with pytest.raises(SourceError, match="no directory"):
            unpacked(shop, LOWER, (upper,))


def test_a_whiteout_below_a_file(shop: Shop) -> None:
    """umoci writes whiteouts of all that was in a directory which becomes a file."""
    for upper in ((file(b"other/.wh.x"),), (file(b"d"), file(b"d/.wh.s")), (file(b"d"), file(b"d/.wh..wh..opq"))):
        assert unpacked(shop, LOWER, upper) == modelled(LOWER, upper)


# -- names, types ---------------------------------------------------------------------------------------------------


def test_the_later_of_two_members_wins(shop: Shop) -> None:
    found = unpacked(shop, (file(b"a", b"one", mode=0o600), Op("hard", b"b", target=b"a"), file(b"./a", b"two")))
    assert found[(b"a",)].content == b"two" and found[(b"b",)].content == b"one"
    assert found[(b"a",)].links == found[(b"b",)].links == 1


def test_case_and_unicode_are_told_apart(shop: Shop) -> None:
    several = [b"A", b"a", "ä".encode(), "a\u0308".encode(), b"\xc3", b" ", b"\n", b"\x1b[31m"]
    found = unpacked(shop, tuple(file(name, b"%d" % n) for n, name in enumerate(several)))
    assert {path[0]: seen.content for path, seen in found.items() if path} == {
        name: b"%d" % n for n, name in enumerate(several)
    }
    with pytest.raises(SourceError, match=r"'\\x1b\[31m/x'"):
        unpacked(shop, (file(b"\x1b[31m"),), (file(b"\x1b[31m/x"),))


def test_devices_and_fifos(shop: Shop) -> None:
    found = unpacked(shop, tuple(Op(kind, kind.encode(), mode=0o620) for kind in ("chr", "blk", "fifo")))
    assert {(seen.kind, seen.mode) for path, seen in found.items() if path} == {
        ("chr", 0o620),
        ("blk", 0o620),
        ("fifo", 0o620),
    }


# -- as Go reads tars -----------------------------------------------------------------------------------------------


def test_sizes_of_what_has_no_data(shop: Shop) -> None:
    tar = (
        header(b"d/", 5, b"5") + header(b"l", 700, b"2", link=b"d") + header(b"old/", 9, b"\0") + member(b"f", b"data")
    )
    tar += header(b"h", 4, b"1", link=b"f") + member(b"slash/", b"a file all the same") + END
    found = unpacked(shop, tar)
    assert {path: seen.kind for path, seen in found.items() if path} == {
        (b"d",): "dir",
        (b"l",): "sym",
        (b"old",): "dir",
        (b"f",): "file",
        (b"h",): "file",
        (b"slash",): "file",
    }


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(10_240), bytes(1_000_000)])
def test_ends(shop: Shop, end: bytes) -> None:
    assert names(unpacked(shop, member(b"a", b"x") + end)) == {b"", b"a"}
    assert names(unpacked(shop, end)) == {b""}


def test_what_comes_after_the_end(shop: Shop) -> None:
    for end in (bytes(512), END):
        with pytest.raises(SourceError, match="goes on after its end"):
            unpacked(shop, member(b"a", b"x") + end + member(b"b"))


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_the_standard_library(shop: Shop, format: int) -> None:
    ops = (folder(b"d" * 90), file(b"d" * 90 + b"/" + b"f" * 60, b"text"), Op("sym", b"l", target=b"t" * 90))
    assert unpacked(shop, LayerTar(ops, library=format).bytes()) == modelled(ops)


# -- what it costs --------------------------------------------------------------------------------------------------


def test_nothing_is_stored_twice(shop: Shop) -> None:
    tar = LayerTar(
        (file(b"a", b"some text"), file(b"large", b"0123456789abcdef"), Op("file", b"l", b"z", 300_000))
    ).bytes()
    with record(shop, [tar]) as stored:
        chunks = {extent.key for extent in stored[0].extents()}
        tree = flatten(shop, stored)
    found = {extent.key for path in (b"a", b"large", b"l") for extent in tree.extents(tree.lookup(1, path).ino)}  # type: ignore[union-attr]
    assert found and found < chunks


def test_the_same_lower_layers_share_nodes(shop: Shop) -> None:
    base = LayerTar(tuple(file(b"d%d/f%d" % (n % 20, n), b"%d" % n) for n in range(4000))).bytes()
    with record(shop, [base, LayerTar((file(b"d3/new"),)).bytes(), LayerTar((file(b"d7/.wh.f7"),)).bytes()]) as stored:
        one = flatten(shop, stored[:2])
        two = flatten(shop, [stored[0], stored[2]])
    ones, twos = ({key for key, _ in tree.reader.nodes()} for tree in (one, two))
    assert len(ones & twos) > 0.8 * len(ones)


def test_memory_does_not_change_the_result(shop: Shop) -> None:
    stack = [
        LayerTar(tuple(file(b"d%d/f%d" % (n % 7, n), b"%d" % n) for n in range(600))).bytes(),
        LayerTar(
            (*(Op("hard", b"h%d" % n, target=b"d1/f%d" % (1 + 7 * n)) for n in range(9)), file(b"d2/.wh.f2"))
        ).bytes(),
    ]
    with record(shop, stack) as stored, record(shop, stack, memory=100, threads=4) as small:
        assert [list(log.extents()) for log in stored] == [list(log.extents()) for log in small]
        assert flatten(shop, stored).root_key == flatten(shop, small, memory=2000).root_key
