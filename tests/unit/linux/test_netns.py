"""Where a connection was headed when nothing redirected it."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from sandhold.linux.netns import original_destination


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_connection_of_our_own_is_headed_for_itself(address: str) -> None:
    """A connection that was made to the listener's address has no other destination."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        port = listener.getsockname()[1]
        with socket.socket(family) as client:
            client.connect((address, port))
            accepted, _ = listener.accept()
            with accepted:
                assert original_destination(accepted) == (ip_address(address), port)
