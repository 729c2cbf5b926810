"""Quotas and reservations: what they refuse, what they show, what they leave to others."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from lamina.errors import NoSpace, PropertyError
from lamina.pool import Pool
from lamina.pool.properties import format_value
from tests.pool.limited import LIMITS, LimitedHistories
from tests.pool.trees import Library, many_files

EXAMPLES = int(os.environ.get("LAMINA_HISTORIES", "12"))


def test_histories_under_limits(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crowded(LimitedHistories):
        """Only steps that limits have a part in, so that they often do."""

        mark = hold = release = bookmark = inherit = set = create = destroy_range = destroy_dataset = None  # type: ignore[assignment]

    Crowded.library = library
    monkeypatch.setattr("lamina.pool.importing.intake._EVERY", 0.0)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Crowded,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that the disk always has left."""
    monkeypatch.setattr(Pool, "_free", lambda self: 10_000_000)
    return 10_000_000


def number(pool: Pool, name: str, prop: str) -> int:
    value = pool.get(name, [prop])[prop].value
    assert isinstance(value, int)
    return value


def test_none_is_the_default_and_takes_a_limit_away(pool: Pool) -> None:
    for prop in LIMITS:
        assert (pool.get("tank", [prop])[prop].value, format_value(prop, 0), format_value(prop, 0, True)) == (
            0,
            "none",
            "0",
        )
        pool.set(["tank"], {prop: "1M"})
        assert number(pool, "tank", prop) == 1 << 20
        pool.set(["tank"], {prop: "none"})
        assert number(pool, "tank", prop) == 0
    for prop in ("quota", "refquota"):
        with pytest.raises(PropertyError, match="use 'none' to disable quota/refquota"):
            pool.set(["tank"], {prop: "0"})
    for prop in ("reservation", "refreservation"):
        pool.set(["tank"], {prop: "0"})


def test_limits_are_not_inherited(pool: Pool) -> None:
    pool.create_dataset("tank/a/b", {"quota": "1M", "reservation": "1K"}, parents=True)
    pool.set(["tank/a"], {"refquota": "1M", "refreservation": "1K"})
    values = pool.get("tank/a/b", LIMITS)
    assert [(one.value, one.source) for one in values.values()] == [
        *((1 << 20, "local"), (0, "default"), (1024, "local"), (0, "default"))
    ]
    with pytest.raises(PropertyError, match="'refquota' property cannot be inherited"):
        pool.inherit("tank/a", "refquota")


@pytest.mark.parametrize(
    ("prop", "value", "reason"),
    [
        ("quota", "1", "size is less than current used or reserved space"),
        ("refquota", "1", "size is less than current used or reserved space"),
        ("reservation", "1T", "size is greater than available space"),
        ("refreservation", "1T", "size is greater than available space"),
    ],
)
def test_what_cannot_be_met_is_refused_in_the_words_of_openzfs(
    pool: Pool, library: Library, prop: str, value: str, reason: str
) -> None:
    pool.import_image(library[2].path, "tank/a@1")
    with pytest.raises(PropertyError) as caught:
        pool.set(["tank/a"], {prop: value})
    assert str(caught.value) == f"cannot set property for 'tank/a': {reason}"
    assert number(pool, "tank/a", prop) == 0


def test_several_limits_of_one_command_are_set_together_or_not_at_all(pool: Pool, free: int) -> None:
    pool.create_dataset("tank/a")
    with pytest.raises(PropertyError):
        pool.set(["tank/a"], {"reservation": "1M", "quota": "512K"})
    assert number(pool, "tank/a", "reservation") == number(pool, "tank/a", "quota") == 0
    with pytest.raises(PropertyError):
        pool.set(["tank/a", "tank"], {"reservation": str(free + 1)})
    pool.set(["tank/a"], {"quota": "2M", "reservation": "1M"})


def test_a_dataset_whose_limits_cannot_be_met_is_not_made(pool: Pool, free: int) -> None:
    pool.create_dataset("tank/a", {"reservation": "6M"})
    for prop in ("reservation", "refreservation"):
        with pytest.raises(NoSpace) as caught:
            pool.create_dataset("tank/b/c", {prop: "6M"}, parents=True)
        assert str(caught.value).startswith("cannot create 'tank/b/c': out of space")
    assert not pool.exists("tank/b")
    pool.snapshot(["tank@s"])
    with pytest.raises(NoSpace, match="cannot create 'tank/b': out of space"):
        pool.clone("tank@s", "tank/b", {"reservation": "6M"})
    pool.clone("tank@s", "tank/b", {"quota": "1"})


def test_a_reservation_is_taken_from_the_others(pool: Pool, library: Library, free: int) -> None:
    for name in ("tank/a/b", "tank/c"):
        pool.create_dataset(name, parents=True)
    pool.set(["tank/a"], {"reservation": "4000000"})
    pool.set(["tank/a/b"], {"reservation": "1000000"})
    shown = {
        name: (number(pool, name, "used"), number(pool, name, "available")) for name in ("tank", "tank/a", "tank/c")
    }
    assert shown == {
        "tank": (4_000_000, free - 4_000_000),
        "tank/a": (1_000_000, free - 1_000_000),
        "tank/c": (0, free - 4_000_000),
    }
    pool.import_image(library[2].path, "tank/a/b@1")
    stored = number(pool, "tank/a/b", "used")
    assert 0 < stored < 1_000_000
    assert number(pool, "tank", "used") == 4_000_000
    assert number(pool, "tank/a/b", "available") == free
    # What others share of it is counted where it is, and not twice above.
    pool.import_image(library[2].path, "tank/c@1")
    assert number(pool, "tank", "used") == 4_000_000


def test_a_refreservation_is_for_the_head_beside_its_snapshots(pool: Pool, free: int) -> None:
    pool.create_dataset("tank/a", {"refreservation": "3000000"})
    assert number(pool, "tank/a", "usedbyrefreservation") == number(pool, "tank", "usedbychildren") == 3_000_000
    assert number(pool, "tank/a", "available") == free
    assert number(pool, "tank", "available") == free - 3_000_000


def test_what_is_reserved_for_others_is_not_for_an_import(
    pool: Pool, library: Library, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.create_dataset("tank/a", {"reservation": str(free)})
    monkeypatch.setattr(Pool, "_free", lambda self: free - 1)
    with pytest.raises(NoSpace) as caught:
        pool.import_image(library[2].path, "tank/c@1")
    assert "reserv" in str(caught.value) and "'tank/a'" in str(caught.value) and "\n" not in str(caught.value)
    assert not pool.exists("tank/c")
    pool.import_image(library[2].path, "tank/a@1")


@pytest.mark.parametrize("prop", ["quota", "refquota"])
@pytest.mark.parametrize("shared", [False, True])
def test_an_import_that_cannot_fit_stops_soon(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prop: str, shared: bool
) -> None:
    """Also where all of it is in the pool already, and nothing would have to be written."""
    monkeypatch.setattr("lamina.pool.importing.intake._EVERY", 0.0)
    monkeypatch.setattr("lamina.store.writer._FLUSH_ROWS", 3)
    source = many_files(tmp_path / "large", 60, 90_000, 2)
    if shared:
        pool.import_image(source.path, "tank/b@1")
    pool.create_dataset("tank/a/b", parents=True)
    pool.set(["tank/a/b" if prop == "refquota" else "tank/a"], {prop: "1000000"})
    seen: list[int] = []
    with pytest.raises(NoSpace) as caught:
        pool.import_image(source.path, "tank/a/b@1", progress=lambda progress: seen.append(progress.bytes))
    where = "tank/a/b" if prop == "refquota" else "tank/a"
    assert str(caught.value).startswith(
        f"cannot import 'tank/a/b@1': the {prop} of '{where}' would be exceeded (977K); "
        f"raise it with 'lamina set {prop}=SIZE {where}'"
    )
    assert max(seen, default=0) < source.data_bytes * 0.8
    assert not pool.exists("tank/a/b@1")


def test_an_import_that_just_fits(pool: Pool, library: Library) -> None:
    """To the byte: what replaces a head that nothing keeps is not counted beside it."""
    pool.import_image(library[2].path, "tank/a@1")
    pool.import_image(library[3].path, "tank/a@2")
    used = number(pool, "tank/a", "used")
    for image in ("tank/a@2", "tank/a@1"):
        pool.destroy(image)
    pool.set(["tank/a"], {"quota": str(used - 1)})
    pool.import_image(library[2].path, "tank/a@1")
    with pytest.raises(NoSpace):
        pool.import_image(library[3].path, "tank/a@2")
    pool.set(["tank/a"], {"quota": str(used)})
    pool.import_image(library[3].path, "tank/a@2")
    assert number(pool, "tank/a", "available") == 0
