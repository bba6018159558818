"""Where only a name may stand, an address is refused."""

from __future__ import annotations

import pytest

from sandhold.model.destination import DomainName, HostService, MalformedError
from sandhold.wire.name import parse_name

ADDRESSES = [b"192.0.2.1", b"127.0.0.1", b"::1", b"[::1]", b"2001:db8::1", b"::ffff:127.0.0.1"]


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_no_name(text: bytes) -> None:
    """Every address is refused, also those that mean the user's machine elsewhere."""
    with pytest.raises(MalformedError, match="address"):
        parse_name(text)


def test_names_are_hosts() -> None:
    """A name is a name, and the names of the user's machine are that machine."""
    assert parse_name(b"Good.Test.") == DomainName("good.test")
    assert parse_name(b"Localhost.") == HostService()
    assert parse_name(b"host.docker.internal") == HostService()
