"""The pages are true: every command in them is one that lamina takes, every Python example runs."""

import re
import shlex
import tarfile
from pathlib import Path

import pytest

from lamina.cli import commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/tutorial.md", "docs/reference.md", "docs/images.md", "docs/sync.md"]
COMMAND = re.compile(r"(?:^ {4}(?:.*\| )?|`(?:…? ?\\?\| )?)(lamina [^`#\n]*)", re.MULTILINE)


def _command_lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        found += [(page, line.strip()) for line in COMMAND.findall((ROOT / page).read_text())]
    return found


def test_the_pages_have_commands() -> None:
    for page in PAGES:
        assert sum(where == page for where, _ in _command_lines()) >= 7, page


@pytest.mark.parametrize(("page", "line"), _command_lines())
def test_every_command_parses(page: str, line: str) -> None:
    words = shlex.split(line.split(" > ")[0].replace("…", ""))[1:]
    if "COMMAND" in words or "ARGUMENT" in words:
        words = ["help", "list"]
    found = commands.resolve(words)
    assert found is not None, f"{page}: no such command: {line}"
    verb, rest = found
    commands.load(verb).parse(rest)  # raises UsageError for an option that is not there


def test_the_api_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("2.8.0", "2.7.1"):
        etc = tmp_path / f"pytorch-{version}" / "etc"
        etc.mkdir(parents=True)
        (etc / "debian_version").write_text("12.11\n")
        (etc / "release").write_text(version * 1000)
    with tarfile.open(tmp_path / "pytorch-2.7.1.tar", "w") as tar:
        tar.add(tmp_path / "pytorch-2.7.1", arcname=".")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "pools"))
    page = (ROOT / "docs/api.md").read_text().replace("/data/tank", str(tmp_path / "pool"))
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) >= 8
    names: dict[str, object] = {}
    for number, example in enumerate(examples):
        exec(compile(example, f"docs/api.md example {number + 1}", "exec"), names)
    assert names["version"] is not None
