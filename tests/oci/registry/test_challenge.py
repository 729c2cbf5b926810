"""WWW-Authenticate headers, as registries write them and as they should not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.oci.registry.challenge import parse_challenges


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        (['Basic realm="r"'], [("basic", {"realm": "r"})]),
        (["Basic"], [("basic", {})]),
        (
            ['Bearer realm="https://a.example/t",service="s",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://a.example/t", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (['BEARER Realm="x" , error = "denied"'], [("bearer", {"realm": "x", "error": "denied"})]),
        (['Bearer realm="x", Basic realm="y"'], [("bearer", {"realm": "x"}), ("basic", {"realm": "y"})]),
        (['Basic realm="y"', "Bearer realm=x"], [("basic", {"realm": "y"}), ("bearer", {"realm": "x"})]),
        ([r'Bearer realm="a\"b"'], [("bearer", {"realm": 'a"b'})]),
        (['Bearer realm="x",realm="y"'], [("bearer", {"realm": "x"})]),
        (['Negotiate, Basic realm="y"'], [("negotiate", {}), ("basic", {"realm": "y"})]),
        (['realm="x"'], []),
        ([""], []),
        (['Bearer realm="x'], [("bearer", {})]),
        ([], []),
    ],
)
def test_challenges(headers: list[str], wanted: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in parse_challenges(headers)] == wanted


@given(st.lists(st.text(alphabet='Bearer basic=",\\ rlm\t:/', max_size=200)))
def test_any_header(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()


def test_an_endless_header_is_read_in_no_time() -> None:
    for text in ('Bearer realm="' + "\\" * 100000, "a," * 100000, "Bearer " + "a=b " * 100000, " " * 100000):
        parse_challenges([text])
