"""Quotas and reservations: what they refuse, what they show, what they leave to others."""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.pool.limited import LimitedHistories
from tests.pool.trees import Library

EXAMPLES = int(os.environ.get("LAMINA_HISTORIES", "20"))


def test_histories_under_limits(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crowded(LimitedHistories):
        """Only steps that limits have a part in, so that they often do."""

        mark = hold = release = bookmark = inherit = set = create = destroy_range = destroy_dataset = None  # type: ignore[assignment]

    Crowded.library = library
    monkeypatch.setattr("lamina.pool.intake._EVERY", 0.0)
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
