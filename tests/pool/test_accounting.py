"""Every figure of every name, after random histories, next to a brute-force walk."""

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from lamina.pool import Pool
from tests.pool.machine import Histories
from tests.pool.model import ratio
from tests.pool.trees import Library

EXAMPLES = int(os.environ.get("LAMINA_HISTORIES", "30"))


def test_histories(library: Library) -> None:
    class WithLibrary(Histories):
        pass

    WithLibrary.library = library
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        WithLibrary,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_ratios_are_cut_and_never_below_one() -> None:
    assert [ratio(*pair) for pair in ((299, 100), (2999, 1000), (1, 2), (5, 0))] == [2.99, 2.99, 1.0, 1.0]


def test_unique_is_what_a_destroy_gives_back(pool: Pool, library: Library) -> None:
    shared, alone = library[2], library[1]
    pool.import_image(shared.path, "tank/a@1")
    pool.import_image(shared.path, "tank/b@1")
    pool.import_image(alone.path, "tank/b@2")
    values = pool.get("tank/a@1", ["unique", "used", "referenced"])
    assert (values["unique"].value, values["used"].value) == (0, 0)
    assert pool.destroy("tank/a@1", dry_run=True).reclaim == 0
    unique = pool.get("tank/b", ["unique"])["unique"].value
    assert pool.destroy("tank/b", recursive=True).reclaim == unique
    assert pool.get("tank/a@1", ["unique"])["unique"].value == values["referenced"].value
