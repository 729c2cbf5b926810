"""The protocol of garbage collection, explored: every order in which small cases can go, and what breaks it.

``LAMINA_MODEL=1`` explores larger cases too: minutes, and some GB of memory.
"""

import os
import re

import pytest

from tests.pool.gc_model import RULES, Broken, Case, Rules, explore

SMALL = {
    "an import, a destroy, kills": Case(2, 0b11, (0b11,)),
    "two imports of the same": Case(1, 0b1, (0b1, 0b1), kills=False),
    "an import beside a mount, packs that move": Case(1, 0b1, (0b1,), mounts=1, moves=1, punches=1),
    "an import beside scrub, packs that move": Case(1, 0b1, (0b1,), moves=1, punches=1, damages=1),
    "a mount, packs that move": Case(2, 0b11, (), mounts=1, moves=2, punches=1),
    "an import and a mount of two objects": Case(2, 0b11, (0b11,), mounts=1, kills=False),
}
LARGE = {
    "two imports of the same, kills": Case(1, 0b1, (0b1, 0b1)),
    "two imports that overlap": Case(2, 0b01, (0b11, 0b01), kills=False),
    "two imports, one of which may be killed": Case(2, 0b11, (0b11, 0b10)),
    "two imports, twice each": Case(1, 0b1, (0b1, 0b1), tries=2, kills=False),
    "two imports, packs that move": Case(1, 0b1, (0b1, 0b1), moves=1, punches=1),
    "two imports beside a mount": Case(1, 0b1, (0b1, 0b1), mounts=1, moves=1, kills=False),
    "an import of three objects": Case(3, 0b111, (0b111,)),
}
ALL = os.environ.get("LAMINA_MODEL", "0") not in ("", "0")
if ALL:
    SMALL |= LARGE

# The smallest case that shows what goes wrong without a rule.
ONE = Case(1, 0b1, (0b1,))
BROKEN = {
    "lookups_pass_condemned_by": (Case(1, 0b1, (0b1, 0b1)), "has no row"),
    "commit_clears_marks": (ONE, "is condemned"),
    "commit_alone_renews": (Case(2, 0b11, (0b11,)), "has no row"),
    "deletion_waits_for_leases": (ONE, "has no row"),
    "direct_deletion_only_without_writers": (ONE, "has no row"),
    "condemning_counts_the_epoch": (ONE, "has no row"),
    "names_are_checked_again": (ONE, "has no row"),
    "pins_count_as_names": (Case(1, 0b1, (), mounts=1), "has no row"),
    "pin_with_the_lookup": (Case(1, 0b1, (), mounts=1), "has no row"),
    "rows_move_before_the_file_goes": (Case(1, 0b1, (), moves=1), "has no bytes"),
    "rows_move_only_from_where_they_were": (Case(1, 0b1, (0b1,), moves=1, damages=1), "has no bytes"),
    "packs_are_held_while_punched": (Case(1, 0, (0b1, 0b1), tries=2, punches=1, kills=False), "has no bytes"),
    "abort_leaves_what_others_may_share": (Case(1, 0b1, (0b1, 0b1)), "has no row"),
    "readers_look_again": (Case(1, 0b1, (), mounts=1, moves=1), "the mount cannot read"),
}
BEFORE = {
    "packs_are_held_while_punched": [
        *("writer 0 begins", "writer 0 looks up 0", "writer 0 appends 0", "writer 0 names 0 and seals"),
        *("writer 1 begins", "gc reads names", "gc reads rows", "gc marks", "writer 1 looks up 0"),
        *("writer 1 appends 0", "writer 1 names 0", "writer 1 aborts"),
    ]
}
"""How a case begins whose way to the loss is long."""


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_lost_and_nothing_stays(name: str) -> None:
    """In every state what names and pins reach can be read; from every state one collection leaves nothing else."""
    count = explore(SMALL[name])
    print(f"{name}: {count} states")
    assert count > 2000


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(rule: str) -> None:
    """Without it something is lost: so the model can fail, and the rules say no more than they must."""
    case, loss = BROKEN[rule]
    if ALL:
        explore(case, after=BEFORE.get(rule, ()))
    with pytest.raises(Broken, match=re.escape(loss)) as caught:
        explore(case, Rules(**{rule: False}), BEFORE.get(rule, ()))
    print(caught.value)
