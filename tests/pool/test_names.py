"""Names next to what OpenZFS 2.3.2 answered, and properties of the rules."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidName
from lamina.pool import names
from lamina.pool.names import (
    MAX_NAME_LENGTH,
    MAX_POOL_NAME_LENGTH,
    check_dataset_name,
    check_name,
    check_pool_name,
    check_snapshot_name,
    dataset_name_error,
    parent_of,
    pool_name_error,
    pool_of_name,
    printable,
    snapshot_name_error,
    split_snapshot,
)

EMPTY = "empty component or misplaced '@' or '#' delimiter in name"
LONG = "x" * 300


# (name, what `zfs create NAME` said after "cannot create 'NAME': "), from the transcript, and its source where marked.
DATASETS = [
    ("tank/bad%name", "invalid character % in name"),
    ("tank/bad@name", "snapshot delimiter '@' is not expected here"),
    ("tank/bad#name", "bookmark delimiter '#' is not expected here"),
    ("tank//x", EMPTY),
    ("tank/x/", "trailing slash in name"),
    ("/tank/x", "leading slash in name"),
    ("", EMPTY),
    (f"tank/{LONG}", "name is too long"),
    ("tank/..", "parent reference, '..' is found in name"),
    ("tank/.", "self reference, '.' is found in name"),
    # zfs_namecheck.c
    ("/", "leading slash in name"),
    ("tank/", "trailing slash in name"),
    ("tank/../x", "parent reference, '..' is found in name"),
    ("tank/a*b", "invalid character '*' in name"),
    ("tank/a\\b", "invalid character '\\' in name"),
    ("tank/ä", "invalid character 'ä' in name"),
    ("tank/a\x1b[0m", "invalid character '\\x1b' in name"),
    ("tank/a\udcff", "invalid character '\\xff' in name"),
    ("tank/a\nb", "invalid character '\\n' in name"),
]

SNAPSHOTS = [
    ("tank/images@", EMPTY),
    ("tank/images@a@b", "multiple '@' and/or '#' delimiters in name"),
    ("tank/images@a/b", "trailing slash in name"),
    ("tank/images@a%b", "invalid character % in name"),
    (f"tank/images@{LONG}", "name is too long"),
    ("tank/images", "missing '@' delimiter in snapshot name"),
    ("@a", EMPTY),
    ("tank/images@..", "parent reference, '..' is found in name"),
]

POOLS = [
    ("mirror", "name is reserved"),
    ("mirror2", "name is reserved"),
    ("spare", "name is reserved"),
    ("log", "name is reserved"),
    ("1tank", "name must begin with a letter"),
    ("", "name must begin with a letter"),
    ("tank@x", "invalid character '@' in pool name"),
    ("tank/x", "invalid character '/' in pool name"),
    ("t%", "invalid character '%' in pool name"),
    ("p" * 240, "name is too long"),
]


@pytest.mark.parametrize(("name", "reason"), DATASETS)
def test_dataset_refusals(name: str, reason: str) -> None:
    assert dataset_name_error(name) == reason
    with pytest.raises(InvalidName) as caught:
        check_dataset_name(name)
    assert str(caught.value) == f"cannot create '{printable(name)}': {reason}"


@pytest.mark.parametrize(("name", "reason"), SNAPSHOTS)
def test_snapshot_refusals(name: str, reason: str) -> None:
    assert snapshot_name_error(name) == reason
    with pytest.raises(InvalidName) as caught:
        check_snapshot_name(name)
    assert str(caught.value) == f"cannot create snapshot '{name}': {reason}"


@pytest.mark.parametrize(("name", "reason"), POOLS)
def test_pool_refusals(name: str, reason: str) -> None:
    assert pool_name_error(name) == reason
    with pytest.raises(InvalidName, match=r"^cannot create "):
        check_pool_name(name)


@pytest.mark.parametrize(
    "name", ["tank", "tank/images", "tank/UPPER-ok_1.2:3", "tank/bad name", "tank/...", "tank/.a", "tank/a.", "1/2"]
)
def test_good_datasets(name: str) -> None:
    check_dataset_name(name)
    check_name(name)


@pytest.mark.parametrize("name", ["tank/images@a b", "tank@2.8.0", "tank/a@sha256-0123", "tank/a@x:y", "a@b"])
def test_good_snapshots(name: str) -> None:
    check_snapshot_name(name)
    check_name(name)


@pytest.mark.parametrize("name", ["tank", "ta nk", "T", "logs", "a" * MAX_POOL_NAME_LENGTH, "a:b-c_d.e"])
def test_good_pools(name: str) -> None:
    check_pool_name(name)


def test_the_verb_is_part_of_the_message() -> None:
    with pytest.raises(InvalidName, match=r"^cannot rename to 'a//b': empty component"):
        check_dataset_name("a//b", "rename to")
    with pytest.raises(InvalidName, match=r"^cannot open 'a@b@c': multiple"):
        check_name("a@b@c")


def test_lengths_are_bytes_and_include_the_snapshot() -> None:
    assert dataset_name_error("t/" + "x" * (MAX_NAME_LENGTH - 2)) is None
    assert dataset_name_error("t/" + "x" * (MAX_NAME_LENGTH - 1)) == "name is too long"
    assert snapshot_name_error("t@" + "x" * (MAX_NAME_LENGTH - 2)) is None
    assert snapshot_name_error("t@" + "x" * (MAX_NAME_LENGTH - 1)) == "name is too long"
    assert dataset_name_error("t/" + "é" * 127) == "name is too long"
    assert dataset_name_error("t/" + "é" * 126) == "invalid character 'é' in name"


def test_parts() -> None:
    assert split_snapshot("a/b@c") == ("a/b", "c")
    assert split_snapshot("a/b") == ("a/b", None)
    assert split_snapshot("a@") == ("a", "")
    assert (pool_of_name("tank/a/b@c"), pool_of_name("tank@c"), pool_of_name("tank")) == ("tank", "tank", "tank")
    assert (parent_of("tank/a/b@c"), parent_of("tank/a/b"), parent_of("tank")) == ("tank/a/b", "tank/a", None)


_COMPONENT = st.text(string.ascii_letters + string.digits + "-_.: ", min_size=1, max_size=20).filter(
    lambda word: word not in (".", "..")
)


@given(st.lists(_COMPONENT, min_size=1, max_size=8), _COMPONENT)
def test_what_is_made_of_good_parts_is_good(parts: list[str], tag: str) -> None:
    name = "/".join(parts)
    assert dataset_name_error(name) is None
    assert snapshot_name_error(f"{name}@{tag}") is None
    assert split_snapshot(f"{name}@{tag}") == (name, tag)
    assert pool_of_name(f"{name}@{tag}") == parts[0]


@given(st.text(st.characters(codec=None), max_size=40))
def test_no_name_is_accepted_that_could_harm(name: str) -> None:
    for check in (dataset_name_error, snapshot_name_error, pool_name_error):
        error = check(name)
        if error is not None:
            assert error.isprintable()
            continue
        assert name.isascii() and name.isprintable()
        if check is pool_name_error:
            assert "/" not in name and "@" not in name
        else:
            dataset, snapshot = split_snapshot(name)
            assert all(part not in ("", ".", "..") for part in dataset.split("/"))
            assert snapshot not in ("", ".", "..") and (snapshot is None) == (check is dataset_name_error)


@given(st.text(st.characters(codec=None)) | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_printable_holds_nothing_that_acts_on_a_terminal(text: str) -> None:
    shown = printable(text)
    assert shown == printable(shown)
    shown.encode("utf-8")
    forbidden = "\n\r\t\x1b\x7f\x9b\u202e\u2066\u200f\u2028\ufeff"
    assert not any(ord(character) < 0x20 or character in forbidden for character in shown)


@given(st.binary())
def test_printable_with_backslashes_keeps_bytes_apart(raw: bytes) -> None:
    shown = printable(raw, backslash=True)
    # Undo it with Python's own escapes: what is not an escape is UTF-8.
    undone = shown.encode("latin-1", "backslashreplace").decode("unicode_escape")
    assert undone.encode("utf-8", "surrogateescape") == raw or any(byte >= 0x80 for byte in raw)
    if all(byte < 0x80 for byte in raw):
        assert undone.encode("ascii") == raw


def test_printable_examples() -> None:
    assert printable(b"a\x1b[31m\xffb") == "a\\x1b[31m\\xffb"
    assert printable("naïve – ok") == "naïve – ok"
    assert printable("a\tb\nc") == "a\\tb\\nc"
    assert printable("evil\u202etxt") == "evil\\u202etxt"
    assert printable("a\\b") == "a\\b"
    assert printable("a\\b", backslash=True) == "a\\\\b"


@given(st.text(alphabet="ab./@# %é:-", max_size=12))
def test_what_is_plainly_right_is_right(name: str) -> None:
    """The quick look refuses nothing and lets nothing wrong pass."""
    with pytest.MonkeyPatch.context() as patch:
        quick = names._is_plain(name)
        patch.setattr(names, "_is_plain", lambda _: False)
        assert not quick or names._entity_error(name) is None
