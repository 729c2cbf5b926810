"""For all rooms: nothing runs in the background unless a test says so."""

import os

import pytest

os.environ["LAMINA_BACKGROUND"] = "off"  # also where a test undoes all that it has set


@pytest.fixture(autouse=True)
def no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests look at pools right after a change: no process of its own frees space beside them."""
    monkeypatch.setenv("LAMINA_BACKGROUND", "off")
