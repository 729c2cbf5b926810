"""The progress bar."""

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest

from lamina.cli.progress import ProgressBar, summary_rows

GIB = 1024**3


@pytest.fixture(autouse=True)
def able_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def figures(done: int, total: int | None, files: int = 5, stored: int = 0) -> Any:
    return SimpleNamespace(
        files=files, bytes=done, stored=stored, new=stored, total_files=None, total_bytes=total, done=False
    )


def test_silent_when_not_a_terminal() -> None:
    stream = io.StringIO()
    bar = ProgressBar("x", stream=stream, clock=(clock := Clock()))
    clock.now = 10
    bar.update("a", figures(1, 2))
    bar.clear()
    assert stream.getvalue() == ""


def test_silent_on_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not ProgressBar("x", stream=Terminal()).enabled


def test_ten_times_a_second_and_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream, clock = Terminal(), Clock()
    bar = ProgressBar("x", stream=stream, clock=clock)
    for step in range(1000):
        clock.now = step / 1000
        bar.update("a", figures(step, 1000))
    drawn = stream.getvalue().count("\r")
    assert 8 <= drawn <= 10
    bar.clear()
    assert stream.getvalue().endswith("\r\x1b[K")
    assert "\n" not in stream.getvalue()
    bar.clear()
    assert stream.getvalue().count("\r") == drawn + 1


def test_what_the_line_says() -> None:
    clock = Clock()
    bar = ProgressBar("tank/x@1", stream=Terminal(), clock=clock)
    bar.update("a", figures(3 * GIB, 6 * GIB, files=100, stored=GIB // 2))
    bar.update("b", figures(1 * GIB, 2 * GIB, files=20, stored=GIB // 2))
    line = bar.line(120, 10.0)
    assert line.startswith("tank/x@1  [")
    assert re.sub(r"\[.*\]", "[]", line) == "tank/x@1  []  50%  4G/8G  120 files  410M/s  saved 75%  0:10 left"
    assert re.fullmatch(r"tank/x@1  \[(#+)( +)\]  .*", line)
    bar.update("b", figures(1 * GIB, None))
    # Without a total there is no share and no time left.
    assert bar.line(120, 10.0) == "tank/x@1  4G  105 files  410M/s  saved 87%"


@pytest.mark.parametrize("width", range(20, 200, 7))
def test_the_line_fits(width: int) -> None:
    bar = ProgressBar("tank/a-long-name/of-an-image@2.8.0", stream=Terminal(), clock=Clock())
    for done in (0, 1, GIB - 1, 5 * GIB):
        for total in (None, 0, 5 * GIB):
            bar.begin("tank/a-long-name/of-an-image@2.8.0")
            bar._jobs["a"] = figures(done, total, stored=2 * done)
            assert len(bar.line(width, 7.0)) < width


def test_the_rate_follows() -> None:
    bar = ProgressBar("x", stream=Terminal(), clock=Clock())
    done = 0
    for second in range(1, 30):
        done += (100 if second < 10 else 10) * 1024**2
        bar._jobs["a"] = figures(done, None)
        line = bar.line(80, float(second))
        if second == 9:
            assert "100M/s" in line
    assert re.search(r" 1\d(\.\d)?M/s", line)


def test_control_bytes_in_the_label() -> None:
    bar = ProgressBar("a\x1b[2J", stream=Terminal(), clock=Clock())
    assert "\x1b" not in bar.line(80, 1.0)


def test_the_table_at_the_end() -> None:
    rows = summary_rows(
        {"a@1": (10, 4 * GIB, 4 * GIB, GIB, 2.0), "a@2": (5, GIB, 0, 280, 3.5), "a@3": (0, 0, 0, 0, 0.25)}
    )
    assert rows == [
        ["a@1", "10", "4G", "4G", "1G", "4.00x", "2.0"],
        ["a@2", "5", "1G", "0B", "280B", ">999x", "3.5"],
        ["a@3", "0", "0B", "0B", "0B", "-", "0.2"],
        ["total", "15", "5G", "4G", "1.00G", "4.99x", "3.5"],
    ]
    assert len(summary_rows({"a@1": (1, 1, 1, 1, 1.0)})) == 1
