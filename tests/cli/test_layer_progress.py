"""The lines of layers, on a terminal that is played here and elsewhere."""

import io
import re
import threading

import pytest

from lamina.cli.layerprogress import LayerLines, short
from lamina.oci.incoming.states import COMPLETE, DOWNLOADING, EXISTS, STORING, WAITING
from tests.cli.terminal import Terminal

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def lines_on(terminal: Terminal) -> LayerLines:
    return LayerLines(stream=terminal, clock=lambda: 0.0, size=(terminal.columns, terminal.rows))


def test_the_lines_of_docker_pull() -> None:
    terminal = Terminal()
    lines = lines_on(terminal)
    lines.begin([(A, 1 << 20), (B, 80 << 20), (C, None)])
    assert terminal.screen == ["aaaaaaaaaaaa: Waiting", "bbbbbbbbbbbb: Waiting", "cccccccccccc: Waiting", ""]
    lines.update(A, EXISTS, 0)
    lines.update(B, DOWNLOADING, 0)
    lines.update(C, DOWNLOADING, 3000)
    lines.update(B, DOWNLOADING, 40 << 20)
    lines.finish()
    bar = _bar(terminal.screen[1])
    assert terminal.screen == [
        "aaaaaaaaaaaa: Already exists",
        f"bbbbbbbbbbbb: Downloading [{bar}]  40M/80M",
        "cccccccccccc: Downloading  2.93K",
        "",
    ]
    assert len(bar) > 30
    half = len(bar) // 2
    assert bar == "=" * half + ">" + " " * (len(bar) - half - 1)


def _bar(line: str) -> str:
    found = re.search(r"\[([=> ]+)\]", line)
    assert found is not None
    return found[1]


def test_a_layer_goes_through_its_states() -> None:
    terminal = Terminal()
    lines = lines_on(terminal)
    lines.begin([(A, 100)])
    for state, word in ((DOWNLOADING, "Downloading"), (STORING, "Storing"), (COMPLETE, "Pull complete")):
        lines.update(A, state, 100)
        assert terminal.screen[0].startswith(f"aaaaaaaaaaaa: {word}")
    lines.finish()
    terminal.write("Digest: x\n")
    assert terminal.screen[:2] == ["aaaaaaaaaaaa: Pull complete", "Digest: x"]


def test_no_more_lines_than_fit() -> None:
    terminal = Terminal(rows=8)
    lines = lines_on(terminal)
    digests = [f"sha256:{number:012x}{'0' * 52}" for number in range(40)]
    lines.begin([(digest, 100) for digest in digests])
    for number, digest in enumerate(digests):
        lines.update(digest, DOWNLOADING, 50)
        if number % 2:
            lines.update(digest, COMPLETE, 100)
        assert terminal.lost == 0
        assert len(terminal.screen) <= 8
    assert "more:" in terminal.screen[6]
    assert terminal.screen[6].startswith("34 more: ")
    assert all("Downloading" in line for line in terminal.screen[:6])
    for digest in digests:
        lines.update(digest, COMPLETE, 100)
    assert terminal.screen[6] == "34 more: 34 pull complete"
    assert terminal.lost == 0


@pytest.mark.parametrize("columns", [20, 30, 40, 56, 60, 79, 200])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    terminal = Terminal(columns=columns, rows=6)
    lines = lines_on(terminal)
    lines.begin([(f"sha256:{number:064x}", 123456789) for number in range(20)])
    for number in range(20):
        lines.update(f"sha256:{number:064x}", DOWNLOADING, 99999999)


def test_what_is_said_stands_above() -> None:
    terminal = Terminal()
    lines = lines_on(terminal)
    lines.begin([(A, 10), (B, 10)])
    lines.say("a mirror did not \x1b[31manswer")
    assert terminal.screen[:3] == [
        "a mirror did not \\x1b[31manswer",
        "aaaaaaaaaaaa: Waiting",
        "bbbbbbbbbbbb: Waiting",
    ]


def test_elsewhere_a_line_for_each_change() -> None:
    stream = io.StringIO()
    lines = LayerLines(stream=stream)
    lines.begin([(A, 100), (B, 100)])
    lines.update(A, WAITING, 0)
    lines.update(B, EXISTS, 0)
    for done in range(0, 100, 10):
        lines.update(A, DOWNLOADING, done)
    lines.update(A, STORING, 100)
    lines.update(A, COMPLETE, 100)
    lines.update(C, COMPLETE, 100)  # of no image that was begun
    lines.finish()
    assert stream.getvalue() == (
        "bbbbbbbbbbbb: Already exists\naaaaaaaaaaaa: Downloading\naaaaaaaaaaaa: Storing\naaaaaaaaaaaa: Pull complete\n"
    )


def test_quiet_is_quiet() -> None:
    terminal = Terminal()
    lines = LayerLines(quiet=True, stream=terminal)
    lines.begin([(A, 100)])
    lines.update(A, DOWNLOADING, 1)
    lines.say("again")
    lines.finish()
    assert terminal.screen == [""]


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    lines = LayerLines(stream=terminal)
    lines.begin([(A, 100)])
    lines.update(A, COMPLETE, 100)
    assert terminal.screen == ["aaaaaaaaaaaa: Pull complete", ""]


def test_several_threads() -> None:
    terminal = Terminal(rows=10)
    lines = lines_on(terminal)
    digests = [f"sha256:{number:064x}" for number in range(8)]
    lines.begin([(digest, 1000) for digest in digests])

    def work(digest: str) -> None:
        for done in range(0, 1000, 10):
            lines.update(digest, DOWNLOADING, done)
        lines.update(digest, COMPLETE, 1000)

    threads = [threading.Thread(target=work, args=(digest,)) for digest in digests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert terminal.screen[:8] == [f"{short(digest)}: Pull complete" for digest in digests]
