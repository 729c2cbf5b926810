"""``lamina pool scrub``, ``status`` and ``clear``: words, refusals, exit statuses."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.pool import Pool
from lamina.pool.reports import ScanStatus
from lamina.pool.scrubbing.scrub import scrubs_of
from tests.cli.conftest import Run
from tests.cli.fake import FakePool

NOON = 1795435200


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """A real pool, ``tank``, scrubbed in the foreground."""
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    monkeypatch.setenv("LAMINA_BACKGROUND", "off")
    with Pool.create("tank", tmp_path / "tank") as pool:
        yield pool


def scan(state: str, **more: object) -> ScanStatus:
    found: dict[str, object] = {
        "state": state,
        "started": NOON,
        "ended": None,
        "examined": 100 << 20,
        "total": 400 << 20,
        "repaired": 0,
        "errors": 0,
        "seconds": 10,
        "rate": 0,
        "message": "",
    } | more
    return ScanStatus(**found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (
            scan("finished", ended=NOON + 60, repaired=12478054, seconds=61),
            ["  scan: scrub repaired 11.9M in 00:01:01 with 0 errors on Mon Nov 23 12:01:00 2026"],
        ),
        (
            scan("finished", ended=NOON + 100_000, errors=96, seconds=93_784),
            ["  scan: scrub repaired 0B in 1 days 02:03:04 with 96 errors on Tue Nov 24 15:46:40 2026"],
        ),
        (scan("canceled", ended=NOON + 5), ["  scan: scrub canceled on Mon Nov 23 12:00:05 2026"]),
        (
            scan("scanning"),
            [
                "  scan: scrub in progress since Mon Nov 23 12:00:00 2026",
                "\t100M / 400M scanned at 10M/s",
                "\t0B repaired, 25.00% done, 00:00:30 to go",
            ],
        ),
        (
            scan("scanning", seconds=0, examined=0, total=0),
            [
                "  scan: scrub in progress since Mon Nov 23 12:00:00 2026",
                "\t0B / 0B scanned",
                "\t0B repaired, 0.00% done, no estimated completion time",
            ],
        ),
        (
            scan("paused", ended=NOON + 9, repaired=4096),
            [
                "  scan: scrub paused since Mon Nov 23 12:00:09 2026",
                "\tscrub started on Mon Nov 23 12:00:00 2026",
                "\t100M / 400M scanned",
                "\t4K repaired, 25.00% done",
            ],
        ),
        (
            scan("interrupted", message="no space"),
            [
                "  scan: scrub in progress since Mon Nov 23 12:00:00 2026",
                "\t100M / 400M scanned",
                "\t0B repaired, 25.00% done",
                "\tits process has ended: no space; 'lamina pool scrub tank' goes on with it",
            ],
        ),
    ],
)
def test_scan_lines(tank: FakePool, run: Run, status: ScanStatus, lines: list[str]) -> None:
    tank.scan = status
    out = run("pool", "status", "tank").out.splitlines()
    assert out[:2] == ["  pool: tank", " state: ONLINE"]
    assert out[2 : 2 + len(lines)] == lines
    assert out[2 + len(lines)] == "config:"


def test_corrected_errors(tank: FakePool, run: Run) -> None:
    """The words of the transcript after a scrub that has healed a mirror."""
    tank.counts = (0, 0, 95)
    page = run("pool", "status", "tank").out
    assert page.startswith(
        "  pool: tank\n"
        " state: ONLINE\n"
        "status: One or more devices has experienced an unrecoverable error.  An\n"
        "\tattempt was made to correct the error.  Applications are unaffected.\n"
        "action: Determine if the device needs to be replaced, and clear the errors\n"
        "\tusing 'lamina pool clear tank'.\n"
        "config:\n"
    )
    assert "\ttank          ONLINE       0     0    95\n\t  /data/tank  ONLINE       0     0    95\n" in page
    assert page.endswith("errors: No known data errors\n")
    assert run("pool", "status", "-x").out.startswith("  pool: tank\n")
    assert run("pool", "clear", "tank").status == 0
    assert run("pool", "status", "-x").out == "all pools are healthy\n"


def test_counts_are_short_unless_exact_ones_are_asked_for(tank: FakePool, run: Run) -> None:
    tank.counts = (1023, 1024, 123_456)
    assert "\ttank          ONLINE    1023    1K  121K\n" in run("pool", "status").out
    assert "\ttank          ONLINE    1023  1024 123456\n" in run("pool", "status", "-p", "-P", "tank").out


def test_permanent_errors(tank: FakePool, run: Run) -> None:
    tank.state, tank.errors = "DEGRADED", 2
    tank.damaged = ["tank/a@b:/etc/x", "tank/a@b:<metadata> /usr ... /var"]
    page = run("pool", "status", "tank").out
    assert page.endswith("errors: 2 data errors, use '-v' for a list\n")
    page = run("pool", "status", "-v", "tank").out
    assert " state: DEGRADED\nstatus: One or more devices has experienced an error resulting in data\n" in page
    assert page.endswith(
        "errors: Permanent errors have been detected in the following files:\n\n"
        "        tank/a@b:/etc/x\n        tank/a@b:<metadata> /usr ... /var\n"
    )
    document = json.loads(run("pool", "status", "-vj").out)["pools"]["tank"]
    assert (document["error_count"], document["errlist"]) == ("2", list(tank.damaged))
    assert document["status"].startswith("One or more devices") and "--repair-from" in document["action"]
    assert document["vdevs"]["tank"]["vdevs"]["/data/tank"]["checksum_errors"] == "0"


def test_status_as_json(tank: FakePool, run: Run) -> None:
    tank.scan = scan("finished", ended=NOON + 60)
    document = json.loads(run("pool", "status", "-j").out)["pools"]["tank"]["scan_stats"]
    assert (document["function"], document["state"], document["to_examine"]) == ("SCRUB", "FINISHED", "400M")
    assert document["end_time"] == "Mon Nov 23 12:01:00 2026"
    tank.scan = scan("paused", ended=NOON + 60)
    document = json.loads(run("pool", "status", "-jp").out)["pools"]["tank"]["scan_stats"]
    assert (document["state"], document["end_time"], document["scrub_pause"]) == ("SCANNING", "-", str(NOON + 60))
    assert document["examined"] == str(100 << 20)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing pool name argument"),
        (["-s", "-p", "tank"], "invalid option combination: -s and -p are mutually exclusive"),
        (["-w", "-p", "tank"], "invalid option combination: -w cannot be used with -p or -s"),
        (["-w", "-s", "tank"], "invalid option combination: -w cannot be used with -p or -s"),
        (["-w", "--repair-from", "x", "tank"], "invalid option combination: --repair-from cannot be used with"),
        (["-e", "ssh", "tank"], "invalid option combination: -e needs --repair-from"),
        (["-s", "--rate", "1", "tank"], "invalid option combination: --rate cannot be used with -s or -p"),
        (["--rate", "fast", "tank"], "invalid rate: bad numeric value 'fast'; bytes a second are expected"),
    ],
)
def test_usage(tank: FakePool, run: Run, words: list[str], message: str) -> None:
    result = run("pool", "scrub", *words)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(message)
    assert tank.opened == 0


def test_clear_usage(tank: FakePool, run: Run) -> None:
    assert run("pool", "clear").status == 2
    assert run("pool", "clear", "tank", "tank").status == 2
    missing = run("pool", "clear", "nosuch")
    assert (missing.status, missing.err) == (1, "cannot open 'nosuch': no such pool\n")


@pytest.mark.usefixtures("real")
def test_the_session_of_the_transcript(run: Run) -> None:
    """Exit statuses and words of OpenZFS: scrub, scrub -w, -s without a scrub, -p without one."""
    assert run("pool", "status", "tank").out.splitlines()[2] == "config:"
    for words in (["tank"], ["-w", "tank"]):
        result = run("pool", "scrub", *words)
        assert (result.status, result.out, result.err) == (0, "", "")
    assert "  scan: scrub repaired 0B in 00:00:00 with 0 errors on " in run("pool", "status", "tank").out
    result = run("pool", "scrub", "-s", "tank")
    assert (result.status, result.err) == (1, "cannot cancel scrubbing tank: there is no active scrub\n")
    result = run("pool", "scrub", "nosuch")
    assert (result.status, result.err) == (1, "cannot open 'nosuch': no such pool\n")
    result = run("pool", "scrub", "-p", "tank")
    assert (result.status, result.err) == (0, "")
    result = run("pool", "scrub", "nosuch", "tank")
    assert (result.status, result.err) == (1, "cannot open 'nosuch': no such pool\n")


def test_pausing_and_resuming(real: Pool, run: Run) -> None:
    scrubs_of(real).begin("tank", None)
    assert run("pool", "scrub", "-p", "tank").status == 0
    again = run("pool", "scrub", "-p", "tank")
    assert (again.status, again.err) == (
        1,
        "cannot pause scrubbing tank: scrub is paused; use 'lamina pool scrub' to resume scrub\n",
    )
    assert "  scan: scrub paused since " in run("pool", "status").out
    waited = run("pool", "scrub", "-w", "tank")
    assert (waited.status, waited.err) == (0, "")
    assert "  scan: scrub repaired 0B in " in run("pool", "status").out
    scrubs_of(real).begin("tank", None)
    assert run("pool", "scrub", "-s", "tank").status == 0
    assert "  scan: scrub canceled on " in run("pool", "status").out


def test_a_scrub_whose_process_has_ended(real: Pool, run: Run) -> None:
    scrubs = scrubs_of(real)
    scrubs.begin("tank", 5 << 20)
    scrubs.take("1-abc")
    scrubs.fail("1-abc", "the disk is full")
    page = run("pool", "status").out
    assert "\tits process has ended: the disk is full; 'lamina pool scrub tank' goes on with it\n" in page
    assert run("pool", "scrub", "tank").status == 0
    last = scrubs.last()
    assert last is not None and (last.state, last.rate) == ("finished", 5 << 20)


def test_repair_words(real: Pool, run: Run, tmp_path: Path) -> None:
    result = run("pool", "scrub", "--repair-from", str(tmp_path), "tank")
    assert (result.status, result.out, result.err) == (0, "tank: nothing is damaged\n", "")
    result = run("pool", "scrub", "--repair-from", "no/such", "tank")
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        "cannot repair from 'no/such': it is no pool that this machine knows, and no such file or directory\n"
    )
    assert run("pool", "scrub", "--repair-from", "-oProxyCommand=x:tank", "tank").err == (
        "cannot repair from '-oProxyCommand=x:tank': [user@]host:pool is expected\n"
    )
