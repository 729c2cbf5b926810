"""Power loss at every moment: what is left opens, is whole, and holds all that had been committed.

``LAMINA_CRASH_STATES=10000`` tries so many states of each scenario's; without it, some dozens.
"""

import os
import random
from pathlib import Path

import pytest

from tests.faults.crashes import judge, record, states
from tests.faults.scenarios import Scenario, scenarios

STATES = int(os.environ.get("LAMINA_CRASH_STATES", "0"))
FEW = 24


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.name)
def test_power_loss(scenario: Scenario, place: Path, trees: dict[str, Path], small_packs: None) -> None:
    recording = record(scenario, place, trees)
    wanted = STATES // len(scenarios()) + 1 if STATES else FEW
    generator = random.Random(f"{scenario.name} {wanted}")
    each = max(wanted // len(recording.log), 1) * 2
    found = list(states(recording, generator, each))
    plain = {index for index, state in enumerate(found) if state.plain}
    chosen = sorted(plain | set(generator.sample(range(len(found)), min(wanted, len(found)))))
    for number, index in enumerate(chosen):
        state = found[index]
        try:
            next_import = trees["b"] if number % 10 == 0 else None
            judge(state, place, random.Random(index), go_on=next_import, see=scenario.see, after=scenario.after)
        except Exception as error:
            error.add_note(f"{scenario.name}: state {index} of {len(found)}, after change {state.at}: "
                           f"{recording.log[state.at - 1] if state.at else 'none'!r:.200}")  # fmt: skip
            raise
    print(f"{scenario.name}: {len(recording.log)} changes, {len(found)} states, {len(chosen)} tried")
    assert len(chosen) >= min(wanted, len(recording.log))
