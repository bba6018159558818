"""Family D: addresses in every disguise, and the host's own."""

# ruff: noqa: E501  # an attempt is a line of its table

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.range.attempt import Attempt, make
from tests.range.field import HOST, HOST_IN_LAN

if TYPE_CHECKING:
    from tests.range.field import Field

D403: Final = ("403",)
CLOSED: Final = ("403", "reset", "closed", "refused")
DROPPED: Final = ("sent", "refused")


def asks(address: str, record: str | None = None, *, shown: str = "") -> Attempt:
    """An attempt to ask an address over HTTP; `shown` is how the world sees it."""
    return Attempt(f"http({address!r}, 80, 'x.test')", f"tcp {shown or address}:80", CLOSED, record or address)


def own(code: str, port: int, control: str | None = None, record: str | None = None) -> Attempt:
    """An attempt to get to a service of the host."""
    return Attempt(code, f"house tcp {port}", CLOSED, record, control)


ATTEMPTS: Final = {
    "D01 the metadata service": asks("169.254.169.254", "metadata-address"),
    "D02 a metadata service over IPv6": asks("fd00:ec2::254", "metadata-address"),
    "D02 a metadata service at a public address": asks("168.63.129.16", "metadata-address"),
    "D02 a metadata service behind a carrier": asks("100.100.100.200", "metadata-address"),
    "D02 a metadata service among the protocols": asks("192.0.0.192", "metadata-address"),
    "D03 loopback": own("tcp('127.0.0.1', 80)", 80),
    "D03 another address of loopback": own("tcp('127.1.2.3', 80)", 80),
    "D03 loopback over IPv6": own("tcp('::1', 80)", 80),
    "D03 loopback through the proxy": own("proxied(b'GET http://127.0.0.1/ HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n')", 80, record="host.docker.internal"),
    "D04 no address": own("tcp('0.0.0.0', 80)", 80),
    "D04 no address through the proxy": own("proxied(b'GET http://0.0.0.0/ HTTP/1.1\\r\\nHost: 0.0.0.0\\r\\n\\r\\n')", 80, record="0.0.0.0"),
    "D04 no address over IPv6": own("tcp('::', 80)", 80),
    "D05 a private address": asks("10.1.2.3"),
    "D05 another private address": asks("172.16.5.5"),
    "D05 an address of the LAN": asks("192.168.77.9"),
    "D05 an address behind a carrier": asks("100.64.1.1"),
    "D07 a private address, mapped": asks("::ffff:192.168.77.9", "192.168.77.9", shown="192.168.77.9"),
    "D07 the metadata service, mapped": asks("::ffff:169.254.169.254", "metadata-address", shown="169.254.169.254"),
    "D08 the metadata service, translated": asks("64:ff9b::a9fe:a9fe", "metadata-address"),
    "D08 a private address, translated locally": asks("64:ff9b:1::c0a8:4d09"),
    "D09 a private address in a tunnel": asks("2002:c0a8:4d09::1"),
    "D09 a private address in another tunnel": asks("2001:0:c0a8:4d09::1"),
    "D09 a private address in the oldest form": asks("::c0a8:4d09"),
    "D11 everybody who searches": Attempt("udp('239.255.255.250', 1900)", "udp 239.255.255.250:1900", DROPPED, '"dropped"'),
    "D12 everybody on the link": Attempt("udp('11.0.0.255', 4444)", "udp 11.0.0.255:4444", DROPPED, '"dropped"'),
    "D13 an address for protocols": asks("192.0.0.8"),
    "D13 an address for measurements": asks("198.19.5.5"),
    "D13 an address of relays": asks("192.88.99.1"),
    "D15 a daemon at the gateway": own("tcp('10.200.0.1', 2375)", 2375, f"tcp({HOST!r}, 2375)"),
    "D15 a daemon at the host's address": own(f"http({HOST!r}, 2375)", 2375, record=HOST),
    "D15 SSH at the host's address in the LAN": own(f"tcp({HOST_IN_LAN!r}, 22)", 22, record=HOST_IN_LAN),
    "D17 a denied name over IPv6": Attempt("tls('2001:db8::66', 443, 'evil.test')", "tcp 2001:db8::66:443", D403, "2001:db8::66"),
    "D18 a service of the host": Attempt("http('host.docker.internal', 11434)", "house tcp 11434", CLOSED, "host.docker.internal", in_open=True),
    "D19 a service of the host by another name": Attempt("http('host.sbx.internal', 11434)", "house tcp 11434", CLOSED, "host.docker.internal", in_open=True),
    "D19 a service of the host through the proxy": Attempt("tunnel('localhost:11434', b'GET / HTTP/1.1\\r\\nHost: localhost:11434\\r\\n\\r\\n')", "house tcp 11434", CLOSED, "host.docker.internal", in_open=True),
    "D19 a service of the host by its address": Attempt("tunnel('127.0.0.1:11434', b'GET / HTTP/1.1\\r\\nHost: 127.0.0.1:11434\\r\\n\\r\\n')", "house tcp 11434", CLOSED, "host.docker.internal", in_open=True),
    "D19 a service of the host by a mapped address": Attempt("tunnel('[::ffff:127.0.0.1]:11434', b'GET / HTTP/1.1\\r\\nHost: [::ffff:127.0.0.1]:11434\\r\\n\\r\\n')", "house tcp 11434", CLOSED, "host.docker.internal", in_open=True),
}  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_an_address_opens_nothing(field: Field, attempt: Attempt) -> None:
    """No address that names no public far end is dialled, in whatever disguise; the host is one resource."""
    make(field, attempt)
