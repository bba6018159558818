"""What open connections hold together."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from sandhold.egress.flows import shared
from sandhold.model.destination import Destination, Source, parse_host

ADDRESS = "203.0.113.7"


def claims(host: str = "good.test", port: int = 443, source: Source = Source.SNI) -> tuple[Destination, ...]:
    """Claims as a connection of its own reads them."""
    return (Destination(parse_host(host), port, Source.CONNECT), Destination(parse_host(host), port, source))


def test_connections_to_one_place_hold_its_names_once() -> None:
    """Equal claims and addresses come back as the objects that came first."""
    first = shared(claims(), (IPv4Address(ADDRESS),))
    again = shared(claims(), (IPv4Address(ADDRESS),))
    assert again == (claims(), (IPv4Address(ADDRESS),))
    assert again[0] is first[0]
    assert again[1] is first[1]


OTHERS = {
    "another host": claims("evil.test"),
    "another port": claims(port=8443),
    "another source": claims(source=Source.HTTP_HOST),
    "one claim less": claims()[:1],
    "none": (),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_differs_in_anything_stays_itself(other: tuple[Destination, ...]) -> None:
    """Nobody is judged by the claims of another."""
    shared(claims(), (IPv4Address(ADDRESS),))
    assert shared(other, (IPv4Address(ADDRESS),)) == (other, (IPv4Address(ADDRESS),))
    assert shared(claims(), ()) == (claims(), ())
