"""The flags of pull and push."""

import io
from pathlib import Path

import pytest

from lamina.errors import OciError, UsageError
from lamina.oci.registry.options import Mirror, Options, parse_mirror, registry_options


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_said() -> None:
    assert registry_options("docker.io", environment={}) == Options()


def test_all_said(tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text("{}")
    (tmp_path / "ca.crt").write_text("")
    options = registry_options(
        "example.com:5000",
        username="ann",
        password_stdin=True,
        authfile=str(tmp_path / "auth.json"),
        tls_verify=False,
        ca_file=str(tmp_path / "ca.crt"),
        cert_dir=str(tmp_path),
        mirrors=["mirror.example.com/hub", "docker.io=other.example.com"],
        environment={"LAMINA_REGISTRY_MIRROR": "hub.example.com, example.com:5000=http://10.0.0.1:80"},
        stdin=io.StringIO("pass word\n"),
    )
    assert options == Options(
        username="ann",
        password="pass word",
        authfile=tmp_path / "auth.json",
        tls_verify=False,
        ca_file=tmp_path / "ca.crt",
        cert_dir=tmp_path,
        mirrors=(
            Mirror("example.com:5000", "mirror.example.com", "hub"),
            Mirror("example.com:5000", "10.0.0.1:80", "", True),
        ),
    )
    assert "pass word" not in repr(options)


def test_mirrors_of_the_environment_are_docker_hubs() -> None:
    environment = {"LAMINA_REGISTRY_MIRROR": "hub.example.com"}
    assert registry_options("example.com", environment=environment).mirrors == ()
    assert registry_options("docker.io", environment=environment).mirrors == (Mirror("docker.io", "hub.example.com"),)


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("m.example.com", Mirror("r", "m.example.com")),
        ("https://m.example.com:1/a/b/", Mirror("r", "m.example.com:1", "a/b", False)),
        ("http://m.example.com", Mirror("r", "m.example.com", "", True)),
        ("index.docker.io=m.example.com", Mirror("docker.io", "m.example.com")),
    ],
)
def test_a_mirror(text: str, mirror: Mirror) -> None:
    assert parse_mirror(text, "r") == mirror


@pytest.mark.parametrize(
    "text", ["", "ftp://m.example.com", "a b", "=m.example.com", "x=", "http://", "m.example/a b", "m.example/../x?"]
)
def test_no_mirror(text: str) -> None:
    with pytest.raises((OciError, UsageError)):
        parse_mirror(text, "r")


@pytest.mark.parametrize(
    ("words", "typed", "reason"),
    [
        ({"password_stdin": True}, "x", "needs --username"),
        ({"username": "ann"}, "x", "--password-stdin"),
        ({"username": "ann", "password_stdin": True}, "", "no password on standard input"),
        ({"username": "ann", "password_stdin": True}, "\n", "no password on standard input"),
        ({"username": "a:b", "password_stdin": True}, "x", "without ':'"),
        ({"username": "", "password_stdin": True}, "x", "without ':'"),
        ({"username": "a\x1b", "password_stdin": True}, "x", "control characters"),
        ({"username": "a", "password_stdin": True}, "x" * 70000, "64 KiB"),
        ({"plain_http": True, "cert_dir": "/"}, "", "no TLS"),
        ({"authfile": "/nonexistent"}, "", "is no file"),
        ({"ca_file": "/"}, "", "is no file"),
        ({"cert_dir": "/nonexistent"}, "", "is no directory"),
    ],
)
def test_words_that_do_not_fit(words: dict[str, object], typed: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry_options("docker.io", **words, environment={}, stdin=io.StringIO(typed))  # type: ignore[arg-type]
    assert reason in str(caught.value) and str(caught.value).isprintable()


def test_a_password_may_end_in_a_windows_line() -> None:
    options = registry_options("x", username="a", password_stdin=True, environment={}, stdin=io.StringIO(" p \r\n"))
    assert options.password == " p "


def test_a_password_is_asked_for_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "typed"

    monkeypatch.setattr("getpass.getpass", answer)
    assert registry_options("example.com", username="ann", environment={}, stdin=Terminal()).password == "typed"
    assert asked == ["Password of ann at example.com: "]
