"""Event ids."""

from __future__ import annotations

import re

from sandhold.egress.gateway import new_event


def test_an_event_id_is_a_ulid() -> None:
    """26 characters of Crockford's base 32, the first ten of them the time, all different."""
    ids = [new_event() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", each) for each in ids)
    assert [each[:10] for each in ids] == sorted(each[:10] for each in ids)
