"""The history of a pool, and properties of the pool itself."""

from pathlib import Path

import pytest

from lamina.errors import PropertyError
from lamina.pool import Pool
from lamina.pool.recording import COMMAND_LENGTH
from lamina.pool.recovery.recover import recover_pool
from tests.pool.example import impatient

__all__ = ["impatient"]


def lines(pool: Pool, **options: bool) -> list[tuple[int, str]]:
    return [(line.txg, line.command) for line in pool.history(**options)]


def test_only_changes_that_say_so_are_in_it(place: Path) -> None:
    with Pool.create("tank", place / "tank", command="lamina pool create tank") as pool:
        pool.create_dataset("tank/more")
        pool.list()
        pool.command = "lamina create 'tank/a b'"
        pool.create_dataset("tank/a b")
        with pytest.raises(PropertyError):
            pool.set(["tank"], {"bogus": "1"})
        pool.command = None
        pool.create_dataset("tank/silent")
        assert lines(pool) == [(1, "lamina pool create tank"), (3, "lamina create 'tank/a b'")]
        line = next(pool.history())
        assert line.user.startswith(("0 (root)", "")) and line.host and line.time > 10**9


def test_events_are_shown_when_asked_for(place: Path) -> None:
    with Pool.create("tank", place / "tank", command="lamina pool create tank") as pool:
        with pool._database.transaction():
            pool._catalogue.log_event("scan done errors=0")
        assert lines(pool) == [(1, "lamina pool create tank")]
        assert lines(pool, internal=True)[1:] == [(1, "[scan done errors=0]")]


def test_it_survives_recovery_and_full_records(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.pool.recording._LEAST_NAMES", 3000)
    monkeypatch.setattr("lamina.pool.recording._HISTORY_KEPT", 25)
    monkeypatch.setattr("lamina.pool.recording._HISTORY_BYTES", 300)
    with Pool.create("tank", place / "tank", command="lamina pool create tank") as pool:
        for number in range(60):
            pool.command = f"lamina create tank/d{number}"
            pool.create_dataset(f"tank/d{number}")
        before = lines(pool)
        assert len(before) == 61 and pool._catalogue.meta("names_full")
    (place / "tank" / "catalogue.db").unlink()
    recover_pool("tank", command="lamina pool recover tank")
    with Pool.open("tank") as pool:
        after = lines(pool)
    assert after[-1][1] == "lamina pool recover tank"
    assert 25 <= len(after) - 1 < 61 and after[:-1] == before[-len(after) + 1 :]


def test_long_commands_are_cut(place: Path) -> None:
    with Pool.create("tank", place / "tank") as pool:
        pool.command = "lamina " + "\N{SNOWMAN}" * 10_000
        for number in range(3):
            pool.create_dataset(f"tank/{number}")
        with pool._writer() as writer:
            pool._catalogue.write_full(writer)
        assert [len(command) for _, command in lines(pool)] == [COMMAND_LENGTH] * 4
        assert pool.check().problems == []


def test_a_full_record_can_be_asked_for(place: Path) -> None:
    """What gc calls before it lets older records go."""
    with Pool.create("tank", place / "tank") as pool:
        pool.create_dataset("tank/a")
        assert pool._catalogue.meta("names_from") is None
        with pool._writer() as writer:
            pool._catalogue.write_full(writer)
        assert pool._catalogue.meta("names_since") == 0
        report = pool.check()
        assert report.problems == [] and any("and 0 changes since" in note for note in report.notes)


def test_the_comment(place: Path) -> None:
    with Pool.create("tank", place / "tank", own_properties={"comment": "one"}) as pool:
        assert pool.own_properties()["comment"] == ("one", "local")
        pool.set_own_properties({"comment": "two"})
        assert pool.own_properties()["comment"] == ("two", "local")
        for wrong, words in (
            ({"comment": "x" * 33}, "comment must not exceed 32 characters"),
            ({"comment": "a\x1b"}, "comment may only have printable characters"),
            ({"comment": "\N{SNOWMAN}"}, "comment may only have printable characters"),
            ({"size": "1"}, "cannot set property for 'tank': 'size' is readonly"),
            ({"feature@node_copies": "enabled"}, "'lamina pool upgrade' enables features"),
            ({"bogus": "1"}, "cannot set property for 'tank': invalid property 'bogus'"),
        ):
            with pytest.raises(PropertyError) as caught:
                pool.set_own_properties(wrong)
            assert words in str(caught.value)
        pool.set_own_properties({"comment": ""})
        assert pool.own_properties()["comment"] == ("-", "default")
        assert pool.check().problems == []
    with pytest.raises(PropertyError, match="cannot create 'other': invalid property 'bogus'"):
        Pool.create("other", place / "other", own_properties={"bogus": "1"})
    assert not (place / "other").exists()
