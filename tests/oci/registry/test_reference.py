"""References: the field's grammar, its short names, and what lamina calls an image."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import LaminaError, OciError
from lamina.oci.registry.reference import Reference, check_digest, is_loopback, parse_reference
from lamina.pool.names import snapshot_name_error

A = "a" * 64
SHA = f"sha256:{A}"


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("python", "docker.io", "library/python", "latest", None),
        ("python:3.12-slim", "docker.io", "library/python", "3.12-slim", None),
        ("docker.io/python", "docker.io", "library/python", "latest", None),
        ("index.docker.io/python", "docker.io", "library/python", "latest", None),
        ("registry-1.docker.io/a/b", "docker.io", "a/b", "latest", None),
        ("docker://python:3", "docker.io", "library/python", "3", None),
        ("pytorch/pytorch:2.6.0", "docker.io", "pytorch/pytorch", "2.6.0", None),
        ("library/python", "docker.io", "library/python", "latest", None),
        ("localhost/x", "localhost", "x", "latest", None),
        ("localhost", "docker.io", "library/localhost", "latest", None),
        ("localhost:5000/a/b/c:t", "localhost:5000", "a/b/c", "t", None),
        ("127.0.0.1:5000/x", "127.0.0.1:5000", "x", "latest", None),
        ("[::1]:5000/x:1", "[::1]:5000", "x", "1", None),
        ("[::1]/x", "[::1]", "x", "latest", None),
        ("registry.example.com/org/x", "registry.example.com", "org/x", "latest", None),
        ("registry.example.com/x:y_Z.-1", "registry.example.com", "x", "y_Z.-1", None),
        ("a-b.example:1/a__b/c---d/e.f_g", "a-b.example:1", "a__b/c---d/e.f_g", "latest", None),
        (f"python@{SHA}", "docker.io", "library/python", None, SHA),
        (f"python:3@{SHA}", "docker.io", "library/python", "3", SHA),
        (f"localhost:5000/x@{SHA}", "localhost:5000", "x", None, SHA),
        (f"localhost:5000/x@sha512:{A}{A}", "localhost:5000", "x", None, f"sha512:{A}{A}"),
        ("Foo/bar", "Foo", "bar", "latest", None),  # a capital makes a host of it: distribution/reference does that
    ],
)
def test_what_is_meant(text: str, host: str, repository: str, tag: str | None, digest: str | None) -> None:
    assert parse_reference(text) == Reference(host, repository, tag, digest)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("docker://", "it is empty"),
        ("https://example.com/x", "write HOST/REPOSITORY:TAG"),
        ("Python", "capital"),
        ("docker.io/Python", "capital"),
        ("a//b", "made of a-z"),
        ("/a", "made of a-z"),
        ("a/", "made of a-z"),
        ("example.com/", "no repository"),
        (":tag", "no repository"),
        ("example.com/:tag", "no repository"),
        ("a..b", "made of a-z"),
        ("a/../b", "made of a-z"),
        ("../b", "'..' is no host name"),
        ("a/-b", "made of a-z"),
        ("a b", "made of a-z"),
        ("a\x1b[31m", r"a\x1b[31m"),
        ("é", "made of a-z"),
        ("a:", "a tag has"),
        ("a:-x", "a tag has"),
        ("a:" + "x" * 129, "a tag has"),
        ("a:b:c", "a tag has"),
        ("a@", "a digest is"),
        ("a@sha256:abc", "64 hexadecimal digits, this one has 3"),
        (f"a@sha256:{'A' * 64}", "small letters"),
        (f"a@md5:{'a' * 32}", "a digest is"),
        (f"a@{SHA}@{SHA}", "a digest is"),
        (A, "an image's ID"),
        ("example.com:0/a", "0 is no port"),
        ("example.com:65536/a", "65536 is no port"),
        ("example.com:x/a", "no host name"),
        ("-a.b/c", "no host name"),
        ("[::g]/c", "no host name"),
        ("[1:2]/c", "no IPv6 address"),
        ("a.b/" + "x" * 256, "longer than 255"),
        ("a." + "b" * 260 + "/c", "longer than 253"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(OciError) as caught:
        parse_reference(text)
    message = str(caught.value)
    assert reason in message and message.startswith("invalid reference '") and message.isprintable()


@pytest.mark.parametrize(
    ("text", "familiar", "path", "name"),
    [
        ("docker.io/library/python:latest", "python:latest", "python", "latest"),
        ("docker.io/pytorch/pytorch:2.6.0", "pytorch/pytorch:2.6.0", "pytorch/pytorch", "2.6.0"),
        ("docker.io/library/a/b", "library/a/b:latest", "library/a/b", "latest"),
        ("registry.example.com/org/x:1", "registry.example.com/org/x:1", "org/x", "1"),
        ("registry.example.com/library/x:1", "registry.example.com/library/x:1", "library/x", "1"),
        ("localhost:5000/x", "localhost:5000/x:latest", "x", "latest"),
        (f"python@{SHA}", f"python@{SHA}", "python", f"sha256-{A}"),
        (f"python:3@{SHA}", f"python:3@{SHA}", "python", "3"),
        (f"library/{A}", f"library/{A}:latest", A, "latest"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest", "a.b/c", "latest"),
    ],
)
def test_names_that_follow(text: str, familiar: str, path: str, name: str) -> None:
    reference = parse_reference(text)
    assert (reference.familiar, reference.dataset_path, reference.snapshot_name) == (familiar, path, name)


def test_a_name_that_no_dataset_can_have_says_what_to_do() -> None:
    reference = Reference("example.com", "x" * 250 + "/" + "y" * 100, "1")
    with pytest.raises(OciError, match=r"cannot be a dataset's name: name is too long; give DEST"):
        _ = reference.dataset_path
    long = Reference("example.com", "x", "t" * 128)
    assert long.snapshot_name == "t" * 128


def test_what_is_asked_for() -> None:
    reference = parse_reference(f"python:3@{SHA}")
    assert reference.target == SHA
    assert reference.tagged("4").target == "4"
    assert reference.at(f"sha256:{'b' * 64}").target == f"sha256:{'b' * 64}"
    assert reference.api_host == "registry-1.docker.io"
    with pytest.raises(OciError):
        reference.at("sha256:x")
    with pytest.raises(OciError):
        reference.tagged("a b")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:5"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["example.com", "localhost.example.com", "10.0.0.1:5000", "[fe80::1]", "128.0.0.1"])
def test_other_machines(host: str) -> None:
    assert not is_loopback(host)


_component = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
_host = st.one_of(
    st.just("docker.io"),
    st.just("localhost"),
    st.from_regex(r"[a-z][a-z0-9]{0,8}\.example(:[1-9][0-9]{0,3})?", fullmatch=True),
    st.from_regex(r"\[::[0-9a-f]{1,4}\](:[1-9][0-9]{0,3})?", fullmatch=True),
)
_references = st.builds(
    Reference,
    _host,
    st.lists(_component, min_size=2, max_size=4).map("/".join),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True),
    st.none() | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
)


@given(_references)
def test_canonical_and_familiar_names_mean_the_same(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference
    assert len(reference.familiar) <= len(str(reference))
    assert snapshot_name_error(f"tank/{reference.dataset_path}@{reference.snapshot_name}") is None


@given(st.text(max_size=60) | st.from_regex(r"[a-zA-Z0-9./:@_\[\]-]{0,60}", fullmatch=True))
def test_any_text_is_taken_whole_or_refused_in_one_line(text: str) -> None:
    try:
        reference = parse_reference(text)
    except LaminaError as error:
        assert "\n" not in str(error) and str(error).isprintable()
        return
    assert parse_reference(str(reference)) == reference
    assert re.fullmatch(r"[a-z0-9._/-]+", reference.repository)
    assert reference.tag or reference.digest


@given(st.text(max_size=80))
def test_digests(text: str) -> None:
    try:
        assert re.fullmatch(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", check_digest(text))
    except OciError:
        pass
