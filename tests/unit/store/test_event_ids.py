"""Event ids."""

from __future__ import annotations

import re

from sandhold.store.event_ids import new_event_id
from tests.unit.store.samples import NOON


def test_form() -> None:
    """An id is 26 characters of Crockford base 32, which has no I, L, O and U."""
    assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", new_event_id(NOON))


def test_ids_sort_by_time() -> None:
    """An id of a later millisecond sorts behind; the first ten characters are the time alone (ULID specification)."""
    assert new_event_id(NOON) < new_event_id(NOON + 0.001) < new_event_id(NOON + 1e6)
    assert new_event_id(1_469_918_176.385)[:10] == "01ARYZ6S41"


def test_ids_differ() -> None:
    """Ids of one millisecond are different."""
    assert len({new_event_id(NOON) for _ in range(10_000)}) == 10_000
