"""The soak: what it calls flat, and a short one; `scripts/soak HOURS` is the real thing."""

from __future__ import annotations

import pytest

from tests.load.soak import GROWTH_KIB_MAX, is_flat, soak

FLAT = {
    "nothing more": (0, 0, 0, True),
    "memory that comes and goes": (GROWTH_KIB_MAX, 0, 0, True),
    "memory that goes on growing": (GROWTH_KIB_MAX + 1, 0, 0, False),
    "descriptors that pile up": (0, 100, 0, False),
    "threads that pile up": (0, 0, 3, False),
}


@pytest.mark.parametrize(("grown_kib", "descriptors", "threads", "expected"), FLAT.values(), ids=FLAT)
def test_what_is_flat(grown_kib: float, descriptors: int, threads: int, *, expected: bool) -> None:
    """Growth of memory, descriptors or threads beyond what a busy moment explains is not flat."""
    assert is_flat(grown_kib, descriptors, threads) is expected


@pytest.mark.long
def test_five_minutes() -> None:
    """Five minutes of everything leave memory flat, lose no record and break no chain."""
    assert soak(300, pace_s=0.05) == []
