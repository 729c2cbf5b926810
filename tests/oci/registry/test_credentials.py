"""Logins, from where docker login and podman login keep them."""

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import AuthError
from lamina.oci.registry import credentials
from lamina.oci.registry.credentials import Credentials, CredentialStore, auth_files

HUB = "https://index.docker.io/v1/"


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def store(document: Any, home: Path, **environment: str) -> CredentialStore:
    (home / ".docker").mkdir(exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (home / ".docker/config.json").write_text(text)
    return CredentialStore(environment={"HOME": str(home), "PATH": os.environ["PATH"], **environment})


def helper(directory: Path, name: str, script: str) -> str:
    """A credential helper; returns the PATH with it."""
    directory.mkdir(exist_ok=True)
    file = directory / f"docker-credential-{name}"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return f"{directory}:{os.environ['PATH']}"


def test_no_files_no_login(home: Path) -> None:
    assert CredentialStore(environment={"HOME": str(home)}).find("docker.io").credentials is None


@pytest.mark.parametrize("key", [HUB, HUB[:-1], "docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_several_names(key: str, home: Path) -> None:
    found = store({"auths": {key: basic("ann", "se:cret")}}, home).find("docker.io", "library/python")
    assert found.credentials == Credentials("ann", "se:cret")


@pytest.mark.parametrize("key", ["example.com:5000", "https://example.com:5000", "http://example.com:5000/v2/"])
def test_a_registry_with_its_address_as_it_was_typed(key: str, home: Path) -> None:
    found = store({"auths": {key: basic("ann", "x")}}, home)
    assert found.find("example.com:5000").credentials == Credentials("ann", "x")
    assert found.find("example.com").credentials is None
    assert found.find("other.example.com:5000").credentials is None


def test_parts_of_a_registry_go_before_it(home: Path) -> None:
    document = {
        "auths": {
            "example.com": basic("all", "x"),
            "example.com/team": basic("team", "x"),
            "example.com/team/secret": basic("secret", "x"),
        }
    }
    logins = store(document, home)
    for repository, user in [("a/b", "all"), ("team", "team"), ("team/a", "team"), ("team/secret/x", "secret")]:
        found = logins.find("example.com", repository).credentials
        assert found is not None and found.username == user
    found = logins.find("example.com", "teams").credentials
    assert found is not None and found.username == "all"


def test_tokens(home: Path) -> None:
    entries = {
        "a.example": {**basic("00000000-0000-0000-0000-000000000000", ""), "identitytoken": "idtok"},
        "b.example": {"registrytoken": "regtok"},
        "c.example": {"username": "u", "password": "p"},
        "d.example": {},
    }
    logins = store({"auths": entries}, home)
    identity = logins.find("a.example").credentials
    assert identity is not None and identity.identity_token == "idtok" and identity.basic is None
    registry = logins.find("b.example").credentials
    assert registry is not None and registry.registry_token == "regtok"
    assert logins.find("c.example").credentials == Credentials("u", "p")
    assert logins.find("d.example").credentials is None
    for secret in ("idtok", "regtok"):
        assert secret not in repr(identity) + repr(registry)


def test_the_files_and_their_order(tmp_path: Path) -> None:
    home = tmp_path / "h"
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    files = [file.path for file in auth_files(None, environment)]
    wanted = [tmp_path / "run/containers/auth.json", home / ".config/containers/auth.json"]
    wanted.append(home / ".docker/config.json")
    assert files == wanted
    environment |= {"DOCKER_CONFIG": str(tmp_path / "d"), "XDG_CONFIG_HOME": str(tmp_path / "c")}
    wanted[1:] = [tmp_path / "c/containers/auth.json", tmp_path / "d/config.json"]
    assert [file.path for file in auth_files(None, environment)] == wanted
    for number, path in reversed(list(enumerate(wanted))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"auths": {"example.com": basic(f"user{number}", "x")}}))
        found = CredentialStore(environment=environment).find("example.com").credentials
        assert found is not None and found.username == f"user{number}"
    environment["REGISTRY_AUTH_FILE"] = str(wanted[2])
    assert [file.path for file in auth_files(None, environment)] == [wanted[2]]
    assert [file.path for file in auth_files(wanted[1], environment)] == [wanted[1]]


def test_a_named_file_must_be_there_and_make_sense(tmp_path: Path) -> None:
    with pytest.raises(AuthError, match="no such file"):
        CredentialStore(tmp_path / "none", {}).find("example.com")
    for text in ("", "[]", '{"auths": []}', '{"auths": {"example.com": {"auth": "geheim"}}}', "[" * 100000):
        (tmp_path / "auth.json").write_text(text)
        if text == '{"auths": []}':
            assert CredentialStore(tmp_path / "auth.json", {}).find("example.com").credentials is None
            continue
        with pytest.raises(AuthError) as caught:
            CredentialStore(tmp_path / "auth.json", {}).find("example.com")
        assert "log in anew" in str(caught.value) and "geheim" not in str(caught.value)


def test_other_files_that_make_no_sense_are_passed_over_and_said(home: Path) -> None:
    (home / ".config/containers").mkdir(parents=True)
    (home / ".config/containers/auth.json").write_text("{broken secret")
    found = store({"auths": {"example.com": basic("ann", "x")}}, home).find("example.com")
    assert found.credentials == Credentials("ann", "x")
    (problem,) = found.problems
    assert "auth.json' is no usable JSON" in problem and "secret" not in problem


def test_helpers(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = f"""echo "$1 $(cat)" >> {log}; echo '{{"ServerURL": "x", "Username": "ann", "Secret": "s3cret"}}'"""
    path = helper(tmp_path / "bin", "fake", script)
    document = {"credHelpers": {"example.com": "fake"}, "auths": {"example.com": basic("other", "x")}}
    found = store(document, home, PATH=path).find("example.com", "a/b")
    assert found.credentials == Credentials("ann", "s3cret") and "s3cret" not in repr(found)
    found = store({"credsStore": "fake"}, home, PATH=path).find("docker.io", "library/x")
    assert found.credentials == Credentials("ann", "s3cret")
    found = store({"credsStore": "fake"}, home, PATH=path).find("example.com:5000", "x")
    assert found.credentials == Credentials("ann", "s3cret")
    assert log.read_text().splitlines() == ["get example.com", f"get {HUB}", "get example.com:5000"]


def test_a_helper_may_have_a_token(home: Path, tmp_path: Path) -> None:
    path = helper(tmp_path / "bin", "fake", """echo '{"Username": "<token>", "Secret": "idtok"}'""")
    found = store({"credsStore": "fake"}, home, PATH=path).find("example.com")
    assert found.credentials == Credentials(identity_token="idtok")


def test_what_a_helper_does_not_know_may_stand_in_the_file(home: Path, tmp_path: Path) -> None:
    path = helper(tmp_path / "bin", "fake", "echo credentials not found in native keychain; exit 1")
    document = {"credsStore": "fake", "auths": {"example.com": basic("ann", "x"), "other.example": {}}}
    logins = store(document, home, PATH=path)
    assert logins.find("example.com").credentials == Credentials("ann", "x")
    assert logins.find("other.example").credentials is None


@pytest.mark.parametrize(
    ("name", "script", "reason"),
    [
        ("missing", None, "docker-credential-missing is not installed"),
        ("../evil", None, "is no name of a credential helper"),
        ("fake", "echo 'the key ring is locked\x1b[2J' >&2; exit 3", r"the key ring is locked\x1b[2J"),
        ("fake", "exit 3", "exit status 3"),
        ("fake", "echo s3cret", "no usable JSON"),
        ("fake", "echo '[\"s3cret\"]'", "no usable JSON"),
        ("fake", """echo '{"Username": 1, "Secret": "s3cret"}'""", "neither a user nor a secret"),
        ("fake", "head -c 2000000 /dev/zero", "no usable JSON"),
        ("fake", "sleep 10", "did not answer within"),
    ],
)
def test_helpers_that_fail(
    name: str, script: str | None, reason: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "HELPER_SECONDS", 0.3 if script == "sleep 10" else 30.0)
    path = os.environ["PATH"] if script is None else helper(tmp_path / "bin", name, script)
    found = store({"credHelpers": {"example.com": name}}, home, PATH=path).find("example.com")
    assert found.credentials is None
    (problem,) = found.problems
    assert reason in problem and "s3cret" not in problem and problem.isprintable()


def test_users_without_ascii() -> None:
    assert Credentials("ü", "ß").basic == "Basic " + base64.b64encode("ü:ß".encode()).decode()
