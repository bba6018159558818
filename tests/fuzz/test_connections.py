"""The whole path of a connection keeps its rules whatever is sent; `scripts/fuzz-connections` does it for hours."""

from __future__ import annotations

import pytest

from tests.fuzz.connections import fuzz_connections

CONNECTIONS = 1200


def test_no_opening_gets_round_the_policy() -> None:
    """More than a thousand changed openings end, reach only what is allowed, and are on record."""
    tally = fuzz_connections(seed=1, connections=CONNECTIONS)
    assert tally.connections == CONNECTIONS
    assert tally.heard > 0, "nothing ever arrived: the judges judged nothing"
    assert {"reset", "200", "400", "403", "tls"} <= set(tally.kinds)


@pytest.mark.long
def test_ten_minutes_of_openings_get_nowhere() -> None:
    """As many openings as ten minutes hold get no further."""
    assert fuzz_connections(seed=2, connections=1_000_000, seconds=600).connections > CONNECTIONS
