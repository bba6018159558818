"""The ids of a cell, for whoever runs the tests."""

from __future__ import annotations

import os

import pytest

from sandhold.cell.identity import IDS, ROOT_BASE, SLOTS_MAX, identity_for

NOBODY = 2**32 - 2


@pytest.mark.parametrize("slot", [-1, SLOTS_MAX])
def test_a_slot_without_a_range_is_refused(slot: int) -> None:
    """No cell gets ids beyond the last range."""
    with pytest.raises(ValueError, match="slot"):
        identity_for(slot)


def test_ranges_of_root_never_meet() -> None:
    """Neighbouring slots have neighbouring ranges, and the last one ends below the ids that mean nobody."""
    if os.geteuid() != 0:
        pytest.skip("only root cuts ranges by slot")
    first, second, last = (identity_for(slot).inner.users[0] for slot in (0, 1, SLOTS_MAX - 1))
    assert (first.inside, first.outside, first.count) == (0, ROOT_BASE, IDS)
    assert second.outside == first.outside + first.count
    assert last.outside + last.count < NOBODY


def test_the_agent_is_always_1000() -> None:
    """Whoever runs a cell, its inner map has an agent; only where that is all there is does it say so."""
    identity = identity_for(3)
    inside = [line for line in identity.inner.users if line.inside <= 1000 < line.inside + line.count]
    assert len(inside) == 1
    assert identity.is_single == bool(identity.notes)
    assert (identity.outer is None) == (identity.is_single or os.geteuid() == 0)
