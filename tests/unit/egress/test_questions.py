"""How the host's resolvers are named."""

from __future__ import annotations

import socket

import pytest

from sandhold.egress.questions import Resolver

GOOD = {
    "IPv4": ("192.0.2.53", Resolver("192.0.2.53", 53), socket.AF_INET),
    "IPv6": ("2001:db8::53", Resolver("2001:db8::53", 53), socket.AF_INET6),
    "a port": ("127.0.0.1#5353", Resolver("127.0.0.1", 5353), socket.AF_INET),
    "IPv6 with a port": ("::1#5353", Resolver("::1", 5353), socket.AF_INET6),
    "a zone": ("fe80::1%lo", Resolver("fe80::1%lo", 53), socket.AF_INET6),
}


@pytest.mark.parametrize(("text", "resolver", "family"), GOOD.values(), ids=GOOD)
def test_an_address_with_an_optional_port_is_a_resolver(text: str, resolver: Resolver, family: int) -> None:
    """Both families, and what resolv.conf(5) allows."""
    assert Resolver.parse(text) == resolver
    assert resolver.family == family


def test_a_zone_becomes_the_interface_number() -> None:
    """The kernel takes a number where resolv.conf has a name."""
    assert Resolver.parse("fe80::1%lo").endpoint == ("fe80::1", 53, 0, socket.if_nametoindex("lo"))


@pytest.mark.parametrize("text", ["", "resolver.test", "127.0.0.1:53", "1.2.3", "127.0.0.1#x"])
def test_anything_else_is_refused(text: str) -> None:
    """A name would have to be looked up first."""
    with pytest.raises(ValueError, match=r".+"):
        Resolver.parse(text)
